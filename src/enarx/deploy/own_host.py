# SPDX-License-Identifier: Apache-2.0
"""A host of one's own for one deployment: `enarx host serve` as a child process, on a port that nobody was told.

It is as little trusted as any other host, and takes the same way. It ends when this process does, whatever ends it: it watches
a pipe of which only this process has the other end. Through it comes the token that it asks everybody for, so that no other
user of this machine can use it; its environment has nothing that it does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import IO, NamedTuple

from enarx.deploy.host_client import HostAddress, clean, parse_address
from enarx.errors import PlatformError, UsageError

__all__ = ["PrivateHost", "private_host"]

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
_MAX_GREETING_BYTES = 512
_MAX_COMPLAINT_BYTES = 4096
# Where this module was found, enarx is found again.
_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BOOTSTRAP = "import sys; sys.path[:0] = sys.argv[1:2]; from enarx.cli import main; sys.exit(main(sys.argv[2:]))"


_TOKEN = re.compile(r"[!-~]{1,128}")
# Where programs, words and the emulated platform are; no token and no option of this command.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_DATA_HOME")


class PrivateHost(NamedTuple):
    """A host that runs for this process alone.

    Args:
        address: where it is.
        token: that it asks for.
    """

    address: HostAddress
    token: str


@contextlib.asynccontextmanager
async def private_host(
    *, max_keeps: int = 1, options: Sequence[str] = (), words: IO[bytes] | None = None
) -> AsyncIterator[PrivateHost]:
    """Run a host while the block runs.

    Args:
        max_keeps: that it may have at once.
        options: more of `enarx host serve`.
        words: a file for what it says, which is next to nothing; None forgets it with the block.

    Raises:
        PlatformError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="enarx-host-") as state, tempfile.TemporaryFile() as forgotten:
        complaints = words if words is not None else forgotten
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        command = ("host", "serve", "--listen", "127.0.0.1:0", "--state", state, "--parent-fd", str(theirs), *options)
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", _BOOTSTRAP, _SOURCE, *command, "--max-keeps", str(max_keeps),
                stdin=asyncio.subprocess.DEVNULL, stdout=complaints, stderr=complaints, pass_fds=(theirs,),
                # Its own group, so that an interrupt at the terminal is the workload's and not the host's.
                start_new_session=True, cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )  # fmt: skip
        finally:
            os.close(theirs)
        try:
            yield await _greeting(ours, child, complaints)
        finally:
            os.close(ours)
            await _end(child)


async def _greeting(fd: int, child: asyncio.subprocess.Process, complaints: IO[bytes]) -> PrivateHost:
    """Wait for the child to say where it is and which token it wants."""
    text = b""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not text.endswith(b"\n") and len(text) < _MAX_GREETING_BYTES:
                readable = loop.create_future()
                loop.add_reader(fd, readable.set_result, None)
                try:
                    await readable
                finally:
                    loop.remove_reader(fd)
                piece = os.read(fd, _MAX_GREETING_BYTES)
                if not piece:
                    break
                text += piece
    except TimeoutError as error:
        raise PlatformError(
            f"cannot start a host for this run: found no address in {START_TIMEOUT_S:.0f} s, want one"
        ) from error
    try:
        address, _, token = text.decode("ascii").strip().partition(" ")
        if not _TOKEN.fullmatch(token):
            raise ValueError("no token")
        return PrivateHost(parse_address(address), token)
    except (UsageError, ValueError) as error:
        raise await _failed(child, complaints) from error


async def _failed(child: asyncio.subprocess.Process, complaints: IO[bytes]) -> PlatformError:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await child.wait()
    complaints.seek(0)
    lines = complaints.read(_MAX_COMPLAINT_BYTES).decode("utf-8", "replace").strip().splitlines()
    said = clean(lines[-1].removeprefix("enarx: ")) if lines else f"status {child.returncode} and no word"
    return PlatformError(
        f"cannot start a host for this run: found {said}, want its address",
        hint="enarx host serve, run by itself, says more",
    )


async def _end(child: asyncio.subprocess.Process) -> None:
    """Wait until the child has ended by itself, as it does when the pipe closes; then make it."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await child.wait()
                return
