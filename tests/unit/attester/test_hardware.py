# SPDX-License-Identifier: Apache-2.0
"""The real devices of this machine, where it has any: `pytest -m hardware` on a TEE."""

from __future__ import annotations

import os

import pytest

from enarx.attester import BACKENDS, find_attester
from enarx.errors import PlatformError
from enarx.rats import Evidence
from enarx.verifier import recognise

pytestmark = pytest.mark.hardware
REPORT_DATA = bytes(range(64))
SECTIONS = {"snp": "snp", "tdx": "tdx", "cca": "cca", "sgx": "sgx", "nitro": "nitro", "vm": "tpm"}


def attester_of(backend):
    try:
        return find_attester(backend=backend)
    except PlatformError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_device_gives_evidence_that_is_recognised(backend):
    attested = attester_of(backend).attest(REPORT_DATA)
    recognised = recognise(Evidence(data=attested.evidence))
    assert recognised.section == SECTIONS[backend]


@pytest.mark.parametrize("backend", ["tdx", "vm"])
def test_the_register_is_extended(backend):
    """It stays extended until the machine is started again, so it has to be asked for."""
    if not os.environ.get("ENARX_EXTEND_REGISTER"):
        pytest.skip("ENARX_EXTEND_REGISTER is not set")
    register = attester_of(backend).register
    before = register.read()
    assert register.extend(b"\x5a" * 48) == register.predict(b"\x5a" * 48, before) == register.read()


def test_nothing_is_left_in_configfs():
    folder = "/sys/kernel/config/tsm/report"
    if not os.path.isdir(folder):
        pytest.skip("this kernel has no configfs-tsm")
    before = set(os.listdir(folder))
    attester_of("snp" if os.path.exists("/dev/sev-guest") else "tdx").attest(REPORT_DATA)
    assert set(os.listdir(folder)) == before
