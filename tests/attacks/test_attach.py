# SPDX-License-Identifier: Apache-2.0
"""A host between a tenant and Keeps that were provisioned: another Keep in its place, another tenant, another provision."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from enarx.attester.attested import SNP_REPORT
from enarx.attester.emulated import EmulatedAttester
from enarx.channel.link import Stream
from enarx.channel.session import Session
from enarx.errors import EnarxError, TransportError
from enarx.wire.session import (
    Attach,
    Attachment,
    Challenge,
    Exit,
    Failure,
    Image,
    Limits,
    Offer,
    Output,
    Provision,
    Receipt,
    Refuse,
)
from tests.attacks.harness import ATTESTED_BYTES, KEEP, Host, Wire, honest, relay, run, says, stranger

VERIFICATION, APPRAISAL, TRANSPORT = 104, 105, 107
# A Keep that refuses whose tenant is not its own says so at once and hangs up: the tenant's challenge may still be on its way then,
# and cannot be sent any more.
REFUSED = {VERIFICATION, TRANSPORT}
LIMITS = Limits(1 << 28, 1 << 26, 1 << 20)


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, Path]:
    """Modules that say whose they are, and wait."""
    found = {}
    for name in ("alice", "bob"):
        found[name] = tmp_path / f"{name}.wat"
        found[name].write_text(says(f"this is {name}'s", forever=True))
    return found


class Routes:
    """Where sessions go: to the Keep of their name, or as `instead` has it once it is set."""

    def __init__(self, instead) -> None:
        self.instead, self.is_on = instead, False

    async def __call__(self, host: Host, name: str, wire: Wire) -> None:
        if not self.is_on:
            await honest()(host, name, wire)
        elif isinstance(self.instead, dict):
            await relay(host, wire, await host.keeps[self.instead[name]].session())
        else:
            await self.instead(host, name, wire)


async def detached(host: Host, module: Path, **how) -> str:
    ended = await host.deploy(module, "--detach", **how)
    assert ended.status == 0, ended.stderr
    return ended.stdout.decode().strip()


async def logs(host: Host, keep: str, **how):
    return await host.tenant("keep", "logs", keep, "--on", host.url, "--offline", **how)


# --- A host that poses as the Keep


async def posing(host: Host, _name: str, wire: Wire) -> None:
    """Be the Keep, with genuine evidence that is over something else."""
    session = await Session.handshake(wire, stranger(), "keep")
    try:
        assert isinstance(await session.receive(60), Challenge)
        attested = EmulatedAttester(host.platform).attest(os.urandom(64))
        lie = b"what the host says\n"
        await session.send(
            Attachment(0, len(lie), Image("enarx", "0", "nil"), LIMITS, attested.endorsements, attested.evidence)
        )
        host.heard = await session.receive(60)
        await session.send(Output("stdout", 0, lie), Exit(0, None, None, None))
        await session.receive(60)
    except EnarxError:
        return
    finally:
        await session.close()


def posed(tmp_path, modules, build):
    routes = Routes(posing)

    async def scenario(host: Host):
        keep = await detached(host, modules["alice"])
        routes.is_on = True
        return await logs(host, keep, build=build), host.heard

    return run(tmp_path, routes, scenario)


def test_refuses_a_host_that_poses_as_the_keep(tmp_path, modules):
    ended, heard = posed(tmp_path, modules, "-")
    assert (ended.status, ended.stdout) == (VERIFICATION, b""), ended.stderr
    assert isinstance(heard, Refuse)


def test_control_a_host_that_poses_as_the_keep_is_believed(tmp_path, modules):
    ended, heard = posed(tmp_path, modules, "no-report-data")
    assert ended.stdout == b"what the host says\n", ended.stderr
    assert isinstance(heard, Attach)


def emptied(tmp_path, modules, build):
    """Deploy, and look at the log of another Keep, which is empty."""
    routes = Routes({"keep0": "fresh"})

    async def scenario(host: Host):
        keep = await detached(host, modules["alice"])
        await host.start_keep("fresh")
        routes.is_on = True
        return await logs(host, keep, build=build)

    return run(tmp_path, routes, scenario)


def test_refuses_an_empty_keep_in_the_place_of_the_provisioned_one(tmp_path, modules):
    ended = emptied(tmp_path, modules, "-")
    assert (ended.status, ended.stdout) == (VERIFICATION, b""), ended.stderr


def test_control_an_empty_keep_is_taken_for_one_whose_workload_said_nothing(tmp_path, modules):
    ended = emptied(tmp_path, modules, "any-answer")
    assert (ended.status, ended.stdout) == (0, b""), ended.stderr


# --- Two Keeps swapped


def swapped(tmp_path, modules, tenants, *, keep_build="-", tenant_build="-"):
    """Two deployments; the first one's tenant looks at its log, and is led to the other Keep."""
    routes = Routes({"keep0": "keep1", "keep1": "keep0"})

    async def scenario(host: Host):
        keep = await detached(host, modules["alice"], name=tenants[0], build=tenant_build)
        await detached(host, modules["bob"], name=tenants[1], build=tenant_build)
        routes.is_on = True
        return await logs(host, keep, name=tenants[0], build=tenant_build)

    return run(tmp_path, routes, scenario, keep_build=keep_build)


@pytest.mark.parametrize("tenants", [("alice", "alice"), ("alice", "bob")], ids=["of one tenant", "of two tenants"])
def test_refuses_two_keeps_swapped(tmp_path, modules, tenants):
    ended = swapped(tmp_path, modules, tenants)
    assert ended.status in REFUSED, ended.stderr
    assert ended.stdout == b""


@pytest.mark.parametrize("tenants", [("alice", "alice"), ("alice", "bob")], ids=["of one tenant", "of two tenants"])
def test_refuses_two_keeps_swapped_even_if_keeps_let_anybody_attach(tmp_path, modules, tenants):
    ended = swapped(tmp_path, modules, tenants, keep_build="any-attach")
    assert (ended.status, ended.stdout) == (VERIFICATION, b""), ended.stderr


@pytest.mark.parametrize("tenants", [("alice", "alice"), ("alice", "bob")], ids=["of one tenant", "of two tenants"])
def test_control_two_keeps_swapped_are_not_told_apart(tmp_path, modules, tenants):
    ended = swapped(tmp_path, modules, tenants, keep_build="any-attach,no-receipt-hash", tenant_build="no-receipt-hash")
    assert (ended.status, ended.stdout) == (0, b"this is bob's\n"), ended.stderr


# --- Who is not the tenant


async def attached_by_a_stranger(host: Host, keep: str):
    """Attach to a Keep without the tenant's key, and return what it says."""
    session = await Session.handshake(await host.keeps[keep].session(), stranger(), "tenant")
    await session.send(Challenge(os.urandom(32), (SNP_REPORT,)))
    said = [await session.receive(60)]
    if isinstance(said[0], Attachment):
        await session.send(Attach(0))
        while not isinstance(said[-1], Output):
            said.append(await session.receive(60))
    await session.close()
    return said


def eavesdropped(tmp_path, modules, build):
    async def scenario(host: Host):
        keep = await detached(host, modules["alice"])
        return await attached_by_a_stranger(host, keep)

    return run(tmp_path, honest(), scenario, keep_build=build)


def test_a_keep_answers_nobody_but_its_tenant(tmp_path, modules):
    (said,) = eavesdropped(tmp_path, modules, "-")
    assert isinstance(said, Failure)
    assert said.kind == VERIFICATION


def test_control_a_keep_answers_anybody(tmp_path, modules):
    said = eavesdropped(tmp_path, modules, "any-attach")
    assert said[-1].data == b"this is alice's\n"


# --- An attach that was held back


def displaced(tmp_path, modules, keep_build):
    """Attach twice. Of the first session the tenant's last word is held back until the second one is there.

    Returns:
        The status with which the second one ended, and what it said: by itself, or because it was told to leave once the Keep
        had ended the first one.
    """
    kept: list[tuple[Stream, bytes]] = []
    held, over = asyncio.Event(), asyncio.Event()

    async def holding(host: Host, name: str, wire: Wire) -> None:
        stream = await host.keeps[name].session()
        is_first, is_attested = not kept, False

        async def hold(speaker: str, _number: int, record: bytes) -> list[bytes]:
            nonlocal is_attested
            if speaker == KEEP:
                is_attested = is_attested or len(record) > ATTESTED_BYTES
                # By then there is nobody who could be told.
                return [] if is_first and kept else [record]
            if is_first and is_attested:
                kept.append((stream, record))
                held.set()
                # The tenant gives up, of which the Keep is not told.
                await asyncio.Event().wait()
            return [record]

        await relay(host, wire, stream, hold)
        if is_first:
            over.set()

    routes = Routes(holding)

    async def scenario(host: Host):
        keep = await detached(host, modules["alice"])
        routes.is_on = True
        attach = ("keep", "attach", keep, "--on", host.url, "--offline")
        async with host.running(*attach):
            await held.wait()
        async with host.running(*attach) as second:
            assert await second.stdout.readline() == b"this is alice's\n"
            ((stream, record),) = kept
            await stream.write(record)
            ends = {asyncio.ensure_future(wait) for wait in (over.wait(), second.wait())}
            _, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            if second.returncode is None:
                second.send_signal(signal.SIGHUP)
            _, err = await second.communicate()
            return second.returncode, err.decode()

    return run(tmp_path, routes, scenario, keep_build=keep_build)


def test_refuses_an_attach_that_was_held_back_since_before_another(tmp_path, modules):
    status, err = displaced(tmp_path, modules, "-")
    assert status == 0, err
    assert "later attach" not in err


def test_control_an_attach_that_was_held_back_displaces_a_later_one(tmp_path, modules):
    status, err = displaced(tmp_path, modules, "late-attach")
    assert status == TRANSPORT, err
    assert "found a later attach" in err


# --- A second provision


def provisioned_again(tmp_path, modules, build):
    """Deploy, and have somebody else deploy to the very same Keep."""
    routes = Routes({"keep0": "keep0", "keep1": "keep0"})

    async def scenario(host: Host):
        keep = await detached(host, modules["alice"], name="alice")
        routes.is_on = True
        second = await host.deploy(modules["bob"], "--detach", name="mallory")
        return second, await logs(host, keep, name="alice")

    return run(tmp_path, routes, scenario, keep_build=build)


def test_refuses_a_second_provision(tmp_path, modules):
    second, first = provisioned_again(tmp_path, modules, "-")
    assert second.status in REFUSED, second.stderr
    assert (first.status, first.stdout) == (0, b"this is alice's\n"), first.stderr


def test_control_a_keep_takes_a_second_provision(tmp_path, modules):
    second, _ = provisioned_again(tmp_path, modules, "second-provision")
    assert second.status == 0, second.stderr


# --- A provision played again


def played_again(tmp_path, module: Path, *, keep_build: str, tenant_build: str, keep: str = "keep0"):
    """Cut a session just before its provision arrives, and give the same provision to a Keep in a session of the attacker's."""
    shown = tmp_path / "provision"
    attacked: list[Host] = []

    async def cut(_speaker: str, _number: int, record: bytes) -> list[bytes]:
        if shown.exists():
            # The ciphertext comes beside the session; without it nothing could be played again.
            victim = attacked[0].keeps["keep0"]
            while not victim.blobs:
                victim.arrived.clear()
                await victim.arrived.wait()
            raise TransportError("cut")
        return [record]

    async def scenario(host: Host):
        attacked.append(host)
        ended = await host.deploy(module, build=f"{tenant_build},show-provision={shown}".removeprefix("-,"))
        if keep not in host.keeps:
            await host.start_keep(keep)
        session = await Session.handshake(await host.keeps[keep].session(), stranger(), "tenant")
        await session.send(Challenge(os.urandom(32), (SNP_REPORT,)))
        said = [await session.receive(60)]
        assert isinstance(said[0], Offer)
        await session.send(Provision(shown.read_bytes()))
        with contextlib.suppress(TransportError):
            while not isinstance(said[-1], Exit):
                said.append(await session.receive(60))
                if isinstance(said[-1], Receipt):
                    await session.send(Attach(0))
        await session.close()
        return ended, said[1:], host.keeps[keep].process.poll()

    return run(tmp_path, honest(cut), scenario, keep_build=keep_build)


@pytest.mark.parametrize(
    ("keep", "keep_build"),
    [("keep0", "-"), ("another", "-"), ("keep0", "one-hpke-key")],
    ids=["to the same Keep", "to another Keep", "to a Keep that repeats its HPKE key"],
)
def test_refuses_a_provision_played_again(tmp_path, modules, keep, keep_build):
    ended, said, _ = played_again(tmp_path, modules["alice"], keep_build=keep_build, tenant_build="-", keep=keep)
    assert ended.status == TRANSPORT, ended.stderr
    (failure,) = said
    assert isinstance(failure, Failure)
    assert failure.kind == VERIFICATION


def test_control_a_provision_played_again_runs_for_somebody_else(tmp_path):
    module = tmp_path / "short.wat"
    module.write_text(says("this is alice's"))
    _, said, _ = played_again(tmp_path, module, keep_build="one-hpke-key,no-info", tenant_build="no-info")
    assert isinstance(said[0], Receipt)
    assert any(isinstance(message, Output) and message.data == b"this is alice's\n" for message in said)


# --- A Keep that lies about what it is


def lied(tmp_path, module, build):
    async def scenario(host: Host):
        host.launched = bytes(48)
        return await host.deploy(module, build=build)

    return run(tmp_path, honest(), scenario)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A module that says something and ends."""
    path = tmp_path / "short.wat"
    path.write_text(says("done"))
    return path


def test_refuses_a_keep_that_is_another_program(tmp_path, short):
    ended = lied(tmp_path, short, "-")
    assert (ended.status, ended.stdout) == (APPRAISAL, b""), ended.stderr
    assert "snp.measurement failed" in ended.stderr


def test_control_a_keep_that_is_another_program_is_accepted(tmp_path, short):
    ended = lied(tmp_path, short, "no-measurement")
    assert (ended.status, ended.stdout) == (0, b"done\n"), ended.stderr


def forged(tmp_path, module, build):
    """Deploy to a Keep that is another program, whose report the host made to say otherwise after it was signed."""

    async def scenario(host: Host):
        honest_platform = host.platform

        def lying(report_data: bytes, *, measurement: bytes | None = None) -> bytes:
            other = honest_platform(report_data, measurement=bytes(48))
            true = honest_platform(report_data)
            # MEASUREMENT is 48 bytes at 0x90 of the report, which follows four bytes of length.
            return other[: 4 + 0x90] + true[4 + 0x90 : 4 + 0xC0] + other[4 + 0xC0 :]

        host.platform = lying
        return await host.deploy(module, build=build)

    return run(tmp_path, honest(), scenario)


def test_refuses_a_report_that_was_changed_after_it_was_signed(tmp_path, short):
    ended = forged(tmp_path, short, "-")
    assert (ended.status, ended.stdout) == (VERIFICATION, b""), ended.stderr


def test_control_a_report_that_was_changed_is_accepted(tmp_path, short):
    ended = forged(tmp_path, short, "no-signature")
    assert (ended.status, ended.stdout) == (0, b"done\n"), ended.stderr
