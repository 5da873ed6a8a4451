# SPDX-License-Identifier: Apache-2.0
"""Endorsements: what vendors say about attesters, as raw bytes. Their signatures are the verifier's to check."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Endorsements", "IntelCollateral"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelCollateral:
    """What Intel's PCS returns for one FMSPC and one TEE, exactly as received.

    Args:
        tcb_info: JSON `{"tcbInfo": ..., "signature": ...}`.
        tcb_info_chain: certificates in DER, the signer's first.
        qe_identity: JSON `{"enclaveIdentity": ..., "signature": ...}`.
        qe_identity_chain: certificates in DER, the signer's first.
        pck_crl: DER.
        pck_crl_chain: certificates in DER, the issuer's first.
        root_ca_crl: DER.

    Spec: Intel SGX PCCS API v4.
    """

    tcb_info: bytes
    tcb_info_chain: tuple[bytes, ...]
    qe_identity: bytes
    qe_identity_chain: tuple[bytes, ...]
    pck_crl: bytes
    pck_crl_chain: tuple[bytes, ...]
    root_ca_crl: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """What is known about the attester from others; all of it optional, and none of it believed yet.

    Args:
        certificates: DER, in any order: VCEK or VLEK, ASK, ARK, PCK chain, AK chain.
        crls: DER.
        intel: collateral sets; the verifier uses the one that fits the quote.
        event_logs: TCG event logs (TPM 2.0 or CCEL) as the firmware wrote them.
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    intel: tuple[IntelCollateral, ...] = ()
    event_logs: tuple[bytes, ...] = ()

    def __add__(self, other: Endorsements) -> Endorsements:
        """Return both together, what this one has first."""
        if self == _NOTHING:
            return other
        if other == _NOTHING:
            return self
        return replace(
            self,
            certificates=self.certificates + other.certificates,
            crls=self.crls + other.crls,
            intel=self.intel + other.intel,
            event_logs=self.event_logs + other.event_logs,
        )


_NOTHING = Endorsements()
