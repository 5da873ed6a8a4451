# SPDX-License-Identifier: Apache-2.0
"""Make examples/evidence again: a report of a pretended AMD processor, and a policy that accepts it.

    .venv/bin/python tools/make_evidence.py [FOLDER]

Every run makes a vendor of its own and forgets its keys, so nobody can sign anything more that the policy accepts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, serialise_certificate_table
from enarx.emulator.report import make_tcb
from enarx.testing.snp import FakeAmd
from enarx.verifier.policy_write import references_from_manifest, write_policy

FOLDER = Path(__file__).parent.parent / "examples/evidence"

FROM = datetime(2026, 3, 1, tzinfo=UTC)
"""Certificates and the revocation list are valid from here on, for seven years."""

LIFETIME = timedelta(days=7 * 365)
MEASUREMENT = hashlib.sha384(b"Hello, Enarx!").digest()
CHALLENGE = bytes.fromhex("00112233445566778899aabbccddeeff").ljust(64, b"\0")
TCB = make_tcb("Milan", snp=29)


def make_evidence(folder: Path) -> None:
    """Write `report.bin`, an extended report, and `policy.toml`.

    Args:
        folder: that exists.
    """
    amd = FakeAmd()
    said = {"measurement": MEASUREMENT, "report_data": CHALLENGE}
    tcbs = dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), TCB)
    case = amd.make_case(version=3, report=said | tcbs, at=FROM, lifetime=LIFETIME)
    entries = (*case.certificates, amd.make_crl(at=FROM, lifetime=LIFETIME))
    table = serialise_certificate_table(zip((VCEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID), entries, strict=True))
    (folder / "report.bin").write_bytes(case.data + table)

    manifest = {"reference_values": {"snp": {"measurement": [MEASUREMENT.hex()]}}}
    sections, references = references_from_manifest(json.dumps(manifest).encode(), path="tools/make_evidence.py")
    policy = write_policy(
        sections, references=references, origin="Test evidence: nothing that it accepts is real."
    ).text
    root = f'insecure_emulated_roots = ["{hashlib.sha256(amd.root).hexdigest()}"]'
    (folder / "policy.toml").write_text(policy.replace("version = 1\n", f"version = 1\n{root}\n", 1), encoding="utf-8")


if __name__ == "__main__":
    make_evidence(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
