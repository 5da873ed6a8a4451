# SPDX-License-Identifier: Apache-2.0
"""Signing as an identity, with a sigstore instance on loopback: sigstore's own client asks it, and its own verifier judges what came of it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enarx.testing.sigstore import FakeSigstore
from tests.unit.registry.signed import IDENTITY, ISSUER, make_package

MAX_BODY = 1 << 20


class Instance:
    """An instance with a socket."""

    def __init__(self):
        self.fake = FakeSigstore(datetime.fromtimestamp(int(time.time()), UTC) - timedelta(hours=1))
        self.asked = []
        self.broken = ""
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(min(int(self.headers["content-length"]), MAX_BODY))
                instance.asked.append((self.path, self.headers.get("authorization")))
                now = datetime.fromtimestamp(int(time.time()), UTC)
                status, document = 500, {"message": "broken", "code": 13}
                if self.path != instance.broken:
                    status, document = instance.fake.answer(self.path, body, identity=IDENTITY, issuer=ISSUER, at=now)
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def instance():
    with Instance() as started:
        yield started


@pytest.fixture
def folder(tmp_path, instance):
    claims = {
        "aud": "sigstore",
        "sub": IDENTITY,
        "iss": ISSUER,
        "iat": int(time.time()) - 5,
        "exp": int(time.time()) + 600,
    }
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in ({"alg": "RS256"}, claims)
    ]
    (tmp_path / "token").write_text(".".join([*parts, "c2ln"]) + "\n")
    (tmp_path / "sigstore.json").write_bytes(instance.fake.client_trust(instance.url))
    (tmp_path / "root.json").write_bytes(instance.fake.trust_root())
    make_package(tmp_path / "layout")
    return tmp_path


def enarx(folder, *argv):
    # Whatever reaches for a network by way of a proxy finds none.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "enarx", "package", *argv]
    found = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return found.returncode, found.stdout, found.stderr


SIGN = ("sign", "layout", "--keyless", "--identity-token-file", "token", "--sigstore-config", "sigstore.json")
VERIFY = ("verify", "layout", "--identity", IDENTITY, "--issuer", ISSUER)


def test_what_is_signed_as_an_identity_verifies_as_that_identity_without_a_network(folder, instance):
    status, out, err = enarx(folder, *SIGN, "--json")
    assert (status, json.loads(out)["identity"], json.loads(out)["issuer"]) == (0, IDENTITY, ISSUER)
    assert "which names the signer in public" in err
    token = (folder / "token").read_text().strip()
    assert instance.asked == [("/api/v2/signingCert", f"Bearer {token}"), ("/api/v1/log/entries", None)]
    assert token not in out + err

    instance.asked.clear()
    status, out, err = enarx(folder, *VERIFY, "--trust-root", "root.json")
    assert (status, err) == (0, "")
    assert f"signed    keyless: {IDENTITY}, vouched for by {ISSUER} ({IDENTITY}): logged 20" in out
    assert instance.asked == []
    # Nothing was put into a cache of trust roots either.
    assert sorted(os.listdir(folder)) == ["layout", "root.json", "sigstore.json", "token"]

    assert enarx(folder, *VERIFY)[0] == 104
    assert enarx(folder, *VERIFY[:3], "other@tenant.example", *VERIFY[4:], "--trust-root", "root.json")[0] == 105


@pytest.mark.parametrize("path", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_a_service_that_fails_leaves_nothing_attached(folder, instance, path):
    instance.broken = path
    before = (folder / "layout" / "index.json").read_bytes()
    status, out, err = enarx(folder, *SIGN)
    assert (status, out) == (107, "")
    assert "sigstore's services: found" in err
    assert (folder / "layout" / "index.json").read_bytes() == before


def test_a_service_that_is_not_there_is_a_transport_error(folder, instance):
    (folder / "sigstore.json").write_bytes(instance.fake.client_trust("http://127.0.0.1:9"))
    status, out, err = enarx(folder, *SIGN)
    assert (status, out) == (107, "")
    assert "refused" in err.lower()


def test_the_public_instance_is_asked_for_only_where_no_other_is_named(folder):
    status, out, err = enarx(folder, *SIGN[:5])
    assert (status, out) == (107, "")
    assert "sigstore's trust root: found Failed to refresh TUF metadata" in err
