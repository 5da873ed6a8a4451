# SPDX-License-Identifier: Apache-2.0
"""`enarx package sign|verify`: what they write, print and end with."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from enarx.cli import main
from enarx.crypto.signature_keys import key_id_of, public_key_of
from enarx.registry.archive import write_archive
from enarx.registry.referrers import BUNDLE, attach
from tests.unit.registry.key_files import write
from tests.unit.registry.signed import (
    AT,
    IDENTITY,
    ISSUER,
    MODULE,
    key,
    make_package,
    private_pem,
    public_pem,
    sigstore,
)
from tests.unit.verifier.policy_rules import RULES, SNP_TEXT

KEY_ID = key_id_of(public_key_of(key()))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("enarx.cli.clock.read_clock", lambda *_, **__: AT)
    for name in ("tenant", "other"):
        write(tmp_path / f"{name}.pem", private_pem(key(name)))
        (tmp_path / f"{name}.pub").write_bytes(public_pem(key(name)))
    (tmp_path / "root.json").write_bytes(sigstore().trust_root())
    return tmp_path


@pytest.fixture
def package(here):
    return make_package(here / "layout")


def enarx(capfd, *argv):
    status = main(list(argv))
    out, err = capfd.readouterr()
    return status, out, err


def attach_keyless(package, **options):
    layout, subject = package
    return attach(layout, subject, BUNDLE, sigstore().sign(subject.digest, IDENTITY, ISSUER, at=AT, **options))


def test_what_is_signed_by_a_key_verifies_by_its_public_key_and_by_no_other(package, capfd):
    digest = package[1].digest
    status, out, _ = enarx(capfd, "package", "sign", "layout:v1", "--key", "tenant.pem")
    assert status == 0
    assert out.splitlines()[:3] == [f"package   {digest}", "kind      local key", f"key       {KEY_ID}"]
    status, out, _ = enarx(capfd, "package", "verify", "layout", "--signer", "other.pub", "--signer", "tenant.pub")
    assert (status, out) == (0, f"package   {digest}\nsigned    local key {KEY_ID} (tenant.pub): no log, no time\n")
    status, out, err = enarx(capfd, "package", "verify", "layout", "--signer", "other.pub")
    assert (status, out) == (105, "")
    assert f"not signed by anybody who may: {digest}: the signature is of another local key: found {KEY_ID}" in err


def test_json_names_the_kind_and_has_no_member_of_the_other(package, capfd):
    status, out, _ = enarx(capfd, "package", "sign", "layout", "--key", "tenant.pem", "--json")
    made = json.loads(out)
    assert (status, made.keys(), made["kind"]) == (0, {"package", "kind", "key", "artifact"}, "local key")
    artifact = attach_keyless(package)
    options = (
        "--signer",
        "tenant.pub",
        "--identity",
        IDENTITY,
        "--issuer",
        ISSUER,
        "--trust-root",
        "root.json",
        "--json",
    )
    status, out, _ = enarx(capfd, "package", "verify", "layout", *options)
    assert status == 0
    assert json.loads(out) == {
        "package": package[1].digest,
        "signatures": [
            {"kind": "local key", "signer": "tenant.pub", "artifact": made["artifact"], "key": KEY_ID},
            {
                "kind": "keyless",
                "signer": IDENTITY,
                "artifact": artifact.digest,
                "identity": IDENTITY,
                "issuer": ISSUER,
                "logged_at": "2026-06-01T12:00:05Z",
            },
        ],
    }


@pytest.mark.parametrize(
    ("identity", "issuer", "root", "status", "message"),
    [
        (IDENTITY, ISSUER, True, 0, f"keyless: {IDENTITY}, vouched for by {ISSUER}"),
        ("x@tenant.example", ISSUER, True, 105, "the keyless signature is somebody else's"),
        (IDENTITY, "https://other.example", True, 105, "the keyless signature is somebody else's"),
        (IDENTITY, ISSUER, False, 104, "as shipped with sigstore"),
    ],
)
def test_a_keyless_signature_is_judged_by_identity_issuer_and_root(
    package, capfd, identity, issuer, root, status, message
):
    attach_keyless(package)
    options = ("--trust-root", "root.json") if root else ()
    found, out, err = enarx(capfd, "package", "verify", "layout", "--identity", identity, "--issuer", issuer, *options)
    assert found == status
    assert message in out + err


def test_an_unsigned_package_is_refused(package, capfd):
    status, out, err = enarx(capfd, "package", "verify", "layout", "--signer", "tenant.pub")
    assert (status, out) == (105, "")
    assert "the package is not signed" in err
    assert "hint: enarx package sign REF --key FILE" in err


def test_a_false_signature_ends_with_another_status(package, capfd):
    layout, subject = package
    attach(layout, subject, BUNDLE, sigstore().sign("sha256:" + "cd" * 32, IDENTITY, ISSUER, at=AT))
    options = ("--identity", IDENTITY, "--issuer", ISSUER, "--trust-root", "root.json")
    status, _, err = enarx(capfd, "package", "verify", "layout", *options)
    assert status == 104
    assert "the package's signature is false" in err


def test_an_archive_is_verified_and_not_signed(package, capfd):
    enarx(capfd, "package", "sign", "layout", "--key", "tenant.pem")
    write_archive(package[0], "package.tar")
    assert enarx(capfd, "package", "verify", "package.tar", "--signer", "tenant.pub")[0] == 0
    status, _, err = enarx(capfd, "package", "sign", "package.tar", "--key", "tenant.pem")
    assert status == 2
    assert "found an archive, which nothing is added to" in err


def test_the_signers_of_a_policy_are_taken(package, capfd, here, monkeypatch):
    from enarx.verifier.ledger import Judge

    monkeypatch.setattr("enarx.verifier.policy_toml.judge_of", lambda section: Judge(section, None, RULES[section]))
    enarx(capfd, "package", "sign", "layout", "--key", "tenant.pem")
    for name, status in (("tenant", 0), ("other", 105)):
        table = f'[[package.signer]]\nname = "release"\nkey = """\n{public_pem(key(name)).decode()}"""\n'
        (here / "policy.toml").write_text(SNP_TEXT + table)
        assert enarx(capfd, "package", "verify", "layout", "--policy", "policy.toml")[0] == status
    (here / "policy.toml").write_text(SNP_TEXT)
    status, _, err = enarx(capfd, "package", "verify", "layout", "--policy", "policy.toml")
    assert status == 2
    assert "policy.toml: found no [[package.signer]], want one" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sign", "layout"], "found neither of --key and --keyless"),
        (["sign", "layout", "--key", "tenant.pem", "--keyless"], "found both of --key and --keyless"),
        (["sign", "layout", "--key", "tenant.pem", "--identity-token-file", "t"], "found --identity-token-file with --key"),
        (["sign", "layout", "--key", "none.pem"], "cannot read the signing key: none.pem: No such file"),
        (["sign", "layout", "--key", "open.pem"], "cannot use the signing key: open.pem: found owner"),
        (["sign", "layout", "--key", "public.pem"], "found no well-formed key"),
        (["sign", "layout", "--key", "locked.pem"], "found an encrypted key"),
        (["sign", "layout", "--keyless", "--identity-token-file", "token"], "identity token: found Identity token is malformed"),
        (["sign", "layout", "--keyless", "--identity-token-file", "root.json"], "identity token: found Identity token is malformed"),
        (["sign", "main.wasm", "--key", "tenant.pem"], "found a plain module or folder"),
        (["sign", "nothing", "--key", "tenant.pem"], "found a plain module or folder, or nothing"),
        (["verify", "layout"], "found no signer, want --signer PUB"),
        (["verify", "layout", "--identity", "x"], "found --identity alone, want --identity and --issuer"),
        (["verify", "layout", "--issuer", "x"], "found --issuer alone"),
        (["verify", "layout", "--signer", "tenant.pem"], "tenant.pem: cannot decode a public key: found a private key"),
        (["verify", "layout", "--signer", "none.pub"], "cannot read none.pub"),
        (["verify", "layout", "--signer", "tenant.pub", "--trust-root", "root.json"], "found --trust-root without an identity"),
        (["verify", "layout", "--signer", "tenant.pub", "--policy", "p.toml"], "found --policy and another signer"),
        (["verify", "main.wasm", "--signer", "tenant.pub"], "found a plain module or folder"),
        (["verify", "layout:v2", "--signer", "tenant.pub"], "v2"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(package, capfd, here, argv, message):
    (here / "main.wasm").write_bytes(MODULE)
    (here / "token").write_text("x")
    locked = key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    write(here / "locked.pem", locked)
    write(here / "public.pem", public_pem(key()))
    write(here / "open.pem", private_pem(key()), 0o640)
    status, out, err = enarx(capfd, "package", *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert len(package[0].index().manifests) == 1


def test_a_token_is_never_shown(package, capfd, here):
    (here / "token").write_text("s3cret-token.with.parts")
    status, out, err = enarx(
        capfd, "package", "sign", "layout", "--keyless", "--identity-token-file", "token", "--verbose"
    )
    assert status == 2
    assert "s3cret" not in out + err


def test_something_else_that_is_no_package_is_not_signed(here, capfd):
    from enarx.registry.layout import make_layout
    from enarx.wire.oci import EMPTY, MANIFEST, Descriptor, Index, Manifest, digest_of, encode_index, encode_manifest

    (here / "empty").mkdir()
    layout = make_layout(str(here / "empty"))
    config = Descriptor(EMPTY, digest_of(b"{}"), 2)
    layout.put_blob(config, [b"{}"])
    image = layout.put_manifest(encode_manifest(Manifest(config, (config,))), MANIFEST, tag=None)
    layout.put_manifest(encode_index(Index((image,))), "application/vnd.oci.image.index.v1+json", tag="v1")
    status, _, err = enarx(capfd, "package", "sign", "empty:v1", "--key", "tenant.pem")
    assert status == 103
    assert "0 packages of WebAssembly" in err


@pytest.fixture
def policy(here, monkeypatch):
    """Write a policy that names a signer."""
    from enarx.verifier.ledger import Judge

    monkeypatch.setattr("enarx.verifier.policy_toml.judge_of", lambda section: Judge(section, None, RULES[section]))
    monkeypatch.setenv("HOME", str(here))
    (here / "policy.toml").write_text(SNP_TEXT + f'[[package.signer]]\nkey = """\n{public_pem(key()).decode()}"""\n')
    (here / "plain.toml").write_text(SNP_TEXT)
    (here / "app").mkdir()
    (here / "app" / "main.wasm").write_bytes(MODULE)


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["layout", "--policy", "policy.toml"], 105, "the package is not signed"),
        (["layout", "--policy", "policy.toml", "--require-signature"], 105, "the package is not signed"),
        (["app", "--policy", "policy.toml"], 105, "found a plain module or folder, want a signed package"),
        (["app/main.wasm", "--policy", "policy.toml"], 105, "found a plain module or folder, want a signed package"),
        (["layout", "--require-signature"], 102, "found no signer in the policy, want one"),
        (["layout", "--policy", "plain.toml", "--require-signature"], 102, "found no signer in the policy, want one"),
        (["layout", "--trust-root", "root.json"], 102, "cannot use --trust-root: found no signer"),
    ],
)
def test_nothing_unsigned_is_deployed_where_a_signature_is_wanted(package, policy, capfd, argv, status, message):
    found, out, err = enarx(capfd, "deploy", *argv)
    assert (found, out) == (status, "")
    assert message in err


def test_what_is_signed_is_loaded_to_be_deployed_and_it_is_said_who_signed_it(package, policy, capfd):
    from enarx.cli import load
    from enarx.cli.deploy import _load_package

    enarx(capfd, "package", "sign", "layout", "--key", "tenant.pem")
    loaded = _load_package(load("deploy").parse(["layout", "--policy", "policy.toml"]))
    assert loaded.path == "layout"
    assert f"signed by local key {KEY_ID}" in capfd.readouterr().err
    _load_package(load("deploy").parse(["layout", "--policy", "plain.toml"]))
    assert "signed by" not in capfd.readouterr().err
