# SPDX-License-Identifier: Apache-2.0
"""A host that changes bytes on their way, holds them back, leads them elsewhere, or speaks TLS of another kind."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from enarx.channel import tls
from enarx.channel.link import Stream
from enarx.channel.session import Session
from enarx.errors import EnarxError, TransportError
from enarx.wire.session import (
    Challenge,
    KeepMessage,
    Offer,
    Output,
    Receipt,
    Stdin,
    TenantMessage,
    decode_keep_message_untrusted,
    decode_tenant_message_untrusted,
    encode_message,
)
from tests.attacks.harness import (
    ATTESTED_BYTES,
    KEEP,
    TENANT,
    Ended,
    Host,
    Wire,
    honest,
    pieces_of,
    relay,
    run,
    says,
    stranger,
)

CANARY = b"the canary that is in no cage"
DECODE, VERIFICATION, TRANSPORT = 103, 104, 107
HANDSHAKE, CHANGE_CIPHER_SPEC, ALERT = 22, 20, 21


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that says the canary and ends."""
    path = tmp_path / "canary.wat"
    path.write_text(says(CANARY.decode()))
    return path


# --- Bytes changed on their way


def edited(record: bytes) -> list[bytes]:
    middle = len(record) // 2
    return [record[:middle] + bytes([record[middle] ^ 1]) + record[middle + 1 :]]


OPERATIONS = {"edited": edited, "dropped": lambda _: [], "duplicated": lambda record: [record, record]}


def passed(folder: Path, module: Path, tamper, build: str = "time-limits=5") -> tuple[Ended, bytes]:
    folder.mkdir()

    async def scenario(host: Host):
        ended = await host.deploy(module, build=build)
        return ended, b"".join(keep.console for keep in host.keeps.values())

    return run(folder, honest(tamper, pieces_of(build)), scenario, keep_build=build)


def spoken(folder: Path, module: Path) -> dict[tuple[str, int], bytes]:
    """Return the records that an undisturbed deployment needs: all of a kind that TLS 1.3 means something by, but its last."""
    seen: dict[tuple[str, int], bytes] = {}

    def watch(speaker: str, number: int, record: bytes) -> list[bytes]:
        seen[speaker, number] = record
        return [record]

    ended, _ = passed(folder, module, watch)
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr
    # The tenant's last record says that it has heard of the end.
    last = max(number for speaker, number in seen if speaker == TENANT)
    return {
        place: record for place, record in seen.items() if record[0] != CHANGE_CIPHER_SPEC and place != (TENANT, last)
    }


def require_refused(ended: Ended, console: bytes, where: object, *, at_the_end: bool = False) -> None:
    """Require that a deployment was refused; or, where a last record was hit, that it had come to its end before that."""
    if at_the_end and ended.status == 0:
        assert ended.stdout == CANARY + b"\n", (where, ended)
        return
    assert ended.status in {DECODE, VERIFICATION, TRANSPORT}, (where, ended)
    assert ended.stdout in {b"", CANARY + b"\n"}, (where, ended)
    assert ended.stderr.splitlines()[-1].startswith(("enarx: ", "hint: ")), (where, ended)
    assert b"bug" not in console, (where, console)


# Nearly all of such a deployment's time is a wait for a limit.
AT_ONCE = 4


def at_once(is_refused: Callable[[tuple[str, int]], bool], places: Iterable[tuple[str, int]]) -> None:
    """Deploy for each place, some at a time; again and alone, where there was no time to come to the place.

    Args:
        is_refused: deploys, raises unless that was refused, and says whether what was to be changed was said at all.
        places: what is changed.
    """
    places = list(places)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        missed = [place for place, came in zip(places, pool.map(is_refused, places), strict=True) if not came]
    for place in missed:
        assert is_refused(place), place


def require_all_refused(folder: Path, module: Path, tamper) -> None:
    """Deploy once for each record, which `tamper` changes, and require that each deployment is refused."""
    places = spoken(folder / "honest", module)
    # What a tenant says last (the end of stdin, goodbye) and a Keep (goodbye) is said of a workload that has ended.
    last = {speaker: max(number for who, number in places if who == speaker) for speaker in (TENANT, KEEP)}

    def is_refused(place: tuple[str, int]) -> bool:
        speaker, number = place
        sent = [-1]
        changed = tamper(speaker, number)

        def counted(who, which, record):
            if who == speaker:
                sent.append(which)
            return changed(who, which, record)

        ended, console = passed(Path(tempfile.mkdtemp(dir=folder)) / f"{speaker}{number}", module, counted)
        # Two messages may travel in one record, and then what was hit came one earlier and was the last all the same.
        is_last = number == last[speaker] or number == sent[-1] == last[speaker] - 1
        require_refused(ended, console, place, at_the_end=is_last)
        return sent[-1] >= (last[speaker] - 1 if is_last else number)

    at_once(is_refused, places)


def one_changed(speaker: str, number: int, operation):
    def tamper(who: str, which: int, record: bytes) -> list[bytes]:
        return operation(record) if (who, which) == (speaker, number) else [record]

    return tamper


def held_back(speaker: str, number: int):
    """Return what sends a record after the next one."""
    kept: list[bytes] = []

    def tamper(who: str, which: int, record: bytes) -> list[bytes]:
        if who == speaker and which == number:
            kept.append(record)
            return []
        if who == speaker and kept:
            return [record, kept.pop()]
        return [record]

    return tamper


def test_refuses_an_offer_and_a_provision_with_a_bit_changed(tmp_path, module):
    needed = spoken(tmp_path / "honest", module)
    # Of what an empty Keep says nothing is longer than its offer. Before it comes the challenge, after it the provision.
    offer = max((place for place in needed if place[0] == KEEP), key=lambda place: len(needed[place]))
    places = list(needed)
    before = [place for place in places[: places.index(offer)] if place[0] == TENANT]
    after = [place for place in places[places.index(offer) :] if place[0] == TENANT]
    for place in (before[-1], offer, after[0]):
        ended, console = passed(tmp_path / f"{place[0]}{place[1]}", module, one_changed(*place, edited))
        require_refused(ended, console, place)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_refuses_every_record_changed(tmp_path, module, operation):
    require_all_refused(tmp_path, module, lambda *place: one_changed(*place, OPERATIONS[operation]))


@pytest.mark.slow
def test_refuses_every_record_out_of_order(tmp_path, module):
    require_all_refused(tmp_path, module, held_back)


@pytest.mark.slow
def test_takes_every_record_late(tmp_path, module):
    async def late(_who: str, _number: int, record: bytes) -> list[bytes]:
        await asyncio.sleep(0.2)
        return [record[:7], record[7:]]

    ended, _ = passed(tmp_path / "late", module, late)
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("operation", [*OPERATIONS, "out of order"])
def test_refuses_every_message_about_trust_changed_even_without_tls(tmp_path, module, operation):
    def is_refused(place: tuple[str, int]) -> bool:
        said: list[tuple[str, int]] = []
        tamper = one_changed(*place, OPERATIONS[operation]) if operation in OPERATIONS else held_back(*place)

        def heard(who, which, message):
            said.append((who, which))
            return tamper(who, which, message)

        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "one"
        ended, console = passed(folder, module, heard, "null-tls,time-limits=5")
        require_refused(ended, console, place)
        assert ended.stdout == b""
        return place in said

    at_once(is_refused, ((TENANT, 1), (KEEP, 1), (TENANT, 2), (KEEP, 2)))


def with_more_memory(message: Offer | Receipt) -> Offer | Receipt:
    return message._replace(limits=message.limits._replace(memory_bytes=1 << 40))


# What is changed in a message, and what would not notice it were TLS not there: the tenant, and the Keep, which opens what was
# sealed for what was said.
MESSAGES: dict[type, tuple[str, Callable[[Any], Any], str]] = {
    Challenge: (TENANT, lambda message: message._replace(nonce=bytes(32)), "no-report-data,no-info"),
    Offer: (KEEP, with_more_memory, "no-report-data,no-info"),
    Receipt: (KEEP, with_more_memory, "no-report-data"),
}


def rewritten(folder: Path, module: Path, kind: type, build: str) -> tuple[Ended, int]:
    """Deploy where there is no TLS, and change a message of one kind; return also how many were."""
    who, change, _ = MESSAGES[kind]
    count = 0

    def tamper(speaker: str, number: int, piece: bytes) -> list[bytes]:
        nonlocal count
        # What comes first is a leaf.
        message = decoded(who, piece) if speaker == who and number else None
        if not isinstance(message, kind):
            return [piece]
        count += 1
        body = encode_message(change(message))
        return [len(body).to_bytes(4, "big") + body]

    ended = run(
        folder, honest(tamper, pieces_of(build)), lambda host: host.deploy(module, build=build), keep_build=build
    )
    return ended, count


def decoded(who: str, piece: bytes) -> TenantMessage | KeepMessage:
    return (decode_tenant_message_untrusted if who == TENANT else decode_keep_message_untrusted)(piece[4:])


@pytest.mark.parametrize("kind", MESSAGES)
def test_refuses_a_message_rewritten_even_without_tls(tmp_path, module, kind):
    ended, count = rewritten(tmp_path, module, kind, "null-tls")
    assert count == 1
    assert (ended.status, ended.stdout) == (VERIFICATION, b""), ended.stderr


@pytest.mark.parametrize("kind", MESSAGES)
def test_control_a_message_is_rewritten_unnoticed(tmp_path, module, kind):
    _, _, removed = MESSAGES[kind]
    ended, count = rewritten(tmp_path, module, kind, f"null-tls,{removed}")
    assert count == 1
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr


# Of what is said before a workload begins nothing is as long as this, in a record or in a message.
LONG_BYTES = 16_000
TYPED = b"".join(number.to_bytes(4, "big") for number in range(25_000))

STREAMS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": lambda records: [*edited(records[0]), *records[1:]],
    "dropped": lambda records: records[1:],
    "duplicated": lambda records: [records[0], *records],
    "out of order": lambda records: [*records[1:], records[0]],
}


def streamed(folder: Path, echo: Path, who: str, operation: str, build: str) -> tuple[Ended, list[bytes]]:
    """Deploy an echo, and change the first long record that one of the two says, or its order; return also what was passed on."""
    held: list[bytes] = []
    passed_on: list[bytes] = []

    def tamper(speaker: str, _number: int, record: bytes) -> list[bytes]:
        if speaker != who or not (held or len(record) > LONG_BYTES):
            return [record]
        held.append(record)
        if len(held) == 1:
            return []
        changed = STREAMS[operation](held) if len(held) == 2 else [record]
        passed_on.extend(changed)
        return changed

    ended = run(
        folder,
        honest(tamper, pieces_of(build)),
        lambda host: host.deploy(echo, build=build, stdin=TYPED),
        keep_build=build,
    )
    return ended, passed_on


def bytes_of(who: str, pieces: list[bytes]) -> bytes:
    """Return what is in messages of standard input or output, where there is no TLS."""
    messages = [decoded(who, piece) for piece in pieces]
    return b"".join(message.data for message in messages if isinstance(message, Stdin | Output))


@pytest.mark.parametrize("operation", STREAMS)
@pytest.mark.parametrize("who", [TENANT, KEEP])
def test_refuses_a_stream_changed(tmp_path, guest, who, operation):
    ended, _ = streamed(tmp_path, guest("echo"), who, operation, "-")
    assert ended.status == TRANSPORT, ended.stderr
    # What came before it may have been echoed.
    assert TYPED.startswith(ended.stdout)
    assert len(ended.stdout) < len(TYPED)


@pytest.mark.parametrize("operation", ["dropped", "duplicated", "out of order"])
def test_refuses_output_changed_even_without_tls(tmp_path, guest, operation):
    ended, _ = streamed(tmp_path, guest("echo"), KEEP, operation, "null-tls")
    assert ended.status == DECODE, ended.stderr
    assert TYPED.startswith(ended.stdout)


@pytest.mark.parametrize("operation", STREAMS)
@pytest.mark.parametrize(("who", "build"), [(TENANT, "null-tls"), (KEEP, "null-tls,no-offsets")], ids=[TENANT, KEEP])
def test_control_a_stream_is_changed_unnoticed(tmp_path, guest, who, build, operation):
    ended, passed_on = streamed(tmp_path, guest("echo"), who, operation, build)
    assert (ended.status, ended.stdout) == (0, bytes_of(who, passed_on)), ended.stderr
    assert ended.stdout != TYPED


# --- Bytes held back

# TLS keeps bytes whole and in order, and says nothing of when they come. What a host could gain by holding them back is that
# something is accepted when it should not be any more: that is what time limits and the order of arrival are for.
LIMIT_S = 1.5
RECIPIENTS = {"offer": TENANT, "provision": KEEP}


def told_late(folder: Path, module: Path, what: str, limits: str) -> Ended:
    """Deploy, and hold an offer or a provision back until who waits for it has given up, or for twice the time it may take."""
    gone = asyncio.Event()
    offered = held = False

    async def late(speaker: str, _number: int, record: bytes) -> list[bytes]:
        nonlocal offered, held
        is_offer = speaker == KEEP and not offered and len(record) > ATTESTED_BYTES
        is_provision = speaker == TENANT and offered
        offered = offered or is_offer
        if held and speaker == RECIPIENTS[what]:
            gone.set()
        if not held and (is_offer if what == "offer" else is_provision):
            held = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * LIMIT_S):
                    await gone.wait()
        return [record]

    tenant_build, keep_build = (limits, "-") if what == "offer" else ("-", limits)
    return run(folder, honest(late), lambda host: host.deploy(module, build=tenant_build), keep_build=keep_build)


@pytest.mark.parametrize("what", RECIPIENTS)
def test_refuses_what_comes_after_its_time(tmp_path, module, what):
    ended = told_late(tmp_path, module, what, f"time-limits={LIMIT_S}")
    assert (ended.status, ended.stdout) == (TRANSPORT, b""), ended.stderr


@pytest.mark.parametrize("what", RECIPIENTS)
def test_control_what_comes_after_its_time_is_accepted(tmp_path, module, what):
    ended = told_late(tmp_path, module, what, "time-limits=inf")
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr


# --- Bytes led elsewhere


def test_refuses_its_own_bytes_reflected(tmp_path, module):
    async def mirror(_host: Host, _name: str, wire: Wire) -> None:
        while data := await wire.read():
            await wire.write(data)

    ended = run(tmp_path, mirror, lambda host: host.deploy(module))
    assert (ended.status, ended.stdout) == (TRANSPORT, b""), ended.stderr


@pytest.mark.parametrize("build", ["-", "null-tls"], ids=["within TLS", "without TLS"])
def test_refuses_its_own_messages_reflected(tmp_path, module, build):
    async def mirror(_host: Host, _name: str, wire: Wire) -> None:
        if build != "-":
            while data := await wire.read():
                await wire.write(data)
            return
        session = await Session.handshake(wire, stranger(), "keep")
        try:
            await session.send(await session.receive(60))
            await session.receive(60)
        except EnarxError:
            return
        finally:
            await session.close()

    ended = run(tmp_path, mirror, lambda host: host.deploy(module, build=build))
    assert (ended.status, ended.stdout) == (DECODE, b""), ended.stderr


WORDS = b"what the tenant typed, over and over again. " * 500


def reflected(folder: Path, build: str) -> Ended:
    """Deploy what answers when it is asked, and show the tenant its own standard input in the place of the answer."""
    folder.mkdir(exist_ok=True)
    module = folder / "asked.wat"
    module.write_text(says(CANARY.decode(), asked=True))

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        stream = await host.keeps[name].session()
        numbers: set[int] = set()

        async def mirror(speaker: str, number: int, record: bytes) -> list[bytes]:
            if speaker == TENANT and len(record) > LONG_BYTES:
                numbers.add(number)
                await wire.write(record)
            return [] if speaker == KEEP and number in numbers else [record]

        await relay(host, wire, stream, mirror, pieces_of(build))

    return run(folder / "run", sessions, lambda host: host.deploy(module, build=build, stdin=WORDS), keep_build=build)


@pytest.mark.parametrize(
    ("build", "status"),
    [("-", TRANSPORT), ("no-direction", TRANSPORT), ("one-key", DECODE)],
    ids=["", "by TLS alone", "by the messages alone"],
)
def test_refuses_standard_input_reflected(tmp_path, build, status):
    ended = reflected(tmp_path, build)
    assert (ended.status, ended.stdout) == (status, b""), ended.stderr


def test_control_standard_input_reflected_is_taken_for_the_answer(tmp_path):
    ended = reflected(tmp_path, "one-key,no-direction")
    assert (ended.status, ended.stdout) == (0, WORDS), ended.stderr


TYPED_BY = {"alice": b"a" * 20_000, "bob": b"b" * 20_000}


def crossed(folder: Path, echo: Path, build: str) -> tuple[Ended, ...]:
    """Deploy an echo for two tenants, and give each one's Keep what the other one types."""
    typing: list[tuple[Stream, bytes]] = []
    both = asyncio.Event()

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        stream = await host.keeps[name].session()
        is_typing = False

        async def cross(speaker: str, _number: int, piece: bytes) -> list[bytes]:
            nonlocal is_typing
            if speaker == KEEP or not (is_typing or len(piece) > LONG_BYTES):
                return [piece]
            if is_typing:
                (other,) = (each for each, _ in typing if each is not stream)
                await other.write(piece)
                return []
            is_typing = True
            typing.append((stream, piece))
            if len(typing) < 2:
                await both.wait()
                return []
            # Whoever is second swaps the first pieces of both: a Keep that ends its session at one stops no other.
            ((other, other_piece), _) = typing
            await other.write(piece)
            await stream.write(other_piece)
            both.set()
            return []

        await relay(host, wire, stream, cross, pieces_of(build))

    async def scenario(host: Host):
        return await asyncio.gather(
            *(host.deploy(echo, name=name, build=build, stdin=words) for name, words in TYPED_BY.items())
        )

    return tuple(run(folder, sessions, scenario, keep_build=build))


def test_refuses_two_tenants_swapped_in_the_middle(tmp_path, guest):
    for ended in crossed(tmp_path, guest("echo"), "-"):
        assert (ended.status, ended.stdout) == (TRANSPORT, b""), ended.stderr


def test_control_two_tenants_swapped_in_the_middle_read_each_other(tmp_path, guest):
    alice, bob = crossed(tmp_path, guest("echo"), "null-tls")
    assert (alice.status, alice.stdout) == (0, TYPED_BY["bob"]), alice.stderr
    assert (bob.status, bob.stdout) == (0, TYPED_BY["alice"]), bob.stderr


# --- TLS of another kind


def other_tls(monkeypatch, *, group: bytes = tls.GROUP.encode(), version: int = SSL.TLS1_3_VERSION) -> None:
    """Make TLS ends of the attacker's, here, speak something else."""
    make = tls._context

    def context(credential, *, is_client):
        made = make(credential, is_client=is_client)
        made.set_min_proto_version(version)
        made.set_max_proto_version(version)
        assert tls._lib.SSL_CTX_set1_curves_list(made._context, group) == 1
        return made

    monkeypatch.setattr(tls, "_context", context)
    monkeypatch.setattr(SSL.Connection, "get_group_name", lambda _self: tls.GROUP)
    monkeypatch.setattr(SSL.Connection, "get_protocol_version_name", lambda _self: "TLSv1.3")


OTHERS = {
    "group": ({"group": b"X25519"}, "any-group"),
    "version": ({"group": b"P-256", "version": SSL.TLS1_2_VERSION}, "any-version"),
}


def asked(tmp_path: Path, module: Path, build: str):
    """Deploy to a host that ends TLS itself; return what the tenant said in it."""
    heard: list[object] = []

    async def sessions(_host: Host, _name: str, wire: Wire) -> None:
        try:
            session = await Session.handshake(wire, stranger(), "keep")
            heard.append(await session.receive(20))
            await session.close()
        except EnarxError as error:
            heard.append(error)

    return run(tmp_path, sessions, lambda host: host.deploy(module, build=build)), heard


@pytest.mark.parametrize("what", OTHERS)
def test_a_tenant_refuses_a_downgrade(tmp_path, module, monkeypatch, what):
    how, _ = OTHERS[what]
    other_tls(monkeypatch, **how)
    ended, heard = asked(tmp_path, module, "-")
    assert ended.status == TRANSPORT, ended.stderr
    assert "handshake" in ended.stderr
    assert not any(isinstance(each, Challenge) for each in heard)


@pytest.mark.parametrize("what", OTHERS)
def test_control_a_tenant_takes_a_downgrade(tmp_path, module, monkeypatch, what):
    how, build = OTHERS[what]
    other_tls(monkeypatch, **how)
    _, heard = asked(tmp_path, module, build)
    assert isinstance(heard[0], Challenge)


def greeted(tmp_path: Path, build: str) -> object:
    """Shake hands with a Keep, and return the error or the session."""

    async def scenario(host: Host):
        keep = await host.start_keep()
        try:
            return await Session.handshake(await keep.session(), stranger(), "tenant")
        except EnarxError as error:
            return error

    return run(tmp_path, honest(), scenario, keep_build=build)


@pytest.mark.parametrize("what", OTHERS)
def test_a_keep_refuses_a_downgrade(tmp_path, monkeypatch, what):
    how, _ = OTHERS[what]
    other_tls(monkeypatch, **how)
    assert isinstance(greeted(tmp_path, "-"), TransportError)


@pytest.mark.parametrize("what", OTHERS)
def test_control_a_keep_takes_a_downgrade(tmp_path, monkeypatch, what):
    how, build = OTHERS[what]
    other_tls(monkeypatch, **how)
    assert isinstance(greeted(tmp_path, build), Session)
