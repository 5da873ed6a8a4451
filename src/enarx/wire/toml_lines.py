# SPDX-License-Identifier: Apache-2.0
"""Say where in a TOML text a key stands, which the standard library's parser does not tell.

This is a reader of tokens, not a second TOML parser. It gives up at the first thing that is not a token and never raises.
`longest_key` takes any text, in time linear in its length; the others are for texts that the real parser has read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable

__all__ = ["KeyPath", "find_line", "line_finder", "longest_key"]

KeyPath = tuple[str | int, ...]
"""Names of tables and keys, and indexes into arrays: `("files", 3, "port")`."""

_TOKEN = re.compile(
    r"""
    (?P<blank>   [ \t\r]+ | \#[^\n]* )
  | (?P<newline> \n )
  | (?P<string>  \"{3} (?: [^\\] | \\. )*? \"{3,5}
              |  '{3} .*? '{3,5}
              |  " (?!"") (?: [^"\\\n] | \\. )* "
              |  ' (?!'') [^'\n]* ' )
  | (?P<mark>    [][{}=,.] )
  | (?P<bare>    [^][{}=,."'\#\s]+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """List kind, text and 1-based line of every token but blanks and comments, up to what is no token."""
    tokens = []
    position, line = 0, 1
    while match := _TOKEN.match(text, position):
        lexeme, kind = match.group(), match.lastgroup or ""
        if kind != "blank":
            tokens.append((kind, lexeme, line))
        line += lexeme.count("\n")
        position = match.end()
    return tokens


def longest_key(text: str) -> int:
    """Count the parts of the longest run of names joined by dots, such as 3 for `a.b."c"`.

    Python's parser takes time that grows with the square of this number, so it is looked at before the parser runs. A
    number with a decimal point counts as two parts, which does no harm.
    """
    longest = parts = 0
    joined = False
    for kind, lexeme, _ in _tokens(text):
        if lexeme == ".":
            joined = True
            continue
        named = kind in {"string", "bare"}
        parts = parts + 1 if named and joined else int(named)
        joined = False
        longest = max(longest, parts)
    return longest


def find_line(text: str, path: KeyPath) -> int | None:
    """Find the line on which a key, an array element or a table begins.

    Args:
        text: a document that tomllib has read.
        path: where the value is in what tomllib returned.

    Returns:
        1-based line of the key; where the key is not written, of the nearest table or array around it that is; None where
        nothing of the path is.
    """
    return line_finder(text)(path)


def line_finder(text: str) -> Callable[[KeyPath], int | None]:
    """Read a document once, and return what `find_line` does for its paths."""
    lines = _Places(_tokens(text)).lines

    def find(path: KeyPath) -> int | None:
        return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)

    return find


class _Places:
    """One walk over the tokens of a document, noting the line at which each path is first written."""

    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._tokens = iter(tokens)
        self._elements: dict[KeyPath, int] = {}  # arrays of tables, and how many elements each has so far
        table: KeyPath = ()
        for kind, lexeme, line in self._tokens:
            if lexeme == "[":
                table = self._header(line)
            elif kind != "newline":
                self._value(self._key(table, kind, lexeme, line, end="="))

    def _header(self, line: int) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]` after its first bracket; return the path of the table that begins."""
        kind, lexeme, _ = self._next()
        if lexeme != "[":
            return self._key((), kind, lexeme, line, end="]")
        kind, lexeme, _ = self._next()
        array = self._key((), kind, lexeme, line, end="]")
        index = self._elements[array] = self._elements.get(array, -1) + 1
        self._next()
        self.lines.setdefault((*array, index), line)
        return (*array, index)

    def _key(self, table: KeyPath, kind: str, lexeme: str, line: int, *, end: str) -> KeyPath:
        """Read a dotted key from its first token to `end`, and note it and the tables it passes through."""
        path = table
        while lexeme not in {end, ""}:
            if kind in {"string", "bare"}:
                # A table inside an array of tables belongs to the array's last element.
                if path in self._elements:
                    path = (*path, self._elements[path])
                path = (*path, _name(kind, lexeme))
                self.lines.setdefault(path, line)
            kind, lexeme, _ = self._next()
        return path

    def _value(self, path: KeyPath) -> None:
        """Read one value to the end of its line, noting what arrays and inline tables hold.

        The stack has, for every open bracket, the path of what it opened and, in an array, the index of the element that
        is being read; an inline table has None there.
        """
        stack: list[tuple[KeyPath, int | None]] = []
        begins = False  # an element or a key of the innermost bracket may begin with this token
        while True:
            kind, lexeme, line = self._next()
            if lexeme == "" or (kind == "newline" and not stack):
                return
            if kind == "newline":
                continue
            if lexeme in {"]", "}"}:
                if not stack:
                    return
                stack.pop()
                begins = False
                continue
            if lexeme == ",":
                if stack and stack[-1][1] is not None:
                    stack[-1] = (stack[-1][0], stack[-1][1] + 1)
                begins = True
                continue
            if stack and begins:
                begins = False
                opened, index = stack[-1]
                if index is None:
                    path = self._key(opened, kind, lexeme, line, end="=")
                    continue
                path = (*opened, index)
                self.lines.setdefault(path, line)
            if lexeme in {"[", "{"}:
                stack.append((path, 0 if lexeme == "[" else None))
                begins = True

    def _next(self) -> tuple[str, str, int]:
        """Take the next token; an empty one at the end of the document."""
        return next(self._tokens, ("", "", 0))


def _name(kind: str, lexeme: str) -> str:
    """Turn a token in the place of a key into the key it spells."""
    if kind == "bare":
        return lexeme
    if "\\" not in lexeme or lexeme[0] == "'":
        return lexeme[1:-1]
    try:
        return str(tomllib.loads("key=" + lexeme)["key"])
    except tomllib.TOMLDecodeError:
        return lexeme
