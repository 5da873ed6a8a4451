# SPDX-License-Identifier: Apache-2.0
"""Keep, host, relay and tenant die at every step of the protocol, and nothing hangs, is left or is forgotten.

One flow goes through all of it: a deployment, its standard input, detaching, attaching from elsewhere, the end. Somebody in between
(`tests.between`) watches the frames of the link, which tell the steps apart, and stops the flow at the piece that was drawn, after
as many of its bytes as were drawn. There one of the four dies by SIGKILL, or every connection between tenant and host by a cut.

`make soak` does so at 200 points, or with fewer `SOAK_EXAMPLES` at one in each step. `ENARX_KILL_SEED` draws the same ones again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import re
import secrets
import signal
import socket
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.between import Between, Piece, until
from tests.conftest import POLL_S, Started
from tests.hosting import request
from tests.integration.test_deploy import EMULATED, Host
from tests.soak import EXAMPLES, FULL

pytestmark = pytest.mark.soak

STEPS = (
    "create",
    "hello",
    "handshake",
    "challenge",
    "offer",
    "provision",
    "upload",
    "receipt",
    "running",
    "stdin",
    "detach",
    "attach",
    "exit",
)
VICTIMS = ("keep", "host", "relay", "tenant")
POINTS = 200
COUNT = min(POINTS, max(len(STEPS), POINTS * EXAMPLES // FULL))
SEED = os.environ.get("ENARX_KILL_SEED") or secrets.token_hex(4)

TENANT_S = 30.0
"""For a tenant to end after what it talked to has gone."""
KEEP_S = 45.0
"""For a Keep to end that was half provisioned: it waits 30 s for the next bytes of a blob."""
TRIES = 8
"""At points of one step: how a stream is cut into frames is not the same each time."""

_NEWS = ("accepted, because you said so", "host says that port", "the one of the receipt")
"""What is said while all is well."""

_SCRATCH = Path("/dev/shm")


class Steps:
    """Knows at which step each piece is, and stops at one of them.

    Args:
        stop: the step, how many of its pieces come before, and which part of it passes; None stops nowhere.
    """

    def __init__(self, stop: tuple[str, int, float] | None = None) -> None:
        self.phase = "deploy"
        self.seen: Counter[str] = Counter()
        self.passed_whole = False
        self._stop = stop
        self._streams: dict[int, str] = {}
        self._platforms = 0
        self._up = 0

    def __call__(self, piece: Piece) -> int | None:
        step = self._step(piece)
        if step is None:
            return None
        number = self.seen[step]
        self.seen[step] += 1
        if self._stop is None or self._stop[:2] != (step, number):
            return None
        passing = round(self._stop[2] * len(piece.data))
        self.passed_whole = passing == len(piece.data)
        return passing

    def _step(self, piece: Piece) -> str | None:
        if piece.where == "point":
            return "create"
        if piece.where == "http":
            if not piece.to_keep:
                return None
            return (
                "create" if piece.data.startswith(b"POST ") else "upload" if piece.data.startswith(b"PATCH ") else None
            )
        kind, *rest = piece.header
        if kind == "zeros":
            return None
        if kind == 0:
            return "hello"
        if kind == 1:
            self._streams[rest[0]] = rest[1][0]
            if rest[1][0] == "platform":
                self._platforms += 1
        target = self._streams.get(rest[0], "session")
        if self.phase != "deploy":
            return self.phase
        if target == "blob":
            return "upload"
        if target == "platform":
            return "offer" if self._platforms == 1 else "receipt"
        if target != "session":
            return None
        self._up += kind == 2 and piece.to_keep
        if self._platforms == 0:
            return "challenge" if self._up >= 3 and piece.to_keep else "handshake"
        if self._platforms == 1:
            return "provision" if piece.to_keep else "offer"
        # The tenant's next word is that it has stored the receipt.
        return "running" if self.seen["running"] or (kind == 2 and piece.to_keep) else "receipt"


class Flow:
    """One way through all steps, as far as it comes.

    Args:
        between: the host and whoever is in between.
        tenant: the command.
        module: the workload; it echoes.
        steps: what stops it.
    """

    def __init__(self, between: Between, tenant: Host, module: Path, steps: Steps) -> None:
        self.between, self.tenant, self.module, self.steps = between, tenant, module, steps
        self.started: Started | None = None
        self._open: list[Started] = []

    def run(self) -> bool:
        """Go as far as possible; False where it was stopped."""
        self.between.hold_at(self.steps)
        options = ("--listen", "listen=tcp:0", "--allow-plaintext", "listen", self.module)
        first = self._start("deploy", "--to", self.between.url, EMULATED, *options)
        if not self._wait(lambda: self.steps.seen["running"] or self._has_ended()):
            return False
        assert not self._has_ended(), first._written
        self.steps.phase = "stdin"
        first.send(b"one\n")
        if not self._wait(lambda: self._wrote(first.process.stdout, b"one\n")):
            return False
        self.steps.phase = "detach"
        first.process.send_signal(signal.SIGHUP)
        if not self._wait(self._has_ended):
            return False
        first.end()
        keep = re.search(r"keep attach (\w+)", bytes(first._written[first.process.stderr]).decode())[1]
        # What is left of the session before is at this step still.
        until(lambda: self.between.reached.is_set() or request(self.between.direct)[0] == 200, "the host")
        self.steps.phase = "attach"
        second = self._start("keep", "attach", keep, "--on", self.between.url)
        if not self._wait(lambda: self._wrote(second.process.stderr, b"the one of the receipt")):
            return False
        self.steps.phase = "exit"
        second.send(b"two\n")
        if not self._wait(lambda: self._wrote(second.process.stdout, b"two\n")):
            return False
        second.process.stdin.close()
        return self._wait(self._has_ended)

    def close(self) -> None:
        for started in self._open:
            if started.process.poll() is None:
                started.kill()
            for stream in (started.process.stdin, started.process.stdout, started.process.stderr):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _start(self, *arguments: object) -> Started:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.started = Started(self.tenant.enarx._popen(arguments, **pipes))
        self._open.append(self.started)
        return self.started

    def _wrote(self, stream: object, text: bytes) -> bool:
        return text in bytes(self.started._written[stream])

    def _has_ended(self) -> bool:
        return all(stream.closed for stream in self.started._written)

    def _wait(self, condition) -> bool:
        def looked() -> object:
            self.started._pump(POLL_S)
            ended = self._has_ended() and self.steps.phase != "detach"
            return self.between.reached.is_set() or condition() or ended

        until(looked, f"{self.steps.phase}: {self.started._written}")
        return not self.between.reached.is_set()


@pytest.fixture(scope="module")
def between(enarx):
    with Between(enarx.env) as running:
        yield running


@pytest.fixture(scope="module")
def tenant(between, enarx):
    return Host(url=between.url, enarx=enarx)


@pytest.fixture(scope="module")
def pieces(between, tenant, guest):
    """How many pieces each step has, when nobody dies."""
    steps = Steps()
    flow = Flow(between, tenant, guest("echo"), steps)
    try:
        assert flow.run()
        ended = flow.started.end()
        assert (ended.status, ended.stdout) == (0, b"two\n"), ended.stderr
    finally:
        flow.close()
    assert set(steps.seen) == set(STEPS), steps.seen
    until(lambda: not os.listdir(between.state / "keeps"), "the Keep's end")
    return steps.seen


@pytest.fixture(scope="module")
def idle_fds(between, pieces):
    return open_files(between.pid)


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid):
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def listed(between):
    return {keep["id"]: keep for keep in request(between.direct)[2]["keeps"]}


def start_afresh(between):
    """Take away what a test left that failed, and return the Keeps that the host knows of."""
    between.revive()
    for name, keep in listed(between).items():
        if keep["state"] not in {"ended", "lost"}:
            request(between.direct, "DELETE", f"/v1/keeps/{name}")
    return listed(between)


@pytest.mark.parametrize("number", range(COUNT))
def test_whoever_dies_nothing_hangs_and_nothing_is_left(between, tenant, guest, pieces, idle_fds, number):
    step = STEPS[number % len(STEPS)]
    victim = VICTIMS[(number + number // len(STEPS)) % len(VICTIMS)]
    draw = random.Random(f"{SEED} {number}")
    for _ in range(TRIES):
        known = start_afresh(between)
        stop = (step, draw.randrange(pieces[step]), draw.choice((0.0, 1.0, draw.random())))
        print(f"ENARX_KILL_SEED={SEED}: point {number}: {victim} at {stop}")
        steps = Steps(stop)
        flow = Flow(between, tenant, guest("echo"), steps)
        try:
            if flow.run():
                # It had fewer pieces this time.
                flow.started.end()
                between.go_on()
                continue
            die(between, flow, victim, steps, step, set(known))
        finally:
            between.go_on()
            flow.close()
        require_nothing_left(between, idle_fds)
        assert set(known) <= set(listed(between)), "the host forgot Keeps"
        return
    pytest.fail(f"did not come to {step} in {TRIES} tries")


def die(between, flow, victim, steps, step, known):
    started = flow.started
    folders = [name for name in os.listdir(between.state / "keeps") if name not in known]
    keeps = [pid for name in folders for pid in between.keep_pids(name)]
    involved = [os.pidfd_open(pid) for keep in keeps for pid in (keep, *children(keep))]
    if victim == "keep" and not keeps:
        # There is none yet.
        victim = "relay"
    had_ended = started.process.poll() is not None
    try:
        if victim == "keep":
            for pid in keeps:
                os.kill(pid, signal.SIGKILL)
        elif victim == "host":
            between.kill_host()
        elif victim == "relay":
            between.cut()
        else:
            started.kill()
        between.go_on()
        ended = started.end(timeout_s=TENANT_S)
        if victim != "tenant" and not had_ended:
            require_right_end(ended, steps.phase, step)
        if victim == "host":
            between.start()
        settle(between, flow, victim, steps, step, known, ended)
        for pidfd in involved:
            until(lambda pidfd=pidfd: has_ended(pidfd), "a process of a Keep to end")
    finally:
        for pidfd in involved:
            os.close(pidfd)


def has_ended(pidfd):
    from enarx.host.process_facts import has_ended as found

    return found(pidfd)


def require_right_end(ended, phase, step):
    """A tenant whose Keep, host or connection went says so in one line; where all was said already, it ended as it should."""
    allowed = {"detach": {0, 107}, "exit": {0, 107, 109}}.get(phase, {107, 109})
    assert ended.status in allowed, (ended.status, ended.stderr)
    assert "Traceback" not in ended.stderr, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not any(word in line for word in _NEWS)]
    if ended.status:
        assert 1 <= len(lines) <= 2, ended.stderr
        assert lines[0].startswith("enarx: "), ended.stderr
        assert all(line.startswith("hint: ") for line in lines[1:]), ended.stderr
    elif phase == "exit":
        assert ended.stdout == b"two\n", step


def settle(between, flow, victim, steps, step, known, ended):
    """Require that the Keep is what it may be, and end it."""
    new = [keep for name, keep in listed(between).items() if name not in known]
    assert len(new) <= 1, new
    if not new:
        assert step == "create", "the host forgot the Keep"
        return
    (keep,) = new
    folder = Path(flow.tenant.enarx.env["HOME"]) / ".local/state/enarx/keeps" / between.name / keep["id"]
    has_receipt = (folder / "receipt.json").exists()
    if victim != "tenant" and " lost " not in ended.stderr and ended.status and steps.phase == "deploy":
        assert not folder.exists(), "a deployment that failed left its folder"
    fate = until(lambda: fate_of(between, keep["id"]), "the Keep to be one thing or another", KEEP_S)
    if victim == "keep":
        assert fate == "gone"
    released = STEPS.index(step) > STEPS.index("provision") or (step == "provision" and steps.passed_whole)
    assert not (fate == "empty" and released), "a Keep was provisioned and is empty"
    assert not (fate == "provisioned" and STEPS.index(step) < STEPS.index("provision")), (
        "a Keep was provisioned by nobody"
    )
    if victim == "relay" and steps.phase == "deploy" and not has_receipt and fate != "gone":
        # A tenant that lives tells the host that it does not want the Keep.
        until(lambda: fate_of(between, keep["id"]) == "gone", "the Keep that was given up to end")
        fate = "gone"
    if has_receipt and victim != "keep" and steps.phase != "exit":
        # Between the receipt and the word that it was stored, a Keep whose tenant is lost ends.
        assert fate == "provisioned" or (fate == "gone" and step == "receipt"), f"the workload is {fate}"
    has_heard = steps.phase == "exit" and not ended.status
    if has_heard:
        # He needs the key no more. He told the Keep so as he left; where that was cut off, it still waits for somebody.
        assert not (folder / "key.pem").exists()
    if has_receipt and fate == "provisioned" and not has_heard:
        # Its tenant comes back, whatever became of its host or its connection.
        again = flow.tenant.enarx.command("keep", "attach", keep["id"], "--on", between.url)
        assert again.status == 0, again.stderr
        until(lambda: fate_of(between, keep["id"]) == "gone", "the Keep's end")
    elif fate != "gone":
        assert request(between.direct, "DELETE", f"/v1/keeps/{keep['id']}")[0] == 200
    state = listed(between)[keep["id"]]["state"]
    assert state in {"ended", "lost"}, state
    for port in keep["ports"]:
        if port["port"]:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port["port"]), timeout=5).close()


def fate_of(between, keep):
    """Return `gone`, `empty` or `provisioned`; None where it is none of these yet."""
    if listed(between)[keep]["state"] in {"ended", "lost"}:
        return "gone"
    return asyncio.run(_ask(between.direct, keep))


async def _ask(url, keep):
    """Be the next tenant, and see whether the Keep serves it."""
    from enarx.channel.session import Session
    from enarx.crypto.x509 import make_self_signed
    from enarx.deploy.attesting import MEDIA_TYPES
    from enarx.deploy.host_client import HostClient, parse_address
    from enarx.errors import EnarxError
    from enarx.wire.session import Challenge, Failure, Offer, Refuse

    credential = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))
    async with HostClient(parse_address(url)) as host:
        try:
            session = await Session.handshake(await host.open_session(keep), credential, "tenant")
            await session.send(Challenge(secrets.token_bytes(32), MEDIA_TYPES))
            answer = await session.receive(30)
        except EnarxError:
            return None
        if isinstance(answer, Offer):
            await session.send(Refuse("usage"))
            await session.close()
            return "empty"
        await session.close()
        is_anothers = isinstance(answer, Failure) and "another tenant" in answer.message
        return "provisioned" if is_anothers else None


def require_nothing_left(between, idle_fds):
    until(lambda: not os.listdir(between.state / "keeps"), "files of Keeps to be removed")
    until(lambda: open_files(between.pid) <= idle_fds, "the host to close what it had open")
    assert not between.keep_pids()


def test_what_killed_keeps_left_in_memory_is_removed_by_the_next(between, tenant, guest):
    """A Keep that was killed cannot clean up; the next one of its user does."""
    ended = tenant.deploy(guest("hello"))
    assert ended.status == 0, ended.stderr
    until(lambda: not any(map(is_abandoned, _SCRATCH.glob("enarx-keep-*"))), "abandoned folders to be removed", 5)


def is_abandoned(folder):
    """Return whether nobody holds a folder's lock."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
