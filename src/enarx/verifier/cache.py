# SPDX-License-Identifier: Apache-2.0
"""What a verifier remembers between verdicts: work whose outcome can depend on nothing but its key.

Rules of this file:

- It is an explicit argument. Without one, each verdict starts from nothing and comes out the same.
- A key holds everything that the value was computed from, in full and not as a digest of our choice; times are not part
  of it: whoever takes a value out compares its validity with the time at hand.
- It is bounded, in entries and in bytes: what is remembered is about as large as its key, and keys hold what strangers sent. The
  oldest entry goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["TrustCache"]

T = TypeVar("T")


class TrustCache:
    """Remembered results, for any number of threads.

    Args:
        max_entries: how many are kept.
        max_bytes: of their keys together; an entry with a larger key is not kept.
    """

    __slots__ = ("_bytes", "_entries", "_lock", "_max_bytes", "_max_entries")

    def __init__(self, *, max_entries: int = 4096, max_bytes: int = 64 << 20) -> None:
        self._entries: dict[Hashable, tuple[Any, int]] = {}
        self._bytes = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def remember(self, key: Hashable, compute: Callable[[], T], *, holds: Callable[[T], bool] | None = None) -> T:
        """Return what `compute` returned for this key before, or what it returns now.

        Args:
            key: begins with a word for the kind of work.
            compute: is called once for a key, or twice by two threads at the same time. What it raises is not remembered.
            holds: whether what was returned before is good for the time at hand; where it is not, `compute` is called again, and what was
                remembered stays. None takes it whenever it was.
        """
        entries = self._entries
        found = entries.get(key)
        if found is not None:
            value: T = found[0]
            return value if holds is None or holds(value) else compute()
        value = compute()
        size = _size(key)
        if size > self._max_bytes:
            return value
        with self._lock:
            if key not in entries:
                while entries and (len(entries) >= self._max_entries or self._bytes + size > self._max_bytes):
                    self._bytes -= entries.pop(next(iter(entries)))[1]
                entries[key] = (value, size)
                self._bytes += size
        return value


def _size(key: Any) -> int:
    """Return how many bytes there are in a key, and in what it is made of."""
    kind = type(key)
    if kind is bytes:
        return len(key)
    if isinstance(key, (tuple, frozenset)):
        return sum([len(each) if type(each) is bytes else 0 if type(each) is str else _size(each) for each in key])
    if kind is str:
        return 0
    # A record, like `IntelCollateral`.
    return sum(_size(getattr(key, name)) for name in getattr(kind, "__slots__", ()))
