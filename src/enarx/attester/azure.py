# SPDX-License-Identifier: Apache-2.0
"""A confidential VM of Azure with SEV-SNP: the paravisor's report out of the virtual TPM, and a quote by the key that it names.

- The processor's report was made when the machine started, over the paravisor and the virtual TPM's key; it is kept in NV memory. What
  is fresh is the quote, over SHA-256 of the report data, and what is measured of this machine are its PCRs.
- The AMD certificates are not here: Azure gives them over a network that a Keep does not have, and AMD to whoever judges.
- A TDX machine of Azure has its TD quote made by a service on that network too, and so none here.

Source: Microsoft, "Guest attestation for confidential VMs"; the handles are those of github.com/kinvolk/azure-cvm-tooling.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from enarx.abi.hcl import parse_hcl_report_untrusted
from enarx.abi.tpm import parse_signature_untrusted
from enarx.attester.attested import AZURE_EVIDENCE, Attested, RuntimeRegister, make_evidence
from enarx.attester.system import exists
from enarx.attester.tpm import DEVICE, TpmRegister, event_logs, read_nv, take_quote
from enarx.errors import DecodeError, PlatformError

if TYPE_CHECKING:
    from enarx.attester.system import System

__all__ = ["AK_HANDLE", "HCL_INDEX", "AzureAttester", "find_azure"]

HCL_INDEX: Final = 0x01400001
AK_HANDLE: Final = 0x81000003


class AzureAttester:
    """The virtual TPM of Azure's paravisor, in a machine with SEV-SNP.

    Args:
        system: of the machine.
    """

    backend = "snp"
    media_type = AZURE_EVIDENCE

    def __init__(self, system: System) -> None:
        self._system = system
        self.register: RuntimeRegister | None = TpmRegister(system)

    def attest(self, report_data: bytes) -> Attested:
        """Ask for the report and a quote; see `enarx.attester.Attester`."""
        taken = take_quote(self._system, report_data, ak_handle=AK_HANDLE)
        report = read_nv(self._system, HCL_INDEX)
        if report is None:
            raise PlatformError(f"cannot attest: {DEVICE}: NV index {HCL_INDEX:#x}: found none, want the HCL report")
        parse_hcl_report_untrusted(report)
        signature = parse_signature_untrusted(taken.signature)
        if (signature.scheme, signature.hash) != ("rsassa", "sha256"):
            raise DecodeError(
                f"cannot attest: {DEVICE}: found a signature by {signature.scheme} with {signature.hash}, want rsassa with sha256"
            )
        bundle = {
            "hcl_report": report.hex(),
            "tpm_quote": {
                "message": taken.message.hex(),
                "signature": signature.values[0].hex(),
                "pcrs": [value.hex() for value in taken.pcrs],
            },
        }
        data = json.dumps(bundle, separators=(",", ":")).encode()
        return Attested(make_evidence(AZURE_EVIDENCE, data), event_logs(self._system))


def find_azure(system: System) -> AzureAttester | None:
    """Return the paravisor of Azure's SNP machines, or None where there is none.

    Raises:
        PlatformError: the TPM cannot be asked.
    """
    if not exists(system, DEVICE):
        return None
    try:
        report = read_nv(system, HCL_INDEX)
        found = None if report is None else parse_hcl_report_untrusted(report)
    except DecodeError:
        # An index of somebody else's, or a report of a machine without confidential memory.
        return None
    return AzureAttester(system) if found is not None and found.tee == "snp" else None
