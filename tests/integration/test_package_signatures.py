# SPDX-License-Identifier: Apache-2.0
"""Signatures in a registry, with a referrers API and without one: signed there, copied with the package, judged by the command."""

from __future__ import annotations

import json

import pytest

from enarx.cli import main
from enarx.registry.client import RegistryClient
from enarx.registry.copying import copy_package
from enarx.registry.layout import LayoutFolder, make_layout
from enarx.registry.referrers import BUNDLE, attach, attached
from tests.fake_registry import FakeRegistry
from tests.unit.registry.key_files import write
from tests.unit.registry.signed import AT, IDENTITY, ISSUER, key, make_package, private_pem, public_pem, sigstore


@pytest.fixture(params=[True, False], ids=["referrers API", "referrers tag"])
def registry(request):
    with FakeRegistry(api=request.param) as started:
        yield started


@pytest.fixture
def folder(tmp_path):
    for name in ("tenant", "other"):
        write(tmp_path / f"{name}.pem", private_pem(key(name)))
        (tmp_path / f"{name}.pub").write_bytes(public_pem(key(name)))
    (tmp_path / "root.json").write_bytes(sigstore().trust_root())
    return tmp_path


def publish(registry, layout):
    """Put a layout's package into the registry, and return its client and the package's descriptor there."""
    client = RegistryClient(registry.address, "app")
    return client, copy_package(layout, layout.resolve("v1"), client, tag="v1")


@pytest.fixture
def enarx(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))

    def run(*argv):
        status = main(["package", *argv])
        return status, *capfd.readouterr()

    return run


def test_a_package_is_signed_where_it_was_published(registry, folder, enarx):
    layout, package = make_package(folder / "layout")
    client, stored = publish(registry, layout)
    reference = f"oci://{registry.address}/app:v1"
    assert stored.digest == package.digest

    status, out, err = enarx("verify", reference, "--signer", "tenant.pub")
    assert (status, out) == (105, "")
    assert "found no signature attached" in err

    for name in ("other", "tenant"):
        status, out, err = enarx("sign", reference, "--key", f"{name}.pem", "--json")
        assert status == 0, err
        assert json.loads(out)["package"] == package.digest
    assert len(attached(client, package.digest).signatures) == 2

    status, out, err = enarx("verify", reference, "--signer", "tenant.pub", "--json")
    assert status == 0, err
    assert [each["signer"] for each in json.loads(out)["signatures"]] == ["tenant.pub"]
    # By its digest the package is the same one; without its tag too.
    assert enarx("verify", f"oci://{registry.address}/app@{package.digest}", "--signer", "tenant.pub")[0] == 0


def test_signatures_travel_with_the_package(registry, folder, enarx):
    layout, package = make_package(folder / "layout")
    attach(layout, package, BUNDLE, sigstore().sign(package.digest, IDENTITY, ISSUER, at=AT))
    client, stored = publish(registry, layout)
    options = ("--identity", IDENTITY, "--issuer", ISSUER, "--trust-root", "root.json")
    status, out, err = enarx("verify", f"oci://{registry.address}/app:v1", *options)
    assert status == 0, err
    assert f"signed    keyless: {IDENTITY}" in out

    (folder / "back").mkdir()
    back = make_layout(str(folder / "back"))
    copy_package(client, client.resolve("v1"), back, tag="v1")
    assert enarx("verify", "back:v1", *options)[0] == 0
    assert attached(back, stored.digest) == attached(layout, package.digest)


def test_a_signature_does_not_follow_a_tag_to_another_package(registry, folder, enarx):
    layout, package = make_package(folder / "layout")
    client, _ = publish(registry, layout)
    reference = f"oci://{registry.address}/app:v1"
    assert enarx("sign", reference, "--key", "tenant.pem")[0] == 0
    other = json.loads(layout.resolve("v1").data) | {"annotations": {"other": "package"}}
    client.put_manifest(json.dumps(other).encode(), package.media_type, tag="v1")
    status, _, err = enarx("verify", reference, "--signer", "tenant.pub")
    assert status == 105
    assert "found no signature attached" in err


def test_a_signature_that_is_listed_for_another_package_is_false(registry, folder, enarx):
    """Whoever may write to the repository attaches the signature of a package that the tenant signed to one that he did not."""
    layout, package = make_package(folder / "layout")
    client, _ = publish(registry, layout)
    reference = f"oci://{registry.address}/app:v1"
    enarx("sign", reference, "--key", "tenant.pem")
    (signature,) = attached(client, package.digest).signatures
    other = json.dumps(json.loads(layout.resolve("v1").data) | {"annotations": {"other": "package"}}).encode()
    attach(client, client.put_manifest(other, package.media_type, tag="v1"), signature.media_type, signature.data)
    status, _, err = enarx("verify", reference, "--signer", "tenant.pub")
    assert status == 104
    assert f"of another package: found {package.digest}" in err


def test_a_tag_that_the_registry_moved_is_not_signed(registry, folder, enarx):
    layout, package = make_package(folder / "layout")
    reference = f"oci://{registry.address}/app:v1"
    status, out, err = enarx("publish", "layout:v1", reference)
    assert status == 0, err
    (folder / "app.wasm").write_bytes(b"\0asm\x01\0\0\0")
    build = enarx("build", "app.wasm", "--output", "other", "--tag", "v1")
    assert build[0] == 0, build
    other = LayoutFolder(str(folder / "other"))
    copy_package(other, other.resolve("v1"), RegistryClient(registry.address, "app"), tag="v1")
    status, out, err = enarx("sign", reference, "--key", "tenant.pem")
    assert (status, out) == (104, "")
    assert "the tag was moved" in err
    assert f"want {package.digest}" in err
    # Whoever means the other one says its digest; and what nobody here knows is signed with a word on it.
    moved = other.resolve("v1").descriptor.digest
    assert attached(RegistryClient(registry.address, "app"), moved).signatures == ()
    assert enarx("sign", f"oci://{registry.address}/app@{moved}", "--key", "tenant.pem")[0] == 0
    copy_package(layout, layout.resolve("v1"), RegistryClient(registry.address, "app"), tag="v2")
    status, out, err = enarx("sign", f"oci://{registry.address}/app:v2", "--key", "tenant.pem")
    assert status == 0
    assert f"is {package.digest}, as the registry says" in err
