# SPDX-License-Identifier: Apache-2.0
"""A Drawbridge on a port of this machine, which serves what a test wants, right or wrong."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from enarx.wire.drawbridge import ALGORITHMS, DIRECTORY, ENTRY, TOML, WASM

PREFIX = "/api/v0.1.0/examples/fib"
MODULE = b"\0asm\1\0\0\0"
CONFIGURATION = b'[[files]]\nkind = "stdout"\n'
PACKAGE: Mapping[str, Any] = {"Enarx.toml": CONFIGURATION, "main.wasm": MODULE}
HAS_FILES: Mapping[str, Any] = {**PACKAGE, "data": {"a.txt": b"text", "more": {"b:1": b""}}}


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is served.

    Args:
        data: the body.
        headers: all of them.
        status: of HTTP.
        serve: does it otherwise: is given the request's handler, and sends whatever it likes.
    """

    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    serve: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None

    def having(self, **headers: str | None) -> Body:
        """Return it with other headers; None takes one away."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        merged = dict(self.headers) | named
        return replace(self, headers={name: value for name, value in merged.items() if value is not None})


def digests_of(data: bytes, algorithms=tuple(ALGORITHMS)) -> dict[str, str]:
    return {name: base64.b64encode(hashlib.new(ALGORITHMS[name], data).digest()).decode() for name in algorithms}


def header_of(data: bytes) -> str:
    return ",".join(f"{name}=:{value}:" for name, value in digests_of(data).items())


def entry_of(data: bytes, media_type: str) -> dict[str, Any]:
    return {"digest": digests_of(data), "length": len(data), "type": media_type}


def compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def body_of(data: bytes, media_type: str) -> Body:
    headers = {"Content-Type": media_type, "Content-Length": str(len(data)), "Content-Digest": header_of(data)}
    return Body(data=data, headers=headers)


def type_of(name: str) -> str:
    return {"wasm": WASM, "toml": TOML}.get(name.rpartition(".")[2], "application/octet-stream")


def tree_of(files: Mapping[str, Any], path: str = "") -> tuple[dict[str, Body], dict[str, Any]]:
    """Return what is served of a directory, by path, and the entry for it."""
    bodies: dict[str, Body] = {}
    nodes: dict[str, Any] = {}
    for name, content in files.items():
        below = f"{path}/{name}"
        if isinstance(content, bytes):
            bodies[below], nodes[name] = body_of(content, type_of(name)), entry_of(content, type_of(name))
        elif isinstance(content, dict):
            found, nodes[name] = tree_of(content, below)
            bodies |= found
        else:
            bodies[below], nodes[name] = content
    data = compact(nodes)
    bodies[path] = body_of(data, DIRECTORY)
    return bodies, entry_of(data, DIRECTORY)


class FakeDrawbridge:
    """Serves `examples/fib:1.0.0`, until the block ends.

    Args:
        files: of the package: bytes, a dict for a directory, or what is served and the entry.
        context: for TLS, or None.

    Attributes:
        bodies: by path below the repository; a test changes what it likes.
        asked: paths that were asked for, in full.
        headers: of each request.
        over: is set when the block ends, for whoever serves something slow.
    """

    def __init__(self, files: Mapping[str, Any] = PACKAGE, *, context: ssl.SSLContext | None = None) -> None:
        self.bodies: dict[str, Body] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()
        self.put(files)
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.path)
                fake.headers.append({name.lower(): value for name, value in self.headers.items()})
                body = fake.bodies.get(self.path.removeprefix(PREFIX)) if self.path.startswith(PREFIX) else None
                body = body or Body(status=404, data=b"Repository does not exist")
                if body.serve is not None:
                    body.serve(self)
                    return
                self.send_response(body.status)
                for name, value in body.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body.data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                with contextlib.suppress(OSError):
                    if context is None:
                        Handler(request, client_address, self)
                        return
                    with context.wrap_socket(request, server_side=True) as tls:
                        Handler(tls, client_address, self)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.authority = f"localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def put(self, files: Mapping[str, Any]) -> None:
        """Serve a package."""
        bodies, root = tree_of(files)
        self.bodies = {f"/_tag/1.0.0/tree{path}": body for path, body in bodies.items()}
        self.tag(root)

    def tag(self, root: Mapping[str, Any]) -> None:
        """Serve a tag for a root."""
        self.bodies["/_tag/1.0.0"] = body_of(compact(root), ENTRY)

    @property
    def slug(self) -> str:
        return f"drawbridge://{self.authority}/examples/fib:1.0.0"

    @property
    def root_digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.bodies["/_tag/1.0.0/tree"].data).hexdigest()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
