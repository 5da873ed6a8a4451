# SPDX-License-Identifier: Apache-2.0
"""A real host with somebody in between: between it and its tenants, and between it and its Keeps.

Whoever is in between records every byte, can stop at one of them, and can cut the connections. What passes is looked at in
pieces: frames of the link, reads of a TCP connection, and two moments of the host's own (`launch` and `launched`). At the
piece that a test waits for, some of it is let through and everything behind it waits, until the test goes on.

Run as a program it is `enarx host serve` that reaches its Keeps through here. Keeps, launcher and tenants are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self
from unittest.mock import patch

WAIT_S = 30.0
HOLD_S = 120.0
POLL_S = 0.01
CARRIED_S = 1.0


class Piece(NamedTuple):
    """What passes.

    Args:
        where: `http`, `link` or `point`.
        to_keep: whether it goes towards the Keep.
        header: of a frame; what a point is called.
        data: as it is.
    """

    where: str
    to_keep: bool
    header: tuple
    data: bytes


def until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> object:
    """Wait until a condition holds, and return what it said."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        select.select((), (), (), POLL_S)
    return found


class Frames:
    """Cuts one direction of a link into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def cut(self, data: bytes) -> Iterator[tuple[tuple, bytes]]:
        """Give the frames that are complete with these bytes, each with its header."""
        import cbor2

        self._data += data
        while len(self._data) >= 2:
            if zeros := (len(self._data) - len(self._data.lstrip(b"\0"))) // 2 * 2:
                # A host that heard no hello for a while, as of a Keep that starts slowly, sends zeros, which are no frame.
                del self._data[:zeros]
                yield ("zeros",), bytes(zeros)
                continue
            size = 2 + int.from_bytes(self._data[:2], "big")
            if len(self._data) < size:
                return
            header = tuple(cbor2.loads(bytes(self._data[2:size])))
            size += header[2] if header[0] == 2 else 0
            if len(self._data) < size:
                return
            frame = bytes(self._data[:size])
            del self._data[:size]
            yield header, frame


class Between:
    """A host that runs, and whoever is in between.

    Args:
        env: of the host's process.
        options: of `enarx host serve`.
    """

    def __init__(self, env: dict[str, str], *options: str) -> None:
        # The path of a socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="enarx-between-"))
        self.state = self.folder / "state"
        self.log = b""
        self.recorded: dict[str, bytearray] = {}
        self.look: Callable[[Piece], int | None] = lambda _: None
        """Is asked about each piece; a number says how many bytes of it pass before everything waits for `go_on`."""
        self.reached = threading.Event()
        self._go = threading.Event()
        self._lock = threading.Lock()
        self._env, self._options = env, options
        self._child: subprocess.Popen[bytes] | None = None
        self._tenants: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._port = 0
        self._tap = socket.socket(socket.AF_UNIX)
        self._tap.bind(str(self.folder / "tap"))
        self._tap.listen(64)
        self._door = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.name = f"127.0.0.1:{self._door.getsockname()[1]}"
        self.url = f"http://{self.name}"
        for listener, serve in ((self._tap, self._serve_host), (self._door, self._serve_tenant)):
            _spawn(self._accept, listener, serve)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.kill_host()
        for pid in self.keep_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for listener in (self._tap, self._door):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()
        # Both ends of each are gone, so that it closes its own.
        for thread in self._serving:
            thread.join(WAIT_S)
        shutil.rmtree(self.folder)

    # --- The host

    @property
    def pid(self) -> int:
        """Of the host."""
        assert self._child is not None
        return self._child.pid

    @property
    def direct(self) -> str:
        """Return the host's address without anybody in between."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start a host on the state directory, and wait until it can be asked."""
        command = [sys.executable, __file__, str(self.folder / "tap"), "--listen", "127.0.0.1:0"]
        command += ["--state", str(self.state), *self._options]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self._child = subprocess.Popen(command, env=self._env, start_new_session=True, **pipes)
        before = len(self.log)
        _spawn(self._read_log, self._child.stderr)
        found = until(
            lambda: re.search(rb"listening on http://\S+:(\d+)\n", self.log[before:]) or self._ended(), "host"
        )
        assert found is not True, self.log
        self._port = int(found[1])

    def revive(self) -> None:
        """Start a host if there is none, as after a test that failed."""
        if self._ended():
            self.start()

    def _ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _read_log(self, stderr: object) -> None:
        with stderr:
            while data := os.read(stderr.fileno(), 1 << 16):
                self.log += data

    def kill_host(self) -> None:
        """Kill the host, as nothing it can prepare for."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(WAIT_S)

    def keep_pids(self, name: str | None = None) -> list[int]:
        """Return the Keep processes of this host, or of one Keep."""
        from enarx.host.process_facts import find_marked

        names = [name] if name else [path.name for path in (self.state / "keeps").glob("*")]
        return [pid for each in names for pid in find_marked(f"-Xenarx-keep={each}".encode())]

    def stored(self) -> dict[str, bytes]:
        """Return every file that the host has, by its path; those that vanish meanwhile are none."""
        found = {}
        # Unlike `rglob`, it goes on where a folder is gone.
        for folder, _, names in os.walk(self.state):
            for path in (Path(folder, name) for name in names):
                with contextlib.suppress(OSError):
                    if path.is_file():
                        found[str(path)] = path.read_bytes()
        return found

    # --- In between

    def go_on(self) -> None:
        """Let pass what waits, and all that follows."""
        self.look = lambda _: None
        self._go.set()

    def hold_at(self, look: Callable[[Piece], int | None]) -> None:
        """Ask about each piece from now on; at the first number, wait."""
        self.reached.clear()
        self._go.clear()

        def once(piece: Piece) -> int | None:
            if self.reached.is_set() or (passing := look(piece)) is None:
                return None
            return passing

        self.look = once

    def cut(self) -> None:
        """Break every connection between tenants and the host, so that both hear of it."""
        with self._lock:
            tenants = list(self._tenants)
        for connection in tenants:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._serving.append(_spawn(serve, connection))

    def _serve_tenant(self, tenant: socket.socket) -> None:
        try:
            host = socket.create_connection(("127.0.0.1", self._port), WAIT_S)
        except OSError:
            tenant.close()
            return
        host.settimeout(None)
        for each in (tenant, host):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._tenants |= {tenant, host}
        self._carry("http", tenant, host, lambda data: [((), data)], lambda data: [((), data)])
        with self._lock:
            self._tenants -= {tenant, host}

    def _serve_host(self, host: socket.socket) -> None:
        from enarx.host.state import connect_link

        # A host that is killed meanwhile, or a Keep that is.
        with contextlib.closing(host), contextlib.suppress(OSError):
            line = b""
            while not line.endswith(b"\n"):
                byte = host.recv(1)
                if not byte:
                    return
                line += byte
            kind, _, what = line.decode().strip().partition(" ")
            if kind == "point":
                self._pass(Piece("point", True, (what,), b"\n"), host)
                return
            with contextlib.closing(connect_link(what)) as keep:
                keep.setblocking(True)
                self._carry("link", host, keep, Frames().cut, Frames().cut)

    def _carry(self, where: str, outer: socket.socket, inner: socket.socket, *cuts: Callable) -> None:
        """Carry both ways until either ends; then close both, as if there were one connection."""
        back = _spawn(self._pump, where, inner, outer, False, cuts[1])
        self._pump(where, outer, inner, True, cuts[0])
        back.join()
        outer.close()
        inner.close()

    def _pump(self, where: str, source: socket.socket, sink: socket.socket, to_keep: bool, cut: Callable) -> None:
        with self._lock:
            kept = self.recorded.setdefault(f"{where} {'to' if to_keep else 'from'} {len(self.recorded)}", bytearray())
        # Whatever breaks one side, the other is told below.
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                for header, piece in cut(data):
                    try:
                        self._pass(Piece(where, to_keep, header, piece), sink)
                    except OSError:
                        # It takes no more. What it said before that comes the other way, and its end behind it.
                        return
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _pass(self, piece: Piece, sink: socket.socket) -> None:
        passing = self.look(piece)
        if passing is None:
            sink.sendall(piece.data)
            return
        sink.sendall(piece.data[:passing])
        self.reached.set()
        self._go.wait(HOLD_S)
        sink.sendall(piece.data[passing:])


def _spawn(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _is_at_end(link: object) -> bool:
    """Return whether the other end of a link says nothing more."""
    if link.closed.is_set():
        return True
    poll = select.poll()
    poll.register(link._fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def main(tap: str, arguments: list[str]) -> int:
    """Be a host that is connected to its Keeps through somebody else."""
    from enarx.cli import main as command
    from enarx.host import hosted
    from enarx.host.launchers import nil, own_process

    def ask(line: str) -> socket.socket:
        asking = socket.socket(socket.AF_UNIX)
        asking.connect(tap)
        asking.sendall(f"{line}\n".encode())
        return asking

    def connect(folder: str) -> socket.socket:
        link = ask(f"link {folder}")
        link.setblocking(False)
        return link

    def start(self: nil.NilLauncher, spec: object, folder: str) -> object:
        for moment in ("launch", "launched"):
            if moment == "launched":
                launched = real_start(self, spec, folder)
            with ask(f"point {moment}") as answer:
                answer.recv(1)
        return launched

    def ended(self: hosted.HostedKeep) -> None:
        # With nobody in between, all that a Keep said is at its host when it ends; here it may be on its way for a moment.
        late = self.__dict__.setdefault("late", time.monotonic() + CARRIED_S)
        if self._link is None or _is_at_end(self._link) or time.monotonic() > late:
            real_ended(self)

    real_start, real_ended = nil.NilLauncher.start, hosted.HostedKeep._process_ended
    # Where there is nothing of that name to be replaced, this fails.
    patch.object(own_process, "connect_link", connect).start()
    patch.object(nil.NilLauncher, "start", start).start()
    patch.object(hosted.HostedKeep, "_process_ended", ended).start()
    return command(["host", "serve", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
