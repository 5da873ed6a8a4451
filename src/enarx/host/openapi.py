# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the host's API, made of the models. docs/formats/host-api.json is a copy, compared by a test."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from enarx.host.models import (
    KEEP_ID,
    MAX_BODY_BYTES,
    ErrorAnswer,
    Fetching,
    FetchRequest,
    Health,
    Keep,
    KeepList,
    KeepRequest,
    Parts,
)
from enarx.wire.host_api import MAX_SESSION_PIECE_BYTES, SUBPROTOCOL

__all__ = ["make_openapi", "openapi_bytes"]

VERSION = "1"
_MODELS = (ErrorAnswer, Fetching, FetchRequest, Health, Keep, KeepList, KeepRequest, Parts)
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": KEEP_ID}}
_DIGEST = {
    "name": "digest",
    "in": "path",
    "required": True,
    "description": "SHA-256 of the whole ciphertext",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}


def _content(model: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _answer(description: str, model: type | None = None, headers: tuple[str, ...] = ()) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if model is not None:
        answer["content"] = _content(model)
    if headers:
        answer["headers"] = {name: {"schema": {"type": "integer", "minimum": 0}} for name in headers}
    return answer


def _header(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0}
    return {"name": name, "in": "header", "required": True, "description": description, "schema": schema}


_REFUSED = {
    "400": _answer("not a request of this API", ErrorAnswer),
    "401": _answer("no token or certificate of a tenant", ErrorAnswer),
    "403": _answer("sent by a web page, or under a name that is not this machine's own", ErrorAnswer),
}
_SLOW = {"408": _answer("nothing more of the body came in time", ErrorAnswer)}
_NO_KEEP = {"404": _answer("no such Keep, or another tenant's", ErrorAnswer)}
_NO_LONGER = {"410": _answer("the Keep has ended, or cannot be reached", ErrorAnswer)}
_FULL = {
    "429": _answer("the tenant has as much as it may have", ErrorAnswer),
    "503": _answer("the host has no room, is draining, or a port is not free", ErrorAnswer),
}
_OPEN: dict[str, Any] = {"security": []}


@cache
def make_openapi() -> dict[str, Any]:
    """Return the document."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "enarx host",
            "version": VERSION,
            "description": "An untrusted host of Keeps. Nothing that it says is evidence; it relays bytes that it cannot read.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"certificate": []}, {}],
        "paths": {
            "/v1/keeps": {
                "post": {
                    "operationId": "createKeep",
                    "summary": "start an empty Keep; it can be attested when the answer comes, which takes up to 260 s",
                    "requestBody": {"required": True, "content": _content(KeepRequest)},
                    "responses": {
                        "201": _answer("it is ready", Keep),
                        **_REFUSED,
                        **_SLOW,
                        **_NO_LONGER,
                        "413": _answer(f"more than {MAX_BODY_BYTES} bytes", ErrorAnswer),
                        "415": _answer("not application/json", ErrorAnswer),
                        **_FULL,
                    },
                },
                "get": {
                    "operationId": "listKeeps",
                    "summary": "list the tenant's Keeps, the latest that ended included",
                    "responses": {"200": _answer("the Keeps", KeepList), **_REFUSED},
                },
            },
            "/v1/keeps/{id}": {
                "parameters": [_ID],
                "get": {
                    "operationId": "showKeep",
                    "summary": "show a Keep",
                    "responses": {"200": _answer("the Keep", Keep), **_REFUSED, **_NO_KEEP},
                },
                "delete": {
                    "operationId": "deleteKeep",
                    "summary": "kill a Keep, whatever runs in it",
                    "responses": {
                        "200": _answer("it has ended", Keep),
                        **_REFUSED,
                        **_NO_KEEP,
                        "503": _answer("it does not end", ErrorAnswer),
                    },
                },
            },
            "/v1/keeps/{id}/parts": {
                "parameters": [_ID],
                "get": {
                    "operationId": "showParts",
                    "summary": "say what the machine of a Keep was started with, for a tenant that refused its evidence",
                    "responses": {
                        "200": _answer("the parts", Parts),
                        **_REFUSED,
                        **_NO_KEEP,
                        **_NO_LONGER,
                        "503": _answer("it is no machine, or that cannot be told", ErrorAnswer),
                    },
                },
            },
            "/v1/keeps/{id}/session": {
                "parameters": [_ID],
                "get": {
                    "operationId": "openSession",
                    "summary": f"a WebSocket (RFC 6455) of the subprotocol {SUBPROTOCOL} to a Keep",
                    "description": f"Binary messages of at most {MAX_SESSION_PIECE_BYTES} bytes are a byte stream; where one ends means nothing."
                    " Closed with 1000 when the Keep has ended the stream, with 1011 when it broke.",
                    "responses": {
                        "101": _answer("a WebSocket"),
                        **_REFUSED,
                        **_NO_KEEP,
                        **_NO_LONGER,
                        "503": _answer("the Keep has too many sessions", ErrorAnswer),
                    },
                },
            },
            "/v1/keeps/{id}/blobs/{digest}": {
                "parameters": [_ID, _DIGEST],
                "head": {
                    "operationId": "showBlob",
                    "summary": "say how much of a blob is there",
                    "responses": {
                        "200": _answer("so much", headers=("Upload-Offset", "Upload-Length")),
                        **_REFUSED,
                        **_NO_KEEP,
                        **_NO_LONGER,
                    },
                },
                "patch": {
                    "operationId": "appendBlob",
                    "summary": "append to a blob; the Keep gets it as it comes",
                    "parameters": [
                        _header("Upload-Offset", "how much of it is there"),
                        _header("Upload-Length", "how long it is going to be in all; the same each time"),
                    ],
                    "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
                    "responses": {
                        "204": _answer("stored", headers=("Upload-Offset", "Upload-Length")),
                        "409": _answer("another offset is next", ErrorAnswer, ("Upload-Offset", "Upload-Length")),
                        "423": _answer("another upload of it is under way", ErrorAnswer),
                        **_REFUSED,
                        **_NO_KEEP,
                        **_SLOW,
                        **_NO_LONGER,
                        **_FULL,
                    },
                },
            },
            "/v1/keeps/{id}/blobs/{digest}/fetch": {
                "parameters": [_ID, _DIGEST],
                "post": {
                    "operationId": "fetchBlob",
                    "summary": "have the host fetch a blob from a registry instead; the Keep gets it as it comes",
                    "description": "Only from registries that the operator allows. What of it is there already is not fetched again.",
                    "requestBody": {"required": True, "content": _content(FetchRequest)},
                    "responses": {
                        "202": _answer("begun", Fetching),
                        "413": _answer(f"more than {MAX_BODY_BYTES} bytes", ErrorAnswer),
                        "415": _answer("not application/json", ErrorAnswer),
                        "423": _answer("an upload or a fetch of it is under way", ErrorAnswer),
                        **_REFUSED,
                        **_NO_KEEP,
                        **_SLOW,
                        **_NO_LONGER,
                        **_FULL,
                    },
                },
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "say whether new Keeps are taken",
                    "responses": {"200": _answer("they are", Health), "503": _answer("draining", Health)},
                    **_OPEN,
                }
            },
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


@cache
def openapi_bytes() -> bytes:
    """Return the document as JSON, the same bytes each time."""
    return (json.dumps(make_openapi(), indent=2, ensure_ascii=False) + "\n").encode()
