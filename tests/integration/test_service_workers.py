# SPDX-License-Identifier: Apache-2.0
"""The processes of an HTTP service: they share the work, and none outlives the others."""

from __future__ import annotations

import http.client
import os
import signal
import time
from pathlib import Path

import pytest

PEER_S = 10.0
HELLO = b"Hello, Enarx!\n"
PROCESSORS = len(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(PROCESSORS < 2, reason="one processor, so a service is one process")


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until_workers(pid: int) -> list[int]:
    deadline = time.monotonic() + PEER_S
    while len(found := workers_of(pid)) < PROCESSORS - 1:
        assert time.monotonic() < deadline
    return found


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + PEER_S
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        assert time.monotonic() < deadline


def sockets_of(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(entry).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def ask(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PEER_S)
    connection.request("GET", "/")
    assert connection.getresponse().read() == HELLO
    return connection


def test_connections_are_spread_over_the_processes(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0") as started:
        port = started.port("web")
        workers = [started.process.pid, *until_workers(started.process.pid)]
        before = [sockets_of(pid) for pid in workers]
        connections = [ask(port) for _ in range(4 * len(workers))]
        shares = [sockets_of(pid) - count for pid, count in zip(workers, before, strict=True)]
        assert sum(shares) == len(connections)
        assert min(shares) > 0
        for connection in connections:
            connection.close()
        started.end(by=signal.SIGINT)


def test_a_killed_worker_ends_the_service_with_a_word(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0") as started:
        ask(started.port("web")).close()
        workers = until_workers(started.process.pid)
        os.kill(workers[0], signal.SIGKILL)
        ended = started.end(by=0)
        assert ended.status == 109
        assert "worker process: found it ended by signal 9" in ended.stderr
        for pid in workers:
            until_gone(pid)


def test_a_killed_service_leaves_no_worker(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0") as started:
        ask(started.port("web")).close()
        workers = until_workers(started.process.pid)
        assert started.end(by=signal.SIGKILL).status == -signal.SIGKILL
        for pid in workers:
            until_gone(pid)


def test_a_time_limit_ends_all_of_them(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0", "--timeout", "1s") as started:
        started.port("web")
        workers = until_workers(started.process.pid)
        assert started.end(by=0).status == 109
        for pid in workers:
            until_gone(pid)


def test_an_output_limit_keeps_one_process(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0", "--output", "1MiB") as started:
        ask(started.port("web")).close()
        assert workers_of(started.process.pid) == []
        started.end(by=signal.SIGINT)
