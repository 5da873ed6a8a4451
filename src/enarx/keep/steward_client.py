# SPDX-License-Identifier: Apache-2.0
"""Ask a Steward: one request on a connection of its own, in TLS 1.3 that ends in this process, over a stream that the host carries.

Rules of this file:

- The Steward is who the tenant's root says it is, and nobody else: no public root counts. The host carries bytes that it cannot read.
- Every wait has an end and every answer a size. What comes back is one line of text at most where it is shown to somebody.
- Only the Keep asks here: the workload has no part in it, and `allow_connect` says nothing about it, because the tenant named the
  Steward.

Blocking TLS is in a thread, on one end of a socket pair whose other end is the stream's; where the stream ends, the thread does.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NoReturn

from cryptography import x509

from enarx.channel.link import Stream, relay
from enarx.errors import (
    AppraisalError,
    DecodeError,
    EnarxError,
    EndorsementError,
    TransportError,
    VerificationError,
)
from enarx.runtime.http1 import ProtocolError, ResponseParser
from enarx.runtime.tls import ClientTls, TlsStream
from enarx.wire.steward import (
    CERTIFICATES_PATH,
    CHALLENGE_PATH,
    MAX_ANSWER_BYTES,
    MAX_PROBLEM_BYTES,
    MEDIA_TYPE_JSON,
    MEDIA_TYPE_PROBLEM,
    CertificateAnswer,
    CertificateRequest,
    ChallengeAnswer,
    Problem,
    decode_certificate_answer_untrusted,
    decode_challenge_answer_untrusted,
    decode_problem_untrusted,
    encode_certificate_request,
)
from enarx.wire.steward_url import StewardUrl

__all__ = ["StewardClient", "raise_problem"]

EXCHANGE_S = 45.0
"""For one request and its answer; a Steward may have to fetch what decides about evidence."""

_READ_BYTES = 1 << 16
_CLASS_OF = {
    "not-authentic": VerificationError,
    "refused": AppraisalError,
    "no-grant": AppraisalError,
    "undecided": EndorsementError,
    "replayed-nonce": VerificationError,
    "decode": DecodeError,
    "usage": DecodeError,
    "media-type": DecodeError,
    "too-large": DecodeError,
}
"""What a problem is to the tenant; another one is of the Steward's service, which may answer later."""


class StewardClient:
    """Asks one Steward.

    Args:
        url: where it is.
        root: that its chain has to end in.
        connect: opens a stream to a host and a port; it raises TransportError, in time.
        now: the Keep's wall time.
    """

    def __init__(
        self,
        url: StewardUrl,
        root: x509.Certificate,
        *,
        connect: Callable[[str, int], Awaitable[Stream]],
        now: Callable[[], datetime],
    ) -> None:
        self._url = url
        self._connect = connect
        self._now = now
        self._tls = ClientTls(None, trust_anchors=(root,), alpn=("http/1.1",), verify_at=lambda: int(now().timestamp()))
        self.name = url.authority

    async def challenge(self) -> ChallengeAnswer:
        """Ask what evidence has to be over.

        Raises:
            TransportError: the Steward cannot be reached, or does not answer in time.
            DecodeError: the answer is none.
        """
        return decode_challenge_answer_untrusted(await self._post(CHALLENGE_PATH, b"{}"))

    async def certify(self, request: CertificateRequest) -> CertificateAnswer:
        """Ask for a certificate; what comes back is not judged yet.

        Raises:
            VerificationError, AppraisalError, EndorsementError: the Steward refuses, or cannot decide.
            TransportError: it cannot be reached, or does not answer in time.
            DecodeError: the answer is none, or the Steward does not understand the request.
        """
        return decode_certificate_answer_untrusted(
            await self._post(CERTIFICATES_PATH, encode_certificate_request(request))
        )

    async def _post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer; errors as of `certify`."""
        head = (
            f"POST {self._url.path}{path} HTTP/1.1\r\nHost: {self._url.authority}\r\nContent-Type: {MEDIA_TYPE_JSON}\r\n"
            f"Accept: {MEDIA_TYPE_JSON}, {MEDIA_TYPE_PROBLEM}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        stream = await self._connect(self._url.host, self._url.port)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        carrying = asyncio.ensure_future(relay(stream, ours))
        try:
            status, kind, answer = await asyncio.to_thread(self._exchange, theirs, head.encode("ascii") + body)
        finally:
            # It closes its end, and with that the thread's waiting is over.
            carrying.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransportError):
                await carrying
        if status in {200, 201} and kind == MEDIA_TYPE_JSON:
            return answer
        if status >= 400 and kind == MEDIA_TYPE_PROBLEM:
            raise_problem(self.name, decode_problem_untrusted(answer))
        raise TransportError(
            f"cannot ask the Steward {self.name}: found status {status}, want a certificate or a reason",
            hint="is a Steward at that URL?",
        )

    def _exchange(self, sock: socket.socket, request: bytes) -> tuple[int, str, bytes]:
        """Send a request and return status, media type and body of the answer; it blocks, and owns the socket."""
        deadline_s = time.monotonic() + EXCHANGE_S
        sock.setblocking(False)
        try:
            stream = self._tls.stream(sock, host=self._url.host, peer=f"the Steward {self.name}")
        except BaseException:
            sock.close()
            raise
        try:
            stream.handshake_within(EXCHANGE_S)
            _send(stream, request, deadline_s)
            return _receive(stream, deadline_s)
        except EnarxError as error:
            if "it is valid from" in str(error):
                raise TransportError(
                    f"{error}; this Keep's clock, which is the tenant's, says {self._now():%Y-%m-%dT%H:%M:%SZ}",
                    hint="is the clock of the machine that deploys right, and that of the Steward?",
                ) from error
            raise
        except (OSError, ProtocolError) as error:
            raise TransportError(
                f"cannot ask the Steward {self.name}: found {str(error).lower()[:200]}, want an answer"
            ) from error
        finally:
            stream.close()


def raise_problem(name: str, problem: Problem) -> NoReturn:
    """Raise what a Steward says went wrong, as its class.

    Args:
        name: of the Steward.
        problem: text in it is on one line.
    """
    said = ": ".join(text for text in (problem.title, problem.detail) if text) or f"status {problem.status}"
    check = f" [{problem.check}]" if problem.check else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    raise _CLASS_OF.get(problem.kind, TransportError)(f"the Steward {name} refused: {said}{check}{hint}"[:1000])


def _send(stream: TlsStream, data: bytes, deadline_s: float) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[stream.send(view) :]
        except BlockingIOError:
            _wait(stream, deadline_s)


def _receive(stream: TlsStream, deadline_s: float) -> tuple[int, str, bytes]:
    parser = ResponseParser(b"POST")
    buffer = memoryview(bytearray(_READ_BYTES))
    size = 0
    while True:
        try:
            count = stream.recv_into(buffer)
        except BlockingIOError:
            _wait(stream, deadline_s)
            continue
        if count:
            parser.feed(bytes(buffer[:count]))
        else:
            parser.feed_end()
        if not parser.messages:
            continue
        message = parser.messages[0]
        size = sum(map(len, message.chunks))
        most = MAX_PROBLEM_BYTES if message.status >= 400 else MAX_ANSWER_BYTES
        if size > most:
            raise TransportError(f"cannot ask the Steward: found an answer of more than {most} bytes, want fewer")
        if message.complete:
            kind = dict(message.headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
            return message.status, kind.decode("ascii", "replace"), b"".join(message.chunks)


def _wait(stream: TlsStream, deadline_s: float) -> None:
    poll = select.poll()
    poll.register(stream.fileno(), stream.wants)
    left_s = deadline_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TransportError(f"cannot ask the Steward: found no answer, want one within {EXCHANGE_S:g} s")
