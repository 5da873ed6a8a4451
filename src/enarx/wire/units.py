# SPDX-License-Identifier: Apache-2.0
"""Read sizes (`64 MiB`) and durations (`1m30s`), as Enarx.toml and the flags --memory, --output and --timeout write them.

Imported on every start of `run`: no import here may cost time, so the notations are read without regular expressions.
"""

from __future__ import annotations

from enarx.errors import ConfigError
from enarx.wire.quoting import quote

__all__ = ["MAX_DURATION_S", "MAX_SIZE_BYTES", "MIN_DURATION_S", "parse_duration", "parse_size"]

MAX_SIZE_BYTES = (1 << 63) - 1
MIN_DURATION_S = 0.001
MAX_DURATION_S = 365.0 * 86_400.0

_MAX_TEXT = 40  # far more than any size or duration needs; keeps int() and float() away from long input
_DIGITS = "0123456789"

_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZE_UNITS[_letter] = _SIZE_UNITS[_letter + "ib"] = 1024**_power
    _SIZE_UNITS[_letter + "b"] = 1000**_power

# Seconds as multiplier and divisor: 100 / 1000 is the float nearest to 0.1, 100 * 0.001 need not be. Longest first.
_DURATION_UNITS = {"d": (86_400, 1), "h": (3600, 1), "m": (60, 1), "s": (1, 1), "ms": (1, 1000)}


def parse_size(value: object, *, name: str = "size") -> int:
    """Read a number of bytes.

    Args:
        value: an integer, or text: a whole number, then optionally a unit in either case. K, M, G, T and KiB, MiB, GiB,
            TiB are powers of 1024; kB, MB, GB, TB are powers of 1000; B or no unit is bytes.
        name: the flag or the key, for the message.

    Returns:
        bytes, 0 to 2^63 - 1.

    Raises:
        ConfigError: anything else; its key is `name`.
    """
    size = -1
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and len(value) <= _MAX_TEXT:
        text = value.strip()
        unit = text.lstrip(_DIGITS)
        number = text[: len(text) - len(unit)]
        scale = _SIZE_UNITS.get(unit.strip().lower())
        if number and scale:
            size = int(number) * scale
    if not 0 <= size <= MAX_SIZE_BYTES:
        raise ConfigError(
            f"{name}: found {quote(value)}, want a whole number of bytes or one with a unit, such as 64 MiB",
            hint="units: B; KiB, MiB, GiB, TiB (K, M, G, T for short); kB, MB, GB, TB are powers of 1000",
            key=name,
        )
    return size


def parse_duration(value: object, *, name: str = "duration") -> float:
    """Read a span of time.

    Args:
        value: a number of seconds, or text: a number alone (seconds), or numbers with the units d, h, m, s, ms, each at
            most once and in this order, such as `1h30m`. Numbers may have a decimal point.
        name: the flag or the key, for the message.

    Returns:
        seconds, from one millisecond to 365 days.

    Raises:
        ConfigError: anything else; its key is `name`.
    """
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and len(value) <= _MAX_TEXT:
        seconds = _seconds(value.strip().lower())
    # Not-a-number fails both comparisons; an integer too large for a float is compared exactly.
    if seconds is None or not MIN_DURATION_S <= seconds <= MAX_DURATION_S:
        raise ConfigError(
            f"{name}: found {quote(value)}, want a time from 1ms to 365d, such as 1.5s, 2m or 1h30m",
            hint="for no time limit, leave it out",
            key=name,
        )
    return float(seconds)


def _seconds(text: str) -> float | None:
    """Add up the parts of a duration in lower case; None where the notation is wrong."""
    number = _number(text)
    if number is not None:
        return number
    total = 0.0
    longer_units = list(_DURATION_UNITS)
    while text:
        rest = text.lstrip(_DIGITS + ".")
        number = _number(text[: len(text) - len(rest)])
        rest = rest.lstrip(" ")
        text = rest.lstrip("dhms")
        unit = rest[: len(rest) - len(text)]
        if number is None or unit not in longer_units:
            return None
        del longer_units[: longer_units.index(unit) + 1]
        multiplier, divisor = _DURATION_UNITS[unit]
        total += number * multiplier / divisor
        text = text.lstrip(" ")
    return total


def _number(text: str) -> float | None:
    """Read digits with at most one point among them; float() alone would also take signs, exponents and `nan`."""
    whole, point, fraction = text.partition(".")
    if not whole or (point and not fraction) or (whole + fraction).strip(_DIGITS):
        return None
    return float(text)
