# SPDX-License-Identifier: Apache-2.0
"""The emulated platform of a host measures the process that runs, once, and answers one request on each stream."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from enarx.abi.snp import REPORT_BYTES, parse_report_untrusted
from enarx.emulator.installation import open_installation
from enarx.errors import DecodeError, PlatformError, TransportError
from enarx.host import platform as platform_module
from enarx.host.launchers.nil import DIE_WITH_PARENT
from enarx.host.platform import EmulatedPlatform, answer_platform, package_of_process
from enarx.host.process_facts import start_ticks
from enarx.image import measure_process
from enarx.testing.snp import AT

REQUEST = bytes(range(64))
# Says that it runs, and ends when it is told to.
PROGRAM = "import sys\nprint('runs', flush=True)\nsys.stdin.read()\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("above") / "platform"
    open_installation(str(folder), at=AT)
    return folder


@pytest.fixture
def platform(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "platform", copy_function=shutil.copy2)
    return EmulatedPlatform(str(folder), clock=AT.timestamp)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "source/enarx"
    (folder / "keep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "keep/__main__.py").write_text(PROGRAM)
    return folder


@pytest.fixture
def start():
    running = []

    def start(*command):
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        running.append(process)
        assert process.stdout.readline() == b"runs\n"
        return process.pid, start_ticks(process.pid)

    yield start
    for process in running:
        process.communicate(timeout=30)


def report_of(answered):
    return parse_report_untrusted(answered[4 : 4 + REPORT_BYTES])


def test_measures_the_package_that_the_process_runs(platform, package, start):
    pid, ticks = start("-I", "-S", package / "keep/__main__.py", "--backend", "nil")
    report = report_of(platform.report(REQUEST, pid=pid, start_ticks=ticks))
    assert report.measurement == measure_process(str(package))
    assert report.report_data == REQUEST


def test_understands_what_the_launcher_puts_before_the_program(package, start):
    program = package / "keep/__main__.py"
    assert package_of_process(*start("-I", "-S", "-Xenarx-keep=0123", program)) == str(package)
    bootstrap = "-c" + DIE_WITH_PARENT.format(parent=os.getpid())
    assert package_of_process(*start("-I", "-S", "-Xenarx-keep=0123", bootstrap, program)) == str(package)


def test_measures_once_for_each_process(platform, package, start):
    first = start("-I", "-S", package / "keep/__main__.py")
    before = platform.measure(*first)
    (package / "__init__.py").write_text("changed")
    second = start("-I", "-S", package / "keep/__main__.py")
    assert platform.measure(*first) == before
    assert platform.measure(*second) == measure_process(str(package)) != before


def test_each_process_has_a_report_id_of_its_own(platform, package, start):
    one, other = (start("-I", "-S", package / "keep/__main__.py") for _ in range(2))
    ids = [
        report_of(platform.report(REQUEST, pid=pid, start_ticks=ticks)).report_id for pid, ticks in (one, other, one)
    ]
    assert ids[0] == ids[2] != ids[1]


def test_forgets_the_oldest_measurements(platform, package, start, monkeypatch):
    monkeypatch.setattr(platform_module, "_MAX_REMEMBERED", 1)
    one, other = (start("-I", "-S", package / "keep/__main__.py") for _ in range(2))
    platform.measure(*one)
    platform.measure(*other)
    assert list(platform._measurements) == [other]


@pytest.mark.parametrize(
    "command",
    [
        ("-I", "-S", "-c", PROGRAM, "/somewhere/enarx/keep/__main__.py"),
        ("-c", PROGRAM),
        ("-I", "-S", "-Xutf8", "{package}/keep/__main__.py"),
        ("-I", "-S", "-c" + PROGRAM, "{package}/keep/__main__.py"),
        ("-I", "-S", "-X", "utf8", "{package}/keep/__main__.py"),
        ("-I", "{package}/keep/__main__.py"),
        ("-I", "-S", "{package}/../enarx/keep/other.py"),
    ],
)
def test_refuses_a_process_that_was_started_otherwise(platform, package, start, command):
    (package / "keep/other.py").write_text(PROGRAM)
    pid, ticks = start(*(word.replace("{package}", str(package)) for word in command))
    with pytest.raises(PlatformError, match="want python -I -S"):
        platform.measure(pid, ticks)


def test_refuses_a_relative_program(platform, package, start, monkeypatch):
    monkeypatch.chdir(package.parent)
    with pytest.raises(PlatformError, match="want python -I -S"):
        platform.measure(*start("-I", "-S", "enarx/keep/__main__.py"))


def test_refuses_another_process_of_that_number(platform, package, start):
    pid, ticks = start("-I", "-S", package / "keep/__main__.py")
    with pytest.raises(PlatformError, match="found that it has ended"):
        platform.measure(pid, ticks + 1)


def test_refuses_a_process_that_is_not_there(platform):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=30)
    with pytest.raises(PlatformError, match="No such file"):
        platform.measure(process.pid, 1)


def test_opens_the_platform_once_and_again_when_it_has_to_be_renewed(made, tmp_path):
    times = iter((AT, AT, AT + timedelta(days=400)))
    folder = shutil.copytree(made, tmp_path / "platform", copy_function=shutil.copy2)
    platform = EmulatedPlatform(str(folder), clock=lambda: next(times).timestamp())
    first = platform.open()
    assert platform.open() is first
    assert platform.open().table != first.table


def test_uses_the_users_own_folder(made, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shutil.copytree(made, tmp_path / "enarx/emulated-platform", copy_function=shutil.copy2)
    assert EmulatedPlatform(clock=AT.timestamp).open().root == (made / "ark.der").read_bytes()


class FakeStream:
    """A stream that has these pieces to read; None is a peer that waits."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.did = []

    async def read(self, max_bytes=1 << 18):
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece is None:
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        self.pieces[:0] = [piece[max_bytes:]] if piece[max_bytes:] else []
        return piece[:max_bytes]

    async def write(self, data):
        self.did.append(data)

    def close(self):
        self.did.append("close")

    def reset(self, reason):
        self.did.append(reason)


def run(stream, report=lambda request: b"answer to " + request[:2]):
    async def limited():
        async with asyncio.timeout(20):
            await answer_platform(stream, report)

    asyncio.run(limited())
    return stream.did


@pytest.mark.parametrize("pieces", [(REQUEST,), (REQUEST[:1], REQUEST[1:])])
def test_answers_one_request_on_a_stream(pieces):
    assert run(FakeStream(*pieces)) == [b"answer to \0\1", "close"]


def test_resets_a_stream_whose_request_it_refuses():
    stream = FakeStream(REQUEST[:5])

    def refuse(request):
        assert request == REQUEST[:5]
        raise DecodeError("no")

    with pytest.raises(DecodeError):
        run(stream, refuse)
    assert stream.did == ["refused"]


def test_waits_for_a_request_a_bounded_time(monkeypatch):
    monkeypatch.setattr(platform_module, "REQUEST_WAIT_S", 0.01)
    stream = FakeStream(REQUEST[:5], None)
    with pytest.raises(TransportError, match="found 5 bytes in"):
        run(stream)
    assert stream.did[0] == "timeout"


def test_passes_on_that_a_stream_broke():
    with pytest.raises(TransportError, match="broke"):
        run(FakeStream(TransportError("it broke")))


def test_answers_fast(platform, package, start):
    pid, ticks = start("-I", "-S", package / "keep/__main__.py")
    platform.report(REQUEST, pid=pid, start_ticks=ticks)
    begin = time.perf_counter()
    for _ in range(10):
        platform.report(REQUEST, pid=pid, start_ticks=ticks)
    assert time.perf_counter() - begin < 1
