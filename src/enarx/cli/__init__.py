# SPDX-License-Identifier: Apache-2.0
"""Runs: tenant, host. The command line: one module per subcommand, none of them deciding anything.

`main` finds the subcommand, and only then is its module imported: `enarx run` has a few milliseconds in all.
"""

from __future__ import annotations

from enarx.cli import ui
from enarx.errors import EnarxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.cli.options import Command

COMMANDS = {
    "run": "enarx.cli.run",
    "deploy": "enarx.cli.deploy",
    "keep list": "enarx.cli.keep",
    "keep show": "enarx.cli.keep",
    "keep logs": "enarx.cli.keep",
    "keep attach": "enarx.cli.keep",
    "keep stop": "enarx.cli.keep",
    "host serve": "enarx.cli.host",
    "steward init": "enarx.cli.steward",
    "steward serve": "enarx.cli.steward",
    "steward audit": "enarx.cli.steward",
    "image build": "enarx.cli.image",
    "image list": "enarx.cli.image",
    "image verify": "enarx.cli.image",
    "image measure": "enarx.cli.image_measure",
    "package build": "enarx.cli.package",
    "package info": "enarx.cli.package",
    "package publish": "enarx.cli.package_transfer",
    "package fetch": "enarx.cli.package_transfer",
    "package import": "enarx.cli.package_drawbridge",
    "platform info": "enarx.cli.platform",
    "platform selftest": "enarx.cli.platform_selftest",
    "config init": "enarx.cli.config",
    "cache list": "enarx.cli.cache",
    "cache clear": "enarx.cli.cache",
    "package encrypt": "enarx.cli.package_encryption",
    "package recipient": "enarx.cli.package_encryption",
    "attest evidence": "enarx.cli.attest_evidence",
    "attest inspect": "enarx.cli.attest",
    "attest verify": "enarx.cli.attest",
    "attest connect": "enarx.cli.attest_connect",
    "playground serve": "enarx.cli.playground",
    "package sign": "enarx.cli.package_signing",
    "package verify": "enarx.cli.package_signing",
    "policy init": "enarx.cli.policy",
    "policy check": "enarx.cli.policy",
    "completion": "enarx.cli.completion",
}
"""Every subcommand and the module whose `COMMANDS` describes it."""

# The commands that end with a workload's status keep 1 and 2 for the workload and add 100 to theirs.
_RUNS_WORKLOADS = frozenset({"run", "deploy"})


def load(name: str) -> Command:
    """Import the module of a subcommand and return its description."""
    # `importlib` would be one import more on every start.
    return __import__(COMMANDS[name], fromlist=["COMMANDS"]).COMMANDS[name]  # type: ignore[no-any-return]


def main(argv: list[str], base: list[str] | None = None) -> int:
    """Run the command line and return the exit status; every error of ours becomes one line and its status.

    Args:
        argv: the arguments after the command's own name.
        base: `sys.path` before the launcher called `site`, from which an image for the next start can be made; None
            where this start came from an image, or not from the launcher.
    """
    verbose = False
    name = ""
    try:
        name, rest = _find(argv)
        if not name:
            from enarx.cli.top import show

            return show(rest)
        command = load(name)
        parsed = command.parse(rest)
        if parsed is None:
            from enarx.cli.help import describe

            ui.out(describe(command))
            return 0
        verbose = parsed.flag("verbose")
        if base is not None and name == "run":
            # Now, because a workload may never end, and its time limit is not to be spent on this.
            from enarx.cli import start_image

            start_image.write(base, ui.note if verbose else lambda _: None)
        if name.startswith("package "):
            from enarx.cli.unwinding import unwound_by_signals

            with unwound_by_signals():
                return command.run(parsed)
        return command.run(parsed)
    except EnarxError as error:
        ui.show_error(error, verbose=verbose)
        return exit_status(error, name)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        return ui.BROKEN_PIPE_STATUS
    except KeyboardInterrupt:
        return ui.INTERRUPTED_STATUS
    except Exception:  # noqa: BLE001  # the last line of defence: a bug, reported as one
        ui.show_bug()
        return exit_status(EnarxError("bug"), name)


def exit_status(error: EnarxError, command: str) -> int:
    """Return the exit status of an error in a subcommand."""
    return error.status + 100 if command in _RUNS_WORKLOADS and error.status < 100 else error.status


def _find(argv: list[str]) -> tuple[str, list[str]]:
    """Split the arguments into the subcommand's name and the rest; no name for `--help` and the like."""
    if not argv or argv[0].startswith("-"):
        return "", argv
    if argv[0] in COMMANDS:
        return argv[0], argv[1:]
    pair = " ".join(argv[:2])
    if pair in COMMANDS:
        return pair, argv[2:]
    group = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if group and (len(argv) == 1 or argv[1].startswith("-")):
        return "", argv
    from difflib import get_close_matches

    found = pair if group else argv[0]
    nearest = get_close_matches(found, COMMANDS, n=1)
    raise UsageError(
        f"cannot run the command: found {found}, want one of {', '.join(group or COMMANDS)}",
        hint=f"did you mean enarx {nearest[0]}?" if nearest else "enarx --help lists the commands",
    )
