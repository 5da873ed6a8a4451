# SPDX-License-Identifier: Apache-2.0
"""One Keep in this process with a workload process that is a script: which sessions there may be, and what ends it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from enarx.channel.transcript import receipt_digest
from enarx.errors import PlatformError, TransportError
from enarx.keep.session import INPUT_BYTES
from enarx.keep.workload_start import Connect, encode_word
from enarx.wire.release import Configuration, Steward, decode_identity_untrusted
from enarx.wire.session import (
    Attach,
    Attachment,
    Challenge,
    Detach,
    Exit,
    Failure,
    Provision,
    Receipt,
    Refuse,
    Signal,
    Stdin,
    Stop,
    without_evidence,
)
from enarx.wire.steward import make_problem
from tests.fake_steward import FakeSteward
from tests.keeping import (
    OPTIONS,
    WAIT_S,
    FakeAttester,
    Running,
    Tenant,
    connect_to,
    make_credential,
    seal_package,
    start_keep,
)

# Waits for its start packet, then does as its module says.
SCRIPT = """
import os, signal, socket, sys
control = socket.socket(fileno=3)
_, fds, _, _ = socket.recv_fds(control, 65536, 250)
code = os.pread(fds[1], 1 << 20, 0)
exec(code)
"""
COMMAND = [sys.executable, "-I", "-S", "-c", SCRIPT]
HELLO = b"os.write(1, b'hello'); os.write(2, b'there')"
CAT = b"""
while data := os.read(0, 65536):
    os.write(1, data)
"""
ENDED = b"control.send(bytes.fromhex('a2') + b'dtypeeended' + b'fstatus' + bytes([%d]))"


@asynccontextmanager
async def keep_in(folder: Path, **changes: Any) -> AsyncIterator[Running]:
    running = await start_keep(folder, command=COMMAND, **changes)
    try:
        yield running
    finally:
        running.keep.end(99)
        await running.ended()


def scenario(test: Callable[..., Awaitable[None]], folder: Path, **changes: Any) -> None:
    async def play() -> None:
        async with asyncio.timeout(WAIT_S), keep_in(folder, **changes) as running:
            await test(running)

    asyncio.run(play())


async def provisioned(
    running: Running, module: bytes = HELLO, credential: Any = None, **changes: Any
) -> tuple[Tenant, Receipt]:
    tenant = await running.tenant(credential)
    offer = await tenant.offer()
    sealed = seal_package(module, **changes)
    running.host.blobs |= sealed.blobs
    receipt = await tenant.provision(offer, sealed)
    assert isinstance(receipt, Receipt), receipt
    await tenant.accept()
    return tenant, receipt


async def failure_of(tenant: Tenant) -> Failure:
    while True:
        message = await tenant.receive()
        if isinstance(message, Failure):
            return message
        tenant._remember(message)


async def over(tenant: Tenant) -> None:
    """Wait for the end of a session."""
    try:
        while True:
            tenant._remember(await tenant.receive())
    except TransportError:
        return


async def workload_ended(running: Running) -> None:
    """Wait for the end of a workload that nobody is attached to."""
    while running.keep._supervisor.ended is None:  # noqa: ASYNC110  # nobody else is told
        await asyncio.sleep(0.01)


def test_runs_a_workload_and_ends_with_it(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, HELLO + b";" + ENDED % 7)
        ended = await tenant.finish()
        assert ended == Exit(7, None, None, None)
        assert tenant.output == {"stdout": b"hello", "stderr": b"there"}
        assert tenant.stats.cpu_ms >= 0
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_evidence_is_over_offer_and_receipt(tmp_path):
    async def test(running):
        tenant, receipt = await provisioned(running, configuration=Configuration(arguments=("a",)))
        assert running.attester.asked == [tenant.offered, tenant.receipt_data(receipt)]
        assert receipt.evidence == b"over " + tenant.receipt_data(receipt)
        assert not decode_identity_untrusted(receipt.identity).pristine
        assert receipt.limits.package_bytes == OPTIONS.package_bytes

    scenario(test, tmp_path)


def test_a_package_as_it_is_is_pristine(tmp_path):
    async def test(running):
        _, receipt = await provisioned(running)
        assert decode_identity_untrusted(receipt.identity).pristine

    scenario(test, tmp_path)


def test_extends_the_register_before_it_attests_the_receipt(tmp_path):
    class Register:
        name = "a register"

        def __init__(self):
            self.extended = []

        def read(self):
            return bytes(48)

        def extend(self, digest):
            self.extended.append((digest, len(attester.asked)))
            return digest

        def predict(self, digest, before=None):
            return digest

    register = Register()
    attester = FakeAttester(register=register)

    async def test(running):
        _, receipt = await provisioned(running)
        assert register.extended == [(receipt_digest(receipt), 1)]

    scenario(test, tmp_path, attester=attester)


def test_carries_much_input_and_output(tmp_path):
    async def test(running):
        data = bytes(range(256)) * 20_000
        tenant, _ = await provisioned(running, CAT + ENDED % 0)
        assert (await tenant.finish(data)).status == 0
        assert tenant.output["stdout"] == data

    scenario(test, tmp_path)


def test_a_refusal_leaves_it_empty(tmp_path):
    async def test(running):
        first = await running.tenant()
        key = (await first.offer()).hpke_key
        await first.send(Refuse("appraisal"))
        with pytest.raises(TransportError):
            await first.receive()
        second = await running.tenant()
        assert (await second.offer()).hpke_key != key

    scenario(test, tmp_path)


def test_a_tenant_that_goes_away_leaves_it_empty(tmp_path):
    async def test(running):
        for _ in range(3):
            tenant = await running.tenant()
            await tenant.offer()
            tenant.session._stream.reset("closed")
        await provisioned(running)

    scenario(test, tmp_path)


def test_refuses_a_second_session_while_it_serves_one(tmp_path):
    async def test(running):
        tenant = await running.tenant()
        await tenant.offer()
        stream = await running.host.session()
        with pytest.raises(TransportError, match="limit"):
            await stream.read()
        await tenant.session.close()
        await (await running.tenant()).offer()

    scenario(test, tmp_path)


@pytest.mark.parametrize("message", [Provision(bytes(2000)), Attach(0), Stdin(b""), Detach(), Refuse("usage")])
def test_wants_a_challenge_first(tmp_path, message):
    async def test(running):
        tenant = await running.tenant()
        await tenant.send(message)
        assert (await failure_of(tenant)).kind == 103
        await (await running.tenant()).offer()

    scenario(test, tmp_path)


@pytest.mark.parametrize(
    "body", [b"\xa1dtypefunknown", b"\xa1dtypeeoffer", b"\xff", b"\xa2dtypefdetachex\x01", b"\xbfdtypefdetach\xff"]
)
def test_refuses_messages_that_there_are_not(tmp_path, body):
    async def test(running):
        tenant = await running.tenant()
        tenant.session._tls.write(len(body).to_bytes(4, "big") + body)
        await tenant.session._flush()
        assert (await failure_of(tenant)).kind == 103
        await (await running.tenant()).offer()

    scenario(test, tmp_path)


@pytest.mark.parametrize("length", [0, (2 << 20) + 1, 0xFFFFFFFF])
def test_refuses_lengths_that_there_are_not(tmp_path, length):
    async def test(running):
        tenant = await running.tenant()
        tenant.session._tls.write(length.to_bytes(4, "big"))
        await tenant.session._flush()
        with pytest.raises(TransportError):
            await tenant.receive()
        await (await running.tenant()).offer()

    scenario(test, tmp_path)


@pytest.mark.parametrize("message", [Challenge(bytes(32), ("a/b",)), Attach(0), Stdin(b"x"), Stop(0), Signal(2)])
def test_after_an_offer_nothing_else_is_taken_and_the_keep_ends(tmp_path, message):
    async def test(running):
        tenant = await running.tenant()
        await tenant.offer()
        await tenant.send(message)
        assert (await failure_of(tenant)).kind == 103
        assert await running.ended() == 103

    scenario(test, tmp_path)


def test_half_a_provision_ends_the_keep(tmp_path):
    async def test(running):
        tenant = await running.tenant()
        await tenant.offer()
        tenant.session._tls.write((2000).to_bytes(4, "big") + bytes(100))
        await tenant.session._flush()
        tenant.session._stream.close()
        assert await running.ended() == 107

    scenario(test, tmp_path)


def test_wants_a_tenant_that_can_judge_its_evidence(tmp_path):
    async def test(running):
        tenant = await running.tenant()
        answer = await tenant.challenge(media_types=("application/other",))
        assert isinstance(answer, Failure)
        assert answer.kind == 108

    scenario(test, tmp_path)


def test_a_device_without_evidence_leaves_it_empty(tmp_path):
    async def test(running):
        tenant = await running.tenant()
        answer = await tenant.challenge()
        assert answer == Failure(108, "no device")
        running.attester.problem = None
        await provisioned(running)

    scenario(test, tmp_path, attester=FakeAttester(PlatformError("no device")))


# --- Provision


async def refused(running: Running, change: Callable[[Any], Any] = lambda _: None, **given: Any) -> Failure:
    tenant = await running.tenant()
    offer = await tenant.offer()
    info = given.pop("info", None)
    sealed = seal_package(given.pop("module", HELLO), **given)
    running.host.blobs |= sealed.blobs
    changed = change(sealed)
    if changed is not None:
        sealed.release = changed
    failure = await tenant.provision(offer, sealed, info=info)
    assert isinstance(failure, Failure), failure
    assert await running.ended() == failure.kind
    assert running.keep._supervisor._status is None or running.keep._supervisor.ended is not None
    return failure


def with_blob(sealed: Any, **changes: Any) -> Any:
    blobs = dict(sealed.release.blobs)
    blobs["main.wasm"] = blobs["main.wasm"]._replace(**changes)
    return sealed.release._replace(blobs=blobs)


def test_refuses_a_release_for_another_session(tmp_path):
    async def test(running):
        assert (await refused(running, info=bytes(64))).kind == 104

    scenario(test, tmp_path)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:], "segment 0"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 0x80]), "segment 0"),
        (lambda data: data[:-1], "too few"),
        (lambda data: b"", "too few"),
        (lambda data: data + b"x", "more ciphertext"),
        (lambda data: data * 2, "more ciphertext"),
    ],
)
def test_refuses_a_blob_that_is_not_as_it_was_sent(tmp_path, damage, word):
    async def test(running):
        def change(sealed):
            digest, data = next(iter(sealed.blobs.items()))
            running.host.blobs[digest] = damage(data)

        failure = await refused(running, change)
        assert failure.kind == 104
        assert word in failure.message

    scenario(test, tmp_path)


def test_refuses_a_blob_that_the_host_does_not_have(tmp_path):
    async def test(running):
        assert (await refused(running, lambda sealed: running.host.blobs.clear())).kind == 107

    scenario(test, tmp_path)


def test_refuses_a_ciphertext_under_another_digest(tmp_path):
    async def test(running):
        def change(sealed):
            (data,) = sealed.blobs.values()
            running.host.blobs[bytes(32)] = data
            return with_blob(sealed, ciphertext=bytes(32))

        failure = await refused(running, change)
        assert (failure.kind, "ciphertext of another digest" in failure.message) == (104, True)

    scenario(test, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"plaintext": bytes(32)},
        {"plaintext_length": 1},
        {"plaintext_length": 0},
        {"ciphertext_length": 1},
        {"key": bytes(32)},
    ],
)
def test_refuses_blobs_that_contradict_the_release(tmp_path, changes):
    async def test(running):
        assert (await refused(running, lambda sealed: with_blob(sealed, **changes))).kind == 104

    scenario(test, tmp_path)


def test_refuses_a_plaintext_of_another_digest(tmp_path):
    """Manifest and blob agree, and the ciphertext is what it should be: only the plaintext is another."""

    async def test(running):
        def change(sealed):
            other = seal_package(HELLO[:-1] + b"#").release
            return sealed.release._replace(
                package=other.package,
                blobs={
                    "main.wasm": sealed.release.blobs["main.wasm"]._replace(
                        plaintext=other.blobs["main.wasm"].plaintext
                    )
                },
            )

        failure = await refused(running, change)
        assert (failure.kind, "plaintext of another digest" in failure.message) == (104, True)

    scenario(test, tmp_path)


def test_refuses_one_key_for_two_blobs(tmp_path):
    async def test(running):
        def change(sealed):
            blobs = dict(sealed.release.blobs)
            blobs["Enarx.toml"] = blobs["Enarx.toml"]._replace(key=blobs["main.wasm"].key)
            return sealed.release._replace(blobs=blobs)

        assert "keys" in (await refused(running, change, toml=b"")).message

    scenario(test, tmp_path)


def test_refuses_files_that_the_configuration_does_not_have(tmp_path):
    async def test(running):
        failure = await refused(
            running, lambda sealed: sealed.release._replace(configuration=Configuration()), files=b"\xa0"
        )
        assert (failure.kind, "files" in failure.message) == (104, True)

    scenario(test, tmp_path)


def test_refuses_a_package_that_is_too_large(tmp_path):
    async def test(running):
        assert (await refused(running, module=bytes(2000))).kind == 107
        assert running.host.opened == []  # not even asked for

    scenario(test, tmp_path, options=OPTIONS._replace(package_bytes=1999))


def test_refuses_more_memory_than_there_is(tmp_path):
    async def test(running):
        configuration = Configuration(limits={"memory-bytes": OPTIONS.memory_bytes + 1})
        assert (await refused(running, configuration=configuration)).kind == 109

    scenario(test, tmp_path)


@pytest.mark.parametrize("toml", [b"\xff", b"unknown = 1", b"args = 1"])
def test_refuses_an_enarx_toml_that_is_none(tmp_path, toml):
    async def test(running):
        assert (await refused(running, toml=toml)).kind == 103

    scenario(test, tmp_path)


def test_refuses_files_that_are_none(tmp_path):
    async def test(running):
        assert (await refused(running, files=b"\x00")).kind == 103

    scenario(test, tmp_path)


# --- The receipt is accepted, or nothing is left


FLOOD = b"""
while True:
    os.write(1, b'x' * 65536)
"""


async def offered_receipt(running: Running, module: bytes, credential: Any = None) -> tuple[Tenant, Receipt]:
    """Provision a Keep, and say nothing about its receipt."""
    tenant = await running.tenant(credential)
    offer = await tenant.offer()
    sealed = seal_package(module)
    running.host.blobs |= sealed.blobs
    receipt = await tenant.provision(offer, sealed)
    assert isinstance(receipt, Receipt), receipt
    return tenant, receipt


def is_dead(running: Running) -> bool:
    return running.keep._supervisor._status is not None


@pytest.mark.parametrize("how", ["break", "close", "link"])
def test_a_session_that_ends_before_the_receipt_is_accepted_ends_keep_and_workload(tmp_path, how):
    async def test(running):
        tenant, _ = await offered_receipt(running, FLOOD)
        if how == "break":
            tenant.session._stream.reset("closed")
        elif how == "close":
            await tenant.session.close()
        else:
            running.host.link.close()
        assert await running.ended() == 107
        assert is_dead(running)
        assert running.said == ["provisioning failed: TransportError"]

    scenario(test, tmp_path)


def test_a_receipt_that_is_never_accepted_ends_keep_and_workload(tmp_path, monkeypatch):
    monkeypatch.setattr("enarx.keep.session.ATTACH_S", 0.1)

    async def test(running):
        tenant, _ = await offered_receipt(running, FLOOD)
        assert (await failure_of(tenant)).kind == 107
        assert await running.ended() == 107
        assert is_dead(running)

    scenario(test, tmp_path)


def test_a_receipt_that_is_refused_ends_keep_and_workload(tmp_path):
    async def test(running):
        tenant, _ = await offered_receipt(running, FLOOD)
        await tenant.send(Refuse("verification"))
        assert await running.ended() == 109
        assert is_dead(running)

    scenario(test, tmp_path)


@pytest.mark.parametrize("message", [Attach(1), Stdin(b"x"), Detach(), Stop(0), Signal(2), Provision(bytes(2000))])
def test_after_a_receipt_nothing_else_is_taken_and_the_keep_ends(tmp_path, message):
    async def test(running):
        tenant, _ = await offered_receipt(running, CAT)
        await tenant.send(message)
        assert (await failure_of(tenant)).kind == 103
        assert await running.ended() == 103

    scenario(test, tmp_path)


def test_nothing_of_the_workload_is_sent_before_and_nothing_is_lost(tmp_path):
    async def test(running):
        tenant, _ = await offered_receipt(running, b"[os.write(1, b'x' * 65536) for _ in range(128)];" + ENDED % 0)
        # The workload writes until the log is full, and waits.
        while running.keep._log.has_room(65536):  # noqa: ASYNC110  # nobody else is told
            await asyncio.sleep(0.01)
        with pytest.raises(TransportError, match="found no message"):
            await tenant.session.receive(0.1)
        assert running.keep._log.start == 0
        await tenant.accept()
        assert (await tenant.finish()).status == 0
        assert tenant.offsets[0] == 0
        assert len(tenant.output["stdout"]) == 128 * 65536

    scenario(test, tmp_path)


def test_nobody_attaches_before(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await offered_receipt(running, CAT, credential)
        stream = await running.host.session()
        with pytest.raises(TransportError, match="limit"):
            await stream.read()
        await tenant.accept()
        again = await running.tenant(credential)
        await again.attach(receipt)

    scenario(test, tmp_path)


def test_the_workload_is_killed_before_any_farewell(tmp_path, monkeypatch):
    async def test(running):
        async def say_failure(_session, _error):
            await running.keep._supervisor._reaped.wait()

        monkeypatch.setattr("enarx.keep.life.say_failure", say_failure)
        tenant, _ = await offered_receipt(running, FLOOD)
        await tenant.send(Refuse("verification"))
        assert await running.ended() == 109

    scenario(test, tmp_path)


def test_a_keep_that_is_told_to_end_kills_first_and_tells_of_no_end(tmp_path, monkeypatch):
    async def test(running):
        flushed = []

        async def flush(link):
            flushed.append(is_dead(running))
            link.close()

        monkeypatch.setattr(running.keep, "_flush", flush)
        tenant, _ = await provisioned(running, b"os.write(1, b'r');" + CAT)
        await tenant.until(b"r")
        running.keep.end(0)
        # An end of the workload is none of what `over` takes.
        tenant._remember = lambda message: pytest.fail(str(message)) if isinstance(message, Exit) else None
        await over(tenant)
        assert await running.ended() == 0
        assert flushed == [True]

    scenario(test, tmp_path)


def test_takes_no_second_provision(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, CAT)
        await tenant.send(Provision(bytes(2000)))
        assert (await failure_of(tenant)).kind == 103
        assert not running.life.done()

    scenario(test, tmp_path)


# --- Attach


def test_a_detached_workload_goes_on_and_is_attached_again(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, CAT + ENDED % 3, credential)
        await tenant.send(Stdin(b"one"))
        await tenant.until(b"one")
        await tenant.send(Detach())
        await over(tenant)
        again = await running.tenant(credential)
        attachment, expected = await again.attachment(receipt)
        assert attachment.evidence == b"over " + expected
        assert (attachment.log_start, attachment.log_end) == (0, 3)
        await again.send(Attach(1))
        assert (await again.finish(b"two")).status == 3
        assert (again.output["stdout"], again.offsets[0]) == (b"netwo", 1)
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_a_broken_link_detaches(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, CAT + ENDED % 0, credential)
        await tenant.send(Stdin(b"one"))
        await tenant.until(b"one")
        running.host.link.close()
        await running.host.connect()
        again = await running.tenant(credential)
        await again.attach(receipt)
        assert (await again.finish(b"two")).status == 0
        assert again.output["stdout"] == b"onetwo"

    scenario(test, tmp_path)


def test_another_tenant_cannot_attach(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, CAT)
        asked = len(running.attester.asked)
        stranger = await running.tenant()
        assert await failure_of(stranger) == Failure(104, "attach refused: this Keep is another tenant's")
        assert len(running.attester.asked) == asked
        await tenant.send(Stdin(b"x"))
        await tenant.until(b"x")

    scenario(test, tmp_path)


def test_a_later_attach_displaces_the_one_before(tmp_path):
    async def test(running):
        credential = make_credential()
        first, receipt = await provisioned(running, CAT, credential)
        second = await running.tenant(credential)
        await second.attachment(receipt)
        # Proven is not yet attached.
        await first.send(Stdin(b"x"))
        await first.until(b"x")
        await second.send(Attach(0))
        assert (await failure_of(first)).kind == 107
        await second.send(Stdin(b"y"))
        await second.until(b"xy")

    scenario(test, tmp_path)


def test_an_attach_that_was_held_back_displaces_nobody(tmp_path):
    async def test(running):
        credential = make_credential()
        first, receipt = await provisioned(running, CAT, credential)
        held = await running.tenant(credential)
        await held.attachment(receipt)
        later = await running.tenant(credential)
        await later.attach(receipt)
        await failure_of(first)
        await held.send(Attach(0))
        assert (await failure_of(held)).kind == 107
        await later.send(Stdin(b"x"))
        await later.until(b"x")

    scenario(test, tmp_path)


@pytest.mark.parametrize("offset", [4, 1 << 40])
def test_refuses_an_offset_that_was_not_offered(tmp_path, offset):
    async def test(running):
        credential = make_credential()
        first, receipt = await provisioned(running, CAT, credential)
        await first.send(Stdin(b"one"))
        await first.until(b"one")
        second = await running.tenant(credential)
        await second.attach(receipt, offset)
        assert (await failure_of(second)).kind == 103
        await first.send(Stdin(b"two"))
        await first.until(b"two")

    scenario(test, tmp_path)


def test_many_sessions_that_say_nothing_have_a_limit_and_keep_nobody_out(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, CAT, credential)
        streams = [await running.host.session() for _ in range(10)]
        for stream in streams[8:]:
            with pytest.raises(TransportError, match="limit"):
                await stream.read()
        await tenant.send(Stdin(b"x"))
        await tenant.until(b"x")
        for stream in streams[:8]:
            stream.reset("closed")
        again = await running.tenant(credential)
        await again.attach(receipt)

    scenario(test, tmp_path)


def test_the_end_is_kept_for_who_was_not_there(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, b"os.read(0, 1);" + HELLO + b";" + ENDED % 5, credential)
        await tenant.send(Stdin(b"x"), Detach())
        await workload_ended(running)
        for _ in range(2):
            # A host that breaks the session at its end takes nothing away.
            again = await running.tenant(credential)
            await again.attach(receipt)
            while not isinstance(message := await again.receive(), Exit):
                again._remember(message)
            assert (message.status, again.output["stdout"]) == (5, b"hello")
            again.session._stream.reset("closed")
        last = await running.tenant(credential)
        await last.attach(receipt)
        assert (await last.finish()).status == 5
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_an_end_that_crosses_a_detach_is_kept(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, HELLO + b";" + ENDED % 7, credential)
        while not isinstance(message := await tenant.receive(), Exit):
            tenant._remember(message)
        await tenant.send(Detach())
        await tenant.session.close()
        again = await running.tenant(credential)
        await again.attach(receipt)
        assert (await again.finish()).status == 7
        assert again.output["stdout"] == b"hello"
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_a_workload_that_writes_without_end_is_attached_and_stopped(tmp_path):
    async def test(running):
        credential = make_credential()
        first, receipt = await provisioned(running, FLOOD, credential)
        await first.send(Detach())
        await over(first)
        again = await running.tenant(credential)
        attachment, _ = await again.attachment(receipt)
        while running.keep._log.start <= attachment.log_end:  # noqa: ASYNC110  # nobody else is told
            await asyncio.sleep(0.01)
        await again.send(Attach(attachment.log_start), Stop(0))
        assert (await again.finish()).status == 137
        assert again.offsets[0] > attachment.log_end
        assert again.offsets[-1] - again.offsets[0] <= len(again.output["stdout"])
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_an_end_that_nobody_asks_for_is_forgotten(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, b"os.read(0, 1);" + ENDED % 5)
        await tenant.send(Stdin(b"x"), Detach())
        assert await running.ended() == 0

    scenario(test, tmp_path, linger_s=0.2)


def test_an_empty_keep_that_nobody_wants_ends(tmp_path):
    async def test(running):
        assert await running.ended() == 0

    scenario(test, tmp_path, idle_s=0.2)


def test_an_attached_workload_waits_for_its_tenant_and_loses_nothing(tmp_path):
    async def test(running):
        total = 8 << 20
        tenant, _ = await provisioned(
            running, b"os.write(1, b'');[os.write(1, b'x' * 65536) for _ in range(128)];" + ENDED % 0
        )
        await asyncio.sleep(0.3)
        assert running.keep._log.end < total
        assert (await tenant.finish()).status == 0
        assert len(tenant.output["stdout"]) == total

    scenario(test, tmp_path)


def test_a_detached_workload_never_waits_and_its_oldest_output_goes(tmp_path):
    async def test(running):
        credential = make_credential()
        module = b"os.read(0, 1);[os.write(1, b'x' * 65536) for _ in range(128)];os.write(1, b'end');" + ENDED % 0
        tenant, receipt = await provisioned(running, module, credential)
        await tenant.send(Stdin(b"x"), Detach())
        await workload_ended(running)
        again = await running.tenant(credential)
        attachment = await again.attach(receipt)
        assert attachment.log_end == (8 << 20) + 3
        assert attachment.log_end - attachment.log_start <= OPTIONS.log_bytes
        await again.finish()
        assert again.output["stdout"].endswith(b"xend")
        assert len(again.output["stdout"]) == attachment.log_end - attachment.log_start

    scenario(test, tmp_path)


def test_input_beyond_the_window_ends_the_session_only(tmp_path):
    async def test(running):
        credential = make_credential()
        tenant, receipt = await provisioned(running, b"import time; time.sleep(60)", credential)
        for _ in range(INPUT_BYTES // 65536 + 1):
            await tenant.send(Stdin(bytes(65536)))
        assert (await failure_of(tenant)).kind == 107
        await over(tenant)
        again = await running.tenant(credential)
        assert isinstance(await again.attach(receipt), Attachment)

    scenario(test, tmp_path)


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_signals_reach_the_workload(tmp_path, number, status):
    async def test(running):
        ready = b"signal.signal(2, signal.SIG_DFL); signal.pthread_sigmask(signal.SIG_UNBLOCK, [2]);"
        tenant, _ = await provisioned(running, ready + b"os.write(1, b'r'); import time; time.sleep(60)")
        await tenant.until(b"r")
        await tenant.send(Signal(number))
        ended = await tenant.finish()
        assert (ended.status, ended.failure) == (status, None)

    scenario(test, tmp_path)


def test_stop_terminates_and_then_kills(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(
            running, b"signal.signal(15, signal.SIG_IGN); os.write(1, b'r'); import time; time.sleep(60)"
        )
        await tenant.until(b"r")
        await tenant.send(Stop(100))
        assert (await tenant.finish()).status == 137
        assert await running.ended() == 0

    scenario(test, tmp_path)


def test_of_many_stops_the_earliest_counts_and_one_timer_is_kept(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(
            running, b"signal.signal(15, signal.SIG_IGN); os.write(1, b'r'); import time; time.sleep(60)"
        )
        await tenant.until(b"r")
        timers = set()
        call_at = running.keep._loop.call_at

        def counted(at, call, *arguments, **how):
            timer = call_at(at, call, *arguments, **how)
            if call == running.keep._supervisor.kill:
                timers.add(timer)
            return timer

        running.keep._loop.call_at = counted
        await tenant.send(*[Stop(600_000)] * 50, Stop(200), *[Stop(500_000)] * 50)
        assert (await tenant.finish()).status == 137
        assert len(timers) == 2

    scenario(test, tmp_path)


def test_a_stop_needs_nobody_to_wait_for_it(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, b"os.write(1, b'r'); import time; time.sleep(60)")
        await tenant.until(b"r")
        await tenant.send(Stop(0))
        await tenant.session.close()
        assert await running.ended() == 0

    scenario(test, tmp_path)


@pytest.mark.parametrize(
    ("module", "status"),
    [
        (b"os._exit(3)", 109),
        (b"os.kill(os.getpid(), 9)", 137),
        (b"control.send(b'nonsense'); import time; time.sleep(60)", 109),
    ],
)
def test_a_workload_process_that_breaks_is_told_of(tmp_path, module, status):
    async def test(running):
        tenant, _ = await provisioned(running, module)
        ended = await tenant.finish()
        assert (ended.status, ended.failure.kind) == (status, 109)

    scenario(test, tmp_path)


def test_an_inbound_stream_of_an_empty_keep_is_refused(tmp_path):
    async def test(running):
        stream = await running.host.inbound("http")
        with pytest.raises(TransportError, match="refused"):
            await stream.read()

    scenario(test, tmp_path)


def test_a_host_that_speaks_nonsense_can_come_back(tmp_path):
    async def test(running):
        running.host.link._put(b"\xff\xff\xff")
        running.host.link._flush()
        await running.host.link.wait_closed()
        await running.host.connect()
        await (await running.tenant()).offer()

    scenario(test, tmp_path)


def test_says_nothing_of_a_tenants_on_the_console(tmp_path):
    async def test(running):
        await refused(running, toml=b"canary = 1")
        assert running.said == ["provisioning failed: ConfigError"]

    scenario(test, tmp_path)


# --- Certificates ------------------------------------------------------------------------------------------------------

TLS = b'[[files]]\nkind = "listen"\nname = "l"\n'
# Tells how many descriptors came, and the certificate that is in the third one.
SHOW = b"""
import hashlib
os.write(1, b'%d ' % len(fds))
data = os.pread(fds[2], 600000, 0)
os.write(1, b'%d' % int.from_bytes(data[:8], 'little'))
"""


def test_a_workload_without_tls_costs_no_evidence(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, b"os.write(1, b'%d' % len(fds));" + ENDED % 0)
        await tenant.finish()
        # The record and the module.
        assert tenant.output["stdout"] == b"2"
        # For the offer and for the receipt.
        assert len(running.attester.asked) == 2

    scenario(test, tmp_path)


def test_a_workload_with_tls_has_a_certificate_with_evidence(tmp_path):
    async def test(running):
        tenant, _ = await provisioned(running, SHOW + ENDED % 0, toml=TLS)
        await tenant.finish()
        assert tenant.output["stdout"] == b"4 1"
        assert len(running.attester.asked) == 3

    scenario(test, tmp_path)


def named(steward):
    return Steward(steward.url, steward.authority.root_der)


def test_the_steward_s_certificate_is_there_before_the_workload_begins(tmp_path):
    async def test(running):
        running.host.outbound = lambda stream: connect_to(stream, stream.target.port)
        with FakeSteward(tmp_path) as steward:
            tenant, receipt = await provisioned(running, SHOW + ENDED % 0, toml=TLS, steward=named(steward))
            (request,) = steward.requests
            assert request.receipt == without_evidence(receipt)
            await tenant.finish()
        assert tenant.output["stdout"] == b"4 1"
        opened = [target for target in running.host.opened if target.kind == "outbound"]
        assert [(target.host, target.port) for target in opened] == [("localhost", steward.port)] * 2

    scenario(test, tmp_path)


def test_a_steward_that_refuses_ends_the_keep_and_says_why(tmp_path):
    async def test(running):
        running.host.outbound = lambda stream: connect_to(stream, stream.target.port)
        with FakeSteward(tmp_path) as steward:
            steward.change = lambda answer: make_problem("no-grant", "found no rule for it")
            tenant = await running.tenant()
            offer = await tenant.offer()
            sealed = seal_package(HELLO, steward=named(steward))
            running.host.blobs |= sealed.blobs
            failure = await tenant.provision(offer, sealed)
        assert isinstance(failure, Failure)
        assert failure.kind == 105
        assert "no grant names this package and tenant: found no rule for it" in failure.message
        assert await running.ended() == 105
        # The console is the host's.
        assert running.said == ["provisioning failed: AppraisalError"]

    scenario(test, tmp_path)


def test_the_workload_cannot_use_the_connection_to_the_steward(tmp_path):
    ask = b"""
control.send(%s)
answer = control.recv(1000)
os.write(1, answer)
"""

    async def test(running):
        running.host.outbound = lambda stream: connect_to(stream, stream.target.port)
        with FakeSteward(tmp_path) as steward:
            wanted = repr(encode_word(Connect(1, "localhost", steward.port))).encode()
            tenant, _ = await provisioned(running, ask % wanted + ENDED % 0, toml=TLS, steward=named(steward))
            await tenant.finish()
        assert b"denied" in tenant.output["stdout"]

    scenario(test, tmp_path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (b"[tls]\npeers = [{ package = '%s', tenant = 'any' }]" % (b"0" * 64), "found no Steward"),
        (b"steward = 'https://a'\n[tls]\nclient_auth = 'required'", "without a Steward"),
    ],
)
def test_a_package_that_needs_a_steward_is_refused_without(tmp_path, toml, message):
    async def test(running):
        tenant = await running.tenant()
        offer = await tenant.offer()
        sealed = seal_package(HELLO, toml=toml)
        running.host.blobs |= sealed.blobs
        failure = await tenant.provision(offer, sealed)
        assert isinstance(failure, Failure)
        assert message in failure.message

    scenario(test, tmp_path)


def test_a_certificate_is_renewed_while_the_workload_runs_and_no_longer(tmp_path, monkeypatch):
    slept = asyncio.Event()
    at_once = asyncio.Event()

    async def renew():
        slept.set()
        await at_once.wait()

    async def test(running):
        running.host.outbound = lambda stream: connect_to(stream, stream.target.port)
        monkeypatch.setattr("enarx.keep.certificates.Certificates._renew", lambda *_: renew())
        with FakeSteward(tmp_path) as steward:
            tenant, _ = await provisioned(running, CAT + ENDED % 0, toml=TLS, steward=named(steward))
            await slept.wait()
            task = running.keep._renewing
            assert not task.done()
            await tenant.send(Stdin(b""))
            await tenant.finish()
            await asyncio.wait({task})
            assert task.cancelled()

    scenario(test, tmp_path)
