# SPDX-License-Identifier: Apache-2.0
"""How long the claims behind some keys of a policy stay the same, for those who write and judge policies.

The rules of a judge say how a value is written and read; this is what they do not say.
"""

from __future__ import annotations

__all__ = ["OF_ONE_GUEST", "OF_ONE_MACHINE", "OF_WHOEVER_SIGNED"]

OF_ONE_GUEST = frozenset(
    {
        "snp.report_id",
        "snp.report_id_ma",
        "nitro.module_id",
        "nitro.public_key_sha256",
        "nitro.user_data_sha256",
        "azure.user_data",
    }
)
"""Keys whose claim is new with each launch, or can be."""

OF_ONE_MACHINE = frozenset(
    {
        "snp.chip_id",
        "tdx.ppid",
        "tdx.platform_instance_id",
        "sgx.ppid",
        "sgx.platform_instance_id",
        "cca.instance_id",
        "azure.ak",
        "azure.vm_id",
    }
)
"""Keys whose claim names one processor or one virtual machine that other evidence vouches for."""

OF_WHOEVER_SIGNED = frozenset({"snp.id_key_digest", "snp.author_key_digest", "nitro.pcr8"})
"""Keys whose claim names who signed what runs, and so says it as well as a measurement does."""
