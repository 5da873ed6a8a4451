# SPDX-License-Identifier: Apache-2.0
"""The end of what a workload wrote, for whoever attaches: bounded, in the order in which it was read, with offsets.

Offsets count the bytes of stdout and stderr together, from the workload's beginning. When there is no room, the oldest goes;
unless a session has still to send it, which is what makes the workload wait (`pin`).
"""

from __future__ import annotations

from bisect import bisect_right

from enarx.wire.session import Output

__all__ = ["Log"]

_PIECE_COST_BYTES = 192
"""What Python needs for a piece beside its bytes: a workload that writes single bytes in turn to both outputs counts as well."""
_MERGED_BYTES = 4096


class Log:
    """A ring of output.

    Args:
        capacity_bytes: of memory, what it costs to keep each piece included.
    """

    __slots__ = ("_capacity", "_first", "_names", "_offsets", "_pieces", "_used", "end", "pin")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        # Lists of one length, of which those before `_first` are gone: dropping is cheap, and so is finding an offset.
        self._offsets: list[int] = []
        self._names: list[str] = []
        self._pieces: list[bytes] = []
        self._first = 0
        self._used = 0
        self.end = 0
        """One past the last byte."""
        self.pin: int | None = None
        """What is from here on must not be dropped, if anything."""

    @property
    def start(self) -> int:
        """The offset of the first byte that is still there."""
        return self._offsets[self._first] if self._first < len(self._offsets) else self.end

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes can be appended without dropping what is pinned. What can go to make room, goes."""
        wanted = size + _PIECE_COST_BYTES
        while self._used + wanted > self._capacity and self._first < len(self._pieces):
            if self.pin is not None and self._offsets[self._first] + len(self._pieces[self._first]) > self.pin:
                return False
            self._drop()
        return True

    def append(self, name: str, data: bytes) -> None:
        """Add what was written, at most 65536 bytes. Only `has_room` minds the pin."""
        last = len(self._pieces) - 1
        if last >= self._first and self._names[last] == name and len(self._pieces[last]) + len(data) <= _MERGED_BYTES:
            self._pieces[last] += data
            self._used += len(data)
        else:
            self._offsets.append(self.end)
            self._names.append(name)
            self._pieces.append(data)
            self._used += len(data) + _PIECE_COST_BYTES
        self.end += len(data)
        while self._used > self._capacity:
            self._drop()

    def read(self, offset: int, max_bytes: int) -> list[Output]:
        """Return output from an offset on, about so many bytes of it; from the start, where the offset is before it."""
        outputs: list[Output] = []
        offset = max(offset, self.start)
        if offset >= self.end:
            return outputs
        at = bisect_right(self._offsets, offset, self._first) - 1
        while at < len(self._pieces) and max_bytes > 0:
            data = self._pieces[at]
            if offset > self._offsets[at]:
                data = data[offset - self._offsets[at] :]
            outputs.append(Output(self._names[at], offset, data))
            offset += len(data)
            max_bytes -= len(data)
            at += 1
        return outputs

    def _drop(self) -> None:
        self._used -= len(self._pieces[self._first]) + _PIECE_COST_BYTES
        self._pieces[self._first] = b""
        self._first += 1
        if self._first > 64 and self._first * 2 > len(self._pieces):
            del self._offsets[: self._first], self._names[: self._first], self._pieces[: self._first]
            self._first = 0
