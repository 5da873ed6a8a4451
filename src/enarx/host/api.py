# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of the host: who asks, what for, and the answer as JSON. docs/formats/host-api.json describes it.

What holds it together: every request passes `_Gate` (who is it, may a browser have sent it), every error of ours becomes one
JSON body with a status, every body that is read has a limit in bytes and in time. What a Keep is and does is the fleet's.

The host is untrusted by its tenants; nothing here protects them. It protects the host and tenants from each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import enarx
from enarx.errors import DecodeError, EnarxError, KeepError, PlatformError, TransportError, UsageError
from enarx.host.fetching import RegistryFetcher
from enarx.host.fleet import Fleet, QuotaError, UnknownKeepError, blob_limit
from enarx.host.metrics import Metrics
from enarx.host.models import (
    MAX_BODY_BYTES,
    ErrorAnswer,
    ErrorDetail,
    Fetching,
    FetchRequest,
    Health,
    Keep,
    KeepList,
    KeepRequest,
    Parts,
    Port,
)
from enarx.host.openapi import openapi_bytes
from enarx.host.page import STYLE_SOURCE, render_page
from enarx.host.store import KeepRecord
from enarx.host.tenants import Tenant, Tenants
from enarx.serving.logs import Log
from enarx.serving.requests import RefusedError, read_body, read_pieces, require_local_name, with_headers
from enarx.wire.host_api import MAX_TOKEN_BYTES, SUBPROTOCOL
from enarx.wire.strict_json import load_json_untrusted

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from enarx.channel.link import Stream
    from enarx.host.blobs import Blob

__all__ = ["make_app"]

HANG_UP_TIMEOUT_S = 30.0
"""For a tenant to take the last bytes of a session that the Keep has ended."""

_READ_BYTES = 256 << 10
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,15}")
_STATUSES: tuple[tuple[type[EnarxError], int], ...] = (
    (UnknownKeepError, 404),
    (QuotaError, 429),
    (UsageError, 400),
    (DecodeError, 400),
    (PlatformError, 503),
    (KeepError, 410),
    (TransportError, 503),
)
# A client knows these classes; whatever else is wrong with a request is a wrong use.
_TOLD = (UsageError, PlatformError, KeepError, TransportError)
_PAGE_POLICY = (
    b"content-security-policy",
    f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode(),
)

Model = TypeVar("Model", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    *, fleet: Fleet, tenants: Callable[[], Tenants], metrics: Metrics, log: Log, fetcher: RegistryFetcher
) -> ASGIApp:
    """Make the application.

    Args:
        fleet: the Keeps.
        tenants: gives whoever may use the host now.
        metrics: what is counted.
        log: where events go.
        fetcher: gets blobs from registries.
    """
    api = _Api(fleet, tenants, metrics, log, fetcher)
    routes = [
        Route("/v1/keeps", api.answered(api.create), methods=["POST"]),
        Route("/v1/keeps", api.answered(api.list), methods=["GET"]),
        Route("/v1/keeps/{id}", api.answered(api.show), methods=["GET"]),
        Route("/v1/keeps/{id}", api.answered(api.delete), methods=["DELETE"]),
        Route("/v1/keeps/{id}/parts", api.answered(api.parts), methods=["GET"]),
        WebSocketRoute("/v1/keeps/{id}/session", api.session),
        Route("/v1/keeps/{id}/blobs/{digest}", api.answered(api.blob), methods=["HEAD", "PATCH"]),
        Route("/v1/keeps/{id}/blobs/{digest}/fetch", api.answered(api.fetch), methods=["POST"]),
        Route("/healthz", api.answered(api.health), methods=["GET"]),
        Route("/metrics", api.answered(api.metrics), methods=["GET"]),
        Route("/openapi.json", api.answered(api.openapi), methods=["GET"]),
        Route("/", api.answered(api.page), methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            404: lambda *_: _error(
                404, UsageError("cannot answer: found a path that is not known, want one of /openapi.json")
            ),
            405: lambda *_: _error(405, UsageError("cannot answer: found a method that this path does not have")),
        },
    )
    app.router.redirect_slashes = False
    return with_headers(app, _PAGE_POLICY)


class _Api:
    """The endpoints."""

    def __init__(
        self, fleet: Fleet, tenants: Callable[[], Tenants], metrics: Metrics, log: Log, fetcher: RegistryFetcher
    ) -> None:
        self._fleet = fleet
        self._tenants = tenants
        self._metrics = metrics
        self._log = log
        self._fetcher = fetcher

    def answered(self, endpoint: Endpoint) -> Endpoint:
        """Turn errors of an endpoint into answers, and count and log each request."""
        name = getattr(endpoint, "__name__", "")

        async def answer(request: Request) -> Response:
            started = asyncio.get_running_loop().time()
            try:
                response = await endpoint(request)
            except RefusedError as refused:
                response = _error(refused.status, refused.error, refused.headers)
            except EnarxError as error:
                response = _error(next((status for kind, status in _STATUSES if isinstance(error, kind)), 500), error)
            except ClientDisconnect:
                response = Response(status_code=400)  # to nobody
            except Exception as error:  # noqa: BLE001  # one request's bug is not every Keep's end
                self._log.bug("bug", error)
                response = _error(
                    500, PlatformError("cannot answer: found a bug in the host", hint="its log says more")
                )
            seconds = asyncio.get_running_loop().time() - started
            self._metrics.answered(name, response.status_code, seconds)
            self._log.info(
                "request",
                endpoint=name,
                status=response.status_code,
                tenant=getattr(request.state, "tenant", None),
                ms=round(seconds * 1000, 1),
            )
            return response

        answer.__name__ = name
        return answer

    # --- Who asks

    def _tenant(self, connection: HTTPConnection) -> Tenant:
        """Return who asks.

        Raises:
            RefusedError: a stranger, or a page in a browser.
        """
        tenants = self._tenants()
        self._require_no_page(connection, tenants)
        tenant = tenants.recognise_untrusted(_token(connection), _certificate(connection))
        if tenant is None:
            self._metrics.strangers.inc()
            raise RefusedError(
                401,
                UsageError("cannot let you in: found no token or certificate of a tenant, want one"),
                {"WWW-Authenticate": 'Bearer realm="enarx"'},
            )
        connection.state.tenant = tenant.name
        return tenant

    @staticmethod
    def _require_no_page(connection: HTTPConnection, tenants: Tenants) -> None:
        """Refuse what a page of somebody else makes a browser send to a host that asks nobody who he is.

        Raises:
            RefusedError: it comes from a page, or the host is called by a name that is not this machine's own.
        """
        headers = connection.headers
        if "origin" in headers or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            raise RefusedError(403, UsageError("cannot answer a web page: found an Origin header, want none"))
        if tenants.is_open:
            require_local_name(headers)

    def _require_operator(self, request: Request) -> None:
        """Let in whoever is on the machine of a host for all, without a proxy between, or has the operator's token.

        Raises:
            RefusedError: neither.
        """
        tenants = self._tenants()
        if tenants.is_open:
            self._require_no_page(request, tenants)
        peer = request.client.host if request.client else ""
        direct = not {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"} & set(
            request.headers.keys()
        )
        if direct and not tenants.is_private and (peer == "::1" or peer.startswith(("127.", "::ffff:127."))):
            return
        if not tenants.is_operator_untrusted(_token(request)):
            raise RefusedError(
                401,
                UsageError("cannot show the operator's pages: found nobody known, want the operator's token"),
                {"WWW-Authenticate": 'Basic realm="enarx operator"'},
            )

    # --- Keeps

    async def create(self, request: Request) -> Response:
        tenant = self._tenant(request)
        wanted = await _read_model(request, KeepRequest)
        record = await self._fleet.create(
            tenant,
            backend=wanted.backend,
            memory_bytes=wanted.memory_bytes,
            ports=tuple((port.name, port.port) for port in wanted.ports),
        )
        if await request.is_disconnected():
            # Nobody knows its name, so nobody will come for it.
            await self._fleet.delete(tenant, record.id)
        return _json(_keep(record), 201, {"Location": f"/v1/keeps/{record.id}"})

    async def list(self, request: Request) -> Response:
        tenant = self._tenant(request)
        return _json(KeepList(keeps=[_keep(record) for record in self._fleet.records(tenant)]))

    async def show(self, request: Request) -> Response:
        return _json(_keep(self._fleet.record_untrusted(self._tenant(request), request.path_params["id"])))

    async def delete(self, request: Request) -> Response:
        return _json(_keep(await self._fleet.delete(self._tenant(request), request.path_params["id"])))

    async def parts(self, request: Request) -> Response:
        keep = self._fleet.hosted_untrusted(self._tenant(request), request.path_params["id"])
        found = await keep.parts()
        names = ("firmware", "kernel", "initramfs", "cmdline")
        return _json(Parts(**{name: digest.hex() for name, digest in zip(names, found, strict=True)}))

    # --- Blobs

    async def blob(self, request: Request) -> Response:
        tenant = self._tenant(request)
        identifier, digest = request.path_params["id"], request.path_params["digest"]
        _require_digest(digest)
        if request.method == "HEAD":
            known = self._fleet.hosted_untrusted(tenant, identifier).blobs.find(digest)
            headers = {"Upload-Offset": "0"} if known is None else _progress(known.offset, known.length)
            return Response(headers=headers)
        offset, length = _number(request, "upload-offset"), _number(request, "upload-length")
        blob = self._fleet.blob_untrusted(tenant, identifier, digest, length)
        _take(blob)
        try:
            if offset != blob.offset:
                raise RefusedError(
                    409,
                    UsageError(f"cannot take the blob: offset: found {offset}, want {blob.offset}"),
                    _progress(blob.offset, length),
                )
            await blob.append(_chunks(request, self._metrics))
        finally:
            blob.release()
        return Response(status_code=204, headers=_progress(blob.offset, length))

    async def fetch(self, request: Request) -> Response:
        tenant = self._tenant(request)
        identifier, digest = request.path_params["id"], request.path_params["digest"]
        _require_digest(digest)
        wanted = await _read_model(request, FetchRequest)
        ref = self._fetcher.find_untrusted(wanted.registry, wanted.repository, digest)
        blob = self._fleet.blob_untrusted(tenant, identifier, digest, wanted.length)
        _take(blob)
        await self._fetcher.start(blob, ref)
        return _json(Fetching(offset=blob.offset, length=blob.length), 202)

    # --- Sessions

    async def session(self, socket: WebSocket) -> None:
        status = 101
        async with contextlib.AsyncExitStack() as stack:
            try:
                tenant = self._tenant(socket)
                if SUBPROTOCOL not in socket.scope["subprotocols"]:
                    raise UsageError(f"cannot open a session: subprotocol: found another, want {SUBPROTOCOL}")
                stream = await stack.enter_async_context(self._fleet.session(tenant, socket.path_params["id"]))
            except RefusedError as refused:
                status = refused.status
                await socket.send_denial_response(_error(status, refused.error, refused.headers))
            except EnarxError as error:
                status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
                await socket.send_denial_response(_error(status, error))
            else:
                await socket.accept(subprotocol=SUBPROTOCOL)
                await _carry(socket, stream)
        self._metrics.answered("session", status, None)
        self._log.info("session", status=status, keep=socket.path_params["id"][:64])

    # --- The host itself

    async def health(self, request: Request) -> Response:
        draining = self._fleet.is_draining
        return _json(
            Health(status="draining" if draining else "ok", version=enarx.__version__), 503 if draining else 200
        )

    async def metrics(self, request: Request) -> Response:
        self._require_operator(request)
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return Response(openapi_bytes(), media_type="application/json")

    async def page(self, request: Request) -> Response:
        self._require_operator(request)
        return Response(render_page(self._fleet, at=datetime.now(UTC)), media_type="text/html; charset=utf-8")  # noqa: TID251  # the page says when it was made


async def _carry(socket: WebSocket, stream: Stream) -> None:
    """Carry bytes between a session's WebSocket and its stream until either ends."""
    up = asyncio.create_task(_carry_up(socket, stream))
    down = asyncio.create_task(_carry_down(socket, stream))
    try:
        done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if up in done and up.result():
            # What the Keep said before it took no more is still on its way to a tenant who is there.
            done, _ = await asyncio.wait({down}, timeout=HANG_UP_TIMEOUT_S)
        for task in done:
            task.result()
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _carry_up(socket: WebSocket, stream: Stream) -> bool:
    """Carry what a tenant says, and return whether he is there after it."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return False
        data = message.get("bytes")
        if data is None:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
                await socket.close(1003, "want binary messages")
            return False
        try:
            await stream.write(data)
        except TransportError:
            return True  # `_carry_down` learns it as well, and says so


async def _carry_down(socket: WebSocket, stream: Stream) -> None:
    code, reason = 1000, ""
    try:
        while data := await stream.read(_READ_BYTES):
            await socket.send_bytes(data)
    except TransportError as error:
        code, reason = 1011, str(error)[:100]
    except (RuntimeError, WebSocketDisconnect, OSError):
        return  # the tenant hung up, or `_carry_up` did
    try:
        async with asyncio.timeout(HANG_UP_TIMEOUT_S):
            await socket.close(code, reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
        return  # the tenant hung up first


def _token(connection: HTTPConnection) -> bytes | None:
    """Return the token that a request carries, as Bearer or as a Basic password."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "basic" and len(value) <= 2 * MAX_TOKEN_BYTES:
        import base64

        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # what is not ASCII is no binascii.Error
            return b""
    return value.encode("latin-1") if scheme.lower() == "bearer" else None


def _certificate(connection: HTTPConnection) -> bytes | None:
    """Return the digest of the client's certificate; the protocol class puts it there."""
    found = connection.scope.get("state", {}).get("certificate_sha256")
    return found if isinstance(found, bytes) else None


async def _read_model(request: Request, model: type[Model]) -> Model:
    """Return the body of a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(
            415, UsageError("cannot read the request: found another Content-Type, want application/json")
        )
    data = load_json_untrusted(
        await read_body(request, max_bytes=MAX_BODY_BYTES), what="request", max_bytes=MAX_BODY_BYTES
    )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) if str(part).isprintable() else ascii(part) for part in first["loc"])[:80] or "body"
        raise UsageError(f"cannot read the request: {where}: {first['msg'][:200].lower()}") from error


async def _chunks(request: Request, metrics: Metrics) -> AsyncIterator[bytes]:
    async for chunk in read_pieces(request):
        metrics.uploaded.inc(len(chunk))
        yield chunk


def _number(request: Request, header: str) -> int:
    value = request.headers.get(header, "")
    if not _NUMBER.fullmatch(value):
        raise UsageError(
            f"cannot take the blob: header {header.title()}: found no number, want one of at most 15 digits"
        )
    return int(value)


def _require_digest(text: str) -> None:
    if not _DIGEST.fullmatch(text):
        raise UsageError("cannot take the blob: found another name, want its SHA-256 in lower-case hexadecimal")


def _take(blob: Blob) -> None:
    if not blob.take():
        raise RefusedError(
            423, TransportError("cannot take the blob: found another upload of it", hint="wait for that to end")
        )


def _progress(offset: int, length: int) -> dict[str, str]:
    return {"Upload-Offset": str(offset), "Upload-Length": str(length)}


def _keep(record: KeepRecord) -> Keep:
    return Keep(
        id=record.id,
        backend=record.backend,  # type: ignore[arg-type]  # the store holds what the API let in
        state=record.state,  # type: ignore[arg-type]
        created=_time(record.created_ns),
        ended=None if record.ended_ns is None else _time(record.ended_ns),
        ports=[Port(name=name, port=port) for name, port in record.ports],
        memory_bytes=record.memory_bytes,
        blob_limit_bytes=blob_limit(record.package_bytes),
        vtpm_key_sha256=record.tpm_key_sha256,
        reason=None if record.reason is None else _detail(*record.reason),
    )


def _time(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC)


def _json(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content: Any = model.model_dump_json(by_alias=True)
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def _error(status: int, error: EnarxError, headers: dict[str, str] | None = None) -> Response:
    kind = next((kind for kind in _TOLD if isinstance(error, kind)), UsageError)
    return _json(ErrorAnswer(error=_detail(kind.__name__, str(error), error.hint)), status, headers)


def _detail(kind: str, message: str, hint: str | None) -> ErrorDetail:
    return ErrorDetail(class_name=kind, message=message[:4096], hint=hint and hint[:1024])
