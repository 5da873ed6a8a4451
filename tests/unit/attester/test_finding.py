# SPDX-License-Identifier: Apache-2.0
"""Finding the device: the TEE before the TPM beside it, and nothing emulated."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from enarx.attester import BACKENDS, find_attester
from enarx.attester.emulated import EmulatedAttester
from enarx.errors import PlatformError, UsageError
from enarx.testing.attesters import FakeFile, FakeGramine, FakeNsm, FakeSevGuest, FakeSystem, snp_source
from enarx.testing.attesters_configfs import FakeConfigfs, FakeTdxGuest, cca_provider, snp_provider
from enarx.testing.attesters_tpm import FakeTpmDevice
from enarx.testing.cca import CcaPlatform
from enarx.testing.dcap import FakeIntel, Platform
from enarx.testing.nitro import NitroAuthority
from enarx.testing.snp import FakeAmd
from enarx.testing.tpm import FakeTpm

SOURCE = snp_source(FakeAmd())
TPM = FakeTpmDevice(FakeTpm(kind="ecc"))
REPORTS = "/sys/kernel/config/tsm/report"
DEVICES = {
    "snp": {REPORTS: FakeConfigfs(snp_provider(SOURCE))},
    "tdx": {REPORTS: FakeTdxGuest(FakeIntel(), Platform()).configfs},
    "cca": {REPORTS: FakeConfigfs(cca_provider(CcaPlatform()))},
    "sgx": {"/dev/attestation": FakeGramine(FakeIntel(), Platform())},
    "nitro": {"/dev/nsm": FakeNsm(NitroAuthority(at=datetime(2026, 3, 1, tzinfo=UTC)))},
    "vm": {"/dev/tpmrm0": TPM},
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_finds_each_backend_even_beside_a_tpm(backend):
    for devices in (DEVICES[backend], DEVICES["vm"] | DEVICES[backend]):
        found = find_attester(system=FakeSystem(devices))
        assert found.backend == backend
        found.attest(bytes(64))


def test_an_snp_guest_without_configfs_has_its_own_device():
    for beside in ({}, {REPORTS: FakeConfigfs(None)}):
        machine = FakeSystem({"/dev/sev-guest": FakeSevGuest(SOURCE), **beside, **DEVICES["vm"]})
        assert type(find_attester(system=machine)).__name__ == "SevGuestAttester"


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_backend_than_the_one_asked_for_will_not_do(backend):
    others = {path: device for name, devices in DEVICES.items() if name != backend for path, device in devices.items()}
    if backend in {"snp", "tdx", "cca"}:
        others |= DEVICES["cca" if backend != "cca" else "tdx"]
    with pytest.raises(PlatformError, match=f"cannot attest: {backend}: found no device, want one of") as caught:
        find_attester(backend=backend, system=FakeSystem(others))
    assert "platform info" in caught.value.hint


def test_the_one_asked_for_is_taken_where_there_are_several():
    assert find_attester(backend="vm", system=FakeSystem(DEVICES["snp"] | DEVICES["vm"])).backend == "vm"


def test_a_machine_with_nothing_says_what_was_looked_for():
    wanted = "configfs-tsm, /dev/sev-guest, /dev/attestation, /dev/nsm, Azure's virtual TPM, /dev/tpmrm0"
    with pytest.raises(PlatformError, match=f"cannot attest: this machine: found no device, want one of {wanted}"):
        find_attester(system=FakeSystem({}))


def test_a_device_that_may_not_be_asked_is_told_only_where_no_other_is():
    closed = FakeConfigfs(None)
    closed.errors["mkdir"] = errno.EACCES
    with pytest.raises(PlatformError, match="permission denied"):
        find_attester(system=FakeSystem({REPORTS: closed}))
    assert find_attester(system=FakeSystem({REPORTS: closed, **DEVICES["vm"]})).backend == "vm"
    # A device that is there and does not open is found, and then says so itself.
    machine = FakeSystem({"/dev/tpmrm0": FakeFile(error=errno.EACCES)})
    with pytest.raises(PlatformError, match="permission denied"):
        find_attester(system=machine).attest(bytes(64))


@pytest.mark.parametrize("backend", ["nil", "emulated", ""])
def test_nothing_emulated_is_ever_found(backend):
    with pytest.raises(UsageError, match=f"backend: found {backend}, want one of snp, tdx"):
        find_attester(backend=backend, system=FakeSystem({}))
    assert EmulatedAttester.backend not in BACKENDS


def test_looks_below_a_root(tmp_path):
    (tmp_path / "dev/attestation").mkdir(parents=True)
    (tmp_path / "dev/attestation/attestation_type").write_text("none")
    assert find_attester(str(tmp_path)).backend == "sgx"
    os.remove(tmp_path / "dev/attestation/attestation_type")
    with pytest.raises(PlatformError, match="found no device"):
        find_attester(str(tmp_path))


def test_the_keep_gets_no_verifier_with_its_attesters():
    code = (
        "import sys\n"
        f"sys.path += {[path for path in sys.path if path]!r}\n"
        "import enarx.attester.configfs, enarx.attester.sev_guest, enarx.attester.gramine, enarx.attester.nsm\n"
        "import enarx.attester.tpm, enarx.attester.emulated, enarx.attester\n"
        "unwanted = {'enarx.verifier', 'enarx.endorsers', 'enarx.emulator', 'enarx.testing', 'pydantic', 'httpx2'}\n"
        "assert not unwanted & set(sys.modules), unwanted & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], timeout=60, check=True)


def test_an_emulated_platform_goes_before_a_tpm_and_after_a_tee():
    emulated = EmulatedAttester(lambda _: b"")
    assert find_attester(system=FakeSystem({}), emulated=emulated) is emulated
    assert find_attester(system=FakeSystem(DEVICES["vm"]), emulated=emulated) is emulated
    assert find_attester(system=FakeSystem(DEVICES["snp"]), emulated=emulated).backend == "snp"
    assert find_attester(system=FakeSystem(DEVICES["vm"])).backend == "vm"
