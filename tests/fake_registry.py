# SPDX-License-Identifier: Apache-2.0
"""A registry on loopback, in threads of the test's process: as the specification says, or as badly as a test wants it.

`behave` sees every request first and may answer it as it likes; what it does not answer is answered properly. With `api` the registry
has a referrers API and says so of manifests with a subject; without it knows nothing of either. With `login` it wants a password,
`basic` or `bearer`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
USER, PASSWORD, TOKEN = "tenant", "correct horse", "a-token-of-this-test"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, json.dumps({"errors": [{"code": code, "message": "secret message"}]}).encode())

    def do_GET(self):
        registry = self.server.registry
        if self.headers.get("Transfer-Encoding") == "chunked":
            raise AssertionError("a body without a length")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.request_ = Request(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
        )
        with registry.lock:
            registry.requests.append(self.request_)
        if registry.behave is not None and registry.behave(self):
            return
        if self._is_let_in(registry):
            self._serve(registry, urlsplit(self.path), body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def _is_let_in(self, registry):
        sent = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.path.startswith("/token"):
            if sent == basic:
                self.answer(200, json.dumps({"token": TOKEN}).encode())
            else:
                self.refuse(401, "UNAUTHORIZED")
            return False
        challenge = {
            "": "",
            "basic": 'Basic realm="Registry"',
            "bearer": f'Bearer realm="{registry.realm or registry.url + "/token"}",service="test",scope="repository:app:pull,push"',
        }[registry.login]
        if challenge and sent != {"basic": basic, "bearer": f"Bearer {TOKEN}"}[registry.login]:
            self.answer(401, b"{}", WWW_Authenticate=challenge)
            return False
        return True

    def _serve(self, registry, url, body):
        path = url.path
        if path == "/v2/":
            return self.answer(200, b"{}")
        if found := re.fullmatch(r"/v2/app/blobs/(sha256:[0-9a-f]{64})", path):
            return self._blob(registry, found[1])
        if found := re.fullmatch(r"/v2/app/manifests/(.+)", path):
            return self._manifest(registry, found[1], body)
        if path == "/v2/app/blobs/uploads/":
            with registry.lock:
                name = f"u{len(registry.uploads)}"
                registry.uploads[name] = b""
            return self.answer(202, Location=f"/v2/app/upload/{name}?state=a%2Fb")
        if found := re.fullmatch(r"/v2/app/upload/(\w+)", path):
            return self._upload(registry, found[1], parse_qs(url.query), body)
        if registry.api and (found := re.fullmatch(r"/v2/app/referrers/(.+)", path)):
            return self._referrers(registry, found[1])
        return self.refuse(404, "NAME_UNKNOWN")

    def _blob(self, registry, digest):
        data = registry.blobs.get(digest)
        if data is None:
            return self.refuse(404, "BLOB_UNKNOWN")
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            return self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        return self.answer(200, data)

    def _manifest(self, registry, reference, body):
        if self.command == "PUT":
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            registry.manifests[digest] = registry.manifests[reference] = (self.headers["Content-Type"], body)
            subject = json.loads(body).get("subject")
            said = {"OCI_Subject": subject["digest"]} if registry.api and subject else {}
            return self.answer(201, Docker_Content_Digest=digest, **said)
        if reference not in registry.manifests:
            return self.refuse(404, "MANIFEST_UNKNOWN")
        media_type, data = registry.manifests[reference]
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        return self.answer(200, data, Content_Type=media_type, Docker_Content_Digest=digest)

    def _upload(self, registry, name, query, body):
        if query.get("state") != ["a/b"]:
            return self.refuse(400, "BLOB_UPLOAD_INVALID")
        have = registry.uploads[name]
        if self.command == "PATCH":
            if self.headers["Content-Range"] != f"{len(have)}-{len(have) + len(body) - 1}":
                return self.refuse(416, "RANGE_INVALID")
            registry.uploads[name] = have + body
            return self.answer(202, Location=f"{registry.url}/v2/app/upload/{name}?state=a%2Fb")
        data = have + body
        if ["sha256:" + hashlib.sha256(data).hexdigest()] != query["digest"]:
            return self.refuse(400, "DIGEST_INVALID")
        registry.blobs[query["digest"][0]] = data
        return self.answer(201)

    def _referrers(self, registry, digest):
        found = []
        for name, (media_type, data) in registry.manifests.items():
            document = json.loads(data)
            if name.startswith("sha256:") and (document.get("subject") or {}).get("digest") == digest:
                found.append(
                    {
                        "mediaType": media_type,
                        "digest": name,
                        "size": len(data),
                        "artifactType": document.get("artifactType") or document["config"]["mediaType"],
                    }
                )
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}).encode()
        self.answer(200, body, Content_Type=INDEX)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    registry: FakeRegistry

    def handle_error(self, *_):
        pass


class FakeRegistry:
    """Serves one repository, `app`, at `address`, until its block ends."""

    def __init__(self, *, api: bool = True, login: str = "", realm: str = "") -> None:
        self.api = api
        self.login = login
        self.realm = realm
        self.behave: Callable[[Handler], bool] | None = None
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.registry = self
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def asked(self, method: str, part: str = "") -> list[Request]:
        with self.lock:
            return [each for each in self.requests if each.method == method and part in each.path]


class RawServer:
    """Answers every connection with bytes, or with nothing, and keeps it open until the block ends."""

    def __init__(self, say: Callable[[socket.socket], object]) -> None:
        self._say = say

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _serve(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer):
        try:
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = peer.recv(65536)
                    if not data:
                        return
                    head += data
                self._say(peer)
        except OSError:
            return

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()
        self._thread.join()
