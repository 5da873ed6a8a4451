# SPDX-License-Identifier: Apache-2.0
"""What the page asks for, and the page itself.

Everything that is read has a limit, every error of ours is a JSON document, and what changes anything comes from this page alone: another
page in the same browser is refused. Job ids are secrets; no log has one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import enarx
from enarx.errors import EnarxError, PlatformError, TransportError, UsageError
from enarx.playground.modules import Example, JobLimits, pack_example, pack_upload
from enarx.serving.models import ApiModel
from enarx.serving.requests import RefusedError, read_body, require_local_name, with_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from enarx.deploy import Package
    from enarx.playground.jobs import Jobs
    from enarx.playground.visitors import Visitors
    from enarx.serving.logs import Log

__all__ = ["make_app"]

PING_S = 15.0
"""A line without an event in this time, so that nobody between takes a quiet job for a dead one."""

MAX_READ_AT_ONCE = 8
MAX_BODY_S = 60.0
"""From the first byte of a request's body to its last."""

_PAGE = "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
)
_NUMBER = re.compile(r"[0-9]{1,9}")
_REQUEST_BYTES = 64 << 10
_MAX_CONFIG = 32 << 10

Endpoint = Callable[[Request], Awaitable[Response]]


class JobRequest(ApiModel):
    """What is to be run: an example, or a module with or without its Enarx.toml."""

    example: str | None = Field(default=None, max_length=255)
    module: str | None = None
    """In base64."""

    enarx_toml: str = Field(default="", max_length=_MAX_CONFIG)
    stdin: str = ""


def make_app(
    *,
    jobs: Jobs,
    visitors: Visitors,
    examples: tuple[Example, ...],
    limits: JobLimits,
    accepts_emulated: bool,
    is_local: bool,
    log: Log,
) -> ASGIApp:
    """Make the application.

    Args:
        jobs: that run.
        visitors: who may start how many.
        examples: that there are.
        limits: of each job.
        accepts_emulated: whether a Keep may be one that protects nothing.
        is_local: whether only this machine can connect.
        log: where events go.
    """
    api = _Api(jobs, visitors, examples, limits, accepts_emulated, is_local, log)
    routes = [
        *(Route(path, api.answered(api.file), methods=["GET"]) for path in _FILES),
        Route("/v1/playground", api.answered(api.describe), methods=["GET"]),
        Route("/v1/jobs", api.answered(api.start), methods=["POST"]),
        Route("/v1/jobs/{id}/events", api.answered(api.events), methods=["GET"]),
        Route("/v1/jobs/{id}/receipt", api.answered(api.receipt), methods=["GET"]),
        Route("/v1/jobs/{id}", api.answered(api.stop), methods=["DELETE"]),
        Route("/healthz", api.answered(api.health), methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            404: lambda *_: _error(404, UsageError("cannot answer: found a path that is not known, want /")),
            405: lambda *_: _error(405, UsageError("cannot answer: found a method that this path does not have")),
        },
    )
    app.router.redirect_slashes = False
    return with_headers(app, _PAGE_POLICY)


class _Api:
    """The endpoints."""

    def __init__(
        self,
        jobs: Jobs,
        visitors: Visitors,
        examples: tuple[Example, ...],
        limits: JobLimits,
        accepts_emulated: bool,
        is_local: bool,
        log: Log,
    ) -> None:
        self._jobs = jobs
        self._visitors = visitors
        self._examples = {example.name: example for example in examples}
        self._limits = limits
        self._accepts_emulated = accepts_emulated
        self._is_local = is_local
        self._log = log
        self._readers: set[str] = set()
        files = resources.files("enarx.playground") / _PAGE
        self._files = {path: (files.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def answered(self, endpoint: Endpoint) -> Endpoint:
        """Turn errors of an endpoint into answers."""

        async def answer(request: Request) -> Response:
            try:
                self._require_this_page(request)
                return await endpoint(request)
            except RefusedError as refused:
                return _error(refused.status, refused.error, refused.headers)
            except EnarxError as error:
                return _error(400, error)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody
            except Exception as error:  # noqa: BLE001  # one request's bug is not every visitor's end
                self._log.bug("bug", error)
                return _error(500, PlatformError("cannot answer: found a bug of this page's"))

        return answer

    def _require_this_page(self, request: Request) -> None:
        """Return only if no other page of a browser asks.

        Raises:
            RefusedError: one does, or by a name that is not this machine's own.
        """
        if self._is_local:
            require_local_name(request.headers)
        origin = request.headers.get("origin")
        is_other = origin is not None and origin.partition("://")[2] != request.headers.get("host")
        # Who follows a link to the page comes from another one.
        if is_other or (
            request.url.path not in _FILES
            and request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        ):
            raise RefusedError(403, UsageError("cannot answer another web page: found its request, want this page's"))

    # --- The page

    async def file(self, request: Request) -> Response:
        data, kind = self._files[request.url.path]
        return Response(data, media_type=kind)

    async def describe(self, request: Request) -> Response:
        limits = self._limits
        return _json(
            {
                "version": enarx.__version__,
                "accepts-emulated": self._accepts_emulated,
                "limits": {
                    "module-bytes": limits.module_bytes,
                    "memory-bytes": limits.memory_bytes,
                    "output-bytes": limits.output_bytes,
                    "stdin-bytes": limits.stdin_bytes,
                    "timeout-s": limits.timeout_s,
                },
                "examples": [
                    {"name": each.name, "about": each.about, "enarx-toml": each.config, "source": each.source}
                    for each in self._examples.values()
                ],
            }
        )

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok", "jobs": self._jobs.running})

    # --- Jobs

    async def start(self, request: Request) -> Response:
        visitor = self._visitors.name_untrusted(request)
        # Asked before anything is read, and again below, where nothing can come between.
        self._jobs.require_room(visitor)
        with self._reading(visitor):
            wanted = await self._read(request)
            stdin = wanted.stdin.encode()
            if len(stdin) > self._limits.stdin_bytes:
                raise UsageError(
                    f"cannot run it: stdin: found {len(stdin)} bytes, want at most {self._limits.stdin_bytes}"
                )
            package = await asyncio.to_thread(self._pack, wanted)
        self._jobs.require_room(visitor)
        self._visitors.admit(visitor)
        job = self._jobs.start(visitor, package, stdin)
        return _json({"id": job.id}, 201)

    @contextlib.contextmanager
    def _reading(self, visitor: str) -> Iterator[None]:
        """Read one request of a visitor at a time, and few of all: each may be as large as a module.

        Raises:
            RefusedError: another of his is read (409), or too many (503).
        """
        if visitor in self._readers:
            raise RefusedError(409, UsageError("cannot run another: found one of yours being sent, want its end"))
        if len(self._readers) >= MAX_READ_AT_ONCE:
            raise RefusedError(
                503,
                PlatformError(f"cannot take another now: found {len(self._readers)} being sent, want fewer"),
                {"Retry-After": "5"},
            )
        self._readers.add(visitor)
        try:
            yield
        finally:
            self._readers.remove(visitor)

    async def _read(self, request: Request) -> JobRequest:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, UsageError("cannot read the request: found another type, want application/json"))
        room = 2 * (self._limits.module_bytes + self._limits.stdin_bytes) + _REQUEST_BYTES
        try:
            async with asyncio.timeout(MAX_BODY_S):
                body = await read_body(request, max_bytes=room)
        except TimeoutError as error:
            raise RefusedError(
                408, TransportError(f"cannot read the request: found no end of it in {MAX_BODY_S:.0f} s, want one")
            ) from error
        try:
            return JobRequest.model_validate_json(body)
        except ValidationError as error:
            # What is wrong and where; never the value.
            found = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, found["loc"])) or "the document"
            raise UsageError(f"cannot read the request: {where}: {found['msg']}") from error

    def _pack(self, wanted: JobRequest) -> Package:
        if (wanted.example is None) == (wanted.module is None):
            raise UsageError("cannot run it: found both or neither of example and module, want one")
        if wanted.example is not None:
            if wanted.enarx_toml:
                raise UsageError("cannot run it: found an Enarx.toml with an example, which has its own, want none")
            example = self._examples.get(wanted.example)
            if example is None:
                raise UsageError("cannot run it: found no example of that name, want one of /v1/playground")
            return pack_example(example, self._limits)
        try:
            module = base64.b64decode(wanted.module or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError("cannot read the module: found no base64, want it") from error
        return pack_upload(module, wanted.enarx_toml, self._limits)

    async def events(self, request: Request) -> Response:
        job = self._jobs.find(request.path_params["id"])
        last = request.headers.get("last-event-id", "")
        begin = int(last) + 1 if _NUMBER.fullmatch(last) else 0
        return StreamingResponse(_lines(job.follow(begin)), media_type="text/event-stream")

    async def receipt(self, request: Request) -> Response:
        receipt = self._jobs.find(request.path_params["id"]).receipt
        if receipt is None:
            raise RefusedError(404, UsageError("cannot show the receipt: found none, want a Keep that was entrusted"))
        return Response(
            receipt,
            media_type="application/json",
            headers={"Content-Disposition": 'attachment; filename="receipt.json"'},
        )

    async def stop(self, request: Request) -> Response:
        self._jobs.stop(request.path_params["id"])
        return Response(status_code=204)


async def _lines(events: AsyncGenerator[tuple[int, str], None]) -> AsyncIterator[str]:
    """Yield events as `text/event-stream` has them, and a comment where none comes for long."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=PING_S)
            if not done:
                yield ": still there\n\n"
                continue
            found = following.result()
            if found is None:
                return
            number, text = found
            yield f"id: {number}\ndata: {text}\n\n"
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()
        await asyncio.wait({following})
        await events.aclose()


def _json(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document).encode(), status_code=status, headers=headers, media_type="application/json")


def _error(status: int, error: EnarxError, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": {"message": str(error), "hint": error.hint}}, status, headers)
