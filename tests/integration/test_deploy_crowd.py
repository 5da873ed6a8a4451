# SPDX-License-Identifier: Apache-2.0
"""Many Keeps of many tenants on one host at once: each answers its own tenant with what that one alone said to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from pathlib import Path

import pytest

from enarx.deploy import HostClient, deploy_package, find_policy, load_package, parse_address
from tests.between import until
from tests.hosting import HostProcess, request

pytestmark = pytest.mark.slow

TENANTS = 20
KEEPS_EACH = 10
ALL_S = 600.0
"""For all of them; far more than it takes."""


class Said:
    """A standard input of which a tenant says one line, and the end when it is told to."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._speaking = asyncio.Event()
        self._ending = asyncio.Event()

    def speak(self) -> None:
        self._speaking.set()

    def end(self) -> None:
        self._ending.set()

    async def read(self, max_bytes: int) -> bytes:
        await self._speaking.wait()
        if self._line:
            line, self._line = self._line, b""
            return line
        await self._ending.wait()
        return b""


class Heard:
    """An output that is waited for."""

    def __init__(self) -> None:
        self.failed = asyncio.get_running_loop().create_future()
        self.data = {1: b"", 2: b""}
        self._changed = asyncio.Event()
        self.ended = False

    def end(self, _: object) -> None:
        self.ended = True
        self._changed.set()

    async def write(self, fd: int, data: bytes) -> None:
        self.data[fd] += data
        self._changed.set()

    async def until(self, text: bytes) -> None:
        while text not in self.data[1]:
            assert not self.ended, self.data
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def tokens():
    return [secrets.token_hex(16) for _ in range(TENANTS)]


@pytest.fixture
def host(tmp_path, monkeypatch, enarx, tokens):
    # This process is the tenants, and accepts the emulated platform of this installation as the host does.
    monkeypatch.setenv("HOME", enarx.env["HOME"])
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "tenants.toml"
    file.write_text(
        "".join(
            f'[[tenants]]\nname = "tenant-{number}"\ntoken_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
            f"max_keeps = {KEEPS_EACH}\n"
            for number, token in enumerate(tokens)
        )
    )
    file.chmod(0o600)
    with HostProcess(tmp_path / "state", "--tenants", str(file), stub=False) as running:
        yield running


@pytest.fixture
def package(tmp_path, guest):
    """A workload that echoes, and is content with little."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.wasm").write_bytes(guest("echo").read_bytes())
    (folder / "Enarx.toml").write_text('[limits]\nmemory = "64 MiB"\n')
    return load_package(str(folder))


def memory_of(pids):
    """Return how much memory processes take in bytes, pages that they share divided among them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(re.search(r"(?m)^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) << 10
    return total


def family(host):
    """Return the Keep processes of a host, and their workloads."""
    from tests.hosting import keep_pids

    keeps = keep_pids(host.state)
    for keep in list(keeps):
        keeps |= {int(each) for each in Path(f"/proc/{keep}/task/{keep}/children").read_text().split()}
    return keeps


async def tenancy(host, token, package, state, all_run, all_heard):
    """Be one tenant: deploy Keeps one after the other, and talk to all of them when everybody's run.

    Returns:
        For each Keep its id, what was said to it, what it said, and how it ended.
    """
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(HostClient(parse_address(host.url), token=token))
        deployments = [
            await deploy_package(
                package, host=client, policy=lambda: find_policy(None), state_root=state, accept_emulated=""
            )
            for _ in range(KEEPS_EACH)
        ]
        nonces = [secrets.token_hex(16).encode() + b"\n" for _ in deployments]
        inputs, outputs = [Said(nonce) for nonce in nonces], [Heard() for _ in deployments]
        talks = [
            asyncio.ensure_future(deployment.conversation.converse(source, sink))
            for deployment, source, sink in zip(deployments, inputs, outputs, strict=True)
        ]
        for talk, sink in zip(talks, outputs, strict=True):
            talk.add_done_callback(sink.end)
        await all_run.wait()
        for source in inputs:
            source.speak()
        await asyncio.gather(*(sink.until(nonce) for sink, nonce in zip(outputs, nonces, strict=True)))
        mine = {keep.id for keep in await client.list_keeps()}
        await all_heard.wait()
        for source in inputs:
            source.end()
        ends = await asyncio.gather(*talks)
        assert mine == {deployment.keep.id for deployment in deployments}
        return [
            (deployment.keep.id, nonce, sink.data, end.exit)
            for deployment, nonce, sink, end in zip(deployments, nonces, outputs, ends, strict=True)
        ]


class Barrier:
    """Opens when everybody waits at it (3.11 has one, whose waiters cannot look at what is behind it)."""

    def __init__(self, parties: int, opened) -> None:
        self._left = parties
        self._opened = opened
        self._event = asyncio.Event()

    async def wait(self) -> None:
        self._left -= 1
        if not self._left:
            self._opened()
            self._event.set()
        await self._event.wait()


def test_two_hundred_keeps_of_twenty_tenants_answer_each_with_its_own_nonce(host, tokens, package, tmp_path):
    began = time.monotonic()
    facts = {}

    def all_run():
        facts["deployed_s"] = time.monotonic() - began
        facts["memory"] = memory_of(family(host))
        facts["processes"] = len(family(host))

    async def crowd():
        run, heard = Barrier(TENANTS, all_run), Barrier(TENANTS, lambda: None)
        async with asyncio.timeout(ALL_S), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(tenancy(host, token, package, str(tmp_path / f"tenant-{number}"), run, heard))
                for number, token in enumerate(tokens)
            ]
        return [each for task in tasks for each in task.result()]

    answered = asyncio.run(crowd())
    count = TENANTS * KEEPS_EACH
    assert len({keep for keep, *_ in answered}) == count
    assert len({nonce for _, nonce, *_ in answered}) == count
    for _, nonce, data, exit_ in answered:
        assert data == {1: nonce, 2: b""}
        assert (exit_.status, exit_.failure, exit_.trap) == (0, None, None)
    seconds = time.monotonic() - began
    print(
        f"{count} Keeps: deployed in {facts['deployed_s']:.1f} s, {facts['deployed_s'] / count * 1000:.0f} ms each; all over"
        f" after {seconds:.1f} s; {facts['memory'] / count / 2**20:.1f} MiB each in {facts['processes']} processes"
    )
    assert facts["processes"] == 2 * count
    until(lambda: not family(host), "the Keeps to end")
    for token in tokens:
        assert {keep["state"] for keep in request(host.url, token=token)[2]["keeps"]} <= {"ended"}
