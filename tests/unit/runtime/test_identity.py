# SPDX-License-Identifier: Apache-2.0
"""The two providers of a Keep's certificate."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.crypto.x509 import make_self_signed
from enarx.errors import ConfigError
from enarx.runtime.identity import FromFiles, Identity, SelfSigned, load_trust_anchors

AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def files(tmp_path):
    """Write a pair and give the two paths."""
    made = make_self_signed(at=AT)
    (tmp_path / "cert.pem").write_bytes(made.chain[0].public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        made.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return {"certificate": str(tmp_path / "cert.pem"), "private_key": str(tmp_path / "key.pem")}


def test_self_signed_makes_nothing_before_it_is_asked(monkeypatch):
    monkeypatch.setattr("enarx.runtime.identity.make_self_signed", lambda **_: pytest.fail("made too soon"))
    SelfSigned()


def test_self_signed_gives_one_credential_that_is_valid_now():
    identity: Identity = SelfSigned()
    credential = identity.credential()
    assert identity.credential() is credential
    assert abs(credential.chain[0].not_valid_before_utc.timestamp() - time.time()) < 60


def test_two_keeps_do_not_share_a_key():
    assert SelfSigned().credential().private_key.public_key() != SelfSigned().credential().private_key.public_key()


def test_files_give_the_chain_and_the_key(files):
    identity: Identity = FromFiles(**files)
    credential = identity.credential()
    assert credential.chain[0].public_key() == credential.private_key.public_key()
    assert identity.credential() is credential


def test_refuses_a_key_of_another_certificate(files, tmp_path):
    other = make_self_signed(at=AT).private_key
    (tmp_path / "key.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="certificate does not match") as caught:
        FromFiles(**files).credential()
    assert caught.value.path == files["private_key"]


@pytest.mark.parametrize("which", ["certificate", "private_key"])
@pytest.mark.parametrize(
    ("path", "reason"), [("missing.pem", "no such file"), ("", "is a directory"), ("a\0b", "null")]
)
def test_refuses_a_file_that_cannot_be_read(files, tmp_path, which, path, reason):
    wrong = files | {which: f"{tmp_path}/{path}"}
    with pytest.raises(ConfigError, match=reason) as caught:
        FromFiles(**wrong).credential()
    assert caught.value.path == wrong[which]


def test_reads_no_more_of_a_file_than_the_limit(files):
    with pytest.raises(ConfigError, match="found 1048577 bytes"):
        FromFiles(**(files | {"certificate": "/dev/zero"})).credential()


def test_trust_anchors_are_the_certificates_of_a_file(files):
    assert load_trust_anchors(files["certificate"]) == FromFiles(**files).credential().chain


@pytest.mark.parametrize("which", ["private_key", "missing"])
def test_refuses_a_file_without_trust_anchors(files, which):
    path = files.get(which, "/missing.pem")
    with pytest.raises(ConfigError, match=r"no well-formed chain|no such file") as caught:
        load_trust_anchors(path)
    assert caught.value.path == path
