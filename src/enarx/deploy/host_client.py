# SPDX-License-Identifier: Apache-2.0
"""Ask a host for Keeps over its HTTP API, and reach them through its WebSocket relay.

Rules of this file:

- The host is not trusted. What it answers is bounded in size and time, read strictly, and stripped of control characters before
  anybody sees it; nothing here draws a conclusion from it.
- It is told the backend, the memory, names and numbers of ports, the tenant's token, and later ciphertext. Nothing else.
- The token goes to a host over TLS or to this machine, never in the clear over a network; it is in no message.
- No proxy, cookie or trust setting comes out of the environment.

What holds it together is the one API, which the host itself describes at /openapi.json: addresses and records first, then a client with a
call for each question, then the strict reading of answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx2

from enarx.errors import DecodeError, EnarxError, KeepError, PlatformError, TransportError, UsageError
from enarx.wire.host_api import DEFAULT_PORT, MAX_PORTS, MAX_TOKEN_BYTES
from enarx.wire.strict_json import load_json_untrusted

if TYPE_CHECKING:
    from enarx.deploy.sealing import SealedBlob, StoredBlob
    from enarx.deploy.socket_stream import SocketStream
    from enarx.image.measure import LaunchParts

__all__ = [
    "HostAddress",
    "HostClient",
    "HostKeep",
    "HostPort",
    "HostReason",
    "clean",
    "parse_address",
    "refusal",
    "require_id",
]

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
CREATE_TIMEOUT_S = 270.0
"""For a Keep that starts: the host lets it wait 120 s for its turn, and gives a machine 130 s."""
PROGRESS_TIMEOUT_S = 30.0
"""For an upload of which nothing arrives."""
MAX_ANSWER_BYTES = 4 << 20
_MAX_KEEPS = 10_000
_MAX_TEXT_CHARS = 1024
_MAX_IDLE_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN_BYTES}}}")
_PARTS = {"firmware": 48, "kernel": 32, "initramfs": 32, "cmdline": 32}
_ERRORS: Mapping[str, type[EnarxError]] = {
    "UsageError": UsageError,
    "TransportError": TransportError,
    "PlatformError": PlatformError,
    "KeepError": KeepError,
}
"""The classes of errors that a host can speak of; what attestation decides is never its word."""


def clean(text: str, max_chars: int = _MAX_TEXT_CHARS) -> str:
    """Return text of a host's in one line without control characters, so that it can be shown."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:max_chars])
    return shown + ("\N{HORIZONTAL ELLIPSIS}" if len(text) > max_chars else "")


class HostAddress(NamedTuple):
    """Where a host is.

    Args:
        url: without a slash at its end.
        name: `host:port`, for folders and people.
        is_secure: whether it is reached over TLS.
        is_local: whether it is on this machine.
    """

    url: str
    name: str
    is_secure: bool
    is_local: bool


def parse_address(text: str) -> HostAddress:
    """Read `--to` and `--on`.

    Args:
        text: `http://host[:port][/path]`, the same with https, or `host[:port]`, which is https, and http on this machine. The port
            is 8470 where none is said.

    Raises:
        UsageError: anything else.
    """
    scheme = "http" if re.match(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::|$)", text) else "https"
    url = text if "://" in text else f"{scheme}://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in {"http", "https"} or not host or not plain or port == 0 or not re.fullmatch(r"[!-~]+", url):
        # Not shown as a whole: there may be a password in it.
        raise UsageError(
            f"cannot use the host's address: found {parts.scheme or 'no scheme'} and {host or 'no host'},"
            " want https://host[:port] or http://host[:port]",
            hint=f"enarx host serve says its own: http://127.0.0.1:{DEFAULT_PORT} if nothing else was chosen",
        )
    port = port or DEFAULT_PORT
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = parts.path.rstrip("/")
    return HostAddress(f"{parts.scheme}://{name}{path}", name, parts.scheme == "https", host in _LOOPBACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A port that a host publishes for a workload.

    Args:
        name: of its entry in Enarx.toml.
        port: at the host; asked for as 0 it is any free one.
    """

    name: str
    port: int


class HostReason(NamedTuple):
    """Why a Keep ended, as a host says it.

    Args:
        kind: name of an error's class.
        message: its line.
        hint: the next step, or None.
    """

    kind: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeep:
    """What a host says of a Keep. Nothing here is attested.

    Args:
        id: the host's name for it.
        backend: what it is said to run in.
        state: `starting`, `ready`, `ended` or `lost`, or whatever else the host says.
        created: when, as the host writes it.
        memory_bytes: that it may use.
        ports: as they are bound.
        vtpm_key_sha256: of the key that its virtual TPM attests with, where it has one.
        reason: why it ended, where that was an error.
    """

    id: str
    backend: str
    state: str
    created: str
    memory_bytes: int
    ports: tuple[HostPort, ...]
    vtpm_key_sha256: str | None = None
    reason: HostReason | None = None


class HostClient:
    """One host, and who is asking.

    Args:
        address: of the host.
        token: for the `Authorization` header, or None.
        ca_file: PEM of the only authorities to trust for TLS to the host; None is certifi's.
        certificate: PEM file of a client certificate, or None.
        private_key: its PEM file; None where it is in the same file.

    Raises:
        UsageError: a token would travel in the clear, or a file cannot be used.
    """

    def __init__(
        self,
        address: HostAddress,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        certificate: str | None = None,
        private_key: str | None = None,
    ) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError(
                f"cannot use the host's token: found {len(token)} characters, want 1 to {MAX_TOKEN_BYTES} of printable ASCII, no spaces"
            )
        if token is not None and not address.is_secure and not address.is_local:
            raise UsageError(
                f"cannot send the token to {address.url}: found http://, want https://, because everybody on the way could read it",
                hint="use https://, or a tunnel to this machine such as ssh -L",
            )
        self.address = address
        self._headers = {"User-Agent": "enarx", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._context = _make_context(address, ca_file, certificate, private_key)
        self._client: httpx2.AsyncClient | None = None
        self._streams: list[SocketStream] = []

    async def __aenter__(self) -> Self:
        self._client = httpx2.AsyncClient(
            base_url=self.address.url,
            headers={**self._headers, "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # A context that knows nobody, where there is no TLS: making one with all authorities takes longer than asking.
            verify=self._context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            await stream.wait_closed()
        if self._client is not None:
            await self._client.aclose()

    async def create_keep(self, *, backend: str, memory_bytes: int, ports: Sequence[HostPort]) -> HostKeep:
        """Have a Keep started; it is empty, and a session with it can be opened.

        Raises:
            TransportError: the host cannot be reached, or does not answer as an enarx host does.
            UsageError: the host refuses; so do the other classes that a host's errors can have.
        """
        wanted = {
            "backend": backend,
            "memory-bytes": memory_bytes,
            "ports": [{"name": port.name, "port": port.port} for port in ports],
        }
        return _keep(await self._ask("POST", "/v1/keeps", body=wanted, timeout_s=CREATE_TIMEOUT_S))

    async def list_keeps(self) -> tuple[HostKeep, ...]:
        """Return the tenant's Keeps; raises as `create_keep` does."""
        answer = await self._ask("GET", "/v1/keeps")
        keeps = answer.get("keeps") if isinstance(answer, dict) else answer
        if not isinstance(keeps, list) or len(keeps) > _MAX_KEEPS:
            raise _odd("keeps", keeps, f"an array of at most {_MAX_KEEPS}")
        return tuple(_keep(each) for each in keeps)

    async def show_keep(self, keep_id: str) -> HostKeep:
        """Return one Keep; raises as `create_keep` does."""
        return _keep(await self._ask("GET", f"/v1/keeps/{require_id(keep_id)}"))

    async def show_parts(self, keep_id: str) -> LaunchParts:
        """Return what the host says that a Keep's machine was started with; raises as `create_keep` does."""
        from enarx.image.measure import LaunchParts

        said = await self._ask("GET", f"/v1/keeps/{require_id(keep_id)}/parts")
        if not isinstance(said, dict):
            raise _odd("parts", said, "an object")
        return LaunchParts(*(_digest(said, name, size) for name, size in _PARTS.items()))

    async def delete_keep(self, keep_id: str) -> None:
        """Have a Keep killed and forgotten; raises as `create_keep` does."""
        await self._ask("DELETE", f"/v1/keeps/{require_id(keep_id)}")

    async def upload(self, keep_id: str, blob: SealedBlob) -> None:
        """Hand over ciphertext, going on where it stopped after a connection broke.

        Raises:
            TransportError: it does not get on.
        """
        path = f"/v1/keeps/{require_id(keep_id)}/blobs/{blob.digest.hex()}"
        offset, reached, idle = 0, 0, 0
        while offset < blob.length:
            problem = None
            try:
                offset = await self._append(path, blob, offset)
            except _BrokenError as error:
                problem = error
                offset = await self._offset_of(path, offset)
            if offset > reached:
                reached, idle = offset, 0
                continue
            # Whatever the host answers: one that always names another offset gets on as little as one that breaks off.
            idle += 1
            if idle == _MAX_IDLE_ATTEMPTS:
                raise TransportError(
                    f"cannot upload to {self.address.url}: found {problem or f'offset {offset}'}, {idle} times without getting"
                    f" on, want all {blob.length} bytes taken",
                    hint="try again; the Keep is still empty and will be taken down",
                ) from problem
            await asyncio.sleep(_FIRST_PAUSE_S * 2**idle)

    async def fetch_blob(self, keep_id: str, stored: StoredBlob) -> None:
        """Have the host begin to fetch a blob from a registry.

        Raises:
            UsageError: it does not fetch from there, or at all.
            PlatformError: it cannot have it from there, or fetches too much already. Otherwise as `create_keep` does.
        """
        path = f"/v1/keeps/{require_id(keep_id)}/blobs/{stored.blob.ciphertext.hex()}/fetch"
        where = {"registry": stored.registry, "repository": stored.repository}
        await self._ask("POST", path, body={**where, "length": stored.blob.ciphertext_length})

    async def _append(self, path: str, blob: SealedBlob, offset: int) -> int:
        """Send everything from an offset on, and return how much the host has then."""

        async def content() -> AsyncIterator[bytes]:
            for chunk in blob.chunks_from(offset):
                yield chunk

        headers = {
            "Upload-Offset": str(offset),
            "Upload-Length": str(blob.length),
            "Content-Length": str(blob.length - offset),
            "Content-Type": "application/octet-stream",
        }
        timeout = httpx2.Timeout(PROGRESS_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._stream("PATCH", path, headers=headers, content=content(), timeout=timeout) as answer:
                if answer.status_code == 409 and (there := _upload_offset(answer, blob.length)) not in {None, offset}:
                    return int(there or 0)
                if not answer.is_success:
                    raise await self._refusal(answer)
                return _upload_offset(answer, blob.length) or blob.length
        except httpx2.HTTPError as error:
            raise _BrokenError(clean(str(error)) or type(error).__name__) from error

    async def _offset_of(self, path: str, known: int) -> int:
        try:
            async with self._stream("HEAD", path) as answer:
                return (_upload_offset(answer, 1 << 62) or 0) if answer.is_success else 0
        except httpx2.HTTPError:
            # The next attempt to send says whether the host is still there.
            return known

    async def open_session(self, keep_id: str) -> SocketStream:
        """Open a byte stream to a Keep; raises as `create_keep` does."""
        from enarx.deploy.socket_stream import open_socket_stream

        url = f"ws{self.address.url[4:]}/v1/keeps/{require_id(keep_id)}/session"
        stream = await open_socket_stream(url, headers=self._headers, context=self._context, where=self.address.url)
        self._streams.append(stream)
        return stream

    @asynccontextmanager
    async def _stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx2.Response]:
        if self._client is None:
            raise UsageError("cannot ask the host: found a client that was not entered, want `async with`")
        async with self._client.stream(method, self.address.url + path, **options) as answer:
            yield answer

    async def _ask(self, method: str, path: str, *, body: object = None, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            # The client's own limit is for each piece of an answer, this one for all of it.
            async with (
                asyncio.timeout(timeout_s),
                self._stream(method, path, content=content, headers=headers, timeout=timeout_s) as answer,
            ):
                if not answer.is_success:
                    raise await self._refusal(answer)
                data = await _read_limited(answer)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise TransportError(
                f"cannot reach the host: {self.address.url}: found no answer in {timeout_s:.0f} s, want one of an enarx host",
                hint=_WRONG_HOST,
            ) from error
        except httpx2.ConnectError as error:
            raise TransportError(
                f"cannot reach the host: {self.address.url}: found {_reason(error)}, want an enarx host",
                hint=_WRONG_HOST,
            ) from error
        except httpx2.HTTPError as error:
            raise TransportError(
                f"cannot understand the host: {self.address.url}: found no answer in HTTP ({_reason(error)}), want an enarx host",
                hint=_WRONG_HOST,
            ) from error
        if method == "DELETE":
            return None
        return self._json(data)

    def _json(self, data: bytes) -> Any:
        try:
            return load_json_untrusted(data, what="host's answer", max_bytes=MAX_ANSWER_BYTES)
        except DecodeError as error:
            raise TransportError(
                f"cannot understand the host: {self.address.url}: found an answer that is no JSON, want an enarx host",
                hint=_WRONG_HOST,
            ) from error

    async def _refusal(self, answer: httpx2.Response) -> EnarxError:
        return refusal(answer.status_code, await _read_limited(answer), self.address.url)


def refusal(status: int, body: bytes, where: str) -> EnarxError:
    """Return a host's refusal as an error of ours, in its own words where it has any.

    Args:
        status: of HTTP.
        body: of the answer.
        where: the host, for messages.
    """
    try:
        said = load_json_untrusted(body, what="host's answer", max_bytes=MAX_ANSWER_BYTES)
        kind, message, hint = _told(said["error"])
    except (DecodeError, TypeError, KeyError, AttributeError):
        return TransportError(
            f"cannot understand the host: {where}: found status {status} and no reason that an enarx host of this version gives,"
            " want one",
            hint=_WRONG_HOST,
        )
    if status in {401, 403}:
        hint = _ACCESS_HINT
    return _ERRORS.get(kind, TransportError)(f"the host {where} says: {message}", hint=hint)


class _BrokenError(Exception):
    """A connection ended before everything was sent."""


_ACCESS_HINT = "set ENARX_HOST_TOKEN or pass --token-file with the token that the host's owner gave you"
_WRONG_HOST = "check the address and port, and that `enarx host serve` of the same version runs there"


def require_id(keep_id: str) -> str:
    """Return a Keep's id where it is one; it becomes part of URLs and of file names.

    Raises:
        UsageError: it is none.
    """
    if not _ID.fullmatch(keep_id):
        raise UsageError(f"cannot find the Keep: found {clean(keep_id, 80)}, want an id as enarx keep list shows them")
    return keep_id


def _make_context(
    address: HostAddress, ca_file: str | None, certificate: str | None, private_key: str | None
) -> ssl.SSLContext | None:
    if not address.is_secure:
        if certificate is not None or ca_file is not None:
            raise UsageError(f"cannot use certificates with {address.url}: found http://, want https://")
        return None
    import certifi

    try:
        context = ssl.create_default_context(cafile=ca_file or certifi.where())
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if certificate is not None:
            context.load_cert_chain(certificate, private_key)
    except OSError as error:
        # An SSLError is one too.
        named = certificate or ca_file or "certifi's authorities"
        raise UsageError(f"cannot use {named}: {clean(error.strerror or str(error))}", hint="pass PEM files") from error
    return context


async def _read_limited(answer: httpx2.Response) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise TransportError(f"cannot understand the host: found more than {MAX_ANSWER_BYTES} bytes, want fewer")
    return bytes(data)


def _upload_offset(answer: httpx2.Response, most: int) -> int | None:
    text = answer.headers.get("upload-offset", "")
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > most:
        return None
    return int(text)


def _keep(value: Any) -> HostKeep:
    if not isinstance(value, dict):
        raise _odd("a Keep", value, "an object")
    keep_id, memory, ports = value.get("id"), value.get("memory-bytes"), value.get("ports", [])
    if not isinstance(keep_id, str) or not _ID.fullmatch(keep_id):
        raise _odd("id", keep_id, "an id")
    if type(memory) is not int or not 0 <= memory < 1 << 63:
        raise _odd("memory-bytes", memory, "a number")
    if not isinstance(ports, list) or len(ports) > MAX_PORTS:
        raise _odd("ports", ports, f"an array of at most {MAX_PORTS}")
    return HostKeep(
        id=keep_id,
        backend=_text(value, "backend"),
        state=_text(value, "state"),
        created=_text(value, "created"),
        memory_bytes=memory,
        ports=tuple(_port(each) for each in ports),
        vtpm_key_sha256=None if value.get("vtpm-key-sha256") is None else _digest(value, "vtpm-key-sha256", 32).hex(),
        reason=_reason_of(value.get("reason")),
    )


def _reason_of(value: Any) -> HostReason | None:
    if value is None:
        return None
    try:
        return HostReason(*_told(value))
    except (TypeError, KeyError, AttributeError):
        raise _odd("reason", value, "an error") from None


def _told(error: Any) -> tuple[str, str, str | None]:
    """Return class, line and hint of an error as a host writes it, fit to be shown.

    Raises:
        TypeError, KeyError, AttributeError: it is written in another way.
    """
    kind, message, hint = error["class"], error["message"], error.get("hint")
    if not isinstance(kind, str) or not isinstance(message, str) or not isinstance(hint, str | None):
        raise TypeError("another type")
    return clean(kind, 64), clean(message), hint and clean(hint)


def _port(value: Any) -> HostPort:
    number = value.get("port") if isinstance(value, dict) else None
    if type(number) is not int or not 0 <= number <= 65535:
        raise _odd("port", number, "0 to 65535")
    return HostPort(name=_text(value, "name"), port=number)


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str | int | float):
        raise _odd(name, text, "text")
    return clean(str(text), 255)


def _digest(value: Mapping[str, Any], name: str, size: int) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise _odd(name, text, f"{2 * size} hexadecimal digits")
    return bytes.fromhex(text)


def _odd(where: str, found: object, want: str) -> TransportError:
    return TransportError(
        f"cannot understand the host: {where}: found {clean(repr(found), 60)}, want {want}", hint=_WRONG_HOST
    )


def _reason(error: BaseException) -> str:
    """Return the innermost reason: clients wrap the system's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            # An OSError whose number is none of the system's.
            details = clean(getattr(cause, "verify_message", "")).lower()
            return clean(cause.reason or str(cause)).replace("_", " ").lower() + (f" ({details})" if details else "")
        if isinstance(cause, OSError) and (cause.errno or 0) > 0:
            return os.strerror(cause.errno or 0).lower()
        cause = cause.__cause__ or cause.__context__
    return clean(str(error)).lower() or type(error).__name__
