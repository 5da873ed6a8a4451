# SPDX-License-Identifier: Apache-2.0
"""Whether what a service presents makes it the Keep that is wanted: both kinds of certificates, each refusal for its own reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from enarx.deploy.policy import make_policy
from enarx.deploy.service_judge import KeepPolicy, ServiceJudge
from enarx.errors import AppraisalError, EndorsementError, UsageError, VerificationError
from enarx.rats import Endorsements, Outcome, Verdict
from enarx.steward.authority import make_authority
from enarx.steward.certificates import Wanted, encode_key, spiffe_id
from enarx.testing.snp import FakeAmd
from enarx.wire.ear import Tier
from enarx.wire.release import encode_identity
from tests.attesting import make_policy_text
from tests.presenting import IDENTITY, FakeSteward, Shown, make_ear, make_self_signed_keep

AT = datetime(2026, 6, 1, tzinfo=UTC)
GIVEN = IDENTITY._replace(pristine=False)


@pytest.fixture(scope="module")
def steward():
    return FakeSteward(at=AT)


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


def judge(shown, *, at=AT, server_name="localhost", fetch=None, **policy):
    return ServiceJudge(KeepPolicy(**policy), now=lambda: at, fetch=fetch).judge(shown.der, server_name=server_name)


def failed(judged):
    return {finding.check.id for finding in judged.result.findings if finding.outcome is Outcome.FAILED}


def found(judged, name):
    return next(finding for finding in judged.result.findings if finding.check.id == name)


class TestSteward:
    @pytest.fixture
    def by_root(self, steward):
        def call(shown, **options):
            return judge(shown, steward_root=steward.root, **options)

        return call

    def test_accepts_a_certificate_of_its_own_root_and_name(self, steward, by_root):
        judged = by_root(steward.issue(), package=IDENTITY.package, tenant=IDENTITY.tenant)
        assert judged.verdict is Verdict.ACCEPTED
        judged.require()
        assert judged.presented.identity == IDENTITY
        assert not judged.result.emulated
        assert judged.result.valid_until == AT + timedelta(hours=23)
        passed = {each.check.id for each in judged.result.findings if each.outcome is Outcome.PASSED}
        assert passed == {
            f"service.{name}" for name in ("keep", "time", "chain", "name", "result", "emulated", "package", "tenant")
        }

    def test_accepts_what_an_authority_below_the_root_issued(self):
        steward = FakeSteward(at=AT, intermediate=True)
        shown = steward.issue()
        for root in (steward.root, steward.issuers[0]):
            judge(shown, steward_root=root).require()
        judged = judge(replace(shown, chain=shown.chain[:1]), steward_root=steward.root)
        assert failed(judged) == {"service.chain"}

    @pytest.mark.parametrize("name", ["LOCALHOST", "localhost."])
    def test_a_name_is_compared_as_names_are(self, steward, by_root, name):
        by_root(steward.issue(), server_name=name).require()

    @pytest.mark.parametrize("name", ["keep.example", "127.0.0.1", "[::1]", "", "no name", None])
    def test_refuses_another_name(self, steward, by_root, name):
        judged = by_root(steward.issue(), server_name=name)
        assert failed(judged) == {"service.name"}
        assert found(judged, "service.chain").outcome is Outcome.PASSED
        with pytest.raises(
            VerificationError, match=r"not authentic: service\.name failed: found localhost, spiffe"
        ) as caught:
            judged.require()
        assert "--server-name" in caught.value.hint
        assert caught.value.result is judged.result

    def test_refuses_a_foreign_root(self, steward):
        judged = judge(steward.issue(), steward_root=FakeSteward(at=AT).root)
        assert failed(judged) == {"service.chain"}
        with pytest.raises(VerificationError, match=r"not authentic: service\.chain failed"):
            judged.require()

    def test_cannot_decide_without_a_root(self, steward):
        judged = judge(steward.issue(), package=IDENTITY.package)
        assert judged.verdict is Verdict.UNDECIDED
        with pytest.raises(EndorsementError, match=r"cannot be judged: service\.chain undecided") as caught:
            judged.require("keep:443")
        assert "--steward-root" in caught.value.hint

    @pytest.mark.parametrize("at", [AT + timedelta(days=2), AT - timedelta(days=1)])
    def test_refuses_what_does_not_hold_at_the_time(self, steward, by_root, at):
        judged = by_root(steward.issue(), at=at)
        assert failed(judged) == {"service.time"}
        with pytest.raises(VerificationError, match=r"service\.time failed") as caught:
            judged.require()
        assert "clock" in caught.value.hint

    def test_refuses_a_result_that_has_ended(self, steward, by_root):
        judged = by_root(steward.issue(expires_at=AT))
        assert failed(judged) == {"service.result_time"}
        assert judged.verdict is Verdict.NOT_AUTHENTIC
        judged = by_root(steward.issue(expires_at=AT + timedelta(seconds=1)))
        assert judged.verdict is Verdict.ACCEPTED
        assert judged.result.valid_until == AT + timedelta(seconds=1)

    @pytest.mark.parametrize(
        "ear",
        [{"verdict": "refused"}, {"verdict": None}, {"verdict": ["accepted"]}, {"status": Tier.CONTRAINDICATED}],
    )
    def test_refuses_a_result_that_is_no_acceptance(self, steward, by_root, ear):
        judged = by_root(steward.issue(**ear))
        assert failed(judged) == {"service.result"}
        assert judged.verdict is Verdict.REFUSED

    def test_says_which_status_it_accepted(self, steward, by_root):
        judged = by_root(steward.issue(status=Tier.WARNING))
        assert judged.verdict is Verdict.ACCEPTED
        assert found(judged, "service.result").found == "accepted: warning"

    @pytest.mark.parametrize(
        ("name", "wanted"), [("package", b"P" * 32), ("package", IDENTITY.module), ("tenant", b"T" * 48)]
    )
    def test_refuses_another_workload_or_tenant(self, steward, by_root, name, wanted):
        judged = by_root(steward.issue(), **{name: wanted})
        assert failed(judged) == {f"service.{name}"}
        with pytest.raises(AppraisalError, match=rf"is refused: service\.{name} failed.*want {wanted.hex()}") as caught:
            judged.require()
        assert f"--{name}" in caught.value.hint

    def test_the_name_is_enough_where_nothing_else_is_wanted(self, steward, by_root):
        judged = by_root(steward.issue(identity=GIVEN))
        assert judged.verdict is Verdict.ACCEPTED
        assert found(judged, "service.package").outcome is Outcome.NOTED

    @pytest.mark.parametrize("claim", [True, None])
    def test_refuses_an_emulated_platform_unless_that_is_said(self, steward, by_root, claim):
        shown = steward.issue(emulated=claim, status=Tier.WARNING)
        judged = by_root(shown)
        assert failed(judged) == {"service.emulated"}
        with pytest.raises(AppraisalError, match=r"service\.emulated failed: found EMULATED") as caught:
            judged.require()
        assert "--insecure-accept-emulated" in caught.value.hint
        judged = by_root(shown, insecure_accept_emulated="")
        judged.require()
        assert judged.result.emulated
        # Of which root it is the Steward does not say.
        assert failed(by_root(shown, insecure_accept_emulated="00" * 32)) == {"service.emulated"}

    def test_says_every_failure(self, steward):
        other = FakeSteward(at=AT)
        judged = judge(
            steward.issue(emulated=True, verdict="refused"),
            steward_root=other.root,
            package=b"P" * 32,
            tenant=b"T" * 48,
            at=AT + timedelta(days=2),
        )
        assert failed(judged) == {
            f"service.{name}" for name in ("time", "chain", "result", "emulated", "package", "tenant")
        }
        assert judged.verdict is Verdict.NOT_AUTHENTIC
        with pytest.raises(VerificationError, match=r"service\.time failed.*\(and 1 more\)"):
            judged.require()

    @pytest.mark.parametrize("make_key", [ec.generate_private_key, ed25519.Ed25519PrivateKey.generate])
    def test_takes_what_a_steward_issues(self, make_key):
        key = make_key(ec.SECP384R1()) if make_key is ec.generate_private_key else make_key()
        authority = make_authority("steward.example", AT)
        wanted = Wanted(
            key=key.public_key(),
            spki=encode_key(key.public_key()),
            package=IDENTITY.package,
            identity=encode_identity(IDENTITY),
            result=make_ear(AT, emulated=True),
            dns=("keep.example",),
            spiffe=spiffe_id("example", IDENTITY.package),
            lifetime=timedelta(hours=24),
            is_emulated=True,
            crl_url="http://steward.example/v1/crl",
        )
        shown = Shown(chain=(authority.issue(wanted, at=AT),), key=key)
        options = {"steward_root": authority.root, "server_name": "keep.example", "package": IDENTITY.package}
        assert failed(judge(shown, **options)) == {"service.emulated"}
        judge(shown, **options, insecure_accept_emulated="").require()
        own = authority.server_credential("keep.example", at=AT)
        assert failed(judge(Shown(chain=own.chain, key=own.private_key), **options)) == {"service.keep"}

    def test_refuses_a_certificate_of_no_keep(self, steward, by_root):
        judged = by_root(steward.issue(extension=None))
        with pytest.raises(AppraisalError, match=r"service\.keep failed: found no evidence of a Keep") as caught:
            judged.require()
        assert "right port" in caught.value.hint


class TestSelfSigned:
    @pytest.fixture
    def appraisal(self, amd):
        return make_policy(make_policy_text(amd.root).encode(), name="p.toml")

    @pytest.fixture
    def judged_by(self, appraisal):
        def call(shown, **options):
            options = {"appraisal": appraisal, "accept_key_only": True, "package": IDENTITY.package} | options
            return judge(shown, server_name=None, **options)

        return call

    def test_accepts_evidence_over_the_key_and_the_identity(self, amd, judged_by):
        judged = judged_by(make_self_signed_keep(amd, at=AT))
        judged.require()
        assert judged.result.emulated
        assert judged.result.tee == "snp"
        assert found(judged, "service.fresh").found == "key-only, not fresh"
        assert found(judged, "snp.report_data").outcome is Outcome.PASSED

    def test_a_key_alone_is_not_enough_unless_that_is_said(self, amd, judged_by):
        judged = judged_by(make_self_signed_keep(amd, at=AT), accept_key_only=False)
        assert failed(judged) == {"service.fresh"}
        with pytest.raises(AppraisalError, match="key-only, not fresh") as caught:
            judged.require()
        assert "--accept-key-only" in caught.value.hint

    def test_a_package_must_be_named(self, amd, judged_by):
        judged = judged_by(make_self_signed_keep(amd, at=AT), package=None)
        assert failed(judged) == {"service.package"}
        assert judged.verdict is Verdict.REFUSED

    def test_a_configuration_needs_its_tenant(self, amd, judged_by):
        shown = make_self_signed_keep(amd, at=AT, identity=GIVEN)
        judged = judged_by(shown)
        assert failed(judged) == {"service.pristine"}
        with pytest.raises(AppraisalError, match=r"service\.pristine failed") as caught:
            judged.require()
        assert "--tenant" in caught.value.hint
        judged_by(shown, tenant=GIVEN.tenant).require()
        assert failed(judged_by(shown, tenant=b"T" * 48)) == {"service.tenant"}

    def test_whoever_wants_the_package_alone_is_not_told_that_a_tenant_will_do(self, amd, judged_by):
        shown = make_self_signed_keep(amd, at=AT, identity=GIVEN)
        assert failed(judged_by(shown, tenant=GIVEN.tenant, pristine=True)) == {"service.pristine"}
        judged_by(make_self_signed_keep(amd, at=AT), tenant=IDENTITY.tenant, pristine=True).require()

    def test_refuses_another_package(self, amd, judged_by):
        assert failed(judged_by(make_self_signed_keep(amd, at=AT), package=b"P" * 32)) == {"service.package"}

    def test_refuses_evidence_about_another_key(self, amd, judged_by):
        other = ec.generate_private_key(ec.SECP256R1())
        judged = judged_by(make_self_signed_keep(amd, at=AT, key=other))
        assert failed(judged) == {"snp.report_data"}
        with pytest.raises(VerificationError, match=r"snp\.report_data failed") as caught:
            judged.require()
        assert "somebody copied it" in caught.value.hint

    def test_refuses_evidence_about_another_workload(self, amd, judged_by):
        shown = make_self_signed_keep(amd, at=AT, identity=IDENTITY._replace(package=b"P" * 32), said=IDENTITY)
        judged = judged_by(shown)
        assert failed(judged) == {"snp.report_data"}
        assert judged.verdict is Verdict.NOT_AUTHENTIC

    def test_refuses_what_the_policy_refuses(self, amd, judged_by):
        judged = judged_by(
            make_self_signed_keep(amd, at=AT),
            appraisal=make_policy(make_policy_text(amd.root, measurement=f'["{"ab" * 48}"]').encode(), name="p.toml"),
        )
        assert failed(judged) == {"snp.measurement"}
        with pytest.raises(AppraisalError, match=r"snp\.measurement") as caught:
            judged.require()
        assert "the policy p.toml" in caught.value.hint

    def test_refuses_a_root_that_nobody_trusts(self, judged_by, amd):
        judged = judged_by(
            make_self_signed_keep(amd, at=AT), appraisal=make_policy(make_policy_text().encode(), name="p.toml")
        )
        with pytest.raises(VerificationError) as caught:
            judged.require()
        assert "--insecure-accept-emulated" in caught.value.hint
        root = hashlib.sha256(amd.root).hexdigest()
        judged_by(
            make_self_signed_keep(amd, at=AT),
            appraisal=make_policy(make_policy_text().encode(), name="p.toml"),
            insecure_accept_emulated=root,
        ).require()

    def test_is_genuine_where_the_vendor_is(self, amd, judged_by, monkeypatch):
        monkeypatch.setattr("enarx.verifier.pinned_anchors", lambda: amd.anchors)
        judged = judged_by(
            make_self_signed_keep(amd, at=AT), appraisal=make_policy(make_policy_text().encode(), name="p.toml")
        )
        judged.require()
        assert not judged.result.emulated

    def test_refuses_a_certificate_that_has_ended(self, amd, judged_by):
        shown = make_self_signed_keep(amd, at=AT, lasts=timedelta(hours=12))
        assert failed(judged_by(shown)) == {"service.time"}

    def test_does_not_take_it_for_a_stewards(self, amd, steward, appraisal):
        judged = judge(
            make_self_signed_keep(amd, at=AT),
            steward_root=steward.root,
            appraisal=appraisal,
            package=IDENTITY.package,
        )
        assert failed(judged) == {"service.chain", "service.fresh"}
        assert judged.verdict is Verdict.NOT_AUTHENTIC

    def test_fetches_what_is_missing(self, amd, judged_by):
        shown = make_self_signed_keep(amd, at=AT, with_endorsements=False)
        with pytest.raises(EndorsementError) as caught:
            judged_by(shown).require()
        assert "--offline" in caught.value.hint
        case = amd.make_case(at=AT - timedelta(days=1))
        asked = []

        def fetch(recognised, known, at):
            asked.append((recognised.format, known, at))
            return Endorsements(certificates=case.certificates, crls=(amd.make_crl(at=AT - timedelta(days=1)),))

        judged_by(shown, fetch=fetch).require()
        assert len(asked) == 1

    def test_finds_the_policy_once(self, amd, monkeypatch):
        asked = []

        def find(path, *, emulated):
            asked.append((path, emulated))
            return make_policy(make_policy_text(amd.root).encode(), name="p.toml")

        monkeypatch.setattr("enarx.deploy.policy.find_policy", find)
        judges = ServiceJudge(KeepPolicy(accept_key_only=True, package=IDENTITY.package), now=lambda: AT)
        for _ in range(2):
            judges.judge(make_self_signed_keep(amd, at=AT).der, server_name=None).require()
        assert asked == [(None, False)]

    def test_says_what_could_not_be_fetched(self, amd, judged_by):
        def fetch(*_):
            raise EndorsementError("cannot fetch: found nothing", hint="wait")

        judged = judged_by(make_self_signed_keep(amd, at=AT, with_endorsements=False), fetch=fetch)
        assert judged.verdict is Verdict.UNDECIDED
        with pytest.raises(EndorsementError, match="cannot fetch") as caught:
            judged.require()
        assert caught.value.result is judged.result

    def test_applies_the_installations_own_policy_where_none_is_named(self, amd):
        root = hashlib.sha256(amd.root).hexdigest()
        judged = judge(
            make_self_signed_keep(amd, at=AT),
            accept_key_only=True,
            package=IDENTITY.package,
            insecure_accept_emulated=root,
        )
        assert judged.result.policy_name == "default (images of this installation)"
        assert "snp.measurement" in failed(judged)
        assert judged.verdict is Verdict.REFUSED


def test_a_policy_wants_one_kind_of_certificate(steward):
    with pytest.raises(UsageError, match="want one of them"):
        KeepPolicy(steward_root=steward.root, accept_key_only=True)


@pytest.mark.parametrize("digests", [{"package": b"p" * 31}, {"tenant": b"t" * 32}, {"insecure_accept_emulated": "00"}])
def test_a_policy_has_whole_digests(digests):
    with pytest.raises(UsageError, match="found"):
        KeepPolicy(**digests)
