# SPDX-License-Identifier: Apache-2.0
"""The certificate of a Keep: asked of a Steward that may answer anything, and what is left where it does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from datetime import UTC, datetime, timedelta

import OpenSSL.crypto
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.attester import Attested
from enarx.attester.attested import CERTIFICATE_TABLE, EVENT_LOG, SNP_REPORT, make_endorsement, make_evidence
from enarx.channel.link import open_link, relay
from enarx.channel.transcript import identity_report_data, leaf_hash, self_signed_report_data
from enarx.errors import (
    AppraisalError,
    DecodeError,
    EnarxError,
    EndorsementError,
    PlatformError,
    TransportError,
    VerificationError,
)
from enarx.keep import certificates
from enarx.keep.certificates import MAX_SELF_SIGNED_BYTES, Certificates, judge_answer
from enarx.keep.certificates_needed import needs_certificate
from enarx.keep.ports import open_outbound
from enarx.keep.steward_client import raise_problem
from enarx.runtime.credential_slot import SlotIdentity
from enarx.steward.facts import check_of
from enarx.wire import ConnectFile, EnarxToml, ListenFile, Tls
from enarx.wire.keep_certificate import decode_keep_certificate_untrusted
from enarx.wire.release import Steward, encode_identity
from enarx.wire.session import Limits, Receipt, without_evidence
from enarx.wire.steward import PROBLEMS, CertificateAnswer, make_problem
from tests.fake_steward import DAY, MINUTE, FakeAuthority, FakeSteward, identity_of
from tests.unit.steward import keeps

AT = datetime(2026, 6, 1, tzinfo=UTC)
WAIT_S = 20
IDENTITY = identity_of()
RECEIPT = without_evidence(Receipt(IDENTITY, Limits(1, 1, 1), (), b""))


class Attesting:
    """Gives evidence in the form that devices have."""

    def __init__(self, *endorsements, size=1184):
        self.asked = []
        self.size = size
        self.endorsements = endorsements

    async def __call__(self, report_data):
        self.asked.append(report_data)
        return Attested(make_evidence(SNP_REPORT, report_data.ljust(self.size, b"\0")), self.endorsements)


class Asking:
    """A Keep's certificates, and the host that carries its connections."""

    def __init__(self, now=AT):
        self.now = now
        self.attest = Attesting()
        self.said = []
        self.opened = []
        self.link = None
        self.made = Certificates(IDENTITY, attest=self.attest, now=lambda: self.now, say=self.said.append)

    async def __aenter__(self):
        ours, theirs = socket.socketpair()
        self._host, self.link = await asyncio.gather(
            open_link(theirs, role="host", accept=self._accept), open_link(ours, role="keep")
        )
        self._tasks = set()
        return self

    async def __aexit__(self, *_):
        self.link.close()
        self._host.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.made.slot.close()

    def _accept(self, stream):
        self.opened.append((stream.target.host, stream.target.port))
        try:
            sock = socket.create_connection(("127.0.0.1", stream.target.port))
        except OSError:
            stream.reset("unreachable")
            return
        stream.confirm()
        self._tasks.add(asyncio.ensure_future(relay(stream, sock)))

    async def obtain(self, steward, url=None, root=None):
        named = Steward(url or steward.url, root or steward.authority.root_der)
        return await self.made.obtain(named, RECEIPT, lambda host, port: open_outbound(self.link, host, port))

    def shown(self):
        return SlotIdentity(self.made.slot.fd).credential()


def scenario(test, **options):
    async def play():
        async with asyncio.timeout(WAIT_S), Asking(**options) as asking:
            await test(asking)

    asyncio.run(play())


@pytest.fixture
def steward(tmp_path):
    with FakeSteward(tmp_path, at=AT) as found:
        yield found


def spki_digest(key):
    return hashlib.sha384(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def test_has_the_certificate_that_it_asked_for(steward):
    async def test(asking):
        await asking.obtain(steward)
        shown = asking.shown()
        assert shown.private_key.public_key() == shown.chain[0].public_key()
        assert decode_keep_certificate_untrusted(shown.chain[0].public_bytes(Encoding.DER)).identity == IDENTITY
        # The root is with whoever trusts it.
        assert len(shown.chain) == 1
        (request,) = steward.requests
        assert request.receipt == RECEIPT
        assert asking.attest.asked == [
            identity_report_data(
                request.nonce, spki_digest(shown.chain[0].public_key()), IDENTITY, leaf_hash(steward.authority.root_der)
            )
        ]
        assert request.root == leaf_hash(steward.authority.root_der)
        # By name, through the host and through nobody else.
        assert asking.opened == [("localhost", steward.port)] * 2
        assert not asking.said

    scenario(test)


def test_a_steward_of_somebody_else_s_cannot_relay_what_it_was_shown(tmp_path):
    """Anybody can deploy a public package, name a Steward of his own, and bring what its Keep shows to the real one."""
    refused = []

    with FakeSteward(tmp_path, at=keeps.AT) as theirs:

        def relay(answer):
            if isinstance(answer, CertificateAnswer):
                request = theirs.requests[-1]
                for shown in (request, request._replace(root=keeps.root_digest())):
                    with pytest.raises(VerificationError) as caught:
                        keeps.judge().certify(shown, now=keeps.AT)
                    refused.append(check_of(caught.value))
                # It is genuine: he whose root it is may use it.
                assert keeps.judge(root=theirs.authority.root).certify(request, now=keeps.AT).identity == keeps.IDENTITY
            return answer

        theirs.change = relay

        async def test(asking):
            asking.made.slot.close()
            asking.made = Certificates(
                encode_identity(keeps.IDENTITY), attest=_attest_genuinely, now=lambda: keeps.AT, say=asking.said.append
            )
            named = Steward(theirs.url, theirs.authority.root_der)
            await asking.made.obtain(
                named, keeps.receipt_of(), lambda host, port: open_outbound(asking.link, host, port)
            )

        scenario(test)
    assert refused == ["steward.root", "snp.report_data"]


async def _attest_genuinely(report_data):
    made = keeps.make_request(report_data=report_data)
    return Attested(made.evidence, made.endorsements)


def test_each_certificate_has_a_key_of_its_own(steward):
    async def test(asking):
        await asking.obtain(steward)
        first = asking.shown()
        await asking.obtain(steward)
        assert asking.shown().chain[0].public_key() != first.chain[0].public_key()

    scenario(test)


@pytest.mark.parametrize("kind", list(PROBLEMS))
def test_a_refusal_comes_with_the_steward_s_words(steward, kind):
    wanted = {
        "not-authentic": VerificationError,
        "refused": AppraisalError,
        "no-grant": AppraisalError,
        "undecided": EndorsementError,
        "replayed-nonce": VerificationError,
        "decode": DecodeError,
        "usage": DecodeError,
        "media-type": DecodeError,
        "too-large": DecodeError,
    }
    problem = make_problem(kind, "the detail of it", hint="what to do", check="snp.tcb")
    with pytest.raises(wanted.get(kind, TransportError)) as caught:
        raise_problem("steward.example", problem)
    for part in (PROBLEMS[kind].title, "the detail of it", "what to do", "[snp.tcb]", "steward.example"):
        assert part in str(caught.value)


def test_a_refusal_leaves_no_certificate(steward):
    steward.change = lambda answer: (
        make_problem("no-grant", "found none") if isinstance(answer, CertificateAnswer) else answer
    )

    async def test(asking):
        with pytest.raises(AppraisalError, match="no grant names this package"):
            await asking.obtain(steward)
        with pytest.raises(EnarxError, match="found none"):
            asking.shown()

    scenario(test)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s, r: (200, "text/html", b"<html>"), TransportError, "found status 200"),
        (lambda s, r: (302, "application/json", b"{}"), TransportError, "found status 302"),
        (lambda s, r: (201, "application/json", b"{}"), DecodeError, "chain"),
        (lambda s, r: (201, "application/json", b"x" * ((1 << 20) + 1)), TransportError, "more than 1048576 bytes"),
        (lambda s, r: (500, "application/problem+json", b"["), DecodeError, "problem"),
        (lambda s, r: (500, "application/problem+json", b" " * ((128 << 10) + 1)), TransportError, "more than 131072"),
        (
            lambda s, r: s.certify(r, public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
            VerificationError,
            "key: found another one",
        ),
        (lambda s, r: s.certify(r, identity=identity_of(b"q" * 32)), VerificationError, "that of another Keep"),
        (lambda s, r: s.certify(r, identity=None), DecodeError, "no extension about a Keep"),
        (lambda s, r: s.certify(r)._replace(chain=(b"no",)), DecodeError, "certificate"),
    ],
)
def test_refuses_what_is_not_this_keep_s_certificate(steward, change, error, match):
    steward.change = lambda answer: (
        change(steward, steward.requests[-1]) if isinstance(answer, CertificateAnswer) else answer
    )

    async def test(asking):
        with pytest.raises(error, match=match):
            await asking.obtain(steward)

    scenario(test)


def test_shows_the_stewards_own_certificate_where_another_authority_is_above_it():
    above = FakeAuthority(AT, "operator", below=1)
    own = above.vouch(AUTHORITY.root)
    chain = (LEAF, own.public_bytes(Encoding.DER), above.root_der)
    issued = judge_answer(CertificateAnswer(chain, AT + DAY, AT + DAY, 0), KEY, identity=IDENTITY, root=own, at=AT)
    assert [each.public_bytes(Encoding.DER) for each in issued.credential.chain] == list(chain[:2])
    # What the Keep believes is the Steward's alone: whatever else is below that root is not.
    with pytest.raises(VerificationError, match="chain: found"):
        judge_answer(
            CertificateAnswer(chain, AT + DAY, AT + DAY, 0),
            KEY,
            identity=IDENTITY,
            root=above.vouch(FakeAuthority(AT, "another").root),
            at=AT,
        )


def test_refuses_a_chain_that_ends_elsewhere(steward):
    other = FakeAuthority(AT)

    def change(answer):
        if not isinstance(answer, CertificateAnswer):
            return answer
        own, steward.authority = steward.authority, other
        try:
            return steward.certify(steward.requests[-1])
        finally:
            steward.authority = own

    steward.change = change

    async def test(asking):
        with pytest.raises(VerificationError, match="chain: found"):
            await asking.obtain(steward)

    scenario(test)


def test_believes_no_steward_but_the_root_s(steward):
    async def test(asking):
        with pytest.raises(TransportError, match="no trusted issuer"):
            await asking.obtain(steward, root=FakeAuthority(AT, "another").root_der)
        with pytest.raises(TransportError, match="certificate signature failure"):
            await asking.obtain(steward, root=FakeAuthority(AT).root_der)
        assert not asking.attest.asked

    scenario(test)


@pytest.mark.parametrize("off", [-2 * DAY, 2 * DAY])
def test_clocks_that_differ_are_said_with_both_times_where_the_connection_fails(steward, off):
    async def test(asking):
        with pytest.raises(TransportError, match=r"valid from 2026-05-31T23:59:00Z to 2026-06-01T01:00:00Z") as caught:
            await asking.obtain(steward)
        assert f"this Keep's clock, which is the tenant's, says {AT + off:%Y-%m-%dT%H:%M:%SZ}" in str(caught.value)

    scenario(test, now=AT + off)


def test_clocks_that_differ_are_said_with_both_times_where_all_would_hold(steward):
    async def test(asking):
        with pytest.raises(VerificationError, match="the clocks differ") as caught:
            await asking.obtain(steward)
        assert "nonce is for 2026-06-01T00:02:00Z at the latest" in str(caught.value)
        assert "this Keep's clock, which is the tenant's, says 2026-06-01T00:30:00Z" in str(caught.value)
        assert not asking.attest.asked

    scenario(test, now=AT + 30 * MINUTE)


def test_clocks_that_differ_are_said_with_both_times_where_the_certificate_does_not_hold(steward):
    # The connection is good for an hour, and what the Steward issues begins tomorrow.
    steward.change = lambda answer: (
        steward.certify(steward.requests[-1], first=AT + DAY, last=AT + 2 * DAY)
        if isinstance(answer, CertificateAnswer)
        else answer
    )

    async def test(asking):
        with pytest.raises(VerificationError, match="the clocks differ") as caught:
            await asking.obtain(steward)
        assert "valid from 2026-06-02T00:00:00Z to 2026-06-03T00:00:00Z" in str(caught.value)
        assert "this Keep's clock, which is the tenant's, says 2026-06-01T00:00:00Z" in str(caught.value)

    scenario(test)


def test_a_steward_that_is_not_there_is_said(steward):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def test(asking):
        with pytest.raises(TransportError, match=f"cannot connect to localhost:{port}: the host says unreachable"):
            await asking.obtain(steward, url=f"https://localhost:{port}")

    scenario(test)


def test_a_steward_that_says_nothing_is_given_up(steward, monkeypatch):
    monkeypatch.setattr(certificates, "FIRST_S", 0.2)

    async def test(asking):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://localhost:{silent.getsockname()[1]}"
            with pytest.raises(TransportError, match=r"found no certificate, want one within 0\.2 s"):
                await asking.obtain(steward, url=url)

    scenario(test)


@pytest.mark.parametrize("url", ["http://localhost", "https://", "https://user:secret@localhost"])
def test_refuses_a_release_with_another_url(steward, url):
    async def test(asking):
        with pytest.raises(DecodeError, match="release refused") as caught:
            await asking.obtain(steward, url=url)
        assert "secret" not in str(caught.value)

    scenario(test)


def test_refuses_a_release_with_a_root_that_is_none(steward):
    async def test(asking):
        with pytest.raises(DecodeError, match="release refused"):
            await asking.obtain(steward, root=b"root")

    scenario(test)


def test_renews_with_fresh_evidence_and_goes_on(steward, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) > 3:
            raise asyncio.CancelledError

    async def test(asking):
        renew = await asking.obtain(steward)
        shown = {asking.shown().chain}
        with monkeypatch.context() as patched:
            patched.setattr(certificates, "asyncio", _Sleeping(sleep))
            with pytest.raises(asyncio.CancelledError):
                await renew()
        shown.add(asking.shown().chain)
        assert len(shown) == 2
        assert len(asking.attest.asked) == len(set(asking.attest.asked)) == 4
        # Half of its life, and never later than that.
        assert all(0.9 * 12 * 3600 <= seconds <= 12 * 3600 for seconds in slept)
        assert not asking.said

    scenario(test)


def test_a_renewal_that_fails_leaves_the_certificate_and_is_tried_again(steward, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            steward.change = refuse
        if len(slept) == 10:
            steward.change = lambda answer: answer
        if len(slept) == 12:
            raise asyncio.CancelledError

    def refuse(answer):
        return make_problem("unavailable", "secret of the tenant")

    async def test(asking):
        renew = await asking.obtain(steward)
        steward.change = refuse
        first = asking.shown().chain
        seen = []
        with monkeypatch.context() as patched:

            async def watched(seconds):
                await sleep(seconds)
                seen.append(asking.shown().chain)

            patched.setattr(certificates, "asyncio", _Sleeping(watched))
            with pytest.raises(asyncio.CancelledError):
                await renew()
        assert slept[1:10] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
        assert set(seen[:10]) == {first}
        assert seen[10] != first
        assert asking.said == ["certificate not renewed: TransportError"] * 9 + ["certificate renewed"]

    scenario(test)


class _Sleeping:
    """`asyncio`, but for sleeping."""

    def __init__(self, sleep):
        self.sleep = sleep

    def __getattr__(self, name):
        return getattr(asyncio, name)


@settings(max_examples=60)
@given(life_s=st.integers(600, 7 * 86400), renew_s=st.integers(-(10**6), 10**7), late_s=st.integers(0, 500))
def test_renews_before_two_thirds_of_what_is_left(life_s, renew_s, late_s):
    authority, key = FakeAuthority(AT), ec.generate_private_key(ec.SECP256R1())
    leaf = authority.issue(key.public_key(), AT - 5 * MINUTE, AT + timedelta(seconds=life_s), identity=IDENTITY)
    answer = CertificateAnswer(
        (leaf.public_bytes(Encoding.DER),), leaf.not_valid_after_utc, AT + timedelta(seconds=renew_s), 0
    )
    at = AT + timedelta(seconds=late_s)
    issued = judge_answer(answer, key, identity=IDENTITY, root=authority.root, at=at)
    assert 5 <= issued.renew_in_s <= max(5, (life_s - late_s) * 2 / 3 + 1e-5)


@settings(max_examples=300)
@given(st.data())
def test_any_answer_is_this_keep_s_certificate_or_refused(data):
    authority, key = AUTHORITY, KEY
    leaf = bytearray(LEAF)
    for _ in range(data.draw(st.integers(0, 3))):
        leaf[data.draw(st.integers(0, len(leaf) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    issuers = data.draw(st.sampled_from([(), (authority.root_der,), (b"",), (LEAF,), (authority.root_der, LEAF)]))
    answer = CertificateAnswer((bytes(leaf), *issuers), AT + DAY, AT + DAY, 0)
    try:
        issued = judge_answer(answer, key, identity=IDENTITY, root=authority.root, at=AT)
    except (DecodeError, VerificationError):
        assert bytes(leaf) != LEAF or b"" in issuers
        return
    assert bytes(leaf) == LEAF
    assert issued.credential.chain[0].public_bytes(Encoding.DER) == LEAF


def test_a_certificate_that_openssl_cannot_read_is_refused(monkeypatch):
    """One of the leaf's bits, flipped, is read by the one library and not by the other."""
    convert = OpenSSL.crypto.X509.from_cryptography

    def read(certificate):
        if certificate == AUTHORITY.root:
            return convert(certificate)
        raise OpenSSL.crypto.Error([("asn1 encoding routines", "", "mstring wrong tag")])

    answer = CertificateAnswer((LEAF,), AT + DAY, AT + DAY, 0)
    judge_answer(answer, KEY, identity=IDENTITY, root=AUTHORITY.root, at=AT)
    monkeypatch.setattr(OpenSSL.crypto.X509, "from_cryptography", read)
    with pytest.raises(DecodeError, match="found one that OpenSSL cannot read"):
        judge_answer(answer, KEY, identity=IDENTITY, root=AUTHORITY.root, at=AT)


AUTHORITY, KEY = FakeAuthority(AT), ec.generate_private_key(ec.SECP256R1())
LEAF = AUTHORITY.issue(KEY.public_key(), AT - MINUTE, AT + DAY, identity=IDENTITY).public_bytes(Encoding.DER)


def test_signs_itself_with_evidence_for_its_key():
    table = make_endorsement(CERTIFICATE_TABLE, b"\x01" * 4000)
    log = make_endorsement(EVENT_LOG, b"\x02" * 4000)

    async def test(asking):
        asking.attest.endorsements = (table, log)
        await asking.made.sign_itself()
        (leaf,) = asking.shown().chain
        der = leaf.public_bytes(Encoding.DER)
        keep = decode_keep_certificate_untrusted(der)
        assert (keep.identity, keep.result) == (IDENTITY, None)
        # Event logs do not travel in every handshake.
        assert keep.endorsements == (table,)
        assert asking.attest.asked == [self_signed_report_data(spki_digest(leaf.public_key()), IDENTITY)]
        assert leaf.not_valid_before_utc <= AT <= leaf.not_valid_after_utc
        assert len(der) <= MAX_SELF_SIGNED_BYTES
        assert not asking.said

    scenario(test)


def test_leaves_out_what_does_not_fit_into_a_certificate():
    async def test(asking):
        asking.attest.endorsements = (make_endorsement(CERTIFICATE_TABLE, b"\x01" * 20000),)
        await asking.made.sign_itself()
        keep = decode_keep_certificate_untrusted(asking.shown().chain[0].public_bytes(Encoding.DER))
        assert keep.evidence is not None
        assert keep.endorsements == ()
        asking.attest.size = 20000
        await asking.made.sign_itself()
        with pytest.raises(DecodeError, match="no extension"):
            decode_keep_certificate_untrusted(asking.shown().chain[0].public_bytes(Encoding.DER))
        assert asking.said == ["the certificate has no evidence, because there is too much of it"]

    scenario(test)


def test_signs_nothing_where_there_is_no_evidence():
    async def test(asking):
        async def fail(_):
            raise PlatformError("no device")

        asking.made._attest = fail
        with pytest.raises(PlatformError):
            await asking.made.sign_itself()

    scenario(test)


CORE, COMPONENT = b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"
LISTEN, CONNECT = ListenFile(name="l", port=1), ConnectFile(name="c", host="h", port=1)
PLAIN = ConnectFile(name="c", prot="tcp", host="h", port=1)


@pytest.mark.parametrize(
    ("toml", "module", "needed"),
    [
        (EnarxToml(), CORE, False),
        (EnarxToml(), COMPONENT, False),
        (EnarxToml(files=(LISTEN,)), CORE, True),
        (EnarxToml(files=(CONNECT,)), CORE, True),
        (EnarxToml(files=(ListenFile(name="l", prot="tcp", port=1),)), COMPONENT, False),
        (EnarxToml(files=(PLAIN,)), CORE, False),
        (EnarxToml(files=(PLAIN,)), COMPONENT, True),
        (EnarxToml(allow_connect=("*:443",)), CORE, False),
        (EnarxToml(allow_connect=("*:443",)), COMPONENT, True),
        (EnarxToml(allow_connect=()), COMPONENT, False),
        (EnarxToml(files=(LISTEN,), tls=Tls(certificate="c", private_key="k")), CORE, False),
    ],
)
def test_a_certificate_is_made_where_one_is_shown(toml, module, needed):
    fd = os.memfd_create("module")
    os.write(fd, module)
    try:
        assert needs_certificate(toml, fd) is needed
    finally:
        os.close(fd)
