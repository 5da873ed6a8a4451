# SPDX-License-Identifier: Apache-2.0
"""An emulation of /dev/tpmrm0 over a `FakeTpm`: the commands that attesting needs, byte for byte, and errors for all others.

Commands are checked in the order in which a TPM does it: header, handles, authorisations, parameters, and nothing after them.
Objects belong to the open file that made them, as the kernel's resource manager has it. `swtpm` was asked the same questions;
tests/unit/attester/test_tpm_swtpm.py does it again where it is installed.

Source: TCG TPM 2.0 Library 1.59, Part 2 and Part 3; Linux drivers/char/tpm/tpm-dev-common.c.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Callable

from enarx.testing.attesters import Device, FakeFile, FakeSystem, NoFolder, OpenFile, fail
from enarx.testing.tpm import FakeTpm

__all__ = ["FakeTpmDevice"]

_BUFFER_BYTES = 4096
_BANKS = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13}
_ENDORSEMENT = 0x4000000B
_FIRST_HANDLE = 0x80FFFFFF
_MAX_DIGESTS = 8
_MAX_EVENT_BYTES = 1024
_MAX_NV_BUFFER_BYTES = 1024
_OWNER = 0x40000001
_NV_RANGE, _NV_AUTHORIZATION = 0x146, 0x149

# TPM_RC_*: of the format that names a handle (H), session (S) or parameter (P), the number is added in the place it has.
_BAD_TAG, _COMMAND_SIZE, _COMMAND_CODE = 0x1E, 0x142, 0x143
_AUTH_MISSING, _SIZE, _VALUE, _HANDLE, _SCHEME, _AUTH_FAIL = 0x125, 0x95, 0x84, 0x8B, 0x92, 0x8E
_PARAMETER, _SESSION = 0x40, 0x800
_FIRST, _SECOND, _THIRD = 0x100, 0x200, 0x300


class _RefusedError(Exception):
    """The command ends with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


class FakeTpmDevice(NoFolder):
    """/dev/tpmrm0.

    Args:
        tpm: that is behind it, with a key on P-256 as the driver's template makes it.
        persistent: handles under which its key is there.
        nv: what is in NV memory that its owner may read, by index.

    Attributes:
        busy: how often a command ends with TPM_RC_RETRY before it is done.
        code: that the next command ends with, or 0.
        answer: to the next command, instead of its own, or None.
        before_quote: is called before a quote is signed, where somebody may extend a PCR.
        forgets_event: whether it answers an event and extends nothing.
        commands: codes of the commands that were sent.
    """

    def __init__(self, tpm: FakeTpm, *, persistent: tuple[int, ...] = (), nv: dict[int, bytes] | None = None) -> None:
        self.tpm, self.persistent, self.nv = tpm, persistent, nv or {}
        self.busy = 0
        self.code = 0
        self.answer: bytes | None = None
        self.before_quote: Callable[[], None] | None = None
        self.forgets_event = False
        self.commands: list[int] = []

    def machine(self, *, event_log: bool = False) -> FakeSystem:
        """Return a machine that has nothing else, but the firmware's event log where it is wanted."""
        devices: dict[str, Device] = {"/dev/tpmrm0": self}
        if event_log:
            devices["/sys/kernel/security/tpm0/binary_bios_measurements"] = FakeFile(self.tpm.event_log())
        return FakeSystem(devices)

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open it."""
        if rest:
            raise fail(errno.ENOTDIR, rest)
        return _Session(self)


class _Parameters:
    """Takes values off a command."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise _RefusedError(_COMMAND_SIZE)
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _RefusedError(_COMMAND_SIZE)


class _Session(OpenFile):
    """An open file: one command, then its answer, and the objects that it made."""

    def __init__(self, device: FakeTpmDevice) -> None:
        self._device = device
        self._answer = b""
        self._handles: set[int] = set()
        self._authorising = 0

    def write(self, data: bytes) -> int:
        if len(data) > _BUFFER_BYTES:
            raise fail(errno.E2BIG)
        if self._answer:
            raise fail(errno.EBUSY)
        if len(data) < 6 or len(data) < int.from_bytes(data[2:6], "big"):
            raise fail(errno.EINVAL)
        self._answer = self._run(data)
        return len(data)

    def read(self, size: int) -> bytes:
        taken, self._answer = self._answer[:size], self._answer[size:]
        return taken

    def _run(self, data: bytes) -> bytes:
        device = self._device
        if len(data) < 10:
            return _answer(0x8001, code=_COMMAND_SIZE)
        tag, size, command = struct.unpack_from(">HII", data)
        device.commands.append(command)
        answer, device.answer = device.answer, None
        if answer is not None:
            return answer
        try:
            if device.busy:
                device.busy -= 1
                raise _RefusedError(0x922)
            code, device.code = device.code, 0
            if code:
                raise _RefusedError(code)
            if tag not in {0x8001, 0x8002}:
                raise _RefusedError(_BAD_TAG)
            if size != len(data):
                raise _RefusedError(_COMMAND_SIZE)
            known = _COMMANDS.get(command)
            if known is None:
                raise _RefusedError(_COMMAND_CODE)
            handles, is_authorised, run = known
            parameters = _Parameters(data[10:])
            self._authorising, handle = 0, 0
            for _ in range(handles):
                self._authorising, handle = handle, parameters.number(4)
            if is_authorised != (tag == 0x8002):
                raise _RefusedError(_AUTH_MISSING)
            if is_authorised:
                _check_password(parameters)
            made, out = run(self, handle, parameters)
        except _RefusedError as refused:
            return _answer(0x8001, code=refused.code)
        if not is_authorised:
            return _answer(0x8001, made + out)
        # An empty nonce, the session goes on, no HMAC: what answers a password.
        return _answer(0x8002, made + len(out).to_bytes(4, "big") + out + b"\0\0\1\0\0")

    def create_primary(self, hierarchy: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        sensitive, public = parameters.sized(), parameters.sized()
        outside, pcrs = parameters.sized(), parameters.number(4)
        parameters.end()
        if hierarchy != _ENDORSEMENT:
            raise _RefusedError(_VALUE + _FIRST)
        if sensitive != bytes(4) or outside or pcrs:
            raise _RefusedError(_SIZE + _PARAMETER + _FIRST)
        area = self._device.tpm.public_area
        # The template is the public area without the point.
        if public != area[: -2 * (2 + 32)] + bytes(4):
            raise _RefusedError(_VALUE + _PARAMETER + _SECOND)
        handle = _FIRST_HANDLE - len(self._handles)
        self._handles.add(handle)
        # No PCR and their empty digest, locality 0, no parent's hash, the hierarchy for the parent's names, nothing from outside.
        creation = struct.pack(">I", 0) + _sized(b"") + b"\x01\0\x10"
        creation += _sized(struct.pack(">I", hierarchy)) + _sized(struct.pack(">I", hierarchy)) + _sized(b"")
        digest = hashlib.sha256(creation).digest()
        ticket = struct.pack(">HI", 0x8021, hierarchy) + _sized(hashlib.sha256(b"ticket" + digest).digest())
        return handle.to_bytes(4, "big"), _sized(area) + _sized(creation) + _sized(digest) + ticket + _sized(
            self._name()
        )

    def read_public(self, handle: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        parameters.end()
        self._require(handle)
        name = self._name()
        qualified = b"\0\x0b" + hashlib.sha256(_ENDORSEMENT.to_bytes(4, "big") + name).digest()
        return b"", _sized(self._device.tpm.public_area) + _sized(name) + _sized(qualified)

    def quote(self, handle: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        self._require(handle)
        extra, scheme = parameters.sized(), parameters.number(2)
        if scheme != 0x10:
            raise _RefusedError(_SCHEME + _PARAMETER + _SECOND)
        selections = _take_selections(parameters, _PARAMETER + _THIRD)
        parameters.end()
        if len(extra) > 64:
            raise _RefusedError(_SIZE + _PARAMETER + _FIRST)
        if self._device.before_quote is not None:
            self._device.before_quote()
        present = [(bank, pcrs) for bank, pcrs in selections if bank in self._device.tpm.banks]
        message, signature = self._device.tpm.quote(extra, selections=present)
        return b"", _sized(message) + signature

    def pcr_read(self, _: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        selections = _take_selections(parameters, _PARAMETER + _FIRST)
        parameters.end()
        values: list[bytes] = []
        out = struct.pack(">II", 77, len(selections))
        for bank, pcrs in selections:
            there = pcrs if bank in self._device.tpm.banks else []
            taken = there[: _MAX_DIGESTS - len(values)]
            values += [self._device.tpm.pcrs[bank][index] for index in taken]
            out += struct.pack(">HB", _BANKS[bank], 3) + sum(1 << index for index in taken).to_bytes(3, "little")
        return b"", out + struct.pack(">I", len(values)) + b"".join(_sized(value) for value in values)

    def pcr_event(self, handle: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        data = parameters.sized()
        parameters.end()
        if handle > 23:
            raise _RefusedError(_VALUE + _FIRST)
        if len(data) > _MAX_EVENT_BYTES:
            raise _RefusedError(_SIZE + _PARAMETER + _FIRST)
        tpm = self._device.tpm
        out = struct.pack(">I", len(tpm.banks))
        for bank in tpm.banks:
            digest = hashlib.new(bank, data).digest()
            if not self._device.forgets_event:
                tpm.pcrs[bank][handle] = hashlib.new(bank, tpm.pcrs[bank][handle] + digest).digest()
            out += struct.pack(">H", _BANKS[bank]) + digest
        return b"", out

    def nv_read_public(self, index: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        parameters.end()
        # TPMA_NV: the owner reads and writes it, and it is written.
        public = struct.pack(">IHI", index, 0x000B, 0x20020002) + _sized(b"")
        public += len(self._require_nv(index, _FIRST)).to_bytes(2, "big")
        return b"", _sized(public) + _sized(b"\0\x0b" + hashlib.sha256(public).digest())

    def nv_read(self, index: int, parameters: _Parameters) -> tuple[bytes, bytes]:
        size, offset = parameters.number(2), parameters.number(2)
        parameters.end()
        data = self._require_nv(index, _SECOND)
        if self._authorising != _OWNER:
            raise _RefusedError(_NV_AUTHORIZATION)
        if size > _MAX_NV_BUFFER_BYTES:
            raise _RefusedError(_VALUE + _PARAMETER + _FIRST)
        if offset + size > len(data):
            raise _RefusedError(_NV_RANGE)
        return b"", _sized(data[offset : offset + size])

    def _require_nv(self, index: int, place: int) -> bytes:
        if index not in self._device.nv:
            raise _RefusedError(_HANDLE + place)
        return self._device.nv[index]

    def _name(self) -> bytes:
        return b"\0\x0b" + hashlib.sha256(self._device.tpm.public_area).digest()

    def _require(self, handle: int) -> None:
        if handle not in self._handles and handle not in self._device.persistent:
            raise _RefusedError(_HANDLE + _FIRST)


_Run = Callable[[_Session, int, _Parameters], tuple[bytes, bytes]]
# By command code: how many handles it has, whether the first is authorised, and what it does with the last.
_COMMANDS: dict[int, tuple[int, bool, _Run]] = {
    0x131: (1, True, _Session.create_primary),
    0x13C: (1, True, _Session.pcr_event),
    0x14E: (2, True, _Session.nv_read),
    0x158: (1, True, _Session.quote),
    0x169: (1, False, _Session.nv_read_public),
    0x173: (1, False, _Session.read_public),
    0x17E: (0, False, _Session.pcr_read),
}


def _check_password(parameters: _Parameters) -> None:
    """Take the authorisation area off: one empty password."""
    area = _Parameters(parameters.take(parameters.number(4)))
    handle, nonce, attributes, password = area.number(4), area.sized(), area.number(1), area.sized()
    area.end()
    if handle != 0x40000009 or nonce or attributes & ~1:
        raise _RefusedError(_VALUE + _SESSION + _FIRST)
    if password:
        raise _RefusedError(_AUTH_FAIL + _SESSION + _FIRST)


def _take_selections(parameters: _Parameters, place: int) -> list[tuple[str, list[int]]]:
    """Take TPML_PCR_SELECTION off."""
    count = parameters.number(4)
    if count > 16:
        raise _RefusedError(_SIZE + place)
    found: list[tuple[str, list[int]]] = []
    for _ in range(count):
        number, size = parameters.number(2), parameters.number(1)
        bank = next((name for name, each in _BANKS.items() if each == number), None)
        if bank is None or size != 3:
            raise _RefusedError(_VALUE + place)
        bitmap = int.from_bytes(parameters.take(size), "little")
        found.append((bank, [index for index in range(24) if bitmap >> index & 1]))
    return found


def _answer(tag: int, body: bytes = b"", *, code: int = 0) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
