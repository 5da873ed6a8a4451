# SPDX-License-Identifier: Apache-2.0
"""Start a Keep: give up what is not needed, then live one life (`life`).

The console, which is the host's, gets one line when the Keep is there, and a line where it fails; neither has a word of a tenant's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from enarx.attester import Attester, find_attester
from enarx.attester.emulated import EmulatedAttester
from enarx.channel.memory import keep_freed_memory
from enarx.errors import EnarxError, PlatformError
from enarx.keep.hardening import harden
from enarx.keep.life import Keep
from enarx.keep.options import Options, parse_options
from enarx.runtime.scratch import sweep

__all__ = ["main"]


def main(arguments: list[str]) -> NoReturn:
    """Be a Keep, and end the process with its status.

    Args:
        arguments: of the process; see `options`.
    """
    try:
        options = parse_options(arguments)
        harden(options.link_fd)
        keep_freed_memory()
        asyncio.run(_live(options))
    except EnarxError as error:
        # Of arguments and devices: before there is a tenant.
        _say(str(error))
        os._exit(error.status)


async def _live(options: Options) -> NoReturn:
    try:
        listener = socket.socket(fileno=options.link_fd)
    except OSError as error:
        raise PlatformError(f"cannot start the Keep: --link-fd: {options.link_fd}: {error.strerror}") from error
    sweep()

    def make_attester(ask_platform: Callable[[bytes], bytes]) -> Attester:
        # This kind of Keep has no device: what it asks is its host.
        return EmulatedAttester(ask_platform) if options.backend == "nil" else find_attester(backend=options.backend)

    keep = Keep(options, listener, make_attester, say=_say)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, keep.end, 0)
    # Of a terminal that is not ours.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _say("ready")
    status = await keep.run()
    # At once: a thread may wait for a device still, and nothing here is to be kept.
    os._exit(status)


def _say(line: str) -> None:
    # A console that is full or closed is the host's loss.
    with contextlib.suppress(OSError):
        os.write(1, f"enarx keep: {line[:500]}\n".encode(errors="replace"))
