# SPDX-License-Identifier: Apache-2.0
"""What `run` and `deploy` are told about a workload: its Enarx.toml, and the options that are put over that."""

from __future__ import annotations

import os

from enarx.errors import ConfigError, UsageError
from enarx.wire import decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES
from enarx.wire.overrides import Overrides
from enarx.wire.units import parse_duration, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.cli.options import Parsed
    from enarx.runtime.workload import Directory
    from enarx.wire import EnarxToml


def read_config(path: str) -> EnarxToml:
    """Read an Enarx.toml.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {path}: {error.strerror}", path=path) from error
    return decode_enarx_toml(data, path=path)


def read_overrides(parsed: Parsed) -> Overrides:
    """Return what the workload options say, but for --dir.

    Raises:
        UsageError, ConfigError: a value of another form.
    """
    limits: dict[str, float] = {}
    if (text := parsed.value("memory")) is not None:
        limits["memory-bytes"] = parse_size(text, name="--memory")
    if (text := parsed.value("timeout")) is not None:
        limits["timeout-ms"] = parse_duration(text, name="--timeout") * 1000
    if (text := parsed.value("output")) is not None:
        limits["output-bytes"] = parse_size(text, name="--output")
    for name in ("fuel", "open-files"):
        if (text := parsed.value(name)) is not None:
            limits[name] = _count(name, text)
    return Overrides(
        arguments=parsed.rest,
        environment=[_variable(word) for word in parsed.all("env")],
        listen=[_listen(word) for word in parsed.all("listen")],
        limits=limits,
    )


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise UsageError(f"cannot run: --env: found {word}, want NAME=VALUE")
    return name, value


def read_directory(word: str) -> Directory:
    """Read what `--dir` is given: `HOST::GUEST`, with `::ro` after it for one that is only read.

    Raises:
        UsageError: it is something else, or there is no such directory.
    """
    # Not above: nobody's help needs the runtime.
    from enarx.runtime.workload import Directory

    host, colons, guest = word.partition("::")
    guest, read_only, rest = guest.partition("::")
    if not colons or not host or not guest or (read_only and rest != "ro"):
        raise UsageError(f"cannot run: --dir: found {word}, want HOST::GUEST or HOST::GUEST::ro")
    if not os.path.isdir(host):
        raise UsageError(f"cannot run: --dir: {host}: found no such directory")
    return Directory(host, guest, read_only=bool(read_only))


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 1 <= int(text) < 1 << 63:
        raise UsageError(f"cannot run: --{name}: found {text}, want a number from 1 to {(1 << 63) - 1}")
    return int(text)


def _listen(word: str) -> tuple[str, str, int]:
    """Return name, protocol (empty: the entry's own) and port."""
    name, _, where = word.partition("=")
    prot, colon, port = where.rpartition(":")
    named = name and ":" not in name and name.isprintable()
    numbered = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not named or not numbered or (colon and prot not in {"tcp", "tls"}):
        raise UsageError(f"cannot run: --listen: found {word}, want NAME=PORT, NAME=tls:PORT or NAME=tcp:PORT")
    return name, prot, int(port)
