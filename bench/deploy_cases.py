# SPDX-License-Identifier: Apache-2.0
"""The cases of deploying: what attesting, starting, carrying and provisioning cost beside what cannot be done without.

`attest` runs both sides of a session in the benchmark's own process. The others have a real host, of the installed `enarx`, with
Keeps on the emulated platform; both sides of a row are up at once and take turns. docs/benchmarks.md says why each case is here.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import installs
import sessions
import tls_peer
import verdicts
from cases import GREETING, Bench, Case, Row
from OpenSSL import SSL
from timing import (
    BenchError,
    Command,
    Run,
    cpu_s_of_all,
    free_port,
    median,
    now,
    resident_kb,
    run_once,
    server,
)
from verdicts import Side

from enarx.channel.session import Session
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.deploy.attesting import Judge, attest
from enarx.deploy.host_client import HostClient, parse_address
from enarx.deploy.package import Package, load_package
from enarx.deploy.policy import TenantPolicy
from enarx.deploy.provisioning import provision
from enarx.deploy.reference import POLICY_NAME, default_policy
from enarx.deploy.sealing import seal_blobs
from enarx.endorsers.emulated_root import read_emulated_root
from enarx.image import measure_process

EMULATED = "--insecure-accept-emulated"
N_MEETINGS = 10
"""Sessions in a row before it is the bare side's turn."""

STREAM_BYTES = 256 << 20
BACKED_BYTES = 768 << 20
"""More than the pages that sockets use for a turn's bytes on their way through four processes."""
PACKAGE_BYTES = 100_000_000
N_KEEPS = 20
KEEP_BYTES = 64 << 20
READY_LIMIT_S = 60
STREAM_LIMIT_S = 120
# What a tenant's process and a Keep's have loaded when a workload runs.
TENANT = (
    "import enarx.cli.deploy, enarx.deploy.deploying, enarx.deploy.attesting, enarx.deploy.folder, enarx.deploy.policy, "
    "enarx.deploy.provisioning, enarx.deploy.receipt, enarx.deploy.sealing, enarx.deploy.session, "
    "enarx.deploy.socket_stream, enarx.deploy.stdio"
)
KEEP = "import site; site.main(); import enarx.keep.main"


def attest_case(bench: Bench) -> Iterator[Row]:
    """Attest, appraise and seal, warm, against the cryptography in it."""
    folder = bench.enarx.configs / "attest"
    shutil.rmtree(folder, ignore_errors=True)
    meeting = sessions.Meeting(folder, installs.guest("hello"))
    bare = sessions.BareCryptography(meeting.release_bytes)
    with sessions.event_loop() as loop, verdicts.one_core():

        def meet() -> int:
            for _ in range(N_MEETINGS):
                loop.run_until_complete(meeting.meet())
            return N_MEETINGS

        def run_bare() -> int:
            for _ in range(N_MEETINGS):
                bare.run()
            return N_MEETINGS

        ours, theirs = _times([Side(work=meet), Side(work=run_bare)], rounds=bench.options.rounds)
    yield Row(
        name="attest, appraise and seal, warm",
        unit="ms",
        ours=[each.wall_s * 1000 for each in ours],
        theirs=[each.wall_s * 1000 for each in theirs],
        peer="bare: TLS 1.3 handshake, P-384 sign and verify, HPKE seal and open",
        at_most=3.0,
        note=f"{meeting.n_findings} findings; {_cpu(ours, theirs)}",
    )


def deploy_hello(bench: Bench) -> Iterator[Row]:
    """A whole deployment to a host that is up, against the imports of both processes and the run."""
    python = str(Path(bench.enarx.command).parent / "python")
    module = installs.guest("hello")
    with _host(bench) as host:
        commands = [
            Command(argv=host.deploy(module), env=bench.env, stdout=GREETING),
            Command(argv=[python, "-c", TENANT], env=bench.env, stdout=b""),
            Command(argv=[python, "-I", "-S", "-c", KEEP], env=bench.env, stdout=b""),
            Command(argv=bench.enarx.run(module), env=bench.env, stdout=GREETING),
        ]
        runs: list[list[Run]] = [[] for _ in commands]
        host_cpu_s: list[float] = []
        for turn in range(bench.options.short_rounds + 2):
            before_s = cpu_s_of_all(host.pid)
            for index, command in enumerate(commands):
                run = run_once(command)
                # The Keep of a deployment ends after the tenant has; it must not slow down the next measurement.
                host.wait_empty()
                if turn > 1:
                    runs[index].append(run)
            if turn > 1:
                host_cpu_s.append(cpu_s_of_all(host.pid) - before_s)
    ours, *parts = runs
    sums = [[sum(each) for each in zip(*([getattr(run, name) for run in part] for part in parts), strict=True)]
            for name in ("wall_s", "cpu_s")]  # fmt: skip
    cpu = (median([run.cpu_s for run in ours]) + sum(host_cpu_s) / len(host_cpu_s)) / median(sums[1])
    shares = ", ".join(
        f"{what} {median([run.wall_s for run in part]) * 1000:.0f}"
        for what, part in zip(("tenant", "Keep", "run"), parts, strict=True)
    )
    yield Row(
        name="deploy hello to a running host",
        unit="ms",
        ours=[run.wall_s * 1000 for run in ours],
        theirs=[value * 1000 for value in sums[0]],
        peer="imports of the tenant, imports of the Keep, and enarx run",
        at_most=1.5,
        note=f"{shares}; processor time, with host and Keep, {cpu:.2f}",
    )


def port(bench: Bench) -> Iterator[Row]:
    """A published port, whose TLS ends in the Keep, against the same connection without any of that."""
    module = installs.own_guest("stream")
    with _host(bench) as host, _bare() as bare:
        published = free_port()
        line = host.deploy(module, "--listen", f"data=tls:{published}", "--", "serve", str(STREAM_BYTES))
        with server(line, bench.env, published):
            _wait_for_workload(published)
            for way, meaning in ((b"d", "from"), (b"u", "to")):
                sides = [_connection(published, way), _connection(bare.port, way)]
                ours, theirs = _times(sides, rounds=bench.options.rounds, others=(host.pid, bare.pid))
                name = f"bytes {meaning} a workload by its published port"
                yield _rate_row(name, ours, theirs, at_least=0.55, note=_cpu(ours, theirs))


def stdio(bench: Bench) -> Iterator[Row]:
    """Standard streams through Keep, host and tenant against one bare TLS connection."""
    module = installs.own_guest("stream")
    with _host(bench) as host, _bare() as bare:
        for name, work, way in (("stdout", _read_stdout, b"d"), ("stdin", _write_stdin, b"u")):
            line = host.deploy(module, "--", "out" if way == b"d" else "in", str(STREAM_BYTES))
            ours: list[_Time] = []
            theirs: list[_Time] = []
            for turn in range(bench.options.load_rounds + 1):
                mine = work(line, bench.env)
                host.wait_empty()
                ((other,),) = _times([_connection(bare.port, way)], rounds=1, warm_up=0)
                if turn:
                    ours.append(mine)
                    theirs.append(other)
            yield _rate_row(f"bytes of {name} through the whole chain", ours, theirs, at_least=0.3)


def provisioning(bench: Bench) -> Iterator[Row]:
    """A package of 100 MB from the release to the judged receipt, against reading it with SHA-256 on both sides."""
    module = bench.enarx.configs / "large.wasm"
    plaintext = _large_module(Path(installs.guest("hello")).read_bytes())
    module.write_bytes(plaintext)
    package = load_package(str(module))
    ciphertext = b"".join(seal_blobs({"main.wasm": plaintext})["main.wasm"].segments)
    ours: list[float] = []
    sealing: list[float] = []
    theirs: list[float] = []
    with _host(bench) as host:
        tenant = _Tenant(bench, host)
        for turn in range(bench.options.rounds + 1):
            sealed_s, provisioned_s = asyncio.run(tenant.provision(package))
            host.wait_empty()
            began = time.perf_counter()
            hashlib.sha256(ciphertext).digest()
            hashlib.sha256(plaintext).digest()
            if turn:
                theirs.append((time.perf_counter() - began) * 1000)
                ours.append(provisioned_s * 1000)
                sealing.append(sealed_s * 1000)
    module.unlink()
    peer = "SHA-256 of the ciphertext and of the plaintext"
    both = [sum(pair) for pair in zip(ours, sealing, strict=True)]
    yield Row(name="provision a package of 100 MB", unit="ms", ours=ours, theirs=theirs, peer=peer, at_most=3.0)
    yield Row(name="encrypt and provision a package of 100 MB", unit="ms", ours=both, theirs=theirs, peer=peer)


def keeps(bench: Bench) -> Iterator[Row]:
    """How long it takes to have twenty Keeps, and what one holds."""
    started: list[float] = []
    found: dict[str, list[float]] = {"Rss": [], "Pss": []}
    deployed: dict[str, list[float]] = {"Rss": [], "Pss": []}
    alone: dict[str, list[float]] = {"Rss": [], "Pss": []}
    for _ in range(bench.options.rounds):
        with _host(bench) as host:
            before = resident_kb(host.pid)
            started.append(asyncio.run(_start_keeps(host.url)) * 1000)
            after = resident_kb(host.pid)
            host.end_all()
            last = resident_kb(host.pid)
            published = free_port()
            subprocess.run(
                host.deploy(installs.guest("http_poll"), "--detach", "--listen", f"http=tls:{published}"),
                env=bench.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=READY_LIMIT_S, check=True,
            )  # fmt: skip
            running = resident_kb(host.pid)
            for kind, values in found.items():
                alone[kind].append(before[kind] / 1024)
                values.append((after[kind] - before[kind]) / N_KEEPS / 1024)
                deployed[kind].append((running[kind] - last[kind]) / 1024)
            host.end_all()
    yield Row(name=f"from nothing to {N_KEEPS} Keeps at once", unit="ms", ours=started)
    for kind, meaning in (("Rss", "resident set"), ("Pss", "proportional set")):
        yield Row(name=f"memory of a host without Keeps: {meaning}", unit="MB", ours=alone[kind])
        yield Row(name=f"memory of each of {N_KEEPS} empty Keeps: {meaning}", unit="MB", ours=found[kind])
        yield Row(name=f"memory of a Keep whose server is idle: {meaning}", unit="MB", ours=deployed[kind])


DEPLOY_CASES: Mapping[str, Case] = {
    "attest": attest_case,
    "deploy-hello": deploy_hello,
    "port": port,
    "stdio": stdio,
    "provision": provisioning,
    "keeps": keeps,
}


# --- Time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Time:
    """Wall and, where it was taken, processor time of one piece of work, in seconds."""

    wall_s: float
    cpu_s: float = 0.0


def _times(sides: Sequence[Side], *, rounds: int, warm_up: int = 1, others: Sequence[int] = ()) -> list[list[_Time]]:
    """Time sides in turn; what a turn takes is divided by what `work` returns.

    Args:
        sides: what is timed.
        rounds: that count.
        warm_up: rounds before that do not.
        others: processes whose processor time counts beside this one's, with all their descendants.
    """
    times: list[list[_Time]] = [[] for _ in sides]
    for turn in range(rounds + warm_up):
        for side, its_times in zip(sides, times, strict=True):
            side.prepare()
            others_s = sum(map(cpu_s_of_all, others))
            cpu_s, began = time.process_time(), time.perf_counter()
            count = side.work()
            wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
            others_s = sum(map(cpu_s_of_all, others)) - others_s
            if turn >= warm_up:
                its_times.append(_Time(wall_s=wall_s / count, cpu_s=(cpu_s + others_s) / count))
    return times


def _cpu(ours: Sequence[_Time], theirs: Sequence[_Time]) -> str:
    return f"processor time {median([each.cpu_s for each in ours]) / median([each.cpu_s for each in theirs]):.2f}"


def _rate_row(name: str, ours: Sequence[_Time], theirs: Sequence[_Time], *, at_least: float, note: str = "") -> Row:
    return Row(
        name=name,
        unit="MB/s",
        ours=[STREAM_BYTES / each.wall_s / 1e6 for each in ours],
        theirs=[STREAM_BYTES / each.wall_s / 1e6 for each in theirs],
        peer="one bare TLS connection",
        at_least=at_least,
        note=note,
    )


# --- Hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """A host that is up."""

    bench: Bench
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, module: str, *arguments: str) -> list[str]:
        return [self.bench.enarx.command, "deploy", module, "--to", self.url, EMULATED, *arguments]

    def wait_empty(self) -> None:
        """Wait until every Keep has ended."""
        deadline = time.monotonic() + READY_LIMIT_S
        while self._running():
            if time.monotonic() > deadline:
                raise BenchError(f"a Keep runs on {READY_LIMIT_S} s after it was done")
            time.sleep(0.02)

    def end_all(self) -> None:
        """End every Keep."""
        for identifier in self._running():
            self._ask("DELETE", f"/v1/keeps/{identifier}")
        self.wait_empty()

    def _running(self) -> list[str]:
        found = self._ask("GET", "/v1/keeps")["keeps"]
        return [keep["id"] for keep in found if keep["state"] in {"starting", "ready"}]

    def _ask(self, method: str, path: str) -> dict[str, list[dict[str, str]]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read(1 << 20)
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchError(f"host: {method} {path}: answered {answer.status} {body[:200]!r}")
        found: dict[str, list[dict[str, str]]] = json.loads(body)
        return found


@contextmanager
def _host(bench: Bench) -> Iterator[_Host]:
    """Keep a host up; its Keeps end with it."""
    state, at = bench.enarx.configs / "host", free_port()
    shutil.rmtree(state, ignore_errors=True)
    line = [
        bench.enarx.command,
        "host",
        "serve",
        "--listen",
        f"127.0.0.1:{at}",
        "--state",
        str(state),
        "--drain",
        "stop",
    ]
    with server(line, bench.env, at, asked=True) as pid:
        yield _Host(bench=bench, pid=pid, port=at)


async def _start_keeps(url: str) -> float:
    async with HostClient(parse_address(url)) as client:
        began = time.perf_counter()
        await asyncio.gather(
            *(client.create_keep(backend="nil", memory_bytes=KEEP_BYTES, ports=()) for _ in range(N_KEEPS))
        )
        return time.perf_counter() - began


# --- Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bare:
    """The bare TLS server."""

    pid: int
    port: int


@contextmanager
def _bare() -> Iterator[_Bare]:
    """Keep the bare TLS server up."""
    at = free_port()
    line = [sys.executable, str(Path(__file__).with_name("tls_peer.py")), str(at), str(STREAM_BYTES)]
    with server(line, os.environ, at) as pid:
        yield _Bare(pid=pid, port=at)


def _connection(at: int, way: bytes) -> Side:
    """Carry STREAM_BYTES over a connection that is made before."""
    made: list[tls_peer.Peer] = []

    def prepare() -> None:
        _back_memory()
        # Once without the clock, until both ends have a core of their own.
        carry(_connect(at))
        made.append(_connect(at))

    def work() -> int:
        carry(made.pop())
        return 1

    def carry(peer: tls_peer.Peer) -> None:
        try:
            peer.say(way)
            if way == b"d":
                peer.take(STREAM_BYTES)
            else:
                peer.send(STREAM_BYTES)
                peer.hear()
        except OSError as error:
            raise BenchError(f"port {at}: {error}") from error
        finally:
            peer.close()

    return Side(work=work, prepare=prepare)


def _back_memory() -> None:
    """Touch memory and give it back, so that the kernel has pages at hand that its hypervisor has not taken.

    What a virtual machine leaves free for seconds may be reported to its hypervisor and taken; the first touch of such a page
    then costs many times what carrying its bytes does.
    """
    program = f"import mmap; mmap.mmap(-1, {BACKED_BYTES}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"
    # Not in this process, which would be one that computes for the scheduler, and share its core with whom it talks to.
    subprocess.run([sys.executable, "-S", "-c", program], check=True, timeout=60)


def _connect(at: int) -> tls_peer.Peer:
    try:
        peer = tls_peer.connect(at)
    except (OSError, SSL.Error) as error:
        raise BenchError(f"port {at}: {error!r}, want a TLS connection") from error
    if peer.group != tls_peer.GROUP.decode():
        raise BenchError(f"port {at}: found {peer.group}, want {tls_peer.GROUP.decode()}")
    return peer


def _wait_for_workload(at: int) -> None:
    """Wait until a workload answers at its port, which is published before it runs."""
    deadline = time.monotonic() + READY_LIMIT_S
    while True:
        try:
            _connect(at).close()
        except BenchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _read_stdout(line: list[str], env: Mapping[str, str]) -> _Time:
    """Time stdout from its first bytes on, so that the deployment before them is not in it."""
    with _process(line, env) as child:
        fd = child.stdout.fileno() if child.stdout else -1
        left = STREAM_BYTES - len(os.read(fd, 65536))
        timed, began = left, time.perf_counter()
        while left > 0 and (data := os.read(fd, 65536)):
            left -= len(data)
        wall_s = time.perf_counter() - began
        if left or child.wait(STREAM_LIMIT_S):
            raise BenchError(f"stdout: found {left} bytes too few, or status {child.returncode}")
    return _Time(wall_s=wall_s * STREAM_BYTES / timed)


def _write_stdin(line: list[str], env: Mapping[str, str]) -> _Time:
    """Time stdin from the workload's word that it reads to its word how much it read."""
    block = b"x" * 65536
    with _process(line, env) as child:
        if child.stdin is None or child.stdout is None or child.stdout.readline() != b"ready\n":
            raise BenchError("stdin: found no workload that reads")
        began = time.perf_counter()
        for _ in range(STREAM_BYTES // len(block)):
            child.stdin.write(block)
        child.stdin.close()
        said = child.stdout.readline()
        wall_s = time.perf_counter() - began
        if said != b"%d\n" % STREAM_BYTES or child.wait(STREAM_LIMIT_S):
            raise BenchError(f"stdin: the workload says {said!r} and ended with {child.returncode}")
    return _Time(wall_s=wall_s)


@contextmanager
def _process(line: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as child:
        try:
            yield child
        finally:
            child.kill()


# --- Packages


def _large_module(small: bytes) -> bytes:
    """Add a section of bytes that nothing executes, until the module is as large as it shall be."""
    name = b"\x05bytes"
    size = PACKAGE_BYTES - len(small) - 6
    return small + b"\x00" + _leb128(size) + name + os.urandom(size - len(name))


def _leb128(value: int) -> bytes:
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


class _Tenant:
    """Deploys by the functions that `enarx deploy` calls, one by one, and times two of them."""

    def __init__(self, bench: Bench, host: _Host) -> None:
        self._host = host
        prefix = Path(bench.enarx.command).parents[1]
        (package,) = prefix.glob("lib/python3.*/site-packages/enarx")
        made = default_policy({"process": measure_process(str(package))})
        self._policy = TenantPolicy(policy=made.policy, text=made.text.encode(), name=POLICY_NAME)
        self._home = Path(bench.env["HOME"])

    def _judge(self) -> Judge:
        root = read_emulated_root(str(self._home / ".local/share/enarx/emulated-platform"))
        if root is None:
            raise BenchError("the host has made no emulated platform")
        policy = self._policy.accepting({hashlib.sha256(root).digest()})
        return Judge(policy, now=now)

    async def provision(self, package: Package) -> tuple[float, float]:
        """Return how long encrypting and provisioning took, in seconds."""
        began = time.perf_counter()
        blobs = seal_blobs(package.plaintexts)
        sealed_s = time.perf_counter() - began
        credential: Credential = make_self_signed(at=now())
        async with HostClient(parse_address(self._host.url)) as client:
            keep = await client.create_keep(backend="nil", memory_bytes=package.memory_bytes, ports=())
            session = await Session.handshake(await client.open_session(keep.id), credential, "tenant")
            judge = self._judge()
            attested = await attest(session, judge)
            began = time.perf_counter()
            await provision(
                session, attested, package, blobs, judge=judge, host=client, keep_id=keep.id, time_ns=time.time_ns()
            )
            provisioned_s = time.perf_counter() - began
            await session.close()
            await client.delete_keep(keep.id)
        return sealed_s, provisioned_s
