# SPDX-License-Identifier: Apache-2.0
"""HTTP to services in Keeps, for clients that use httpx2.

    with httpx2.Client(transport=KeepTransport(KeepPolicy(steward_root=root)), trust_env=False) as client:
        client.get("https://keep.example/")

Every connection is judged before a request is on it (`enarx.deploy.connecting`), redirects to elsewhere included. What is not
`https://` is refused. A refusal is an `httpx2.ConnectError`, like any other handshake that failed; it says why. No proxy and no trust
setting comes out of the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import httpx2

from enarx.deploy.connecting import KeepPolicy, keep_ssl_context

if TYPE_CHECKING:
    from enarx.deploy.attesting import Fetch

__all__ = ["AsyncKeepTransport", "KeepTransport"]


class KeepTransport(httpx2.HTTPTransport):
    """Sends requests to the Keeps of a policy, and to nobody else.

    Args:
        policy: what is wanted.
        now: the time, aware UTC; None is this machine's clock.
        fetch: as for `keep_ssl_context`.
    """

    def __init__(
        self, policy: KeepPolicy, *, now: Callable[[], datetime] | None = None, fetch: Fetch | None = None
    ) -> None:
        super().__init__(verify=keep_ssl_context(policy, now=now, fetch=fetch), trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request over a connection that was judged."""
        _require_tls(request)
        return super().handle_request(request)


class AsyncKeepTransport(httpx2.AsyncHTTPTransport):
    """The same for `httpx2.AsyncClient`. Judging blocks the loop for some milliseconds, and for all of `fetch` where there is one."""

    def __init__(
        self, policy: KeepPolicy, *, now: Callable[[], datetime] | None = None, fetch: Fetch | None = None
    ) -> None:
        super().__init__(verify=keep_ssl_context(policy, now=now, fetch=fetch), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request over a connection that was judged."""
        _require_tls(request)
        return await super().handle_async_request(request)


def _require_tls(request: httpx2.Request) -> None:
    if request.url.scheme != "https":
        raise httpx2.UnsupportedProtocol(
            f"cannot send to a Keep: found {request.url.scheme}://, want https://", request=request
        )
