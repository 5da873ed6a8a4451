# SPDX-License-Identifier: Apache-2.0
"""TCG event logs: what firmware and boot loaders measured into PCRs or RTMRs, and the replay of it.

Rules of this file:

- A log is a story. Only the digests in it can be checked, against registers that somebody signed; which register and type an
  event has, and its data, are whatever the log's writer wants. So nothing here says "trusted", and `secure_boot` looks only at what the
  order of measurements fixes and whose data the digest covers.
- Two forms: the legacy one with SHA-1 only, and the crypto-agile one, which begins with a legacy event that holds the
  Spec ID event. An ACPI CCEL area is the second one, its registers numbered from 1 for RTMR0, with 0xFF to the end of the area.
- `EV_NO_ACTION` is never extended. A StartupLocality event says what PCR 0 began with.

Spec: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 to 10.4; UEFI 2.10 section 38 (CCEL).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from enarx.abi.tpm import DIGEST_SIZES, HASHES, TPM_ALG
from enarx.errors import DecodeError

__all__ = ["EV_NO_ACTION", "Event", "EventLog", "SpecId", "parse_event_log_untrusted", "replay", "serialise_event_log"]

MAX_LOG_BYTES: Final = 2 << 20
MAX_EVENTS: Final = 16384
MAX_EVENT_BYTES: Final = 1 << 20
MAX_REGISTER: Final = 31
_MAX_ALGORITHMS: Final = 8

EV_NO_ACTION: Final = 0x00000003
EV_SEPARATOR: Final = 0x00000004
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001

_HEADER = struct.Struct("<II20sI")
_SPEC_ID = b"Spec ID Event03\0"
_SPEC_HEAD = struct.Struct("<16s8sI")
_STARTUP_LOCALITY = b"StartupLocality\0"
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_SECURE_BOOT = "SecureBoot".encode("utf-16-le")
_SECURE_BOOT_PCR: Final = 7


class Event(NamedTuple):
    """One measurement.

    Args:
        register: PCR index, or 1 + RTMR index.
        type: an `EV_` number.
        digests: by bank.
        data: what the log says was measured.
    """

    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes


class SpecId(NamedTuple):
    """The Spec ID event, but for its algorithms.

    Args:
        register: of the event; firmware writes 0, CCEL 1.
        head: platform class, minor and major version, errata, and the size of UINTN, 8 bytes.
        vendor: at most 255 bytes.
    """

    register: int
    head: bytes
    vendor: bytes


class EventLog(NamedTuple):
    """A decoded log.

    Args:
        algorithms: the digest algorithms that the Spec ID event announces, in its order; empty for a legacy log.
        events: crypto-agile events, without the Spec ID event; empty for a legacy log.
        legacy_events: the events of a legacy log, SHA-1 only.
        spec_id: what else the Spec ID event says; None for a legacy log.
    """

    algorithms: tuple[str, ...]
    events: tuple[Event, ...]
    legacy_events: tuple[Event, ...] = ()
    spec_id: SpecId | None = None

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks that can be replayed."""
        return self.algorithms if self.spec_id is not None else ("sha1",)

    @property
    def bank(self) -> str:
        """The bank that people compare: SHA-256 where the log has it, else its first, else SHA-256."""
        return "sha256" if "sha256" in self.algorithms or not self.algorithms else self.algorithms[0]

    def secure_boot(self, bank: str) -> bool | None:
        """Return whether firmware measured that Secure Boot is on, or None where the log does not show it.

        The first measurement into PCR 7 is the SecureBoot variable, made before any code that an attacker could bring, and
        its digest covers the data. Later events that claim to be the variable say nothing.
        """
        for event in self.events:
            if event.register != _SECURE_BOOT_PCR or event.type == EV_NO_ACTION:
                continue
            if event.type != EV_EFI_VARIABLE_DRIVER_CONFIG or _hash(bank, event.data) != event.digests.get(bank):
                return None
            return _secure_boot_value(event.data)
        return None

    def named(self) -> dict[str, object]:
        """Return the claims of the log, replayed."""
        return {
            "bank": self.bank,
            "n_events": len(self.events),
            "algs": list(self.algorithms),
            "registers": {str(index): value for index, value in replay(self, self.bank).items()},
            "n_legacy_events": len(self.legacy_events),
        }


def _secure_boot_value(data: bytes) -> bool | None:
    """Read a UEFI_VARIABLE_DATA: GUID, lengths of name and value, name, value."""
    if len(data) < 32 or data[:16] != _GLOBAL_VARIABLE:
        return None
    characters, size = struct.unpack_from("<QQ", data, 16)
    if characters * 2 != len(_SECURE_BOOT) or data[32 : 32 + len(_SECURE_BOOT)] != _SECURE_BOOT:
        return None
    value = data[32 + len(_SECURE_BOOT) :]
    # Firmware without keys has no such variable, and measures that it is empty.
    return {b"\1": True, b"\0": False, b"": False}.get(value) if len(value) == size else None


def parse_event_log_untrusted(data: bytes) -> EventLog:
    """Decode an event log without believing it.

    Args:
        data: a log as the firmware left it; a run of 0xFF, or of zeros, to the end of the area ends it.

    Raises:
        DecodeError: truncated, more than `MAX_LOG_BYTES` or `MAX_EVENTS`, an algorithm that was not announced or that stands twice,
            or a count or size beyond its bound.
    """
    if len(data) > MAX_LOG_BYTES:
        raise _refuse("size", f"{len(data)} bytes", f"at most {MAX_LOG_BYTES}")
    if len(data) < _HEADER.size:
        raise _refuse("size", f"{len(data)} bytes", f"at least {_HEADER.size}")
    first, at = _legacy_event(data, 0)
    if first.type != EV_NO_ACTION or not first.data.startswith(_SPEC_ID):
        return _parse_legacy(data)
    algorithms, spec_id = _parse_spec_id(first)
    known = {HASHES[name]: (name, DIGEST_SIZES[name]) for name in algorithms}
    events: list[Event] = []
    while not _is_padding(data, at):
        event, at = _agile_event(data, at, known)
        events.append(event)
        if len(events) > MAX_EVENTS:
            raise _refuse("events", "more", f"at most {MAX_EVENTS}")
    return EventLog(algorithms, tuple(events), (), spec_id)


def _parse_legacy(data: bytes) -> EventLog:
    events, at = [], 0
    while not _is_padding(data, at):
        event, at = _legacy_event(data, at)
        events.append(event)
        if len(events) > MAX_EVENTS:
            raise _refuse("events", "more", f"at most {MAX_EVENTS}")
    return EventLog((), (), tuple(events))


def _is_padding(data: bytes, at: int) -> bool:
    """Whether nothing but filling follows. Eight zeros begin no event: type 0 is not used, nor is an event without digest."""
    if at == len(data):
        return True
    head = data[at : at + 8]
    if head == b"\xff" * len(head) or head == bytes(len(head)):
        return data.count(head[:1], at) == len(data) - at
    return False


def _legacy_event(data: bytes, at: int) -> tuple[Event, int]:
    if len(data) - at < _HEADER.size:
        raise _refuse("an event", f"{len(data) - at} bytes", f"at least {_HEADER.size}")
    register, kind, digest, size = _HEADER.unpack_from(data, at)
    _check(register, size, len(data) - at - _HEADER.size)
    at += _HEADER.size
    return Event(register, kind, {"sha1": digest}, data[at : at + size]), at + size


def _agile_event(data: bytes, at: int, known: Mapping[int, tuple[str, int]]) -> tuple[Event, int]:
    total = len(data)
    if total - at < 12:
        raise _refuse("an event", f"{total - at} bytes", "at least 12")
    register, kind, count = struct.unpack_from("<III", data, at)
    if count > len(known):
        raise _refuse("digests of an event", count, f"at most {len(known)}")
    at += 12
    digests: dict[str, bytes] = {}
    for _ in range(count):
        if total - at < 2:
            raise _refuse("a digest", f"{total - at} bytes", "at least 2")
        number = data[at] | data[at + 1] << 8
        algorithm = known.get(number)
        if algorithm is None or algorithm[0] in digests:
            raise _refuse("digest algorithm", hex(number), "one that the log announced, once")
        name, size = algorithm
        end = at + 2 + size
        if end > total:
            raise _refuse("a digest", f"{total - at - 2} bytes", str(size))
        digests[name] = data[at + 2 : end]
        at = end
    if total - at < 4:
        raise _refuse("size of an event", f"{total - at} bytes", "4")
    size = int.from_bytes(data[at : at + 4], "little")
    at += 4
    _check(register, size, total - at)
    return Event(register, kind, digests, data[at : at + size]), at + size


def _check(register: int, size: int, left: int) -> None:
    if register > MAX_REGISTER:
        raise _refuse("register", register, f"at most {MAX_REGISTER}")
    if size > min(left, MAX_EVENT_BYTES):
        raise _refuse("size of an event", size, f"at most {min(left, MAX_EVENT_BYTES)}")


def _parse_spec_id(event: Event) -> tuple[tuple[str, ...], SpecId]:
    data = event.data
    if len(data) < _SPEC_HEAD.size:
        raise _refuse("Spec ID event", f"{len(data)} bytes", f"at least {_SPEC_HEAD.size}")
    _, head, count = _SPEC_HEAD.unpack_from(data)
    end = _SPEC_HEAD.size + 4 * min(count, _MAX_ALGORITHMS + 1)
    if not 0 < count <= _MAX_ALGORITHMS or len(data) <= end:
        raise _refuse("algorithms", count, f"1 to {_MAX_ALGORITHMS}, and as many entries")
    names: list[str] = []
    for number, size in struct.iter_unpack("<HH", data[_SPEC_HEAD.size : end]):
        name = TPM_ALG.get(number)
        if name is None or DIGEST_SIZES[name] != size or name in names:
            raise _refuse("algorithm", f"{number:#06x} with {size} bytes", "a known one with its size, once")
        names.append(name)
    vendor = data[end:]
    if vendor[0] != len(vendor) - 1:
        raise _refuse("vendor's bytes", len(vendor) - 1, str(vendor[0]))
    return tuple(names), SpecId(event.register, head, vendor[1:])


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """Compute what the registers of a bank hold if the log is true.

    Args:
        log: decoded.
        bank: a name of `TPM_ALG`.

    Returns:
        Values by register, ascending: those that an event was measured into; none for a bank that the log does not have.

    Raises:
        DecodeError: an event without a digest for the bank, a bank that cannot be computed, or a StartupLocality event that
            comes after a measurement of PCR 0 or twice.

    Spec: TCG PFP 1.06 section 10.4.5.3 (startup locality); TPM 2.0 Part 1, 17.6 (extend).
    """
    if bank not in log.banks:
        return {}
    zero = bytes(DIGEST_SIZES[bank])
    values: dict[int, bytes] = {}
    initial: bytes | None = None
    for event in log.events if log.spec_id is not None else log.legacy_events:
        if event.type == EV_NO_ACTION:
            if event.data.startswith(_STARTUP_LOCALITY):
                if event.register != 0 or 0 in values or initial is not None or len(event.data) != 17:
                    raise _refuse("StartupLocality", "one out of place", "one, in PCR 0, before it is extended")
                initial = zero[:-1] + event.data[-1:]
            continue
        digest = event.digests.get(bank)
        if digest is None:
            raise _refuse("an event", f"no {bank} digest", "one for each algorithm that the log announced")
        before = values.get(event.register)
        if before is None:
            before = initial if event.register == 0 and initial is not None else zero
        values[event.register] = _hash(bank, before + digest)
    return dict(sorted(values.items()))


def serialise_event_log(log: EventLog) -> bytes:
    """Encode a log as firmware writes it, without filling."""
    if log.spec_id is None:
        return b"".join(
            _HEADER.pack(event.register, event.type, event.digests["sha1"], len(event.data)) + event.data
            for event in log.legacy_events
        )
    register, head, vendor = log.spec_id
    spec = _SPEC_HEAD.pack(_SPEC_ID, head, len(log.algorithms))
    spec += b"".join(struct.pack("<HH", HASHES[name], DIGEST_SIZES[name]) for name in log.algorithms)
    spec += bytes([len(vendor)]) + vendor
    data = [_HEADER.pack(register, EV_NO_ACTION, bytes(20), len(spec)) + spec]
    for event in log.events:
        data.append(struct.pack("<III", event.register, event.type, len(event.digests)))
        data.extend(struct.pack("<H", HASHES[name]) + digest for name, digest in event.digests.items())
        data.append(struct.pack("<I", len(event.data)) + event.data)
    return b"".join(data)


def _hash(bank: str, data: bytes) -> bytes:
    try:
        return hashlib.new(bank, data).digest()
    except ValueError as error:
        raise _refuse("bank", bank, "a hash that can be computed here") from error


def _refuse(subject: str, found: object, wanted: str) -> DecodeError:
    return DecodeError(f"cannot decode the event log: {subject}: found {found}, want {wanted}")
