# SPDX-License-Identifier: Apache-2.0
"""Which Keeps get a certificate, and why the others get none."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256, sha384

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attester.attested import TDX_QUOTE, make_evidence
from enarx.channel.transcript import identity_report_data, leaf_hash, self_signed_report_data
from enarx.errors import AppraisalError, ConfigError, DecodeError, EndorsementError, VerificationError
from enarx.rats import Endorsements, Verdict
from enarx.steward.certificates import spki_of
from enarx.steward.configuration import Grant
from enarx.steward.judging import NoGrantError, WrongRootError, make_policy
from enarx.testing.dcap import AT as DCAP_AT
from enarx.testing.dcap import TDX, FakeIntel, Platform, TdReport
from enarx.verifier import pinned_anchors
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.verifier.policy_write import write_policy
from enarx.wire.ear import Tier, verify_ear_cwt
from enarx.wire.release import encode_identity
from tests.attesting import make_policy_text
from tests.unit.steward import keeps as k
from tests.unit.steward.test_authority import Operator

TOMORROW = k.AT + timedelta(days=1)


def failed(error):
    return [finding.check.id for finding in error.value.result.failures]


def test_a_keep_gets_the_names_of_its_grant():
    request = k.make_request()
    granted = k.judge().certify(request, now=k.AT)
    assert granted.names == granted.wanted.dns == ("web.example.com",)
    assert granted.identity == k.IDENTITY
    assert granted.result.verdict is Verdict.ACCEPTED
    assert granted.spki == spki_of(k.KEY.public_key())
    assert granted.report_data == identity_report_data(
        k.NONCE, granted.spki, encode_identity(k.IDENTITY), k.root_digest()
    )
    wanted = granted.wanted
    assert wanted.spiffe == f"spiffe://example.com/keep/{k.PACKAGE.hex()}"
    assert wanted.lifetime == timedelta(hours=24)
    assert wanted.valid_until == granted.result.valid_until > TOMORROW
    assert wanted.package == k.PACKAGE
    assert spki_of(wanted.key) == granted.spki


def test_the_result_says_what_was_judged_and_by_which_policy():
    request = k.make_request()
    granted = k.judge().certify(request, now=k.AT)
    ear = verify_ear_cwt(granted.wanted.result, [k.RESULT_KEY.public_key()], at=k.AT)
    appraisal = ear.submods["cpu0"]
    assert ear.nonce == k.NONCE
    assert appraisal.nonce == granted.report_data
    assert appraisal.policy_ids == ("policy.toml", f"sha256:{k.policy().sha256.hex()}")
    assert appraisal.verifier_claims["enarx_evidence_sha256"] == sha256(request.evidence).hexdigest()


def test_an_emulated_platform_is_marked_and_not_affirmed():
    granted = k.judge().certify(k.make_request(), now=k.AT)
    ear = verify_ear_cwt(granted.wanted.result, [k.RESULT_KEY.public_key()], at=k.AT)
    assert granted.wanted.is_emulated
    assert ear.status is Tier.WARNING


def test_an_emulated_platform_is_refused_unless_somebody_accepts_it():
    text = make_policy_text().encode()
    strict = make_policy(text, path="policy.toml", name="policy.toml")
    with pytest.raises(VerificationError):
        k.judge(policy=strict).certify(k.make_request(), now=k.AT)
    flagged = make_policy(text, path="policy.toml", name="policy.toml", accepted_roots=[k.vendor_digest()])
    assert flagged.text == strict.text
    assert flagged.sha256 == strict.sha256 == sha256(text).digest()
    assert k.judge(policy=flagged).certify(k.make_request(), now=k.AT).wanted.is_emulated
    other = make_policy(text, path="policy.toml", name="policy.toml", accepted_roots=[bytes(32)])
    with pytest.raises(VerificationError):
        k.judge(policy=other).certify(k.make_request(), now=k.AT)


@pytest.mark.parametrize("key", [ec.derive_private_key(5, ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_keys_of_other_kinds_that_tls_has_are_certified(key):
    assert k.judge().certify(k.make_request(key=key), now=k.AT).spki == spki_of(key.public_key())


@pytest.mark.parametrize(
    "make", [lambda: ec.generate_private_key(ec.SECP521R1()), lambda: rsa.generate_private_key(65537, 2048)]
)
def test_keys_of_other_kinds_are_refused(make):
    request = k.make_request(csr=k.make_csr(make()))
    with pytest.raises(VerificationError, match="the key cannot be certified"):
        k.judge().certify(request, now=k.AT)


def spoiled(csr: bytes) -> bytes:
    return csr[:-1] + bytes([csr[-1] ^ 1])


def test_a_request_that_another_key_signed_is_refused():
    request = k.make_request(csr=spoiled(k.make_csr()))
    with pytest.raises(VerificationError, match="the certificate request is not authentic"):
        k.judge().certify(request, now=k.AT)


@pytest.mark.parametrize(
    "change",
    [
        {"csr": b"x"},
        {"csr": bytes(9000)},
        {"receipt": b"x"},
        {"evidence": b"x"},
        {"endorsements": (b"x",)},
    ],
)
def test_what_is_not_well_formed_is_refused_as_that(change):
    with pytest.raises(DecodeError):
        k.judge().certify(k.make_request()._replace(**change), now=k.AT)


OTHER_KEY = ec.derive_private_key(99, ec.SECP256R1())
SPKI = spki_of(k.KEY.public_key())
OTHER_ROOT = b"o" * 48


@pytest.mark.parametrize(
    "report_data",
    [
        identity_report_data(bytes(32), SPKI, encode_identity(k.IDENTITY), k.root_digest()),
        identity_report_data(k.NONCE, spki_of(OTHER_KEY.public_key()), encode_identity(k.IDENTITY), k.root_digest()),
        identity_report_data(k.NONCE, SPKI, encode_identity(k.IDENTITY._replace(tenant=b"x" * 48)), k.root_digest()),
        # Of a Keep that was given another root, brought by somebody who claims that it was ours.
        identity_report_data(k.NONCE, SPKI, encode_identity(k.IDENTITY), OTHER_ROOT),
        self_signed_report_data(SPKI, encode_identity(k.IDENTITY)),
        bytes(64),
    ],
    ids=["another nonce", "another key", "another identity", "another root", "another purpose", "zeros"],
)
def test_evidence_over_anything_else_is_not_authentic(report_data):
    with pytest.raises(VerificationError) as error:
        k.judge().certify(k.make_request(report_data=report_data), now=k.AT)
    assert failed(error) == ["snp.report_data"]
    assert error.value.result.verdict is Verdict.NOT_AUTHENTIC


def test_evidence_of_another_keep_s_key_is_of_no_use():
    theirs = k.make_request()
    with pytest.raises(VerificationError) as error:
        k.judge().certify(theirs._replace(csr=k.make_csr(OTHER_KEY)), now=k.AT)
    assert failed(error) == ["snp.report_data"]


@pytest.mark.parametrize("grant", [k.GRANT, replace(k.GRANT, tenant=None)])
def test_a_keep_that_was_given_another_root_gets_nothing_though_all_else_is_right(grant):
    judge = k.judge(configuration=replace(k.CONFIGURATION, grants=(grant,)))
    with pytest.raises(
        WrongRootError, match=f"found SHA-384 {OTHER_ROOT.hex()}, want {k.root_digest().hex()}"
    ) as error:
        judge.certify(k.make_request(root=OTHER_ROOT), now=k.AT)
    assert error.value.check == "steward.root"
    assert isinstance(error.value, VerificationError)
    judge.certify(k.make_request(root=k.root_digest()), now=k.AT)


def test_an_authority_above_the_steward_s_own_is_another_root():
    operator = Operator()
    made = operator.install(operator.sign(), operator.middle, operator.root)
    own, *above = (leaf_hash(each.public_bytes(Encoding.DER)) for each in made.certificates)
    judge = k.judge(root=made.certificate)
    for root in above:
        with pytest.raises(WrongRootError):
            judge.certify(k.make_request(root=root), now=k.AT)
    assert judge.certify(k.make_request(root=own), now=k.AT).names == ("web.example.com",)


def test_a_receipt_with_another_identity_is_of_no_use():
    theirs = k.make_request()
    other = k.receipt_of(k.IDENTITY._replace(pristine=False))
    with pytest.raises(VerificationError) as error:
        k.judge().certify(theirs._replace(receipt=other), now=k.AT)
    assert failed(error) == ["snp.report_data"]


def test_the_policy_refuses_and_says_which_check():
    strict = k.policy(measurement=f'["{"11" * 48}"]')
    with pytest.raises(AppraisalError) as error:
        k.judge(policy=strict).certify(k.make_request(), now=k.AT)
    assert not isinstance(error.value, NoGrantError)
    assert failed(error) == ["snp.measurement"]


def test_what_is_missing_leaves_it_undecided_and_is_fetched_where_that_is_allowed():
    whole, bare = k.make_request(), k.make_request(has_endorsements=False)
    with pytest.raises(EndorsementError) as error:
        k.judge().certify(bare, now=k.AT)
    assert error.value.result.verdict is Verdict.UNDECIDED
    asked = []

    def fetch(recognised, known, at):
        asked.append((recognised.section, known, at))
        return read_wrapped_endorsements(whole.endorsements)

    judge = k.judge(fetch=fetch)
    assert judge.certify(bare, now=k.AT).names == ("web.example.com",)
    assert asked == [("snp", Endorsements(), k.AT)]
    judge.certify(whole, now=k.AT)
    assert len(asked) == 1


def test_a_vendor_that_does_not_answer_leaves_it_undecided():
    def fetch(recognised, known, at):
        raise EndorsementError("cannot reach the vendor")

    with pytest.raises(EndorsementError) as error:
        k.judge(fetch=fetch).certify(k.make_request(has_endorsements=False), now=k.AT)
    assert error.value.result.verdict is Verdict.UNDECIDED


class TestRegister:
    """Of TDX, which a Keep extends by its receipt before anything of its tenant runs."""

    INTEL, PLATFORM = FakeIntel(), Platform()

    def judge(self, register, monkeypatch):
        key = spki_of(k.KEY.public_key())
        report_data = identity_report_data(k.NONCE, key, encode_identity(k.IDENTITY), k.root_digest())
        report = TdReport(report_data=report_data, rtmrs=(bytes([1]) * 48, bytes([2]) * 48, bytes([3]) * 48, register))
        evidence = make_evidence(TDX_QUOTE, self.INTEL.make_quote(report, self.PLATFORM))
        known = Endorsements(intel=(self.INTEL.make_collateral(TDX, self.PLATFORM),))
        monkeypatch.setattr(
            "enarx.verifier.pinned_anchors", lambda: replace(pinned_anchors(), intel=(self.INTEL.root.der,))
        )
        judge = k.judge(policy=tdx_policy(), fetch=lambda recognised, endorsements, at: known)
        request = k.make_request()._replace(evidence=evidence, endorsements=())
        return judge.certify(request, now=DCAP_AT)

    def test_it_has_this_receipt_and_nothing_else(self, monkeypatch):
        digest = sha384(k.receipt_of()).digest()
        granted = self.judge(sha384(bytes(48) + digest).digest(), monkeypatch)
        assert not granted.wanted.is_emulated
        assert k.authority().issue(granted.wanted, at=DCAP_AT)

    @pytest.mark.parametrize(
        "register",
        [
            bytes(48),
            sha384(bytes(48) + sha384(k.receipt_of(k.IDENTITY._replace(pristine=False))).digest()).digest(),
            sha384(sha384(bytes(48) + sha384(k.receipt_of()).digest()).digest() + bytes(48)).digest(),
        ],
        ids=["nothing", "another receipt", "more"],
    )
    def test_anything_else_in_it_is_refused(self, register, monkeypatch):
        with pytest.raises(AppraisalError) as error:
            self.judge(register, monkeypatch)
        assert failed(error) == ["tdx.rtmr3"]


def tdx_policy():
    text = write_policy(["tdx"], references={}, origin="for a test").text
    text = re.sub(r"^# (\w+) =.*$", r"\1 = 0", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+) = .*$", r'\1 = { skip = "not what is tested" }', text, flags=re.MULTILINE)
    text = re.sub(r"^(version) = .*$", r"\1 = 1", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^(debug) = .*$", r'\1 = "forbidden"', text, flags=re.MULTILINE)
    return make_policy(text.encode(), path="policy.toml", name="policy.toml")


class TestGrants:
    def test_without_one_there_is_no_certificate(self):
        none = replace(k.CONFIGURATION, grants=())
        with pytest.raises(NoGrantError, match=k.PACKAGE.hex()) as error:
            k.judge(configuration=none).certify(k.make_request(), now=k.AT)
        assert k.TENANT.hex() in str(error.value)

    @pytest.mark.parametrize("change", [{"package": b"x" * 32}, {"tenant": b"x" * 48}])
    def test_another_package_or_tenant_has_none(self, change):
        with pytest.raises(NoGrantError):
            k.judge().certify(k.make_request(k.IDENTITY._replace(**change)), now=k.AT)

    def test_any_tenant_gets_it_for_a_pristine_keep_alone(self):
        grants = (Grant(package=k.PACKAGE, tenant=None, dns=("any.example.com",)),)
        judge = k.judge(configuration=replace(k.CONFIGURATION, grants=grants))
        other = k.IDENTITY._replace(tenant=b"x" * 48)
        assert judge.certify(k.make_request(other), now=k.AT).names == ("any.example.com",)
        with pytest.raises(NoGrantError, match="with arguments or files of its own"):
            judge.certify(k.make_request(other._replace(pristine=False)), now=k.AT)

    def test_a_tenant_s_own_grant_holds_with_arguments_too(self):
        granted = k.judge().certify(k.make_request(k.IDENTITY._replace(pristine=False)), now=k.AT)
        assert granted.names == ("web.example.com",)


class TestAgain:
    def kept(self, **changes):
        request = k.make_request(**changes)
        granted = k.judge().certify(request, now=k.AT)
        certificate = k.authority().issue(granted.wanted, at=k.AT).public_bytes(Encoding.DER)
        return k.shown(request, granted.report_data), certificate

    def test_what_was_accepted_is_accepted_again(self):
        assert k.judge().again(*self.kept(), now=TOMORROW).verdict is Verdict.ACCEPTED

    def test_another_policy_refuses_it(self):
        result = k.judge(policy=k.policy(measurement=f'["{"11" * 48}"]')).again(*self.kept(), now=k.AT)
        assert result.verdict is Verdict.REFUSED
        assert [finding.check.id for finding in result.failures] == ["snp.measurement"]

    def test_a_grant_that_is_gone_refuses_it(self):
        with pytest.raises(NoGrantError):
            k.judge(configuration=replace(k.CONFIGURATION, grants=())).again(*self.kept(), now=k.AT)

    @pytest.mark.parametrize("dns", [(), ("other.example.com",)])
    def test_a_name_that_is_gone_from_the_grant_refuses_it(self, dns):
        grants = (replace(k.GRANT, dns=dns),)
        with pytest.raises(NoGrantError, match=r"found web\.example\.com, want names of the grants"):
            k.judge(configuration=replace(k.CONFIGURATION, grants=grants)).again(*self.kept(), now=k.AT)

    @pytest.mark.parametrize(
        "grants",
        [
            (replace(k.GRANT, dns=("shop.example.com", "web.example.com")),),
            (replace(k.GRANT, dns=()), replace(k.GRANT, tenant=None)),
        ],
    )
    def test_more_names_or_the_same_by_another_grant_keep_it(self, grants):
        judge = k.judge(configuration=replace(k.CONFIGURATION, grants=grants))
        assert judge.again(*self.kept(), now=k.AT).verdict is Verdict.ACCEPTED

    def test_another_trust_domain_refuses_it(self):
        with pytest.raises(NoGrantError, match=r"found spiffe://example\.com/keep/"):
            k.judge(configuration=replace(k.CONFIGURATION, trust_domain="other.example")).again(*self.kept(), now=k.AT)

    def test_a_keep_that_the_policy_refuses_is_no_matter_of_grants(self):
        judge = k.judge(
            policy=k.policy(measurement=f'["{"11" * 48}"]'), configuration=replace(k.CONFIGURATION, grants=())
        )
        assert judge.again(*self.kept(), now=k.AT).verdict is Verdict.REFUSED

    def test_lists_that_have_ended_decide_nothing(self):
        kept = self.kept(crl_lifetime=timedelta(hours=2))
        assert k.judge().again(*kept, now=TOMORROW).verdict is Verdict.UNDECIDED

    def test_a_later_list_of_the_vendor_revokes(self):
        kept = self.kept(crl_lifetime=timedelta(hours=2))
        later = k.amd().make_crl(revoked=("ask",), at=TOMORROW - timedelta(hours=1))

        def fetch(recognised, known, at):
            return Endorsements(crls=(later,))

        result = k.judge(fetch=fetch).again(*kept, now=TOMORROW)
        assert result.verdict is Verdict.NOT_AUTHENTIC


class TestAppraise:
    def test_anything_is_judged_and_nothing_raised_for_a_verdict(self):
        request = k.make_request(report_data=bytes(range(64)))
        judge = k.judge()

        def verdict(report_data):
            return judge.appraise(request.evidence, request.endorsements, report_data, now=k.AT).verdict

        assert verdict(bytes(range(64))) is Verdict.ACCEPTED
        assert verdict(bytes(64)) is Verdict.NOT_AUTHENTIC

    def test_what_is_no_evidence_is_refused(self):
        with pytest.raises(DecodeError):
            k.judge().appraise(b"x", (), bytes(64), now=k.AT)


class TestPolicy:
    @pytest.mark.parametrize("text", [b"", b"x", b"version = 1\n", b"version = 1\n[snp]\n"])
    def test_without_words_about_evidence_there_is_none(self, text):
        with pytest.raises(ConfigError, match=r"etc/policy\.toml"):
            make_policy(text, path="etc/policy.toml", name="policy.toml")

    def test_results_name_it_without_its_path(self):
        made = make_policy(make_policy_text().encode(), path="/etc/steward/policy.toml", name="policy.toml")
        assert made.policy.name == made.name == "policy.toml"


def later_list(*revoked):
    return Endorsements(crls=(k.amd().make_crl(revoked=revoked, at=k.AT + timedelta(hours=1)),))


def test_a_newer_list_of_ours_counts_beside_the_one_that_was_sent():
    request, later = k.make_request(), k.AT + timedelta(days=1)
    granted = k.judge(newest=lambda *_: later_list()).certify(request, now=later)
    with pytest.raises(VerificationError, match="revo"):
        k.judge(newest=lambda *_: later_list("ask")).certify(request, now=later)
    leaf = k.authority().issue(granted.wanted, at=later).public_bytes(Encoding.DER)
    row = k.shown(request, granted.report_data)
    assert k.judge().again(row, leaf, now=later).verdict is Verdict.ACCEPTED
    asked = []

    def newest(recognised, known, at):
        asked.append((recognised.section, at, len(known.crls)))
        return later_list("ask")

    assert k.judge(newest=newest).again(row, leaf, now=later).verdict is Verdict.NOT_AUTHENTIC
    k.judge(newest=newest).refresh(row, now=later)
    assert asked == [("snp", later, 1)] * 2
