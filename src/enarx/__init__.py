# SPDX-License-Identifier: Apache-2.0
"""Run WebAssembly applications, unchanged, inside Trusted Execution Environments.

The packages below are layers; each imports only what `docs/architecture.md` draws beneath it.
"""

__version__ = "0.1.0"
