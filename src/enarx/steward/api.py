# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of the Steward: what is asked, and the answer. docs/formats/steward-api.json describes it.

What holds it together: every body that is read has a limit in bytes, in time, and in room that it takes with all the others; every error of
ours becomes one problem document; what is decided, and that it is in the log before it is told, is `enarx.steward.decisions`.

Nobody has to be known to ask: evidence speaks for itself, and a certificate is worth nothing without the key it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocketClose

import enarx
from enarx.abi.enarx_csr import NoEvidenceError
from enarx.errors import (
    AppraisalError,
    DecodeError,
    EnarxError,
    EndorsementError,
    PlatformError,
    TransportError,
    UsageError,
    VerificationError,
)
from enarx.rats import AttestationResult, Finding
from enarx.serving.requests import RefusedError, read_pieces, with_headers
from enarx.steward.facts import check_of
from enarx.steward.judging import NoGrantError
from enarx.steward.ledger import ReplayedNonceError
from enarx.steward.models import Health, Jwk, Jwks, Policies
from enarx.steward.nonces import ExpiredNonceError
from enarx.steward.openapi import CRL_TYPE, PEM_TYPE, openapi_bytes
from enarx.steward.original import BUNDLE_TYPE, MAX_BODY_BYTES, REQUEST_TYPE, RESPONSE_TYPE
from enarx.steward.rooms import BusyError
from enarx.wire.ear import MEDIA_TYPE_JWT
from enarx.wire.steward import (
    CERTIFICATES_PATH,
    CHALLENGE_PATH,
    MAX_EMPTY_BYTES,
    MAX_REQUEST_BYTES,
    MEDIA_TYPE_JSON,
    MEDIA_TYPE_PROBLEM,
    RESULTS_PATH,
    Problem,
    decode_certificate_request_untrusted,
    decode_challenge_request_untrusted,
    decode_result_request_untrusted,
    encode_certificate_answer,
    encode_challenge_answer,
    encode_problem,
    make_problem,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from starlette.types import ASGIApp, Receive, Scope, Send

    from enarx.serving.logs import Log
    from enarx.steward.decisions import Decisions
    from enarx.steward.metrics import Metrics

__all__ = ["Shown", "jwk_of", "make_app"]

OWN_BODY_BYTES = 64 << 10
"""So much of a body has room whatever others send: more than evidence with its endorsements usually takes."""

SHARED_BODY_BYTES = 128 << 20
"""For what bodies are larger, all together that are read or decided at one time."""

DECODED_HERE_BYTES = 64 << 10
"""What is larger is decoded in a thread, and nobody waits for that but who sent it."""

MAX_BODY_S = 60.0
"""From the first byte of a request's body to its last."""

RETRY_AFTER_S = 1

_KINDS: tuple[tuple[type[EnarxError], str], ...] = (
    (ReplayedNonceError, "replayed-nonce"),
    (ExpiredNonceError, "expired-nonce"),
    (NoGrantError, "no-grant"),
    (DecodeError, "decode"),
    (VerificationError, "not-authentic"),
    (AppraisalError, "refused"),
    (EndorsementError, "undecided"),
    (UsageError, "usage"),
    (PlatformError, "unavailable"),
    (TransportError, "unavailable"),
)
_BY_STATUS = {
    401: "no-evidence",
    404: "not-found",
    405: "method",
    408: "timeout",
    413: "too-large",
    415: "media-type",
    503: "unavailable",
}

_T = TypeVar("_T")
Endpoint = Callable[[Request], Awaitable[Response]]


class Shown(Protocol):
    """What everybody may see of a Steward."""

    @property
    def policies(self) -> Policies:
        """By what is judged now."""

    @property
    def chain_pem(self) -> bytes:
        """The authority's certificates, the root last."""


def make_app(
    *,
    decisions: Decisions,
    shown: Shown,
    result_key: ec.EllipticCurvePublicKey,
    metrics: Metrics,
    log: Log,
    is_draining: Callable[[], bool] = lambda: False,
    metrics_for_all: bool = False,
) -> ASGIApp:
    """Make the application.

    Args:
        decisions: decides.
        shown: what is public.
        result_key: whose signatures results have.
        metrics: what is counted.
        log: where events go.
        is_draining: says whether the service ends.
        metrics_for_all: whether others than this machine may see what is counted.
    """
    api = _Api(decisions, shown, result_key, metrics, log, is_draining, metrics_for_all=metrics_for_all)
    endpoints = {
        (method, path): api.answered(endpoint)
        for method, path, endpoint in (
            ("POST", CHALLENGE_PATH, api.challenge),
            ("POST", CERTIFICATES_PATH, api.certify),
            ("POST", RESULTS_PATH, api.appraise),
            ("GET", "/v1/policies", api.policies),
            ("GET", "/.well-known/jwks.json", api.keys),
            ("GET", "/v1/ca.pem", api.authority),
            ("GET", "/v1/crl", api.revoked),
            ("GET", "/healthz", api.health),
            ("GET", "/metrics", api.metrics),
            ("GET", "/openapi.json", api.openapi),
            ("POST", "/", api.original),
        )
    }
    return with_headers(_make_router(endpoints))


def _make_router(endpoints: Mapping[tuple[str, str], Endpoint]) -> ASGIApp:
    """Return what asks the endpoint of a request's method and path: each path has one method, and HEAD is GET without the body."""
    methods = {path: method for method, path in endpoints}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        endpoint = endpoints.get(("GET" if method == "HEAD" else method, path))
        if endpoint is not None:
            response = await endpoint(Request(scope, receive))
        elif path in methods:
            allowed = "GET, HEAD" if methods[path] == "GET" else methods[path]
            problem = make_problem("method", "cannot answer: found a method that this path does not have")
            response = _problem_answer(problem, {"Allow": allowed})
        else:
            response = _problem_answer(
                make_problem("not-found", "cannot answer: found a path that is not known, want one of /openapi.json")
            )
        await response(scope, receive, send)

    return app


class _Body:
    """A body as it comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.shared_bytes = 0


class _Api:
    """The endpoints."""

    def __init__(
        self,
        decisions: Decisions,
        shown: Shown,
        result_key: ec.EllipticCurvePublicKey,
        metrics: Metrics,
        log: Log,
        is_draining: Callable[[], bool],
        *,
        metrics_for_all: bool,
    ) -> None:
        self._decisions = decisions
        self._shown = shown
        self._keys = Jwks(keys=[jwk_of(result_key)])
        self._metrics = metrics
        self._log = log
        self._is_draining = is_draining
        self._metrics_for_all = metrics_for_all
        self._shared_bytes = 0

    def answered(self, endpoint: Endpoint) -> Endpoint:
        """Turn errors of an endpoint into answers, and count and log each request."""
        name = getattr(endpoint, "__name__", "")

        async def answer(request: Request) -> Response:
            started = asyncio.get_running_loop().time()
            response, problem = await self._attempt(endpoint, request)
            seconds = asyncio.get_running_loop().time() - started
            self._metrics.answered(name, response.status_code, seconds)
            facts = {} if problem is None else {"problem": problem.kind, "check": problem.check}
            self._log.info("request", endpoint=name, status=response.status_code, ms=round(seconds * 1000, 1), **facts)
            return response

        answer.__name__ = name
        return answer

    async def _attempt(self, endpoint: Endpoint, request: Request) -> tuple[Response, Problem | None]:
        headers: Mapping[str, str] | None = None
        try:
            return await endpoint(request), None
        except RefusedError as refused:
            problem = problem_of(refused.error, kind=_BY_STATUS[refused.status])
            headers = refused.headers
        except EnarxError as error:
            problem = problem_of(error)
        except ClientDisconnect:
            return Response(status_code=400), None  # to nobody
        except Exception as error:  # noqa: BLE001  # one request's bug is not everybody's end
            self._log.bug("bug", error)
            problem = make_problem("internal", "cannot answer: found a bug in the Steward", hint="its log says more")
        if problem.kind == "unavailable":
            headers = {"Retry-After": str(RETRY_AFTER_S)}
        return _problem_answer(problem, headers), problem

    @contextlib.asynccontextmanager
    async def _body(
        self, request: Request, *, max_bytes: int = MAX_REQUEST_BYTES, types: Collection[str] = (MEDIA_TYPE_JSON,)
    ) -> AsyncIterator[bytes]:
        """Give the body of a request; it takes room until the block ends.

        Raises:
            RefusedError: it is too large, too slow, of another type, or too many others are there.
        """
        media_type = _media_type(request)
        if media_type not in types:
            raise RefusedError(
                415,
                UsageError(f"cannot read the request: found another Content-Type, want {' or '.join(sorted(types))}"),
            )
        body = _Body()
        try:
            await self._read(request, body, max_bytes)
            yield bytes(body.data)
        finally:
            self._shared_bytes -= body.shared_bytes

    async def _read(self, request: Request, body: _Body, max_bytes: int) -> None:
        async for piece in read_pieces(request, total_s=MAX_BODY_S):
            body.data += piece
            if len(body.data) > max_bytes:
                raise RefusedError(
                    413, UsageError(f"cannot read the request: found more than {max_bytes} bytes, want fewer")
                )
            more = max(0, len(body.data) - OWN_BODY_BYTES) - body.shared_bytes
            if self._shared_bytes + more > SHARED_BODY_BYTES:
                raise BusyError("cannot read the request: found no room beside other large ones, want some")
            body.shared_bytes += more
            self._shared_bytes += more

    # --- Decisions

    async def challenge(self, request: Request) -> Response:
        # Many a client sends no Content-Type with an empty body.
        types = (MEDIA_TYPE_JSON, "") if request.headers.get("content-length", "0") == "0" else (MEDIA_TYPE_JSON,)
        async with self._body(request, max_bytes=MAX_EMPTY_BYTES, types=types) as body:
            decode_challenge_request_untrusted(body)
        self._require_open()
        return _bytes(encode_challenge_answer(self._decisions.challenge()), MEDIA_TYPE_JSON)

    async def certify(self, request: Request) -> Response:
        async with self._body(request) as body:
            wanted = await _decoded(decode_certificate_request_untrusted, body)
            self._require_open()
            return _bytes(encode_certificate_answer(await self._decisions.certify(wanted)), MEDIA_TYPE_JSON, 201)

    async def appraise(self, request: Request) -> Response:
        async with self._body(request) as body:
            wanted = await _decoded(decode_result_request_untrusted, body)
            self._require_open()
            return _bytes((await self._decisions.appraise(wanted)).encode(), MEDIA_TYPE_JWT)

    async def original(self, request: Request) -> Response:
        if not self._decisions.answers_original:
            raise RefusedError(
                404,
                UsageError(
                    "cannot answer: found a request of the original's protocol, want one of /openapi.json",
                    hint="the operator has not enabled [original] in steward.toml",
                ),
            )
        async with self._body(request, max_bytes=MAX_BODY_BYTES, types=(REQUEST_TYPE, BUNDLE_TYPE)) as body:
            self._require_open()
            try:
                answer = await self._decisions.certify_original(body, _media_type(request))
            except NoEvidenceError as error:
                raise RefusedError(401, error) from error
        return _bytes(answer, RESPONSE_TYPE)

    def _require_open(self) -> None:
        if self._is_draining():
            raise BusyError("cannot decide: found the Steward about to end, want one that goes on")

    # --- What everybody may know

    async def policies(self, request: Request) -> Response:
        return _json(self._shown.policies)

    async def keys(self, request: Request) -> Response:
        return _json(self._keys)

    async def authority(self, request: Request) -> Response:
        return _bytes(self._shown.chain_pem, PEM_TYPE)

    async def revoked(self, request: Request) -> Response:
        return _bytes(await self._decisions.crl(), CRL_TYPE)

    async def health(self, request: Request) -> Response:
        status: Literal["ok", "draining", "no log"] = "draining" if self._is_draining() else "ok"
        try:
            await self._decisions.require_log()
        except EnarxError as error:
            self._log.warning("no-log", reason=str(error))
            status = "no log"
        return _json(Health(status=status, version=enarx.__version__), 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        if not self._metrics_for_all and not _is_from_here(request):
            raise RefusedError(
                404,
                UsageError("cannot show the metrics: found a request from elsewhere, want one of this machine"),
            )
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return _bytes(openapi_bytes(), MEDIA_TYPE_JSON)


def jwk_of(key: ec.EllipticCurvePublicKey) -> Jwk:
    """Return a public key on P-384 as JWK, named by its thumbprint.

    Source: RFC 7517; RFC 7638.
    """
    jwk = ECKey.import_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    found = jwk.as_dict(private=False)
    return Jwk(kty="EC", crv="P-384", x=str(found["x"]), y=str(found["y"]), kid=jwk.thumbprint())


def problem_of(error: EnarxError, *, kind: str | None = None) -> Problem:
    """Return the problem document of an error.

    Args:
        error: of whatever class.
        kind: of `enarx.wire.steward.PROBLEMS`; None is that of the class.
    """
    kind = kind or next((kind for known, kind in _KINDS if isinstance(error, known)), "internal")
    failures = _failures_of(error)
    return make_problem(
        kind,
        str(error),
        hint=None if failures else error.hint,
        check=check_of(error),
        findings=tuple(finding.line for finding in failures),
    )


def _failures_of(error: EnarxError) -> tuple[Finding, ...]:
    result = getattr(error, "result", None)
    return result.failures if isinstance(result, AttestationResult) else ()


async def _decoded(decode: Callable[[bytes], _T], body: bytes) -> _T:
    return decode(body) if len(body) <= DECODED_HERE_BYTES else await asyncio.to_thread(decode, body)


def _problem_answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_problem(problem), problem.status, headers, media_type=MEDIA_TYPE_PROBLEM)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_from_here(request: Request) -> bool:
    """Say whether a request comes from this machine, without a proxy between."""
    names = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"}
    peer = request.client.host if request.client else ""
    return not names & set(request.headers.keys()) and (peer == "::1" or peer.startswith(("127.", "::ffff:127.")))


def _json(model: BaseModel, status: int = 200) -> Response:
    return _bytes(model.model_dump_json(by_alias=True).encode(), MEDIA_TYPE_JSON, status)


def _bytes(content: bytes, media_type: str, status: int = 200) -> Response:
    # Without Starlette's charset, which these types do not have.
    return Response(content, status, headers={"content-type": media_type})
