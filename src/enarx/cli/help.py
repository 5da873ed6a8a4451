# SPDX-License-Identifier: Apache-2.0
"""What `--help` says of a subcommand."""

from __future__ import annotations

import textwrap

from enarx.cli.options import EVERYWHERE, Command, Option


def describe_usage(command: Command) -> str:
    """Return the line that shows how to call a command."""
    words = ["enarx", command.name, *command.operands]
    for option in command.options:
        if option in EVERYWHERE:
            continue
        form = _form(option)
        words.append(f"[{form}]..." if option.repeat else f"[{form}]")
    if command.rest:
        words.append(f"[-- {command.rest}]")
    return " ".join(words)


def describe(command: Command) -> str:
    """Return the text of `--help`."""
    lines = textwrap.wrap(describe_usage(command), 100, subsequent_indent="        ", break_on_hyphens=False)
    lines = [f"usage: {lines[0]}", *lines[1:], "", command.description, "", "options:"]
    for option in command.options:
        form = _form(option)
        summary = option.summary + (f" [${option.environment}]" if option.environment else "")
        wrapped = textwrap.wrap(summary, 72)
        lines.append(f"  {form:<24}{wrapped[0]}" if len(form) < 23 else f"  {form}\n{'':26}{wrapped[0]}")
        lines += [f"{'':26}{line}" for line in wrapped[1:]]
    lines += ["", "examples:"]
    for example, what in command.examples:
        lines += [f"  {example}", f"      {what}"]
    return "\n".join(lines) + "\n"


def _form(option: Option) -> str:
    """Return how an option is written."""
    return f"--{option.name}[={option.metavar}]" if option.optional else f"--{option.name} {option.metavar}".rstrip()
