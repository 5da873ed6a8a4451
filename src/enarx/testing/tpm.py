# SPDX-License-Identifier: Apache-2.0
"""A fake TPM: quotes, event logs, attestation key certificates and Azure's HCL reports, in the exact layouts.

    tpm = FakeTpm()
    tpm.boot()                                   # what firmware measures, with Secure Boot on
    tpm.extend(8, b"kernel")
    message, signature = tpm.quote(b"nonce")     # over all PCRs of SHA-256
    bundle = tpm.make_bundle(b"nonce")           # as trustee's JSON has it

- `FakeTpmMaker` issues certificates for `tpm.spki`; nobody may trust its root.
- `make_hcl_report` and `make_runtime_data` make what Azure's paravisor keeps; the hardware's report comes from `enarx.testing.snp` or
  `enarx.testing.dcap`.

It is written from the documents and shares no layout with `enarx.abi`: a mistake in a reader must not hide in a writer.

Source: TCG TPM 2.0 Library 1.59 Part 2; TCG PFP 1.06; Microsoft, "Guest attestation for confidential VMs".
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

__all__ = [
    "AK_USAGE",
    "AT",
    "FakeTpm",
    "FakeTpmMaker",
    "make_hcl_report",
    "make_log",
    "make_runtime_data",
    "make_secure_boot_event",
]

AT = datetime(2026, 6, 1, tzinfo=UTC)
"""When everything is valid, if not said otherwise."""

AK_USAGE = "2.23.133.8.3"
_START = AT - timedelta(days=90)
_ALGORITHMS = {"sha1": (4, 20), "sha256": (11, 32), "sha384": (12, 48), "sha512": (13, 64)}
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_SCHEMES = {"rsassa": 0x14, "rsapss": 0x16, "ecdsa": 0x18}
_EV_NO_ACTION, _EV_SEPARATOR, _EV_S_CRTM_VERSION = 3, 4, 8
_EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
_EV_IPL = 13


@cache
def _rsa_key(_owner: str, bits: int) -> rsa.RSAPrivateKey:
    """Make the key of one owner, once per process."""
    return rsa.generate_private_key(65537, bits)


@cache
def _ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()[:31], "big"), ec.SECP256R1())


class FakeTpm:
    """A TPM with one attestation key, a primary key of the endorsement hierarchy.

    Args:
        name: whose key; the same name has the same key in one process.
        kind: `rsa` or `ecc`.
        banks: the PCR banks that it has.
        bits: of an RSA key.
        attributes: TPMA_OBJECT of the key.
        locality: that the TPM was started from; 0, 3 or 4.
    """

    def __init__(
        self,
        name: str = "tpm",
        *,
        kind: str = "rsa",
        banks: Sequence[str] = ("sha1", "sha256", "sha384"),
        bits: int = 2048,
        attributes: int = 0x00050072,
        locality: int = 0,
    ) -> None:
        self.key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
            _rsa_key(name, bits) if kind == "rsa" else _ec_key(name)
        )
        self.attributes = attributes
        self.banks = tuple(banks)
        self.pcrs = {
            bank: [(b"\xff" if 17 <= index <= 22 else b"\0") * _ALGORITHMS[bank][1] for index in range(24)]
            for bank in banks
        }
        for bank in banks:
            self.pcrs[bank][0] = self.pcrs[bank][0][:-1] + bytes([locality])
        self.events: list[tuple[int, int, dict[str, bytes], bytes]] = []
        if locality:
            nothing = {bank: bytes(_ALGORITHMS[bank][1]) for bank in banks}
            self.events.append((0, _EV_NO_ACTION, nothing, b"StartupLocality\0" + bytes([locality])))

    @property
    def spki(self) -> bytes:
        """The key as SubjectPublicKeyInfo in DER."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def pin(self) -> bytes:
        """The SHA-256 of the key, as policies and anchors pin it."""
        return hashlib.sha256(self.spki).digest()

    @property
    def public_area(self) -> bytes:
        """TPMT_PUBLIC."""
        is_rsa = isinstance(self.key, rsa.RSAPrivateKey)
        head = struct.pack(">HHIH", 1 if is_rsa else 0x23, 11, self.attributes, 0) + struct.pack(">H", 0x10)
        if isinstance(self.key, rsa.RSAPrivateKey):
            modulus = self.key.public_key().public_numbers().n.to_bytes(self.key.key_size // 8, "big")
            return head + struct.pack(">HHHI", 0x14, 11, self.key.key_size, 0) + _sized(modulus)
        point = self.key.public_key().public_numbers()
        values = _sized(point.x.to_bytes(32, "big")) + _sized(point.y.to_bytes(32, "big"))
        return head + struct.pack(">HHHH", 0x18, 11, 3, 0x10) + values

    def extend(self, pcr: int, data: bytes, *, kind: int = _EV_IPL, digest_of: bytes | None = None) -> None:
        """Measure something: extend a PCR in every bank, and write the log's event.

        Args:
            pcr: index.
            data: of the event.
            kind: an `EV_` number.
            digest_of: what is hashed; None hashes `data`.
        """
        digests = {bank: hashlib.new(bank, data if digest_of is None else digest_of).digest() for bank in self.banks}
        for bank, digest in digests.items():
            self.pcrs[bank][pcr] = hashlib.new(bank, self.pcrs[bank][pcr] + digest).digest()
        self.events.append((pcr, kind, digests, data))

    def boot(self, *, secure_boot: bytes = b"\1") -> None:
        """Measure what firmware does: its version, the Secure Boot variable, and separators."""
        self.extend(0, b"fake firmware", kind=_EV_S_CRTM_VERSION)
        self.extend(7, make_secure_boot_event(secure_boot), kind=_EV_EFI_VARIABLE_DRIVER_CONFIG)
        for pcr in range(8):
            self.extend(pcr, bytes(4), kind=_EV_SEPARATOR)

    def quote(
        self,
        nonce: bytes,
        *,
        selections: Sequence[tuple[str, Sequence[int]]] = (("sha256", range(24)),),
        scheme: str | None = None,
        hash_name: str = "sha256",
        changes: Mapping[str, Any] | None = None,
    ) -> tuple[bytes, bytes]:
        """Sign a quote.

        Args:
            nonce: at most 64 bytes.
            selections: banks and PCRs.
            scheme: `rsassa`, `rsapss` or `ecdsa`; None takes the key's usual one.
            hash_name: of the signature and of the PCR digest.
            changes: of `magic`, `type`, `signer`, `clock`, `resets`, `restarts`, `safe`, `firmware`, `digest`, before it is signed.

        Returns:
            TPMS_ATTEST and TPMT_SIGNATURE.
        """
        content = b"".join(self.pcrs[bank][index] for bank, indices in selections for index in indices)
        name = b"\0\x0b" + hashlib.sha256(self.public_area).digest()
        fields: dict[str, Any] = {
            "magic": 0xFF544347,
            "type": 0x8018,
            "signer": b"\0\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + name).digest(),
            "clock": 123456,
            "resets": 3,
            "restarts": 1,
            "safe": 1,
            "firmware": bytes(7) + b"\1",
            "digest": hashlib.new(hash_name, content).digest(),
        } | dict(changes or {})
        message = struct.pack(">IH", fields["magic"], fields["type"]) + _sized(fields["signer"]) + _sized(nonce)
        message += struct.pack(">QIIB", fields["clock"], fields["resets"], fields["restarts"], fields["safe"])
        message += fields["firmware"] + struct.pack(">I", len(selections))
        for bank, indices in selections:
            bitmap = sum(1 << index for index in indices).to_bytes(3, "little")
            message += struct.pack(">HB", _ALGORITHMS[bank][0], 3) + bitmap
        message += _sized(fields["digest"])
        return message, self.sign(message, scheme=scheme, hash_name=hash_name)

    def sign(self, message: bytes, *, scheme: str | None = None, hash_name: str = "sha256") -> bytes:
        """Sign anything; return TPMT_SIGNATURE."""
        algorithm = _HASHES[hash_name]()
        if isinstance(self.key, rsa.RSAPrivateKey):
            scheme = scheme or "rsassa"
            chosen = (
                padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
                if scheme == "rsapss"
                else padding.PKCS1v15()
            )
            values = _sized(self.key.sign(message, chosen, algorithm))
        else:
            scheme = scheme or "ecdsa"
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(algorithm)))
            values = _sized(r.to_bytes(32, "big")) + _sized(s.to_bytes(32, "big"))
        return struct.pack(">HH", _SCHEMES[scheme], _ALGORITHMS[hash_name][0]) + values

    def event_log(self) -> bytes:
        """Return the crypto-agile log of everything that was measured."""
        return make_log(self.banks, self.events)

    def make_bundle(self, nonce: bytes) -> dict[str, Any]:
        """Return a quote of the SHA-256 bank as trustee's TPM attester prints it."""
        message, signature = self.quote(nonce)
        return {
            "ak_public": base64.b64encode(self.spki).decode(),
            "tpm_quote": {
                "message": base64.b64encode(message).decode(),
                "signature": base64.b64encode(signature).decode(),
                "pcrs": [value.hex() for value in self.pcrs["sha256"]],
            },
        }

    def make_pcr_file(self, selections: Sequence[tuple[str, Sequence[int]]] = (("sha256", range(24)),)) -> bytes:
        """Return PCR values as `tpm2_quote --pcr` writes them."""
        rows = b"".join(
            struct.pack("<HB4sx", _ALGORITHMS[bank][0], 3, sum(1 << index for index in indices).to_bytes(4, "little"))
            for bank, indices in selections
        )
        values = [self.pcrs[bank][index] for bank, indices in selections for index in indices]
        lists = [values[at : at + 8] for at in range(0, len(values), 8)]
        data = struct.pack("<I", len(selections)) + rows.ljust(128, b"\0") + struct.pack("<I", len(lists))
        for each in lists:
            data += struct.pack("<I", len(each))
            data += b"".join(struct.pack("<H64s", len(value), value) for value in each).ljust(8 * 66, b"\0")
        return data

    def make_protobuf(
        self, nonce: bytes, *, banks: Sequence[str] = ("sha1", "sha256", "sha384"), certificates: Sequence[bytes] = ()
    ) -> bytes:
        """Return quotes of several banks as go-tpm-tools' Attestation message.

        Args:
            nonce: of each quote.
            banks: a quote each.
            certificates: the key's, then intermediates.
        """
        data = _field(1, self.public_area)
        for bank in banks:
            message, signature = self.quote(nonce, selections=((bank, range(24)),))
            pcrs = b"\x08" + bytes([_ALGORITHMS[bank][0]])
            for index, value in enumerate(self.pcrs[bank]):
                pcrs += _field(2, (b"\x08" + bytes([index]) if index else b"") + _field(2, value))
            data += _field(2, _field(1, message) + _field(2, signature) + _field(3, pcrs))
        data += _field(3, self.event_log())
        for position, certificate in enumerate(certificates):
            data += _field(6 if position == 0 else 7, certificate)
        return data


class FakeTpmMaker:
    """Who certifies attestation keys: a root and an intermediate."""

    def __init__(self, name: str = "maker") -> None:
        self._root_key, self._key = _ec_key(f"{name} root"), _ec_key(f"{name} intermediate")
        self._root_name, self._name = _name(f"Fake TPM Root {name}"), _name(f"Fake TPM CA {name}")
        self.root = self._issue(self._root_name, self._root_key.public_key(), self._root_name, self._root_key, ca=True)
        self.intermediate = self._issue(self._name, self._key.public_key(), self._root_name, self._root_key, ca=True)

    def certify(
        self,
        tpm: FakeTpm,
        *,
        usages: Sequence[str] = (AK_USAGE,),
        encipherment: bool = False,
        ca: bool = False,
        start: datetime = _START,
        lifetime: timedelta = timedelta(days=365),
    ) -> bytes:
        """Return a certificate of a TPM's attestation key in DER.

        Args:
            tpm: whose.
            usages: extended key usages by object identifier; empty leaves the extension out.
            encipherment: whether it is for encipherment instead of signatures, as an endorsement key's is.
            ca: whether it says that it is a CA's.
            start: first second of validity.
            lifetime: from then.
        """
        public = tpm.key.public_key()
        name = _name("fake attestation key")
        return self._issue(name, public, self._name, self._key, ca, usages, encipherment, start, lifetime)

    def _issue(
        self,
        subject: x509.Name,
        public_key: Any,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        ca: bool,
        usages: Sequence[str] = (),
        encipherment: bool = False,
        start: datetime = _START,
        lifetime: timedelta = timedelta(days=3650),
    ) -> bytes:
        issues = ca and not usages
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not issues and not encipherment,
                    content_commitment=False,
                    key_encipherment=encipherment,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=issues,
                    crl_sign=issues,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if usages:
            identifiers = [x509.ObjectIdentifier(usage) for usage in usages]
            builder = builder.add_extension(x509.ExtendedKeyUsage(identifiers), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def make_secure_boot_event(value: bytes) -> bytes:
    """Return the UEFI_VARIABLE_DATA of the SecureBoot variable."""
    name = "SecureBoot".encode("utf-16-le")
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    return guid + struct.pack("<QQ", 10, len(value)) + name + value


def make_log(
    banks: Sequence[str], events: Sequence[tuple[int, int, Mapping[str, bytes], bytes]], *, register: int = 0
) -> bytes:
    """Return a crypto-agile log.

    Args:
        banks: that it announces.
        events: register, type, digests by bank, and data.
        register: of the Spec ID event: 1 in a CCEL.
    """
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    spec += b"".join(struct.pack("<HH", *_ALGORITHMS[bank]) for bank in banks) + b"\0"
    data = struct.pack("<II20sI", register, _EV_NO_ACTION, bytes(20), len(spec)) + spec
    for index, kind, digests, content in events:
        data += struct.pack("<III", index, kind, len(digests))
        data += b"".join(struct.pack("<H", _ALGORITHMS[bank][0]) + digest for bank, digest in digests.items())
        data += struct.pack("<I", len(content)) + content
    return data


def make_runtime_data(tpm: FakeTpm, *, changes: Mapping[str, Any] | None = None) -> bytes:
    """Return the JSON in which Azure's paravisor names a virtual TPM's attestation key.

    Args:
        tpm: whose key is RSA.
        changes: members that are different.
    """
    key = tpm.key.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("found a key that is not RSA")
    numbers = key.public_numbers()
    jwk = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": "AQAB",
        "n": base64.urlsafe_b64encode(numbers.n.to_bytes(key.key_size // 8, "big")).rstrip(b"=").decode(),
    }
    members: dict[str, Any] = {
        "keys": [jwk],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "tpm-persisted": True,
            "vmUniqueId": "00000000-0000-4000-8000-000000000001",
        },
        "user-data": "00" * 64,
    } | dict(changes or {})
    return json.dumps(members, separators=(",", ":")).encode()


def make_hcl_report(
    hardware_report: bytes, runtime_data: bytes, *, report_type: int, hash_type: int = 1, size: int = 2600
) -> bytes:
    """Return an HCL report.

    Args:
        hardware_report: an SNP report, or a TDREPORT.
        runtime_data: JSON.
        report_type: 2 for SEV-SNP, 4 for TDX.
        hash_type: 1, 2 or 3.
        size: of all of it, filled with zeros.
    """
    length = len(runtime_data)
    data = struct.pack("<4sIIII12x", b"HCLA", 2, 1236 + length, 2, 0) + hardware_report.ljust(1184, b"\0")
    data += struct.pack("<IIIII", 20 + length, 1, report_type, hash_type, length) + runtime_data
    return data.ljust(size, b"\0")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field of a protobuf message."""
    size, length = b"", len(data)
    while True:
        size += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + size + data
