# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command let it clean up first, and leave everything as it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import SimpleNamespace

import pytest

from enarx.cli.unwinding import unwound_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_block_is_left_in_order(number):
    cleaned = []

    def work():
        with unwound_by_signals(), contextlib.closing(SimpleNamespace(close=lambda: cleaned.append(True))):
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == 128 + number
    assert cleaned
    assert signal.getsignal(number) == signal.SIG_DFL


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwound_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone():
    found = []

    def look():
        with unwound_by_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(20)
    assert found == [signal.SIG_DFL]
