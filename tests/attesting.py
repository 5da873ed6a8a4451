# SPDX-License-Identifier: Apache-2.0
"""Evidence of a fake AMD in files, and policies that accept it as what it is: emulated."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.testing.snp import FakeAmd, SnpCase
from enarx.verifier.policy_write import write_policy

NOW = datetime.fromtimestamp(time.time(), UTC)
YESTERDAY = NOW - timedelta(days=1)


def make_policy_text(root: bytes | None = None, **lines: str) -> str:
    """Return a policy for SNP that skips what is not debugging, and trusts an emulated root where one is given.

    Args:
        root: DER of an ARK.
        lines: keys of `[snp]` with their values in TOML, instead of skipping them.
    """
    text = write_policy(["snp"], references={}, origin="for a test").text
    text = re.sub(r"^# (measurement) =.*$", r"\1 = 0", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+) = .*$", r'\1 = { skip = "not what is tested" }', text, flags=re.MULTILINE)
    text = re.sub(r"^(version) = .*$", r"\1 = 1", text, count=1, flags=re.MULTILINE)
    for key, value in {"debug": '"forbidden"', **lines}.items():
        text, count = re.subn(rf"^{key} = \{{.*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert count == 1, key
    if root is None:
        return text
    return text.replace("\n[snp]", f'insecure_emulated_roots = ["{hashlib.sha256(root).hexdigest()}"]\n\n[snp]', 1)


def make_pem(*certificates: bytes) -> bytes:
    """Return certificates in PEM."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """One case in files.

    Args:
        amd: who made it.
        case: valid since yesterday.
        report: the report.
        certificates: the VCEK, the ASK and the ARK in one PEM file.
        crl: DER.
        policy: accepts it.
    """

    amd: FakeAmd
    case: SnpCase
    report: Path
    certificates: Path
    crl: Path
    policy: Path


def write_files(
    folder: Path, amd: FakeAmd | None = None, *, policy: dict[str, str] | None = None, **made: Any
) -> Files:
    """Write evidence, its certificates, a revocation list and a policy.

    Args:
        folder: is made.
        amd: who makes it.
        policy: as for `make_policy_text`.
        made: as for `FakeAmd.make_case`.
    """
    folder.mkdir(exist_ok=True)
    amd = amd if amd is not None else FakeAmd()
    case = amd.make_case(**{"at": YESTERDAY} | made)
    contents = {
        "report.bin": case.data,
        "chain.pem": make_pem(*case.certificates),
        "list.crl": amd.make_crl(at=YESTERDAY),
        "policy.toml": make_policy_text(amd.root, **(policy or {})).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    report, certificates, crl, policy_file = (folder / name for name in contents)
    return Files(amd=amd, case=case, report=report, certificates=certificates, crl=crl, policy=policy_file)
