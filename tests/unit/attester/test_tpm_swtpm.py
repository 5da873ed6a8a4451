# SPDX-License-Identifier: Apache-2.0
"""The same driver against swtpm, a TPM that is not ours: `ENARX_SWTPM` or the search path says where it is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

from enarx.attester.system import LinuxSystem
from enarx.attester.tpm import TpmAttester, TpmRegister, read_nv
from enarx.errors import PlatformError
from enarx.rats import Evidence, TrustAnchors
from enarx.testing.tpm import AT
from enarx.verifier import recognise
from enarx.verifier.tpm import load_ak
from tests.unit.attester.judging import REPORT_DATA, assert_judged

SWTPM = os.environ.get("ENARX_SWTPM") or shutil.which("swtpm")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SWTPM is None, reason="swtpm is not installed")]
DIGEST = b"\x5a" * 48


class Socketed(LinuxSystem):
    """A machine whose TPM is at the other end of a socket."""

    def __init__(self, connection):
        super().__init__()
        self.connection = connection

    def open(self, path, flags):
        if path != "/dev/tpmrm0":
            raise FileNotFoundError(2, "none", path)
        return os.dup(self.connection.fileno())


@pytest.fixture
def system(tmp_path):
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    command = [SWTPM, "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--fd", str(theirs.fileno())]
    flags = ["--flags", "not-need-init,startup-clear"]
    with ours, subprocess.Popen([*command, *flags], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.setblocking(True)
        yield Socketed(ours)
        process.terminate()


def test_evidence_is_accepted_and_the_register_extended(system):
    import hashlib

    register = TpmRegister(system)
    assert register.read() == bytes(32)
    assert register.extend(DIGEST) == register.predict(DIGEST) == register.read()
    attested = TpmAttester(system).attest(REPORT_DATA)
    spki = load_ak(recognise(Evidence(data=attested.evidence)).parsed)
    anchors = TrustAnchors(tpm_aks=frozenset({hashlib.sha256(spki).digest()}))
    result = assert_judged(attested, at=AT, anchors=anchors, freshness="tpm.nonce")
    assert result.subject.pcrs[15] == register.predict(DIGEST)
    noted = [finding.line for finding in result.findings if finding.check.id == "tpm.ak.name"]
    assert "a primary key of the endorsement hierarchy" in noted[0]


def test_an_index_that_is_not_there_is_none(system):
    assert read_nv(system, 0x01400001) is None


def test_a_key_that_is_not_there_is_said(system):
    with pytest.raises(PlatformError, match=r"command 0x173: found a refusal \(TPM_RC 0x18b\)"):
        TpmAttester(system, ak_handle=0x81000003).attest(REPORT_DATA)
