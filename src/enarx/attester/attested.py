# SPDX-License-Identifier: Apache-2.0
"""What every driver has in common: what it is asked, what it answers, and what the answer is called."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from enarx.abi.snp import parse_report_untrusted
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.wire.cmw import CmwRecord, Indicator, encode_cmw_cbor

__all__ = [
    "AZURE_EVIDENCE",
    "CCA_TOKEN",
    "CERTIFICATE_TABLE",
    "EVENT_LOG",
    "MAX_EVIDENCE_BYTES",
    "NITRO_DOCUMENT",
    "REPORT_DATA_BYTES",
    "SGX_QUOTE",
    "SNP_REPORT",
    "TDX_QUOTE",
    "TPM_QUOTE",
    "Attested",
    "Attester",
    "RuntimeRegister",
    "attested_snp",
    "make_endorsement",
    "make_evidence",
    "require_report_data",
]

REPORT_DATA_BYTES = 64
REGISTER_DIGEST_BYTES = 48

MAX_EVIDENCE_BYTES = 512 << 10
"""Of one blob that a device returns, so that its CMW fits into a message of a Keep session, which takes 1 MiB."""

# No vendor registered names for these; the tree is ours, and a verifier looks at the bytes anyway.
SNP_REPORT = "application/vnd.enarx.sev-snp-report"
TDX_QUOTE = "application/vnd.enarx.tdx-quote"
SGX_QUOTE = "application/vnd.enarx.sgx-quote"
CCA_TOKEN = "application/vnd.enarx.cca-token"  # noqa: S105  # Arm's word
NITRO_DOCUMENT = "application/vnd.enarx.nitro-document"
TPM_QUOTE = "application/vnd.enarx.tpm-quote+json"
AZURE_EVIDENCE = "application/vnd.enarx.azure-evidence+json"
CERTIFICATE_TABLE = "application/vnd.enarx.ghcb-certificate-table"
EVENT_LOG = "application/vnd.enarx.tcg-event-log"


class Attested(NamedTuple):
    """What a device answered.

    Args:
        evidence: CMW as CBOR.
        endorsements: CMWs as CBOR, of what the device had beside it: a certificate table, an event log.
    """

    evidence: bytes
    endorsements: tuple[bytes, ...] = ()


class RuntimeRegister(Protocol):
    """A register of the TEE that software extends while it runs, and that evidence carries."""

    name: str
    """For people: `TDX RTMR3`."""

    def read(self) -> bytes:
        """Return the value, of the register's size; zeros where nothing was extended.

        Raises:
            PlatformError: the device does not answer.
        """
        ...

    def extend(self, digest: bytes) -> bytes:
        """Extend the register, and make sure that it was.

        Args:
            digest: SHA-384, 48 bytes.

        Returns:
            The new value.

        Raises:
            PlatformError: the device refuses, or has another value afterwards than it should.
        """
        ...

    def predict(self, digest: bytes, before: bytes | None = None) -> bytes:
        """Return the value that the register has after `extend`, without any device.

        Args:
            digest: as for `extend`.
            before: the value before; None is zeros.
        """
        ...


class Attester(Protocol):
    """A device that gives evidence.

    Attributes:
        media_type: of its evidence.
        backend: `snp`, `tdx`, `cca`, `sgx`, `nitro`, `vm` or `nil`.
        register: of the TEE, or None where it has none.
    """

    media_type: str
    backend: str
    register: RuntimeRegister | None

    def attest(self, report_data: bytes) -> Attested:
        """Ask for evidence. It blocks, for two minutes at most.

        Args:
            report_data: 64 bytes. A TPM's quote carries their SHA-256.

        Raises:
            PlatformError: the device does not give it.
            DecodeError: what it gives is not well formed.
        """
        ...


def require_report_data(report_data: bytes) -> None:
    """Refuse report data of another size, which devices would pad or cut each in their own way.

    Raises:
        UsageError: it is not 64 bytes.
    """
    if len(report_data) != REPORT_DATA_BYTES:
        raise UsageError(f"cannot attest: report data: found {len(report_data)} bytes, want {REPORT_DATA_BYTES}")


def require_digest(digest: bytes) -> None:
    """Refuse what is not a SHA-384 digest.

    Raises:
        UsageError: it is not 48 bytes.
    """
    if len(digest) != REGISTER_DIGEST_BYTES:
        raise UsageError(f"cannot extend a register: digest: found {len(digest)} bytes, want {REGISTER_DIGEST_BYTES}")


def make_evidence(media_type: str, value: bytes) -> bytes:
    """Wrap evidence as a CMW.

    Raises:
        PlatformError: it is empty or too large.
    """
    return _wrap(media_type, value, Indicator.EVIDENCE)


def make_endorsement(media_type: str, value: bytes) -> bytes:
    """Wrap an endorsement as a CMW.

    Raises:
        PlatformError: it is empty or too large.
    """
    return _wrap(media_type, value, Indicator.ENDORSEMENTS)


def _wrap(media_type: str, value: bytes, indicator: Indicator) -> bytes:
    if not 0 < len(value) <= MAX_EVIDENCE_BYTES:
        raise PlatformError(
            f"cannot attest: {media_type}: found {len(value)} bytes, want 1 to {MAX_EVIDENCE_BYTES} from the device"
        )
    return encode_cmw_cbor(CmwRecord(media_type, value, indicator))


def attested_snp(report: bytes, table: bytes, report_data: bytes, *, device: str) -> Attested:
    """Put a report and a certificate table together.

    Args:
        report: that the device returned.
        table: in the GHCB's layout; empty or all zero where the host has given none.
        report_data: that the device was asked for.
        device: for messages.

    Raises:
        DecodeError: the report is not well formed.
        PlatformError: it is over other report data.
    """
    try:
        found = parse_report_untrusted(report).report_data
    except DecodeError as error:
        raise DecodeError(f"cannot attest: {device}: {error}", hint=error.hint) from error
    if found != report_data:
        raise PlatformError(f"cannot attest: {device}: found a report over other report data, want the caller's")
    endorsements = (make_endorsement(CERTIFICATE_TABLE, table),) if any(table) else ()
    return Attested(make_evidence(SNP_REPORT, report), endorsements)
