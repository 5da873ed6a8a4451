# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the Steward's API, made of the models. docs/formats/steward-api.json is a copy, compared by a test."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from enarx.steward.models import (
    CertificateAnswer,
    CertificateRequest,
    ChallengeAnswer,
    ChallengeRequest,
    Health,
    Jwks,
    Policies,
    Problem,
    ResultRequest,
)
from enarx.steward.original import BUNDLE_TYPE, REQUEST_TYPE, RESPONSE_TYPE
from enarx.wire.ear import MEDIA_TYPE_JWT
from enarx.wire.steward import MEDIA_TYPE_JSON, MEDIA_TYPE_PROBLEM, PROBLEMS

__all__ = ["CRL_TYPE", "PEM_TYPE", "make_openapi", "openapi_bytes"]

VERSION = "1"
CRL_TYPE = "application/pkix-crl"
PEM_TYPE = "application/pem-certificate-chain"
_MODELS = (
    CertificateAnswer,
    CertificateRequest,
    ChallengeAnswer,
    ChallengeRequest,
    Health,
    Jwks,
    Policies,
    Problem,
    ResultRequest,
)
_BYTES = {"type": "string", "contentEncoding": "binary"}


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _answer(description: str, media_type: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _json(description: str, model: type) -> dict[str, Any]:
    return _answer(description, MEDIA_TYPE_JSON, _ref(model))


def _problems(*kinds: str) -> dict[str, Any]:
    """Return the answers that these kinds of problems make, by status."""
    titles: dict[str, list[str]] = {}
    for kind in kinds:
        status, title = PROBLEMS[kind]
        titles.setdefault(str(status), []).append(f"{title} ({kind})")
    found = {status: _answer("; ".join(lines), MEDIA_TYPE_PROBLEM, _ref(Problem)) for status, lines in titles.items()}
    if "503" in found:
        found["503"]["headers"] = {
            "Retry-After": {"description": "seconds, where it is known", "schema": {"type": "integer", "minimum": 0}}
        }
    return found


_BODY = ("decode", "media-type", "timeout", "too-large", "unavailable")
_JUDGED = (*_BODY, "usage")


def _body(model: type, *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {MEDIA_TYPE_JSON: {"schema": _ref(model)}}}


@cache
def make_openapi() -> dict[str, Any]:
    """Return the document."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "enarx Steward",
            "version": VERSION,
            "description": "Certificates for Keeps, and attestation results for everyone else. Every decision is in an append-only log"
            " before it is told.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/challenge": {
                "post": {
                    "operationId": "challenge",
                    "summary": "get a nonce, for one request of a certificate within two minutes",
                    "requestBody": _body(ChallengeRequest, required=False),
                    "responses": {
                        "200": _json("a nonce", ChallengeAnswer),
                        **_problems(*_BODY),
                    },
                }
            },
            "/v1/certificates": {
                "post": {
                    "operationId": "certify",
                    "summary": "get a certificate for the key of a Keep",
                    "requestBody": _body(CertificateRequest),
                    "responses": {
                        "201": _json("a certificate, which is in the log", CertificateAnswer),
                        **_problems(
                            *_JUDGED,
                            "not-authentic",
                            "refused",
                            "no-grant",
                            "replayed-nonce",
                            "expired-nonce",
                            "undecided",
                        ),
                    },
                }
            },
            "/v1/results": {
                "post": {
                    "operationId": "appraise",
                    "summary": "get a signed attestation result for evidence, whatever the verdict",
                    "requestBody": _body(ResultRequest),
                    "responses": {
                        "200": _answer(
                            "an EAR as a JWT; its status says what was concluded",
                            MEDIA_TYPE_JWT,
                            {"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"},
                        ),
                        **_problems(*_JUDGED),
                    },
                }
            },
            "/v1/policies": {
                "get": {
                    "operationId": "policies",
                    "summary": "say by what is judged, and who gets which names",
                    "responses": {"200": _json("what is in force", Policies)},
                }
            },
            "/.well-known/jwks.json": {
                "get": {
                    "operationId": "keys",
                    "summary": "show the keys that sign attestation results",
                    "responses": {"200": _json("a JWK set", Jwks)},
                }
            },
            "/v1/ca.pem": {
                "get": {
                    "operationId": "authority",
                    "summary": "show the certificates above a Keep's; the first is the Steward's own, and the one to trust",
                    "responses": {"200": _answer("PEM", PEM_TYPE, {"type": "string"})},
                }
            },
            "/v1/crl": {
                "get": {
                    "operationId": "revoked",
                    "summary": "list the certificates that are revoked",
                    "responses": {"200": _answer("DER", CRL_TYPE, _BYTES), **_problems("unavailable")},
                }
            },
            "/": {
                "post": {
                    "operationId": "certifyOriginal",
                    "summary": "the protocol of the original's Steward, where the operator allows it; it proves a key and no workload",
                    "requestBody": {
                        "required": True,
                        "content": {
                            REQUEST_TYPE: {"schema": _BYTES},
                            BUNDLE_TYPE: {"schema": _BYTES},
                        },
                    },
                    "responses": {
                        "200": _answer("DER: PkiPath, or the bundle's answer", RESPONSE_TYPE, _BYTES),
                        **_problems(*_JUDGED, "no-evidence", "not-found", "not-authentic", "refused", "undecided"),
                    },
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "say whether decisions are made",
                    "responses": {"200": _json("they are", Health), "503": _json("they are not", Health)},
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "show what is counted, for Prometheus",
                    "responses": {
                        "200": _answer("text format, version 0.0.4", "text/plain", {"type": "string"}),
                        **_problems("not-found"),
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "show this document",
                    "responses": {"200": _answer("OpenAPI 3.1", MEDIA_TYPE_JSON, {"type": "object"})},
                }
            },
        },
        "components": {"schemas": definitions["$defs"]},
    }


@cache
def openapi_bytes() -> bytes:
    """Return the document as JSON, the same bytes each time."""
    return (json.dumps(make_openapi(), indent=2, ensure_ascii=False) + "\n").encode()
