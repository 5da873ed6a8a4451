# SPDX-License-Identifier: Apache-2.0
"""The Keep as the process it is, on a unix socket, with the emulated platform and real guests; the verifier judges its evidence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import enarx
from enarx.emulator.installation import Installation, open_installation
from enarx.emulator.service import answer
from enarx.errors import AppraisalError, TransportError
from enarx.image.process import measure_process
from enarx.rats import AttestationResult, Evidence, TrustAnchors
from enarx.runtime.scratch import ROOT
from enarx.verifier import verify_evidence
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.wire.release import (
    Configuration,
    Directory,
    Entry,
    TravellingFiles,
    decode_identity_untrusted,
    encode_files,
)
from enarx.wire.session import Attach, Detach, Exit, Failure, Receipt, Signal, Stdin, Stop
from tests.guests.build import guest
from tests.keeping import WAIT_S, Host, Tenant, make_credential, seal_package

PACKAGE = Path(enarx.__file__).parent
NOW = datetime.fromtimestamp(time.time(), UTC)
ENARX_TOML = b'[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
CANARY = "canary-3f1c9d"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return open_installation(str(tmp_path_factory.mktemp("data") / "platform"), at=NOW)


@dataclass
class Process:
    """A Keep process and what is around it."""

    host: Host
    child: subprocess.Popen[bytes]
    console: Path
    platform: Installation

    async def tenant(self, credential: Any = None) -> Tenant:
        return await Tenant.connect(await self.host.session(), credential)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.child.wait, WAIT_S)

    def judge(self, evidence: bytes, endorsements: tuple[bytes, ...], report_data: bytes) -> AttestationResult:
        anchors = TrustAnchors(insecure_emulated=frozenset({sha256(self.platform.root).digest()}))
        return verify_evidence(
            Evidence(data=evidence),
            at=NOW,
            endorsements=read_wrapped_endorsements(endorsements),
            anchors=anchors,
            report_data=report_data,
        )

    async def provisioned(self, module: bytes, credential: Any = None, **given: Any) -> tuple[Tenant, Receipt]:
        tenant = await self.tenant(credential)
        offer = await tenant.offer()
        sealed = seal_package(module, **given)
        self.host.blobs |= sealed.blobs
        receipt = await tenant.provision(offer, sealed)
        assert isinstance(receipt, Receipt), receipt
        await tenant.accept()
        return tenant, receipt


@contextlib.contextmanager
def keep_process(folder: Path, platform: Installation) -> Iterator[Process]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "link"))
    listener.listen()
    console = folder / "console"
    command = [sys.executable, "-I", "-S", str(PACKAGE / "keep" / "__main__.py"), "--backend", "nil"]
    command += ["--memory", str(256 << 20), "--package-limit", str(64 << 20), "--log", str(1 << 20), "--link-fd"]
    with console.open("wb") as out:
        child = subprocess.Popen(
            [*command, str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=[listener.fileno()],
            env={"HOME": "/nonexistent"},
            start_new_session=True,
        )
    listener.close()
    measurement = measure_process(str(PACKAGE))
    host = Host(
        str(folder / "link"),
        answer=lambda request: answer(platform, request, measurement=measurement, report_id=bytes(32)),
    )
    before = children_of(child.pid)
    try:
        yield Process(host, child, console, platform)
    finally:
        before |= children_of(child.pid)
        child.kill()
        child.wait()
        deadline = time.monotonic() + WAIT_S
        for pid in before:
            while os.path.exists(f"/proc/{pid}/stat") and state_of(pid) not in "ZX":
                assert time.monotonic() < deadline, f"outlived its Keep: {Path(f'/proc/{pid}/status').read_text()}"
                time.sleep(0.01)


def children_of(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return set()


def about(pid: int, name: str) -> bytes:
    with contextlib.suppress(PermissionError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def state_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def scenario(test: Callable[[Process], Awaitable[None]], folder: Path, platform: Installation) -> None:
    async def play(process: Process) -> None:
        async with asyncio.timeout(60):
            await process.host.connect()
            try:
                await test(process)
            finally:
                process.host.link.close()

    with keep_process(folder, platform) as process:
        asyncio.run(play(process))


def module(name: str) -> bytes:
    return guest(name).read_bytes()


def test_attests_and_runs_hello(tmp_path, platform):
    hello = module("hello")

    async def test(process):
        tenant = await process.tenant()
        offer = await tenant.offer()
        result = process.judge(offer.evidence, offer.endorsements, tenant.offered)
        result.require()
        assert result.emulated
        with pytest.raises(AppraisalError, match="report_data"):
            process.judge(offer.evidence, offer.endorsements, bytes(64)).require()
        sealed = seal_package(hello)
        process.host.blobs |= sealed.blobs
        receipt = await tenant.provision(offer, sealed)
        process.judge(receipt.evidence, receipt.endorsements, tenant.receipt_data(receipt)).require()
        await tenant.accept()
        identity = decode_identity_untrusted(receipt.identity)
        assert identity.pristine
        assert identity.module == sha256(hello).digest()
        assert identity.package == sha256(sealed.release.package).digest()
        ended = await tenant.finish()
        assert ended == Exit(0, None, None, None)
        assert b"ello" in tenant.output["stdout"]
        assert await process.ended() == 0
        assert process.console.read_text() == "enarx keep: ready\n"

    scenario(test, tmp_path, platform)


def test_echoes_arguments_and_environment(tmp_path, platform):
    async def test(process):
        configuration = Configuration(arguments=("one", "two words"), environment=(("NAME", "value"),))
        tenant, receipt = await process.provisioned(module("args_env"), configuration=configuration)
        assert not decode_identity_untrusted(receipt.identity).pristine
        assert (await tenant.finish()).status == 0
        assert b"two words" in tenant.output["stdout"]
        assert b"NAME=value" in tenant.output["stdout"]

    scenario(test, tmp_path, platform)


def test_stdin_goes_in_and_comes_out(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("echo"))
        data = os.urandom(3 << 20)
        assert (await tenant.finish(data)).status == 0
        assert tenant.output["stdout"] == data

    scenario(test, tmp_path, platform)


def test_a_status_is_the_workloads_own(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("exitcode"), configuration=Configuration(arguments=("42",)))
        assert (await tenant.finish()).status == 42

    scenario(test, tmp_path, platform)


def test_a_trap_is_told_with_its_text(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("trap_named"))
        ended = await tenant.finish()
        assert ended.status == 134
        assert "unreachable" in (ended.trap or "")

    scenario(test, tmp_path, platform)


def test_bytes_that_are_no_module_are_told_of(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(b"\0asm but not really")
        ended = await tenant.finish()
        assert ended.failure is not None
        assert ended.failure.kind == 103
        assert "/proc" not in ended.failure.message

    scenario(test, tmp_path, platform)


def test_a_loop_is_stopped_by_its_time_limit(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("spin"), configuration=Configuration(limits={"timeout-ms": 300}))
        ended = await tenant.finish()
        assert ended.failure is not None
        assert ended.failure.kind == 109

    scenario(test, tmp_path, platform)


def test_stop_ends_a_loop(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("spin"))
        await tenant.send(Stop(10_000))
        ended = await tenant.finish()
        assert ended.status == 128 + signal.SIGTERM
        assert await process.ended() == 0

    scenario(test, tmp_path, platform)


def test_ctrl_c_ends_a_loop(tmp_path, platform):
    async def test(process):
        tenant, _ = await process.provisioned(module("spin"))
        await tenant.send(Signal(2))
        assert (await tenant.finish()).status == 130

    scenario(test, tmp_path, platform)


def test_directories_travel(tmp_path, platform):
    folders = set(os.listdir(ROOT))
    files = TravellingFiles((Directory("/data", True, (Entry(("a", "b.txt"), CANARY.encode()),)),), {})

    async def test(process):
        tenant, _ = await process.provisioned(
            module("cat_file"),
            files=encode_files(files),
            configuration=Configuration(arguments=("/data/a/b.txt",)),
        )
        assert (await tenant.finish()).status == 0
        assert CANARY.encode() in tenant.output["stdout"]
        assert await process.ended() == 0
        assert set(os.listdir(ROOT)) <= folders

    scenario(test, tmp_path, platform)


def test_a_published_port_is_carried(tmp_path, platform):
    toml = ENARX_TOML + b'[[files]]\nkind = "listen"\nname = "web"\nprot = "tcp"\nport = 8080\n'

    async def test(process):
        tenant, _ = await process.provisioned(module("tcp_echo"), toml=toml)
        stream = await process.host.inbound("web")
        await stream.write(b"over the link")
        got = b""
        while len(got) < 13:
            got += await stream.read()
        assert got == b"over the link"
        other = await process.host.inbound("none")
        with pytest.raises(TransportError, match="refused"):
            await other.read()
        await tenant.send(Stop(0))
        await tenant.finish()

    scenario(test, tmp_path, platform)


def test_an_allowed_connection_goes_out_and_another_does_not(tmp_path, platform):
    toml = (
        ENARX_TOML + b'[[files]]\nkind = "connect"\nname = "stream"\nprot = "tcp"\nhost = "peer.example"\nport = 99\n'
    )

    async def peer(stream):
        for _ in range(3):
            line = b"test\n"
            await stream.write(line)
            assert await stream.read() == line
        stream.end()

    async def test(process):
        process.host.outbound = peer
        tenant, _ = await process.provisioned(module("connect_tcp"), toml=toml)
        assert (await tenant.finish()).status == 0
        assert ("outbound", "peer.example", 99) in [(t.kind, t.host, t.port) for t in process.host.opened]

    scenario(test, tmp_path, platform)


def test_detaches_and_attaches(tmp_path, platform):
    async def test(process):
        credential = make_credential()
        tenant, receipt = await process.provisioned(module("echo"), credential)
        await tenant.send(Stdin(b"one"))
        await tenant.until(b"one")
        await tenant.send(Detach())
        # The host dies and another one comes.
        process.host.link.close()
        await process.host.connect()
        stranger = await process.tenant()
        assert isinstance(refusal := await stranger.receive(), Failure)
        assert refusal.kind == 104
        again = await process.tenant(credential)
        attachment, expected = await again.attachment(receipt)
        process.judge(attachment.evidence, attachment.endorsements, expected).require()
        await again.send(Attach(attachment.log_start))
        assert (await again.finish(b"two")).status == 0
        assert again.output["stdout"] == b"onetwo"
        assert await process.ended() == 0

    scenario(test, tmp_path, platform)


def test_gives_nothing_away(tmp_path, platform):
    """Neither arguments, environment nor descriptors of the processes say anything, and they cannot be read or dumped."""

    async def test(process):
        configuration = Configuration(arguments=(CANARY,), environment=(("SECRET", CANARY),))
        tenant, _ = await process.provisioned(module("echo"), configuration=configuration)
        await tenant.send(Stdin(CANARY.encode()))
        await tenant.until(CANARY.encode())
        keep = process.child.pid
        (workload,) = children_of(keep)
        for pid in (keep, workload):
            for name in ("cmdline", "environ"):
                assert CANARY.encode() not in about(pid, name)
            assert b"Max core file size        0                    0" in about(pid, "limits")
            assert b"NoNewPrivs:\t1" in about(pid, "status")
            # An undumpable process's files in /proc are root's.
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0
        links = [os.readlink(f"/proc/{workload}/fd/{fd}") for fd in os.listdir(f"/proc/{workload}/fd")]
        assert not [link for link in links if "/link" in link or "console" in link]
        await tenant.finish(b"")
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes()

    scenario(test, tmp_path, platform)


def test_a_killed_keep_leaves_no_workload(tmp_path, platform):
    async def test(process):
        await process.provisioned(module("spin"))
        process.child.kill()

    scenario(test, tmp_path, platform)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--backend"],
        ["--backend", "nil"],
        ["--backend", "none", "--memory", "1", "--package-limit", "1", "--log", "300000", "--link-fd", "3"],
        ["--backend", "nil", "--memory", "1", "--package-limit", "1", "--log", "300000", "--link-fd", "250"],
        ["--backend", "nil", "--memory", "1", "--package-limit", "1", "--log", "300000", "--link-fd", "x"],
    ],
)
def test_refuses_to_start_with_what_is_no_start(arguments):
    command = [sys.executable, "-I", "-S", str(PACKAGE / "keep" / "__main__.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode in {2, 108}
    assert done.stdout.startswith("enarx keep: cannot start the Keep: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_imports_little():
    """What is measured is small: nothing that judges, fetches, builds images or models is loaded, by either process."""
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path += {paths!r}; import enarx.keep.main, enarx.keep.workload; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    loaded = set(done.stdout.split())
    forbidden = ("verifier", "registry", "endorsers", "image", "emulator", "host", "deploy", "cli", "testing")
    wrong = [name for name in loaded if name.split(".")[:2] in [["enarx", each] for each in forbidden]]
    assert wrong == []
    assert not {"pydantic", "httpx2", "starlette", "uvicorn", "websockets", "joserfc"} & loaded
    assert "enarx.keep.life" in loaded
