# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that a deployment uses: of tenant, host, Keep and workload process, and of devices that attest.

What holds it together: one table, `TARGETS`, as in `verifier_targets`, whose rules hold here too. Beyond them:

- Where an encoder says what the one form is, a target encodes what was decoded, and anything else than the input is a fault.
- Where bytes come in pieces, the input says which; what came of it must not depend on them.
- What is called is what is shipped: peers, devices, sockets and clocks are put in place of the world's, nothing else.
- An input that is CBOR with several parts is changed as a tree. Parts of a wrong type count as bytes, or as nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import errno
import io
import json
import os
import shutil
import socket
import ssl
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote
from zlib import crc32

from tests.fuzz import deployment_seeds as seed
from tests.fuzz.verifier_mutations import (
    NUMBERS,
    by_lines,
    by_tree,
    is_cbor,
    is_json,
    one_of,
    overwrite,
    read_cbor,
    read_json,
    write_cbor,
    write_json,
)
from tests.fuzz.verifier_targets import Target, attribute, make_target

# --- Reading inputs --------------------------------------------------------------------------------------------------


def _unpack(data: bytes, size: int) -> list[Any]:
    """Return the parts of an input, as many as there should be."""
    try:
        parts = read_cbor(data)
    except Exception:  # noqa: BLE001  # not packed: all of it is the last part
        parts = [None] * (size - 1) + [data]
    parts = list(parts) if type(parts) is list else [parts]
    return (parts + [None] * size)[:size]


def _read_list(data: bytes) -> list[Any]:
    """Return an input that is one list of any length."""
    try:
        return _list_of(read_cbor(data))
    except Exception:  # noqa: BLE001  # not packed: one piece
        return [data]


def _bytes_of(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    return value.encode("utf-8", "replace") if type(value) is str else b""


def _text_of(value: Any) -> str:
    return value if type(value) is str else _bytes_of(value).decode("utf-8", "replace")


def _list_of(value: Any) -> list[Any]:
    return value[:64] if type(value) is list else [value] if type(value) in {bytes, str} else []


def _pieces_of(value: Any) -> list[bytes]:
    return [_bytes_of(piece) for piece in _list_of(value)]


def _number_of(value: Any, most: int) -> int:
    return value & most if type(value) is int else 0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def _folder_in_memory() -> str:
    """Return a folder for this process."""
    folder = tempfile.mkdtemp(prefix="enarx-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _run(coroutine: Any) -> Any:
    return _loop().run_until_complete(coroutine)


def _error(name: str) -> Any:
    return attribute("errors", name)


def _require(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


# --- Records that have one form --------------------------------------------------------------------------------------


def _there_and_back(module: str, decode: str, encode: str) -> Callable[[], Callable[[bytes], object]]:
    def make() -> Callable[[bytes], object]:
        read, write = attribute(module, decode), attribute(module, encode)

        def call(data: bytes) -> object:
            value = read(data)
            _require(write(value) == data, "what was decoded has another encoding")
            return value

        return call

    return make


def _write_deterministic(value: Any) -> bytes:
    """Encode as a session does, and what has no such form anyhow."""
    try:
        return attribute("crypto.cbor", "encode")(value)
    except Exception:  # noqa: BLE001  # a tag, a floating-point number, half of a surrogate pair
        return write_cbor(value)


_CBOR = by_tree(read_cbor, _write_deterministic)
_PACKED = by_tree(read_cbor, write_cbor, wild=0.04)
_JSON = by_tree(read_json, write_json)


# --- Link ------------------------------------------------------------------------------------------------------------


def _frames() -> Callable[[bytes], object]:
    reader, data_of = attribute("channel.frames", "FrameReader"), attribute("channel.frames", "Data")
    error = _error("DecodeError")

    def take(pieces: list[Any]) -> tuple[list[Any], bool]:
        """Return the events with data in a row put together, and whether all frames are complete."""
        one, events = reader(), []
        for piece in pieces:
            for event in one.feed_untrusted(piece):
                if type(event) is not data_of:
                    events.append(event)
                elif events and events[-1][0] == "data" and events[-1][1] == event.stream:
                    events[-1] = "data", event.stream, events[-1][2] + bytes(event.data)
                else:
                    events.append(("data", event.stream, bytes(event.data)))
        return events, one.between_frames

    def call(data: bytes) -> object:
        random, at, pieces = Random(crc32(data)), 0, []
        while at < len(data):
            size = random.choice((1, 1, 2, 3, 7, 50, 400))
            pieces.append(bytearray(data[at : at + size]))
            at += size
        try:
            whole = take([data])
        except error:
            try:
                # A length that is wrong may be told when something follows it.
                take([*pieces, b"\0"])
            except error:
                raise
            raise AssertionError("refused in one piece, and not in several") from None
        _require(take(pieces) == whole, "in pieces it is something else")
        return whole

    return call


def _read_frames(data: bytes) -> list[Any]:
    found, at = [], 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        header = read_cbor(data[start:at])
        size = header[2] if header[0] == 2 else 0
        if not 0 <= size <= len(data):
            raise ValueError  # there is no more of it, and there is no way back
        found.append([header, data[at : at + size]])
        at += size
    return found


def _write_frames(frames: list[Any]) -> bytes:
    out = bytearray()
    for header, payload in frames:
        text = _write_deterministic(header)
        out += len(text).to_bytes(2, "big") + text + payload
    return bytes(out)


_FRAMES = one_of(*[by_tree(_read_frames, _write_frames)] * 4, lambda data, random, _: overwrite(data, random))


def _link() -> Callable[[bytes], object]:
    open_link, target_of = attribute("channel.link", "open_link"), attribute("channel.frames", "Target")
    hello_of, transport, failures = attribute("channel.frames", "encode_hello"), _error("TransportError"), []
    _loop().set_exception_handler(lambda _, context: failures.append(context))

    async def use(stream: Any) -> None:
        with suppress(transport):
            await stream.write(bytes(100))
            while await stream.read(70):
                pass

    async def meet(role: str, data: bytes) -> str:
        ours, theirs = socket.socketpair()
        uses = []

        def accept(stream: Any) -> None:
            uses.append(asyncio.ensure_future(use(stream)))

        # Nothing is waited for that does not come: where there is no hello, the end is there already.
        hello = hello_of("keep" if role == "host" else "host")
        first = len(hello) if data.startswith(hello) else len(data)
        with theirs:
            theirs.sendall(data[:first])
            if first == len(data):
                theirs.shutdown(socket.SHUT_WR)
            link = await open_link(ours, role=role, accept=accept)
            with suppress(OSError):
                theirs.sendall(data[first:])
            with suppress(transport):
                opened = target_of.session() if role == "host" else target_of.outbound("x", 1)
                accept(await link.open(opened))
            with suppress(OSError):
                theirs.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(5):
                await link.wait_closed()
                await asyncio.gather(*uses)
        return link.reason

    def call(data: bytes) -> object:
        try:
            reason = _run(meet("host" if data[:1] == b"\1" else "keep", data[1:60_000]))
        finally:
            if failures:
                raise failures.pop().get("exception") or AssertionError("an error that nobody caught")
        _require(reason.isprintable(), "not printable")
        return reason

    return call


def _change_link(data: bytes, random: Random, scramble: Any) -> bytes:
    return data[:1] + _FRAMES(data[1:], random, scramble)


def _is_frame(data: bytes) -> bool:
    return len(data) > 2 and 1 <= int.from_bytes(data[:2], "big") <= min(512, len(data) - 2)


# --- Channel ---------------------------------------------------------------------------------------------------------


def _segments() -> Callable[[bytes], object]:
    opener, seal = attribute("channel.segments", "Opener"), attribute("channel.segments", "seal")
    length_of = attribute("channel.segments", "ciphertext_length")

    def call(data: bytes) -> object:
        size, pieces = _unpack(data, 2)
        size, pieces = _number_of(size, (1 << 64) - 1), _pieces_of(pieces)
        one, plain = opener(seed.KEY, size), b""
        for piece in pieces:
            plain += one.update(memoryview(piece))
            _require(len(plain) <= size, "more than there is")
        one.finish()
        _require(len(plain) == size and length_of(size) == sum(map(len, pieces)), "another length")
        _require(b"".join(seal(seed.KEY, [plain])) == b"".join(pieces), "another ciphertext")
        return plain

    return call


def _change_segments(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change length, pieces or where they are cut; small ones are sealed again."""
    if random.random() < 0.7:
        return _PACKED(data, random, scramble)
    size, pieces = _unpack(data, 2)
    size, sealed = _number_of(size, 1023), b"".join(_pieces_of(pieces))
    if random.random() < 0.5:
        sealed = b"".join(attribute("channel.segments", "seal")(seed.KEY, [random.randbytes(size)]))
    at = random.randrange(len(sealed) + 1)
    return write_cbor([size, [sealed[:at], sealed[at:]]])


def _hpke() -> Callable[[bytes], object]:
    one_time, seal = attribute("channel.hpke", "OneTimeKey"), attribute("channel.hpke", "seal")
    key = seed.hpke_key()[0]

    def call(data: bytes) -> object:
        if data[:1] == b"\1":
            return seal(data[1:], b"secret", seed.HPKE_INFO)
        # The one key of all inputs, in an object of each.
        opened = one_time.__new__(one_time)
        opened._key = key
        return opened.open(data[1:], seed.HPKE_INFO)

    return call


def _tls_bytes() -> Callable[[bytes], object]:
    tls, credential = attribute("channel.tls", "TlsEnd"), seed.credential()
    errors = _error("TransportError"), _error("VerificationError")

    def call(data: bytes) -> object:
        is_keep, pieces = _unpack(data, 2)
        end = tls.for_keep(credential) if is_keep else tls.for_tenant(credential)
        end.take_output()
        try:
            for piece in _pieces_of(pieces):
                end.receive(piece)
                end.take_output()
        except errors as error:
            _require(not end.established, "established after an error")
            try:
                end.receive(b"")
            except errors as again:
                _require(str(again) == str(error), "another error the second time")
                raise error from None
            raise AssertionError("an error the first time alone") from None
        _require(not end.established, "established by what was recorded")
        return end.take_output()

    return call


class _Peer:
    """The other end of a handshake, which does as an input says."""

    def __init__(self, *, is_client: bool, certificates: list[bytes], protocols: list[bytes]) -> None:
        from OpenSSL import SSL, crypto

        self.leaf = b""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD if is_client else SSL.TLS_SERVER_METHOD)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        # OpenSSL's own reader of certificates takes more than that of cryptography.
        for index, der in enumerate(certificates[:3]):
            loaded = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
            if index:
                context.add_extra_chain_cert(loaded)
                continue
            context.use_certificate(loaded)
            self.leaf = crypto.dump_certificate(crypto.FILETYPE_ASN1, loaded)
        if certificates:
            context.use_privatekey(seed.credential().private_key)
        offered = [name for name in protocols if 0 < len(name) < 256]
        if is_client and offered:
            context.set_alpn_protos(offered)
        elif offered:
            context.set_alpn_select_callback(lambda *_: offered[0])
        self.connection = SSL.Connection(context, None)
        self._failures = (SSL.Error, ValueError)
        if is_client:
            self.connection.set_connect_state()
        else:
            self.connection.set_accept_state()

    def step(self, data: bytes) -> bytes:
        """Take what came, go on, and return what it says."""
        try:
            if data:
                self.connection.bio_write(data)
            self.connection.do_handshake()
        except self._failures:
            # It waits, or it gave up and says so.
            return self.output()
        return self.output()

    def output(self) -> bytes:
        """Return what is there to be sent."""
        try:
            return self.connection.bio_read(1 << 20)
        except self._failures:
            return b""


def _edited(data: bytes, flight: int, edits: list[Any]) -> bytes:
    out = bytearray(data)
    for edit in edits:
        which, at, value = (_number_of(each, 0xFFFFFFFF) for each in (*_list_of(edit), 0, 0, 0)[:3])
        if which == flight and at < len(out):
            out[at] ^= value & 0xFF
    return bytes(out)


def _tls_peer() -> Callable[[bytes], object]:
    tls, credential = attribute("channel.tls", "TlsEnd"), seed.credential()

    def call(data: bytes) -> object:
        from OpenSSL import SSL, crypto

        is_client, certificates, protocols, edits, text = _unpack(data, 5)
        edits, text = _list_of(edits), _bytes_of(text)
        try:
            peer = _Peer(
                is_client=bool(is_client), certificates=_pieces_of(certificates), protocols=_pieces_of(protocols)
            )
        except (SSL.Error, crypto.Error, TypeError, ValueError):
            return None  # no peer of this kind
        # OpenSSL's queue of errors has what this peer could not do, and is the process's.
        end = tls.for_keep(credential) if is_client else tls.for_tenant(credential)
        flight, incoming = 0, b""
        if is_client:
            incoming = _edited(peer.step(b""), flight, edits)
        for _ in range(6):
            try:
                end.receive(incoming)
            finally:
                outgoing = end.take_output()
            if end.established and not text:
                break
            incoming = peer.step(outgoing)
            if end.established:
                # The client's finished has arrived with what was said above; from here on data go one way.
                try:
                    peer.connection.send(text)
                except SSL.Error:
                    break
                incoming += peer.output()
                end.receive(_edited(incoming, 9, edits))
                read = end.read()
                _require(read == text or edits, "other data than were sent")
                break
            flight += 1
            incoming = _edited(incoming, flight, edits)
        if end.established:
            _require(end.peer_leaf == peer.leaf and len(end.exporter) == 32, "another certificate")
        return end.established

    def without_warnings(data: bytes) -> object:
        with warnings.catch_warnings():
            # pyOpenSSL wants the other library's certificates, which are the ones that are in order; and that library says of
            # serial numbers that are in none that a later version of it will refuse them.
            warnings.simplefilter("ignore")
            return call(data)

    return without_warnings


def _change_peer(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change the certificates most of the time: what is in them is nobody's else."""
    parts = _unpack(data, 5)
    if random.random() < 0.35:
        return _PACKED(data, random, scramble)
    if random.random() < 0.3:
        parts[3] = [
            [random.randrange(4), random.randrange(2000), 1 << random.randrange(8)]
            for _ in range(random.choice((1, 1, 2)))
        ]
    else:
        from tests.fuzz.verifier_mutations import change_der

        certificates = _pieces_of(parts[1]) or [seed.leaf()]
        parts[1] = [change_der(certificates[0], random, scramble), *certificates[1:]]
    return write_cbor(parts)


class _Plain:
    """What a session has for TLS, without it: pieces come through as they are."""

    ended = False

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.data = pieces, b""

    async def read(self) -> bytes:
        """Return the next piece, as a stream does."""
        return b"." if self.pieces else b""

    def receive(self, _: bytes) -> None:
        """Take the next piece."""
        self.data = self.pieces.pop(0)

    def take(self) -> bytes:
        """Return what was received, as TLS does."""
        return self.data


def _conversation() -> Callable[[bytes], object]:
    session, encode = attribute("channel.session", "Session"), attribute("wire.session", "encode_message")
    error = _error("TransportError")

    def call(data: bytes) -> object:
        is_tenant, pieces = _unpack(data, 2)
        pieces = _pieces_of(pieces)
        stream = _Plain(list(pieces))
        tls = SimpleNamespace(ended=False, receive=stream.receive, read=stream.take)
        one = session(stream, tls, "tenant" if is_tenant else "keep")

        async def receive() -> list[Any]:
            found = []
            try:
                while True:
                    found.append(await one.receive())
            except error:
                return found

        found = _run(receive())
        said = b"".join(len(body).to_bytes(4, "big") + body for body in map(encode, found))
        _require(b"".join(pieces).startswith(said), "other messages than were sent")
        return found

    return call


# --- Devices that attest ---------------------------------------------------------------------------------------------

_ANSWERED = ("DecodeError", "PlatformError")


class _Machine:
    """A machine of which an input says what every device and file answers."""

    def __init__(self) -> None:
        self.files: dict[str, list[Any]] = {}
        self.opened: dict[int, Iterator[bytes]] = {}
        self.on_ioctl: Callable[[int, Any], None] | None = None
        self.answers: list[bytes] | None = None

    def open(self, path: str, _flags: int) -> int:
        fd = len(self.opened)
        self.opened[fd] = iter(())
        name = path.rpartition("/")[2]
        if self.on_ioctl is None and (self.answers is None or not path.startswith("/dev/tpm")):
            contents = self.files.get(name)
            if not contents:
                raise OSError(errno.ENOENT, "not there")
            content = contents.pop(0) if len(contents) > 1 else contents[0]
            if type(content) is int:
                raise OSError(content & 0xFF, "as the input says")
            self.opened[fd] = iter((_bytes_of(content),))
        return fd

    def close(self, fd: int) -> None:
        """Close nothing."""

    def read(self, fd: int, size: int) -> bytes:
        if self.answers is not None and size == 4096:
            return self.answers.pop(0)[:size] if self.answers else b""
        return next(self.opened[fd], b"")[:size]

    def write(self, _fd: int, data: bytes) -> int:
        return len(data)

    def ioctl(self, _fd: int, request: int, argument: Any) -> None:
        if self.on_ioctl is None:
            raise OSError(errno.ENOTTY, "no device")
        self.on_ioctl(request, argument)

    def mkdir(self, _path: str) -> None:
        """Make nothing."""

    def rmdir(self, _path: str) -> None:
        """Remove nothing."""

    def sleep(self, _seconds: float) -> None:
        """Wait for nothing."""


def _ask(attester: Any) -> object:
    attested = attester.attest(seed.REPORT_DATA)
    _require(attested.evidence, "no evidence")
    return attested


def _nsm() -> Callable[[bytes], object]:
    attester = attribute("attester.nsm", "NsmAttester")

    def call(data: bytes) -> object:
        def answer(_request: int, message: Any) -> None:
            ctypes.memmove(message.response.addr, data, min(len(data), message.response.len))
            message.response.len = len(data)

        machine = _Machine()
        machine.on_ioctl = answer
        return _ask(attester(machine))

    return call


def _tpm() -> Callable[[bytes], object]:
    attester, error = attribute("attester.tpm", "TpmAttester"), (_error("DecodeError"), _error("PlatformError"))

    def call(data: bytes) -> object:
        answers, log = _unpack(data, 2)
        machine = _Machine()
        machine.answers, machine.files = _pieces_of(answers), {"binary_bios_measurements": [_bytes_of(log)]}
        tpm = attester(machine)
        try:
            found = _ask(tpm)
        except error:
            # What the quote did not take is for the register.
            tpm.register.extend(bytes(48))
            raise
        return found, tpm.register.extend(bytes(48))

    return call


def _sev_guest() -> Callable[[bytes], object]:
    attester = attribute("attester.sev_guest", "SevGuestAttester")
    extended = attribute("attester.sev_guest", "ExtReportRequest")

    def call(data: bytes) -> object:
        calls = _read_list(data)

        def answer(request: int, message: Any) -> None:
            if not calls:
                raise OSError(errno.EIO, "no more")
            parts = (*_list_of(calls.pop(0)), *[None] * 5)[:5]
            number, message.exitinfo2 = _number_of(parts[0], 0xFF), _number_of(parts[1], (1 << 64) - 1)
            response, table = _bytes_of(parts[3])[:4000], _bytes_of(parts[4])
            ctypes.memmove(message.resp_data, response, len(response))
            if request == attribute("attester.sev_guest", "SNP_GET_EXT_REPORT"):
                asked = extended.from_address(message.req_data)
                ctypes.memmove(asked.certs_address, table, min(len(table), asked.certs_len))
                asked.certs_len = _number_of(parts[2], 0xFFFFFFFF)
            if number:
                raise OSError(number, os.strerror(number))

        machine = _Machine()
        machine.on_ioctl = answer
        return _ask(attester(machine))

    return call


def _emulated() -> Callable[[bytes], object]:
    attester = attribute("attester.emulated", "EmulatedAttester")
    return lambda data: _ask(attester(lambda _: data))


def _device_files() -> Callable[[bytes], object]:
    find_configfs = attribute("attester.configfs", "find_configfs")
    find_gramine = attribute("attester.gramine", "find_gramine")

    def call(data: bytes) -> object:
        kind, files = _unpack(data, 2)
        machine = _Machine()
        if type(files) is dict:
            machine.files = {_text_of(name): _list_of(contents) for name, contents in files.items()}
        attester = (find_gramine if kind == "gramine" else find_configfs)(machine)
        if attester is None:
            return None
        found = _ask(attester)
        return found, attester.register and attester.register.extend(bytes(48))

    return call


def _dhcp() -> Callable[[bytes], object]:
    parse = attribute("keep.dhcp", "parse_answer_untrusted")
    return lambda data: parse(data, transaction=seed.DHCP_TRANSACTION, hardware=seed.DHCP_HARDWARE)


def _is_dhcp(data: bytes) -> bool:
    return len(data) > 268 and data[0] >> 4 == 4 and data[9] == 17


# --- Host ------------------------------------------------------------------------------------------------------------


class _Stream:
    """One stream of a link, with what comes on it."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.sent, self.end = pieces, b"", ""

    async def read(self, size: int) -> bytes:
        while self.pieces and not self.pieces[0]:
            self.pieces.pop(0)
        if not self.pieces:
            return b""
        data, self.pieces[0] = self.pieces[0][:size], self.pieces[0][size:]
        return data

    async def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.end = self.end or "closed"

    def reset(self, reason: str) -> None:
        self.end = self.end or reason


def _platform() -> Callable[[bytes], object]:
    answer_platform, answer = attribute("host.platform", "answer_platform"), attribute("emulator.service", "answer")
    installation, error = seed.installation(), _error("DecodeError")

    def report(request: bytes) -> bytes:
        return answer(installation, request, measurement=seed.MEASUREMENT, report_id=bytes(32))

    def call(data: bytes) -> object:
        pieces = _pieces_of(_read_list(data))
        stream = _Stream(list(pieces))
        try:
            _run(answer_platform(stream, report))
        except error:
            _require(stream.end == "refused" and not stream.sent, "an answer all the same")
            raise
        _require(stream.end == "closed" and stream.sent, "no answer")
        return stream.sent

    return call


def _process() -> Callable[[bytes], object]:
    package_of = attribute("host.platform", "package_of_process")
    line, name = [b""], [b""]

    def read(path: str, *_: object, **__: object) -> Any:
        if path.endswith("/stat"):
            return io.BytesIO(b"7 (" + name[0][:15] + b") S" + b" 1" * 18 + b" 99" + b" 1" * 30)
        return io.BytesIO(line[0])

    def call(data: bytes) -> object:
        line[0], name[0] = map(_bytes_of, _unpack(data, 2))
        # Put back after each call: other tests of this process read the real /proc.
        with (
            patch("enarx.host.platform.open", read, create=True),
            patch("enarx.host.process_facts.open", read, create=True),
        ):
            folder = package_of(7, 99)
        _require(folder.startswith("/") and folder.endswith("/enarx"), "another folder")
        return folder

    return call


def _change_process(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change words of the command line."""
    line, name = map(_bytes_of, _unpack(data, 2))
    if random.random() < 0.2:
        return _PACKED(data, random, scramble)
    words = line.split(b"\0")
    at = random.randrange(len(words))
    words[at : at + random.randrange(2)] = [
        random.choice((*words, b"", b"-c", b"-Xenarx-keep=", b"-E", b"/x/enarx/keep/__main__.py", scramble(words[at], random)))
    ]  # fmt: skip
    return write_cbor([b"\0".join(words), name])


def _tenants() -> Callable[[bytes], object]:
    decode = attribute("host.tenants", "decode_tenants")

    def call(data: bytes) -> object:
        found = decode(data, path="tenants.toml")
        return found.recognise_untrusted(data, None), found.is_operator_untrusted(data), found.use_certificates

    return call


_TENANT_VALUES = ("true", "0", "-1", "1e400", "nan", '""', '"x"', '"2 GiB"', '"-2 GiB"', '"99999999999999999999 TiB"', "99999999999999999999", "[]", "{}", "{ a = 1 }", "[[[[[]]]]]", "2026-01-01", '"\\n"', '"' + "0d" * 32 + '"', '"' + "0D" * 32 + '"')  # fmt: skip


class _Log:
    """Keeps the bug that the API would have told of."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def info(self, event: str, **facts: object) -> None:
        """Forget it."""

    def warning(self, event: str, **facts: object) -> None:
        """Forget it."""

    def bug(self, _event: str, error: BaseException) -> None:
        self.error = error


def _host_api() -> Callable[[bytes], object]:
    import hashlib

    make_app, fleet_of = attribute("host.api", "make_app"), attribute("host.fleet", "Fleet")
    limits, store = attribute("host.fleet", "HostLimits"), attribute("host.store", "Store")
    record_of, blobs_of = attribute("host.store", "KeepRecord"), attribute("host.blobs", "BlobFolder")
    metrics_of, tenants_of = attribute("host.metrics", "Metrics"), attribute("host.tenants", "Tenants")
    tenant_of = attribute("host.tenants", "Tenant")
    answer_of, usage = attribute("host.models", "ErrorAnswer"), _error("UsageError")
    fetcher_of = attribute("host.fetching", "RegistryFetcher")
    folder = _folder_in_memory()
    record = record_of(id=seed.KEEP_ID, tenant="local", backend="nil", state="ready", created_ns=1, memory_bytes=1 << 20, package_bytes=4096, reserved_bytes=1 << 21, boot="b", claimed=True)  # fmt: skip
    named = tenant_of(name="local", token_sha256=hashlib.sha256(b"token").digest(), max_disk_bytes=5000)

    class _Fleet(fleet_of):  # type: ignore[misc, valid-type]
        async def create(self, tenant: Any, **wanted: Any) -> Any:
            self._require_ports(wanted["ports"])
            if wanted["backend"] == "tdx":
                raise usage("cannot start it")
            return record

    class _Fetcher(fetcher_of):  # type: ignore[misc, valid-type]
        async def start(self, blob: Any, ref: Any) -> None:
            _require(ref.registry == "registry.example", "what the operator does not allow is fetched")
            blob.release()

    fetcher = _Fetcher(("registry.example",), _Log())

    def make(log: _Log) -> tuple[Any, Any]:
        fleet = _Fleet(folder=None, store=store(":memory:"), launchers={}, limits=limits(keeps=1, memory_bytes=1, disk_bytes=1 << 20), outbound=None, publish="127.0.0.1", log=log)  # fmt: skip
        stream = _Stream([b"said", b""])

        @asynccontextmanager
        async def session() -> AsyncIterator[_Stream]:
            yield stream

        async def stop() -> None:
            """Stay."""

        keep = SimpleNamespace(
            record=record,
            blobs=blobs_of(folder, {}),
            session=session,
            stop=stop,
            sessions=0,
            age_s=1.0,
            relayed_bytes=(0, 0),
            usage=lambda: None,
        )
        fleet._store.add(record)
        fleet._hosted[record.id] = keep
        return fleet, keep

    def call(data: bytes) -> object:
        method, path, headers, body = _unpack(data, 4)
        method, path = _text_of(method), _text_of(path)
        headers = headers if type(headers) is dict else {}
        headers = {_text_of(name).lower(): _text_of(value) for name, value in headers.items()}
        is_socket, log = method == "WS", _Log()
        fleet, _ = make(log)
        tenants = tenants_of((named,) if "authorization" in headers else None)
        app = make_app(fleet=fleet, tenants=lambda: tenants, metrics=metrics_of(fleet), log=log, fetcher=fetcher)
        scope = {
            "type": "websocket" if is_socket else "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            # A server lets through what is a header, in Latin-1.
            "headers": [
                (b"host", b"localhost"),
                *(
                    (bytes(name, "latin-1", "ignore"), bytes(value, "latin-1", "ignore").translate(None, b"\r\n\0"))
                    for name, value in headers.items()
                ),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8470),
            "state": {},
            "subprotocols": [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")],
            "extensions": {"websocket.http.response": {}},
        }
        incoming, outgoing = _messages(is_socket, _list_of(body)), []

        async def receive() -> Any:
            return next(incoming)

        async def send(message: Any) -> None:
            outgoing.append(message)

        _run(app(scope, receive, send))
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        fleet._store.close()
        if log.error is not None:
            raise log.error
        status = next((each["status"] for each in outgoing if each["type"].endswith("response.start")), 101)
        _require(status < 500 or status == 503, f"status {status}")
        text = b"".join(each.get("body", b"") for each in outgoing if each["type"].endswith("response.body"))
        if text and status >= 400:
            told = answer_of.model_validate_json(text).error
            _require(told.message.isprintable(), "not printable")
        return status

    return call


def _messages(is_socket: bool, body: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield what a server passes on of a request."""
    if not is_socket:
        for piece in body:
            yield {"type": "http.request", "body": _bytes_of(piece), "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}
        while True:
            yield {"type": "http.disconnect"}
    yield {"type": "websocket.connect"}
    for piece in body:
        yield {"type": "websocket.receive", **({"text": piece} if type(piece) is str else {"bytes": _bytes_of(piece)})}
    while True:
        yield {"type": "websocket.disconnect", "code": 1000}


def _change_request(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change one part of a request: its body and headers most of the time, by what is in them."""
    parts = _unpack(data, 4)
    how = random.random()
    if how < 0.25:
        return _PACKED(data, random, scramble)
    if how < 0.6 and any(parts[3] if type(parts[3]) is list else ()):
        body = b"".join(_pieces_of(parts[3]))
        body = _JSON(body, random, scramble) if body[:1] in {b"{", b"["} else scramble(body, random)
        at = random.randrange(len(body) + 1)
        parts[3] = [body[:at], body[at:]]
    else:
        headers = dict(parts[2]) if type(parts[2]) is dict else {}
        name = random.choice(("authorization", "upload-offset", "upload-length", "content-type", "host", "origin", "sec-fetch-site", "sec-websocket-protocol", "x-forwarded-for", *headers))  # fmt: skip
        headers[name] = random.choice(("", "é", "Basic é", "Basic YTp0b2tlbg==", "Bearer token", "Bearer", "bearer ü", str(random.choice(NUMBERS)), "1_0", "٣", " 5", "localhost", "127.0.0.1:80", "[::1]:x", "evil.example", "application/json; charset=x", "enarx-link.v1, x", "same-origin", *map(_text_of, headers.values())))  # fmt: skip
        parts[2] = headers
    return write_cbor(parts)


# --- Tenant ----------------------------------------------------------------------------------------------------------


def _host_client() -> Callable[[bytes], object]:
    import httpcore2
    import httpx2

    module = "deploy.host_client"
    client_of, parse = attribute(module, "HostClient"), attribute(module, "parse_address")
    address, context = parse("http://127.0.0.1:8470"), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blob = SimpleNamespace(
        digest=bytes(32), length=100, chunks_from=lambda offset: iter([bytes(100 - offset)] if offset < 100 else [])
    )

    class _Connection(httpcore2.AsyncNetworkStream):
        def __init__(self, data: bytes) -> None:
            self.file = io.BytesIO(data)

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
            return self.file.read(min(max_bytes, 500))

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
            """Forget it."""

        async def aclose(self) -> None:
            """Close nothing."""

        def get_extra_info(self, info: str) -> Any:
            return None

    class _Network(httpcore2.AsyncNetworkBackend):
        def __init__(self, answers: list[bytes]) -> None:
            self.answers = answers

        async def connect_tcp(self, *_: Any, **__: Any) -> Any:
            if not self.answers:
                raise httpcore2.ConnectError("no more")
            return _Connection(self.answers.pop(0))

    async def ask(which: int, answers: list[bytes]) -> object:
        client = client_of(address)
        transport = httpx2.AsyncHTTPTransport(verify=context)
        transport._pool = httpcore2.AsyncConnectionPool(network_backend=_Network(answers))
        async with httpx2.AsyncClient(
            transport=transport, base_url=address.url, verify=context, trust_env=False
        ) as inner:
            client._client = inner
            if which == 0:
                return await client.create_keep(backend="nil", memory_bytes=1, ports=[])
            if which == 1:
                return await client.list_keeps()
            if which == 2:
                return await client.show_keep("k")
            if which == 3:
                return await client.delete_keep("k")
            if which == 4:
                return await client.upload("k", blob)
            return await client.show_parts("k")

    def call(data: bytes) -> object:
        which, answers = _unpack(data, 2)
        with patch("enarx.deploy.host_client._FIRST_PAUSE_S", 0):
            found = _run(ask(_number_of(which, 0xFF) % 6, [_http(answer) for answer in _list_of(answers)]))
        _require(repr(found).isprintable(), "not printable")
        return found

    return call


def _http(answer: Any) -> bytes:
    """Return an answer as it is sent."""
    if type(answer) is not list:
        return _bytes_of(answer)
    status, headers, body = (*answer, None, None, None)[:3]
    headers, body = headers if type(headers) is dict else {}, _bytes_of(body)
    lines = [f"HTTP/1.1 {_number_of(status, 1023)} X", *(f"{_text_of(n)}: {_text_of(v)}" for n, v in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode("utf-8", "replace") + body


def _folder() -> Callable[[bytes], object]:
    folder = _folder_in_memory()
    files = attribute("deploy.folder", "DeploymentFolder")(path=folder)

    def call(data: bytes) -> object:
        kind, data = data[:1], data[1:]
        name, load = {
            b"k": ("key.pem", files.load_credential),
            b"p": ("place.json", files.load_offset),
        }.get(kind, ("receipt.json", files.load_receipt))
        fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        return load()

    return call


def _change_file(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change a file by what it is."""
    from tests.fuzz.verifier_mutations import by_text

    kind, data = data[:1], data[1:]
    if kind == b"p" and random.random() < 0.1:
        return kind + b"[" * random.choice((1, 900, 60_000))
    return kind + (by_text if kind == b"k" else _JSON)(data, random, scramble)


def _judged() -> Callable[[bytes], object]:
    """Judge a receipt, and say what came of it: what is in there may come from anybody."""
    decode, rejudge = attribute("wire.receipt_file", "decode_receipt_untrusted"), attribute("deploy.receipt", "rejudge")
    facts, text_of = attribute("deploy.receipt", "attested_facts"), attribute("cli.attest_receipt", "_text")
    document_of, error = attribute("cli.attest_receipt", "_document"), _error("EnarxError")

    def call(data: bytes) -> object:
        receipt = decode(data)
        judged = rejudge(receipt)
        text = text_of(receipt, judged, everything=True)
        _require(text.replace("\n", "").isprintable(), "not printable")
        json.dumps(document_of(receipt, judged), allow_nan=False).encode()
        for remark in judged.remarks:
            remark.encode()
        try:
            facts(receipt)
        except error as refusal:
            _require(type(refusal).__name__ in {"DecodeError", "VerificationError"}, f"another error: {refusal!r}")
        return judged

    return call


def _is_receipt(data: bytes) -> bool:
    return is_json(data) and b"enarx-receipt" in data


def _is_packed(size: int) -> Callable[[bytes], bool]:
    def passes(data: bytes) -> bool:
        try:
            packed = read_cbor(data)
        except Exception:  # noqa: BLE001  # whatever it is, it is not CBOR
            return False
        return type(packed) is list and len(packed) >= size

    return passes


def _is_toml(data: bytes) -> bool:
    import tomllib

    try:
        return "tenants" in tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return False


# --- The table -------------------------------------------------------------------------------------------------------

_SEALED = ("VerificationError", "DecodeError")
_TLS = ("TransportError", "VerificationError")
_SAID_BY_HOSTS = ("TransportError", "UsageError", "PlatformError", "KeepError")
_FILED = ("DecodeError", "ConfigError", "UsageError", "PlatformError")
_MESSAGE, _START, _RELEASE = "wire.session", "keep.workload_start", "wire.release"

_TABLE_OF_TARGETS = (
    make_target("tenant message", _MESSAGE, "decode_tenant_message_untrusted", seed.tenant_messages, _CBOR, is_cbor, 40, make=_there_and_back(_MESSAGE, "decode_tenant_message_untrusted", "encode_message"), more=("wire.fields",)),
    make_target("keep message", _MESSAGE, "decode_keep_message_untrusted", seed.keep_messages, _CBOR, is_cbor, 40, make=_there_and_back(_MESSAGE, "decode_keep_message_untrusted", "encode_message"), more=("wire.fields",), max_bytes=9000),
    make_target("messages of a session", "channel.session", "receive", seed.conversations, _PACKED, _is_packed(2), 15, make=_conversation),
    make_target("release", _RELEASE, "decode_release_untrusted", seed.releases, _CBOR, is_cbor, 40, make=_there_and_back(_RELEASE, "decode_release_untrusted", "encode_release"), max_bytes=3000),
    make_target("manifest", _RELEASE, "decode_manifest_untrusted", seed.manifests, _CBOR, is_cbor, 20, make=_there_and_back(_RELEASE, "decode_manifest_untrusted", "encode_manifest"), max_bytes=1000),
    make_target("identity record", _RELEASE, "decode_identity_untrusted", seed.identities, _CBOR, is_cbor, 20, make=_there_and_back(_RELEASE, "decode_identity_untrusted", "encode_identity"), max_bytes=1000),
    make_target("travelling files", _RELEASE, "decode_files_untrusted", seed.travelling_files, _CBOR, is_cbor, 40, make=_there_and_back(_RELEASE, "decode_files_untrusted", "encode_files"), max_bytes=2000),
    make_target("link frames", "channel.frames", "feed_untrusted", seed.link_bytes, _FRAMES, _is_frame, 60, make=_frames, max_bytes=2000),
    make_target("link from a peer", "channel.link", "_receive_ready", seed.link_peers, _change_link, lambda data: _is_frame(data[1:]), 10, make=_link, errors=("TransportError",), max_bytes=3000),
    make_target("segments", "channel.segments", "update", seed.sealed_segments, _change_segments, _is_packed(2), 30, make=_segments, entries=("finish",), errors=("VerificationError",), max_bytes=66_000),
    make_target("sealed secret", "channel.hpke", "open", seed.sealed_secrets, lambda data, random, scramble: random.choice((overwrite, overwrite, scramble))(data, random), lambda data: len(data) > 1136, 10, make=_hpke, entries=("seal",), errors=_SEALED, max_bytes=2000),
    make_target("tls from a stranger", "channel.tls", "receive", seed.tls_flights, _PACKED, _is_packed(2), 10, make=_tls_bytes, errors=_TLS),
    make_target("tls from a peer", "channel.tls", "receive", seed.tls_peers, _change_peer, _is_packed(5), 5, make=_tls_peer, entries=("read",), errors=_TLS),
    make_target("workload start", _START, "decode_start", seed.workload_starts, _CBOR, is_cbor, 30, max_bytes=2000),
    make_target("workload word", _START, "decode_word_untrusted", seed.workload_words, _CBOR, is_cbor, 30, make=_there_and_back(_START, "decode_word_untrusted", "encode_word"), max_bytes=1000),
    make_target("workload answer", _START, "decode_answer", seed.workload_answers, _CBOR, is_cbor, 20, make=_there_and_back(_START, "decode_answer", "encode_word"), max_bytes=500),
    make_target("nsm answer", "attester.nsm", "attest", seed.nsm_answers, _CBOR, is_cbor, 20, make=_nsm, errors=_ANSWERED),
    make_target("tpm answers", "attester.tpm", "attest", seed.tpm_answers, _PACKED, _is_packed(2), 15, make=_tpm, entries=("extend",), errors=_ANSWERED),
    make_target("sev-guest answers", "attester.sev_guest", "attest", seed.sev_guest_answers, _PACKED, is_cbor, 15, make=_sev_guest, errors=_ANSWERED),
    make_target("emulated answer", "attester.emulated", "attest", seed.emulated_answers, lambda data, random, scramble: random.choice((overwrite, overwrite, scramble))(data, random), lambda data: data[:4] == b"\0\0\4\xa0", 20, make=_emulated, more=("wire.platform_answer",), entries=("decode_answer_untrusted",), errors=_ANSWERED),
    make_target("device files", "attester.configfs", "attest", seed.device_files, _PACKED, _is_packed(2), 15, make=_device_files, more=("attester.gramine",), entries=("find_configfs", "find_gramine", "extend"), errors=_ANSWERED),
    make_target("dhcp answer", "keep.dhcp", "parse_answer_untrusted", seed.dhcp_answers, lambda data, random, scramble: random.choice((overwrite, overwrite, scramble))(data, random), _is_dhcp, 30, make=_dhcp, max_bytes=2048),
    make_target("platform request", "host.platform", "answer_platform", seed.platform_requests, _PACKED, is_cbor, 3, make=_platform, more=("emulator.service",), entries=("answer",), max_bytes=1000),
    make_target("keep process", "host.platform", "package_of_process", seed.keep_processes, _change_process, _is_packed(2), 30, make=_process, errors=("PlatformError",), max_bytes=1000),
    make_target("tenants file", "host.tenants", "decode_tenants", seed.tenants_files, by_lines(_TENANT_VALUES), _is_toml, 8, make=_tenants, entries=("recognise_untrusted", "is_operator_untrusted"), errors=("ConfigError",), max_bytes=3000),
    make_target("host request", "host.api", "make_app", seed.host_requests, _change_request, _is_packed(4), 5, make=_host_api, more=("host.fetching",), entries=("create", "blob", "fetch", "session", "answer"), errors=(), max_bytes=3000),
    make_target("host answer", "deploy.host_client", "_ask", seed.host_answers, _PACKED, _is_packed(2), 5, make=_host_client, entries=("_keep", "list_keeps", "upload", "_append", "_offset_of", "show_parts"), errors=_SAID_BY_HOSTS, max_bytes=3000),
    make_target("deployment folder", "deploy.folder", "load_credential", seed.deployment_files, _change_file, lambda data: data[:1] in {b"k", b"p", b"r"}, 8, make=_folder, entries=("load_offset", "load_receipt"), errors=_FILED, max_bytes=70_000),
    make_target("receipt", "wire.receipt_file", "decode_receipt_untrusted", seed.receipts, _JSON, _is_receipt, 8, max_bytes=40_000),
    make_target("receipt judged again", "deploy.receipt", "rejudge", seed.receipts, _JSON, _is_receipt, 1, make=_judged, more=("cli.attest_receipt",), entries=("attested_facts", "_text", "_document"), errors=("DecodeError", "ConfigError", "VerificationError"), max_bytes=40_000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
