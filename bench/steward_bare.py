# SPDX-License-Identifier: Apache-2.0
"""The cryptography that a Steward's certificate cannot do without, and nothing else: one process of `steward_cases`.

For each: the nonce's stamp is made and checked; the request's key, which is another one each time, is loaded, and the signatures of the
request and of the report are verified; result, certificate and checkpoint are signed; what the log has digests of is hashed; the request's
record of TLS is opened and the answer's sealed. All other keys are loaded, and everything has about the size that it has there. Reads how
many, does it, prints wall and processor time in seconds; again and again.
"""

from __future__ import annotations

import hmac
import os
import sys
import time
from hashlib import sha256, sha384

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key


def main() -> int:
    vendor, authority, result = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
    log, keep = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    report, request, certificate, ear, checkpoint = (os.urandom(size) for size in (672, 200, 1200, 900, 120))
    hashed, small = ec.ECDSA(SHA384()), ec.ECDSA(SHA256())
    evidence, proof = vendor.sign(report, hashed), keep.sign(request, small)
    vek = vendor.public_key()
    spki = keep.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    stamping, stamped, kept, entry = (os.urandom(size) for size in (32, 16, 7200, 2100))
    records, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    asked, answer = records.encrypt(nonce, os.urandom(10_400), None), os.urandom(3200)
    for line in sys.stdin:
        cpu_s, began = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            records.decrypt(nonce, asked, None)
            for _ in ("made", "checked"):
                hmac.digest(stamping, stamped, "sha256")
            key = load_der_public_key(spki)
            key.verify(proof, request, small)  # type: ignore[union-attr, call-arg, arg-type]
            vek.verify(evidence, report, hashed)
            result.sign(ear, hashed)
            authority.sign(certificate, hashed)
            sha384(spki).digest()
            sha256(report).digest()
            sha256(kept).digest()
            sha256(entry).digest()
            log.sign(checkpoint)
            records.encrypt(nonce, answer, None)
        print(time.perf_counter() - began, time.process_time() - cpu_s, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
