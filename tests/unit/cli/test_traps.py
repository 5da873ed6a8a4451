# SPDX-License-Identifier: Apache-2.0
"""A trap is shown with its reason first, and moves nobody's cursor."""

from __future__ import annotations

import pytest

from enarx.cli.traps import show_trap

TRAP = """error while executing at wasm backtrace:
    0:     0x35 - app.wasm!inner
    1:     0x3a - app.wasm!outer\x1b[0m

Caused by:
    wasm trap: integer divide by zero
"""


def test_a_trap_is_its_reason_and_the_backtrace(capfd):
    show_trap("app.wasm", TRAP)
    assert capfd.readouterr().err.splitlines() == [
        "enarx: workload trapped: app.wasm: integer divide by zero",
        "    0:     0x35 - app.wasm!inner",
        "    1:     0x3a - app.wasm!outer\N{REPLACEMENT CHARACTER}[0m",
    ]


@pytest.mark.parametrize(
    ("text", "reason"), [("", "no reason given"), ("\n \n", "no reason given"), ("told\n", "told")]
)
def test_a_trap_without_a_backtrace_has_a_reason(capfd, text, reason):
    show_trap("app.wasm", text)
    assert capfd.readouterr().err == f"enarx: workload trapped: app.wasm: {reason}\n"
