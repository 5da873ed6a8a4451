# SPDX-License-Identifier: Apache-2.0
"""Packages and a registry of others: Debian's docker-registry on loopback, plain and with TLS and a password, and skopeo beside us."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from enarx.registry.client import RegistryClient, referrers_tag
from enarx.registry.copying import copy_package
from enarx.registry.layout import LayoutFolder, make_layout
from enarx.wire.oci import (
    EMPTY,
    INDEX,
    MANIFEST,
    WASM,
    WASM_CONFIG,
    Descriptor,
    Manifest,
    decode_index_untrusted,
    digest_of,
    encode_manifest,
)
from tests.integration.certificates import Authority

REGISTRY, SKOPEO = shutil.which("docker-registry"), shutil.which("skopeo")
USER, PASSWORD = "tenant", "correct horse"
# bcrypt of that password, as htpasswd files have it.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"
START_S = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        REGISTRY is None or SKOPEO is None,
        reason="docker-registry or skopeo is not installed; tools/install-slow does it",
    ),
]


class Registry:
    """A registry that is up."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.log: list[bytes] = []

    def asked(self, line: str) -> int:
        return sum(line.encode() in each for each in list(self.log))


@contextlib.contextmanager
def serving(folder, **http):
    """Run a registry with its files in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": address, **{name: value for name, value in http.items() if name == "tls"}},
        **{name: value for name, value in http.items() if name == "auth"},
    }
    (folder / "registry.yml").write_text(json.dumps(configuration))
    registry = Registry(address)
    with subprocess.Popen(
        [REGISTRY, "serve", folder / "registry.yml"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:

        def read():
            registry.log += process.stdout

        try:
            said = b""
            deadline = time.monotonic() + START_S
            while b"listening on" not in said:
                ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
                data = os.read(process.stdout.fileno(), 65536) if ready else b""
                assert data, said.decode()
                said += data
            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            yield registry
        finally:
            process.kill()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), "root")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("guarded")
    pair = authority.issue("registry", "127.0.0.1")
    (folder / "htpasswd").write_text(HTPASSWD)
    tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
    auth = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    with serving(folder, tls=tls, auth=auth) as registry:
        yield registry


@pytest.fixture
def layout(tmp_path):
    """A layout with a package of random bytes, of two parts and something."""
    path = tmp_path / "layout"
    path.mkdir()
    made = make_layout(str(path))
    module = os.urandom(70_000_000)
    text = json.dumps({"architecture": "wasm", "os": "wasip1", "layerDigests": [digest_of(module)]}).encode()
    for data in (module, text):
        made.put_blob(Descriptor(WASM, digest_of(data), len(data)), [data])
    config = Descriptor(WASM_CONFIG, digest_of(text), len(text))
    manifest = Manifest(config, (Descriptor(WASM, digest_of(module), len(module)),))
    made.put_manifest(encode_manifest(manifest), MANIFEST, tag="1.0")
    return made


@pytest.fixture
def at_home(enarx, tmp_path):
    """The command with empty caches and no login."""
    home = tmp_path / "home"
    home.mkdir()
    return enarx.with_env(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), DOCKER_CONFIG=None, SSL_CERT_FILE=None)


def skopeo(*arguments, home) -> bytes:
    done = subprocess.run(
        [SKOPEO, "--insecure-policy", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def blobs_of(path) -> dict[str, str]:
    found = {}
    for each in (path / "blobs" / "sha256").iterdir():
        with each.open("rb") as file:
            found[each.name] = hashlib.file_digest(file, "sha256").hexdigest()
    assert all(name == digest for name, digest in found.items())
    return found


def published(enarx, layout, registry, name) -> tuple[str, str]:
    """Publish a layout and return the reference and the digest."""
    target = f"oci://{registry.address}/{name}:1.0"
    ended = enarx.command("package", "publish", layout.path, target, "--json")
    assert ended.status == 0, ended.stderr
    digest = layout.resolve("1.0").descriptor.digest
    assert json.loads(ended.stdout) == {"package": digest, "place": f"{target}@{digest}"}
    return target, digest


def test_skopeo_reads_what_is_published(at_home, layout, plain, tmp_path):
    _, digest = published(at_home, layout, plain, "a/one")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{plain.address}/a/one:1.0", home=tmp_path)
    assert raw == layout.resolve("1.0").data
    assert digest_of(raw) == digest
    into = tmp_path / "copied"
    skopeo("copy", "--src-tls-verify=false", f"docker://{plain.address}/a/one:1.0", f"oci:{into}:1.0", home=tmp_path)
    assert blobs_of(into) == blobs_of(tmp_path / "layout")


def test_what_skopeo_publishes_is_fetched(at_home, layout, plain, tmp_path):
    skopeo(
        "copy", "--dest-tls-verify=false", f"oci:{layout.path}:1.0", f"docker://{plain.address}/b:1.0", home=tmp_path
    )
    for output in ("folder", "file.tar"):
        ended = at_home.command(
            "package", "fetch", f"oci://{plain.address}/b:1.0", "--output", tmp_path / output, "--json"
        )
        assert ended.status == 0, ended.stderr
        assert json.loads(ended.stdout)["package"] == layout.resolve("1.0").descriptor.digest
    assert blobs_of(tmp_path / "folder") == blobs_of(tmp_path / "layout")
    skopeo("copy", f"oci-archive:{tmp_path / 'file.tar'}:1.0", f"oci:{tmp_path / 'again'}:1.0", home=tmp_path)
    assert blobs_of(tmp_path / "again") == blobs_of(tmp_path / "layout")


def test_fetches_at_once_share_one_download(at_home, layout, plain, tmp_path):
    target, digest = published(at_home, layout, plain, "c")
    with ThreadPoolExecutor() as pool:
        ended = list(
            pool.map(lambda name: at_home.command("package", "fetch", target, "--output", tmp_path / name), "abc")
        )
    assert [each.status for each in ended] == [0, 0, 0], [each.stderr for each in ended]
    for name in "abc":
        assert blobs_of(tmp_path / name) == blobs_of(tmp_path / "layout")
        assert digest.encode() in ended[0].stdout
    for blob in blobs_of(tmp_path / "layout"):
        if f"sha256:{blob}" != digest:
            assert plain.asked(f'"GET /v2/c/blobs/sha256:{blob} ') == 1


def test_what_refers_to_a_package_is_under_a_tag(layout, plain, tmp_path):
    with RegistryClient(plain.address, "d") as client:
        subject = copy_package(layout, layout.resolve("1.0"), client, tag="1.0")
        empty = Descriptor(EMPTY, digest_of(b"{}"), 2)
        client.put_blob(empty, [b"{}"])
        signature = Manifest(empty, (empty,), artifact_type="application/x.signature", subject=subject)
        stored = client.put_manifest(encode_manifest(signature), MANIFEST, tag=None)
        assert [each.digest for each in client.referrers(subject.digest, "application/x.signature")] == [stored.digest]
        place = f"docker://{plain.address}/d:{referrers_tag(subject.digest)}"
        raw = skopeo("inspect", "--raw", "--tls-verify=false", place, home=tmp_path)
        assert [each.digest for each in decode_index_untrusted(raw).manifests] == [stored.digest]
        assert client.resolve(referrers_tag(subject.digest)).descriptor.media_type == INDEX
        (tmp_path / "copied").mkdir()
        copied = make_layout(str(tmp_path / "copied"))
        copy_package(client, client.resolve("1.0"), copied, tag="1.0")
    assert [each.digest for each in LayoutFolder(copied.path).referrers(subject.digest)] == [stored.digest]


def test_a_password_and_tls(at_home, layout, guarded, authority, tmp_path):
    target = f"oci://{guarded.address}/app:1.0"
    publish = ("package", "publish", layout.path, target)
    refused = at_home.command(*publish)
    assert (refused.status, "unable to get local issuer certificate" in refused.stderr) == (
        104,
        True,
    )
    trusting = at_home.with_env(SSL_CERT_FILE=str(authority.root))
    refused = trusting.command(*publish)
    assert (refused.status, "found that it wants a login" in refused.stderr) == (2, True)
    folder = tmp_path / "docker"
    folder.mkdir()
    ended = {}
    for password in ("wrong", PASSWORD):
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": auth}}}))
        ended[password] = trusting.with_env(DOCKER_CONFIG=str(folder)).command(*publish, "--verbose")
        assert auth not in ended[password].stderr
        assert password not in ended[password].stderr.replace(target, "")
    assert (ended["wrong"].status, ended[PASSWORD].status) == (2, 0), ended
    fetched = trusting.with_env(DOCKER_CONFIG=str(folder)).command(
        "package", "fetch", target, "--output", tmp_path / "fetched"
    )
    assert fetched.status == 0, fetched.stderr
    assert blobs_of(tmp_path / "fetched") == blobs_of(tmp_path / "layout")
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    shutil.copy(authority.root, certificates / "ca.crt")
    place = f"docker://{guarded.address}/app:1.0"
    raw = skopeo("inspect", "--raw", "--cert-dir", certificates, "--creds", f"{USER}:{PASSWORD}", place, home=tmp_path)
    assert raw == layout.resolve("1.0").data


def test_what_is_not_there_is_said_so(at_home, plain, tmp_path):
    ended = at_home.command("package", "fetch", f"oci://{plain.address}/none:1", "--output", tmp_path / "none")
    assert (ended.status, "found no package of this name" in ended.stderr) == (2, True)
    assert not (tmp_path / "none").exists()
