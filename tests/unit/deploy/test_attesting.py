# SPDX-License-Identifier: Apache-2.0
"""Attest, provision and attach against a Keep that does it right, and against Keeps and platforms that do not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.channel.session import Session
from enarx.deploy.attesting import Judge, attest, attest_again
from enarx.deploy.package import load_package
from enarx.deploy.policy import make_policy
from enarx.deploy.provisioning import provision
from enarx.deploy.receipt import attested_facts, make_receipt, rejudge
from enarx.deploy.sealing import seal_blobs
from enarx.errors import AppraisalError, DecodeError, KeepError, TransportError, UsageError, VerificationError
from enarx.rats import Verdict
from enarx.wire.receipt_file import decode_receipt_untrusted, encode_receipt
from enarx.wire.session import Challenge, Failure, Provision, Refuse
from tests.tenants import AT, MEASUREMENT, FakeHost, FakeKeep, make_credential, make_pipes


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "main.wasm"
    path.write_bytes(b"\0asm" + bytes(100_000))
    return load_package(str(path))


def judge_of(policy):
    return Judge(policy, now=lambda: AT)


def together(keep_steps, tenant_steps, keep, credential=None):
    """Run both ends of one session to their ends, and return what the tenant's returns."""

    async def run():
        async with asyncio.timeout(30):
            ours, theirs = make_pipes()

            async def keep_end():
                await keep.open(theirs)
                await keep_steps(keep)
                await keep.listen()

            end = asyncio.ensure_future(keep_end())
            session = await Session.handshake(ours, credential or make_credential(), "tenant")
            try:
                return await tenant_steps(session)
            finally:
                await session.close()
                await end

    return asyncio.run(run())


def refused(keep_steps, keep, policy, kind):
    with pytest.raises(kind) as error:
        together(keep_steps, lambda session: attest(session, judge_of(policy)), keep)
    return error.value


def test_accepts_an_offer_over_this_very_session(platform, policy):
    keep = FakeKeep(platform)
    attested = together(FakeKeep.offer, lambda session: attest(session, judge_of(policy)), keep)
    assert attested.judged.result.verdict is Verdict.ACCEPTED
    assert attested.judged.result.emulated
    assert attested.judged.report_data == keep.offered
    assert keep.received == []


def test_refuses_an_emulated_platform_that_nobody_accepted(platform, policy):
    keep = FakeKeep(platform)
    error = refused(FakeKeep.offer, keep, make_policy(policy.text, name="test"), VerificationError)
    assert "--insecure-accept-emulated" in error.hint
    assert keep.received == [Refuse("verification")]


def test_refuses_another_measurement_with_every_finding(platform, policy):
    keep = FakeKeep(platform, measurement=b"\x43" * 48)
    error = refused(FakeKeep.offer, keep, policy, AppraisalError)
    assert [finding.check.id for finding in error.result.failures] == ["snp.measurement"]
    assert keep.received == [Refuse("appraisal")]


@pytest.mark.parametrize("part", ["hpke_key", "image", "limits"])
def test_refuses_an_offer_that_was_edited(platform, policy, part):
    def edit(offer):
        if part == "hpke_key":
            return offer._replace(hpke_key=offer.hpke_key[::-1])
        if part == "image":
            return offer._replace(image=offer.image._replace(version="9"))
        return offer._replace(limits=offer.limits._replace(memory_bytes=1))

    keep = FakeKeep(platform)
    error = refused(lambda each: each.offer(edit), keep, policy, VerificationError)
    assert [finding.check.id for finding in error.result.failures] == ["snp.report_data"]


def test_refuses_the_offer_of_another_session(platform, policy):
    first = FakeKeep(platform)
    stolen = together(FakeKeep.offer, lambda session: attest(session, judge_of(policy)), first).offer
    keep = FakeKeep(platform)
    error = refused(lambda each: each.offer(lambda _: stolen), keep, policy, VerificationError)
    assert [finding.check.id for finding in error.result.failures] == ["snp.report_data"]


def test_a_keep_that_is_provisioned_already_is_not_taken_for_an_empty_one(platform, policy):
    keep = FakeKeep(platform)
    error = refused(lambda each: each.attachment(bytes(48)), keep, policy, VerificationError)
    assert "not empty" in str(error)


@pytest.mark.parametrize("kind", range(103, 110))
@pytest.mark.parametrize("again", [False, True])
def test_a_failure_before_the_verdict_is_no_verdict_whatever_it_says(platform, policy, kind, again):
    async def fail(keep):
        await keep.challenged()
        await keep.session.send(Failure(kind, "refused"))

    def ask(session):
        judge = judge_of(policy)
        return attest_again(session, judge, bytes(48)) if again else attest(session, judge)

    with pytest.raises(TransportError) as error:
        together(fail, ask, FakeKeep(platform))
    assert error.value.status == 107


def test_a_failure_after_it_has_its_class(platform, policy, package):
    keep = FakeKeep(platform)

    async def steps(each):
        await each.offer()
        await each.session.receive(10)
        await each.session.send(Failure(109, "no room"))

    with pytest.raises(KeepError, match="no room"):
        together(steps, provisioning(policy, package, FakeHost()), keep)


def test_the_words_of_a_keep_that_fails_are_shown_without_control_characters(platform, policy):
    async def fail(keep):
        await keep.challenged()
        await keep.session.send(Failure(109, "no\x1b[2J room"))

    error = refused(fail, FakeKeep(platform), policy, TransportError)
    assert str(error).endswith("want evidence: no\N{REPLACEMENT CHARACTER}[2J room")


def only_heard(session, *kinds):
    """Let a session send nothing of some kinds, as one does that the Keep has ended, and receive what came before."""
    send = session.send

    async def gone(message, **how):
        if isinstance(message, kinds):
            raise TransportError("session: found it closed, want it open")
        await send(message, **how)

    session.send = gone
    return session


def test_a_keep_that_went_before_the_challenge_is_heard_out(platform, policy):
    async def fail(each):
        await each.session.send(Failure(107, "found no message, want one within 30 s"))

    with pytest.raises(TransportError, match="found a failure, want evidence: found no message, want one within 30 s"):
        together(fail, lambda session: attest(only_heard(session, Challenge), judge_of(policy)), FakeKeep(platform))


def test_a_keep_that_went_before_the_challenge_without_a_word_is_closed(platform, policy):
    async def leave(each):
        await each.session.close()

    with pytest.raises(TransportError, match="found it closed, want it open"):
        together(leave, lambda session: attest(only_heard(session, Challenge), judge_of(policy)), FakeKeep(platform))


def test_evidence_that_is_none_is_told_so(platform, policy):
    keep = FakeKeep(platform)
    refused(lambda each: each.offer(lambda offer: offer._replace(evidence=b"x")), keep, policy, DecodeError)
    assert keep.received == [Refuse("decode")]


# --- Provision ---------------------------------------------------------------------------------------------------------


def provisioning(policy, package, host):
    judge = judge_of(policy)

    async def steps(session):
        attested = await attest(session, judge)
        provisioned = await provision(
            session, attested, package, seal_blobs(package.plaintexts), judge=judge, host=host, keep_id="k", time_ns=1
        )
        return attested, provisioned

    return steps


def deploy(platform, policy, package, credential=None):
    keep, host = FakeKeep(platform), FakeHost()

    async def steps(each):
        await each.offer()
        await each.receipt()

    attested, provisioned = together(steps, provisioning(policy, package, host), keep, credential)
    return keep, host, attested, provisioned


def test_provisions_what_was_sealed_and_nothing_else(platform, policy, package):
    keep, host, _, provisioned = deploy(platform, policy, package)
    assert provisioned.judged.result.verdict is Verdict.ACCEPTED
    (blob,) = keep.release.blobs.values()
    assert len(host.uploads[0]) == blob.ciphertext_length
    assert package.plaintexts["main.wasm"][:100] not in host.uploads[0]


@pytest.mark.parametrize("member", ["package", "module", "configuration", "pristine", "tenant"])
def test_refuses_a_keep_that_runs_something_else(platform, policy, package, member):
    keep = FakeKeep(platform)

    def change(identity):
        value = getattr(identity, member)
        return identity._replace(**{member: (not value) if isinstance(value, bool) else bytes(len(value))})

    async def steps(each):
        await each.offer()
        await each.receipt(change)

    with pytest.raises(VerificationError, match=rf"identity\.{member}"):
        together(steps, provisioning(policy, package, FakeHost()), keep)
    assert keep.received == [Refuse("verification")]


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        (Failure(107, "found no message, want one within 120 s"), TransportError, "the Keep says: found no message"),
        (None, TransportError, "found it closed, want it open"),
    ],
    ids=["with a word", "without"],
)
def test_a_keep_that_waits_no_longer_for_a_package_is_heard_out(platform, policy, package, said, kind, match):
    async def steps(each):
        await each.offer()
        if said is not None:
            await each.session.send(said)
        await each.session.close()

    go_on = provisioning(policy, package, FakeHost())
    with pytest.raises(kind, match=match):
        together(steps, lambda session: go_on(only_heard(session, Provision)), FakeKeep(platform))


def test_refuses_a_package_that_the_keep_has_no_room_for_before_it_is_released(platform, policy, package):
    keep = FakeKeep(platform)
    large = replace(package, plaintexts={"main.wasm": bytes((1 << 20) + 1)})
    with pytest.raises(UsageError, match="has room for"):
        together(FakeKeep.offer, provisioning(policy, large, FakeHost()), keep)
    assert not any(isinstance(message, Provision) for message in keep.received)


# --- Receipts and attaching --------------------------------------------------------------------------------------------


@pytest.fixture
def credential():
    return make_credential()


@pytest.fixture
def receipt_file(platform, policy, package, credential):
    _, _, attested, provisioned = deploy(platform, policy, package, credential)
    made = make_receipt(
        attested,
        provisioned.receipt,
        provisioned.judged,
        policy=policy,
        credential=credential,
        host="http://h:1",
        keep_id="k",
    )
    return decode_receipt_untrusted(encode_receipt(made))


def test_a_receipt_is_judged_again_with_the_same_verdict(receipt_file, package):
    again = rejudge(receipt_file)
    again.require()
    assert again.emulated
    assert again.remarks == ()
    assert again.identity.package == package.digest
    facts = attested_facts(receipt_file)
    assert (facts.emulated, facts.status, facts.identity) == (True, "warning", again.identity)


@pytest.mark.parametrize("member", ["exporter", "tenant_leaf", "keep_leaf"])
def test_a_receipt_of_another_session_is_refused(receipt_file, member):
    value = make_credential().chain[0].public_bytes(Encoding.DER) if member != "exporter" else bytes(32)
    changed = replace(receipt_file, **{member: value})
    if member == "tenant_leaf":
        with pytest.raises(VerificationError, match=r"identity\.tenant"):
            rejudge(changed)
    else:
        again = rejudge(changed)
        # As when it was deployed: what is over something else is not of this session, whatever the policy calls it.
        assert again.verdict is Verdict.NOT_AUTHENTIC
        with pytest.raises(VerificationError, match=r"snp\.report_data"):
            again.require()


def test_a_receipt_of_a_keep_that_the_policy_refuses_is_authentic(receipt_file, policy):
    other = make_policy(
        policy.text.replace(MEASUREMENT.hex().encode(), b"43" * 48), name="test", accepted_roots=policy.accepted_roots
    )
    with pytest.raises(AppraisalError, match=r"snp\.measurement"):
        rejudge(receipt_file, policy=other).require()


def test_a_receipt_without_its_accepted_root_is_refused(receipt_file):
    with pytest.raises(VerificationError):
        rejudge(replace(receipt_file, accepted_roots=frozenset())).require()


def test_a_verdict_that_was_written_by_somebody_else_is_remarked(receipt_file):
    swapped = replace(receipt_file, offer_result=receipt_file.receipt_result, receipt_result="a.b.c")
    first, second = rejudge(swapped).remarks
    assert "about other evidence" in first
    assert "cannot be read" in second


def test_attaches_to_the_keep_of_the_receipt_only(platform, policy):
    digest = b"\x01" * 48
    keep = FakeKeep(platform)
    again = together(
        lambda each: each.attachment(digest, 3, 9),
        lambda session: attest_again(session, judge_of(policy), digest),
        keep,
    )
    assert (again.attachment.log_start, again.attachment.log_end) == (3, 9)
    with pytest.raises(VerificationError) as refused_one:
        together(
            lambda each: each.attachment(b"\x02" * 48),
            lambda session: attest_again(session, judge_of(policy), digest),
            FakeKeep(platform),
        )
    assert [finding.check.id for finding in refused_one.value.result.failures] == ["snp.report_data"]


def test_an_empty_keep_is_not_the_one_of_the_receipt(platform, policy):
    keep = FakeKeep(platform)
    with pytest.raises(VerificationError, match="not the Keep of the receipt"):
        together(FakeKeep.offer, lambda session: attest_again(session, judge_of(policy), bytes(48)), keep)
