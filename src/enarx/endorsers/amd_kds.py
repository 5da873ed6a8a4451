# SPDX-License-Identifier: Apache-2.0
"""What AMD's Key Distribution Service publishes: VCEK certificates by chip and TCB, CA chains, revocation lists.

Rules of this file:

- It says how the questions are spelled and whether an answer is one to the question: a certificate for this chip at this
  TCB, the list of this ARK. Signatures are the verifier's.
- KDS learns the product, the chip id and the reported TCB, and no more.
- A VLEK is not published: the cloud provider has it and hands it to the guest.

Source: AMD 57230 (VCEK certificate and KDS interface) sections 3 and 4; AMD 56860 TCB_VERSION.
"""

from __future__ import annotations

from cryptography import x509

from enarx.abi.snp import (
    CHIP_ID_BYTES,
    VEK_OIDS,
    line_of,
    parse_vek_extensions_untrusted,
    tcb_components,
)
from enarx.crypto.certificates import (
    MAX_CERTIFICATE_BYTES,
    MAX_CRL_BYTES,
    load_certificate_untrusted,
    load_pem_chain_untrusted,
    name_of,
)
from enarx.endorsers.fetching import Content, Wanted, decode_crl
from enarx.errors import DecodeError, EndorsementError

__all__ = ["AMD_KDS_URL", "LINES", "chain_wanted", "crl_wanted", "extension_values", "lines_to_try", "vcek_wanted"]

AMD_KDS_URL = "https://kdsintf.amd.com"
MAX_CHAIN_BYTES = 64 << 10
_HWID_BYTES = {"Milan": 64, "Genoa": 64, "Turin": 8}
LINES = tuple(_HWID_BYTES)
"""What KDS knows products by; Bergamo and Siena are Genoa to it. Newer lines are added at the end."""
_PARAMETERS = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
_TCB_BYTES = 8


def lines_to_try(chip_id: bytes) -> tuple[str, ...]:
    """Return the lines that a chip of unknown product can be of, the likeliest first.

    Reports of version 2 do not say. A chip whose id ends in zeros has an id of 8 bytes.
    """
    size = 64 if any(chip_id[8:]) else 8
    return tuple(line for line, hwid_bytes in _HWID_BYTES.items() if hwid_bytes == size)


def vcek_wanted(base_url: str, line: str, chip_id: bytes, reported_tcb: bytes) -> Wanted:
    """Say what the VCEK certificate of a chip at a TCB is.

    Args:
        base_url: of AMD KDS or a mirror.
        line: one of `LINES`.
        chip_id: CHIP_ID of the report, 64 bytes, and not masked.
        reported_tcb: REPORTED_TCB of the report, 8 bytes as they are there.

    Returns:
        What has the certificate in DER as its value.

    Raises:
        EndorsementError: the chip id is masked, or AMD KDS is not known to have this line.

    Spec: AMD 57230 4.1.
    """
    if len(chip_id) != CHIP_ID_BYTES or len(reported_tcb) != _TCB_BYTES:
        raise ValueError(f"found {len(chip_id)} and {len(reported_tcb)} bytes, want {CHIP_ID_BYTES} and {_TCB_BYTES}")
    if not any(chip_id):
        raise EndorsementError(
            "cannot get the VCEK: the report's CHIP_ID: found zeros, want the chip's name: its host masks it",
            hint="ask for an extended report, which brings the VCEK along, or for MASK_CHIP_ID to be off",
        )
    levels = tcb_components(reported_tcb, _known(line)) or {}
    hwid = chip_id[: _HWID_BYTES[line]]
    # In AMD's order; the service takes any.
    named = {parameter: levels[name] for name, parameter in _PARAMETERS.items() if name in levels}
    path = f"/vcek/v1/{line}/{hwid.hex()}?" + "&".join(f"{name}={level:02d}" for name, level in named.items())

    def accept(body: bytes, _headers: dict[str, str]) -> Content:
        certificate = load_certificate_untrusted(body)
        claims = parse_vek_extensions_untrusted(extension_values(certificate))
        if claims.chip_id != chip_id:
            found = claims.hwid.hex() if claims.hwid is not None else f"a VLEK of {claims.csp_id}"
            raise DecodeError(f"found the certificate of another chip, {found}, want {hwid.hex()}")
        if line_of(claims.product) != line or tcb_components(claims.tcb, line) != levels:
            raise DecodeError(
                f"found the certificate of {claims.product} at TCB {claims.tcb.hex()}, want {line} at {reported_tcb.hex()}"
            )
        return Content(body, certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    return Wanted(
        what=f"the VCEK of {line} chip {hwid.hex()[:16]} at TCB {reported_tcb.hex()}",
        service="amd",
        key=AMD_KDS_URL + path,
        url=base_url + path,
        max_bytes=MAX_CERTIFICATE_BYTES,
        accept=accept,
        keeps=True,
        absent="AMD has no such chip, or none at this TCB: is the report genuine? An extended report brings its VCEK along",
    )


def chain_wanted(base_url: str, line: str, key: str = "vcek") -> Wanted:
    """Say what the CA certificates above VCEKs or VLEKs of a line are.

    Args:
        base_url: of AMD KDS or a mirror.
        line: as for `vcek_wanted`.
        key: `vcek` or `vlek`.

    Returns:
        What has a tuple of certificates in DER as its value: ASK or ASVK, then ARK.

    Spec: AMD 57230 4.2.
    """
    _known(line)
    path = f"/{key}/v1/{line}/cert_chain"
    expected = (f"SEV-{line}" if key == "vcek" else f"SEV-VLEK-{line}", f"ARK-{line}")

    def accept(body: bytes, _headers: dict[str, str]) -> Content:
        chain = load_pem_chain_untrusted(body)
        certificates = [load_certificate_untrusted(der) for der in chain]
        found = tuple(name_of(each) for each in certificates)
        if found != expected:
            raise DecodeError(f"found certificates of {', '.join(found)}, want {', '.join(expected)}")
        return Content(
            chain,
            max(each.not_valid_before_utc for each in certificates),
            min(each.not_valid_after_utc for each in certificates),
        )

    return Wanted(
        what=f"the certificates of {' and '.join(expected)}",
        service="amd",
        key=AMD_KDS_URL + path,
        url=base_url + path,
        max_bytes=MAX_CHAIN_BYTES,
        accept=accept,
        keeps=True,
        absent="is the mirror complete?",
    )


def crl_wanted(base_url: str, line: str, key: str = "vcek") -> Wanted:
    """Say what the revocation list of a line is, which its ARK signs.

    Args:
        base_url: of AMD KDS or a mirror.
        line: as for `vcek_wanted`.
        key: `vcek` or `vlek`.

    Spec: AMD 57230 4.3.
    """
    _known(line)
    path = f"/{key}/v1/{line}/crl"

    def accept(body: bytes, _headers: dict[str, str]) -> Content:
        return decode_crl(body, f"ARK-{line}")

    return Wanted(
        what=f"the revocation list of ARK-{line}",
        service="amd",
        key=AMD_KDS_URL + path,
        url=base_url + path,
        max_bytes=MAX_CRL_BYTES,
        accept=accept,
        absent="is the mirror complete?",
    )


def _known(line: str) -> str:
    if line not in _HWID_BYTES:
        raise EndorsementError(
            f"cannot ask AMD KDS: product: found {line}, want one of {', '.join(LINES)}",
            hint="pass the certificates with --endorsements",
        )
    return line


def extension_values(certificate: x509.Certificate) -> dict[str, bytes]:
    """Return AMD's extensions of a certificate, as `abi.snp` reads them."""
    return {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if extension.oid.dotted_string in VEK_OIDS and isinstance(extension.value, x509.UnrecognizedExtension)
    }
