# SPDX-License-Identifier: Apache-2.0
"""The order of decisions: nonce, judge, log, answer. Judge and log are stand-ins; both real ones are in tests/integration."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from hashlib import sha256
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.errors import (
    AppraisalError,
    DecodeError,
    EndorsementError,
    PlatformError,
    UsageError,
    VerificationError,
)
from enarx.serving.logs import Log
from enarx.steward import decisions as module
from enarx.steward.authority import Authority, make_authority
from enarx.steward.certificates import Wanted, encode_key, spki_of
from enarx.steward.court import Court, Rules
from enarx.steward.decisions import Decisions
from enarx.steward.entries import decode_entry_untrusted
from enarx.steward.issued import fit
from enarx.steward.judging import NoGrantError
from enarx.steward.ledger import Logged, ReplayedNonceError
from enarx.steward.metrics import Metrics
from enarx.steward.nonces import ExpiredNonceError
from enarx.steward.rooms import BusyError, Room
from enarx.steward.store import InForce, Unfit
from enarx.steward.token_key import TokenError
from enarx.wire.ear import verify_ear_jwt
from enarx.wire.release import Identity, encode_identity
from enarx.wire.steward import CertificateRequest, ResultRequest
from tests.recorder import Recorder
from tests.unit.steward.verdicts import AT, accepted_result, forged_result, refused_result, undecided_result

AUTHORITY = make_authority("steward.example.com", AT)
RESULT_KEY = ec.generate_private_key(ec.SECP384R1())
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
NONCE_KEY = bytes(32)
POLICY = sha256(b"policy").digest()
IDENTITY = encode_identity(
    Identity(package=bytes(32), module=bytes(32), configuration=bytes(32), pristine=True, tenant=bytes(48))
)
RESULT = ResultRequest(evidence=b"the evidence", endorsements=(), report_data=bytes(64))


class FakeJudge:
    """Says what it is told to say, and remembers in which thread it was asked."""

    def __init__(self, result=None, error=None):
        self.result = result or accepted_result()
        self.error = error
        self.threads = []
        self.refreshed = []
        self.gate = None
        self.asked = threading.Event()

    def _say(self):
        self.threads.append(threading.current_thread().name)
        self.asked.set()
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return self.result

    def certify(self, request, *, now):
        result = self._say()
        result.require()
        wanted = Wanted(
            key=KEY,
            spki=encode_key(KEY),
            package=bytes(32),
            identity=IDENTITY,
            result=b"ear",
            dns=("keep.example.com",),
            spiffe="spiffe://example.com/keep/00",
            lifetime=timedelta(hours=24),
        )
        return SimpleNamespace(wanted=wanted, result=result, spki=spki_of(KEY), report_data=bytes(64))

    def appraise(self, evidence, endorsements, report_data, *, now):
        return self._say()

    def refresh(self, row, *, now):
        self.refreshed.append(row.serial)

    def again(self, row, certificate, *, now):
        assert x509.load_der_x509_certificate(certificate).serial_number == row.serial
        return self._say()


class FakeLedger:
    """A log in a list."""

    def __init__(self):
        self.entries = []
        self.revocations = []
        self.changes = {}
        self.error = None
        self.gate = None
        self.asked = asyncio.Event()

    async def append(self, entry, *, is_one_story=False):
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if entry.nonce is not None and await self.seen(entry.nonce):
            raise ReplayedNonceError("used")
        self.entries.append(entry)
        return Logged(len(self.entries) - 1, len(self.entries), "checkpoint")

    async def seen(self, nonce):
        if self.error is not None:
            raise self.error
        return any(entry.nonce == nonce for entry in self.entries)

    def certificates_in_force(self, now):
        gone = {serial for serial, _, _ in self.revocations}
        found = InForce([], [])
        for index, entry in enumerate(self.entries):
            row = entry.certificate
            if row is None or row.not_after <= now or row.serial in gone:
                continue
            try:
                found.issued.append(fit(entry.body, row._replace(**self.changes)))
            except DecodeError as error:
                found.unfit.append(Unfit(row.serial, index, str(error)))
        return iter([found])

    async def revoke(self, serial, reason, at):
        self.revocations.append((serial, at, reason))
        return Logged(99, 100, "checkpoint")

    def revoked(self, now):
        return list(self.revocations)

    def facts(self):
        return [decode_entry_untrusted(entry.body) for entry in self.entries]


def court_of(judge, *, policy=POLICY, original=None):
    """Return a court with a judge."""
    return Court(judge=judge, policy_sha256=policy, authority=AUTHORITY, result_key=RESULT_KEY, original=original)


def rules_of(judge, fetching=None, **more):
    """Return rules with judges."""
    return Rules(court_of(judge, **more), None if fetching is None else court_of(fetching, **more))


class Threads:
    """Where courts sit, in place of processes."""

    def __init__(self, count):
        self.count = count
        self._room = Room(count, 1000, "judging")
        self.close = self._room.close

    @property
    def taken(self):
        return self._room.taken

    async def run(self, rules, work):
        return await self._room.run(lambda: work(rules.court)), 0.25


class Steward:
    """Decisions with everything they need."""

    def __init__(self, judge=None, fetching=None, original=None, threads=1):
        self.judge = judge or FakeJudge()
        self.ledger = FakeLedger()
        self.log = Recorder()
        self.metrics = Metrics()
        self.now = AT
        self.bench = Threads(threads)
        self.decisions = Decisions(
            rules_of(self.judge, fetching, original=original),
            bench=self.bench,
            authority=AUTHORITY,
            ledger=self.ledger,
            nonce_key=NONCE_KEY,
            metrics=self.metrics,
            log=Log(self.log),
            clock=lambda: self.now,
        )

    def request(self, nonce=None):
        nonce = self.decisions.challenge().nonce if nonce is None else nonce
        return CertificateRequest(
            csr=b"csr",
            receipt=b"receipt",
            evidence=b"the evidence",
            endorsements=(b"one",),
            nonce=nonce,
            root=bytes(48),
        )

    async def certify(self, nonce=None):
        return await self.decisions.certify(self.request(nonce))

    def counted(self):
        return self.metrics.exposition().decode()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.decisions.close()
        self.bench.close()


def run(scenario, **options):
    """Run a scenario with a Steward of its own, and return both."""

    async def main():
        async with Steward(**options) as steward:
            return await scenario(steward)

    return asyncio.run(main())


# --- Certificates


def test_a_certificate_is_in_the_log_with_all_that_it_rests_on():
    async def scenario(steward):
        answer = await steward.certify()
        leaf = x509.load_der_x509_certificate(answer.chain[0])
        (entry,) = steward.ledger.entries
        (facts,) = steward.ledger.facts()
        assert (facts.kind, facts.verdict, facts.policy_sha256) == ("certificate", "accepted", POLICY)
        assert facts.certificate == answer.chain[0]
        assert facts.serial == leaf.serial_number == entry.certificate.serial
        assert facts.evidence_sha256 == sha256(b"the evidence").digest()
        assert facts.spki_sha384 == spki_of(KEY)
        assert facts.identity == IDENTITY
        assert entry.certificate.evidence == b"the evidence"
        assert entry.certificate.endorsements == (b"one",)
        assert entry.certificate.not_after == leaf.not_valid_after_utc == answer.not_after
        assert answer.log_index == 0
        assert answer.renew_after == AT + timedelta(hours=12)
        assert answer.chain[1:] == (AUTHORITY.root.public_bytes(module.Encoding.DER),)
        assert "enarx_steward_certificates_in_force 1.0" in steward.counted()
        steward.now = AT + timedelta(hours=25)
        assert "enarx_steward_certificates_in_force 0.0" in steward.counted()

    run(scenario)


def test_nothing_is_answered_before_it_is_in_the_log():
    async def scenario(steward):
        steward.ledger.gate = asyncio.Event()
        task = asyncio.create_task(steward.certify())
        await steward.ledger.asked.wait()
        assert not task.done()
        steward.ledger.gate.set()
        assert (await task).log_index == 0

    run(scenario)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PlatformError("cannot write"), PlatformError),
        # A log that was tampered with is no fault of the request's.
        (VerificationError("found a fork"), PlatformError),
    ],
)
def test_where_the_log_cannot_be_written_there_is_no_certificate(error, raised):
    async def scenario(steward):
        request = steward.request()
        steward.ledger.error = error
        with pytest.raises(raised):
            await steward.decisions.certify(request)
        with pytest.raises(raised):
            await steward.decisions.appraise(RESULT)
        with pytest.raises(raised):
            await steward.decisions.require_log()

    run(scenario)


@pytest.mark.parametrize(
    ("judge", "kind", "verdict", "checks"),
    [
        ({"result": refused_result()}, AppraisalError, "refused", ("snp.check1", "snp.check2")),
        ({"result": forged_result()}, VerificationError, "not authentic", ("snp.check0",)),
        ({"result": undecided_result()}, EndorsementError, "undecided", ("snp.check0",)),
        ({"error": NoGrantError("no grant")}, NoGrantError, "refused", ()),
        ({"error": DecodeError("no evidence")}, DecodeError, "malformed", ()),
    ],
)
def test_refusals_are_in_the_log_and_use_the_nonce_up(judge, kind, verdict, checks):
    async def scenario(steward):
        nonce = steward.decisions.challenge().nonce
        with pytest.raises(kind) as refused:
            await steward.certify(nonce)
        (facts,) = steward.ledger.facts()
        assert (facts.kind, facts.verdict, facts.failed_checks) == ("refusal", verdict, checks)
        assert facts.reason == str(refused.value)
        assert facts.nonce == nonce
        with pytest.raises(ReplayedNonceError):
            await steward.certify(nonce)
        assert len(steward.ledger.entries) == 1

    run(scenario, judge=FakeJudge(**judge))


def test_nonces_are_ours_fresh_and_used_once():
    async def scenario(steward):
        challenge = steward.decisions.challenge()
        assert challenge.expires == AT + timedelta(seconds=120)
        with pytest.raises(VerificationError) as refused:
            await steward.certify(bytes(32))
        assert type(refused.value) is VerificationError
        steward.now = challenge.expires + timedelta(seconds=1)
        with pytest.raises(ExpiredNonceError):
            await steward.certify(challenge.nonce)
        assert steward.judge.threads == []
        assert steward.ledger.entries == []
        nonce = steward.decisions.challenge().nonce
        await steward.certify(nonce)
        with pytest.raises(ReplayedNonceError):
            await steward.certify(nonce)
        assert len(steward.judge.threads) == 1
        for why in ("foreign", "expired", "replayed"):
            assert f'enarx_steward_nonces_refused_total{{why="{why}"}} 1.0' in steward.counted()

    run(scenario)


def test_of_requests_with_one_nonce_at_one_time_the_log_lets_one_through():
    async def scenario(steward):
        nonce = steward.decisions.challenge().nonce
        answers = await asyncio.gather(*(steward.certify(nonce) for _ in range(4)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["CertificateAnswer"] + ["ReplayedNonceError"] * 3

    run(scenario, threads=4)


# --- Room, and vendors that do not answer


def test_more_than_there_is_room_for_are_turned_away(monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUE_PER_COURT", 2)

    async def scenario(steward):
        steward.judge.gate = threading.Event()
        waiting = [asyncio.create_task(steward.certify()) for _ in range(2)]
        await asyncio.to_thread(steward.judge.asked.wait, 30)
        request = steward.request()
        with pytest.raises(BusyError):
            await steward.decisions.certify(request)
        # Nothing was decided, so the nonce is good for another try.
        assert steward.ledger.entries == []
        assert "enarx_steward_judging_now 2.0" in steward.counted()
        steward.judge.gate.set()
        await asyncio.gather(*waiting)
        await steward.decisions.certify(request)
        assert "enarx_steward_turned_away_total 1.0" in steward.counted()

    run(scenario)


def test_what_has_to_be_fetched_is_fetched_in_threads_of_its_own():
    fetching = FakeJudge()

    async def scenario(steward):
        await steward.certify()
        await steward.decisions.appraise(RESULT)
        assert [name.partition("_")[0] for name in steward.judge.threads] == ["judging"] * 2
        assert [name.partition("_")[0] for name in fetching.threads] == ["fetching", "fetching-results"]
        assert [facts.verdict for facts in steward.ledger.facts()] == ["accepted"] * 2
        steward.judge.result = accepted_result()
        await steward.certify()
        assert len(fetching.threads) == 2

    run(scenario, judge=FakeJudge(undecided_result()), fetching=fetching)


# --- Results


@pytest.mark.parametrize("result", [accepted_result(), refused_result(), forged_result(), undecided_result()])
def test_a_result_says_the_verdict_whatever_it_is(result):
    async def scenario(steward):
        token = await steward.decisions.appraise(RESULT)
        ear = verify_ear_jwt(token, [RESULT_KEY.public_key()], at=AT)
        (appraisal,) = ear.submods.values()
        assert appraisal.verifier_claims["enarx_verdict"] == str(result.verdict)
        assert f"sha256:{POLICY.hex()}" in appraisal.policy_ids
        (facts,) = steward.ledger.facts()
        assert (facts.kind, facts.verdict, facts.nonce) == ("result", str(result.verdict), None)

    run(scenario, judge=FakeJudge(result))


# --- Rules that change


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (FakeJudge(refused_result()), "snp.check1"),
        (FakeJudge(forged_result()), "snp.check0"),
        (FakeJudge(error=NoGrantError("no grant names it")), "no grant names it"),
        (FakeJudge(undecided_result()), None),
        (FakeJudge(), None),
    ],
)
def test_what_other_rules_refuse_is_revoked(judge, reason):
    async def scenario(steward):
        first = await steward.decisions.crl()
        await steward.certify()
        ((row, _),) = next(steward.ledger.certificates_in_force(AT)).issued
        assert await steward.decisions.review() == 0
        await steward.decisions.change_rules(rules_of(judge, policy=bytes(32)))
        assert steward.ledger.facts()[-1].kind == "policy"
        assert steward.ledger.facts()[-1].policy_sha256 == bytes(32)
        assert await steward.decisions.review() == (reason is not None)
        assert steward.ledger.revocations == ([] if reason is None else [(row.serial, AT, reason)])
        crl = await steward.decisions.crl()
        listed = {each.serial_number for each in x509.load_der_x509_crl(crl)}
        assert listed == (set() if reason is None else {row.serial})
        # The list of before is answered again as long as nothing changed.
        assert (crl == first) == (reason is None)
        assert "enarx_steward_certificates_in_force " + ("1.0" if reason is None else "0.0") in steward.counted()

    run(scenario)


@pytest.mark.parametrize(
    "changes",
    [{"evidence": b"of another"}, {"endorsements": ()}, {"receipt": b"other"}, {"report_data": bytes(63) + b"\1"}],
)
def test_a_database_that_was_changed_revokes_nothing_and_that_is_said(changes):
    """The judge would refuse what stands there now; it is not even asked."""

    async def scenario(steward):
        await steward.certify()
        steward.judge.result = forged_result()
        asked = len(steward.judge.threads)
        steward.ledger.changes = changes
        assert await steward.decisions.review() == 0
        assert (steward.ledger.revocations, len(steward.judge.threads)) == ([], asked)
        serial = steward.ledger.entries[0].certificate.serial
        (facts,) = [facts for event, facts in steward.log.events if event == "log-tampered"]
        assert (facts["serial"], facts["entry"]) == (f"{serial:x}", 0)
        assert "enarx_steward_certificates_tampered 1.0" in steward.counted()
        assert "enarx_steward_certificates_in_force 1.0" in steward.counted()
        # As it was, it is judged, and refused on its own word.
        steward.ledger.changes = {}
        assert await steward.decisions.review() == 1
        assert "enarx_steward_certificates_tampered 0.0" in steward.counted()

    run(scenario)


def test_what_is_undecided_is_fetched_before_it_is_kept():
    fetching = FakeJudge(forged_result())

    async def scenario(steward):
        steward.judge.result = accepted_result()
        await steward.certify()
        steward.judge.result = undecided_result()
        assert await steward.decisions.review() == 1

    run(scenario, fetching=fetching)


def test_a_request_that_was_judged_by_rules_of_before_is_judged_again():
    other = FakeJudge(refused_result())

    async def scenario(steward):
        steward.judge.gate = threading.Event()
        task = asyncio.create_task(steward.certify())
        await asyncio.to_thread(steward.judge.asked.wait, 30)
        await steward.decisions.change_rules(rules_of(other, policy=bytes(32)))
        steward.judge.gate.set()
        with pytest.raises(AppraisalError):
            await task
        assert [facts.kind for facts in steward.ledger.facts()] == ["policy", "refusal"]

    run(scenario)


def test_a_result_that_was_judged_by_rules_of_before_is_judged_again():
    other = FakeJudge(refused_result())

    async def scenario(steward):
        steward.judge.gate = threading.Event()
        task = asyncio.create_task(steward.decisions.appraise(RESULT))
        await asyncio.to_thread(steward.judge.asked.wait, 30)
        await steward.decisions.change_rules(rules_of(other, policy=bytes(32)))
        steward.judge.gate.set()
        ear = verify_ear_jwt(await task, [RESULT_KEY.public_key()], at=AT)
        # It is of the policy in force when it is told, and of its verdict.
        (appraisal,) = ear.submods.values()
        assert appraisal.verifier_claims["enarx_verdict"] == str(refused_result().verdict)
        assert f"sha256:{bytes(32).hex()}" in appraisal.policy_ids
        assert [facts.kind for facts in steward.ledger.facts()] == ["policy", "result"]
        assert (len(steward.judge.threads), len(other.threads)) == (1, 1)

    run(scenario)


def test_a_request_of_the_originals_protocol_is_judged_again_too():
    """And there is no answer where the rules that came in between do not allow any."""
    gate, asked, answers = threading.Event(), threading.Event(), []

    def answer(body, media_type, now):
        answers.append(body)
        asked.set()
        assert gate.wait(30)
        return SimpleNamespace(body=b"path", issued=())

    async def change(steward, rules):
        task = asyncio.create_task(steward.decisions.certify_original(b"csr", "application/pkcs10"))
        await asyncio.to_thread(asked.wait, 30)
        await steward.decisions.change_rules(rules)
        gate.set()
        return task

    async def allowed(steward):
        assert await (await change(steward, rules_of(FakeJudge(), policy=bytes(32), original=original))) == b"path"
        assert answers == [b"csr", b"csr"]

    async def refused(steward):
        task = await change(steward, rules_of(FakeJudge(), policy=bytes(32)))
        with pytest.raises(UsageError, match="not enabled"):
            await task
        assert [facts.kind for facts in steward.ledger.facts()] == ["policy"]

    original = SimpleNamespace(answer=answer)
    for scenario in (allowed, refused):
        gate.clear()
        asked.clear()
        answers.clear()
        run(scenario, original=original)


def test_a_review_waits_for_what_is_on_its_way_into_the_log():
    async def scenario(steward):
        steward.ledger.gate = asyncio.Event()
        task = asyncio.create_task(steward.certify())
        await steward.ledger.asked.wait()
        steward.judge.result = refused_result()
        review = asyncio.create_task(steward.decisions.review())
        await asyncio.sleep(0)
        steward.ledger.gate.set()
        await task
        assert await review == 1

    run(scenario)


TOKEN_SAYS = "cannot use the key ca in token steward: /opt/hsm.so: found DeviceRemoved, want a token that signs with it"


@pytest.mark.parametrize("what", ["certificate", "list"])
def test_where_a_key_is_and_what_its_token_says_is_for_the_operator_alone(what, monkeypatch):
    async def scenario(steward):
        def refuse(*_, **__):
            raise TokenError(TOKEN_SAYS, hint="pkcs11-tool")

        monkeypatch.setattr(Authority, "issue" if what == "certificate" else "crl", refuse)
        with pytest.raises(PlatformError, match="found the authority's key out of reach") as failed:
            await (steward.certify() if what == "certificate" else steward.decisions.crl())
        said = str(failed.value) + str(failed.value.hint)
        assert not any(word in said for word in ("ca in token", "/opt/hsm.so", "DeviceRemoved", "pkcs11-tool"))
        assert ("token-failed", {"reason": TOKEN_SAYS}) in steward.log.events
        # It was no decision: the nonce can be used again, once the token is back.
        assert steward.ledger.facts() == []

    run(scenario)


def test_a_list_of_what_is_revoked_is_signed_again_after_a_minute():
    async def scenario(steward):
        first = await steward.decisions.crl()
        steward.now = AT + timedelta(seconds=59)
        assert await steward.decisions.crl() == first
        steward.now = AT + timedelta(seconds=61)
        second = await steward.decisions.crl()
        numbers = [
            x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            for crl in (first, second)
        ]
        assert numbers[0] < numbers[1]

    run(scenario)


def test_a_bug_in_judging_one_certificate_keeps_it_in_force_and_the_others_judged():
    async def scenario(steward):
        for _ in range(3):
            await steward.certify()
        serials = [entry.certificate.serial for entry in steward.ledger.entries]
        steward.judge.result = refused_result()
        bench, asked = steward.decisions._bench, []

        class Buggy:
            count, taken = 1, 0

            async def run(self, rules, work):
                asked.append(work)
                if len(asked) == 2:
                    raise ZeroDivisionError("a bug")
                if len(asked) == 1:
                    raise DecodeError("its evidence cannot be read any more")
                return await bench.run(rules, work)

        steward.decisions._bench = Buggy()
        assert await steward.decisions.review() == 1
        assert [serial for serial, _, _ in steward.ledger.revocations] == serials[2:]
        told = [facts for event, facts in steward.log.events if event == "not-judged" and "serial" in facts]
        assert told == [
            {"serial": f"{serials[0]:x}", "reason": "its evidence cannot be read any more"},
            {"serial": f"{serials[1]:x}", "reason": "ZeroDivisionError"},
        ]
        assert dict(steward.log.events)["reviewed"]["unjudged"] == 2
        assert "enarx_steward_certificates_unjudged 2.0" in steward.counted()
        assert "enarx_steward_certificates_in_force 2.0" in steward.counted()
        # The next one judges them.
        steward.decisions._bench = bench
        assert await steward.decisions.review() == 2
        assert "enarx_steward_certificates_unjudged 0.0" in steward.counted()

    run(scenario)


def test_a_vendor_that_does_not_answer_has_nobody_wait_for_the_list_of_what_is_revoked():
    answers, asked = threading.Event(), threading.Event()
    fetching = FakeJudge()

    def refresh(row, *, now):
        asked.set()
        assert answers.wait(30)

    fetching.refresh = refresh

    async def scenario(steward):
        await steward.certify()
        review = asyncio.create_task(steward.decisions.review())
        await asyncio.to_thread(asked.wait, 30)
        assert x509.load_der_x509_crl(await steward.decisions.crl()) is not None
        assert not review.done()
        answers.set()
        assert await review == 0

    run(scenario, fetching=fetching)


# --- The original's protocol


def test_certificates_of_the_originals_protocol_are_in_the_log_too():
    certificate = AUTHORITY.issue_original(KEY, at=AT, valid_until=None, is_emulated=False)
    issued = SimpleNamespace(certificate=certificate, result=accepted_result(), request=b"csr", spki=spki_of(KEY))
    original = SimpleNamespace(answer=lambda body, media_type, now: SimpleNamespace(body=b"path", issued=(issued,)))

    async def scenario(steward):
        assert steward.decisions.answers_original
        assert await steward.decisions.certify_original(b"csr", "application/pkcs10") == b"path"
        (facts,) = steward.ledger.facts()
        assert (facts.kind, facts.serial, facts.evidence_sha256) == (
            "original",
            certificate.serial_number,
            sha256(b"csr").digest(),
        )
        assert list(steward.ledger.certificates_in_force(AT)) == [([], [])]

    run(scenario, original=original)


def test_the_originals_protocol_is_off_unless_the_rules_have_it():
    async def scenario(steward):
        assert not steward.decisions.answers_original
        with pytest.raises(UsageError, match="not enabled"):
            await steward.decisions.certify_original(b"csr", "application/pkcs10")

    run(scenario)


def test_what_a_vendor_says_now_is_fetched_before_a_certificate_is_judged_again():
    fetching = FakeJudge()

    async def scenario(steward):
        await steward.certify()
        assert await steward.decisions.review() == 0
        assert fetching.refreshed == [steward.ledger.entries[0].certificate.serial]
        assert fetching.threads == []

    run(scenario, fetching=fetching)


def test_a_judge_that_ends_keeps_no_other_certificate_from_being_reviewed(monkeypatch):
    monkeypatch.setattr(module, "REVIEW_RETRY_S", 0)

    async def scenario(steward):
        await steward.certify()
        await steward.certify()
        steward.judge.result = refused_result()
        bench, asked = steward.decisions._bench, []

        class Ending:
            count, taken = 1, 0

            async def run(self, rules, work):
                asked.append(work)
                if len(asked) <= 2:
                    raise BusyError("ended")
                return await bench.run(rules, work)

        steward.decisions._bench = Ending()
        assert await steward.decisions.review() == 1
        assert len(asked) == 3
        facts = dict(steward.log.events)
        assert "not-judged" in facts
        assert facts["reviewed"]["undecided"] == 1

    run(scenario)
