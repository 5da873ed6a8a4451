# SPDX-License-Identifier: Apache-2.0
"""What a launcher says to the Keep it starts. None of it is secret or believed: it is what there is room for."""

from __future__ import annotations

from typing import NamedTuple

from enarx.errors import UsageError

__all__ = ["BACKENDS", "MAX_BYTES", "MIN_LOG_BYTES", "Options", "parse_options"]

BACKENDS = ("nil", "vm", "snp", "tdx", "sgx", "cca")
MIN_LOG_BYTES = 1 << 18
"""Two full messages of output, and what it costs to keep them."""

MAX_BYTES = 1 << 50
"""Of each size: a number that nobody means is a mistake."""

_NAMES = ("backend", "memory", "package-limit", "log", "link-fd")


class Options(NamedTuple):
    """What a Keep is and has.

    Args:
        backend: what kind of Keep it is started as.
        memory_bytes: for the workload.
        package_bytes: of all plaintexts together.
        log_bytes: of output that is kept.
        link_fd: the socket on which the host connects, listening.
    """

    backend: str
    memory_bytes: int
    package_bytes: int
    log_bytes: int
    link_fd: int


def parse_options(arguments: list[str]) -> Options:
    """Parse the arguments of the Keep process: each option once, as `--name value`.

    Raises:
        UsageError: one is missing, unknown, given twice or has no such value.
    """
    if len(arguments) % 2:
        raise UsageError(f"cannot start the Keep: arguments: found {len(arguments)}, want pairs of --name value")
    values: dict[str, str] = {}
    for word, value in zip(arguments[::2], arguments[1::2], strict=True):
        name = word.removeprefix("--")
        if not word.startswith("--") or name not in _NAMES or name in values:
            raise UsageError(f"cannot start the Keep: arguments: found {word}, want each of {', '.join(_NAMES)} once")
        values[name] = value
    missing = [name for name in _NAMES if name not in values]
    if missing:
        raise UsageError(f"cannot start the Keep: arguments: found no {', '.join(missing)}")
    if values["backend"] not in BACKENDS:
        raise UsageError(
            f"cannot start the Keep: --backend: found {values['backend']}, want one of {', '.join(BACKENDS)}"
        )
    return Options(
        backend=values["backend"],
        memory_bytes=_number(values, "memory", least=1),
        package_bytes=_number(values, "package-limit", least=1),
        log_bytes=_number(values, "log", least=MIN_LOG_BYTES),
        link_fd=_number(values, "link-fd", least=3),
    )


def _number(values: dict[str, str], name: str, *, least: int) -> int:
    text = values[name]
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not least <= int(text) <= MAX_BYTES:
        raise UsageError(f"cannot start the Keep: --{name}: found {text}, want a number from {least} to {MAX_BYTES}")
    return int(text)
