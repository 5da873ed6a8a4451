# SPDX-License-Identifier: Apache-2.0
"""The examples of languages: each is built from a copy of its folder, runs under `nil` and in an emulated Keep, and is its source.

A language is a folder of `examples/languages` with a file `build`. What was seen of it is left in `build/languages/rows`, from
which `make docs` writes the table of docs/languages.md.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hosting import HostProcess
from tests.integration.certificates import client
from tests.integration.test_deploy import Host
from tests.integration.test_deploy_sockets import listening, published

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "examples" / "languages"
ROWS = TOP / "build" / "languages" / "rows"
LANGUAGES = sorted(path.parent.name for path in EXAMPLES.glob("*/build"))

UNAVAILABLE = 69
BUILD_S = 1200.0
# A Keep compiles the module itself, on a processor that others may use.
KEEP_S = 300.0
STARTS = 5

GREETING, OTHER_GREETING = "Hello from ", "Good evening from "
INPUT = b"one line\nanother one\nand the rest"
INPUT_LINES = 2
POEM = (EXAMPLES / "poem.txt").read_text().splitlines()[0]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Built(NamedTuple):
    """An example that was built."""

    language: str
    sources: Path
    package: Path
    seconds: float

    @property
    def script(self) -> list[str]:
        """The argument that an interpreter needs first."""
        return tomllib.loads((self.package / "Enarx.toml").read_text()).get("args", [])

    @property
    def name(self) -> str:
        readme = (EXAMPLES / self.language / "README.md").read_text()
        return next(line for line in readme.splitlines() if line.startswith("# ")).removeprefix("# ")


def record(language, part, **facts):
    """Leave what was seen for the table."""
    ROWS.mkdir(parents=True, exist_ok=True)
    unfinished = ROWS / f".{language}.{part}.{os.getpid()}"
    unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    unfinished.replace(ROWS / f"{language}.{part}.json")


def run_build(sources, package):
    """Build an example as its Makefile does; one that cannot be built here is skipped, and marked so in the table."""
    began = time.monotonic()
    done = subprocess.run(
        [sources / "build", package],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode == UNAVAILABLE:
        reason = done.stdout.strip().splitlines()[-1].removeprefix("build: ")
        for part in ("program", "server"):
            record(sources.name, part, unavailable=reason)
        pytest.skip(reason)
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began


@pytest.fixture(scope="module", params=LANGUAGES)
def built(request, tmp_path_factory):
    """A copy of an example, in a place where only its tools and their caches are the project's."""
    top = tmp_path_factory.mktemp(request.param)
    examples = top / "examples" / "languages"
    examples.mkdir(parents=True)
    (TOP / "build").mkdir(exist_ok=True)
    for name in ("build", ".venv"):
        (top / name).symlink_to(TOP / name)
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, examples)
    sources = examples / request.param
    shutil.copytree(EXAMPLES / request.param, sources)
    package = top / "package"
    seconds = run_build(sources, package)
    return Built(request.param, sources, package, seconds)


@pytest.fixture(scope="module")
def host(enarx, tmp_path_factory):
    with HostProcess(tmp_path_factory.mktemp("host"), stub=False, env=enarx.env) as running:
        yield Host(url=running.url, enarx=enarx)


def said(greeting, name, *, arguments, variable):
    """Return what the program says, in whatever language."""
    lines = (
        f"{greeting}{name}!",
        f"arguments: {' '.join(arguments)}",
        f"NAME={variable}",
        f"stdin: {len(INPUT)} bytes, {INPUT_LINES} lines",
        f"poem: {POEM}",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def require_said(ended, status, said):
    assert (ended.status, ended.stdout) == (status, said), (ended.stdout, ended.stderr)


def edit_greeting(sources):
    """Change the one literal of the program's source that is its greeting."""
    found = [
        path
        for path in sources.rglob("*")
        if path.is_file() and "server" not in str(path.relative_to(sources)) and path.suffix != ".md"
        if GREETING.encode() in path.read_bytes()
    ]
    assert len(found) == 1, found
    text = found[0].read_text()
    assert text.count(GREETING) == 1
    found[0].write_text(text.replace(GREETING, OTHER_GREETING))


def test_runs_alike_everywhere_and_is_its_source(enarx, host, built):
    name, package, script = built.name, built.package, built.script
    record(built.language, "program", failed="the last test run did not get to its end")

    words = ["one", "two words"]
    ended = enarx.run(package, "--", *script, *words, stdin=INPUT, timeout_s=KEEP_S)
    require_said(ended, 0, said(GREETING, name, arguments=words, variable="Enarx"))
    ended = enarx.run(package, "--env", "NAME=Somebody", "--", *script, "fail", stdin=INPUT)
    require_said(ended, 3, said(GREETING, name, arguments=["fail"], variable="Somebody"))

    seconds = []
    for _ in range(STARTS):
        ended = enarx.run(package, "--", *script, *words, stdin=INPUT)
        require_said(ended, 0, said(GREETING, name, arguments=words, variable="Enarx"))
        seconds.append(ended.seconds)

    # Another directory in the place of the package's: what is read is a file, and nothing that was built in.
    (package / "data" / "poem.txt").write_text("another poem\n")
    ended = enarx.run(package, "--", *script, stdin=INPUT)
    assert ended.stdout.endswith(b"\npoem: another poem\n"), ended.stderr
    shutil.copy(EXAMPLES / "poem.txt", package / "data")

    # Once for all: each Keep compiles the module itself.
    ended = host.deploy(package, "--", *script, "fail", "two words", stdin=INPUT, timeout_s=KEEP_S)
    require_said(ended, 3, said(GREETING, name, arguments=["fail", "two words"], variable="Enarx"))

    edit_greeting(built.sources)
    changed = package.with_name("changed")
    again_s = run_build(built.sources, changed)
    ended = enarx.run(changed, "--", *script, *words, stdin=INPUT, timeout_s=KEEP_S)
    require_said(ended, 0, said(OTHER_GREETING, name, arguments=words, variable="Enarx"))

    record(
        built.language,
        "program",
        nil=True,
        keep=True,
        module_bytes=(package / "main.wasm").stat().st_size,
        build_s=round(again_s, 1),
        start_ms=round(1000 * statistics.median(seconds)),
    )


def require_answer(port, prot, name):
    """Ask thrice: a server that answers once may have lost its socket."""
    for _ in range(3):
        # A Keep's port is there before its module is compiled, so the first answer may take as long as that.
        sock = socket.create_connection(("127.0.0.1", port), KEEP_S)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = client().wrap_socket(sock) if prot == "tls" else sock
        with contextlib.closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, f"{GREETING}{name}!\n".encode())


def test_serves_on_a_socket_that_it_finds_open(enarx, host, built):
    module = built.package / "server.wasm"
    if not module.exists():
        record(built.language, "server", none=True)
        assert "There is no server" in (EXAMPLES / built.language / "README.md").read_text(), (
            "the README says why there is none"
        )
        pytest.skip(f"{built.language}: the example has no server; its README says why")
    record(built.language, "server", failed="the last test run did not get to its end")
    with enarx.start(module, "--listen", "web=tcp:0") as started:
        # It listens when it was compiled, which takes long for the largest.
        port = int(started.until_stderr(rb"listening on tcp://\S+:(\d+) \(web\)\n", KEEP_S)[1])
        require_answer(port, "tcp", built.name)
        assert started.end(by=signal.SIGINT).status == 130
    with published(host, *listening("tls", name="web"), module, name="web") as port:
        require_answer(port, "tls", built.name)
    record(built.language, "server", nil=True, keep=True)
