# SPDX-License-Identifier: Apache-2.0
"""Show a foreign value in an error message: short, on one line, without control characters.

Imported on every start of `run`: imports nothing.
"""

from __future__ import annotations

__all__ = ["kind_of", "quote"]

_MAX_TEXT = 60
_MAX_BITS = 64


def quote(value: object) -> str:
    """Show a decoded value briefly: a scalar as it is written, anything with parts by its kind alone.

    Args:
        value: any value, of any size.

    Returns:
        one line of at most some 250 characters, escapes included.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_TEXT else repr(value[:_MAX_TEXT]) + "..."
    if isinstance(value, int):
        # Python refuses to print integers beyond some thousands of digits, and nobody would read them.
        return str(value) if value.bit_length() <= _MAX_BITS else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """Name the TOML type of a value, for messages that must not show the value itself."""
    for types, name in (
        (bool, "a boolean"),
        (str, "a string"),
        ((int, float), "a number"),
        ((list, tuple), "an array"),
        (dict, "a table"),
    ):
        if isinstance(value, types):
            return name
    return "nothing" if value is None else "a date or time"
