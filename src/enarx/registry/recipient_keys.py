# SPDX-License-Identifier: Apache-2.0
"""The files of recipients' keys: which kind a key is of is told by what is in its file.

- Ours, of the HPKE kind: a PEM block with a label of ours and the bare key in it, because there is no standard form for these keys yet.
  The private one is 96 bytes, the public one 1216 (`enarx.channel.hpke`).
- RSA keys in PEM as openssl writes them, for JWE, from 2048 to 4096 bits.

A private key that others can read is refused.

Source: RFC 7468; RFC 5958; RFC 8017 appendix A.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from enarx.channel.hpke import PRIVATE_KEY_BYTES, PUBLIC_KEY_BYTES, KeptKey
from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.registry.recipients import MAX_RECIPIENTS, DecryptionKeys, Recipients
from enarx.user_files import create_file, read_key_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["make_recipient", "read_decryption_keys", "read_recipients"]

_MAX_KEY_FILE_BYTES = 64 << 10
_RSA_BITS = range(2048, 4097)
_PRIVATE, _PUBLIC = "ENARX PACKAGE DECRYPTION KEY", "ENARX PACKAGE RECIPIENT"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s([A-Za-z0-9+/=\s]*)-----END \1-----\s*")


def make_recipient(path: str) -> str:
    """Make a key pair of the HPKE kind: the private key in a file that only its user can read, the public one beside it.

    Args:
        path: of the private key, of which there is nothing yet; the public key's has `.pub` after it.

    Returns:
        The path of the public key.

    Raises:
        UsageError: there is a file already, or it cannot be made.
    """
    key = KeptKey()
    hint = "choose another name; what was encrypted for the old key would be lost with it"
    public = f"{path}.pub"
    if os.path.lexists(public):
        raise UsageError(f"cannot write {public}: found one already, want none", hint=hint)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise UsageError(f"cannot write {path}: found one already, want none", hint=hint) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with open(fd, "wb") as file:
            file.write(_pem(_PRIVATE, key.private_bytes()))
            file.flush()
            os.fsync(fd)
    except OSError as error:
        os.unlink(path)
        raise PlatformError(f"cannot write {path}: {error.strerror}") from error
    create_file(public, _pem(_PUBLIC, key.public_bytes), hint=hint)
    return public


def read_recipients(paths: Sequence[str]) -> Recipients:
    """Read public keys, of either kind.

    Args:
        paths: of files; the same key twice is one recipient.

    Raises:
        UsageError: a file cannot be read, or there are too many.
        ConfigError: it has another thing in it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    hpke: dict[bytes, None] = {}
    rsa: dict[tuple[int, int], RSAPublicKey] = {}
    for path in paths:
        pem = read_key_file(path, what="the key", is_secret=False, max_bytes=_MAX_KEY_FILE_BYTES)
        block = _block(pem)
        if block is not None and block[0] == _PUBLIC:
            hpke[_sized(block[1], PUBLIC_KEY_BYTES, path)] = None
            continue
        if (block is not None and block[0] == _PRIVATE) or b"PRIVATE KEY-----" in pem:
            raise ConfigError(
                f"cannot encrypt for {path}: found a private key, want the public one",
                path=path,
                hint=f"{path}.pub is what `enarx package recipient` has written beside it",
            )
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _no_key(path, f"a PEM block {_PUBLIC} or an RSA PUBLIC KEY") from error
        if not isinstance(key, RSAPublicKey):
            raise _no_key(path, "an RSA key, or one of `enarx package recipient`", type(key).__name__)
        _require_size(key.key_size, path)
        numbers = key.public_numbers()
        rsa[numbers.n, numbers.e] = key
    for kind in (hpke, rsa):
        if len(kind) > MAX_RECIPIENTS:
            raise UsageError(
                f"cannot encrypt: recipients: found {len(kind)} of one kind, want at most {MAX_RECIPIENTS}"
            )
    if not hpke and not rsa:
        raise UsageError("cannot encrypt: recipients: found none, want at least one")
    return Recipients(tuple(hpke), tuple(rsa.values()))


def read_decryption_keys(paths: Sequence[str]) -> DecryptionKeys:
    """Read private keys, of either kind.

    Args:
        paths: of files that only their user can read.

    Raises:
        UsageError: a file cannot be read, or others can read it too.
        ConfigError: it has another thing in it.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from enarx.crypto.x509 import load_private_key

    hpke, rsa = [], []
    for path in paths:
        pem = read_key_file(path, what="the key", is_secret=True, max_bytes=_MAX_KEY_FILE_BYTES)
        block = _block(pem)
        if block is not None and block[0] == _PRIVATE:
            hpke.append(KeptKey(_sized(block[1], PRIVATE_KEY_BYTES, path)))
            continue
        if block is not None and block[0] in (_PUBLIC, "PUBLIC KEY"):
            raise _no_key(path, "the private key", "a public key")
        key = load_private_key(pem, path=path)
        if not isinstance(key, RSAPrivateKey):
            raise _no_key(path, "an RSA key, or one of `enarx package recipient`", type(key).__name__)
        _require_size(key.key_size, path)
        rsa.append(key)
    return DecryptionKeys(tuple(hpke), tuple(rsa))


def _pem(label: str, data: bytes) -> bytes:
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", "")).encode()


def _block(pem: bytes) -> tuple[str, bytes] | None:
    """Return label and contents of the only PEM block there is, or None."""
    found = _BLOCK.fullmatch(pem.strip() + b"\n")
    if found is None:
        return None
    try:
        return found[1].decode(), base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error:
        return None


def _sized(data: bytes, length: int, path: str) -> bytes:
    if len(data) != length:
        raise _no_key(path, f"{length}", f"{len(data)} bytes")
    return data


def _require_size(bits: int, path: str) -> None:
    if bits not in _RSA_BITS:
        raise _no_key(path, f"{_RSA_BITS.start} to {_RSA_BITS.stop - 1}", f"an RSA key of {bits} bits")


def _no_key(path: str, want: str, found: str = "another thing") -> ConfigError:
    return ConfigError(
        f"cannot use the key {path}: found {found}, want {want}",
        path=path,
        hint="`enarx package recipient FILE` makes a pair; RSA keys are PEM files of openssl",
    )
