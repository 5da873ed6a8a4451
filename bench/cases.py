# SPDX-License-Identifier: Apache-2.0
"""The cases: what enarx and the wasmtime CLI are both made to do, and how far apart they may be.

Each case is a function that yields rows. Both sides of a row run the same module, one after the other in turn, in the same
run of the benchmark, with their caches warm and with the same environment. docs/benchmarks.md says why each is here.
The verifier's cases are in `verifier_cases`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import installs
from timing import BenchError, Command, alternate, cpu_s_of_all, free_port, median, resident_kb, server, tool

GREETING = b"Hello, Enarx!\n"
COMPUTED = b"crc d1469bd6\nmatmul 31058766552\nsieve 2541214\nchase 169264\n"
CONNECTIONS = (16, 64)
GROUP = "X25519MLKEM768"
SHORT_LOAD_S = 1
"""Where `wrk` alone asks: many short turns, since the slow times of a shared machine last for seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often each measurement is repeated, and how long one load lasts.

    Args:
        rounds: measurements per side and row; never under 5.
        short_rounds: the same for what takes a second or less, whose medians need more.
        load_rounds: the same for what is under load for longer.
        load_s: seconds of load per measurement of a server.
        verifications: verdicts of the process whose memory is looked at.
    """

    rounds: int
    short_rounds: int
    load_rounds: int
    load_s: float
    verifications: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result.

    Args:
        name: of the measurement, unique in a run.
        unit: of the values: `ms`, `req/s`, `/s`, `ns`, `MB`.
        ours: values of enarx.
        theirs: values of `peer`, or empty where nothing is compared.
        peer: what the other side is.
        at_most: largest ratio ours/theirs that passes, or None.
        at_least: smallest ratio that passes, or None.
        ours_at_most: largest value of ours that passes, or None.
        aim: the ratio we want, which decides nothing.
        note: one line for the reader.
    """

    name: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    peer: str = ""
    at_most: float | None = None
    at_least: float | None = None
    ours_at_most: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return median(self.ours) / median(self.theirs) if self.theirs else None

    @property
    def is_required(self) -> bool:
        return any(limit is not None for limit in (self.at_most, self.at_least, self.ours_at_most))

    @property
    def is_met(self) -> bool:
        """Whether every limit of this row holds."""
        ratio = self.ratio
        if ratio is None and (self.at_most is not None or self.at_least is not None):
            raise BenchError(f"{self.name}: has a ratio limit and no peer")
        return (
            (self.at_most is None or ratio is None or ratio <= self.at_most)
            and (self.at_least is None or ratio is None or ratio >= self.at_least)
            and (self.ours_at_most is None or median(self.ours) <= self.ours_at_most)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Enarx:
    """The command lines of the installed `enarx` command.

    Args:
        command: its path.
        configs: a directory for the Enarx.toml files of the servers.
    """

    command: str
    configs: Path
    label: str = "enarx"

    def run(self, module: str, *args: str) -> list[str]:
        return [self.command, "run", module, "--", *args] if args else [self.command, "run", module]

    def listen(self, module: str, port: int, prot: str, *args: str) -> list[str]:
        """Run a module whose descriptor 3 is a listening socket, as the Enarx.toml written here says."""
        config = self.configs / f"{prot}-{port}.toml"
        stdio = "".join(f'[[files]]\nkind = "{kind}"\n' for kind in ("stdin", "stdout", "stderr"))
        socket = f'[[files]]\nkind = "listen"\nname = "listen"\nprot = "{prot}"\naddr = "127.0.0.1"\nport = {port}\n'
        config.write_text(stdio + socket)
        line = [self.command, "run", "--wasmcfgfile", str(config), module]
        return [*line, "--", *args] if args else line


@dataclass(frozen=True, slots=True, kw_only=True)
class WasmtimeCli:
    """The command lines of the wasmtime CLI of one major version."""

    major: int
    label: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"wasmtime {self.major}")

    def run(self, module: str, *args: str) -> list[str]:
        return [installs.wasmtime(self.major), "run", module, *args]

    def listen(self, module: str, port: int, *args: str) -> list[str]:
        """Run a module whose descriptor 3 is a listening socket. Versions from 47 on cannot."""
        sockets = f"preview2=n,tcplisten=127.0.0.1:{port}"
        return [installs.wasmtime(self.major), "run", "-S", sockets, module, *args]

    def serve(self, component: str, port: int) -> list[str]:
        return [installs.wasmtime(self.major), "serve", "--addr", f"127.0.0.1:{port}", component]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything a case is given: both sides, the environment of their processes, and the options."""

    enarx: Enarx
    cli: WasmtimeCli
    cli_with_sockets: WasmtimeCli
    env: Mapping[str, str]
    options: Options


Case = Callable[[Bench], Iterator[Row]]


def hello(bench: Bench) -> Iterator[Row]:
    """The shortest whole process."""
    lines = (bench.enarx.run(installs.guest("hello")), bench.cli.run(installs.guest("hello")))
    yield _whole_run(bench, "start: hello in C", lines, GREETING, at_most=3.0, aim=2.3)


def hello_config(bench: Bench) -> Iterator[Row]:
    """The same with an Enarx.toml and a listening socket, to show what those cost."""
    module = installs.guest("hello")
    lines = (bench.enarx.listen(module, free_port(), "tcp"), bench.cli.run(module))
    yield _whole_run(bench, "start: hello in C, with Enarx.toml and a socket", lines, GREETING)


def hello_go(bench: Bench) -> Iterator[Row]:
    """A module of 2 MB that prints one line."""
    lines = (bench.enarx.run(installs.guest("go/hello")), bench.cli.run(installs.guest("go/hello")))
    yield _whole_run(bench, "start: hello in Go", lines, GREETING, at_most=0.6)


def cpython(bench: Bench) -> Iterator[Row]:
    """A module of 26 MB that starts an interpreter."""
    args = (installs.cpython_wasm(), "-c", "print(1)")
    yield _whole_run(bench, "start: CPython", (bench.enarx.run(*args), bench.cli.run(*args)), b"1\n", at_most=0.5)


def compute(bench: Bench) -> Iterator[Row]:
    """The same loops on both sides, start included."""
    module = installs.own_guest("compute")
    lines = (bench.enarx.run(module), bench.cli.run(module))
    yield _whole_run(bench, "compute", lines, COMPUTED, at_most=1.05, aim=1.0)


def http_c(bench: Bench) -> Iterator[Row]:
    """A poll loop in C behind a plain preopened socket."""
    yield from _plain(bench, "HTTP, C", installs.guest("http_poll"), at_least=0.9)


def http_go(bench: Bench) -> Iterator[Row]:
    """Go's net/http behind a plain preopened socket."""
    yield from _plain(bench, "HTTP, Go net/http", installs.guest("go/http"), at_least=0.85)


def https_c(bench: Bench) -> Iterator[Row]:
    """The server of `http-c`, not knowing that its socket is TLS."""
    yield from _tls(bench, "HTTP over TLS, C", installs.guest("http_poll"))


def https_go(bench: Bench) -> Iterator[Row]:
    """The server of `http-go`, not knowing that its socket is TLS."""
    yield from _tls(bench, "HTTP over TLS, Go net/http", installs.guest("go/http"))


def component(bench: Bench) -> Iterator[Row]:
    """A wasi:http component behind enarx's listening socket and behind `wasmtime serve`."""
    module, ports = installs.guest("component/http_hello"), (free_port(), free_port())
    lines = (bench.enarx.listen(module, ports[0], "tcp"), bench.cli.serve(module, ports[1]))
    with _side_by_side(bench, lines, ports) as (ours, theirs):
        for connections in CONNECTIONS:
            loads = [_wrk(side, connections, SHORT_LOAD_S) for side in (ours, theirs)]
            yield _rate_row(
                f"wasi:http component, c={connections}",
                *_alternate_loads(loads, rounds=bench.options.short_rounds),
                peer=f"{bench.cli.label} serve",
                at_least=1.0,
                aim=1.5,
            )


def calls(bench: Bench) -> Iterator[Row]:
    """What one call from WebAssembly into the host costs, on a descriptor that enarx serves in Python."""
    module = installs.own_guest("calls")

    def prints_all(stdout: bytes) -> None:
        if not re.fullmatch(rb"fd_fdstat_get [\d.]+\nfd_prestat_get [\d.]+\n", stdout):
            raise BenchError(f"calls: printed {stdout[:200]!r}, want one line per call")

    peer = bench.cli_with_sockets
    lines = (bench.enarx.listen(module, free_port(), "tcp", "3"), peer.listen(module, free_port(), "3"))
    commands = [Command(argv=argv, env=bench.env, stdout=prints_all) for argv in lines]
    runs = alternate(commands, rounds=bench.options.rounds, warm_up=1)
    for name, limit in (("fd_fdstat_get", 400.0), ("fd_prestat_get", None)):
        values = [[_ns_per_call(run.stdout, name) for run in side] for side in runs]
        yield Row(
            name=f"host call {name}",
            unit="ns",
            ours=values[0],
            theirs=values[1],
            peer=f"{peer.label}, in Rust",
            ours_at_most=limit,
        )


def memory(bench: Bench) -> Iterator[Row]:
    """What an idle server holds: the C server of `http-c`, waiting in poll after its first connection."""
    module = installs.guest("http_poll")
    sides: dict[str, Callable[[int], list[str]]] = {
        "tcp": lambda port: bench.enarx.listen(module, port, "tcp"),
        "tls": lambda port: bench.enarx.listen(module, port, "tls"),
        "cli": lambda port: bench.cli_with_sockets.listen(module, port),
    }
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(bench.options.rounds):
        for side, line in sides.items():
            port = free_port()
            with server(line(port), bench.env, port) as pid:
                found[side].append(resident_kb(pid))
    for side in ("tcp", "tls"):
        for kind, meaning in (("Rss", "resident set"), ("Pss", "proportional set")):
            yield Row(
                name=f"memory of an idle Keep, {side}: {meaning}",
                unit="MB",
                ours=[each[kind] / 1024 for each in found[side]],
                theirs=[each[kind] / 1024 for each in found["cli"]],
                peer=f"{bench.cli_with_sockets.label} tcplisten",
            )


CASES: Mapping[str, Case] = {
    "hello": hello,
    "hello-config": hello_config,
    "hello-go": hello_go,
    "cpython": cpython,
    "compute": compute,
    "http-c": http_c,
    "http-go": http_go,
    "https-c": https_c,
    "https-go": https_go,
    "component": component,
    "calls": calls,
    "memory": memory,
}


def environment(home: Path) -> dict[str, str]:
    """Return the environment of everything measured: caches of this benchmark's own, and nothing inherited but PATH."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "LC_ALL": "C.UTF-8"}


def _whole_run(
    bench: Bench,
    name: str,
    lines: tuple[list[str], list[str]],
    stdout: bytes,
    *,
    at_most: float | None = None,
    aim: float | None = None,
) -> Row:
    """Time our command line and the peer's; the shortest ones more often, as the smallest things differ most."""
    commands = [Command(argv=argv, env=bench.env, stdout=stdout) for argv in lines]
    rounds = bench.options.short_rounds if stdout == GREETING else bench.options.rounds
    ours, theirs = alternate(commands, rounds=rounds)
    cpu = median([run.cpu_s for run in ours]) / median([run.cpu_s for run in theirs])
    return Row(
        name=name,
        unit="ms",
        ours=[run.wall_s * 1000 for run in ours],
        theirs=[run.wall_s * 1000 for run in theirs],
        peer=bench.cli.label,
        at_most=at_most,
        aim=aim,
        note=f"processor time {cpu:.2f}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server that is up."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """A way to put load on a server; `ask` returns requests per second, and takes `load_s`."""

    server: _Server
    ask: Callable[[], float]
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What a load found: requests per second, and the server's processor time per request in microseconds."""

    requests_per_s: Sequence[float]
    cpu_us: Sequence[float]


def _plain(bench: Bench, name: str, module: str, *, at_least: float) -> Iterator[Row]:
    ports, peer = (free_port(), free_port()), bench.cli_with_sockets
    lines = (bench.enarx.listen(module, ports[0], "tcp"), peer.listen(module, ports[1]))
    with _side_by_side(bench, lines, ports) as (ours, theirs):
        for connections in CONNECTIONS:
            loads = [_wrk(side, connections, SHORT_LOAD_S) for side in (ours, theirs)]
            rates = _alternate_loads(loads, rounds=bench.options.short_rounds)
            yield _rate_row(f"{name}, c={connections}", *rates, peer=f"{peer.label} tcplisten", at_least=at_least)


def _tls(bench: Bench, name: str, module: str) -> Iterator[Row]:
    load_s = bench.options.load_s
    ports, peer = (free_port(), free_port()), bench.cli_with_sockets
    lines = (bench.enarx.listen(module, ports[0], "tls"), peer.listen(module, ports[1]))
    with _side_by_side(bench, lines, ports) as (ours, theirs):
        for connections in CONNECTIONS:
            loads = [
                _loadgen(ours, connections, load_s, over_tls=True),
                _loadgen(theirs, connections, load_s, over_tls=False),
                _wrk(theirs, connections, load_s),
            ]
            over_tls, plain, plain_by_wrk = _alternate_loads(loads, rounds=bench.options.load_rounds)
            cross_check = median(plain_by_wrk.requests_per_s) / median(plain.requests_per_s)
            yield _rate_row(
                f"{name}, c={connections}",
                over_tls,
                plain,
                peer=f"{peer.label} tcplisten, plain",
                at_least=0.45,
                note=f"{GROUP}; wrk sees {cross_check:.2f} of the peer's figure",
            )


@contextmanager
def _side_by_side(
    bench: Bench, lines: tuple[list[str], list[str]], ports: tuple[int, int]
) -> Iterator[tuple[_Server, _Server]]:
    """Keep both servers up."""
    with server(lines[0], bench.env, ports[0]) as ours, server(lines[1], bench.env, ports[1]) as theirs:
        yield _Server(port=ports[0], pid=ours), _Server(port=ports[1], pid=theirs)


def _rate_row(
    name: str, ours: _Rates, theirs: _Rates, *, peer: str, at_least: float, aim: float | None = None, note: str = ""
) -> Row:
    cpu = f"processor time per request {median(ours.cpu_us) / median(theirs.cpu_us):.2f}"
    return Row(
        name=name,
        unit="req/s",
        ours=ours.requests_per_s,
        theirs=theirs.requests_per_s,
        peer=peer,
        at_least=at_least,
        aim=aim,
        note=f"{note}; {cpu}" if note else cpu,
    )


def _alternate_loads(loads: Sequence[_Load], *, rounds: int) -> list[_Rates]:
    """Put one load after the other on their servers, `rounds` times after a turn that does not count."""
    rates: list[list[float]] = [[] for _ in loads]
    cpu_us: list[list[float]] = [[] for _ in loads]
    for turn in range(rounds + 1):
        for load, its_rates, its_cpu_us in zip(loads, rates, cpu_us, strict=True):
            before_s = cpu_s_of_all(load.server.pid)
            rate = load.ask()
            used_s = cpu_s_of_all(load.server.pid) - before_s
            if turn:
                its_rates.append(rate)
                its_cpu_us.append(used_s / (rate * load.load_s) * 1e6)
    return [_Rates(requests_per_s=its, cpu_us=used) for its, used in zip(rates, cpu_us, strict=True)]


def _wrk(target: _Server, connections: int, load_s: float) -> _Load:
    argv = [installs.wrk(), "-t1", f"-c{connections}", f"-d{load_s:g}s", f"http://127.0.0.1:{target.port}/"]

    def ask() -> float:
        _get_greeting(target.port)
        text = tool(argv, limit_s=load_s + 30)
        rate = re.search(r"^Requests/sec:\s+([\d.]+)$", text, flags=re.MULTILINE)
        if rate is None or float(rate[1]) == 0 or "Socket errors" in text or "Non-2xx" in text:
            raise BenchError(f"wrk: some requests failed\n{text}")
        return float(rate[1])

    return _Load(server=target, ask=ask, load_s=load_s)


def _loadgen(target: _Server, connections: int, load_s: float, *, over_tls: bool) -> _Load:
    address = f"127.0.0.1:{target.port}"
    argv = [installs.load_generator(), "-addr", address, "-connections", str(connections), "-duration", f"{load_s:g}s"]
    if over_tls:
        argv += ["-tls", "-group", GROUP]

    def ask() -> float:
        return float(json.loads(tool(argv, limit_s=load_s + 60))["requests_per_s"])

    return _Load(server=target, ask=ask, load_s=load_s)


def _get_greeting(port: int) -> None:
    """Check one answer of a server whose load generator looks at the status only."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read(1000)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"server on port {port}: {error!r}, want an answer") from error
    finally:
        connection.close()
    if answer.status != 200 or body.rstrip(b"\n") != GREETING.rstrip(b"\n"):
        raise BenchError(f"server on port {port}: answered {answer.status} {body!r}, want 200 {GREETING!r}")


def _ns_per_call(stdout: bytes, name: str) -> float:
    line = next(line for line in stdout.decode().splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])
