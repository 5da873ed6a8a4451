# SPDX-License-Identifier: Apache-2.0
"""Runs: keep. Trusted by: the tenant, once measured. WASI preview 1 for core modules.

The engine's own WASI serves arguments, clocks, random numbers, directories and files; stdio and sockets are Python's,
by an overlay that `tools/make_overlay.py` explains. `core` puts the parts together, `host` answers the calls.
"""
