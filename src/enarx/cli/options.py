# SPDX-License-Identifier: Apache-2.0
"""The description of a subcommand, which parses its arguments; `help` shows it and `completion` completes it in a shell.

The standard library's parser costs more than a whole start of `enarx run`; what the contract needs is this: long
options with `--name value` or `--name=value`, operands in any place before `--`, and everything after it untouched
(docs/decisions/0003-option-parser.md).
"""

from __future__ import annotations

from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Option:
    """One long option.

    Args:
        name: without the dashes.
        metavar: what its value is called in the help; empty for a flag.
        summary: one line.
        repeat: whether it may be given more than once.
        environment: the variable that stands in for it when it is not given, or empty.
        choices: the values it can have, for completion; the command judges them.
        optional: whether it can stand without its value, which then is empty; a value comes after `=` only.
    """

    __slots__ = ("choices", "environment", "metavar", "name", "optional", "repeat", "summary")

    def __init__(
        self,
        name: str,
        metavar: str,
        summary: str,
        *,
        repeat: bool = False,
        environment: str = "",
        choices: Sequence[str] = (),
        optional: bool = False,
    ) -> None:
        self.name = name
        self.metavar = metavar
        self.optional = optional
        self.summary = summary
        self.repeat = repeat
        self.environment = environment
        self.choices = choices


EVERYWHERE = (
    Option("verbose", "", "say more: causes of errors, what the cache did"),
    Option("help", "", "show this help"),
)
"""The options of every command."""


class Parsed:
    """The arguments of one call.

    Args:
        values: given values by option name, in the order given.
        operands: arguments that are no options.
        rest: what came after `--`, or None if there was no `--`.
    """

    __slots__ = ("operands", "rest", "values")

    def __init__(self, values: dict[str, list[str]], operands: list[str], rest: list[str] | None) -> None:
        self.values = values
        self.operands = operands
        self.rest = rest

    def flag(self, name: str) -> bool:
        """Return whether a flag was given."""
        return name in self.values

    def value(self, name: str) -> str | None:
        """Return the value of an option, or None."""
        given = self.values.get(name)
        return given[-1] if given else None

    def all(self, name: str) -> list[str]:
        """Return every value of a repeatable option."""
        return self.values.get(name, [])


class Command:
    """One subcommand.

    Args:
        name: as typed after `enarx`.
        operands: names of the required operands.
        rest: what may follow `--`, or empty.
        summary: one line for the list of commands.
        description: what it does, in lines of their own.
        options: its own options.
        examples: command lines, each with what it does.
        run: does it and returns the exit status.
    """

    __slots__ = ("description", "examples", "name", "operands", "options", "rest", "run", "summary")

    def __init__(
        self,
        name: str,
        *,
        operands: Sequence[str] = (),
        rest: str = "",
        summary: str,
        description: str,
        options: Sequence[Option] = (),
        examples: Sequence[tuple[str, str]],
        run: Callable[[Parsed], int],
    ) -> None:
        self.name = name
        self.operands = operands
        self.rest = rest
        self.summary = summary
        self.description = description
        self.options = (*options, *EVERYWHERE)
        self.examples = examples
        self.run = run

    def parse(self, argv: list[str]) -> Parsed | None:
        """Parse the arguments after the command's name; None when help was asked for.

        Raises:
            UsageError: an unknown option, a missing or surplus value, or too many or too few operands.
        """
        options = {option.name: option for option in self.options}
        values: dict[str, list[str]] = {}
        operands: list[str] = []
        rest: list[str] | None = None
        pending = list(reversed(argv))
        while pending:
            word = pending.pop()
            if word == "--":
                rest = pending[::-1]
                break
            if not word.startswith("-") or word == "-":
                operands.append(word)
                continue
            name, equals, value = word[2:].partition("=")
            option = options.get(name) if word.startswith("--") else None
            if option is None:
                raise self._unknown(word, options)
            if not option.metavar:
                if equals:
                    raise self._wrong(f"found {word}, want --{name} without a value")
            elif not equals and not option.optional:
                if not pending:
                    raise self._wrong(f"found --{name} at the end, want --{name} {option.metavar}")
                value = pending.pop()
            if name in values and not option.repeat and option.metavar:
                raise self._wrong(f"found --{name} twice, want it once")
            values.setdefault(name, []).append(value)
        if "help" in values:
            return None
        if rest is not None and not self.rest:
            raise self._wrong("found arguments after --, want none")
        if len(operands) != len(self.operands):
            wanted = " ".join(self.operands) or "none"
            found = " ".join(operands) or "none"
            hint = (
                f"what the workload is given follows --: {' '.join(self.operands)} -- {self.rest}"
                if self.rest
                else None
            )
            raise self._wrong(f"found operands {found}, want {wanted}", hint)
        self._from_environment(values)
        return Parsed(values, operands, rest)

    def _from_environment(self, values: dict[str, list[str]]) -> None:
        for option in self.options:
            if option.environment and option.name not in values:
                import posix

                value = posix.environ.get(option.environment.encode())
                if value:
                    values[option.name] = [value.decode("utf-8", "surrogateescape")]

    def _wrong(self, message: str, hint: str | None = None) -> UsageError:
        return UsageError(f"cannot run {self.name}: {message}", hint=hint or f"enarx {self.name} --help")

    def _unknown(self, word: str, options: dict[str, Option]) -> UsageError:
        from difflib import get_close_matches

        nearest = get_close_matches(word.lstrip("-").partition("=")[0], options, n=1)
        hint = f"did you mean --{nearest[0]}?" if nearest else None
        return self._wrong(f"found {word}, which is no option of it", hint)
