# SPDX-License-Identifier: Apache-2.0
"""Who a visitor is, and how much he may ask for.

A visitor is the network address that a request comes from, or who a proxy in front says he is: one that signs people in, where they have
to be known. Cookies would make as many visitors of one as he likes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from enarx.errors import UsageError
from enarx.serving.requests import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Visitors"]

HOUR_S = 3600.0
MAX_REMEMBERED = 10_000
"""Who has not come for longest is forgotten first."""

_MAX_NAME = 256
_SITE_BITS = 64


class Visitors:
    """Visitors of the last hour.

    Args:
        an_hour: how many jobs each may start in an hour.
        header: in which a proxy says who it is, or None where visitors come straight.
        time_s: a clock that only goes forward.
    """

    def __init__(self, *, an_hour: int, header: str | None, time_s: Callable[[], float]) -> None:
        self._an_hour = an_hour
        self._header = header
        self._time_s = time_s
        self._starts: OrderedDict[str, deque[float]] = OrderedDict()

    def name_untrusted(self, request: Request) -> str:
        """Return who asks.

        Raises:
            RefusedError: the proxy does not say (401).
        """
        if self._header is None:
            return _site(request.client.host if request.client else "")
        names = request.headers.getlist(self._header)
        # A second one is the visitor's own, and nobody can tell which.
        if len(names) != 1 or not 0 < len(names[0]) <= _MAX_NAME:
            raise RefusedError(
                401,
                UsageError(
                    f"cannot tell who you are: found {len(names)} headers {self._header}, want one",
                    hint="the proxy in front has to set it, and to remove what visitors send",
                ),
            )
        return names[0]

    def admit(self, visitor: str) -> None:
        """Count a job that is about to start.

        Raises:
            RefusedError: he has had as many as he may (429).
        """
        now = self._time_s()
        starts = self._starts.setdefault(visitor, deque())
        self._starts.move_to_end(visitor)
        while starts and starts[0] <= now - HOUR_S:
            starts.popleft()
        if len(starts) >= self._an_hour:
            wait_s = int(starts[0] + HOUR_S - now) + 1
            raise RefusedError(
                429,
                UsageError(f"cannot run another: found {len(starts)} jobs of yours in an hour, want at most that"),
                {"Retry-After": str(wait_s)},
            )
        starts.append(now)
        if len(self._starts) > MAX_REMEMBERED:
            self._starts.popitem(last=False)


def _site(address: str) -> str:
    """Return the address, of which one who has a network has only one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((found, _SITE_BITS), strict=False))
