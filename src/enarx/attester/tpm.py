# SPDX-License-Identifier: Apache-2.0
"""TPM 2.0 over /dev/tpmrm0: a quote of all PCRs by an attestation key, and PCR 15 as run-time register.

- The key is a primary key of the endorsement hierarchy, made from a template for each request, so it is the same key for as
  long as the TPM keeps its seed; or one that is there under a handle. Nothing is left in the TPM: the kernel's resource manager
  forgets what a closed descriptor made.
- The quote carries SHA-256 of the report data. PCRs are read first; where the quote is over other values, one changed in
  between, and both are done again, `_QUOTE_ATTEMPTS` times at most.
- The register takes SHA-384 digests, and is extended by an event with the digest as data: the TPM hashes it for each bank that
  it has, so that no bank of PCR 15 is left at zero.
- `_call` owns every command; each answer is read with bounds by `_Answer`. The kernel waits for a TPM minutes at most.
- NV memory is read where a paravisor keeps its report (`azure`), with the owner's empty password.

What holds it together is the device: `_Tpm` speaks its language, and what is public here opens it once for each question.

Spec: TCG TPM 2.0 Library 1.59, Part 2 and Part 3.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from enarx.abi.tpm import (
    ALG_ECDSA,
    DIGEST_SIZES,
    HASHES,
    MAX_PCR,
    TPM_ALG,
    Attest,
    parse_attest_untrusted,
    parse_signature_untrusted,
)
from enarx.attester.attested import (
    EVENT_LOG,
    MAX_EVIDENCE_BYTES,
    TPM_QUOTE,
    Attested,
    RuntimeRegister,
    make_endorsement,
    make_evidence,
    require_digest,
    require_report_data,
)
from enarx.attester.system import exists, read_file, refusal
from enarx.errors import DecodeError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enarx.attester.system import System

__all__ = ["DEVICE", "TakenQuote", "TpmAttester", "TpmRegister", "event_logs", "find_tpm", "read_nv", "take_quote"]

DEVICE: Final = "/dev/tpmrm0"
EVENT_LOG_FILE: Final = "/sys/kernel/security/tpm0/binary_bios_measurements"
RUNTIME_PCR: Final = 15
_BANK: Final = "sha256"
_MAX_BYTES: Final = 4096

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_RS_PW, _RH_ENDORSEMENT = 0x40000009, 0x4000000B
_CREATE_PRIMARY, _PCR_EVENT, _QUOTE = 0x131, 0x13C, 0x158
_READ_PUBLIC, _PCR_READ = 0x173, 0x17E
_NV_READ, _NV_READ_PUBLIC = 0x14E, 0x169
_RH_OWNER = 0x40000001
# What every TPM gives at once, and what an index of evidence is smaller than.
_NV_PIECE_BYTES: Final = 512
_MAX_NV_BYTES: Final = 16 << 10
_NO_SUCH_INDEX: Final = 0x18B
_ALG_ECC, _ALG_NULL, _CURVE_P256 = 0x0023, 0x0010, 0x0003
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
_ATTRIBUTES = 0x00050072
# The handle of an empty password, which stands for every authorisation here: handle, no nonce, no attribute, no HMAC.
_EMPTY_PASSWORD = struct.pack(">IHBH", _RS_PW, 0, 0, 0)

_QUOTE_ATTEMPTS: Final = 5
_READ_ATTEMPTS: Final = 8
_BUSY_ATTEMPTS: Final = 20
_BUSY_DELAY_S: Final = 0.25
# TPM_RC_YIELDED, _TESTING, _RETRY: the same command again will do.
_BUSY_CODES = frozenset({0x908, 0x90A, 0x922})
_CODES = {
    0x101: ("a failure of the TPM", "restart the machine"),
    0x100: ("a TPM that was not started", "the firmware has to start it"),
    0x143: ("a command that the TPM does not know", None),
    0x921: ("a TPM that is locked after wrong authorisations", "wait, or reset its lockout"),
    0x923: ("a TPM without room in its memory", "end programs that use the TPM"),
}
_MEANINGS: dict[int, tuple[str, str | None]] = {
    errno.EBUSY: ("a device that somebody else uses", "use /dev/tpmrm0, which many can use at once"),
    errno.ETIME: ("no answer in time", None),
    errno.EPIPE: ("a TPM that is gone", None),
}


class _CodeError(Exception):
    """The TPM refused a command."""

    def __init__(self, command: int, code: int) -> None:
        super().__init__(command, code)
        self.command, self.code = command, code


class _Answer:
    """Takes values off an answer's parameters."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError(
                f"cannot attest: {DEVICE}: found an answer of {len(self._data)} bytes, want at least {end}"
            )
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


class _Key(NamedTuple):
    """An attestation key that the TPM has loaded: its handle and its TPMT_PUBLIC."""

    handle: int
    public: bytes


class _Tpm:
    """An open TPM.

    Args:
        system: of the machine.
        fd: of the device.
    """

    def __init__(self, system: System, fd: int) -> None:
        self._system, self._fd = system, fd

    def _call(
        self,
        command: int,
        *,
        handle: int | None = None,
        index: int | None = None,
        parameters: bytes = b"",
        authorised: bool = False,
    ) -> bytes:
        """Run a command, and return the answer's handle, if there is one, and parameters.

        Raises:
            _CodeError: the TPM refuses it.
            OSError: the device does.
            DecodeError: the answer is not well formed.
        """
        body = b"".join(struct.pack(">I", each) for each in (handle, index) if each is not None)
        if authorised:
            body += struct.pack(">I", len(_EMPTY_PASSWORD)) + _EMPTY_PASSWORD
        body += parameters
        head = struct.pack(">HII", _SESSIONS if authorised else _NO_SESSIONS, 10 + len(body), command)
        attempts = 0
        while True:
            self._system.write(self._fd, head + body)
            answer = self._system.read(self._fd, _MAX_BYTES)
            if len(answer) < 10:
                raise DecodeError(f"cannot attest: {DEVICE}: found an answer of {len(answer)} bytes, want at least 10")
            tag, size, code = struct.unpack_from(">HII", answer)
            if size != len(answer) or tag != (_SESSIONS if authorised and not code else _NO_SESSIONS):
                raise DecodeError(
                    f"cannot attest: {DEVICE}: found tag {tag:#x} and size {size} over {len(answer)} bytes, want an answer"
                )
            attempts += 1
            if code not in _BUSY_CODES or attempts == _BUSY_ATTEMPTS:
                break
            self._system.sleep(_BUSY_DELAY_S)
        if code:
            raise _CodeError(command, code)
        return answer[10:]

    def create_key(self) -> _Key:
        """Make the endorsement hierarchy's attestation key: ECDSA with SHA-256 on P-256, restricted to what the TPM made."""
        template = struct.pack(">HHIH", _ALG_ECC, HASHES["sha256"], _ATTRIBUTES, 0)
        template += struct.pack(">HHHHH", _ALG_NULL, ALG_ECDSA, HASHES["sha256"], _CURVE_P256, _ALG_NULL)
        template += _sized(b"") + _sized(b"")
        parameters = _sized(_sized(b"") + _sized(b"")) + _sized(template) + _sized(b"") + struct.pack(">I", 0)
        answer = _Answer(self._call(_CREATE_PRIMARY, handle=_RH_ENDORSEMENT, parameters=parameters, authorised=True))
        handle = answer.number(4)
        answer.number(4)
        return _Key(handle, answer.sized())

    def load_key(self, handle: int) -> _Key:
        """Return the key that is there under a handle."""
        return _Key(handle, _Answer(self._call(_READ_PUBLIC, handle=handle)).sized())

    def quote(self, key: _Key, extra_data: bytes) -> tuple[bytes, bytes]:
        """Quote all PCRs of the bank; return TPMS_ATTEST and TPMT_SIGNATURE."""
        parameters = _sized(extra_data) + struct.pack(">H", _ALG_NULL) + _selection(_BANK, range(MAX_PCR + 1))
        answer = _Answer(self._call(_QUOTE, handle=key.handle, parameters=parameters, authorised=True))
        inner = _Answer(answer.take(answer.number(4)))
        return inner.sized(), inner.rest()

    def read_pcrs(self, indices: range) -> list[bytes]:
        """Return PCR values of the bank; a TPM gives some eight of them at once."""
        values: dict[int, bytes] = {}
        for _ in range(_READ_ATTEMPTS):
            missing = [index for index in indices if index not in values]
            if not missing:
                return [values[index] for index in indices]
            answer = _Answer(self._call(_PCR_READ, parameters=_selection(_BANK, missing)))
            answer.number(4)
            selected, digests = _selected(answer), _digests(answer)
            if len(selected) != len(digests):
                raise DecodeError(
                    f"cannot attest: {DEVICE}: found {len(digests)} values of {len(selected)} PCRs, want one of each"
                )
            values.update(zip(selected, digests, strict=True))
        raise PlatformError(
            f"cannot attest: {DEVICE}: found {len(values)} PCRs of bank {_BANK}, want {len(indices)}",
            hint=f"switch the TPM's {_BANK} bank on in the firmware",
        )

    def read_nv(self, index: int) -> bytes:
        """Return what is in an index of NV memory that the owner may read."""
        public = _Answer(_Answer(self._call(_NV_READ_PUBLIC, handle=index)).sized())
        public.take(4 + 2 + 4)
        public.sized()
        size = public.number(2)
        if size > _MAX_NV_BYTES:
            raise DecodeError(
                f"cannot attest: {DEVICE}: NV index {index:#x}: found {size} bytes, want at most {_MAX_NV_BYTES}"
            )
        data = b""
        while len(data) < size:
            wanted = min(_NV_PIECE_BYTES, size - len(data))
            parameters = struct.pack(">HH", wanted, len(data))
            answer = _Answer(
                self._call(_NV_READ, handle=_RH_OWNER, index=index, parameters=parameters, authorised=True)
            )
            answer.number(4)
            piece = answer.sized()
            if len(piece) != wanted:
                raise DecodeError(
                    f"cannot attest: {DEVICE}: NV index {index:#x}: found {len(piece)} bytes, want {wanted}"
                )
            data += piece
        return data

    def extend_by_event(self, index: int, data: bytes) -> dict[str, bytes]:
        """Extend a PCR in each bank by the hash of data; return these hashes by bank."""
        answer = _Answer(self._call(_PCR_EVENT, handle=index, parameters=_sized(data), authorised=True))
        inner = _Answer(answer.take(answer.number(4)))
        hashes: dict[str, bytes] = {}
        for _ in range(min(inner.number(4), len(TPM_ALG))):
            bank = TPM_ALG.get(inner.number(2))
            if bank is None:
                break
            hashes[bank] = inner.take(DIGEST_SIZES[bank])
        return hashes


@contextmanager
def _opened(system: System) -> Iterator[_Tpm]:
    """Open the TPM, and say what its errors mean."""
    try:
        fd = system.open(DEVICE, os.O_RDWR)
        try:
            yield _Tpm(system, fd)
        finally:
            system.close(fd)
    except OSError as error:
        raise refusal(DEVICE, error, _MEANINGS) from error
    except _CodeError as error:
        raise _explain(error) from error


def _explain(error: _CodeError) -> PlatformError:
    found, hint = _CODES.get(error.code, ("a refusal", None))
    if error.code in _BUSY_CODES:
        found = f"a busy TPM {_BUSY_ATTEMPTS} times"
    return PlatformError(
        f"cannot attest: {DEVICE}: command {error.command:#x}: found {found} (TPM_RC {error.code:#x}), want success",
        hint=hint,
    )


class TakenQuote(NamedTuple):
    """A quote with what it is over.

    Args:
        public: TPMT_PUBLIC of the key.
        message: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        pcrs: all values of the SHA-256 bank.
    """

    public: bytes
    message: bytes
    signature: bytes
    pcrs: list[bytes]


def take_quote(system: System, report_data: bytes, *, ak_handle: int | None = None) -> TakenQuote:
    """Have a TPM quote all PCRs over the SHA-256 of report data.

    Args:
        system: of the machine.
        report_data: 64 bytes.
        ak_handle: of the attestation key to use; None makes one.

    Raises:
        PlatformError: the TPM does not, or PCRs change all the time.
        DecodeError: an answer is not well formed.
    """
    require_report_data(report_data)
    extra_data = hashlib.sha256(report_data).digest()
    with _opened(system) as tpm:
        key = tpm.create_key() if ak_handle is None else tpm.load_key(ak_handle)
        for _ in range(_QUOTE_ATTEMPTS):
            values = tpm.read_pcrs(range(MAX_PCR + 1))
            message, signature = tpm.quote(key, extra_data)
            attest = _parse(message, signature, extra_data)
            if attest.pcr_digest == _digest_of(values, signature):
                return TakenQuote(key.public, message, signature, values)
    raise PlatformError(
        f"cannot attest: {DEVICE}: found PCRs that changed during {_QUOTE_ATTEMPTS} quotes, want them left alone",
        hint="end the program that extends PCRs",
    )


def read_nv(system: System, index: int) -> bytes | None:
    """Return what is in an index of a TPM's NV memory; None where there is none of that number.

    Raises:
        PlatformError: the TPM does not let it be read.
        DecodeError: an answer is not well formed.
    """
    with _opened(system) as tpm:
        try:
            return tpm.read_nv(index)
        except _CodeError as error:
            if error.command == _NV_READ_PUBLIC and error.code == _NO_SUCH_INDEX:
                return None
            raise


def event_logs(system: System) -> tuple[bytes, ...]:
    """Return the firmware's log, which explains PCRs to whoever wants them explained; evidence stands without it."""
    try:
        log = read_file(system, EVENT_LOG_FILE, MAX_EVIDENCE_BYTES)
    except OSError:
        return ()
    return (make_endorsement(EVENT_LOG, log),) if log else ()


class TpmAttester:
    """A TPM, which is worth what whoever runs it is: the host, for a virtual one.

    Args:
        system: of the machine.
        ak_handle: of the attestation key to use; None makes one.
    """

    backend = "vm"
    media_type = TPM_QUOTE

    def __init__(self, system: System, *, ak_handle: int | None = None) -> None:
        self._system, self._ak_handle = system, ak_handle
        self.register: RuntimeRegister | None = TpmRegister(system)

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a quote; see `enarx.attester.Attester`."""
        taken = take_quote(self._system, report_data, ak_handle=self._ak_handle)
        return Attested(_bundle(taken), event_logs(self._system))


class TpmRegister:
    """PCR 15, which firmware and boot loaders leave to the system.

    Args:
        system: of the machine.
    """

    name = f"TPM PCR {RUNTIME_PCR}"

    def __init__(self, system: System) -> None:
        self._system = system

    def read(self) -> bytes:
        """Return its 32 bytes in the SHA-256 bank."""
        with _opened(self._system) as tpm:
            return tpm.read_pcrs(range(RUNTIME_PCR, RUNTIME_PCR + 1))[0]

    def extend(self, digest: bytes) -> bytes:
        """Extend it in each bank by the hash of a digest."""
        require_digest(digest)
        with _opened(self._system) as tpm:
            (before,) = tpm.read_pcrs(range(RUNTIME_PCR, RUNTIME_PCR + 1))
            hashes = tpm.extend_by_event(RUNTIME_PCR, digest)
            (found,) = tpm.read_pcrs(range(RUNTIME_PCR, RUNTIME_PCR + 1))
        wanted = self.predict(digest, before)
        if found != wanted or hashes.get(_BANK) != hashlib.sha256(digest).digest():
            raise PlatformError(f"cannot extend {self.name}: found {found.hex()} after it, want {wanted.hex()}")
        return found

    def predict(self, digest: bytes, before: bytes | None = None) -> bytes:
        """Return SHA-256 of the value before and of the digest's SHA-256."""
        require_digest(digest)
        start = bytes(DIGEST_SIZES[_BANK]) if before is None else before
        return hashlib.sha256(start + hashlib.sha256(digest).digest()).digest()


def find_tpm(system: System) -> TpmAttester | None:
    """Return the TPM behind the device, or None where it is not there."""
    return TpmAttester(system) if exists(system, DEVICE) else None


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _selection(bank: str, indices: range | list[int]) -> bytes:
    """Return TPML_PCR_SELECTION of one bank."""
    bitmap = sum(1 << index for index in indices).to_bytes(3, "little")
    return struct.pack(">IHB", 1, HASHES[bank], len(bitmap)) + bitmap


def _selected(answer: _Answer) -> list[int]:
    """Take TPML_PCR_SELECTION off; return the indices of the bank."""
    indices: list[int] = []
    for _ in range(min(answer.number(4), len(TPM_ALG))):
        bank, bitmap = answer.number(2), int.from_bytes(answer.take(answer.number(1)), "little")
        if bank == HASHES[_BANK]:
            indices += [index for index in range(MAX_PCR + 1) if bitmap >> index & 1]
        elif bitmap:
            raise DecodeError(f"cannot attest: {DEVICE}: found PCRs of bank {bank:#x}, want {_BANK}")
    return indices


def _digests(answer: _Answer) -> list[bytes]:
    """Take TPML_DIGEST off."""
    return [answer.sized() for _ in range(min(answer.number(4), MAX_PCR + 1))]


def _parse(message: bytes, signature: bytes, extra_data: bytes) -> Attest:
    try:
        attest = parse_attest_untrusted(message)
        parse_signature_untrusted(signature)
    except DecodeError as error:
        raise DecodeError(f"cannot attest: {DEVICE}: {error}") from error
    if attest.extra_data != extra_data:
        raise PlatformError(f"cannot attest: {DEVICE}: found a quote over other report data, want the caller's")
    return attest


def _digest_of(values: list[bytes], signature: bytes) -> bytes:
    """Return the digest of PCR values by the hash that the key signs with."""
    name = parse_signature_untrusted(signature).hash
    return hashlib.new(name, b"".join(values)).digest()


def _bundle(taken: TakenQuote) -> bytes:
    """Return the evidence as JSON in a CMW, in the shape of trustee's TPM attester, in hex."""
    bundle = {
        "ak_public": taken.public.hex(),
        "tpm_quote": {
            "message": taken.message.hex(),
            "signature": taken.signature.hex(),
            "pcrs": [value.hex() for value in taken.pcrs],
        },
    }
    return make_evidence(TPM_QUOTE, json.dumps(bundle, separators=(",", ":")).encode())
