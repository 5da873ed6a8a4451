# SPDX-License-Identifier: Apache-2.0
"""What a tenant and a Keep say to each other, as frozen records, and their deterministic CBOR.

Rules of this file:

- It is docs/formats/session.cddl in Python: the same names, types and limits, nothing more lenient, and nothing that gives a
  value a meaning. A test holds each record's encoding against the CDDL.
- There is one encoding for each value. What is not it is refused: another order of members, a member too many or too few.
- Each message has one direction, so there is a decoder for each end: what a Keep says is no message to a Keep.

What holds it together is the one format; the records come first, then the decoders in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from enarx.crypto.cbor import encode, encode_head
from enarx.wire.fields import (
    Fields,
    bytes_of,
    choice_of,
    decode_canonical,
    refusal,
    some_of,
    text_of,
)
from enarx.wire.release import MAX_IDENTITY_BYTES, MAX_RELEASE_BYTES, decode_identity_untrusted

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_GRACE_MS",
    "MAX_HINT_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_TRAP_BYTES",
    "Attach",
    "Attachment",
    "Challenge",
    "Detach",
    "Exit",
    "ExitFailure",
    "Failure",
    "Image",
    "KeepMessage",
    "Limits",
    "Offer",
    "Output",
    "Provision",
    "Receipt",
    "Refuse",
    "Signal",
    "Stats",
    "Stdin",
    "Stop",
    "TenantMessage",
    "Window",
    "decode_keep_message_untrusted",
    "decode_tenant_message_untrusted",
    "decode_without_evidence_untrusted",
    "encode_message",
    "encode_pieces",
    "exit_failure_value",
    "read_exit_failure",
    "without_evidence",
]

MAX_MESSAGE_BYTES = 2 << 20
MAX_DATA_BYTES = 65536
MAX_GRACE_MS = 600_000
MAX_HINT_BYTES = 1024
MAX_TRAP_BYTES = 16384

_HPKE_KEY_BYTES = 1216
_HPKE_OVERHEAD_BYTES = 1136
_MIN_SEALED_BYTES = _HPKE_OVERHEAD_BYTES + 1
_MAX_SEALED_BYTES = _HPKE_OVERHEAD_BYTES + MAX_RELEASE_BYTES
_MAX_CMW_BYTES = 1 << 20
_REFUSALS = ("decode", "verification", "appraisal", "endorsement", "usage")
_SIGNALS = (2, 15)
_BACKENDS = ("snp", "tdx", "cca", "sgx", "nitro", "vm", "nil")
_OUTPUTS = ("stdout", "stderr")
# A map's first member in the deterministic order, where there is one of that name: its text.
_BULK = b"\x64data"
# The rest of every message of stdin.
_STDIN = encode({"type": "stdin"})
_MAX_REST_BYTES = 256
_MAX_HASHED_RECEIPT_BYTES = 4096


class Image(NamedTuple):
    """What a Keep says it is; only its measurement proves anything.

    Args:
        name: of the image.
        version: of it.
        backend: `nil`, `vm`, `snp`, `tdx`, `sgx`, `nitro` or `cca`.
    """

    name: str
    version: str
    backend: str


class Limits(NamedTuple):
    """What a Keep has room for.

    Args:
        memory_bytes: of the workload.
        package_bytes: of all plaintexts together.
        log_bytes: of output that is kept for whoever attaches.
    """

    memory_bytes: int
    package_bytes: int
    log_bytes: int


class Challenge(NamedTuple):
    """The tenant asks for evidence.

    Args:
        nonce: 32 bytes, fresh.
        media_types: of the evidence that it can judge; 1 to 16.
    """

    nonce: bytes
    media_types: tuple[str, ...]


class Offer(NamedTuple):
    """An empty Keep's answer.

    Args:
        hpke_key: 1216 bytes, a fresh MLKEM768-X25519 public key.
        image: what it says it is.
        limits: what it has room for.
        endorsements: CMW in CBOR, at most 8, of what came with the evidence.
        evidence: CMW in CBOR, over the binding of purpose `offer`.
    """

    hpke_key: bytes
    image: Image
    limits: Limits
    endorsements: tuple[bytes, ...]
    evidence: bytes


class Attachment(NamedTuple):
    """A provisioned Keep's answer to its own tenant.

    Args:
        log_start: offset of the first byte of output that is still there.
        log_end: one past the last.
        image: what it says it is.
        limits: what is in force.
        endorsements: as in `Offer`.
        evidence: CMW in CBOR, over the binding of purpose `attach`.
    """

    log_start: int
    log_end: int
    image: Image
    limits: Limits
    endorsements: tuple[bytes, ...]
    evidence: bytes


class Refuse(NamedTuple):
    """The tenant does not accept the Keep.

    Args:
        kind: `decode`, `verification`, `appraisal`, `endorsement` or `usage`; no more is said to whom one does not trust.
    """

    kind: str


class Provision(NamedTuple):
    """The one-time secret.

    Args:
        release: a `Release`, sealed by HPKE; 1137 to 66672 bytes.
    """

    release: bytes


class Receipt(NamedTuple):
    """The Keep runs the workload.

    Args:
        identity: an `Identity` in CBOR.
        limits: in force.
        endorsements: as in `Offer`.
        evidence: CMW in CBOR, over the binding of purpose `receipt`.
    """

    identity: bytes
    limits: Limits
    endorsements: tuple[bytes, ...]
    evidence: bytes


class Stdin(NamedTuple):
    """Bytes for the workload's standard input, at most 65536; none is the end of it."""

    data: bytes


class Signal(NamedTuple):
    """A signal for the workload: 2 (INT) or 15 (TERM)."""

    number: int


class Stop(NamedTuple):
    """End the workload: TERM, then KILL after 0 to 600000 milliseconds, then power off."""

    grace_ms: int


class Detach(NamedTuple):
    """Leave the workload running."""


class Attach(NamedTuple):
    """Send output from this offset on."""

    offset: int


class Window(NamedTuple):
    """How many bytes of standard input the tenant may have sent since the beginning."""

    stdin: int


class Output(NamedTuple):
    """What the workload wrote.

    Args:
        name: `stdout` or `stderr`.
        offset: of its first byte in both outputs together.
        data: 1 to 65536 bytes.
    """

    name: str
    offset: int
    data: bytes


class Stats(NamedTuple):
    """What the workload used, by the Keep's monotonic clock."""

    uptime_ms: int
    cpu_ms: int
    memory_bytes: int


class ExitFailure(NamedTuple):
    """Why a workload could not start or was stopped.

    Args:
        kind: the exit status of its class, 102 to 109.
        message: one line.
        hint: what to do next, or None.
    """

    kind: int
    message: str
    hint: str | None = None


class Exit(NamedTuple):
    """The workload ended; nothing follows.

    Args:
        status: its own, or 128 and the number of the signal that ended it.
        failure: where it did not end by itself.
        trap: the engine's text.
        hint: about a limit that stood in its way.
    """

    status: int
    failure: ExitFailure | None
    trap: str | None
    hint: str | None


class Failure(NamedTuple):
    """The Keep gives up on this session, and on itself where `provision` was received.

    Args:
        kind: 103 to 109, as exit statuses.
        message: one line, for a person who does not know yet whether to believe it.
    """

    kind: int
    message: str


TenantMessage: TypeAlias = Challenge | Refuse | Provision | Attach | Stdin | Signal | Stop | Detach
KeepMessage: TypeAlias = Offer | Attachment | Receipt | Window | Output | Stats | Exit | Failure


def encode_message(message: TenantMessage | KeepMessage) -> bytes:
    """Return a message in CBOR, without the length that goes before it."""
    return b"".join(encode_pieces(message))


def encode_pieces(message: TenantMessage | KeepMessage) -> tuple[bytes, ...]:
    """Return a message in CBOR as pieces that follow one another; the bytes of stdin and output are one of them, not copied."""
    value = _value_of(message)
    data = value.pop("data", None)
    rest = _STDIN if type(message) is Stdin else encode(value)
    if data is None:
        return (rest,)
    # A map of few members says in its first byte how many, and `data` is the first of them.
    return bytes([rest[0] + 1]) + _BULK + encode_head(2, len(data)), data, rest[1:]


def without_evidence(message: Offer | Attachment | Receipt) -> bytes:
    """Return what is hashed of a message: all of it but evidence, which is over the hash, and endorsements, which come with it."""
    value = _value_of(message)
    del value["evidence"], value["endorsements"]
    return encode(value)


# Keeps of one deployment say the same, again and again.
@lru_cache(maxsize=64)
def decode_without_evidence_untrusted(data: bytes) -> Receipt:
    """Decode what `without_evidence` returned for a receipt.

    Returns:
        The receipt, its evidence and endorsements empty; hashed, it is what `data` is.

    Raises:
        DecodeError: it is none.
    """
    fields = Fields(decode_canonical(data, _MAX_HASHED_RECEIPT_BYTES, "the receipt"), "receipt")
    fields.required("type", choice_of(("receipt",)))
    receipt = Receipt(_identity(fields), fields.required("limits", _limits), (), b"")
    fields.end()
    return receipt


def decode_tenant_message_untrusted(data: bytes | memoryview) -> TenantMessage:
    """Decode what a Keep received.

    Raises:
        DecodeError: it is no message of a tenant's.
    """
    return _decode_message(data, _TENANT)  # type: ignore[no-any-return]


def decode_keep_message_untrusted(data: bytes | memoryview) -> KeepMessage:
    """Decode what a tenant received.

    Raises:
        DecodeError: it is no message of a Keep's.
    """
    return _decode_message(data, _KEEP)  # type: ignore[no-any-return]


def _value_of(message: TenantMessage | KeepMessage) -> dict[str, Any]:
    """Return a message as the map that it is."""
    match message:
        case Output(name, offset, data):
            return {"type": name, "offset": offset, "data": data}
        case Stdin(data):
            return {"type": "stdin", "data": data}
        case Challenge(nonce, media_types):
            return {"type": "challenge", "nonce": nonce, "media-types": list(media_types)}
        case Offer():
            return {"type": "offer", "hpke-key": message.hpke_key, **_about_keep(message)}
        case Attachment(log_start, log_end):
            return {"type": "attachment", "log-start": log_start, "log-end": log_end, **_about_keep(message)}
        case Receipt(identity, limits, endorsements, evidence):
            return {
                "type": "receipt",
                "identity": identity,
                "limits": _limits_value(limits),
                "endorsements": list(endorsements),
                "evidence": evidence,
            }
        case Refuse(kind):
            return {"type": "refuse", "class": kind}
        case Provision(release):
            return {"type": "provision", "release": release}
        case Signal(number):
            return {"type": "signal", "number": number}
        case Stop(grace_ms):
            return {"type": "stop", "grace-ms": grace_ms}
        case Detach():
            return {"type": "detach"}
        case Attach(offset):
            return {"type": "attach", "offset": offset}
        case Window(stdin):
            return {"type": "window", "stdin": stdin}
        case Stats(uptime_ms, cpu_ms, memory_bytes):
            return {"type": "stats", "uptime-ms": uptime_ms, "cpu-ms": cpu_ms, "memory-bytes": memory_bytes}
        case Exit(status, failure, trap, hint):
            value: dict[str, Any] = {"type": "exit", "status": status}
            if failure is not None:
                value["failure"] = exit_failure_value(failure)
            return value | {name: text for name, text in (("trap", trap), ("hint", hint)) if text is not None}
        case Failure(kind, text):
            return {"type": "failure", "class": kind, "message": text}


def _about_keep(message: Offer | Attachment) -> dict[str, Any]:
    return {
        "image": message.image._asdict(),
        "limits": _limits_value(message.limits),
        "endorsements": list(message.endorsements),
        "evidence": message.evidence,
    }


def _limits_value(limits: Limits) -> dict[str, int]:
    return {
        "memory-bytes": limits.memory_bytes,
        "package-bytes": limits.package_bytes,
        "log-bytes": limits.log_bytes,
    }


def _decode_message(data: bytes | memoryview, readers: Mapping[str, Callable[[str, Fields], Any]]) -> Any:
    value = _decode_bulk(data) if data[1:6] == _BULK else None
    if value is None:
        value = decode_canonical(bytes(data), MAX_MESSAGE_BYTES, "the message")
    kind = value.get("type") if type(value) is dict else None
    if type(kind) is not str or kind not in readers:
        raise refusal("message.type", repr(kind)[:40], f"one of {', '.join(readers)}")
    del value["type"]
    fields = Fields(value, kind)
    message = readers[kind](kind, fields)
    fields.end()
    return message


def _decode_bulk(data: bytes | memoryview) -> dict[str, Any] | None:
    """Decode stdin and output, of which `data` is the first member, without sending the bytes through the general decoder twice.

    Returns:
        What `decode_canonical` would return, or a map that is no message either; None for what it has to judge itself.
    """
    size = {0x58: 1, 0x59: 2, 0x5A: 4}.get(data[6]) if len(data) > 6 else None
    if size is None:
        return None
    start = 7 + size
    length = int.from_bytes(data[7:start], "big")
    end = start + length
    if length < (24 if size == 1 else 1 << 4 * size) or end > len(data) or not 0xA2 <= data[0] <= 0xA3:
        return None
    rest = _decode_rest(bytes([data[0] - 1]) + data[end:])
    return None if "data" in rest else {"data": bytes(data[start:end]), **rest}


@lru_cache(maxsize=4)
def _decode_rest(rest: bytes) -> dict[str, Any]:
    """Decode a message without its first member; all messages of stdin have the same."""
    value: dict[str, Any] = decode_canonical(rest, _MAX_REST_BYTES, "the message")
    return value


def _image(value: Any, where: str) -> Image:
    fields = Fields(value, where)
    image = Image(
        name=fields.text("name"),
        version=fields.text("version"),
        backend=fields.required("backend", choice_of(_BACKENDS)),
    )
    fields.end()
    return image


def _limits(value: Any, where: str) -> Limits:
    fields = Fields(value, where)
    limits = Limits(
        memory_bytes=fields.uint("memory-bytes"),
        package_bytes=fields.uint("package-bytes"),
        log_bytes=fields.uint("log-bytes"),
    )
    fields.end()
    return limits


_CMW = bytes_of(1, _MAX_CMW_BYTES)
_ENDORSEMENTS = some_of(_CMW, least=0, most=8)


def _offer(_: str, fields: Fields) -> Offer:
    return Offer(
        hpke_key=fields.bytes("hpke-key", _HPKE_KEY_BYTES, _HPKE_KEY_BYTES),
        image=fields.required("image", _image),
        limits=fields.required("limits", _limits),
        endorsements=fields.required("endorsements", _ENDORSEMENTS),
        evidence=fields.required("evidence", _CMW),
    )


def _attachment(_: str, fields: Fields) -> Attachment:
    return Attachment(
        log_start=fields.uint("log-start"),
        log_end=fields.uint("log-end"),
        image=fields.required("image", _image),
        limits=fields.required("limits", _limits),
        endorsements=fields.required("endorsements", _ENDORSEMENTS),
        evidence=fields.required("evidence", _CMW),
    )


def _identity(fields: Fields) -> bytes:
    identity = fields.bytes("identity", 1, MAX_IDENTITY_BYTES)
    decode_identity_untrusted(identity)
    return identity


def _receipt(_: str, fields: Fields) -> Receipt:
    return Receipt(
        identity=_identity(fields),
        limits=fields.required("limits", _limits),
        endorsements=fields.required("endorsements", _ENDORSEMENTS),
        evidence=fields.required("evidence", _CMW),
    )


def _challenge(_: str, fields: Fields) -> Challenge:
    return Challenge(
        nonce=fields.bytes("nonce", 32, 32),
        media_types=fields.required("media-types", some_of(text_of(256, 1), most=16)),
    )


_HINT = text_of(MAX_HINT_BYTES, 1)


def _exit(_: str, fields: Fields) -> Exit:
    return Exit(
        status=fields.uint("status", 255),
        failure=fields.optional("failure", read_exit_failure),
        trap=fields.optional("trap", text_of(MAX_TRAP_BYTES, 1)),
        hint=fields.optional("hint", _HINT),
    )


def exit_failure_value(failure: ExitFailure) -> dict[str, Any]:
    """Return what a failure is in CBOR, before it is encoded."""
    value: dict[str, Any] = {"class": failure.kind, "message": failure.message}
    return value if failure.hint is None else value | {"hint": failure.hint}


def read_exit_failure(value: Any, where: str) -> ExitFailure:
    """Return a failure.

    Raises:
        DecodeError: it is none.
    """
    fields = Fields(value, where)
    failure = ExitFailure(
        kind=fields.uint("class", 109, 102),
        message=fields.text("message", least=1),
        hint=fields.optional("hint", _HINT),
    )
    fields.end()
    return failure


_TENANT: Mapping[str, Callable[[str, Fields], TenantMessage]] = {
    "challenge": _challenge,
    "refuse": lambda _, fields: Refuse(fields.required("class", choice_of(_REFUSALS))),
    "provision": lambda _, fields: Provision(fields.bytes("release", _MIN_SEALED_BYTES, _MAX_SEALED_BYTES)),
    "attach": lambda _, fields: Attach(fields.uint("offset")),
    "stdin": lambda _, fields: Stdin(fields.bytes("data", 0, MAX_DATA_BYTES)),
    "signal": lambda _, fields: Signal(fields.required("number", choice_of(_SIGNALS))),
    "stop": lambda _, fields: Stop(fields.uint("grace-ms", MAX_GRACE_MS)),
    "detach": lambda _, __: Detach(),
}


def _output(name: str, fields: Fields) -> Output:
    return Output(name, fields.uint("offset"), fields.bytes("data", 1, MAX_DATA_BYTES))


_KEEP: Mapping[str, Callable[[str, Fields], KeepMessage]] = {
    "offer": _offer,
    "attachment": _attachment,
    "receipt": _receipt,
    "window": lambda _, fields: Window(fields.uint("stdin")),
    **dict.fromkeys(_OUTPUTS, _output),
    "stats": lambda _, fields: Stats(fields.uint("uptime-ms"), fields.uint("cpu-ms"), fields.uint("memory-bytes")),
    "exit": _exit,
    "failure": lambda _, fields: Failure(fields.uint("class", 109, 103), fields.text("message", least=1)),
}
