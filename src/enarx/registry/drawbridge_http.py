# SPDX-License-Identifier: Apache-2.0
"""Ask a Drawbridge, the original's registry, for one thing at a time: over HTTP, with limits, in bounded time.

Rules of this file:

- TLS, with certifi's roots or those of one file. Plain HTTP is for loopback alone, and only where it was asked for.
- What is asked for is served where it was asked, or it is refused: nothing is redirected, so a token goes to nobody else. Nothing comes
  out of the environment: no proxy, no credentials.
- The token is in no message and no log; a server that sends it back in an answer finds it taken out.
- A body is taken as it is sent, piece by piece, up to a limit. The whole exchange has one time limit, name resolution and dripping
  senders included: it happens in a thread that is cut off at the limit, because no timeout of a socket bounds how often something
  arrives.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from enarx.errors import DecodeError, TransportError, UsageError
from enarx.wire.drawbridge import DrawbridgeRef
from enarx.wire.quoting import quote

__all__ = ["API_VERSION", "Answer", "Asker", "require_token"]

API_VERSION = "0.1.0"
"""What the original's own client asks for."""

STALL_S = 30.0
"""Between two pieces of an answer, and to connect."""
DOCUMENT_S = 60.0
"""For an answer of up to 1 MB."""
TOTAL_S = 3600.0
"""For everything that one `Asker` asks for, from the first question on."""
_LEAST_BYTES_PER_S = 100_000
"""What is larger has as much more time as it takes at this speed."""

_MAX_TOKEN = 16 << 10
_MAX_SAID_BYTES = 4096
_SHOWN_CHARACTERS = 200
_HINTS = {
    401: "a private repository wants the token of its owner: --token-file FILE, or ENARX_DRAWBRIDGE_TOKEN",
    403: "a private repository wants the token of its owner: --token-file FILE, or ENARX_DRAWBRIDGE_TOKEN",
    404: "is the name right, and is there such a version?",
    501: f"this server has another version of the API than {API_VERSION}",
}


class Answer(NamedTuple):
    """What came before a body.

    Args:
        media_type: as it was sent, empty where there was none.
        content_digest: the header, empty where there was none.
        length: of the body, in bytes.
    """

    media_type: str
    content_digest: str
    length: int


def require_token(text: str) -> str:
    """Return a bearer token without the white space around it.

    Raises:
        UsageError: it is none. The message does not say what it is.
    """
    token = text.strip()
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"cannot use the token: found {len(token)} characters that are no token, want 1 to {_MAX_TOKEN} without spaces"
        )
    return token


class Asker:
    """Asks for what belongs to one package, each time with a new connection.

    Args:
        ref: the package.
        token: as `require_token` returns it, or None.
        ca_file: PEM file of the only authorities to trust, or None for certifi's.
        plain_http: whether there is no TLS, which is for loopback alone.
        stall_s: `STALL_S`, or another.
        document_s: `DOCUMENT_S`, or another.
        total_s: `TOTAL_S`, or another.

    Raises:
        UsageError: plain HTTP to elsewhere, or a file of authorities that is none.
    """

    def __init__(
        self,
        ref: DrawbridgeRef,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        plain_http: bool = False,
        stall_s: float = STALL_S,
        document_s: float = DOCUMENT_S,
        total_s: float = TOTAL_S,
    ) -> None:
        if plain_http and not _is_loopback(ref.host):
            raise UsageError(
                f"cannot ask {ref.authority} without TLS: found another host than this one, want TLS",
                hint="plain HTTP is for a registry on this machine (127.0.0.1) only",
            )
        self._ref = ref
        self._token = token
        self._base = (
            f"{'http' if plain_http else 'https'}://{ref.authority}/api/v{API_VERSION}/{ref.user}/{ref.repository}"
        )
        self._context = None if plain_http else _trust(ca_file)
        self._stall_s = stall_s
        self._document_s = document_s
        self._total_s = total_s
        self._began_s: float | None = None

    def get(self, path: str, *, max_bytes: int, write: Callable[[bytes], object]) -> Answer:
        """Ask for something.

        Args:
            path: below the repository, as `/_tag/1.0.0/tree/main.wasm`: of a grammar that needs no escapes.
            max_bytes: of the body; one that is larger is refused.
            write: is called with each piece of the body, from another thread, while this one waits. What it raises ends the exchange.

        Raises:
            TransportError: there is no answer, not in time, not a whole one, a larger one, or one that says no.
            DecodeError: the answer is compressed, or its length is not one.
        """
        now_s = time.monotonic()
        self._began_s = now_s if self._began_s is None else self._began_s
        left_s = self._began_s + self._total_s - now_s
        if left_s <= 0:
            raise self._error(path, f"found more to ask for after {self._total_s:.0f} s, want all of it by then")
        timeout_s = min(left_s, self._document_s + max_bytes / _LEAST_BYTES_PER_S)
        answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        sockets: list[socket.socket] = []
        is_over = threading.Event()

        def write_in_time(piece: bytes) -> None:
            if not is_over.is_set():
                write(piece)

        def ask() -> None:
            try:
                answers.put(self._exchange(path, max_bytes, write_in_time, sockets))
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
                answers.put(error)

        threading.Thread(target=ask, daemon=True, name="enarx-drawbridge").start()
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            is_over.set()
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            raise self._error(path, f"found no whole answer in {timeout_s:.0f} s, want one") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _exchange(
        self, path: str, max_bytes: int, write: Callable[[bytes], object], sockets: list[socket.socket]
    ) -> Answer:
        import httpx2

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
                sockets.append(info["return_value"].get_extra_info("socket"))

        headers = {"User-Agent": "enarx", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            with (
                httpx2.Client(
                    verify=self._context if self._context is not None else False,
                    trust_env=False,
                    timeout=httpx2.Timeout(self._stall_s),
                    follow_redirects=False,
                    headers=headers,
                ) as client,
                client.stream("GET", self._base + path, extensions={"trace": trace}) as response,
            ):
                return self._take(path, response, max_bytes, write)
        except (httpx2.TransportError, httpx2.StreamError, httpx2.InvalidURL) as error:
            # Its own text may quote what was sent.
            raise self._error(
                path,
                f"found no whole answer ({type(error).__name__}), want one",
                hint="--ca-bundle FILE names the authorities to trust, where they are not the usual ones"
                if isinstance(error.__cause__, ssl.SSLError) or "certificate" in str(error).lower()
                else None,
            ) from error

    def _take(self, path: str, response: Any, max_bytes: int, write: Callable[[bytes], object]) -> Answer:
        headers = response.headers
        status = int(response.status_code)
        if status != 200:
            raise self._refusal(path, status, response)
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise DecodeError(f"cannot read {self._name(path)}: found a compressed answer, want it as it is")
        declared = headers.get("content-length")
        if declared is not None and (not declared.isascii() or not declared.isdigit() or len(declared) > 15):
            raise DecodeError(f"cannot read {self._name(path)}: found the length {quote(declared)}, want a number")
        if declared is not None and int(declared) > max_bytes:
            raise self._error(path, f"found {declared} bytes, want at most {max_bytes}")
        length = 0
        for piece in response.iter_raw():
            length += len(piece)
            if length > max_bytes:
                raise self._error(path, f"found more than {max_bytes} bytes, want at most that")
            write(piece)
        if declared is not None and int(declared) != length:
            raise self._error(path, f"found {length} bytes, want the {declared} that were announced")
        return Answer(
            media_type=self._without_token(headers.get("content-type", "").strip()),
            content_digest=self._without_token(", ".join(headers.get_list("content-digest"))),
            length=length,
        )

    def _refusal(self, path: str, status: int, response: Any) -> TransportError:
        if 300 <= status < 400:
            return self._error(path, f"found a redirect ({status}), want the answer: none is followed")
        said = bytearray()
        for piece in response.iter_raw():
            said += piece
            if len(said) > _MAX_SAID_BYTES:
                break
        text = self._without_token(bytes(said[:_MAX_SAID_BYTES]).decode("utf-8", "replace"))
        shown = "".join(each if each.isprintable() else " " for each in text)[:_SHOWN_CHARACTERS].strip()
        return self._error(
            path, f"found status {status}{': ' + shown if shown else ''}, want 200", hint=_HINTS.get(status)
        )

    def _without_token(self, text: str) -> str:
        return text if self._token is None else text.replace(self._token, "[token]")

    def _name(self, path: str) -> str:
        return f"{self._ref.authority}/{self._ref.user}/{self._ref.repository}{path}"

    def _error(self, path: str, what: str, *, hint: str | None = None) -> TransportError:
        return TransportError(f"cannot read {self._name(path)}: {what}", hint=hint)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trust(ca_file: str | None) -> ssl.SSLContext:
    import certifi

    try:
        return ssl.create_default_context(cafile=ca_file or certifi.where())
    except OSError as error:
        raise UsageError(
            f"cannot use the authorities: {ca_file}: found {error.strerror or error}, want a PEM file of certificates"
        ) from error
