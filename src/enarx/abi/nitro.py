# SPDX-License-Identifier: Apache-2.0
"""AWS Nitro attestation documents: a COSE_Sign1 message over a map of claims, of an enclave or of a NitroTPM.

The hypervisor signs one document for each request. Both kinds have the same members but for the name of the measurements:
an enclave's are `pcrs`, a NitroTPM's are `nitrotpm_pcrs`. The certificates are carried along and are not looked into here.

Source: AWS Nitro Enclaves, "Verifying the root of trust" (attestation_process.md); Amazon EC2 user guide, "NitroTPM
Attestation Document contents".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from enarx.crypto.cbor import decode_untrusted
from enarx.crypto.cose import Sign1, encode_sign1, parse_sign1_untrusted
from enarx.errors import DecodeError

__all__ = [
    "DIGEST_BYTES",
    "MAX_CERTIFICATE_BYTES",
    "MAX_DOCUMENT_BYTES",
    "NitroDocument",
    "parse_document_untrusted",
]

# Every member at its limit, with a bundle of eight certificates, is below 16 KiB.
MAX_DOCUMENT_BYTES = 32 << 10
MAX_CERTIFICATE_BYTES = 1024
MAX_BUNDLE = 8
MAX_PCR = 31
# The published limit of `user_data` and `nonce` is 512; the hypervisor signs up to 1024, and so do real documents.
_MAX_OPTIONAL_BYTES = 1024
_MAX_MODULE_ID = 256

DIGEST_BYTES = {"SHA256": 32, "SHA384": 48, "SHA512": 64}

_ENCLAVE = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})
_TPM = _ENCLAVE - {"pcrs"} | {"nitrotpm_pcrs"}
_OPTIONAL = ("public_key", "user_data", "nonce")
_REGISTERS = frozenset(range(MAX_PCR + 1))
_ONLY_BYTES = {bytes}
_ALL_OF_ENCLAVE, _ALL_OF_TPM = _ENCLAVE.union(_OPTIONAL), _TPM.union(_OPTIONAL)
_WHAT = "a Nitro document"


class NitroDocument(NamedTuple):
    """What a Nitro hypervisor says about an enclave or an instance.

    Args:
        message: the signed message it was in.
        module_id: names the instance, and the enclave on it.
        digest: of `DIGEST_BYTES`: with what the measurements were made.
        timestamp_ms: when it was signed, in milliseconds since 1970.
        pcrs: measurements by register, each of the digest's size.
        is_tpm: whether they are a NitroTPM's.
        certificate: of the signing key, in DER.
        cabundle: its issuers in DER, the root's first.
        public_key: what the enclave put there, at most 1024 bytes, or None.
        user_data: likewise.
        nonce: likewise.
    """

    message: Sign1
    module_id: str
    digest: str
    timestamp_ms: int
    pcrs: dict[int, bytes]
    is_tpm: bool
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    def named(self) -> dict[str, object]:
        """Return the claims; registers that are all zero are left out, and `n_pcrs` counts them all."""
        return {
            "module_id": self.module_id,
            "digest": self.digest,
            "timestamp_ms": self.timestamp_ms,
            "pcrs": {str(index): value for index, value in sorted(self.pcrs.items()) if any(value)},
            "n_pcrs": len(self.pcrs),
            "public_key": self.public_key or None,
            "user_data": self.user_data or None,
            "nonce": self.nonce or None,
        }

    def serialise(self) -> bytes:
        """Return the bytes that it was parsed from."""
        return encode_sign1(self.message)


def parse_document_untrusted(data: bytes) -> NitroDocument:
    """Decode a document of either kind without believing it.

    Args:
        data: the COSE_Sign1 message, tagged or not, at most `MAX_DOCUMENT_BYTES`.

    Raises:
        DecodeError: anything else: a member that is missing, unknown, or of another type or size.
    """
    message = parse_sign1_untrusted(data, max_bytes=MAX_DOCUMENT_BYTES, what=_WHAT)
    if message.unprotected:
        raise _refusal("unprotected header", "parameters", "none")
    # The Nitro Security Module's own library writes the map without a length, older ones with it.
    members = decode_untrusted(message.payload, max_bytes=MAX_DOCUMENT_BYTES, what=_WHAT, indefinite=True)
    if type(members) is not dict:
        raise _refusal("payload", type(members).__name__, "a map")
    is_tpm = "nitrotpm_pcrs" in members
    required = _TPM if is_tpm else _ENCLAVE
    if not required <= members.keys():
        raise _refusal("members", f"no {', '.join(sorted(required - members.keys()))}", "all of them")
    if not members.keys() <= (_ALL_OF_TPM if is_tpm else _ALL_OF_ENCLAVE):
        raise _refusal("members", "unknown ones", f"{', '.join(sorted(required))}, {', '.join(_OPTIONAL)}")
    module_id, digest, timestamp_ms = members["module_id"], members["digest"], members["timestamp"]
    if type(module_id) is not str or not 0 < len(module_id) <= _MAX_MODULE_ID:
        raise _refusal("module_id", "another value", f"a text of 1 to {_MAX_MODULE_ID} characters")
    if type(digest) is not str or digest not in DIGEST_BYTES:
        raise _refusal("digest", "another value", f"one of {', '.join(DIGEST_BYTES)}")
    if type(timestamp_ms) is not int or not 0 < timestamp_ms < 1 << 63:
        raise _refusal("timestamp", "another value", "milliseconds since 1970")
    pcrs = members["nitrotpm_pcrs" if is_tpm else "pcrs"]
    if type(pcrs) is not dict or not 0 < len(pcrs) <= MAX_PCR + 1:
        raise _refusal("pcrs", "another value", f"1 to {MAX_PCR + 1} registers")
    size = DIGEST_BYTES[digest]
    values = pcrs.values()
    # Keys of a decoded map are numbers, texts or bytes, of which only numbers equal these.
    if not pcrs.keys() <= _REGISTERS or set(map(type, values)) != _ONLY_BYTES or set(map(len, values)) != {size}:
        raise _refusal("pcrs", "another register", f"0 to {MAX_PCR}, each of {size} bytes")
    certificate, cabundle = members["certificate"], members["cabundle"]
    _require_bytes("certificate", certificate, 1, MAX_CERTIFICATE_BYTES)
    if type(cabundle) is not list or not 0 < len(cabundle) <= MAX_BUNDLE:
        raise _refusal("cabundle", "another value", f"1 to {MAX_BUNDLE} certificates")
    for item in cabundle:
        _require_bytes("cabundle", item, 1, MAX_CERTIFICATE_BYTES)
    for name in _OPTIONAL:
        if members.get(name) is not None:
            _require_bytes(name, members[name], 0, _MAX_OPTIONAL_BYTES)
    return NitroDocument(
        message,
        module_id,
        digest,
        timestamp_ms,
        pcrs,
        is_tpm,
        certificate,
        tuple(cabundle),
        members.get("public_key"),
        members.get("user_data"),
        members.get("nonce"),
    )


def _require_bytes(name: str, value: Any, minimum: int, maximum: int) -> None:
    if type(value) is not bytes or not minimum <= len(value) <= maximum:
        raise _refusal(name, "another value", f"{minimum} to {maximum} bytes")


def _refusal(member: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode {_WHAT}: {member}: found {found}, want {want}")
