# SPDX-License-Identifier: Apache-2.0
"""Ask one question of an HTTPS server and take a bounded answer in bounded time.

Rules of this file:

- It knows nothing of vendors. It sends the URL that it is given, `User-Agent: enarx` and nothing about this machine or user;
  no cookies, no credentials, no proxy or trust settings out of the environment.
- TLS trusts certifi's roots, or instead of them the roots of one file, for a mirror with an authority of its own. Plain HTTP
  is for loopback alone: what is asked says which machines somebody judges.
- The body is taken as it is sent, without decompression, up to a limit; a redirect is followed on the same origin only.
- The whole exchange has one time limit, name resolution and dripping senders included: it happens in a thread that is cut
  off at the limit, because no timeout of a socket bounds how often something arrives.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from enarx.errors import EndorsementError, UsageError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Client", "Reply", "Unreachable", "require_base_url"]

MAX_REDIRECTS = 3
MAX_HEADER_CHARACTERS = 64 << 10
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Reply(NamedTuple):
    """What a server answered.

    Args:
        status: of HTTP.
        headers: by name in lower case.
        body: at most as long as was asked for.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Unreachable(EndorsementError):  # noqa: N818 - it is an EndorsementError to everybody outside of this package
    """There was no answer, and asking again may help."""


def require_base_url(url: str, what: str) -> str:
    """Return a base URL without the slash at its end.

    Args:
        url: `https://host[:port][/path]`, or `http://` for loopback.
        what: it is for, in messages: `AMD KDS`.

    Raises:
        UsageError: anything else.
    """
    try:
        parts = urlsplit(url)
        port_ok = parts.port != 0
    except ValueError:
        parts, port_ok = urlsplit(""), False
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if not (secure and parts.hostname and plain and port_ok and url.isascii() and url.isprintable()) or " " in url:
        # The URL may hold a password.
        raise UsageError(
            f"cannot use the address of {what}: found {parts.scheme or 'no scheme'} and"
            f" {parts.hostname or 'no host'}, want https://host[:port][/path] and nothing else",
            hint="http:// is for a mirror on this machine (127.0.0.1) only",
        )
    return url.rstrip("/")


class Client:
    """Asks servers, each time with a new connection.

    Args:
        proxy: URL of an HTTP or HTTPS proxy, or None for none.
        ca_file: PEM file of the only authorities to trust, or None for certifi's.
        connect_timeout_s: to connect, for each address.
        read_timeout_s: between two pieces of an answer.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: str | None = None,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 10.0,
    ) -> None:
        if proxy is not None and urlsplit(proxy).scheme not in {"http", "https"}:
            raise UsageError("cannot use the proxy: found another kind of address, want http://host:port")
        self._proxy = proxy
        self._ca_file = ca_file
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._context: ssl.SSLContext | None = None

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> Reply:
        """Ask for a URL.

        Args:
            url: as `require_base_url` accepts them, with path and query.
            max_bytes: of the body.
            timeout_s: for everything.

        Raises:
            Unreachable: no answer in time, or none that is HTTP.
            EndorsementError: too large, compressed, or a redirect to elsewhere.
            UsageError: the file of authorities cannot be used.
        """
        self._trust()
        if timeout_s <= 0:
            raise Unreachable("found no time left, want some")
        answers: queue.SimpleQueue[Reply | BaseException] = queue.SimpleQueue()
        sockets: list[socket.socket] = []

        def ask() -> None:
            try:
                answers.put(self._follow(url, max_bytes, min(timeout_s, self._read_timeout_s), sockets))
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
                answers.put(error)

        threading.Thread(target=ask, daemon=True, name="enarx-endorsers").start()
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            raise Unreachable(f"found no whole answer in {timeout_s:.0f} s, want one") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            import certifi

            try:
                self._context = ssl.create_default_context(cafile=self._ca_file or certifi.where())
            except OSError as error:
                raise UsageError(
                    f"cannot use the authorities of the mirror: {self._ca_file}: found {error.strerror or error},"
                    " want a PEM file of certificates"
                ) from error
        return self._context

    def _follow(self, url: str, max_bytes: int, read_timeout_s: float, sockets: list[socket.socket]) -> Reply:
        import httpx2

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
                sockets.append(info["return_value"].get_extra_info("socket"))

        timeout = httpx2.Timeout(read_timeout_s, connect=min(read_timeout_s, self._connect_timeout_s))
        client = httpx2.Client(
            verify=self._trust(),
            trust_env=False,
            proxy=self._proxy,
            timeout=timeout,
            follow_redirects=False,
            headers={"User-Agent": "enarx", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"},
        )
        with client:
            for _ in range(1 + MAX_REDIRECTS):
                reply = _ask(client, url, max_bytes, trace)
                if reply.status not in _REDIRECTS:
                    return reply
                url = _redirected(url, reply.headers.get("location", ""))
        raise EndorsementError(f"found more than {MAX_REDIRECTS} redirects, want an answer")


def _ask(client: httpx2.Client, url: str, max_bytes: int, trace: Callable[[str, dict[str, Any]], None]) -> Reply:
    import httpx2

    try:
        with client.stream("GET", url, extensions={"trace": trace}) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            if headers.get("content-encoding", "identity") != "identity":
                raise EndorsementError("found a compressed answer, want it as it is")
            if any(len(value) > MAX_HEADER_CHARACTERS for value in headers.values()):
                raise EndorsementError(f"found a header of more than {MAX_HEADER_CHARACTERS} characters, want less")
            body = bytearray()
            for piece in response.iter_raw():
                body += piece
                if len(body) > max_bytes:
                    raise EndorsementError(f"found more than {max_bytes} bytes, want at most that")
            return Reply(response.status_code, headers, bytes(body))
    except (httpx2.TransportError, httpx2.StreamError) as error:
        # Its text can name the proxy with its password.
        raise Unreachable(f"found no answer ({type(error).__name__}), want one") from error
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise EndorsementError("found an address that is none, want a URL") from error


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads, if that is the same origin."""
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        same = (here.scheme, here.netloc) == (there.scheme, there.netloc)
    except ValueError:
        target, same = "", False
    if not (same and location):
        raise EndorsementError(
            "found a redirect to another server, want an answer",
            hint="if that server is meant, name it as the mirror",
        )
    return target
