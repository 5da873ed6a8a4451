# SPDX-License-Identifier: Apache-2.0
"""What the API of the host is asked and what it answers, as pydantic models; the OpenAPI document is made of them.

Names in JSON have hyphens. Nothing here knows of HTTP, and no model has room for anything that a tenant would not tell
a stranger: a backend, a size of memory, names and numbers of ports.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from enarx.host.backends import BACKENDS
from enarx.serving.models import ApiModel
from enarx.wire.host_api import MAX_PORTS

__all__ = [
    "KEEP_ID",
    "MAX_BLOBS",
    "MAX_BODY_BYTES",
    "MAX_MEMORY_BYTES",
    "MIN_MEMORY_BYTES",
    "ErrorAnswer",
    "FetchRequest",
    "Fetching",
    "Health",
    "Keep",
    "KeepList",
    "KeepRequest",
    "Parts",
    "Port",
]

MAX_BODY_BYTES = 64 << 10
"""Of a request that is JSON."""

MIN_MEMORY_BYTES = 1 << 20
MAX_MEMORY_BYTES = 1 << 46
MAX_PORT_NAME_BYTES = 255
MAX_BLOBS = 8
"""Of one Keep. A release names three."""

KEEP_ID = "^[0-9a-f]{16}$"
Backend = Literal["snp", "tdx", "cca", "sgx", "vm", "nil"]
State = Literal["starting", "ready", "ended", "lost"]


def _printable(name: str) -> str:
    # The link takes no other name.
    if not name.isprintable() or not 1 <= len(name.encode("utf-8", "replace")) <= MAX_PORT_NAME_BYTES:
        raise ValueError(f"found {name[:64]!r}, want at most {MAX_PORT_NAME_BYTES} bytes of printable UTF-8")
    return name


PortName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PORT_NAME_BYTES, description="printable; at most 255 bytes of UTF-8"),
    AfterValidator(_printable),
]


class Port(ApiModel):
    """A port that the host publishes: what connects to it reaches the workload's socket of that name."""

    name: PortName
    port: Annotated[int, Field(ge=0, le=65_535, description="TCP port; in a request, 0 is any that is free")]


class KeepRequest(ApiModel):
    """An empty Keep that is wanted."""

    backend: Annotated[Backend, Field(description="one that `enarx platform info` calls usable on the host")]
    memory_bytes: Annotated[
        int, Field(ge=MIN_MEMORY_BYTES, le=MAX_MEMORY_BYTES, description="the most that the workload's memory may take")
    ]
    ports: Annotated[list[Port], Field(max_length=MAX_PORTS)] = []  # noqa: RUF012  # pydantic gives each its own


class FetchRequest(ApiModel):
    """Where the ciphertext is that a Keep is going to ask for: a layer of an encrypted package."""

    registry: Annotated[
        str, Field(min_length=1, max_length=261, description="HOST or HOST:PORT; one that the host allows")
    ]
    repository: Annotated[str, Field(min_length=1, max_length=255)]
    length: Annotated[int, Field(ge=0, le=10**15 - 1, description="bytes of the ciphertext; no more are fetched")]


class Fetching(ApiModel):
    """A blob that the host fetches."""

    offset: Annotated[int, Field(ge=0, description="how much of it is there already")]
    length: Annotated[int, Field(ge=0)]


class ErrorDetail(ApiModel):
    """An error of enarx: a class of its documentation, one line, and the next step where there is one."""

    class_name: Annotated[str, Field(alias="class", max_length=64)]
    message: Annotated[str, Field(max_length=4096)]
    hint: Annotated[str | None, Field(max_length=1024)] = None


class Keep(ApiModel):
    """A Keep, as the host sees it. It does not know what runs in there, and its word is no evidence."""

    id: Annotated[str, Field(pattern=KEEP_ID)]
    backend: Backend
    state: Annotated[
        State,
        Field(description="ended: the Keep has gone; lost: it went without the host knowing how, or cannot be reached"),
    ]
    created: Annotated[AwareDatetime, Field(description="by the host's clock")]
    ended: Annotated[AwareDatetime | None, Field(description="by the host's clock")] = None
    ports: list[Port]
    memory_bytes: Annotated[int, Field(ge=0)]
    blob_limit_bytes: Annotated[int, Field(ge=0, description="the largest blob that may be uploaded for it")]
    vtpm_key_sha256: Annotated[
        str | None,
        Field(
            pattern="^[0-9a-f]{64}$",
            description="of the SubjectPublicKeyInfo of the key that its virtual TPM attests with; the host has that key as well",
        ),
    ] = None
    reason: Annotated[ErrorDetail | None, Field(description="why it ended, where that was an error")] = None


class KeepList(ApiModel):
    """The Keeps of one tenant, in the order in which they were made."""

    keeps: list[Keep]


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Parts(ApiModel):
    """What a Keep's machine was started with, by the host's word: what a launch digest of SEV-SNP can be computed of again."""

    firmware: Annotated[str, Field(pattern="^[0-9a-f]{96}$", description="launch digest of the firmware's own pages")]
    kernel: Annotated[Sha256, Field(description="SHA-256 of the file")]
    initramfs: Annotated[Sha256, Field(description="SHA-256 of the file")]
    cmdline: Annotated[Sha256, Field(description="SHA-256 of the command line and a zero byte")]


class ErrorAnswer(ApiModel):
    """The body of every answer with a status from 400 on."""

    error: ErrorDetail


class Health(ApiModel):
    """Whether the host takes new Keeps."""

    status: Literal["ok", "draining"]
    version: str


if set(Backend.__args__) != set(BACKENDS):  # type: ignore[attr-defined]
    raise ImportError("the API and the launchers know different backends")
