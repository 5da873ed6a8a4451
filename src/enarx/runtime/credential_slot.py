# SPDX-License-Identifier: Apache-2.0
"""A credential in shared memory: one process puts in the newest one, others show it on the connections that they make from then on.

Two places and a generation number, which says which of the two holds. A new credential is written into the other place, with a
digest over it and its number, and then the number is counted up. Whoever reads finds an older place untouched, or the newer one
whole, or, where it was written over twice meanwhile, a digest that does not fit: then it looks again. Nobody reads half of one.

While nothing changes, asking costs one load from memory. Whoever only reads cannot write: once the writer has its view of the memory,
no other one for writing can be made of it. The key is in this memory and in those processes, and nowhere else.

What is stored is a chain and a key, both in DER; `CredentialSlot` writes, `SlotIdentity` reads. One file, because each knows what
the other one does.

Source: fcntl(2), F_SEAL_FUTURE_WRITE; memfd_create(2).
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.crypto.x509 import Credential, PrivateKey, require_match
from enarx.errors import ConfigError, DecodeError, KeepError, PlatformError

__all__ = ["MAX_CREDENTIAL_BYTES", "CredentialSlot", "SlotIdentity"]

MAX_CREDENTIAL_BYTES = 256 << 10
"""Of chain and key together, encoded."""

_HEAD_BYTES = 4096
_DIGEST_BYTES = 32
_PLACE_BYTES = 4 + _DIGEST_BYTES + MAX_CREDENTIAL_BYTES
_PLACE_BYTES += -_PLACE_BYTES % 4096
_SIZE = _HEAD_BYTES + 2 * _PLACE_BYTES
_F_SEAL_FUTURE_WRITE = 0x0010
_ATTEMPTS = 16


class CredentialSlot:
    """The writer's end.

    Attributes:
        fd: of the memory, to be given to those who read; closed by `close`.

    Raises:
        PlatformError: there is no memory for it, or the kernel does not seal it.
    """

    def __init__(self) -> None:
        try:
            self.fd = os.memfd_create("credential", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise PlatformError(f"cannot keep the certificate: {error.strerror}") from error
        try:
            os.ftruncate(self.fd, _SIZE)
            self._memory = mmap.mmap(self.fd, _SIZE)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
        except OSError as error:
            os.close(self.fd)
            raise PlatformError(f"cannot keep the certificate: {error.strerror}") from error
        self._words = memoryview(self._memory).cast("Q")

    def put(self, credential: Credential) -> None:
        """Have a credential shown from now on.

        Raises:
            PlatformError: it is larger than `MAX_CREDENTIAL_BYTES`.
        """
        data = _encode(credential)
        if len(data) > MAX_CREDENTIAL_BYTES:
            raise PlatformError(
                f"cannot keep the certificate: found {len(data)} bytes, want at most {MAX_CREDENTIAL_BYTES}"
            )
        generation = self._words[0] + 1
        start = _place_of(generation)
        record = len(data).to_bytes(4, "little") + _digest(generation, data) + data
        self._memory[start : start + len(record)] = record
        # One aligned store of eight bytes.
        self._words[0] = generation

    def close(self) -> None:
        """Give the memory up; those who have a view of it keep what is there."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)


class SlotIdentity:
    """A reader's end: an `enarx.runtime.identity.Identity` whose credential changes.

    Any number of threads may ask, and processes that are forked go on reading the same memory.

    Args:
        fd: of the memory; it can be closed afterwards.

    Raises:
        PlatformError: it cannot be read, or has another size.
    """

    __slots__ = ("_memory", "_shown", "_words")

    def __init__(self, fd: int) -> None:
        try:
            if os.fstat(fd).st_size != _SIZE:
                raise PlatformError("cannot read the certificate: found memory of another size, want the Keep's")
            self._memory = mmap.mmap(fd, _SIZE, prot=mmap.PROT_READ)
        except OSError as error:
            raise PlatformError(f"cannot read the certificate: {error.strerror}") from error
        self._words = memoryview(self._memory).cast("Q")
        # Together, so that another thread has both or neither.
        self._shown: tuple[int, Credential | None] = (0, None)

    def credential(self) -> Credential:
        """Return the newest credential: the same object as long as it is.

        Raises:
            KeepError: there is none yet, or it is none.
        """
        generation, credential = self._shown
        if generation == self._words[0] and credential is not None:
            return credential
        return self._read()

    def _read(self) -> Credential:
        for _ in range(_ATTEMPTS):
            generation = self._words[0]
            start = _place_of(generation)
            length = int.from_bytes(self._memory[start : start + 4], "little")
            if not generation or length > MAX_CREDENTIAL_BYTES:
                continue
            start += 4
            digest = self._memory[start : start + _DIGEST_BYTES]
            data = self._memory[start + _DIGEST_BYTES : start + _DIGEST_BYTES + length]
            if digest == _digest(generation, data):
                credential = _decode(data)
                self._shown = (generation, credential)
                return credential
        raise KeepError("cannot read the certificate: found none, want the one that the Keep has put there")


def _place_of(generation: int) -> int:
    return _HEAD_BYTES + (generation & 1) * _PLACE_BYTES


def _digest(generation: int, data: bytes) -> bytes:
    return hashlib.sha256(generation.to_bytes(8, "little") + data).digest()


def _encode(credential: Credential) -> bytes:
    key = credential.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encode([key, *(certificate.public_bytes(Encoding.DER) for certificate in credential.chain)])


def _decode(data: bytes) -> Credential:
    """Return what the writer has put there, and make sure that it belongs together."""
    try:
        key_der, *chain_der = decode_untrusted(data, max_bytes=MAX_CREDENTIAL_BYTES, what="credential")
        key = load_der_private_key(key_der, password=None)
        chain = tuple(map(x509.load_der_x509_certificate, chain_der))
        if not chain or not isinstance(key, PrivateKey):
            raise KeepError("cannot read the certificate: found no chain or another kind of key, want both")
        require_match(chain[0], key, path="credential")
    except (ValueError, TypeError, DecodeError, ConfigError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise KeepError("cannot read the certificate: found something else, want a chain and its key") from error
    return Credential(chain=chain, private_key=key)
