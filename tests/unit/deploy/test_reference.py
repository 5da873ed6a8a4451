# SPDX-License-Identifier: Apache-2.0
"""The default policy: its text is the policy, it accepts installed images, and emulated platforms only by name."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from datetime import timedelta

import pytest

from enarx.attester.emulated import EmulatedAttester
from enarx.deploy import attesting
from enarx.deploy.policy import find_policy, make_policy
from enarx.deploy.reference import POLICY_NAME, default_policy, image_hint, installed_images
from enarx.emulator.installation import open_installation
from enarx.emulator.service import answer
from enarx.endorsers.emulated_root import own_emulated_root
from enarx.errors import AppraisalError, PlatformError, UsageError, VerificationError
from enarx.image import measure_process, package_folder
from enarx.rats import Endorsements, Evidence, TrustAnchors, Verdict
from enarx.testing.dcap import AT as INTEL_AT
from enarx.testing.dcap import SGX, TDX, EnclaveReport, FakeIntel, Platform, TdReport
from enarx.testing.snp import AT
from enarx.verifier import pinned_anchors, recognise, verify_evidence
from enarx.verifier.endorsement_files import read_endorsements
from enarx.verifier.policy_lint import Level, lint_policy
from enarx.verifier.policy_toml import decode_policy
from enarx.wire.cmw import decode_cmw_untrusted, leaves
from enarx.wire.ear import Tier, build_ear

REPORT_DATA = bytes(range(64))


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    return open_installation(str(tmp_path_factory.mktemp("above") / "platform"), at=AT)


def root_of(platform):
    return hashlib.sha256(platform.root).digest()


def accepting(*roots):
    return dataclasses.replace(default_policy().policy, insecure_emulated_roots=frozenset(roots))


def judge(platform, policy, *, measurement=None, report_data=REPORT_DATA, anchors=None, at=AT):
    """Go the way of a deployment: the emulated device, the CMWs of an offer, the production verifier."""

    def exchange(request):
        launched = measure_process(package_folder()) if measurement is None else measurement
        return answer(platform, request, measurement=launched, report_id=bytes(32))

    attested = EmulatedAttester(exchange).attest(REPORT_DATA)
    files = [("x", leaf.value) for each in attested.endorsements for _, leaf in leaves(decode_cmw_untrusted(each))]
    return verify_evidence(
        recognise(Evidence(data=attested.evidence)),
        at=at,
        endorsements=read_endorsements(files),
        policy=policy,
        anchors=anchors,
        report_data=report_data,
    )


def status_of(result):
    return build_ear(result, issued_at=AT, evidence_sha256=bytes(32), build="1").status


def test_its_text_is_the_policy():
    made = default_policy()
    assert decode_policy(made.text.encode(), path=POLICY_NAME) == made.policy
    assert not [remark for remark in lint_policy(made.policy) if remark.level is not Level.NOTE]


def test_accepts_what_the_command_line_promises_and_nothing_else():
    made = default_policy()
    values = tomllib.loads(made.text)
    assert set(values) == {"version", "snp"}
    snp = values["snp"]
    assert snp["measurement"] == [measure_process(package_folder()).hex()]
    assert snp["vmpl"] == [0]
    assert snp["guest_policy"]["debug"] == "forbidden"
    assert snp["tcb"]["reported"] == {"preset": "amd-2026-05"}
    assert (snp["host_data"], snp["family_id"], snp["image_id"]) == (["00" * 32], ["00" * 16], ["00" * 16])
    assert snp["report_data"] == "from-caller"
    assert snp["revocation"] == "required"
    assert made.policy.insecure_emulated_roots == frozenset()


def test_lists_every_image_that_is_installed():
    made = default_policy({"process": b"p" * 48, 'an "image"\n[tdx]': b"i" * 48})
    assert tomllib.loads(made.text)["snp"]["measurement"] == [(b"p" * 48).hex(), (b"i" * 48).hex()]
    assert made.policy.tees == {"snp"}
    assert list(installed_images()) == ["process"]


def test_an_emulated_platform_is_accepted_by_name_and_never_affirmed(platform):
    result = judge(platform, accepting(root_of(platform)))
    result.require()
    assert result.verdict is Verdict.ACCEPTED
    assert result.emulated
    assert result.policy_name == POLICY_NAME
    assert status_of(result) is Tier.WARNING


@pytest.mark.parametrize("roots", [(), (bytes(32),)])
def test_an_emulated_platform_is_not_authentic_without_its_name(platform, roots):
    result = judge(platform, accepting(*roots))
    assert result.verdict is Verdict.NOT_AUTHENTIC
    assert "snp.ark.pinned" in {finding.check.id for finding in result.failures}
    assert status_of(result) is Tier.CONTRAINDICATED
    with pytest.raises(VerificationError):
        result.require()


def test_an_emulated_root_is_no_vendors_root(platform):
    pinned = pinned_anchors()
    with pytest.raises(UsageError, match="the roots of amd: found the root of an emulated platform"):
        dataclasses.replace(pinned, amd=(*pinned.amd, platform.root))
    with pytest.raises(UsageError, match="want it as insecure_emulated"):
        TrustAnchors(amd=(platform.root,))


def refuses(result, key):
    assert [finding.check.id for finding in result.failures] == [key]
    with pytest.raises(AppraisalError):
        result.require()


def test_refuses_another_measurement(platform):
    refuses(judge(platform, accepting(root_of(platform)), measurement=b"x" * 48), "snp.measurement")


def test_refuses_an_old_answer(platform):
    refuses(judge(platform, accepting(root_of(platform)), report_data=bytes(64)), "snp.report_data")


def test_holds_until_the_platform_is_renewed(platform):
    result = judge(platform, accepting(root_of(platform)), at=platform.renew_at - timedelta(seconds=1))
    assert result.verdict is Verdict.ACCEPTED
    # A tenant's clock may be a little behind the host's.
    assert judge(platform, accepting(root_of(platform)), at=AT - timedelta(hours=12)).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("tee", [TDX, SGX])
def test_says_that_there_is_no_image_for_other_tees(tee):
    intel, machine = FakeIntel(), Platform()
    body = TdReport(tee_tcb_svn2=bytes([6, 1, 4]).ljust(16, b"\0")) if tee == TDX else EnclaveReport()
    result = verify_evidence(
        Evidence(data=intel.make_quote(body, machine)),
        at=INTEL_AT,
        endorsements=Endorsements(intel=(intel.make_collateral(tee, machine),)),
        anchors=TrustAnchors(intel=(intel.root.der,)),
        policy=default_policy().policy,
        report_data=REPORT_DATA,
    )
    refuses(result, "policy.tee")
    assert result.failures[0].source == POLICY_NAME
    assert f"no image for {result.tee} is in this installation" in image_hint(result)
    assert attesting._next_step(result, "tdx", find_policy(None)) == image_hint(result)
    assert "mine.toml says what is accepted" in attesting._next_step(
        result, "tdx", make_policy(default_policy().text.encode(), name="mine.toml")
    )


def test_gives_no_such_hint_for_other_reasons(platform):
    assert image_hint(judge(platform, accepting(root_of(platform)), measurement=b"x" * 48)) is None
    assert image_hint(judge(platform, accepting(root_of(platform)))) is None


def test_the_own_root_is_the_installations(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(PlatformError, match="found none") as caught:
        own_emulated_root()
    assert "--insecure-accept-emulated=ROOT-SHA256" in caught.value.hint
    made = open_installation(f"{tmp_path}/enarx/emulated-platform", at=AT)
    assert own_emulated_root() == root_of(made)
