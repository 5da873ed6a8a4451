# SPDX-License-Identifier: Apache-2.0
"""The workload process as a Keep starts it: a real process, with this test as its Keep and broker."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import wasmtime
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.x509 import make_self_signed
from enarx.keep import workload
from enarx.keep.workload_start import (
    CONTROL_FD,
    Connect,
    Connected,
    Ended,
    Refused,
    Start,
    decode_word_untrusted,
    encode_word,
    receive_packet,
    send_packet,
    send_start,
    workload_command,
)
from enarx.runtime.credential_slot import CredentialSlot
from enarx.wire import ConnectFile, Dir, EnarxToml, Limits, ListenFile, Tls
from enarx.wire.records import STDIO
from enarx.wire.session import ExitFailure
from tests.integration.certificates import Authority

WAIT_S = 60
DENIED, REFUSED = "HTTP-request-denied", "connection-refused"


class WorkloadProcess:
    """One workload process; `connect` answers what it asks for, by a socket or a reason."""

    def __init__(self, folder):
        self._folder = folder
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = [os.pipe() for _ in range(3)]
        given = (pipes[0][0], pipes[1][1], pipes[2][1], theirs.fileno())
        copies = [os.dup(fd) for fd in given]
        moved = [fd if fd > CONTROL_FD else os.dup(fd) for fd in copies]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(moved)]
        command = workload_command()
        self.pid = os.posix_spawn(
            command[0], command, {}, file_actions=actions, setsigdef=[signal.SIGPIPE, signal.SIGINT], setsid=True
        )
        for fd in {*moved, *copies, *given[:3]}:
            os.close(fd)
        theirs.close()
        self.stdin, self.stdout, self.stderr = pipes[0][1], pipes[1][0], pipes[2][0]
        self.control.settimeout(WAIT_S)
        self.asked = []
        self.connect = lambda _word: "denied"
        self.status = None
        self._peers = []

    def start(
        self, module, *, files=STDIO, announce_files=True, tls_files=None, clock=None, credential_fd=None, **toml
    ):
        listeners = []
        for number, file in enumerate(files):
            if isinstance(file, ListenFile):
                sock = socket.socket(socket.AF_UNIX)
                sock.bind(f"{self._folder}/{number}")
                sock.listen(16)
                listeners.append(sock)
        fd = os.memfd_create("main.wasm", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        data = module if isinstance(module, bytes) else module.read_bytes()
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        has_credential = credential_fd is not None
        start = Start(EnarxToml(files=tuple(files), **toml), announce_files, tls_files or {}, clock, has_credential)
        send_start(self.control, start, fd, [sock.fileno() for sock in listeners], credential_fd)
        os.close(fd)
        for sock in listeners:
            sock.close()
        return self

    def dial(self, number=3):
        """Connect to a listen entry, as the Keep does for an inbound stream."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT_S)
        sock.connect(f"{self._folder}/{number}")
        return sock

    def send_input(self, data=b""):
        os.write(self.stdin, data)
        os.close(self.stdin)
        self.stdin = -1

    def end(self):
        """Return its last word (None: there was none), what it wrote to stdout and stderr, and its wait status."""
        ended = None
        written = {self.stdout: bytearray(), self.stderr: bytearray()}
        open_fds = {self.stdout, self.stderr, self.control.fileno()}
        deadline = time.monotonic() + WAIT_S
        while open_fds:
            ready, _, _ = select.select(sorted(open_fds), [], [], max(0, deadline - time.monotonic()))
            assert ready, "the workload process did not end in time"
            for fd in ready:
                if fd in written:
                    data = os.read(fd, 1 << 20)
                    written[fd] += data
                    if not data:
                        open_fds.discard(fd)
                    continue
                data, fds = receive_packet(self.control, max_fds=0)
                assert fds == []
                if not data:
                    open_fds.discard(fd)
                    continue
                word = decode_word_untrusted(data)
                if isinstance(word, Ended):
                    ended = ended or word
                else:
                    self._answer(word)
        _, self.status = os.waitpid(self.pid, 0)
        return ended, bytes(written[self.stdout]), bytes(written[self.stderr]), self.status

    def _answer(self, word: Connect):
        self.asked.append((word.host, word.port))
        answer = self.connect(word)
        if isinstance(answer, str):
            send_packet(self.control, encode_word(Refused(word.request, answer)))
        elif answer is not None:
            send_packet(self.control, encode_word(Connected(word.request)), [answer.fileno()])
            answer.close()

    def serve(self, behave):
        """Answer each connection by one end of a pair, whose other end is for `behave`, in a thread."""

        def connect(_word):
            ours, theirs = socket.socketpair()
            ours.settimeout(WAIT_S)
            thread = threading.Thread(target=behave, args=(ours,))
            thread.start()
            self._peers.append((thread, ours))
            return theirs

        self.connect = connect

    def close(self):
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for thread, sock in self._peers:
            thread.join(WAIT_S)
            sock.close()
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.control.close()


@pytest.fixture
def process(tmp_path):
    process = WorkloadProcess(tmp_path)
    yield process
    process.close()


def wat(text):
    return bytes(wasmtime.wat2wasm(text))


# --- Core modules ----------------------------------------------------------------------------------------------------


def test_says_hello(process, guest):
    ended, out, err, status = process.start(guest("hello")).end()
    assert (ended, err, status) == (Ended(0), b"", 0)
    assert out.lower().startswith(b"hello")


def test_gives_arguments_and_environment(process, guest):
    process.start(guest("args_env"), args=("a", "b c", "ü"), env=(("A", "1"), ("B", "x=y")))
    ended, out, _, _ = process.end()
    assert ended == Ended(0)
    assert out.decode().splitlines() == [
        "main.wasm", "a", "b c", "ü", "", "FD_COUNT=3", "FD_NAMES=stdin:stdout:stderr", "A=1", "B=x=y",
    ]  # fmt: skip


def test_nothing_of_the_keep_is_in_its_environment(process, guest):
    _, out, _, _ = process.start(guest("args_env"), announce_files=False).end()
    assert out.decode().splitlines() == ["main.wasm", ""]


def test_reads_what_is_sent(process, guest):
    process.start(guest("echo"))
    process.send_input(b"over and over" * 1000)
    ended, out, _, _ = process.end()
    assert (ended, out) == (Ended(0), b"over and over" * 1000)


@pytest.mark.parametrize(("given", "status"), [(0, 0), (1, 1), (99, 99), (255, 255), (256, 255), (-1, 255)])
def test_ends_with_the_workload_s_status(process, guest, given, status):
    ended, _, _, wait_status = process.start(guest("exitcode"), args=(str(given),)).end()
    assert ended.status == status
    assert ended.failure is None
    assert os.waitstatus_to_exitcode(wait_status) == status


def test_a_trap_comes_with_the_engine_s_text(process, guest):
    ended, _, err, _ = process.start(guest("trap_named")).end()
    assert (ended.status, ended.failure, err) == (134, None, b"")
    assert "wasm trap" in ended.trap


def test_the_time_limit_is_told_as_by_enarx_run(process, guest):
    ended, _, err, _ = process.start(guest("spin"), limits=Limits(timeout_s=0.3)).end()
    assert ended == Ended(
        109,
        failure=ExitFailure(
            109,
            "workload stopped: wall time: found more than 0.3 s, want at most 0.3 s",
            "raise --timeout, or limits.timeout in Enarx.toml",
        ),
    )
    assert err == b""


def test_the_fuel_limit_is_told_as_by_enarx_run(process, guest):
    ended, _, _, _ = process.start(guest("spin"), limits=Limits(fuel=100_000)).end()
    assert ended.status == ended.failure.kind == 109
    assert ended.failure.message == "workload stopped: fuel: found more than 100000 units, want at most 100000"


def test_the_output_limit_ends_a_flood(process, guest):
    ended, out, _, _ = process.start(guest("flood"), limits=Limits(output_bytes=1_000_000)).end()
    assert len(out) == 1_000_000
    assert ended.failure.kind == 109
    assert "output: found more than 1000000 bytes" in ended.failure.message


def test_the_memory_limit_is_the_workload_s_to_meet(process, guest):
    ended, _, _, _ = process.start(guest("memory_stress"), limits=Limits(memory_bytes=40 << 20)).end()
    assert (ended.status, ended.failure) == (1, None)
    assert "--memory or limits.memory raises the limit" in ended.hint


@pytest.mark.parametrize(
    ("module", "kind", "words"),
    [
        (b"", 103, "cannot load the module: main.wasm: found an empty file"),
        (b"\x7fELF", 103, "cannot load the module: main.wasm: found bytes"),
        (b"\0asm\1\0\0\0", 103, "main.wasm: found no entry point"),
        (
            wat('(module (import "env" "f" (func)) (func (export "_start")))'),
            103,
            "main.wasm",
        ),
        (wat('(module (memory (export "memory") 4000) (func (export "_start")))'), 109, "main.wasm: memory: found"),
    ],
)
def test_what_cannot_run_is_told_by_its_name_in_the_package(process, module, kind, words):
    ended, out, err, _ = process.start(module, limits=Limits(memory_bytes=1 << 20)).end()
    assert ended.failure.kind == ended.status == kind
    assert words in ended.failure.message
    assert "/proc" not in ended.failure.message
    assert (out, err) == (b"", b"")


def test_the_module_s_compiled_form_is_on_no_disk(process, guest):
    process.start(guest("sleeper"))
    deadline = time.monotonic() + WAIT_S
    maps = ""
    while "memfd:enarx" not in maps:
        assert time.monotonic() < deadline
        with open(f"/proc/{process.pid}/maps") as file:
            maps = file.read()
    assert ".cwasm" not in maps
    os.kill(process.pid, signal.SIGKILL)
    process.end()


def test_a_directory_is_its_own(process, guest, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("in a file")
    process.start(
        guest("cat_file"), args=("/data/f",), dirs=(Dir(host=str(tmp_path / "d"), guest="/data", read_only=True),)
    )
    ended, out, _, _ = process.end()
    assert (ended.status, out) == (0, b"in a file")


# --- Signals, hardening ----------------------------------------------------------------------------------------------


def wait_until_it_runs(process):
    assert select.select([process.stdout], [], [], WAIT_S)[0]


@pytest.fixture
def looping():
    return wat(
        '(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\01\\00\\00\\00r")'
        ' (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))) (loop (br 0))))'
    )


def test_ctrl_c_ends_a_loop_as_it_ends_enarx_run(process, looping):
    process.start(looping)
    wait_until_it_runs(process)
    os.kill(process.pid, signal.SIGINT)
    ended, out, _, status = process.end()
    assert (ended, out, os.waitstatus_to_exitcode(status)) == (None, b"r", 130)


def test_term_ends_a_loop_by_its_signal(process, looping):
    process.start(looping)
    wait_until_it_runs(process)
    os.kill(process.pid, signal.SIGTERM)
    ended, _, _, status = process.end()
    assert (ended, os.waitstatus_to_exitcode(status)) == (None, -signal.SIGTERM)


def test_ends_by_itself_when_there_is_no_workload(process):
    process.control.shutdown(socket.SHUT_RDWR)
    ended, out, err, status = process.end()
    assert (ended, out, err, status) == (None, b"", b"", 0)


def test_says_so_when_the_start_is_none(process):
    send_packet(process.control, b"what")
    ended, _, _, _ = process.end()
    assert (ended.status, ended.failure.kind) == (103, 103)


def test_gives_up_what_a_workload_does_not_need(process, looping):
    process.start(looping)
    wait_until_it_runs(process)
    with open(f"/proc/{process.pid}/status") as file:
        facts = dict(line.split(":", 1) for line in file)
    assert facts["NoNewPrivs"].strip() == "1"
    with open(f"/proc/{process.pid}/limits") as file:
        assert re.search(r"^Max core file size +0 +0 ", file.read(), re.MULTILINE)
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        assert file.read() == b""
    os.kill(process.pid, signal.SIGKILL)
    process.end()


def test_writes_no_core_and_cannot_be_read_by_others():
    program = (
        "import ctypes, os; from enarx.keep.workload import _harden; _harden(os.getppid(), None);"
        "prctl = ctypes.CDLL(None).prctl; number = ctypes.c_int(); prctl(2, ctypes.byref(number));"
        "print(prctl(3), prctl(39, 0, 0, 0, 0), number.value, os.listdir('/proc/self/fd'))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    # PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_GET_PDEATHSIG, and what is open.
    assert found.stdout == "0 1 9 ['0', '1', '2', '3']\n"


def test_descriptors_beyond_its_own_are_closed(tmp_path, looping):
    with open("/dev/null") as file:
        os.set_inheritable(file.fileno(), True)
        process = WorkloadProcess(tmp_path)
        try:
            process.start(looping)
            wait_until_it_runs(process)
            folder = f"/proc/{process.pid}/fd"
            assert "/dev/null" not in [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        finally:
            process.close()


# --- Inbound ---------------------------------------------------------------------------------------------------------

LISTEN = (*STDIO, ListenFile(name="listen", prot="tcp", port=8080))
LISTEN_TLS = (*STDIO, ListenFile(name="listen", prot="tls", port=8443))


def exchange(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := sock.recv(65536):
        got += chunk
    return got


def dial_when_it_listens(process):
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return process.dial()
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline


def test_a_core_module_accepts_what_the_keep_hands_over(process, guest):
    process.start(guest("tcp_echo"), files=LISTEN, args=("3",))
    for number in range(3):
        with process.dial() as sock:
            assert exchange(sock, b"%d" % number * 100_000) == b"%d" % number * 100_000
    ended, out, err, _ = process.end()
    assert (ended, out, err) == (Ended(0), b"", b"")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "root")


def trusting(authority):
    context = ssl.create_default_context(cafile=authority.root)
    context.check_hostname = False
    # Since 3.13 it is strict about identifiers of keys, which the certificates of these tests do without.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def test_tls_ends_in_the_workload_process_with_pem_files_that_travelled(process, guest, authority):
    pair = authority.issue("server", "localhost")
    files = {"c.pem": pair.certificate.read_bytes(), "k.pem": pair.key.read_bytes()}
    tls = Tls(certificate="c.pem", private_key="k.pem")
    process.start(guest("tcp_echo"), files=LISTEN_TLS, args=("1",), tls=tls, tls_files=files)
    with trusting(authority).wrap_socket(process.dial()) as sock:
        assert sock.version() == "TLSv1.3"
        sock.sendall(b"ping")
        assert sock.recv(4) == b"ping"
    assert process.end()[0] == Ended(0)


def test_new_connections_show_the_certificate_that_the_keep_has_put_there_last(process, guest):
    slot = CredentialSlot()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        for number in range(2):
            credential = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))
            slot.put(credential)
            if not number:
                process.start(guest("tcp_echo"), files=LISTEN_TLS, args=("2",), credential_fd=slot.fd)
            with context.wrap_socket(process.dial()) as sock:
                sock.sendall(b"ping")
                assert sock.recv(4) == b"ping"
                assert sock.getpeercert(binary_form=True) == credential.chain[0].public_bytes(Encoding.DER)
    finally:
        slot.close()
    assert process.end()[0] == Ended(0)


def test_a_pem_file_that_did_not_travel_is_told(process, guest, authority):
    tls = Tls(certificate=str(authority.root), private_key="k.pem")
    ended, _, _, _ = process.start(guest("tcp_echo"), files=LISTEN_TLS, tls=tls).end()
    assert ended.failure.kind == 102
    assert "found no such file among those that travelled" in ended.failure.message


@pytest.mark.parametrize("files", [LISTEN, LISTEN_TLS], ids=["tcp", "tls"])
def test_a_component_serves_http_on_what_the_keep_hands_over(process, guest, files):
    process.start(guest("component/http_hello"), files=files)
    for _ in range(3):
        sock = process.dial()
        if files is LISTEN_TLS:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        connection = http.client.HTTPConnection("keep")
        connection.sock = sock
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        connection.close()
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        assert file.read() == ""
    os.kill(process.pid, signal.SIGINT)
    ended, _, err, status = process.end()
    assert (ended, err, os.waitstatus_to_exitcode(status)) == (None, b"", 130)


# --- Outbound --------------------------------------------------------------------------------------------------------


def connecting(prot="tcp", host="db.example", port=5432):
    return (*STDIO, ConnectFile(name="stream", prot=prot, host=host, port=port))


def echo_lines(sock):
    while data := sock.recv(100):
        sock.sendall(data)


def three_lines(sock):
    for _ in range(3):
        sock.sendall(b"test\n")
        assert sock.recv(5, socket.MSG_WAITALL) == b"test\n"


def test_a_connect_entry_is_asked_of_the_keep(process, guest):
    process.serve(three_lines)
    ended, _, _, _ = process.start(guest("connect_tcp"), files=connecting()).end()
    assert ended == Ended(0)
    assert process.asked == [("db.example", 5432)]


@pytest.mark.parametrize(("reason", "words"), [("refused", "connection refused"), ("unreachable", "no route"), ("timeout", "timed out"), ("denied", "permission denied")])  # fmt: skip
def test_a_connect_entry_that_is_refused_ends_the_start(process, guest, reason, words):
    process.connect = lambda _word: reason
    ended, _, _, _ = process.start(guest("connect_tcp"), files=connecting()).end()
    assert ended.failure.kind == 107
    assert ended.failure.message.startswith("cannot connect stream: db.example:5432: ")
    assert words in ended.failure.message


def test_a_tls_connect_entry_judges_the_peer_by_its_name(process, guest, authority):
    pair = authority.issue("db", "db.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    def behave(sock):
        with context.wrap_socket(sock, server_side=True) as stream:
            stream.settimeout(WAIT_S)
            for _ in range(3):
                stream.sendall(b"test\n")
                got = b""
                while len(got) < 5:
                    got += stream.recv(5)

    process.serve(behave)
    ended, _, err, _ = process.start(
        guest("connect_tcp"),
        files=connecting("tls"),
        tls=Tls(trust_anchors=("root.pem",)),
        tls_files={"root.pem": authority.root.read_bytes()},
    ).end()
    assert ended == Ended(0), err


def answer_ping(sock):
    assert sock.recv(5, socket.MSG_WAITALL) == b"ping\n"
    sock.sendall(b"pong\n")
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)


def test_wasi_sockets_connect_by_name_and_ask_no_resolver(process, guest):
    process.serve(answer_ping)
    process.start(guest("component/tcp_client"), args=("No.Such.Example.", "7"), allow_connect=("no.such.example:7",))
    ended, out, _, _ = process.end()
    assert (ended, out) == (Ended(0), b"pong\n")
    assert process.asked == [("no.such.example", 7)]


def test_wasi_sockets_connect_to_an_address(process, guest):
    process.serve(answer_ping)
    process.start(guest("component/tcp_client"), args=("192.0.2.1", "7"), allow_connect=("192.0.2.0/24:*",))
    assert process.end()[:2] == (Ended(0), b"pong\n")
    assert process.asked == [("192.0.2.1", 7)]


@pytest.mark.parametrize(
    ("host", "patterns", "said"),
    [
        ("other.example", ("no.such.example:7",), b"resolve 1\n"),
        ("no.such.example", ("no.such.example:8",), b"connect 1\n"),
        # A rule for addresses is none for the name that an address stands for.
        ("no.such.example", ("no.such.example:8", "0.0.0.0/0:7"), b"connect 1\n"),
        # And an address that stands for nothing leads nowhere.
        ("240.0.0.9", ("0.0.0.0/0:7",), b"connect 13\n"),
    ],
)
def test_wasi_sockets_ask_for_nothing_that_is_forbidden(process, guest, host, patterns, said):
    process.start(guest("component/tcp_client"), args=(host, "7"), allow_connect=patterns)
    ended, out, _, _ = process.end()
    assert (ended.status, out, process.asked) == (1, said, [])


@pytest.mark.parametrize(("reason", "code"), [("denied", 1), ("refused", 14), ("unreachable", 13), ("timeout", 5), ("closed", 15)])  # fmt: skip
def test_wasi_sockets_are_told_why_there_is_no_connection(process, guest, reason, code):
    process.connect = lambda _word: reason
    process.start(guest("component/tcp_client"), args=("a.example", "7"), allow_connect=("*:*",))
    ended, out, _, _ = process.end()
    assert (ended.status, out) == (1, b"connect %d\n" % code)


def answer_http(sock):
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody")


def test_wasi_http_goes_out_through_the_keep(process, guest):
    process.serve(answer_http)
    process.start(
        guest("component/http_get"), args=("http", "api.example:8080", "/x"), allow_connect=("api.example:8080",)
    )
    ended, out, _, _ = process.end()
    assert (ended, out) == (Ended(0), b"200\nbody")
    assert process.asked == [("api.example", 8080)]


def test_wasi_http_proves_its_peer_by_name(process, guest, authority):
    pair = authority.issue("api", "api.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    def behave(sock):
        with context.wrap_socket(sock, server_side=True) as stream:
            answer_http(stream)
            # A workload that has what it came for may be gone before it is told goodbye.
            with contextlib.suppress(OSError):
                stream.unwrap()

    process.serve(behave)
    process.start(
        guest("component/http_get"),
        args=("https", "api.example", "/"),
        allow_connect=("api.example:443",),
        tls=Tls(trust_anchors=("root.pem",)),
        tls_files={"root.pem": authority.root.read_bytes()},
    )
    ended, out, _, _ = process.end()
    assert (ended, out) == (Ended(0), b"200\nbody")


def http_error(name):
    from enarx.runtime.component.http_fields import ERROR_CODE

    return next(number for number, case in enumerate(ERROR_CODE.cases) if case == name)


@pytest.mark.parametrize(("reason", "name"), [("denied", DENIED), ("refused", REFUSED), ("timeout", "connection-timeout")])  # fmt: skip
def test_wasi_http_is_told_why_there_is_no_connection(process, guest, reason, name):
    process.connect = lambda _word: reason
    process.start(guest("component/http_get"), args=("http", "a.example", "/"), allow_connect=("*:80",))
    ended, out, _, _ = process.end()
    assert (ended.status, out) == (1, b"error %d\n" % http_error(name))


def test_wasi_http_asks_for_nothing_that_is_forbidden(process, guest):
    process.start(guest("component/http_get"), args=("http", "b.example", "/"), allow_connect=("a.example:80",))
    ended, out, _, _ = process.end()
    assert (ended.status, out, process.asked) == (1, b"error %d\n" % http_error(DENIED), [])


# --- Time ------------------------------------------------------------------------------------------------------------

YEAR_2000_NS = 946_684_800 * 10**9


def offset_for(wall_ns):
    return wall_ns - time.monotonic_ns()


def test_preview_1_has_the_tenant_s_time(process):
    # Writes the eight bytes of the real-time clock, then those of the monotonic one.
    module = wat(
        '(module (import "wasi_snapshot_preview1" "clock_time_get" (func $c (param i32 i64 i32) (result i32)))'
        ' (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "\\10\\00\\00\\00\\10\\00\\00\\00")'
        ' (func (export "_start") (drop (call $c (i32.const 0) (i64.const 0) (i32.const 16)))'
        " (drop (call $c (i32.const 1) (i64.const 0) (i32.const 24)))"
        " (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))))"
    )
    ended, out, _, _ = process.start(module, clock=offset_for(YEAR_2000_NS)).end()
    assert ended == Ended(0)
    assert 0 <= int.from_bytes(out[:8], "little") - YEAR_2000_NS < WAIT_S * 10**9
    assert int.from_bytes(out[8:], "little") < YEAR_2000_NS


def test_preview_1_refuses_to_put_the_time_beyond_memory(process):
    module = wat(
        '(module (import "wasi_snapshot_preview1" "clock_time_get" (func $c (param i32 i64 i32) (result i32)))'
        ' (import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32))) (memory (export "memory") 1)'
        ' (func (export "_start") (call $x (call $c (i32.const 0) (i64.const 0) (i32.const 65529)))))'
    )
    assert process.start(module, clock=0).end()[0] == Ended(21)


def test_a_tls_peer_is_judged_at_the_tenant_s_time(process, guest, authority):
    pair = authority.issue("db", "db.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    def behave(sock):
        with contextlib.suppress(ssl.SSLError, OSError):
            context.wrap_socket(sock, server_side=True)

    process.serve(behave)
    ended, _, _, _ = process.start(
        guest("connect_tcp"),
        files=connecting("tls"),
        tls=Tls(trust_anchors=("root.pem",)),
        tls_files={"root.pem": authority.root.read_bytes()},
        clock=offset_for(YEAR_2000_NS),
    ).end()
    assert ended.failure.kind == 107
    assert "not yet valid" in ended.failure.message


@pytest.mark.parametrize(("fuel", "suffix"), [(False, ".cwasm"), (True, "-fuel.cwasm")])
def test_what_an_image_has_compiled_is_not_compiled_again(tmp_path, monkeypatch, fuel, suffix):
    source = tmp_path / "router.wat"
    source.write_text("(module)")
    monkeypatch.setattr(workload, "overlay_paths", lambda: (str(source),))
    cache = workload._MemoryCache()
    ahead = tmp_path / f"router{suffix}"
    ahead.write_bytes(b"code")
    assert cache.find(str(source), fuel=fuel).path == str(ahead)
    # The other kind is not there, and a tenant's module is never taken from beside where it is.
    assert cache.find(str(source), fuel=not fuel).path.startswith("/proc/self/fd/")
    own = tmp_path / "own.wat"
    own.write_text("(module)")
    (tmp_path / f"own{suffix}").write_bytes(b"code")
    assert cache.find(str(own), fuel=fuel).path.startswith("/proc/self/fd/")
