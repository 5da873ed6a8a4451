# SPDX-License-Identifier: Apache-2.0
"""The tenant's key, which only he can read, and the Steward's root, which is one."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.channel.transcript import spki_hash
from enarx.crypto.x509 import make_self_signed
from enarx.deploy.naming import load_steward, load_tenant_key, tenant_digest
from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.wire.release import Steward
from tests.fake_steward import FakeAuthority

AT = datetime(2026, 6, 1, tzinfo=UTC)
URL = "https://steward.example"


def write_key(path, key, mode=0o600):
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(mode)
    return str(path)


def test_makes_a_key_once_that_only_its_user_can_read(tmp_path):
    path = tmp_path / "tenant.pem"
    key, is_new = load_tenant_key(str(path))
    assert is_new
    assert path.stat().st_mode & 0o7777 == 0o600
    again, is_new = load_tenant_key(str(path))
    assert not is_new
    assert again.private_numbers() == key.private_numbers()


def test_the_digest_is_that_of_the_identity_record(tmp_path):
    key, _ = load_tenant_key(str(tmp_path / "tenant.pem"))
    leaf = make_self_signed(at=AT, key=key).chain[0].public_bytes(Encoding.DER)
    assert tenant_digest(key) == spki_hash(leaf)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_refuses_a_key_that_others_can_read(tmp_path, mode):
    path = write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()), mode)
    with pytest.raises(UsageError, match="0600") as caught:
        load_tenant_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_refuses_a_folder_for_a_key(tmp_path):
    with pytest.raises(UsageError):
        load_tenant_key(str(tmp_path))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_refuses_a_key_of_another_kind(tmp_path, key):
    with pytest.raises(ConfigError, match="want one on the curve P-256"):
        load_tenant_key(write_key(tmp_path / "key.pem", key))


def test_says_where_a_key_cannot_be_made(tmp_path):
    with pytest.raises(PlatformError, match="No such file"):
        load_tenant_key(str(tmp_path / "none" / "key.pem"))


def test_takes_a_root_in_pem(tmp_path):
    authority = FakeAuthority(AT)
    path = tmp_path / "root.pem"
    path.write_bytes(authority.root.public_bytes(Encoding.PEM))
    assert load_steward(URL, str(path)) == Steward(URL, authority.root_der)


def test_takes_no_chain_of_which_it_would_have_to_choose_one(tmp_path):
    authority = FakeAuthority(AT)
    path = tmp_path / "chain.pem"
    below = authority.credential(AT).chain[0]
    path.write_bytes(below.public_bytes(Encoding.PEM) + authority.root.public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="found 2 certificates, want the Steward's own alone") as caught:
        load_steward(URL, str(path))
    assert "root.pem" in caught.value.hint


@pytest.mark.parametrize("what", ["missing", "two", "leaf", "text"])
def test_refuses_what_is_no_root(tmp_path, what):
    authority = FakeAuthority(AT)
    roots = (each.root.public_bytes(Encoding.PEM) for each in (authority, FakeAuthority(AT, "another")))
    path = tmp_path / "root.pem"
    contents = {
        "two": b"".join(roots),
        "leaf": authority.credential(AT).chain[0].public_bytes(Encoding.PEM),
        "text": b"no",
    }
    if what in contents:
        path.write_bytes(contents[what])
    with pytest.raises(ConfigError) as caught:
        load_steward(URL, str(path))
    assert caught.value.path == str(path)


def test_refuses_a_url_that_is_none(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_steward("http://steward.example", os.devnull)
    assert caught.value.key == "--steward"
