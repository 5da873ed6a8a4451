# SPDX-License-Identifier: Apache-2.0
"""wasi:cli 0.2: environment, exit, standard streams, terminals.

The streams write and read this process's own descriptors 0, 1 and 2, as the workload's `files` say. What `files` leaves
out is an empty input or an output that swallows.

Source: WIT package wasi:cli@0.2.12.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

import os
import select

from enarx.runtime.component.binding import Exit, Interface, Kind, Own
from enarx.runtime.component.io import (
    CHUNK,
    INPUT_STREAM,
    OUTPUT_STREAM,
    POLLIN,
    POLLOUT,
    Closed,
    InputStream,
    OutputStream,
    WouldBlock,
)
from enarx.runtime.component.values import U8, ListOf, Option, Result, String, Tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.io import Interest

_HOST_FDS = {"stdin": 0, "stdout": 1, "stderr": 2}


class NullInput(InputStream):
    """An input that is at its end."""

    __slots__ = ()

    def read_some(self, size: int) -> bytes:
        raise Closed

    def poll_interest(self) -> Interest | None:
        return None


class NullOutput(OutputStream):
    """An output that swallows."""

    __slots__ = ()

    def write_some(self, data: memoryview | bytes) -> int:
        return len(data)


class StandardInput(InputStream):
    """This process's stdin, whatever it is: a file, a pipe or a terminal."""

    __slots__ = ("_fd", "_poller")

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._poller = select.poll()
        self._poller.register(fd, POLLIN)

    def read_some(self, size: int) -> bytes:
        if not self._poller.poll(0):
            raise WouldBlock
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            raise WouldBlock from None
        if not data:
            raise Closed
        return data

    def poll_interest(self) -> Interest | None:
        return (self._fd, POLLIN, None)


class StandardOutput(OutputStream):
    """This process's stdout or stderr. A descriptor that was made blocking blocks, as it does for any program."""

    __slots__ = ("_account", "_fd")

    def __init__(self, keep: Keep, fd: int) -> None:
        super().__init__()
        self._account = keep.account
        self._fd = fd

    def write_some(self, data: memoryview | bytes) -> int:
        taken = self._account.permit_output(min(len(data), CHUNK))
        written = 0
        try:
            written = os.write(self._fd, data[:taken])
        except BlockingIOError:
            raise WouldBlock from None
        except BrokenPipeError:
            raise Closed from None
        finally:
            self._account.return_output(taken - written)
        return written

    def write_interest(self) -> Interest | None:
        return (self._fd, POLLOUT, None)


def _host_fd(keep: Keep, index: int) -> int | None:
    files = keep.workload.files
    fd = _HOST_FDS.get(files[index].kind) if index < len(files) else None
    # An input cannot be written to and the other way round; Enarx.toml may name any kind anywhere.
    return fd if fd is not None and (fd == 0) == (index == 0) else None


def _output(keep: Keep, index: int) -> OutputStream:
    fd = _host_fd(keep, index)
    return NullOutput() if fd is None else StandardOutput(keep, fd)


environment_interface = Interface("wasi:cli/environment")


@environment_interface.func("get-environment", (), ListOf(Tuple(String, String)))
def _get_environment(keep: Keep) -> list[tuple[str, str]]:
    return list(keep.workload.env)


@environment_interface.func("get-arguments", (), ListOf(String))
def _get_arguments(keep: Keep) -> list[str]:
    return ["main.wasm", *keep.workload.args]


@environment_interface.func("initial-cwd", (), Option(String))
def _initial_cwd(_keep: Keep) -> str | None:
    return None


exit_interface = Interface("wasi:cli/exit")


@exit_interface.func("exit", (Result(None, None),))
def _exit(_keep: Keep, status: tuple[bool, None]) -> None:
    raise Exit(0 if status[0] else 1)


@exit_interface.func("exit-with-code", (U8,))
def _exit_with_code(_keep: Keep, status: int) -> None:
    raise Exit(status)


stdin_interface = Interface("wasi:cli/stdin", uses={"input-stream": INPUT_STREAM})
stdout_interface = Interface("wasi:cli/stdout", uses={"output-stream": OUTPUT_STREAM})
stderr_interface = Interface("wasi:cli/stderr", uses={"output-stream": OUTPUT_STREAM})


@stdin_interface.func("get-stdin", (), Own(INPUT_STREAM))
def _get_stdin(keep: Keep) -> InputStream:
    fd = _host_fd(keep, 0)
    return NullInput() if fd is None else StandardInput(fd)


@stdout_interface.func("get-stdout", (), Own(OUTPUT_STREAM))
def _get_stdout(keep: Keep) -> OutputStream:
    return _output(keep, 1)


@stderr_interface.func("get-stderr", (), Own(OUTPUT_STREAM))
def _get_stderr(keep: Keep) -> OutputStream:
    return _output(keep, 2)


class Terminal:
    """The resources terminal-input and terminal-output; that there is one is all they say."""

    __slots__ = ()


terminal_input_interface = Interface("wasi:cli/terminal-input")
TERMINAL_INPUT: Kind = terminal_input_interface.resource("terminal-input")
terminal_output_interface = Interface("wasi:cli/terminal-output")
TERMINAL_OUTPUT: Kind = terminal_output_interface.resource("terminal-output")
terminal_stdin_interface = Interface("wasi:cli/terminal-stdin", uses={"terminal-input": TERMINAL_INPUT})
terminal_stdout_interface = Interface("wasi:cli/terminal-stdout", uses={"terminal-output": TERMINAL_OUTPUT})
terminal_stderr_interface = Interface("wasi:cli/terminal-stderr", uses={"terminal-output": TERMINAL_OUTPUT})


def _terminal(keep: Keep, index: int) -> Terminal | None:
    fd = _host_fd(keep, index)
    return Terminal() if fd is not None and os.isatty(fd) else None


@terminal_stdin_interface.func("get-terminal-stdin", (), Option(Own(TERMINAL_INPUT)))
def _get_terminal_stdin(keep: Keep) -> Terminal | None:
    return _terminal(keep, 0)


@terminal_stdout_interface.func("get-terminal-stdout", (), Option(Own(TERMINAL_OUTPUT)))
def _get_terminal_stdout(keep: Keep) -> Terminal | None:
    return _terminal(keep, 1)


@terminal_stderr_interface.func("get-terminal-stderr", (), Option(Own(TERMINAL_OUTPUT)))
def _get_terminal_stderr(keep: Keep) -> Terminal | None:
    return _terminal(keep, 2)


INTERFACES = (
    environment_interface,
    exit_interface,
    stdin_interface,
    stdout_interface,
    stderr_interface,
    terminal_input_interface,
    terminal_output_interface,
    terminal_stdin_interface,
    terminal_stdout_interface,
    terminal_stderr_interface,
)
