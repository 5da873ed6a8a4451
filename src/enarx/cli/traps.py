# SPDX-License-Identifier: Apache-2.0
"""How a workload that trapped is shown."""

from __future__ import annotations

from enarx.cli.ui import printable, tell


def show_trap(path: str, text: str) -> None:
    """Print how a workload trapped: the reason in our one line, then the WebAssembly backtrace."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    frames = [line.strip() for line in lines if line.strip()[:1].isdigit() and "- " in line and "!" in line]
    reasons = [line.strip() for line in lines if line.strip() not in frames]
    reason = next((line for line in reversed(reasons) if line.startswith(("wasm trap:", "0: wasm trap:"))), None)
    if reason is None:
        reason = reasons[-1] if reasons else "no reason given"
    reason = reason.removeprefix("0: ").removeprefix("1: ").removeprefix("2: ").removeprefix("wasm trap: ")
    shown = [f"enarx: workload trapped: {printable(path)}: {printable(reason)}"]
    shown += [f"    {printable(frame)}" for frame in frames]
    tell("\n".join(shown) + "\n")
