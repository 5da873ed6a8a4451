# SPDX-License-Identifier: Apache-2.0
"""A host process for tests, with Keeps that are stubs; and the few requests that tests make.

Run as a program it is `enarx host serve` whose Keeps run `stub_keep.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

TOP = Path(__file__).parent.parent
STUB = str(Path(__file__).parent / "stub_keep.py")
WAIT_S = 30.0


def main(argv):
    from dataclasses import replace

    from enarx.cli import host, ui
    from enarx.errors import EnarxError
    from enarx.host.service import serve
    from enarx.serving.logs import make_log

    try:
        parsed = host.COMMANDS["host serve"].parse(argv)
        options = replace(host._options(parsed), keep_program=STUB)
        log = make_log(parsed.value("log-format") or "text")
        return serve(options, log=log, announce=lambda url: ui.note(f"host listening on {url}"))
    except EnarxError as error:
        ui.show_error(error)
        return error.status


class ServiceProcess:
    """A service that runs, until the block ends; its log is read as it comes.

    Args:
        command: as a list.
        env: its environment, to which the sources are added.
        popen: starts a process.
        spawn: for `popen`.
    """

    def __init__(self, command, *, env, popen=subprocess.Popen, **spawn):
        self.lines = []
        self._line = threading.Condition()
        environment = {**env, "PYTHONPATH": str(TOP / "src")}
        self.child = popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True, cwd="/", **spawn
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.child.stderr:
            with self._line:
                self.lines.append(line.rstrip("\n"))
                self._line.notify_all()
        with self._line:
            self.lines.append(None)
            self._line.notify_all()

    def wait_for(self, text, *, after=0):
        """Return the first line of the log that holds a text, of those after so many."""

        def found():
            return next((line for line in self.lines[after:] if line is None or text in line), "")

        with self._line:
            assert self._line.wait_for(lambda: found() != "", WAIT_S), f"no {text!r} in {self.lines}"
            line = found()
        assert line is not None, f"the service ended without {text!r}: {self.lines}"
        return line

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self):
        status = self.child.wait(WAIT_S)
        self._reader.join(WAIT_S)
        self.child.stderr.close()
        return status

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        if not self.child.stderr.closed:
            self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class HostProcess(ServiceProcess):
    """A host; its Keeps are ended with it."""

    def __init__(self, state, *options, listen="127.0.0.1:0", scheme="http", stub=True, env=os.environ, **spawn):
        program = [str(Path(__file__))] if stub else ["-m", "enarx", "host", "serve"]
        self.state = Path(state)
        super().__init__(
            [sys.executable, *program, "--listen", listen, "--state", str(state), *options], env=env, **spawn
        )
        self.url = self.wait_for("host listening on ").rpartition(" ")[2] if scheme else ""
        self.port = int(self.url.rpartition(":")[2]) if scheme else 0

    def __exit__(self, *_):
        super().__exit__()
        end_keeps(self.state)


def keep_pids(state):
    """Return the pids of the Keep processes of a state directory, found by their marks."""
    from enarx.host.launchers.own_process import MARK
    from enarx.host.process_facts import find_marked

    folder = Path(state) / "keeps"
    names = os.listdir(folder) if folder.exists() else []
    return {pid for name in names for pid in find_marked(f"{MARK}{name}".encode())}


def end_keeps(state):
    for pid in keep_pids(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def request(
    url,
    method="GET",
    path="/v1/keeps",
    *,
    token=None,
    body=None,
    headers=None,
    content=None,
    timeout_s=WAIT_S,
    **client,
):
    """Make one request; return status, headers and the body, as JSON where it is. The status is one that is documented."""
    import httpx2

    headers = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    with httpx2.Client(base_url=url, trust_env=False, timeout=timeout_s, **client) as asking:
        answer = asking.request(method, path, json=body, headers=headers, content=content)
    for known, pattern, statuses in _documented():
        assert known != method or not pattern.fullmatch(path) or answer.status_code in statuses, (method, path, answer)
    is_json = answer.headers.get("content-type", "").startswith("application/json") and answer.content
    return answer.status_code, answer.headers, answer.json() if is_json else answer.content


@cache
def _documented():
    """Return the operations of the OpenAPI document: method, pattern of the path, statuses."""
    from enarx.host.openapi import make_openapi

    return [
        (
            method.upper(),
            re.compile(re.sub(r"{\w+}", "[^/]+", path)),
            {int(status) for status in operation["responses"]},
        )
        for path, operations in make_openapi()["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
    ]


def create(url, *, token=None, memory=1 << 20, ports=(), **client):
    body = {"backend": "nil", "memory-bytes": memory, "ports": [{"name": name, "port": port} for name, port in ports]}
    return request(url, "POST", token=token, body=body, **client)


@contextlib.asynccontextmanager
async def session(url, keep, command=None, *, token=None, **options):
    """Open a session and tell the stub what to do."""
    from websockets.asyncio.client import connect

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options = {"subprotocols": ["enarx-link.v1"], "compression": None, "proxy": None, "max_size": 1 << 20, **options}
    async with connect(f"ws{url[4:]}/v1/keeps/{keep}/session", additional_headers=headers, **options) as opened:
        if command is not None:
            await opened.send(json.dumps(command).encode() + b"\n")
        yield opened


def tell(url, keep, command, *, token=None):
    """Tell the stub what to do; return all that it says, however that ends."""
    from websockets.exceptions import ConnectionClosedError

    async def telling():
        said = b""
        async with asyncio.timeout(WAIT_S), session(url, keep, command, token=token) as opened:
            with contextlib.suppress(ConnectionClosedError):
                async for message in opened:
                    said += message
        return said

    return asyncio.run(telling())


def read_line(connection):
    data = b""
    while not data.endswith(b"\n"):
        data += connection.recv(1)
    return data


def connect_to(port):
    return socket.create_connection(("127.0.0.1", port), WAIT_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
