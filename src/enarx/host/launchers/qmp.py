# SPDX-License-Identifier: Apache-2.0
"""What QEMU says on its monitor, as facts; and whether it still answers. No socket: bytes in, bytes out.

QEMU is beyond what protects its host from a guest, so it is believed as little as the guest: a line has a limit, and whatever is
not QMP is an error.

Source: QEMU docs/interop/qmp-spec.rst, qapi/run-state.json.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from enarx.errors import DecodeError

__all__ = ["MAX_LINE_BYTES", "QUIT", "Fact", "Qmp"]

MAX_LINE_BYTES = 1 << 20
_MAX_WORD = 64

QUIT = b'{"execute":"quit"}\n'
"""Has QEMU end, at once."""

_CAPABILITIES = b'{"execute":"qmp_capabilities"}\n'
_QUERY = b'{"execute":"query-status"}\n'
# Of a machine that runs or is about to.
_GOOD_STATES = frozenset({"running", "prelaunch", "inmigrate", "shutdown"})


class Fact(NamedTuple):
    """Something that QEMU said.

    Args:
        kind: `state` that is none of a machine that runs, `shutdown`, or `panic`.
        word: the state; the reason of a shutdown; what QEMU does about a panic.
    """

    kind: str
    word: str


class Qmp:
    """One conversation with a monitor."""

    def __init__(self) -> None:
        self.is_asked = False
        """Whether an answer is awaited."""
        self._buffer = b""
        self._is_open = False

    def feed(self, data: bytes) -> tuple[bytes, list[Fact]]:
        """Take what came.

        Returns:
            What to send, and what was said.

        Raises:
            DecodeError: it is no QMP.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise DecodeError(f"cannot watch QEMU: found a line of more than {MAX_LINE_BYTES} bytes, want QMP")
        answer, facts = b"", []
        for line in lines:
            if not line.strip():
                continue
            message = _decode(line)
            if "QMP" in message:
                answer += _CAPABILITIES
                self.is_asked = True
            elif "event" in message:
                fact, sends = _of_event(message)
                facts += [] if fact is None else [fact]
                # Why a machine stopped is its state, and an event does not say it.
                answer += _QUERY if sends else b""
                self.is_asked = self.is_asked or sends
            elif "error" in message:
                raise DecodeError(
                    f"cannot watch QEMU: found a refusal of its monitor, {_word(message['error'], 'desc')}"
                )
            elif "return" in message:
                self.is_asked = False
                self._is_open = True
                state = _word(message["return"], "status")
                facts += [Fact("state", state)] if state and state not in _GOOD_STATES else []
            else:
                raise DecodeError("cannot watch QEMU: found a message without a meaning, want QMP")
        return answer, facts

    @property
    def can_ask(self) -> bool:
        """Say whether it has greeted, and no answer is awaited."""
        return self._is_open and not self.is_asked

    def ask(self) -> bytes:
        """Return what to send to learn whether QEMU answers; nothing where it cannot be asked now."""
        if not self.can_ask:
            return b""
        self.is_asked = True
        return _QUERY


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError("cannot watch QEMU: found a line that is no JSON, want QMP") from error
    if not isinstance(message, dict):
        raise DecodeError("cannot watch QEMU: found JSON that is no object, want QMP")
    return message


def _of_event(message: dict[str, Any]) -> tuple[Fact | None, bool]:
    """Return what an event says, and whether the state has to be asked for."""
    data, name = message.get("data"), message["event"]
    if name == "SHUTDOWN":
        return Fact("shutdown", _word(data, "reason")), False
    if name == "GUEST_PANICKED":
        return Fact("panic", _word(data, "action")), False
    return None, name == "STOP"


def _word(data: object, key: str) -> str:
    """Return a short printable text of an object, or nothing."""
    value = data.get(key) if isinstance(data, dict) else None
    text = value[:_MAX_WORD] if isinstance(value, str) else ""
    return "".join(character for character in text if character.isprintable())
