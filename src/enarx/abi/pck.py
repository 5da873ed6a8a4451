# SPDX-License-Identifier: Apache-2.0
"""What Intel writes about a platform into its PCK certificate: the SGX extension.

Rules of this file:

- The extension is DER: lengths and numbers have one encoding, and a field twice is an error.
- Fields that Intel may add are skipped; those that are known must be there, except what only platforms with several packages
  have.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification 1.5, section 1.3.5.
"""

from __future__ import annotations

from typing import NamedTuple

from enarx.errors import DecodeError

__all__ = ["SGX_EXTENSION_OID", "SGX_TYPES", "PckExtension", "parse_pck_extension_untrusted"]

SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"
SGX_TYPES = ("Standard", "Scalable", "ScalableWithIntegrity")
"""How memory is protected, by the number in the certificate."""

_MAX_BYTES = 4096
_PREFIX = bytes.fromhex("2a864886f84d010d01")
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_COMPONENTS = 16
_PCE_SVN, _CPU_SVN = 17, 18
_DYNAMIC, _CACHED_KEYS, _SMT = 1, 2, 3
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


class PckExtension(NamedTuple):
    """A platform, as Intel certified it.

    Args:
        ppid: 16 bytes, the platform provisioning id.
        components: the 16 SVNs of the platform's TCB.
        pce_svn: of the provisioning certification enclave.
        cpu_svn: 16 bytes.
        pce_id: 2 bytes.
        fmspc: 6 bytes: family, model, stepping, platform and custom SKU.
        sgx_type: one of `SGX_TYPES`.
        platform_instance_id: 16 bytes, or None where a platform has one package only; so for all that follow.
        dynamic_platform: whether packages can be added after its registration.
        cached_keys: whether Intel keeps the platform's root keys.
        smt_enabled: whether simultaneous multithreading is on.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: str
    platform_instance_id: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


def parse_pck_extension_untrusted(value: bytes) -> PckExtension:
    """Decode the content of the extension without believing it.

    Args:
        value: DER, at most 4096 bytes.

    Raises:
        DecodeError: not DER, or a field that is missing, there twice, or out of range.
    """
    if len(value) > _MAX_BYTES:
        raise _bad("size", f"{len(value)} bytes", f"at most {_MAX_BYTES}")
    tag, content, rest = _take(value)
    if tag != _SEQUENCE or rest:
        raise _bad("the outermost value", f"tag {tag:#04x}", "one SEQUENCE")
    fields = _read_fields(content, _PREFIX)
    tcb = _read_fields(_typed(fields, _TCB, _SEQUENCE), _PREFIX + bytes([_TCB]))
    configuration: dict[int, tuple[int, bytes]] = {}
    if _CONFIGURATION in fields:
        configuration = _read_fields(_typed(fields, _CONFIGURATION, _SEQUENCE), _PREFIX + bytes([_CONFIGURATION]))
    sgx_type = _number(fields, _SGX_TYPE, len(SGX_TYPES) - 1, tag=_ENUMERATED)
    return PckExtension(
        ppid=_octets(fields, _PPID, 16),
        components=tuple(_number(tcb, index, 0xFF) for index in range(1, _COMPONENTS + 1)),
        pce_svn=_number(tcb, _PCE_SVN, 0xFFFF),
        cpu_svn=_octets(tcb, _CPU_SVN, 16),
        pce_id=_octets(fields, _PCE_ID, 2),
        fmspc=_octets(fields, _FMSPC, 6),
        sgx_type=SGX_TYPES[sgx_type],
        platform_instance_id=_octets(fields, _INSTANCE, 16) if _INSTANCE in fields else None,
        dynamic_platform=_boolean(configuration, _DYNAMIC),
        cached_keys=_boolean(configuration, _CACHED_KEYS),
        smt_enabled=_boolean(configuration, _SMT),
    )


def _read_fields(content: bytes, prefix: bytes) -> dict[int, tuple[int, bytes]]:
    """Return tag and content of each field by the last number of its object identifier."""
    fields: dict[int, tuple[int, bytes]] = {}
    while content:
        tag, field, content = _take(content)
        if tag != _SEQUENCE:
            raise _bad("a field", f"tag {tag:#04x}", "a SEQUENCE")
        tag, oid, rest = _take(field)
        if tag != _OID:
            raise _bad("a field's name", f"tag {tag:#04x}", "an OBJECT IDENTIFIER")
        value_tag, value, rest = _take(rest)
        if rest:
            raise _bad("a field", "more than a name and a value", "no more")
        # Names of one byte after the prefix are all that there are; what has another one is not ours to read.
        if oid[:-1] == prefix and oid[-1] < 0x80:
            if oid[-1] in fields:
                raise _bad(f"field {oid[-1]}", "it twice", "it once")
            fields[oid[-1]] = (value_tag, value)
    return fields


def _take(data: bytes) -> tuple[int, bytes, bytes]:
    """Split off the first value: its tag, its content, and what follows."""
    if len(data) < 2:
        raise _bad("a value", "its end", "a tag and a length")
    tag, length, start = data[0], data[1], 2
    if length >= 0x80:
        octets = length & 0x7F
        start += octets
        length = int.from_bytes(data[2:start], "big")
        if not 1 <= octets <= 2 or len(data) < start or length < (0x80 if octets == 1 else 0x100):
            raise _bad("a length", data[1:start].hex(), "the shortest form, at most two bytes")
    end = start + length
    if len(data) < end:
        raise _bad("a value", f"{len(data) - start} bytes", f"{length}")
    return tag, data[start:end], data[end:]


def _typed(fields: dict[int, tuple[int, bytes]], name: int, tag: int) -> bytes:
    found = fields.get(name)
    if found is None:
        raise _bad(f"field {name}", "none", "it")
    if found[0] != tag:
        raise _bad(f"field {name}", f"tag {found[0]:#04x}", f"tag {tag:#04x}")
    return found[1]


def _octets(fields: dict[int, tuple[int, bytes]], name: int, size: int) -> bytes:
    value = _typed(fields, name, _OCTETS)
    if len(value) != size:
        raise _bad(f"field {name}", f"{len(value)} bytes", f"{size}")
    return value


def _number(fields: dict[int, tuple[int, bytes]], name: int, maximum: int, *, tag: int = _INTEGER) -> int:
    value = _typed(fields, name, tag)
    number = int.from_bytes(value, "big", signed=True)
    if not value or not 0 <= number <= maximum or len(value) != number.bit_length() // 8 + 1:
        raise _bad(f"field {name}", value.hex() or "an empty number", f"0 to {maximum} in the shortest form")
    return number


def _boolean(fields: dict[int, tuple[int, bytes]], name: int) -> bool | None:
    if name not in fields:
        return None
    value = _typed(fields, name, _BOOLEAN)
    if value not in {b"\x00", b"\xff"}:
        raise _bad(f"field {name}", value.hex() or "empty", "00 or ff")
    return value == b"\xff"


def _bad(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the SGX extension of a PCK certificate: {what}: found {found}, want {want}")
