# SPDX-License-Identifier: Apache-2.0
"""What commands that serve read from their options in the same way: where to listen, numbers, sizes."""

from __future__ import annotations

from enarx.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.cli.options import Parsed

__all__ = ["ServiceOptions"]

_MAX_NUMBER = 1_000_000


class ServiceOptions:
    """The options of a command that serves. Each of its methods raises UsageError for what cannot be.

    Args:
        parsed: as they were given.
        command: whose, for messages.
    """

    def __init__(self, parsed: Parsed, command: str) -> None:
        self._parsed = parsed
        self._command = command

    def listen(self, default: str) -> tuple[str, int]:
        """Return address and port of `--listen`."""
        text = self._parsed.value("listen") or default
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
            raise self.wrong("listen", text, "ADDRESS:PORT, such as 127.0.0.1:8470 or [::1]:0")
        return host, int(port)

    def number(self, name: str, default: int, *, least: int = 0) -> int:
        """Return the number of an option, at most a million."""
        text = self._parsed.value(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 7 or not least <= int(text) <= _MAX_NUMBER:
            raise self.wrong(name, text, f"a number from {least} to {_MAX_NUMBER}")
        return int(text)

    def size(self, name: str, default: int, *, least: int = 1, most: int) -> int:
        """Return the bytes of an option such as `64 MiB`."""
        from enarx.wire import parse_size

        text = self._parsed.value(name)
        if text is None:
            return default
        try:
            found = parse_size(text, name=f"--{name}")
        except ConfigError as error:
            raise UsageError(str(error), hint=error.hint) from error
        if not least <= found <= most:
            raise self.wrong(name, text, f"{least} to {most} bytes")
        return found

    def wrong(self, name: str, found: str, want: str) -> UsageError:
        """Return the error of an option that cannot be."""
        return UsageError(
            f"cannot run {self._command}: --{name}: found {found[:64]!r}, want {want}",
            hint=f"enarx {self._command} --help",
        )
