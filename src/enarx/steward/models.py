# SPDX-License-Identifier: Apache-2.0
"""What the API of the Steward is asked and what it answers, as pydantic models; the OpenAPI document is made of them.

Names in JSON have hyphens. Nothing here knows of HTTP. Requests are decoded by `enarx.wire.steward`, which a Keep has as well; the models
of requests say the same to people and to machines that read the OpenAPI document, and tests compare the two.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from enarx.serving.models import ApiModel
from enarx.wire.steward import (
    MAX_CHAIN,
    MAX_CSR_BYTES,
    MAX_ENDORSEMENTS,
    MAX_EVIDENCE_BYTES,
    MAX_FINDINGS,
    MAX_RECEIPT_BYTES,
    PROBLEMS,
)

__all__ = [
    "CertificateAnswer",
    "CertificateRequest",
    "ChallengeAnswer",
    "ChallengeRequest",
    "Grant",
    "Health",
    "Jwk",
    "Jwks",
    "Policies",
    "PolicyText",
    "Problem",
    "ResultRequest",
]

_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


Nonce = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="32 bytes in lower-case hexadecimal")]
Root = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{96}$",
        description="SHA-384 of the DER of the Steward's root that the Keep was given, in lower-case hexadecimal",
    ),
]
Base64 = Annotated[str, Field(pattern=_BASE64, min_length=4, description="base64 of RFC 4648 section 4, with padding")]
Evidence = Annotated[Base64, Field(max_length=(MAX_EVIDENCE_BYTES + 2) // 3 * 4)]
Endorsements = Annotated[list[Evidence], Field(max_length=MAX_ENDORSEMENTS, description="each a CMW in CBOR")]


class ChallengeRequest(ApiModel):
    """Nothing: an empty object, or an empty body."""


class ChallengeAnswer(ApiModel):
    """A nonce for one request of a certificate."""

    nonce: Nonce
    expires: AwareDatetime


class CertificateRequest(ApiModel):
    """What a Keep shows for a certificate of its key."""

    csr: Annotated[
        Base64,
        Field(
            max_length=(MAX_CSR_BYTES + 2) // 3 * 4,
            description="PKCS #10 in DER, of a key on P-256 or P-384, or an Ed25519 key",
        ),
    ]
    receipt: Annotated[
        Base64,
        Field(
            max_length=(MAX_RECEIPT_BYTES + 2) // 3 * 4,
            description="the Keep's receipt without its evidence, in CBOR",
        ),
    ]
    evidence: Annotated[
        Evidence,
        Field(
            description="CMW in CBOR; its report data bind the nonce, the CSR's key, the receipt's identity record and the root",
        ),
    ]
    endorsements: Endorsements
    nonce: Nonce
    root: Root


class CertificateAnswer(ApiModel):
    """A certificate, which is in the log."""

    chain: Annotated[
        list[Base64], Field(min_length=1, max_length=MAX_CHAIN, description="certificates in DER, the Keep's first")
    ]
    not_after: AwareDatetime
    renew_after: Annotated[AwareDatetime, Field(description="when the Keep should ask for the next one")]
    log_index: Annotated[int, Field(ge=0, description="of the decision in the log")]


class ResultRequest(ApiModel):
    """Evidence of anybody's, for an attestation result."""

    evidence: Annotated[Evidence, Field(description="of any format that is known")]
    endorsements: Endorsements
    report_data: Annotated[
        str,
        Field(
            pattern="^(?:[0-9a-f]{2}){1,64}$",
            max_length=128,
            description="what the evidence must carry for freshness, in lower-case hexadecimal",
        ),
    ]


class PolicyText(ApiModel):
    """The text of a policy that says everything by itself."""

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of the text in UTF-8")]
    text: Annotated[str, Field(description="TOML")]


class Grant(ApiModel):
    """Which names a certificate of a package gets, where this tenant deployed it."""

    package: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="digest of the package")]
    tenant: Annotated[
        str,
        Field(
            pattern="^(?:[0-9a-f]{96}|any)$",
            description="digest of the tenant's key; any is whoever added nothing to the package",
        ),
    ]
    dns: list[str]


class Policies(ApiModel):
    """By what the Steward judges now."""

    policies: list[PolicyText]
    insecure_accepted_roots: Annotated[
        list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]],
        Field(description="of emulated platforms that are accepted, which protect nothing; SHA-256 of their DER"),
    ]
    grants: list[Grant]
    trust_domain: Annotated[str, Field(description="of the SPIFFE IDs in certificates")]
    lifetime_s: Annotated[int, Field(ge=1, description="of a certificate, at most")]


class Jwk(ApiModel):
    """A public key. RFC 7517."""

    kty: Literal["EC"]
    crv: Literal["P-384"]
    x: str
    y: str
    use: Literal["sig"] = "sig"
    alg: Literal["ES384"] = "ES384"
    kid: Annotated[str, Field(description="SHA-256 thumbprint of RFC 7638")]


class Jwks(ApiModel):
    """The keys that sign attestation results."""

    keys: list[Jwk]


class Health(ApiModel):
    """Whether decisions are made."""

    status: Literal["ok", "draining", "no log"]
    version: str


class Problem(ApiModel):
    """The body of every answer with a status from 400 on. RFC 9457."""

    type: Annotated[str, Field(pattern=f"^urn:enarx:problem:(?:{'|'.join(PROBLEMS)})$")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(max_length=4096, description="one line: what failed, what was found, what is wanted")]
    hint: Annotated[str | None, Field(max_length=1024, description="the next step, where there is one")] = None
    check: Annotated[str | None, Field(max_length=256, description="id of the first check that failed")] = None
    findings: Annotated[
        list[Annotated[str, Field(max_length=1024)]] | None,
        Field(max_length=MAX_FINDINGS, description="every check that failed, a line each"),
    ] = None
