# SPDX-License-Identifier: Apache-2.0
"""Gramine's /dev/attestation: SGX quotes of the enclave that this process is.

The files are one set for the whole process and not made for threads, so requests wait for each other here, and a quote over
other report data than ours is refused. Reading the quote waits for the platform's quoting service, and Gramine bounds that.

Source: Gramine documentation, "Attestation and Secret Provisioning"; libos/src/fs/dev/attestation.c.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from enarx.abi.quote import SgxQuote, parse_quote_untrusted
from enarx.attester.attested import (
    MAX_EVIDENCE_BYTES,
    SGX_QUOTE,
    Attested,
    RuntimeRegister,
    make_evidence,
    require_report_data,
)
from enarx.attester.system import exists, read_file, refusal, write_file
from enarx.errors import DecodeError, PlatformError

if TYPE_CHECKING:
    from enarx.attester.system import System

__all__ = ["GramineAttester", "find_gramine"]

FOLDER = "/dev/attestation"
_MAX_TYPE_BYTES = 64
_MEANINGS: dict[int, tuple[str, str | None]] = {
    errno.EACCES: ("a refusal by the enclave's platform", "the quoting service (AESM) of the host may be down"),
}
_ONE_AT_A_TIME = threading.Lock()


class GramineAttester:
    """The enclave that this process is.

    Args:
        system: of the machine.
    """

    backend = "sgx"
    media_type = SGX_QUOTE
    register: RuntimeRegister | None = None

    def __init__(self, system: System) -> None:
        self._system = system

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a quote; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        try:
            with _ONE_AT_A_TIME:
                self._require_dcap()
                write_file(self._system, f"{FOLDER}/user_report_data", report_data)
                data = read_file(self._system, f"{FOLDER}/quote", MAX_EVIDENCE_BYTES)
        except OSError as error:
            raise refusal(FOLDER, error, _MEANINGS) from error
        try:
            quote = parse_quote_untrusted(data)
        except DecodeError as error:
            raise DecodeError(f"cannot attest: {FOLDER}: {error}", hint=error.hint) from error
        if not isinstance(quote, SgxQuote) or quote.report.report_data != report_data:
            raise PlatformError(f"cannot attest: {FOLDER}: found a quote over other report data, want the caller's")
        return Attested(make_evidence(SGX_QUOTE, data))

    def _require_dcap(self) -> None:
        kind = read_file(self._system, f"{FOLDER}/attestation_type", _MAX_TYPE_BYTES).strip()
        if kind != b"dcap":
            raise PlatformError(
                f"cannot attest: {FOLDER}: attestation_type: found {kind.decode('ascii', 'replace')!r}, want 'dcap'",
                hint='set sgx.remote_attestation = "dcap" in the manifest, and sign it again',
            )


def find_gramine(system: System) -> GramineAttester | None:
    """Return the enclave that this process is, or None where it is none."""
    return GramineAttester(system) if exists(system, f"{FOLDER}/attestation_type") else None
