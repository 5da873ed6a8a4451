# SPDX-License-Identifier: Apache-2.0
"""What a Keep and its workload process say to each other, over one AF_UNIX SOCK_SEQPACKET socket pair.

A message is one packet: deterministic CBOR, a map with a `type`, and perhaps descriptors beside it. In this order:

1. The Keep sends `start`, once. Its descriptors are the record below in a memfd, main.wasm in a memfd, the memory of the Keep's
   own certificate where the record says that there is one (`enarx.runtime.credential_slot`), and one listening AF_UNIX socket for
   each `listen` entry of the record's `files`, in their order. The record is too large for a packet.
2. The workload process sends `connect` whenever the workload wants a connection; the Keep answers each by `connected` with
   one descriptor, a connected AF_UNIX stream socket, or by `refused`. Answers come in any order.
3. The workload process sends `ended` and ends. Where it ends without that, by a signal, its wait status is all there is.

The Keep believes nothing of the other: a workload that escaped from the engine is the workload process. Decoders raise
DecodeError for whatever is wrong, and nothing else. This file opens nothing but the memfd, and knows no workload.

What holds it together is that one socket: records, their encoding in the order above, the packets they travel in.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from enarx.channel.frames import MAX_HOST_BYTES, RESET_REASONS
from enarx.crypto.cbor import encode
from enarx.errors import ConfigError, DecodeError, EnarxError
from enarx.wire.fields import (
    MAX_TEXT_BYTES,
    Fields,
    bytes_of,
    choice_of,
    decode_canonical,
    read_bool,
    refusal,
    some_of,
    text_of,
    tuple_of,
    uint_of,
)
from enarx.wire.records import ConnectFile, Dir, EnarxToml, File, Limits, ListenFile, NullFile, Peer, StdioFile, Tls
from enarx.wire.session import (
    MAX_HINT_BYTES,
    MAX_TRAP_BYTES,
    ExitFailure,
    exit_failure_value,
    read_exit_failure,
)

__all__ = [
    "CONTROL_FD",
    "MAX_LISTENERS",
    "REASONS",
    "Connect",
    "Connected",
    "Ended",
    "Refused",
    "Start",
    "Started",
    "decode_answer",
    "decode_start",
    "decode_word_untrusted",
    "encode_start",
    "encode_word",
    "peer_pid",
    "receive_packet",
    "receive_start",
    "send_packet",
    "send_start",
    "workload_command",
]

CONTROL_FD = 3
MAX_PACKET_BYTES = 32768
MAX_START_BYTES = 32 << 20
MAX_STEWARD_ROOT_BYTES = 8192
MAX_LISTENERS = 200
"""The kernel passes at most 253 descriptors at a time."""
_MAX_REQUEST = (1 << 32) - 1
_SECOND_NS = 10**9

REASONS = ("denied", *RESET_REASONS)
"""Why a connection was refused: `denied` is the Keep's own `allow_connect`, the others are the link's."""


# --- Records ---------------------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """All a workload is given, in force already: whoever makes it has put package and configuration together.

    Args:
        toml: what holds. `dirs` name folders that the workload process can open, and `steward` does not travel.
        announce_files: whether FD_COUNT and FD_NAMES describe `files`; not where nobody chose them.
        tls_files: contents of the PEM files, by the paths that `toml.tls` names.
        wall_clock_offset_ns: what to add to CLOCK_MONOTONIC for the time since 1970, or None for this machine's own clock.
        has_credential: whether the memory of the Keep's own certificate comes along.
        steward_root: the Steward's root certificate in DER, or None where there is no Steward.
    """

    toml: EnarxToml
    announce_files: bool
    tls_files: Mapping[str, bytes]
    wall_clock_offset_ns: int | None
    has_credential: bool = False
    steward_root: bytes | None = None


class Started(NamedTuple):
    """What a workload process was started with; the descriptors are its own.

    Args:
        start: the record.
        module_fd: main.wasm.
        listeners: one for each `listen` entry.
        credential_fd: of the memory of the Keep's own certificate, or None.
    """

    start: Start
    module_fd: int
    listeners: list[int]
    credential_fd: int | None


class Connect(NamedTuple):
    """The workload wants a connection.

    Args:
        request: a number of the workload process's; not used again while it is open.
        host: a name or an address.
        port: 1 to 65535.
    """

    request: int
    host: str
    port: int


class Connected(NamedTuple):
    """It is there: one descriptor comes along."""

    request: int


class Refused(NamedTuple):
    """It is not.

    Args:
        request: as in `Connect`.
        reason: one of `REASONS`.
    """

    request: int
    reason: str


class Ended(NamedTuple):
    """How the run ended; it is what `enarx run` would have printed and ended with.

    Args:
        status: 0 to 255: the workload's own, 134 for a trap, 128 and the signal, or that of `failure`.
        trap: the engine's text, or None.
        hint: one line about a limit, or None.
        failure: an error of ours, or None.
    """

    status: int
    trap: str | None = None
    hint: str | None = None
    failure: ExitFailure | None = None

    @classmethod
    def of(cls, error: BaseException) -> Ended:
        """Return the end that an error of ours makes."""
        failure = _describe(error)
        return cls(failure.kind, failure=failure)


def _describe(error: BaseException) -> ExitFailure:
    """Describe what ended a run; what is none of `enarx.errors` is a bug of ours, which the Keep answers for."""
    if isinstance(error, EnarxError):
        # In `run` and `deploy`, 2 is the workload's own.
        kind = 102 if error.status == 2 else error.status
        hint = _cut(error.hint, MAX_HINT_BYTES) if error.hint else None
        return ExitFailure(kind, _cut(str(error), MAX_TEXT_BYTES), hint)
    return ExitFailure(109, _cut(f"bug in enarx: {type(error).__name__}: {error}", MAX_TEXT_BYTES))


def _cut(text: str, max_bytes: int) -> str:
    """Return the text, or as much of it as there is room for; never empty, because the formats have no empty text."""
    data = text.encode("utf-8", "replace")
    if len(data) > max_bytes:
        data = data[: max_bytes - 4] + b" ..."
    return data.decode("utf-8", "ignore") or "unknown"


# --- Start -----------------------------------------------------------------------------------------------------------


def encode_start(start: Start) -> bytes:
    """Encode the record."""
    toml = start.toml
    limits, tls = toml.limits, toml.tls
    record: dict[str, Any] = {
        "arguments": list(toml.args),
        "environment": [list(pair) for pair in toml.env],
        "files": [_encode_file(file) for file in toml.files],
        "announce-files": start.announce_files,
        "directories": [[entry.guest, entry.host, entry.read_only] for entry in toml.dirs],
        "memory-bytes": limits.memory_bytes,
        "timeout-ns": None if limits.timeout_s is None else round(limits.timeout_s * _SECOND_NS),
        "fuel": limits.fuel,
        "output-bytes": limits.output_bytes,
        "open-files": limits.open_files,
        "certificate": tls.certificate,
        "private-key": tls.private_key,
        "client-auth": tls.client_auth,
        "trust-anchors": list(tls.trust_anchors),
        "peers": [[peer.package, peer.tenant] for peer in tls.peers],
        "tls-files": dict(start.tls_files),
        "allow-connect": None if toml.allow_connect is None else list(toml.allow_connect),
        "wall-clock-offset-ns": start.wall_clock_offset_ns,
        "has-credential": start.has_credential,
        "steward-root": start.steward_root,
    }
    return encode({name: value for name, value in record.items() if value is not None})


def decode_start(data: bytes) -> Start:
    """Decode the record.

    Raises:
        DecodeError: it is not what `encode_start` makes.
    """
    fields = Fields(decode_canonical(data, MAX_START_BYTES, "start"), "start")
    timeout_ns = fields.optional("timeout-ns", uint_of())
    toml = EnarxToml(
        args=fields.required("arguments", _TEXTS),
        env=fields.required("environment", some_of(tuple_of(_TEXT, _TEXT), least=0)),
        files=fields.required("files", some_of(_read_file, least=0)),
        dirs=tuple(
            Dir(guest=guest, host=host, read_only=read_only)
            for guest, host, read_only in fields.required("directories", _DIRECTORIES)
        ),
        limits=Limits(
            memory_bytes=fields.optional("memory-bytes", uint_of()),
            timeout_s=None if timeout_ns is None else timeout_ns / _SECOND_NS,
            fuel=fields.optional("fuel", uint_of()),
            output_bytes=fields.optional("output-bytes", uint_of()),
            open_files=fields.optional("open-files", uint_of()),
        ),
        tls=Tls(
            certificate=fields.optional("certificate", _TEXT),
            private_key=fields.optional("private-key", _TEXT),
            client_auth=fields.required("client-auth", choice_of(("none", "optional", "required"))),
            trust_anchors=fields.required("trust-anchors", _TEXTS),
            peers=tuple(Peer(package=package, tenant=tenant) for package, tenant in fields.required("peers", _PEERS)),
        ),
        allow_connect=fields.optional("allow-connect", _TEXTS),
    )
    start = Start(
        toml=toml,
        announce_files=fields.required("announce-files", read_bool),
        tls_files={
            _TEXT(name, "start.tls-files"): bytes_of(0, MAX_START_BYTES)(contents, "start.tls-files")
            for name, contents in fields.map("tls-files").items()
        },
        wall_clock_offset_ns=fields.optional("wall-clock-offset-ns", _read_offset),
        has_credential=fields.required("has-credential", read_bool),
        steward_root=fields.optional("steward-root", bytes_of(1, MAX_STEWARD_ROOT_BYTES)),
    )
    fields.end()
    return start


_TEXT = text_of(MAX_START_BYTES)
_TEXTS = some_of(_TEXT, least=0)
_PEERS = some_of(tuple_of(_TEXT, _TEXT), least=0)
_DIRECTORIES = some_of(tuple_of(_TEXT, _TEXT, read_bool), least=0)
_FILE = tuple_of(
    choice_of(("null", "stdin", "stdout", "stderr", "listen", "connect")), _TEXT, _TEXT, _TEXT, uint_of(65535)
)


def _encode_file(file: File) -> list[Any]:
    if isinstance(file, ListenFile):
        return ["listen", file.name, file.prot, file.addr, file.port]
    if isinstance(file, ConnectFile):
        return ["connect", file.name, file.prot, file.host, file.port]
    return [file.kind if isinstance(file, StdioFile) else "null", file.name, "", "", 0]


def _read_file(value: Any, where: str) -> File:
    kind, name, prot, host, port = _FILE(value, where)
    if kind == "null":
        return NullFile(name=name)
    if kind not in {"listen", "connect"}:
        return StdioFile(kind=kind, name=name)
    prot = choice_of(("tls", "tcp"))(prot, where)
    if kind == "listen":
        return ListenFile(name=name, prot=prot, addr=host, port=port)
    return ConnectFile(name=name, prot=prot, host=host, port=port)


def _read_offset(value: Any, where: str) -> int:
    if type(value) is not int:
        raise refusal(where, type(value).__name__, "a number")
    return value


# --- Words: everything but the start ---------------------------------------------------------------------------------


def encode_word(word: Connect | Connected | Refused | Ended) -> bytes:
    """Encode a message that is a packet."""
    if not isinstance(word, Ended):
        return encode({"type": type(word).__name__.lower(), **word._asdict()})
    value: dict[str, Any] = {"type": "ended", "status": word.status}
    if word.trap:
        value["trap"] = _cut(word.trap, MAX_TRAP_BYTES)
    if word.hint:
        value["hint"] = _cut(word.hint, MAX_HINT_BYTES)
    if word.failure is not None:
        value["failure"] = exit_failure_value(word.failure)
    return encode(value)


def decode_word_untrusted(data: bytes) -> Connect | Ended:
    """Decode what the workload process says.

    Raises:
        DecodeError: it is neither of the two, or out of bounds.
    """
    fields = Fields(decode_canonical(data, MAX_PACKET_BYTES, "packet"), "packet")
    word: Connect | Ended
    if fields.required("type", choice_of(("connect", "ended"))) == "connect":
        word = Connect(
            request=fields.uint("request", _MAX_REQUEST),
            host=fields.text("host", MAX_HOST_BYTES, 1),
            port=fields.uint("port", 65535, 1),
        )
    else:
        word = Ended(
            status=fields.uint("status", 255),
            trap=fields.optional("trap", text_of(MAX_TRAP_BYTES, 1)),
            hint=fields.optional("hint", text_of(MAX_HINT_BYTES, 1)),
            failure=fields.optional("failure", read_exit_failure),
        )
    fields.end()
    return word


def decode_answer(data: bytes) -> Connected | Refused:
    """Decode what the Keep answers.

    Raises:
        DecodeError: it is neither of the two.
    """
    fields = Fields(decode_canonical(data, MAX_PACKET_BYTES, "packet"), "packet")
    kind = fields.required("type", choice_of(("connected", "refused")))
    request = fields.uint("request", _MAX_REQUEST)
    answer = (
        Connected(request) if kind == "connected" else Refused(request, fields.required("reason", choice_of(REASONS)))
    )
    fields.end()
    return answer


# --- Packets ---------------------------------------------------------------------------------------------------------


def send_packet(control: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet; the descriptors stay the sender's.

    Raises:
        OSError: the other end has gone, or a non-blocking socket is full.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([data], ancillary)


def receive_packet(control: socket.socket, *, max_fds: int) -> tuple[bytes, list[int]]:
    """Receive one packet with its descriptors, which are the caller's from now on; nothing at all is the end.

    Raises:
        DecodeError: it is longer than a packet can be, or has more descriptors than it may; those are closed.
        OSError: as of `recvmsg`; BlockingIOError where a non-blocking socket has none.
    """
    numbers = array.array("i")
    data, ancillary, flags, _ = control.recvmsg(
        MAX_PACKET_BYTES, socket.CMSG_SPACE((max_fds + 1) * numbers.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
    fds = list(numbers)
    if len(fds) > max_fds or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise DecodeError(
            f"cannot receive a packet: found more than {MAX_PACKET_BYTES} bytes or {max_fds} descriptors, want fewer"
        )
    return data, fds


def peer_pid(sock: socket.socket) -> int:
    """Return which process made the other end of a unix socket: the pair, or the socket that listened."""
    pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)


_CREDENTIALS = struct.Struct("iII")
_START_PACKET = encode({"type": "start"})


def send_start(
    control: socket.socket, start: Start, module_fd: int, listeners: Sequence[int], credential_fd: int | None = None
) -> None:
    """Send the first packet, from the Keep.

    Args:
        control: its end.
        start: the record.
        module_fd: main.wasm in a memfd, sealed.
        listeners: non-blocking or not, one for each `listen` entry of `start.toml.files`, in their order.
        credential_fd: the memory of the Keep's own certificate, exactly where the record says that there is one.

    Raises:
        ConfigError: more listeners than can be passed, or a record that is too large.
        OSError: the workload process has gone.
    """
    record = encode_start(start)
    if len(listeners) > MAX_LISTENERS or len(record) > MAX_START_BYTES:
        raise ConfigError(
            f"cannot start the workload: found {len(listeners)} listen entries and {len(record)} bytes of configuration,"
            f" want at most {MAX_LISTENERS} and {MAX_START_BYTES}"
        )
    fd = os.memfd_create("start", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(record)
        credential = [] if credential_fd is None else [credential_fd]
        send_packet(control, _START_PACKET, [fd, module_fd, *credential, *listeners])
    finally:
        os.close(fd)


def receive_start(control: socket.socket) -> Started:
    """Receive the first packet, in the workload process.

    Raises:
        DecodeError: it is another packet, or the Keep has gone.
        OSError: as of `recvmsg`.
    """
    data, fds = receive_packet(control, max_fds=3 + MAX_LISTENERS)
    if data != _START_PACKET or len(fds) < 2:
        raise DecodeError(f"cannot start: found {len(data)} bytes and {len(fds)} descriptors, want a start packet")
    with open(fds[0], "rb") as file:
        file.seek(0)
        start = decode_start(file.read(MAX_START_BYTES + 1))
    first = 2 + start.has_credential
    wanted = sum(isinstance(entry, ListenFile) for entry in start.toml.files)
    if wanted != len(fds) - first:
        raise DecodeError(f"cannot start: found {len(fds) - first} listening sockets, want {wanted}")
    return Started(start, fds[1], fds[first:], fds[2] if start.has_credential else None)


def workload_command(user: int | None = None) -> list[str]:
    """Return the command that starts a workload process: nothing in it is a secret.

    Args:
        user: number of whom it becomes, where it is started by root; None is whoever starts it.

    It wants stdio at 0 to 2, its end of the control socket at `CONTROL_FD`, no environment, and to be started by the main
    thread, with which it dies. It may be started long before there is a `start` for it: it prepares what it can, and waits.
    """
    program = f"import sys;sys.path+=sys.argv[1:];from enarx.keep.workload import main;main({user})"
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = [package, *(path for path in sys.path if path.startswith("/") and path != package)]
    return [sys.executable, "-I", "-S", "-B", "-c", program, *places]
