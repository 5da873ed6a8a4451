# SPDX-License-Identifier: Apache-2.0
"""TPM 2.0 structures: quotes, signatures, public areas, PCR selections, and tpm2-tools' file of PCR values.

Rules of this file:

- A TPM marshals big-endian; tpm2-tools' PCR file is a dump of C structures, little-endian. Both are here, apart.
- `_Reader` owns every bound: nothing is sliced without it, and each count has a maximum before anything is repeated.
- It knows no key, hash or digest computation: a public area becomes numbers, and `enarx.verifier.tpm` makes a key of them.

Spec: TCG TPM 2.0 Library, Part 2 (Structures), revision 1.59.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from enarx.errors import DecodeError

__all__ = [
    "ALG_ECDSA",
    "ALG_RSAPSS",
    "ALG_RSASSA",
    "DIGEST_SIZES",
    "HASHES",
    "MAX_PCR",
    "TPM_ALG",
    "Attest",
    "Public",
    "Selection",
    "Signature",
    "parse_attest_untrusted",
    "parse_pcr_file_untrusted",
    "parse_public_untrusted",
    "parse_signature_untrusted",
    "serialise_attest",
    "serialise_pcr_file",
    "serialise_public",
    "serialise_signature",
]

MAX_STRUCTURE_BYTES: Final = 4096
MAX_PCR: Final = 23
"""PCRs above this exist in no TPM profile."""

TPM_ALG: Final[Mapping[int, str]] = {
    0x0004: "sha1",
    0x000B: "sha256",
    0x000C: "sha384",
    0x000D: "sha512",
    0x0012: "sm3_256",
    0x0027: "sha3_256",
    0x0028: "sha3_384",
    0x0029: "sha3_512",
}
"""Hash algorithms by their TPM_ALG_ID, by the names of the Linux kernel and of `hashlib`."""

HASHES: Final[Mapping[str, int]] = {name: number for number, name in TPM_ALG.items()}
DIGEST_SIZES: Final[Mapping[str, int]] = {
    "sha1": 20,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "sm3_256": 32,
    "sha3_256": 32,
    "sha3_384": 48,
    "sha3_512": 64,
}

ALG_RSA: Final = 0x0001
ALG_ECC: Final = 0x0023
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAPSS: Final = 0x0016
ALG_ECDSA: Final = 0x0018
_SCHEMES: Final[Mapping[int, str]] = {ALG_RSASSA: "rsassa", ALG_RSAPSS: "rsapss", ALG_ECDSA: "ecdsa"}
_CURVES: Final[Mapping[int, str]] = {0x0003: "secp256r1", 0x0004: "secp384r1", 0x0005: "secp521r1"}
_CURVE_SIZES: Final[Mapping[str, int]] = {"secp256r1": 32, "secp384r1": 48, "secp521r1": 66}

GENERATED: Final = 0xFF544347
ST_ATTEST_QUOTE: Final = 0x8018
_MAX_DATA: Final = 66
_MAX_BANKS: Final = 16
_MAX_SELECT: Final = 4
_MAX_KEY_BYTES: Final = 1024


class Selection(NamedTuple):
    """PCRs of one bank: TPMS_PCR_SELECTION.

    Args:
        bank: a name of `TPM_ALG`.
        pcrs: indices, ascending.
        size: how many bytes the bitmap has.
    """

    bank: str
    pcrs: tuple[int, ...]
    size: int = 3


class Attest(NamedTuple):
    """TPMS_ATTEST with a TPMS_QUOTE_INFO.

    Args:
        qualified_signer: the signing key's qualified name, up to 66 bytes.
        extra_data: the caller's nonce, up to 66 bytes.
        clock: milliseconds.
        reset_count: TPM resets.
        restart_count: TPM restarts and resumes.
        safe: whether no later value of the clock was ever reported.
        firmware: vendor's version, 8 bytes.
        selections: which PCRs.
        pcr_digest: of their concatenated values, in the order of the selections.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: bytes
    selections: tuple[Selection, ...]
    pcr_digest: bytes


class Signature(NamedTuple):
    """TPMT_SIGNATURE.

    Args:
        scheme: `rsassa`, `rsapss` or `ecdsa`.
        hash: a name of `TPM_ALG`.
        values: the signature, or r and s; big-endian.
    """

    scheme: str
    hash: str
    values: tuple[bytes, ...]


class Public(NamedTuple):
    """TPMT_PUBLIC of a key.

    Args:
        kind: `rsa` or `ecc`.
        name_hash: a name of `TPM_ALG`.
        attributes: TPMA_OBJECT.
        policy: authorisation policy digest, which may be empty.
        symmetric: TPMT_SYM_DEF_OBJECT as (algorithm, key bits, mode), zero where it has none.
        scheme: TPM_ALG_ID of the signing scheme, or `ALG_NULL`.
        scheme_hash: TPM_ALG_ID of its hash, or 0.
        kdf: TPM_ALG_ID; ECC only, else `ALG_NULL`.
        bits: of an RSA key, else 0.
        exponent: of an RSA key, 0 for 65537, else 0.
        curve: of an ECC key, else empty.
        values: the modulus, or x and y; big-endian.
    """

    kind: str
    name_hash: str
    attributes: int
    policy: bytes
    symmetric: tuple[int, int, int]
    scheme: int
    scheme_hash: int
    kdf: int
    bits: int
    exponent: int
    curve: str
    values: tuple[bytes, ...]

    @property
    def words(self) -> frozenset[str]:
        """The attributes that are set, by their TCG names in snake case."""
        return frozenset(name for bit, name in _ATTRIBUTES.items() if self.attributes >> bit & 1)


_ATTRIBUTES: Final[Mapping[int, str]] = {
    1: "fixed_tpm",
    2: "st_clear",
    4: "fixed_parent",
    5: "sensitive_data_origin",
    6: "user_with_auth",
    7: "admin_with_policy",
    10: "no_da",
    11: "encrypted_duplication",
    16: "restricted",
    17: "decrypt",
    18: "sign",
    19: "x509_sign",
}


class _Reader:
    """Takes big-endian values off a buffer."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE_BYTES:
            raise DecodeError(
                f"cannot decode the {what}: size: found {len(data)} bytes, want at most {MAX_STRUCTURE_BYTES}"
            )
        self._data, self._what, self._at = data, what, 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError(f"cannot decode the {self._what}: found {len(self._data)} bytes, want at least {end}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, maximum: int) -> bytes:
        """Take a TPM2B: two bytes of size, then that many."""
        size = self.number(2)
        if size > maximum:
            raise self.refuse("size of a field", size, f"at most {maximum}")
        return self.take(size)

    def hash(self) -> str:
        number = self.number(2)
        name = TPM_ALG.get(number)
        if name is None:
            raise self.refuse("hash algorithm", hex(number), "a known one")
        return name

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.refuse("size", f"{len(self._data)} bytes", f"{self._at}")

    def refuse(self, subject: str, found: object, wanted: str) -> DecodeError:
        return DecodeError(f"cannot decode the {self._what}: {subject}: found {found}, want {wanted}")


def parse_attest_untrusted(data: bytes) -> Attest:
    """Decode a quote's TPMS_ATTEST without believing it.

    Raises:
        DecodeError: anything else, also an attestation of another kind than a quote.

    Spec: TPM 2.0 Part 2, 10.12.12.
    """
    reader = _Reader(data, "TPM quote")
    magic = reader.number(4)
    if magic != GENERATED:
        raise reader.refuse("magic", f"{magic:#010x}", f"{GENERATED:#010x}, a structure that the TPM made itself")
    kind = reader.number(2)
    if kind != ST_ATTEST_QUOTE:
        raise reader.refuse("type", f"{kind:#06x}", f"{ST_ATTEST_QUOTE:#06x}, a quote")
    signer, extra = reader.sized(_MAX_DATA), reader.sized(_MAX_DATA)
    clock, resets, restarts, safe = reader.number(8), reader.number(4), reader.number(4), reader.number(1)
    if safe > 1:
        raise reader.refuse("clock safe", safe, "0 or 1")
    firmware = reader.take(8)
    selections = _selections(reader)
    digest = reader.sized(64)
    reader.end()
    return Attest(signer, extra, clock, resets, restarts, bool(safe), firmware, selections, digest)


def _selections(reader: _Reader) -> tuple[Selection, ...]:
    count = reader.number(4)
    if count > _MAX_BANKS:
        raise reader.refuse("PCR banks", count, f"at most {_MAX_BANKS}")
    found = []
    for _ in range(count):
        bank, size = reader.hash(), reader.number(1)
        if size > _MAX_SELECT:
            raise reader.refuse("PCR bitmap", f"{size} bytes", f"at most {_MAX_SELECT}")
        found.append(Selection(bank, _indices(reader, reader.take(size)), size))
    return tuple(found)


def _indices(reader: _Reader, bitmap: bytes) -> tuple[int, ...]:
    bits = int.from_bytes(bitmap, "little")
    if bits >> (MAX_PCR + 1):
        raise reader.refuse("PCR", bits.bit_length() - 1, f"at most {MAX_PCR}")
    return tuple(index for index in range(MAX_PCR + 1) if bits >> index & 1)


def serialise_attest(attest: Attest) -> bytes:
    """Encode a quote as the TPM does."""
    head = struct.pack(">IH", GENERATED, ST_ATTEST_QUOTE) + _sized(attest.qualified_signer) + _sized(attest.extra_data)
    clock = struct.pack(">QIIB", attest.clock, attest.reset_count, attest.restart_count, attest.safe)
    banks = struct.pack(">I", len(attest.selections)) + b"".join(
        struct.pack(">HB", HASHES[each.bank], each.size) + _bitmap(each) for each in attest.selections
    )
    return head + clock + attest.firmware + banks + _sized(attest.pcr_digest)


def _bitmap(selection: Selection) -> bytes:
    return sum(1 << index for index in selection.pcrs).to_bytes(selection.size, "little")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def parse_signature_untrusted(data: bytes) -> Signature:
    """Decode a TPMT_SIGNATURE without believing it.

    Raises:
        DecodeError: anything else, also a scheme other than RSASSA, RSAPSS and ECDSA.

    Spec: TPM 2.0 Part 2, 11.3.4.
    """
    reader = _Reader(data, "TPM signature")
    number = reader.number(2)
    scheme = _SCHEMES.get(number)
    if scheme is None:
        raise reader.refuse("scheme", hex(number), "RSASSA, RSAPSS or ECDSA")
    digest = reader.hash()
    values = tuple(reader.sized(_MAX_KEY_BYTES) for _ in range(2 if scheme == "ecdsa" else 1))
    reader.end()
    return Signature(scheme, digest, values)


def serialise_signature(signature: Signature) -> bytes:
    """Encode a signature as the TPM does."""
    scheme = next(number for number, name in _SCHEMES.items() if name == signature.scheme)
    return struct.pack(">HH", scheme, HASHES[signature.hash]) + b"".join(_sized(value) for value in signature.values)


def parse_public_untrusted(data: bytes) -> Public:
    """Decode the public area of a key, TPMT_PUBLIC or TPM2B_PUBLIC, without believing it.

    Raises:
        DecodeError: anything else, also a key that is neither RSA nor ECC.

    Spec: TPM 2.0 Part 2, 12.2.4.
    """
    reader = _Reader(data, "TPM public area")
    number = reader.number(2)
    if number == len(data) - 2:
        number = reader.number(2)
    if number not in {ALG_RSA, ALG_ECC}:
        raise reader.refuse("type", hex(number), "RSA or ECC")
    name_hash, attributes, policy = reader.hash(), reader.number(4), reader.sized(64)
    algorithm = reader.number(2)
    symmetric = (algorithm, reader.number(2), reader.number(2)) if algorithm != ALG_NULL else (ALG_NULL, 0, 0)
    scheme = reader.number(2)
    if scheme not in {ALG_NULL, *_SCHEMES}:
        raise reader.refuse("scheme", hex(scheme), "RSASSA, RSAPSS, ECDSA or none")
    scheme_hash = reader.number(2) if scheme != ALG_NULL else 0
    if number == ALG_RSA:
        bits, exponent = reader.number(2), reader.number(4)
        modulus = reader.sized(_MAX_KEY_BYTES)
        reader.end()
        if len(modulus) * 8 != bits:
            raise reader.refuse("modulus", f"{len(modulus)} bytes", f"{bits} bits")
        return Public(
            "rsa",
            name_hash,
            attributes,
            policy,
            symmetric,
            scheme,
            scheme_hash,
            ALG_NULL,
            bits,
            exponent,
            "",
            (modulus,),
        )
    identity = reader.number(2)
    curve = _CURVES.get(identity)
    if curve is None:
        raise reader.refuse("curve", hex(identity), "NIST P-256, P-384 or P-521")
    kdf = reader.number(2)
    if kdf != ALG_NULL:
        raise reader.refuse("key derivation", hex(kdf), "none")
    point = reader.sized(_CURVE_SIZES[curve]), reader.sized(_CURVE_SIZES[curve])
    reader.end()
    return Public("ecc", name_hash, attributes, policy, symmetric, scheme, scheme_hash, kdf, 0, 0, curve, point)


def serialise_public(public: Public) -> bytes:
    """Encode a public area as TPMT_PUBLIC."""
    kind = ALG_RSA if public.kind == "rsa" else ALG_ECC
    data = struct.pack(">HHI", kind, HASHES[public.name_hash], public.attributes) + _sized(public.policy)
    data += struct.pack(">HHH", *public.symmetric)[: 2 if public.symmetric[0] == ALG_NULL else 6]
    data += struct.pack(">HH", public.scheme, public.scheme_hash)[: 2 if public.scheme == ALG_NULL else 4]
    if public.kind == "rsa":
        data += struct.pack(">HI", public.bits, public.exponent)
    else:
        curve = next(number for number, name in _CURVES.items() if name == public.curve)
        data += struct.pack(">HH", curve, public.kdf)
    return data + b"".join(_sized(value) for value in public.values)


_FILE_SELECTION = struct.Struct("<HB4sx")
_FILE_DIGEST_BYTES = 64
_FILE_DIGESTS_IN_LIST = 8
_FILE_LIST_BYTES = 4 + _FILE_DIGESTS_IN_LIST * (2 + _FILE_DIGEST_BYTES)
_FILE_HEAD_BYTES = 4 + _MAX_BANKS * _FILE_SELECTION.size


def parse_pcr_file_untrusted(data: bytes) -> dict[str, dict[int, bytes]]:
    """Decode what `tpm2_quote --pcr` writes by default: a TPML_PCR_SELECTION, a count, and as many TPML_DIGEST.

    Returns:
        Digests by bank and index.

    Raises:
        DecodeError: anything else.

    Spec: tpm2-tools 5, `tpm2_quote` and `tpm2_checkquote`, format `serialized`.
    """
    reader = _Reader(data, "PCR file")

    def little(size: int) -> int:
        return int.from_bytes(reader.take(size), "little")

    banks = little(4)
    if not 0 < banks <= _MAX_BANKS:
        raise reader.refuse("PCR banks", banks, f"1 to {_MAX_BANKS}")
    rows = [_FILE_SELECTION.unpack(reader.take(_FILE_SELECTION.size)) for _ in range(_MAX_BANKS)]
    wanted: list[tuple[str, int]] = []
    for number, size, bitmap in rows[:banks]:
        bank = TPM_ALG.get(number)
        if bank is None or size > _MAX_SELECT:
            raise reader.refuse("PCR bank", hex(number), "a known hash, with a bitmap of at most 4 bytes")
        wanted.extend((bank, index) for index in _indices(reader, bitmap[:size]))
    lists = little(4)
    if lists > _MAX_BANKS * (MAX_PCR + 1) // _FILE_DIGESTS_IN_LIST:
        raise reader.refuse("digest lists", lists, "fewer")
    digests: list[bytes] = []
    for _ in range(lists):
        count = little(4)
        if count > _FILE_DIGESTS_IN_LIST:
            raise reader.refuse("digests in a list", count, f"at most {_FILE_DIGESTS_IN_LIST}")
        for position in range(_FILE_DIGESTS_IN_LIST):
            size, digest = little(2), reader.take(_FILE_DIGEST_BYTES)
            if position < count:
                if size > _FILE_DIGEST_BYTES:
                    raise reader.refuse("digest", f"{size} bytes", f"at most {_FILE_DIGEST_BYTES}")
                digests.append(digest[:size])
    reader.end()
    if len(digests) != len(wanted):
        raise reader.refuse("digests", len(digests), f"{len(wanted)}, as many as PCRs are selected")
    values: dict[str, dict[int, bytes]] = {}
    for (bank, index), digest in zip(wanted, digests, strict=True):
        if len(digest) != DIGEST_SIZES[bank] or index in values.setdefault(bank, {}):
            raise reader.refuse(f"{bank} PCR {index}", f"{len(digest)} bytes", f"{DIGEST_SIZES[bank]} bytes, once")
        values[bank][index] = digest
    return values


def serialise_pcr_file(values: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """Encode PCR values as `tpm2_quote --pcr` writes them."""
    rows = [
        _FILE_SELECTION.pack(HASHES[bank], 3, _bitmap(Selection(bank, tuple(pcrs))) + b"\0")
        for bank, pcrs in values.items()
    ]
    digests = [pcrs[index] for pcrs in values.values() for index in sorted(pcrs)]
    data = struct.pack("<I", len(rows)) + b"".join(rows).ljust(_MAX_BANKS * _FILE_SELECTION.size, b"\0")
    lists = [digests[at : at + _FILE_DIGESTS_IN_LIST] for at in range(0, len(digests), _FILE_DIGESTS_IN_LIST)]
    data += struct.pack("<I", len(lists))
    for each in lists:
        body = b"".join(struct.pack("<H", len(digest)) + digest.ljust(_FILE_DIGEST_BYTES, b"\0") for digest in each)
        data += struct.pack("<I", len(each)) + body.ljust(_FILE_LIST_BYTES - 4, b"\0")
    return data
