# SPDX-License-Identifier: Apache-2.0
"""Encrypted packages with the command, a registry, a host and Keeps: run, deployed, and found in the clear nowhere on the way.

A canary is in the package. Everything that the registry stores or is sent, that the host stores, logs or relays, and that is in the
tenant's cache is searched for it (`tests.canary`), with the keys of the layers as well.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enarx.registry.encryption import LayerKeys
from enarx.registry.layout import LayoutFolder
from enarx.wire.oci import decode_manifest_untrusted
from tests.between import Between, until
from tests.canary import make_canary, read_all, search
from tests.fake_registry import FakeRegistry
from tests.integration.test_deploy import Host
from tests.integration.test_deploy_canary import everything, package_with

SAYS = b"hello from the package\n"


@pytest.fixture
def canary():
    return make_canary()


@pytest.fixture
def registry():
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def key(enarx, tmp_path):
    path = tmp_path / "tenant.key"
    made = enarx.command("package", "recipient", path)
    assert made.status == 0, made.stderr
    return path


@pytest.fixture
def app(canary, guest, tmp_path):
    return package_with(canary, guest("echo"), tmp_path / "app")


@pytest.fixture
def sealed(enarx, app, key, tmp_path):
    """Return a layout with the package, encrypted."""
    made = enarx.command("package", "encrypt", app, "--to", f"{key}.pub", "--output", tmp_path / "sealed", "--json")
    assert made.status == 0, made.stderr
    assert json.loads(made.stdout)["recipients"] == 1
    return tmp_path / "sealed"


@pytest.fixture
def published(enarx, sealed, registry):
    place = f"oci://{registry.address}/app:1"
    ended = enarx.command("package", "publish", sealed, place)
    assert ended.status == 0, ended.stderr
    return place


def contents(folder):
    return read_all(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def stored(registry):
    """Return what a registry has, and every request that it got."""
    said = {f"request {number}": each.body for number, each in enumerate(registry.requests)}
    heads = {f"head {number}": repr(each[:3]).encode() for number, each in enumerate(registry.requests)}
    blobs = {f"blob {digest}": data for digest, data in registry.blobs.items()}
    return {**said, **heads, **blobs}


def secrets_of(layout, key):
    """Return the keys of the layers, which are as good as what they open."""
    keys = LayerKeys.load([str(key)])
    resolved = LayoutFolder(str(layout))
    manifest = decode_manifest_untrusted(resolved.resolve(resolved.only_digest()).data)
    return {f"key of {layer.media_type}": keys.unwrap(layer)[0].key for layer in manifest.layers}


def require_nowhere(secrets, places):
    found = {name: search(secret, places) for name, secret in secrets.items()}
    assert not any(found.values()), found


def test_a_package_is_encrypted_and_run_with_its_key(enarx, app, sealed, key, canary):
    assert search(canary, contents(app))
    require_nowhere({"canary": canary}, contents(sealed))
    ended = enarx.command("run", sealed, "--decryption-key", key, stdin=b"hello")
    assert (ended.status, ended.stdout) == (0, b"hello"), ended.stderr
    # Compiled code would be the module again, in the cache of whoever ran it.
    require_nowhere({"canary": canary}, contents(enarx.env["XDG_CACHE_HOME"]))
    assert not list(Path(enarx.env.get("TMPDIR", "/tmp")).glob("enarx-package-*/main.wasm"))


def test_it_is_not_run_without_a_key_or_with_another(enarx, sealed, tmp_path):
    refused = enarx.command("run", sealed)
    assert refused.status == 102
    assert re.search("found an encrypted layer and no key, want one\nhint: --decryption-key", refused.stderr)
    other = tmp_path / "other"
    assert enarx.command("package", "recipient", other).status == 0
    for command in ("run", "deploy"):
        refused = enarx.command(command, sealed, "--decryption-key", other)
        assert refused.status == 104, refused.stderr
        assert "encrypted for others" in refused.stderr
    other.chmod(0o644)
    refused = enarx.command("run", sealed, "--decryption-key", other)
    assert refused.status == 102
    assert "mode 0644" in refused.stderr


def test_a_changed_layer_is_not_run(enarx, sealed, key):
    blobs = sorted((sealed / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blobs[-1].read_bytes())
    data[100] ^= 1
    blobs[-1].write_bytes(data)
    refused = enarx.command("run", sealed, "--decryption-key", key)
    assert refused.status == 104
    assert "digest" in refused.stderr


def test_info_says_nothing_of_what_is_inside(enarx, sealed, key, canary):
    shown = enarx.command("package", "info", sealed, "--json")
    assert shown.status == 0, shown.stderr
    assert json.loads(shown.stdout)["encrypted"] is True
    assert "fd_write" not in shown.stdout.decode()
    inside = enarx.command("package", "info", sealed, "--decryption-key", key, "--json")
    assert inside.status == 0, inside.stderr
    assert "fd_write" in inside.stdout.decode()
    assert canary not in shown.stdout.decode() + shown.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fetches", [True, False], ids=["the host fetches", "the tenant uploads"])
def test_registry_and_host_have_ciphertext_only(enarx, registry, sealed, published, key, canary, fetches):
    secrets = {"canary": canary, **secrets_of(sealed, key)}
    options = ("--allow-registry", f"{registry.address}/app") if fetches else ()
    with Between(enarx.env, *options) as between:
        tenant = Host(url=between.url, enarx=enarx)
        with tenant.start("--decryption-key", key, published) as started:
            started.send(SAYS)
            started.until_stdout(re.escape(SAYS))
            # What is in the way while it runs.
            found = everything(between)
            module = max((data for name, data in found.items() if "/blobs/" in name), key=len)
            require_nowhere(secrets, {**found, **stored(registry)})
            ended = started.end(by=None)
        assert ended.status == 0, ended.stderr
        uploads = b"PATCH /v1/keeps/" in b"".join(data for name, data in found.items() if name.startswith("http"))
        assert uploads, "Enarx.toml is the tenant's to upload"
        # The very bytes that the registry has are what the Keep got, where the host fetched them.
        assert (module in registry.blobs.values()) == fetches
        assert ("uploading the package" in ended.stderr) != fetches
        require_nowhere(secrets, {**everything(between), **stored(registry)})
    require_nowhere(secrets, contents(enarx.env["XDG_CACHE_HOME"]))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], 104, "ciphertext of another digest"),
        # What the host cannot have, the tenant sends: he may have a login that the host has not.
        (lambda data: data[:-1], 0, "uploading the package"),
        (None, 0, "uploading the package"),
    ],
    ids=["another", "shorter", "none"],
)
def test_a_keep_takes_nothing_else_from_a_registry(enarx, registry, published, key, change, status, word):
    """The tenant got it before, and has it in his cache; what the registry says to the host is another matter."""
    assert enarx.command("package", "info", published, "--decryption-key", key).status == 0
    digest, data = max(registry.blobs.items(), key=lambda each: len(each[1]))
    with Between(enarx.env, "--allow-registry", registry.address) as between:
        if change is None:
            del registry.blobs[digest]
        else:
            registry.blobs[digest] = change(data)
        ended = Host(url=between.url, enarx=enarx).deploy("--decryption-key", key, published)
        assert ended.status == status, ended.stderr
        assert word in ended.stderr
        until(lambda: not between.keep_pids(), "the end of the Keep")


def test_secrets_are_in_no_title(enarx, sealed, key):
    """A key is named by its file, never by what is in it."""
    secret = "".join(key.read_text().split("\n")[1:-2])
    process = subprocess.run(
        [sys.executable, "-m", "enarx", "run", str(sealed), "--decryption-key", str(key), "--verbose"],
        env=enarx.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert secret[:60] not in (process.stdout + process.stderr).decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_by_a_command_that_is_told_to_end(enarx, sealed, key, tmp_path, number):
    """What it opened is in the clear, and a service's manager ends a command with SIGTERM."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "enarx", "run", str(sealed), "--decryption-key", str(key), "--verbose"]
    with subprocess.Popen(
        command, env={**enarx.env, "TMPDIR": str(temporary)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        # It echoes: it runs when that comes back.
        running.stdin.write(SAYS)
        running.stdin.flush()
        assert running.stdout.read(len(SAYS)) == SAYS
        assert list(temporary.glob("enarx-package-*/main.wasm"))
        running.send_signal(number)
        assert running.wait(20) == 128 + number
    assert not list(temporary.iterdir())
