# SPDX-License-Identifier: Apache-2.0
"""Files of recipients' keys: made once, read by their owner alone, and told apart by what is in them."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from enarx.errors import ConfigError, UsageError
from enarx.registry.recipient_keys import make_recipient, read_decryption_keys, read_recipients
from enarx.registry.recipients import (
    HPKE_KEYS,
    unwrap,
    wrap,
)
from tests.unit.registry.key_files import private_pem, public_pem, write

SECRET = b'{"symkey":"..."}'
WHAT = "layer application/wasm+encrypted"


@pytest.fixture(scope="module")
def rsa_keys():
    return [rsa.generate_private_key(65537, 2048) for _ in range(3)]


def test_a_pair_is_made_and_read(tmp_path):
    path = str(tmp_path / "tenant.key")
    umask = os.umask(0)
    try:
        public = make_recipient(path)
    finally:
        os.umask(umask)
    assert public == f"{path}.pub"
    assert os.stat(path).st_mode & 0o7777 == 0o600
    keys = read_decryption_keys([path])
    annotations = wrap(SECRET, read_recipients([public, public]))
    assert "," not in annotations[HPKE_KEYS]
    assert unwrap(annotations, keys, what=WHAT) == SECRET
    assert keys.hpke[0].private_bytes() not in b"".join((tmp_path / "tenant.key.pub").read_bytes().split())


@pytest.mark.parametrize("there", ["k", "k.pub"])
def test_no_key_is_written_over(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match="found one already"):
        make_recipient(str(tmp_path / "k"))
    assert [each.read_text() for each in tmp_path.iterdir()] == ["mine"]


def test_rsa_keys_of_openssl_are_read(tmp_path, rsa_keys):
    traditional = rsa_keys[0].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = write(tmp_path / "pub", public_pem(rsa_keys[0]), 0o644)
    for pem in (private_pem(rsa_keys[0]), traditional):
        keys = read_decryption_keys([write(tmp_path / "key", pem)])
        assert unwrap(wrap(SECRET, read_recipients([public])), keys, what=WHAT) == SECRET


def test_a_private_key_that_others_can_read_is_refused(tmp_path, rsa_keys):
    with pytest.raises(UsageError, match="mode 0644"):
        read_decryption_keys([write(tmp_path / "key", private_pem(rsa_keys[0]), 0o644)])


def test_what_is_no_key_for_this_is_refused(tmp_path, rsa_keys):
    curve = ec.generate_private_key(ec.SECP256R1())
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
    make_recipient(str(tmp_path / "own"))
    own = (tmp_path / "own").read_bytes()
    for data, reason in (
        (private_pem(rsa_keys[0]), "found a private key"),
        (own, "found a private key"),
        (public_pem(curve), "want an RSA key"),
        (public_pem(small), "RSA key of 1024 bits"),
        (b"no key", "found another thing"),
        (b"-----BEGIN ENARX PACKAGE RECIPIENT-----\nAAAA\n-----END ENARX PACKAGE RECIPIENT-----\n", "found 3 bytes"),
        (b"x" * 70000, "more than 65536 bytes"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read_recipients([write(tmp_path / "file", data)])
    for data, reason in (
        (public_pem(rsa_keys[0]), "found a public key"),
        ((tmp_path / "own.pub").read_bytes(), "found a public key"),
        (private_pem(curve), "want an RSA key"),
        (private_pem(rsa_keys[0], BestAvailableEncryption(b"x")), "without a passphrase"),
        (own.replace(b"\n", b"\nAAAA", 1), "found 99 bytes"),
        (b"", "found no well-formed key"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read_decryption_keys([write(tmp_path / "file", data)])


def test_files_that_are_not_there_and_too_many_are_refused(tmp_path):
    for read in (read_recipients, read_decryption_keys):
        with pytest.raises(UsageError, match="No such file"):
            read([str(tmp_path / "none")])
        os.mkfifo(tmp_path / read.__name__)
        with pytest.raises(UsageError, match="no regular file"):
            read([str(tmp_path / read.__name__)])
    with pytest.raises(UsageError, match="found none"):
        read_recipients([])
    for number in range(17):
        make_recipient(str(tmp_path / f"k{number}"))
    with pytest.raises(UsageError, match="found 17 of one kind, want at most 16"):
        read_recipients([str(tmp_path / f"k{number}.pub") for number in range(17)])
