# SPDX-License-Identifier: Apache-2.0
"""What every TOML file of enarx has in common: its size and encoding, Python's parser and its limits, how keys are written.

Any bytes give a document or a ConfigError, in bounded time. No message shows a value, which may be a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from enarx.errors import ConfigError
from enarx.wire.quoting import quote
from enarx.wire.toml_lines import KeyPath, longest_key

__all__ = ["all_of", "dotted", "one_of", "parse_toml"]

_MAX_KEY_PARTS = 8  # no key of ours has more than four
_MAX_SHOWN_KEY = 40
_MAX_PROBLEM = 200


def parse_toml(data: bytes, *, path: str, max_bytes: int) -> tuple[str, dict[str, Any]]:
    """Parse a TOML file.

    Args:
        data: the content of the file.
        path: the file as the user named it, for messages only.
        max_bytes: a larger file is refused.

    Returns:
        the text, in which `enarx.wire.toml_lines` finds keys, and the document.

    Raises:
        ConfigError: too large, not UTF-8, or not TOML; `path`, and where it is known `line`, say where.
    """
    if len(data) > max_bytes:
        raise ConfigError(f"{path}: size: found {len(data)} bytes, want at most {max_bytes}", path=path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: text: found byte 0x{data[error.start]:02x} at offset {error.start}, want UTF-8",
            path=path,
            line=line,
        ) from error
    # Editors of some systems begin a file with a byte order mark, which Python's parser does not skip.
    text = text.removeprefix("\ufeff")
    return text, _run_parser(text, path)


def _run_parser(text: str, path: str) -> dict[str, Any]:
    """Run the standard library's parser, and keep it from what it cannot stand."""
    if longest_key(text) > _MAX_KEY_PARTS:
        raise ConfigError(f"{path}: syntax: found a key of more than {_MAX_KEY_PARTS} parts, want fewer", path=path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, line = str(error), None
        if place := re.search(r" \(at line (\d+), column (\d+)\)$", problem):
            line = int(place[1])
            problem = f"{problem[: place.start()]} (column {place[2]})"
        elif problem.endswith(" (at end of document)"):
            line = text.rstrip("\n").count("\n") + 1
        where = path if line is None else f"{path}:{line}"
        # The parser quotes keys but not values, so this may be shown; a key may be long.
        problem = problem if len(problem) <= _MAX_PROBLEM else problem[:_MAX_PROBLEM] + "..."
        raise ConfigError(f"{where}: syntax: {problem[:1].lower()}{problem[1:]}", path=path, line=line) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: syntax: found values nested too deeply, want fewer levels", path=path) from error
    except ValueError as error:
        # The one other refusal of the parser: Python does not convert integers of thousands of digits.
        raise ConfigError(f"{path}: syntax: found an integer out of range, want at most 64 bits", path=path) from error


def dotted(path: KeyPath) -> str:
    """Write a path as users read it, `files[3].port`; a name that is not a bare key is quoted."""
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part) and len(part) <= _MAX_SHOWN_KEY
            written += ("." if written else "") + (part if bare else quote(part))
    return written


def all_of(names: Iterable[str], conjunction: str = "and") -> str:
    """Write names as a sentence lists them."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def one_of(names: Iterable[str]) -> str:
    """Write names as a sentence offers them."""
    return all_of(names, "or")
