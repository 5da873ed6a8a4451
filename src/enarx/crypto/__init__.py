# SPDX-License-Identifier: Apache-2.0
"""Thin calls into `cryptography` that raise enarx errors and know nothing of any TEE.

Runs: tenant, host and Keep. Trusted by: each of them, for its own keys. No I/O, no clock: bytes and times come in as arguments.
"""
