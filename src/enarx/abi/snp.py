# SPDX-License-Identifier: Apache-2.0
"""AMD SEV-SNP: the attestation report, its TCB versions, the certificate table and what VCEK and VLEK certificates say.

Rules of this file:

- A report is one fixed structure of 1184 bytes. All of it is kept, reserved bytes too, so writing gives back what was read,
  and whether the reserved bytes are zero can be judged with everything else.
- Versions 2, 3 and 5 are known. Version 3 adds the processor's CPUID, version 5 the mitigation vectors; any other version is
  a layout nobody has described and is not read.
- A TCB version is eight bytes. Which byte is which component depends on the product: Turin has a component more, and the
  others in other places.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI (revisions 1.55 to 1.58), AMD 56421 GHCB, AMD 57230 VCEK Certificate and KDS
Interface.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from enarx.errors import DecodeError

__all__ = [
    "ARK_GUID",
    "ASK_GUID",
    "CHIP_ID_BYTES",
    "CRL_GUID",
    "GUEST_POLICY_BITS",
    "HWID_OID",
    "MAX_TABLE_ENTRIES",
    "PLATFORM_INFO_BITS",
    "PRODUCTS",
    "REPORT_BYTES",
    "SIGNED_BYTES",
    "TCB_LAYOUTS",
    "VCEK_GUID",
    "VEK_OIDS",
    "VERSIONS",
    "VLEK_GUID",
    "SnpReport",
    "VekClaims",
    "line_of",
    "parse_certificate_table_untrusted",
    "parse_report_untrusted",
    "parse_sev_crate_certificates_untrusted",
    "parse_vek_extensions_untrusted",
    "product_of_cpuid",
    "serialise_certificate_table",
    "serialise_vek_extensions",
    "tcb_components",
]

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
CHIP_ID_BYTES = 64
VERSIONS = (2, 3, 5)

GUEST_POLICY_BITS: Mapping[str, int] = {
    "smt": 16,
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding_dram": 24,
    "page_swap_disable": 25,
}
"""The bits of POLICY above the ABI version. Spec: AMD 56860 table 10."""

PLATFORM_INFO_BITS: Mapping[str, int] = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl_dis": 3,
    "ciphertext_hiding_dram": 4,
    "alias_check_complete": 5,
    "tio": 7,
}
"""The bits of PLATFORM_INFO that have a public name; bit 6 is set by Turin and has none. Spec: AMD 56860 table 24."""

_POLICY_MUST_BE_ONE = 1 << 17
_POLICY_MUST_BE_ZERO = ~((1 << 26) - 1)
_KEY_INFO_MUST_BE_ZERO = ~0b11111

_CLASSIC = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}

PRODUCTS: Mapping[str, str] = {
    "Milan": "Milan",
    "Genoa": "Genoa",
    "Bergamo": "Genoa",
    "Siena": "Genoa",
    "Turin": "Turin",
}
"""The line whose ARK signs for a product, by product. Bergamo and Siena share a CPUID model; it is called Siena here."""

TCB_LAYOUTS: Mapping[str, Mapping[str, int]] = {
    "Milan": _CLASSIC,
    "Genoa": _CLASSIC,
    "Bergamo": _CLASSIC,
    "Siena": _CLASSIC,
    "Turin": _TURIN,
}
"""Where each component of a TCB version is, by product. Spec: AMD 56860 tables 3 and 4."""

_RESERVED_CLASSIC = slice(2, 6)
_RESERVED_TURIN = slice(4, 7)

_REPORT = struct.Struct(
    "<IIQ16s16sII8sQI4s64s48s32s48s48s32s32s8sBBB21s64s8sBBBBBBBB8sQQ152s48s24s48s24s368s",
)
_VERSION = struct.Struct("<I")


class SnpReport(NamedTuple):
    """ATTESTATION_REPORT, field by field in its own order, reserved bytes under the offset they are at.

    Numbers are little-endian in the report. TCB versions stay the eight bytes that they are, because their components depend on
    the product: see `tcb_components`. `signature_r` and `signature_s` are little-endian too.

    Spec: AMD 56860 table 23.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algo: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    reserved_4c: bytes
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid_family: int
    cpuid_model: int
    cpuid_stepping: int
    reserved_18b: bytes
    chip_id: bytes
    committed_tcb: bytes
    current_build: int
    current_minor: int
    current_major: int
    reserved_1eb: int
    committed_build: int
    committed_minor: int
    committed_major: int
    reserved_1ef: int
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    reserved_208: bytes
    signature_r: bytes
    reserved_2d0: bytes
    signature_s: bytes
    reserved_318: bytes
    reserved_330: bytes

    def serialise(self) -> bytes:
        """Return the report's 1184 bytes."""
        return _REPORT.pack(*self)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return _REPORT.pack(*self)[:SIGNED_BYTES]

    @property
    def signing_key(self) -> str:
        """Which key signed, by the report's own flag: `VCEK`, `VLEK`, `none`, or `unknown`."""
        return _SIGNING_KEYS.get(self.key_info >> 2 & 7, "unknown")

    @property
    def product(self) -> str | None:
        """The product by CPUID; None before version 3, which has none, and where the CPUID is of no known product."""
        return product_of_cpuid(self.cpuid_family, self.cpuid_model) if self.version >= 3 else None

    @property
    def reserved_fields(self) -> frozenset[str]:
        """Return which of the fields that must be zero (for bit 17 of POLICY: one) are not."""
        # One comparison for what every genuine report has.
        if (
            not self.reserved_4c.strip(b"\0")
            and self[-1] == _ZEROS_368
            and self.reserved_208 == _ZEROS_152
            and self.reserved_2d0 == self.reserved_318 == _ZEROS_24
            and self.reserved_18b == _ZEROS_21
            and not self.reserved_1eb
            and not self.reserved_1ef
            and self.policy & (_POLICY_MUST_BE_ONE | _POLICY_MUST_BE_ZERO) == _POLICY_MUST_BE_ONE
            and not self.key_info & _KEY_INFO_MUST_BE_ZERO
            and (self.version >= 5 or not (self.launch_mit_vector or self.current_mit_vector))
            and (self.version >= 3 or not (self.cpuid_family or self.cpuid_model or self.cpuid_stepping))
        ):
            return _NOTHING
        return self._name_reserved_fields()

    def _name_reserved_fields(self) -> frozenset[str]:
        names = {name for name in _RESERVED_NAMES if (value := getattr(self, name)) and any(_as_bytes(value))}
        if not self.policy & _POLICY_MUST_BE_ONE or self.policy & _POLICY_MUST_BE_ZERO:
            names.add("policy")
        if self.key_info & _KEY_INFO_MUST_BE_ZERO:
            names.add("key_info")
        if self.version < 5 and (self.launch_mit_vector or self.current_mit_vector):
            names.add("mitigation vectors")
        if self.version < 3 and (self.cpuid_family or self.cpuid_model or self.cpuid_stepping):
            names.add("cpuid")
        return frozenset(names)


_SIGNING_KEYS = {0: "VCEK", 1: "VLEK", 7: "none"}
_RESERVED_NAMES = tuple(name for name in SnpReport._fields if name.startswith("reserved_"))
_NOTHING: frozenset[str] = frozenset()
_ZEROS_21, _ZEROS_24, _ZEROS_152, _ZEROS_368 = bytes(21), bytes(24), bytes(152), bytes(368)


def _as_bytes(value: bytes | int) -> bytes:
    return bytes((value,)) if isinstance(value, int) else value


def parse_report_untrusted(data: bytes) -> SnpReport:
    """Decode an attestation report without believing it.

    Args:
        data: 1184 bytes.

    Raises:
        DecodeError: another size, or a version other than 2, 3 and 5.

    Spec: AMD 56860 table 23.
    """
    if len(data) != REPORT_BYTES:
        raise DecodeError(
            f"cannot decode an SEV-SNP report: size: found {len(data)} bytes, want {REPORT_BYTES}",
            hint="pass the report as the firmware wrote it",
        )
    version = _VERSION.unpack_from(data)[0]
    if version not in VERSIONS:
        raise DecodeError(f"cannot decode an SEV-SNP report: version: found {version}, want 2, 3 or 5")
    return SnpReport._make(_REPORT.unpack(data))


def product_of_cpuid(family: int, model: int) -> str | None:
    """Return the product with a CPUID family and model, both with their extended parts, or None for one not known.

    Spec: AMD 57230, table of products.
    """
    if family == 0x19:
        return {0x0: "Milan", 0x1: "Genoa", 0xA: "Siena"}.get(model >> 4)
    if family == 0x1A and model < 0x20:
        return "Turin"
    return None


def line_of(product: str) -> str | None:
    """Return the line whose ARK signs for a product, as VEK certificates write it (`Milan-B0`), or None for one not known."""
    return PRODUCTS.get(product.partition("-")[0])


def tcb_components(tcb: bytes, product: str | None) -> dict[str, int] | None:
    """Return a TCB version's components by name, or None where the product is not known.

    Args:
        tcb: 8 bytes.
        product: of `TCB_LAYOUTS`.
    """
    layout = TCB_LAYOUTS.get(product) if product is not None else None
    if layout is None:
        return None
    return {name: tcb[position] for name, position in layout.items()}


# The certificate table.

VCEK_GUID = "63da758d-e664-4564-adc5-f4b93be8accd"
VLEK_GUID = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
ASK_GUID = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
ARK_GUID = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
CRL_GUID = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"

MAX_TABLE_ENTRIES = 64
_MAX_TABLE_BYTES = 1 << 20
_ENTRY = struct.Struct("<16sII")
_END = bytes(_ENTRY.size)


def parse_certificate_table_untrusted(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Decode the certificate table that an extended report brings.

    Args:
        data: the table from its first entry, at most 1 MiB; what follows the last certificate is page padding.

    Returns:
        GUID in lower case and content of each entry, in their order.

    Raises:
        DecodeError: not a table: no end, more than `MAX_TABLE_ENTRIES`, content that is empty or not inside, the same GUID twice.

    Spec: AMD 56421 section 4.1.8.1, MSG_REPORT_REQ and its certificate data.
    """
    if len(data) > _MAX_TABLE_BYTES:
        raise _bad_table(f"{len(data)} bytes", f"at most {_MAX_TABLE_BYTES}")
    headers: list[tuple[str, int, int]] = []
    position = 0
    while True:
        entry = data[position : position + _ENTRY.size]
        if len(entry) != _ENTRY.size:
            raise _bad_table("no last entry of zeros", "one")
        position += _ENTRY.size
        if entry == _END:
            break
        if len(headers) == MAX_TABLE_ENTRIES:
            raise _bad_table(f"more than {MAX_TABLE_ENTRIES} entries", "less")
        guid, offset, size = _ENTRY.unpack(entry)
        headers.append((_guid_text(guid), offset, size))
    entries: dict[str, bytes] = {}
    for guid, offset, size in headers:
        if not (position <= offset and size and offset + size <= len(data)):
            raise _bad_table(
                f"{guid} at {offset} with {size} bytes", f"it between the entries' end, {position}, and {len(data)}"
            )
        if guid in entries:
            raise _bad_table(f"{guid} twice", "it once")
        entries[guid] = data[offset : offset + size]
    return tuple(entries.items())


def _guid_text(guid: bytes) -> str:
    # The `uuid` module takes longer to load than all of this file.
    digits = guid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def serialise_certificate_table(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the certificate table with these entries, GUID and content, as the host hands it to a guest."""
    entries = tuple(entries)
    offset = (len(entries) + 1) * _ENTRY.size
    head, body = bytearray(), bytearray()
    for guid, content in entries:
        head += _ENTRY.pack(bytes.fromhex(guid.replace("-", "")), offset + len(body), len(content))
        body += content
    return bytes(head + _END + body)


def parse_sev_crate_certificates_untrusted(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Decode certificates as tools built on the `sev` crate append them to a report: a count, then kind, size and content of each.

    Kinds are numbers that changed between releases of that crate, and a GUID follows some of them; so what an entry is has
    to be told from its content.

    Args:
        data: what follows the report, nothing after the last certificate.

    Returns:
        GUID, or an empty text where there is none, and content of each entry.

    Raises:
        DecodeError: anything else.
    """
    reader = _Reader(data)
    count = reader.number(8)
    if not 0 < count <= MAX_TABLE_ENTRIES:
        raise _bad_table(f"{count} entries", f"1 to {MAX_TABLE_ENTRIES}")
    entries = []
    for _ in range(count):
        kind, size, guid = reader.number(4), reader.number(8), ""
        if kind > 16:
            raise _bad_table(f"kind {kind}", "at most 16")
        if size == 16:  # No certificate is that small: it is a GUID.
            guid, size = _guid_text(reader.take(16)), reader.number(8)
        if not size:
            raise _bad_table("an empty entry", "a certificate")
        entries.append((guid, reader.take(size)))
    if reader.position != len(data):
        raise _bad_table(f"{len(data) - reader.position} bytes after the last entry", "none")
    return tuple(entries)


class _Reader:
    """A position in foreign bytes."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) != size:
            raise _bad_table(f"an end after {len(self.data)} bytes", f"{size - len(taken)} more")
        self.position += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def _bad_table(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the certificate table: found {found}, want {want}")


# What VCEK and VLEK certificates say.

_ARC = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION, _PRODUCT_NAME, HWID_OID, _CSP_ID = f"{_ARC}.1", f"{_ARC}.2", f"{_ARC}.4", f"{_ARC}.5"
_SPLS = {
    "bootloader": f"{_ARC}.3.1",
    "tee": f"{_ARC}.3.2",
    "snp": f"{_ARC}.3.3",
    "spl4": f"{_ARC}.3.4",
    "spl5": f"{_ARC}.3.5",
    "spl6": f"{_ARC}.3.6",
    "spl7": f"{_ARC}.3.7",
    "microcode": f"{_ARC}.3.8",
    "fmc": f"{_ARC}.3.9",
}
_ORDER_CLASSIC = ("bootloader", "tee", "spl4", "spl5", "spl6", "spl7", "snp", "microcode")
_ORDER_TURIN = ("fmc", "bootloader", "tee", "snp", "spl5", "spl6", "spl7", "microcode")
_MAY_LACK = frozenset({"spl4", "spl5", "spl6", "spl7"})

VEK_OIDS = frozenset({_STRUCT_VERSION, _PRODUCT_NAME, HWID_OID, _CSP_ID, *_SPLS.values()})
"""The extensions of VCEK and VLEK certificates, dotted. Spec: AMD 57230 section 3.1."""

_STRING_TAGS = (0x16, 0x0C, 0x13)  # IA5String, which AMD writes, UTF8String, PrintableString
_MAX_STRING_BYTES = 127


class VekClaims(NamedTuple):
    """What the extensions of a VCEK or VLEK certificate say.

    Args:
        kind: `VCEK` or `VLEK`.
        product: as AMD writes it: `Milan-B0`, `Genoa`, `Turin`.
        struct_version: of the extensions.
        tcb: the TCB version that the key was derived for, laid out as REPORTED_TCB is; 8 bytes.
        has_fmc: whether the layout is Turin's.
        hwid: which chip, 64 bytes, 8 for Turin; None for a VLEK.
        csp_id: which cloud provider; None for a VCEK.

    Spec: AMD 57230 section 3.1.
    """

    kind: str
    product: str
    struct_version: int
    tcb: bytes
    has_fmc: bool
    hwid: bytes | None
    csp_id: str | None

    @property
    def chip_id(self) -> bytes | None:
        """What CHIP_ID of this chip's reports is, 64 bytes; None for a VLEK."""
        return self.hwid.ljust(CHIP_ID_BYTES, b"\0") if self.hwid is not None else None


def parse_vek_extensions_untrusted(values: Mapping[str, bytes]) -> VekClaims:
    """Decode the extensions of a VCEK or VLEK certificate without believing them.

    Args:
        values: extension values by dotted object identifier; others than `VEK_OIDS` are ignored.

    Raises:
        DecodeError: one is missing or not well formed, or both or none of chip and provider are named.
    """
    has_fmc = _SPLS["fmc"] in values
    spls = {name: _read_spl(values, oid, name) for name, oid in _SPLS.items() if name != "fmc" or has_fmc}
    if has_fmc and spls["spl4"]:
        raise _bad_vek("spl4", f"found {spls['spl4']}", "none beside fmc")
    hwid, csp_id = values.get(HWID_OID), values.get(_CSP_ID)
    if (hwid is None) == (csp_id is None):
        found = "found neither" if hwid is None else "found both"
        raise _bad_vek("hwID and cspID", found, "one of them")
    return VekClaims(
        kind="VLEK" if hwid is None else "VCEK",
        product=_read_string(values, _PRODUCT_NAME, "productName"),
        struct_version=_read_integer(values.get(_STRUCT_VERSION), "structVersion"),
        tcb=bytes(spls[name] for name in (_ORDER_TURIN if has_fmc else _ORDER_CLASSIC)),
        has_fmc=has_fmc,
        hwid=None if hwid is None else _read_hwid(hwid, 8 if has_fmc else CHIP_ID_BYTES),
        csp_id=None if csp_id is None else _read_string(values, _CSP_ID, "cspID"),
    )


def serialise_vek_extensions(claims: VekClaims) -> tuple[tuple[str, bytes], ...]:
    """Return object identifier and value of each extension, in AMD's order, as AMD writes them."""
    names = _ORDER_TURIN if claims.has_fmc else _ORDER_CLASSIC
    extensions = [
        (_STRUCT_VERSION, _write_integer(claims.struct_version)),
        (_PRODUCT_NAME, _write_string(claims.product)),
    ]
    extensions += [(_SPLS[name], _write_integer(claims.tcb[at])) for at, name in enumerate(names)]
    if claims.hwid is not None:
        extensions.append((HWID_OID, claims.hwid))
    if claims.csp_id is not None:
        extensions.append((_CSP_ID, _write_string(claims.csp_id)))
    return tuple(extensions)


def _read_spl(values: Mapping[str, bytes], oid: str, name: str) -> int:
    if name in _MAY_LACK and oid not in values:
        return 0
    return _read_integer(values.get(oid), name)


def _read_integer(value: bytes | None, name: str) -> int:
    """Return an INTEGER from 0 to 255 in its only DER form."""
    if value is not None and value[:1] == b"\x02":
        if len(value) == 3 and value[1] == 1 and value[2] < 0x80:
            return value[2]
        if len(value) == 4 and value[1] == 2 and value[2] == 0 and value[3] >= 0x80:
            return value[3]
    raise _bad_vek(name, _shown(value), "an INTEGER from 0 to 255 in DER")


def _read_string(values: Mapping[str, bytes], oid: str, name: str) -> str:
    value = values.get(oid)
    if (
        value is not None
        and 2 < len(value) <= 2 + _MAX_STRING_BYTES
        and value[0] in _STRING_TAGS
        and value[1] == len(value) - 2
        and all(0x20 <= octet < 0x7F for octet in value[2:])
    ):
        return value[2:].decode("ascii")
    raise _bad_vek(name, _shown(value), "a short text in DER")


def _read_hwid(value: bytes, size: int) -> bytes:
    """Return the chip's id, which AMD writes bare and others inside an OCTET STRING."""
    if len(value) == size + 2 and value[0] == 0x04 and value[1] == size:
        return value[2:]
    # A chip id of either size is compared in full, so which of them a product has needs no table here.
    if len(value) in {8, CHIP_ID_BYTES}:
        return value
    raise _bad_vek("hwID", f"found {len(value)} bytes", f"{size}")


def _write_integer(value: int) -> bytes:
    return bytes((2, 1, value)) if value < 0x80 else bytes((2, 2, 0, value))


def _write_string(value: str) -> bytes:
    return bytes((_STRING_TAGS[0], len(value))) + value.encode("ascii")


def _shown(value: bytes | None) -> str:
    return "found none" if value is None else f"found {value[:16].hex() or 'nothing'}"


def _bad_vek(name: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode a VCEK or VLEK certificate: {name}: {found}, want {want}")
