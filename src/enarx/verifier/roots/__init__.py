# SPDX-License-Identifier: Apache-2.0
"""The vendors' root certificates, and the intermediates that evidence often leaves out.

Rules of this file:

- A root is trusted because its fingerprint stands here. The PEM files beside this module are looked up by it, and a file
  that holds anything else is a broken installation.
- Intermediates are conveniences: each is believed only after a root's signature on it was verified.

Provenance: AMD KDS (`/vcek/v1/{Milan,Genoa,Turin}/cert_chain`, `/vlek/v1/...`), Intel PCS (`Intel_SGX_Provisioning_Certification_RootCA.cer`),
AWS (`AWS_NitroEnclaves_Root-G1.zip`), Microsoft's trusted-launch documentation, Google's `privateca-content` bucket; each
compared with the copies in independent public projects, whose number stands above each certificate.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from enarx.crypto.certificates import fingerprint, load_pem_chain_untrusted
from enarx.errors import PlatformError
from enarx.rats import TrustAnchors

__all__ = ["amd_intermediates", "pinned_anchors", "tpm_intermediates"]

_FINGERPRINTS = {
    "amd.pem": (
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",  # ARK-Milan
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",  # ARK-Genoa
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",  # ARK-Turin
    ),
    "amd_intermediates.pem": (
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",  # SEV-Milan
        "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",  # SEV-VLEK-Milan
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",  # SEV-Genoa
        "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",  # SEV-VLEK-Genoa
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",  # SEV-Turin
        "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",  # SEV-VLEK-Turin
    ),
    "intel.pem": (
        "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",  # Intel SGX Root CA
    ),
    "aws.pem": (
        "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",  # aws.nitro-enclaves
    ),
    "tpm.pem": (
        "e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95",  # Azure Virtual TPM Root Certificate Authority 2023
        "8c2bb9144d4970c94fb8105cc5d860a58e2e675eb360fdd8c14b30833aaaec1d",  # Microsoft RSA Devices Root CA 2021
        "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",  # EK/AK CA Root
        "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",  # tpm_ek_v1_cloud_host_root-signer-0-2018-04-06T10:58:26-07:00 K:1, 1:Pw003HsFYO4:0:18
    ),
    "tpm_intermediates.pem": (
        "c84de8116dfaf5a908f21e810487791f5437e206d00ad8025050cca6bd2ff627",  # EK/AK CA Intermediate
        "5d8dbcf8c8053dd8ffad711b6219355032b7122c34cac0f90ccb49def69ec504",  # tpm_ek_v1_cloud_host-signer-0-2020-10-22T14:02:08-07:00 K:1, 2:HBNpA3TPAbM:0:18
        "7132b6ea71101f6c51bb58f98c3798c19b65be510eca0344318900510b593178",  # tpm_ek_v1_cloud_host-signer-0-2021-10-12T04:22:11-07:00 K:1, 3:nbvaGZFLcuc:0:18
    ),
}


@cache
def _load(name: str) -> tuple[bytes, ...]:
    certificates = load_pem_chain_untrusted(files(__name__).joinpath(name).read_bytes())
    found = tuple(fingerprint(der) for der in certificates)
    if found != _FINGERPRINTS[name]:
        raise PlatformError(
            f"cannot trust {name}: fingerprints: found {', '.join(found)}, want {', '.join(_FINGERPRINTS[name])}",
            hint="install enarx again: its files were changed",
        )
    return certificates


@cache
def pinned_anchors() -> TrustAnchors:
    """Return the roots of AMD, Intel, AWS, and of Azure's and Google's virtual TPMs."""
    return TrustAnchors(amd=_load("amd.pem"), intel=_load("intel.pem"), aws=_load("aws.pem"), tpm=_load("tpm.pem"))


def amd_intermediates() -> tuple[bytes, ...]:
    """Return the ASK and ASVK certificates of Milan, Genoa and Turin in DER."""
    return _load("amd_intermediates.pem")


def tpm_intermediates() -> tuple[bytes, ...]:
    """Return intermediates of Google's virtual TPMs in DER."""
    return _load("tpm_intermediates.pem")
