# SPDX-License-Identifier: Apache-2.0
"""A host between a tenant and genuine Keeps: relays, replays, forgeries, swaps. Each is refused, and succeeds in its control build."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from enarx.attester.emulated import EmulatedAttester
from enarx.channel.hpke import OneTimeKey
from enarx.channel.session import Session
from enarx.channel.transcript import (
    Transcript,
    identity_report_data,
    leaf_hash,
    offer_report_data,
)
from enarx.crypto.cbor import encode
from enarx.errors import EnarxError
from enarx.wire.session import (
    Challenge,
    Image,
    Limits,
    Offer,
    Provision,
    Refuse,
    encode_message,
    without_evidence,
)
from tests.attacks.harness import TENANT, Host, Wire, in_between, overheard, run, says, stranger, write_leaf

CANARY = b"the canary that nobody else may hear"
# Evidence that is authentic and over something else.
VERIFICATION = 104


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that says the canary and ends."""
    path = tmp_path / "canary.wat"
    path.write_text(says(CANARY.decode()))
    return path


# --- Relay to another Keep

RELAYS = {
    # What is in evidence, without the one that the control takes away; and what has fallen in both.
    "no-exporter": ("keep-leaf", "tenant-leaf"),
    "no-keep-leaf": ("exporter", "tenant-leaf"),
    # The identity in the receipt has the tenant's key too: that comes late, and is taken away as well.
    "no-tenant-leaf,no-identity": ("exporter", "keep-leaf"),
}


def relayed(folder: Path, module: Path, removed: str, fallen: tuple[str, ...]):
    """Deploy through a host that ends TLS itself on both sides, before a genuine Keep."""
    heard: list[tuple[str, object]] = []
    folder.mkdir()
    keep_build, tenant_build = [removed], [removed]
    as_keep, as_tenant = stranger(), stranger()
    if "keep-leaf" in fallen:
        as_keep = write_leaf(folder / "keep.pem")
        keep_build.append(f"leaf={folder / 'keep.pem'}")
    if "tenant-leaf" in fallen:
        as_tenant = write_leaf(folder / "tenant.pem")
        tenant_build.append(f"leaf={folder / 'tenant.pem'}")
    if "exporter" in fallen:
        keep_build.append("one-exporter")
        tenant_build.append("one-exporter")

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        stream = await host.keeps[name].session()
        await in_between(wire, stream, as_keep=as_keep, as_tenant=as_tenant, heard=heard)

    def build(names):
        return ",".join(name for name in names if name) or "-"

    ended = run(
        folder, sessions, lambda host: host.deploy(module, build=build(tenant_build)), keep_build=build(keep_build)
    )
    return ended, heard


def released(heard) -> bool:
    return any(isinstance(message, Provision) for _, message in heard)


def test_refuses_a_relay_to_another_session(tmp_path, module):
    ended, heard = relayed(tmp_path / "attack", module, "", ())
    assert ended.status == VERIFICATION, ended.stderr
    assert not released(heard)
    assert ended.stdout == b""


def test_control_a_relay_succeeds_where_evidence_is_over_a_nonce_only(tmp_path, module):
    ended, heard = relayed(tmp_path / "control", module, "nonce-only,no-identity", ())
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr
    # The host read what the workload said.
    assert CANARY in overheard(heard)


@pytest.mark.parametrize("removed", RELAYS)
def test_refuses_a_relay_where_two_of_three_have_fallen(tmp_path, module, removed):
    ended, heard = relayed(tmp_path / "attack", module, "", RELAYS[removed])
    assert ended.status == VERIFICATION, ended.stderr
    assert not released(heard)


@pytest.mark.parametrize("removed", RELAYS)
def test_control_such_a_relay_succeeds_without_the_third(tmp_path, module, removed):
    ended, heard = relayed(tmp_path / "control", module, removed, RELAYS[removed])
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr
    assert CANARY in overheard(heard)


# --- Offers: replayed, stolen, made for something else


async def offered_by(host: Host, challenge: Challenge) -> Offer:
    """Have a genuine Keep make an offer to the attacker."""
    keep = await host.start_keep()
    session = await Session.handshake(await keep.session(), stranger(), "tenant")
    await session.send(challenge)
    offer = await session.receive(60)
    assert isinstance(offer, Offer)
    await session.close()
    return offer


def forging(make_offer, heard, build: str, folder: Path, module: Path):
    """Deploy to a host that plays the Keep itself, with an offer that it made."""

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        session = await Session.handshake(wire, stranger(), "keep")
        try:
            challenge = await session.receive(60)
            heard.append((TENANT, challenge))
            await session.send(await make_offer(host, session, challenge))
            heard.append((TENANT, await session.receive(60)))
        except EnarxError:
            return
        finally:
            await session.close()

    return run(folder, sessions, lambda host: host.deploy(module, build=build))


def old_offer(key: OneTimeKey | None):
    """Return what makes an offer from one that answered another challenge; with a key of the attacker's in it, or its own."""

    async def make(host: Host, _session: Session, challenge: Challenge) -> Offer:
        offer = await offered_by(host, challenge._replace(nonce=bytes(32)))
        return offer if key is None else offer._replace(hpke_key=key.public_bytes)

    return make


def stolen_offer(key: OneTimeKey):
    """Return what makes an offer from a fresh one that a genuine Keep made for this very challenge."""

    async def make(host: Host, _session: Session, challenge: Challenge) -> Offer:
        return (await offered_by(host, challenge))._replace(hpke_key=key.public_bytes)

    return make


def as_identity(t: Transcript, identity: bytes) -> bytes:
    return identity_report_data(t.exporter, leaf_hash(t.keep_leaf), identity, leaf_hash(t.tenant_leaf))


def as_identity_without_purpose(t: Transcript, identity: bytes) -> bytes:
    parts = ["enarx-keep/1", t.exporter, leaf_hash(t.keep_leaf), hashlib.sha384(identity).digest()]
    return hashlib.sha512(encode(parts)).digest()


def cross_purpose_offer(key: OneTimeKey, over=as_identity):
    """Return what makes an offer with evidence for an identity, over contents that the attacker chose."""

    async def make(host: Host, session: Session, challenge: Challenge) -> Offer:
        offer = Offer(key.public_bytes, Image("enarx", "0", "nil"), Limits(1 << 28, 1 << 26, 1 << 20), (), b"")
        t = session.transcript(encode_message(challenge))
        attested = EmulatedAttester(host.platform).attest(over(t, identity_of(t, offer)))
        return offer._replace(evidence=attested.evidence, endorsements=attested.endorsements)

    return make


def identity_of(t: Transcript, offer: Offer) -> bytes:
    """Return contents that make an identity look like an offer, where both have three parts."""
    return leaf_hash(t.tenant_leaf) + leaf_hash(t.challenge) + without_evidence(offer)


def opened(heard, key: OneTimeKey, info: bytes) -> bytes:
    (sealed,) = [message.release for _, message in heard if isinstance(message, Provision)]
    return key.open(sealed, info)


OFFERS = {"old": old_offer, "stolen": stolen_offer, "cross-purpose": cross_purpose_offer}


@pytest.mark.parametrize("kind", OFFERS)
def test_refuses_an_offer_that_was_made_for_something_else(tmp_path, module, kind):
    heard: list[tuple[str, object]] = []
    ended = forging(OFFERS[kind](OneTimeKey()), heard, "-", tmp_path, module)
    assert ended.status == VERIFICATION, ended.stderr
    assert "report_data" in ended.stderr.lower()
    assert [type(message) for _, message in heard] == [Challenge, Refuse]


def test_refuses_an_offer_played_again_as_it_was(tmp_path, module):
    heard: list[tuple[str, object]] = []
    ended = forging(old_offer(None), heard, "-", tmp_path, module)
    assert ended.status == VERIFICATION, ended.stderr
    assert not released(heard)


@pytest.mark.parametrize("kind", ["old", "stolen"])
def test_control_such_an_offer_gets_the_release_where_the_tenant_does_not_compare(tmp_path, module, kind):
    heard: list[tuple[str, object]] = []
    key, seen = OneTimeKey(), []
    make = OFFERS[kind](key)

    async def remember(host, session, challenge):
        offer = await make(host, session, challenge)
        seen.append(offer_report_data(session.transcript(encode_message(challenge)), offer))
        return offer

    forging(remember, heard, "no-report-data", tmp_path, module)
    assert b"main.wasm" in opened(heard, key, seen[0])


def test_control_an_offer_gets_the_release_where_nothing_says_the_purpose(tmp_path, module):
    heard: list[tuple[str, object]] = []
    key, infos = OneTimeKey(), []
    make = cross_purpose_offer(key, as_identity_without_purpose)

    async def remember(host, session, challenge):
        offer = await make(host, session, challenge)
        t = session.transcript(encode_message(challenge))
        infos.append(as_identity_without_purpose(t, identity_of(t, offer)))
        return offer

    forging(remember, heard, "no-purpose", tmp_path, module)
    assert b"main.wasm" in opened(heard, key, infos[0])
