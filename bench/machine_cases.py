# SPDX-License-Identifier: Apache-2.0
"""The cases of machines and their images: how long until a workload says something, what comes through a port, what a rebuild takes.

Machines are emulated here, so that every instruction of the guest costs several of ours: what is compared is emulated on both sides, by
one QEMU with one command. The image is made by the installed `enarx`. docs/benchmarks.md says why each case is here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import installs
from cases import GREETING, Bench, Case, Row
from installs import MissingError
from machines import BareMachine, Started, bare_machine, elapsed_s, find_machine, overlay
from timing import BenchError, cpu_s, median, now

from enarx.channel.tls import TlsEnd
from enarx.crypto.x509 import make_self_signed
from enarx.image.store import Image, open_image

NAME = "keep-bench"
LEVEL = "3"
"""Of compression: both sides unpack the same, and what is timed of a rebuild is all but this."""

BUILD_LIMIT_S = 900
DEPLOY_LIMIT_S = 240
LOOK_EVERY_S = 0.02
STREAM_BYTES = 32 << 20
CHUNK_BYTES = 1 << 16
EVIDENCE = ("--vm-evidence", "emulated-snp", "--insecure-accept-emulated")
_OWN_GUESTS = Path(__file__).with_name("guests")

# A build in a process of its own, and how much of it was compression.
_REBUILD = """\
import json, sys, time
from enarx.image.tools import Tools
spent, compress = [0.0], Tools.compress
def timed(*arguments):
    began = time.perf_counter()
    try:
        return compress(*arguments)
    finally:
        spent[0] += time.perf_counter() - began
Tools.compress = timed
from enarx.image.build import build_image
build_image("x86_64", name=sys.argv[1], level=int(sys.argv[2]))
print(json.dumps(spent[0]))
"""


def boot(bench: Bench) -> Iterator[Row]:
    """From the start of QEMU to a workload's first output, against the same machine whose first program runs the module."""
    module = installs.guest("hello")
    with _machines(bench) as machines:
        image, env = machines
        extra = overlay((_OWN_GUESTS / "bare_run.py").read_bytes(), {"main.wasm": Path(module).read_bytes()})
        ours: list[float] = []
        theirs: list[float] = []
        cpu: list[list[float]] = [[], []]
        for turn in range(bench.options.load_rounds + 1):
            with _deployed(bench, env, module) as (started, child):
                fd = child.stdout.fileno() if child.stdout else -1
                output = os.read(fd, CHUNK_BYTES)
                mine_s, mine_cpu_s = elapsed_s(started), cpu_s(started.pid)
                while more := os.read(fd, CHUNK_BYTES):
                    output += more
                if output != GREETING or child.wait(DEPLOY_LIMIT_S):
                    raise BenchError(f"boot: printed {output!r}, want {GREETING!r}")
            with bare_machine(image, started.argv, extra) as bare:
                other_s = bare.wait_for(GREETING.strip())
                other_cpu_s = cpu_s(bare.started.pid)
            if turn:
                ours.append(mine_s)
                theirs.append(other_s)
                cpu[0].append(mine_cpu_s)
                cpu[1].append(other_cpu_s)
    yield Row(
        name="from the start of QEMU to a workload's first output",
        unit="s",
        ours=ours,
        theirs=theirs,
        peer="the same machine, whose init runs the module",
        at_most=1.3,
        note=f"emulated; processor time of QEMU {median(cpu[0]) / median(cpu[1]):.2f}",
    )


def stream(bench: Bench) -> Iterator[Row]:
    """Standard streams of a workload in a machine, against the raw port, and against TLS on it with nothing else around."""
    module = installs.own_guest("stream")
    with _machines(bench) as machines:
        image, env = machines
        found: dict[str, list[float]] = {}

        def note(name: str, seconds: float) -> None:
            found.setdefault(name, []).append(STREAM_BYTES / seconds / 1e6)

        program = (_OWN_GUESTS / "bare_port.py").read_bytes()
        for turn in range(bench.options.load_rounds + 1):
            taken: dict[str, float] = {}
            with _deployed(bench, env, module, "out", str(STREAM_BYTES)) as (started, child):
                taken["stdout"] = _drain(child)
            with _deployed(bench, env, module, "in", str(STREAM_BYTES)) as (started, child):
                taken["stdin"] = _fill(child)
            with bare_machine(image, started.argv, overlay(program, {})) as bare:
                taken |= _raw(bare)
            for name, seconds in taken.items():
                if turn:
                    note(name, seconds)
    for way, raw, tls in (("stdout", "from", "tls-from"), ("stdin", "to", "tls-to")):
        name = f"bytes of {way} of a workload in a machine"
        yield Row(name=name, unit="MB/s", ours=found[way], theirs=found[raw], peer="the raw port", at_least=0.8)
        yield Row(
            name=f"{name}, beside TLS",
            unit="MB/s",
            ours=found[way],
            theirs=found[tls],
            peer="the raw port with bare TLS on it",
            note=f"the emulated processor encrypts: bare TLS has {median(found[tls]) / median(found[raw]):.2f} of the raw port",
        )


def rebuild(bench: Bench) -> Iterator[Row]:
    """All of a rebuild but compression, of an unchanged package and after one of its files changed, against zstd -3."""
    with _machines(bench) as machines, _copied_package(bench) as (folder, changed):
        image, env = machines
        python = str(Path(bench.enarx.command).parent / "python")
        archive = bench.enarx.configs / "initramfs.cpio"
        zstd = _zstd()
        archive.write_bytes(_output([zstd, "-dc", "--memory=128MB", image.initramfs]))
        try:
            unchanged: list[float] = []
            after_change: list[float] = []
            theirs: list[float] = []
            for turn in range(bench.options.load_rounds + 1):
                with changed.open("a") as file:
                    file.write(f"# {time.time_ns()}\n")
                times = [_rebuilt(python, folder, env) for _ in range(2)]
                began = time.perf_counter()
                _output([zstd, "-3", "-q", "-c", str(archive)])
                if turn:
                    theirs.append(time.perf_counter() - began)
                    after_change.append(times[0])
                    unchanged.append(times[1])
        finally:
            archive.unlink()
    for name, values in (("of what did not change", unchanged), ("after one file changed", after_change)):
        yield Row(
            name=f"rebuild an image {name}, but for compression",
            unit="ms",
            ours=[value * 1000 for value in values],
            theirs=[value * 1000 for value in theirs],
            peer="zstd -3 of its initramfs",
            at_most=3.0,
            note="the whole process, interpreter and reference values included",
        )


MACHINE_CASES: Mapping[str, Case] = {"boot": boot, "machine-stdio": stream, "rebuild": rebuild}


# --- Machines


@contextmanager
def _machines(bench: Bench) -> Iterator[tuple[Image, dict[str, str]]]:
    """Make an image by the installed command; yield it, and the environment in which it is found.

    Inputs of images are taken from the user's own cache, because there are many megabytes of them.
    """
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("swtpm", "swtpm"), ("zstd", "zstd")):
        if shutil.which(program) is None:
            raise MissingError(f"{program}: not found in PATH, want the Debian package {package}")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    data = str(bench.enarx.configs / "data")
    env = {**bench.env, "XDG_CACHE_HOME": cache, "XDG_DATA_HOME": data, "PATH": os.environ["PATH"]}
    made = subprocess.run(
        [bench.enarx.command, "image", "build", "--name", NAME, "--level", LEVEL],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=BUILD_LIMIT_S, check=False,
    )  # fmt: skip
    if made.returncode:
        raise MissingError(f"enarx image build: {made.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = data
    try:
        yield open_image(NAME), env
    finally:
        if before is None:
            del os.environ["XDG_DATA_HOME"]
        else:
            os.environ["XDG_DATA_HOME"] = before


@contextmanager
def _deployed(
    bench: Bench, env: Mapping[str, str], module: str, *arguments: str
) -> Iterator[tuple[Started, subprocess.Popen[bytes]]]:
    """Deploy into a machine of a host of its own; yield its QEMU as soon as that runs, and the tenant's process."""
    line = [bench.enarx.command, "deploy", module, "--backend", "vm", "--image", NAME, *EVIDENCE]
    line += ["--", *arguments] if arguments else []
    with subprocess.Popen(
        line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as child:
        try:
            deadline = time.monotonic() + DEPLOY_LIMIT_S
            while (started := find_machine()) is None:
                if child.poll() is not None or time.monotonic() > deadline:
                    said = child.stderr.read(4096) if child.stderr else b""
                    raise BenchError(f"deploy: started no machine: {said.decode(errors='replace')}")
                time.sleep(LOOK_EVERY_S)
            yield started, child
            _wait_for_end(started)
        finally:
            child.kill()


def _wait_for_end(started: Started) -> None:
    """Wait until a machine is gone, so that it slows down nothing that is measured later."""
    deadline = time.monotonic() + DEPLOY_LIMIT_S
    while (found := find_machine()) is not None and found.pid == started.pid:
        if time.monotonic() > deadline:
            raise BenchError("deploy: left a machine behind, want none")
        time.sleep(LOOK_EVERY_S)


# --- Streams


def _drain(child: subprocess.Popen[bytes]) -> float:
    """Return how long stdout takes, from its first bytes on."""
    fd = child.stdout.fileno() if child.stdout else -1
    left = STREAM_BYTES - len(os.read(fd, CHUNK_BYTES))
    timed, began = left, time.perf_counter()
    while left > 0 and (data := os.read(fd, CHUNK_BYTES)):
        left -= len(data)
    wall_s = time.perf_counter() - began
    if left or child.wait(DEPLOY_LIMIT_S):
        raise BenchError(f"stdout of a machine: found {left} bytes too few, or status {child.returncode}")
    return wall_s * STREAM_BYTES / timed


def _fill(child: subprocess.Popen[bytes]) -> float:
    """Return how long stdin takes, from the workload's word that it reads to its word how much that was."""
    if child.stdin is None or child.stdout is None or child.stdout.readline() != b"ready\n":
        raise BenchError("stdin of a machine: found no workload that reads")
    began = time.perf_counter()
    for _ in range(STREAM_BYTES // CHUNK_BYTES):
        child.stdin.write(bytes(CHUNK_BYTES))
    child.stdin.close()
    said = child.stdout.readline()
    wall_s = time.perf_counter() - began
    if said != b"%d\n" % STREAM_BYTES or child.wait(DEPLOY_LIMIT_S):
        raise BenchError(f"stdin of a machine: the workload says {said!r} and ended with {child.returncode}")
    return wall_s


def _raw(bare: BareMachine) -> dict[str, float]:
    """Return how long the same bytes take on the port itself, each way, and with a session's TLS on it, in seconds."""
    bare.wait_for(b"port: ready")
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(bare.link)
        port.settimeout(DEPLOY_LIMIT_S)
        times = {}
        for name, letter in (("from", b"d"), ("to", b"u"), ("tls-from", b"D"), ("tls-to", b"U")):
            port.sendall(letter + b"%016d" % STREAM_BYTES)
            wire = _Wire(port, TlsEnd.for_tenant(make_self_signed(at=now())) if letter.isupper() else None)
            times[name] = _take(wire) if letter in b"dD" else _give(wire)
        return times


class _Wire:
    """A port's host end, with TLS or without.

    Args:
        port: connected.
        tls: of a session, or None; the handshake is made here.
    """

    def __init__(self, port: socket.socket, tls: TlsEnd | None) -> None:
        self._port, self._tls = port, tls
        self._buffer = bytearray(CHUNK_BYTES)
        while tls is not None and not tls.established:
            port.sendall(tls.take_output())
            tls.receive(port.recv(CHUNK_BYTES))
        if tls is not None:
            port.sendall(tls.take_output())

    def receive(self) -> int:
        """Take some bytes, and return how many there were."""
        if self._tls is None:
            return self._port.recv_into(self._buffer)
        while not (data := self._tls.read()):
            count = self._port.recv_into(self._buffer)
            if not count:
                return 0
            self._tls.receive(memoryview(self._buffer)[:count])
        return len(data)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        if self._tls is not None:
            self._tls.write(data)
            data = self._tls.take_output()
        self._port.sendall(data)


def _take(wire: _Wire) -> float:
    left = STREAM_BYTES - wire.receive()
    timed, began = left, time.perf_counter()
    while left > 0 and (count := wire.receive()):
        left -= count
    if left:
        raise BenchError(f"raw port: found {left} bytes too few")
    return (time.perf_counter() - began) * STREAM_BYTES / timed


def _give(wire: _Wire) -> float:
    block = bytes(CHUNK_BYTES)
    if wire.receive() != 1:
        raise BenchError("raw port: found no program that reads")
    began = time.perf_counter()
    for _ in range(STREAM_BYTES // CHUNK_BYTES):
        wire.send(block)
    if wire.receive() != 1:
        raise BenchError("raw port: found no word that all was read")
    return time.perf_counter() - began


# --- Rebuilding


@contextmanager
def _copied_package(bench: Bench) -> Iterator[tuple[str, Path]]:
    """Copy the installed package; yield the folder that it is in, and one of its files, which may be changed."""
    (package,) = Path(bench.enarx.command).parents[1].glob("lib/python3.*/site-packages/enarx")
    folder = bench.enarx.configs / "rebuilt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(package, folder / "enarx")
    try:
        yield str(folder), folder / "enarx/keep/session.py"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rebuilt(python: str, folder: str, env: Mapping[str, str]) -> float:
    """Return how long a build takes as a process, without its compression, in seconds."""
    began = time.perf_counter()
    said = _output([python, "-c", _REBUILD, f"{NAME}-rebuilt", LEVEL], env={**env, "PYTHONPATH": folder})
    wall_s = time.perf_counter() - began
    compression_s: float = json.loads(said)
    return wall_s - compression_s


def _zstd() -> str:
    found = shutil.which("zstd")
    if found is None:
        raise MissingError("zstd: not found in PATH, want the Debian package zstd")
    return found


def _output(line: Sequence[str], env: Mapping[str, str] | None = None) -> bytes:
    done = subprocess.run(
        line, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=BUILD_LIMIT_S, check=False
    )
    if done.returncode:
        raise BenchError(f"{line[0]}: ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout
