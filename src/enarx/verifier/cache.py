# SPDX-License-Identifier: Apache-2.0
"""What a verifier remembers between verdicts: work whose outcome can depend on nothing but its key.

Rules of this file:

- It is an explicit argument. Without one, each verdict starts from nothing and comes out the same.
- A key holds everything that the value was computed from, in full and not as a digest of our choice; times are not part
  of it: whoever takes a value out compares its validity with the time at hand.
- It is bounded. The oldest entry goes first.
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
    """

    __slots__ = ("_entries", "_lock", "_max_entries")

    def __init__(self, *, max_entries: int = 4096) -> None:
        self._entries: dict[Hashable, Any] = {}
        self._max_entries = max_entries
        self._lock = threading.Lock()

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned for this key before, or what it returns now.

        Args:
            key: begins with a word for the kind of work.
            compute: is called once for a key, or twice by two threads at the same time. What it raises is not remembered.
        """
        entries = self._entries
        found = entries.get(key)
        if found is not None:
            value: T = found[0]
            return value
        value = compute()
        with self._lock:
            while len(entries) >= self._max_entries:
                del entries[next(iter(entries))]
            entries[key] = (value,)
        return value
