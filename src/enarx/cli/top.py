# SPDX-License-Identifier: Apache-2.0
"""`enarx --help`, `enarx --version`, and what is shown when no subcommand is named."""

from __future__ import annotations

from enarx import __version__
from enarx.cli import COMMANDS, load, ui
from enarx.errors import UsageError


def show(argv: list[str]) -> int:
    """Answer `--help` and `--version`, alone or after a group of commands.

    Raises:
        UsageError: nothing was asked for, or something that is neither.
    """
    group = argv[0] + " " if argv and not argv[0].startswith("-") else ""
    flags = argv[1:] if group else argv
    if flags == ["--version"] and not group:
        ui.out(f"enarx {__version__}")
        return 0
    if flags == ["--help"]:
        ui.out(overview(group))
        return 0
    if not flags:
        raise UsageError("cannot run enarx: found no command, want one", hint=f"enarx {group}--help lists them")
    raise UsageError(f"cannot run enarx: found {flags[0]}, want --help, --version or a command", hint="enarx --help")


def overview(group: str = "") -> str:
    """Return the list of commands, of all or of one group."""
    lines = [
        "usage: enarx COMMAND [ARGUMENT]...",
        "",
        "Run WebAssembly applications, unchanged, inside Trusted Execution Environments.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<19}{load(name).summary}" for name in COMMANDS if name.startswith(group)]
    lines += [
        "",
        "options:",
        "  --version          show the version",
        "  --help             show this help; after a command, the command's",
        "",
        "example:",
        "  enarx run hello.wasm",
    ]
    return "\n".join(lines) + "\n"
