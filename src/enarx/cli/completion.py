# SPDX-License-Identifier: Apache-2.0
"""`enarx completion SHELL`: a script that completes commands, options and their values."""

from __future__ import annotations

from enarx.cli import COMMANDS as ALL
from enarx.cli import load, ui
from enarx.cli.options import Command, Parsed
from enarx.errors import UsageError

_SHELLS = ("bash", "zsh", "fish")


def _completion(parsed: Parsed) -> int:
    shell = parsed.operands[0]
    if shell not in _SHELLS:
        raise UsageError(f"cannot complete in {shell}: want one of {', '.join(_SHELLS)}")
    ui.out({"bash": bash, "zsh": zsh, "fish": fish}[shell]())
    return 0


def bash() -> str:
    """Return the script for bash."""
    cases = []
    for name in ALL:
        words = " ".join(f"--{option.name}" for option in load(name).options)
        cases.append(f'    "{name}"*) words="{words}" ;;')
    choices = [
        f'    --{option.name}) words="{" ".join(option.choices)}" ;;'
        for name in ALL
        for option in load(name).options
        if option.choices
    ]
    first = " ".join(dict.fromkeys(name.split()[0] for name in ALL))
    seconds = [
        f'    {group}) words="{" ".join(name.split()[1] for name in ALL if name.startswith(group + " "))}" ;;'
        for group in dict.fromkeys(name.split()[0] for name in ALL if " " in name)
    ]
    return "\n".join(
        [
            "# Completion of enarx for bash: source <(enarx completion bash)",
            "_enarx() {",
            '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    COMPREPLY=($(compgen -W "{first} --help --version" -- "$cur")); return',
            "  fi",
            '  case "$prev" in',
            *choices,
            *seconds,
            '    *) case "${COMP_WORDS[*]:1}" in',
            *cases,
            "    esac ;;",
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            '  [[ "$cur" == -* ]] || COMPREPLY+=($(compgen -f -- "$cur"))',
            "}",
            "complete -o filenames -F _enarx enarx",
        ]
    )


def zsh() -> str:
    """Return the script for zsh, which runs bash's."""
    return (
        "# Completion of enarx for zsh: source <(enarx completion zsh)\nautoload -U +X bashcompinit && bashcompinit\n"
        + (bash())
    )


def fish() -> str:
    """Return the script for fish."""
    lines = ["# Completion of enarx for fish: enarx completion fish | source"]
    for name in ALL:
        command = load(name)
        first, _, second = name.partition(" ")
        lines.append(f'complete -c enarx -n __fish_use_subcommand -a {first} -d "{command.summary}"')
        seen = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f'complete -c enarx -n "{seen}" -a {second} -d "{command.summary}"')
        for option in command.options:
            takes_a_word = option.metavar and not option.optional
            values = f' -x -a "{" ".join(option.choices)}"' if option.choices else " -r" if takes_a_word else ""
            lines.append(f'complete -c enarx -n "{seen}" -l {option.name}{values} -d "{option.summary}"')
    return "\n".join(dict.fromkeys(lines))


COMMANDS = {
    "completion": Command(
        "completion",
        operands=("SHELL",),
        summary="print a completion script for bash, zsh or fish",
        description="Print a script that completes enarx in a shell.",
        examples=(("source <(enarx completion bash)", "complete in this shell"),),
        run=_completion,
    )
}
