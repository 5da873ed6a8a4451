# SPDX-License-Identifier: Apache-2.0
"""What a host says that it started names the part that differs where it can be proven, and changes no verdict."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from enarx.deploy.explaining import explain_launch
from enarx.deploy.policy import find_policy
from enarx.deploy.reference import image_hint
from enarx.errors import AppraisalError, PlatformError
from enarx.image.measure import LaunchParts, snp_firmware_pages
from enarx.image.reference import emulated_measurements, snp_measurements
from enarx.rats import AttestationResult, Check, Concern, Finding, Outcome, Verdict
from tests.unit.image.machine_files import make_firmware, make_kernel
from tests.unit.image.machines import FIRMWARE, installed, make_machine

AT = datetime(2026, 11, 1, tzinfo=UTC)
KEEP = "0123456789abcdef"
CHANGES = {
    "firmware": {
        "firmware": FIRMWARE | {role: make_firmware(b"other", checks_hashes=role == "snp") for role in FIRMWARE}
    },
    "kernel": {"kernel": make_kernel(b"other!")},
    "initramfs": {"initramfs": b"another"},
    "command line": {"cmdline": "console=ttyS0 quieT"},
}
UNTOLD = "not as in image keep-test: firmware, kernel, initramfs or command line"


class Host:
    def __init__(self, said):
        self.said, self.asked = said, []

    async def show_parts(self, keep_id):
        self.asked.append(keep_id)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.fixture(autouse=True)
def image(tmp_path, monkeypatch):
    return installed(tmp_path / "data", monkeypatch)


def refusal(*, emulated=False, **found):
    findings = tuple(
        Finding(Check(f"snp.{key}", "test", Concern.APPRAISAL, ""), Outcome.FAILED, None, value, "the policy")
        for key, value in found.items()
    )
    result = AttestationResult(
        tee="snp", subject=None, findings=findings, at=AT, policy_name="p.toml", emulated=emulated
    )
    error = AppraisalError("refused", hint=image_hint(result))
    error.result = result
    return error


def explained(error, host, policy=None):
    verdict = error.result.verdict, str(error), type(error)
    asyncio.run(explain_launch(error, policy or find_policy(None), host, KEEP))
    # Whatever was said.
    assert (error.result.verdict, str(error), type(error)) == verdict
    assert error.result.verdict is Verdict.REFUSED
    return error.hint


def launched(*, emulated, **changes):
    machine = make_machine(**changes)
    role, boot = ("vm", machine.boot) if emulated else ("snp", machine.snp_boot)
    digests = emulated_measurements(machine) if emulated else list(snp_measurements(machine).values())
    pages = snp_firmware_pages(machine.firmware[role])
    return digests[0], LaunchParts(pages, boot.kernel_sha256, boot.initramfs_sha256, boot.cmdline_sha256)


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("part", CHANGES)
def test_the_part_that_a_host_started_otherwise_is_named(part, emulated):
    digest, said = launched(emulated=emulated, **CHANGES[part])
    host = Host(said)
    error = refusal(measurement=digest, emulated=emulated)
    assert error.hint == UNTOLD
    assert explained(error, host) == f"not as in image keep-test: {part}"
    assert host.asked == [KEEP]


@pytest.mark.parametrize("part", CHANGES)
def test_a_host_that_lies_is_said_to_prove_nothing(part):
    digest, _ = launched(emulated=False, **CHANGES[part])
    _, honest = launched(emulated=False)
    hint = explained(refusal(measurement=digest), Host(honest))
    assert hint == f"{UNTOLD}; what the host says that it started does not give this launch digest"


def test_a_host_that_says_nothing_leaves_the_hint():
    error = refusal(measurement=b"x" * 48)
    assert explained(error, Host(PlatformError("no machine"))) == UNTOLD


def test_a_refusal_for_something_else_asks_nobody():
    host = Host(PlatformError("not asked"))
    assert explained(refusal(vmpl=3), host) is None
    (digest,) = snp_measurements(make_machine(), vcpus=(2,)).values()
    assert "number or type of processors" in explained(refusal(measurement=digest), host)
    assert host.asked == []


def test_of_several_images_the_one_that_comes_closest_is_named(tmp_path, monkeypatch):
    other = {"kernel": make_kernel(b"older!"), "initramfs": b"older"}
    installed(tmp_path / "data", monkeypatch, name="keep-older", **other)
    digest, said = launched(emulated=False, **CHANGES["kernel"])
    assert explained(refusal(measurement=digest), Host(said)) == "not as in image keep-test: kernel"


def test_an_image_that_is_gone_leaves_what_is_known(tmp_path, monkeypatch):
    digest, said = launched(emulated=False, **CHANGES["kernel"])
    error, policy = refusal(measurement=digest), find_policy(None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert explained(error, Host(said), policy).startswith(UNTOLD)
