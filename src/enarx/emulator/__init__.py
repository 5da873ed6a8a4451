# SPDX-License-Identifier: Apache-2.0
"""A software security processor with its own vendor: evidence in AMD's exact layout that protects nothing.

Runs: hosts without a Trusted Execution Environment, and tests. Trusted by: nobody, unless a policy names its root as insecure.

- `pki` is the vendor: ARK, ASK, ASVK, and the VCEK and VLEK certificates they sign, with AMD's names, algorithms and extensions.
- `report` is the processor: it fills in reports of every version and product and signs them.

Each installation makes keys of its own, so that what one emulated platform signs is worth nothing to another's users.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI, AMD 57230 VCEK Certificate and KDS Interface.
"""
