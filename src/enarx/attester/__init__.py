# SPDX-License-Identifier: Apache-2.0
"""Ask the TEE that this machine is for evidence: one module per device.

Runs: Keep. Trusted by: nobody, until what it returns was judged elsewhere.

Rules of this package:

- A driver asks a device for evidence over 64 bytes of the caller's, wraps the answer as a CMW, and judges nothing.
- Every device is reached through a `System`, so that an exact emulation of it (`enarx.testing.attesters`) runs the same code.
- Whatever a device does ends in a bounded number of tries; what one try waits for is the kernel's to bound, and each module says
  how long that is.
- Nothing of `verifier`, `endorsers` or `pydantic` is imported, because what is here is measured.

Source: RFC 9334; RFC 9999.
"""

from __future__ import annotations

from enarx.attester.attested import REPORT_DATA_BYTES, Attested, Attester, RuntimeRegister
from enarx.attester.finding import BACKENDS, find_attester

__all__ = ["BACKENDS", "REPORT_DATA_BYTES", "Attested", "Attester", "RuntimeRegister", "find_attester"]
