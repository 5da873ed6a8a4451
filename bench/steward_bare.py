# SPDX-License-Identifier: Apache-2.0
"""The cryptography that a Steward's certificate cannot do without, and nothing else: one process of `steward_cases`.

For each: the signatures of the request and of the report are verified; result, certificate and checkpoint are signed. Keys are loaded,
and what is signed has about the size that it has there. Reads how many, does it, prints wall and processor time in seconds; again and
again.
"""

from __future__ import annotations

import os
import sys
import time

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384


def main() -> int:
    vendor, authority, result = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
    log, keep = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    report, request, certificate, ear, checkpoint = (os.urandom(size) for size in (672, 200, 1200, 900, 120))
    hashed, small = ec.ECDSA(SHA384()), ec.ECDSA(SHA256())
    evidence, proof = vendor.sign(report, hashed), keep.sign(request, small)
    vek, key = vendor.public_key(), keep.public_key()
    for line in sys.stdin:
        cpu_s, began = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            key.verify(proof, request, small)
            vek.verify(evidence, report, hashed)
            result.sign(ear, hashed)
            authority.sign(certificate, hashed)
            log.sign(checkpoint)
        print(time.perf_counter() - began, time.process_time() - cpu_s, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
