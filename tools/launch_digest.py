# SPDX-License-Identifier: Apache-2.0
"""Launch digests of the corpus's vectors, computed by the `sev-snp-measure` package: none of its hashing is repeated here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any


def digest_of_vector(params: Mapping[str, Any], ovmf: bytes) -> bytes:
    """Compute the launch digest of one vector.

    Args:
        params: mode, vcpus, vcpu_type, vmm, kernel, initrd, append, guest_features, and ovmf_hash where the digest of the whole
            firmware is known; an empty text stands for an empty file, None for none.
        ovmf: the firmware, or its end where `ovmf_hash` stands for the rest.

    Raises:
        ValueError, RuntimeError: these inputs have no digest.
    """
    from sevsnpmeasure import guest, vcpu_types
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vmm_types import VMMType

    with tempfile.TemporaryDirectory() as folder:
        firmware, empty = os.path.join(folder, "ovmf"), os.path.join(folder, "empty")
        for path, content in ((firmware, ovmf), (empty, b"")):
            with open(path, "wb") as file:
                file.write(content)
        kind = params["vcpu_type"]
        digest: bytes = guest.calc_launch_digest(
            SevMode[params["mode"]],
            params["vcpus"],
            vcpu_types.CPU_SIGS[kind] if kind else 0,
            firmware,
            empty if params["kernel"] is not None else None,
            empty if params["initrd"] is not None else None,
            params["append"],
            params["guest_features"],
            params.get("ovmf_hash", ""),
            VMMType[params["vmm"]],
        )
    return digest


def digest_of_sections(inputs: Mapping[str, Any]) -> bytes:
    """Compute an SNP launch digest where the firmware is known only by its digest and the sections of its metadata.

    Args:
        inputs: `ovmf_hash`, `ovmf_sections` (gpa, size, type), `hashes_table_gpa`, `reset_eip`, `kernel_sha256`, `initrd_sha256`,
            `cmdline`, `vcpus`, `vcpu_sig`, `guest_features`.
    """
    import hashlib

    from sevsnpmeasure.gctx import GCTX
    from sevsnpmeasure.sev_hashes import SevHashes
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vmm_types import VMMType
    from sevsnpmeasure.vmsa import VMSA

    context = GCTX(seed=bytes.fromhex(inputs["ovmf_hash"]))
    hashes = SevHashes.__new__(SevHashes)
    hashes.kernel_hash = bytes.fromhex(inputs["kernel_sha256"])
    hashes.initrd_hash = bytes.fromhex(inputs["initrd_sha256"])
    hashes.cmdline_hash = hashlib.sha256(inputs["cmdline"].encode() + b"\0").digest()
    for section in inputs["ovmf_sections"]:
        gpa, size = section["gpa"], section["size"]
        if section["type"] in {1, 4}:
            context.update_zero_pages(gpa, size)
        elif section["type"] == 2:
            context.update_secrets_page(gpa)
        elif section["type"] == 3:
            context.update_cpuid_page(gpa)
        elif section["type"] == 16:
            context.update_normal_pages(gpa, hashes.construct_page(inputs["hashes_table_gpa"] & 0xFFF))
        else:
            raise ValueError(f"found a section of type {section['type']}, want 1, 2, 3, 4 or 16")
    vmsa = VMSA(SevMode.SEV_SNP, inputs["reset_eip"], inputs["vcpu_sig"], inputs["guest_features"], VMMType.QEMU)
    for page in vmsa.pages(inputs["vcpus"]):
        context.update_vmsa_page(page)
    digest: bytes = context.ld()
    return digest
