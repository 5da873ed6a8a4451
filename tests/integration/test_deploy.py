# SPDX-License-Identifier: Apache-2.0
"""`enarx deploy` and `enarx keep`: a real host, real Keeps on the emulated platform, and the command as users have it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Enarx

EMULATED = "--insecure-accept-emulated"
NOTE = "EMULATED Keep on "
WORDS = (
    '(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    ' (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
    ' (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\06\\00\\00\\00ready\\n")'
    ' (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))'
    # Clock subscription at 128: monotonic, one hour.
    " (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const 3600000000000))"
    " (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))))"
)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that runs, and the command that asks it."""

    url: str
    enarx: Enarx

    def deploy(self, *arguments, **how):
        return self.enarx.command("deploy", "--to", self.url, EMULATED, *arguments, **how)

    def keep(self, verb, *arguments, **how):
        return self.enarx.command("keep", verb, "--on", self.url, *arguments, **how)

    def listed(self):
        return {each["host-says"]["id"]: each for each in json.loads(self.keep("list", "--json").stdout)}

    def start(self, *arguments):
        command = arguments if arguments[0] == "keep" else ("deploy", "--to", self.url, EMULATED, *arguments)
        return self.enarx.start_command(*command)


@pytest.fixture(scope="module")
def host(enarx, tmp_path_factory):
    state = tmp_path_factory.mktemp("host")
    command = ("host", "serve", "--listen", "127.0.0.1:0", "--state", state, "--drain", "stop")
    with enarx._popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            said = b""
            while not (found := re.search(rb"listening on (http://\S+)", said)):
                piece = os.read(process.stderr.fileno(), 4096)
                assert piece, said
                said += piece
            yield Host(url=found[1].decode(), enarx=enarx)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A workload that says `ready` and waits for an hour."""
    module = tmp_path_factory.mktemp("guests") / "waiting.wat"
    module.write_text(WORDS)
    return module


def detached(host, *arguments, **how):
    ended = host.deploy("--detach", *arguments, **how)
    assert ended.status == 0, ended.stderr
    return ended.stdout.decode().strip()


# --- A deployment from its beginning to its end ------------------------------------------------------------------------


def test_says_hello_from_a_keep_on_a_host(host, guest):
    ended = host.deploy(guest("hello"))
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n"), ended.stderr
    (note,) = ended.stderr.splitlines()
    assert note.startswith("enarx: " + NOTE)


def test_says_hello_from_a_keep_on_a_host_of_its_own(enarx, guest):
    ended = enarx.command("deploy", EMULATED, guest("hello"))
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n"), ended.stderr
    assert ended.stderr.startswith("enarx: " + NOTE)


def test_a_host_of_its_own_is_gone_when_the_command_is(enarx, guest, tmp_path):
    ended = enarx.with_env(TMPDIR=str(tmp_path)).command("deploy", EMULATED, guest("hello"))
    assert ended.status == 0
    assert list(tmp_path.iterdir()) == []


def test_arguments_and_environment_reach_the_workload(host, guest):
    ended = host.deploy(guest("args_env"), "--env", "A=one two", "--env", "B=\N{SNOWMAN}", "--", "x", "", "y z")
    assert (ended.status, ended.stdout.decode()) == (0, "main.wasm\nx\n\ny z\n\nA=one two\nB=\N{SNOWMAN}\n")


def test_stdin_of_several_mebibytes_comes_back_as_it_was(host, guest):
    data = os.urandom(5 << 20)
    ended = host.deploy(guest("echo"), stdin=data)
    assert ended.status == 0, ended.stderr
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(data).digest()


def test_stdin_can_be_a_file_and_stdout_too(host, guest, tmp_path):
    data = os.urandom(1 << 20)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        ended = host.deploy(guest("echo"), stdin=stdin.fileno(), stdout=stdout.fileno())
    assert ended.status == 0
    assert (tmp_path / "out").read_bytes() == data


def test_a_package_travels_with_its_directories(host, guest, tmp_path):
    package = tmp_path / "app"
    (package / "data").mkdir(parents=True)
    (package / "main.wasm").write_bytes(guest("cat_file").read_bytes())
    (package / "Enarx.toml").write_text('args = ["/data/a"]\n[[dirs]]\nhost = "data"\nguest = "/data"\n')
    (package / "data" / "a").write_text("from the package\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b").write_text("from --dir\n")
    ended = host.deploy(package)
    assert (ended.status, ended.stdout) == (0, b"from the package\n"), ended.stderr
    ended = host.deploy(package, "--dir", f"{tmp_path}/more::/more::ro", "--", "/more/b")
    assert (ended.status, ended.stdout) == (0, b"from --dir\n"), ended.stderr


@pytest.mark.parametrize("status", [0, 7, 99])
def test_passes_on_the_workloads_own_status(host, guest, status):
    assert host.deploy(guest("exitcode"), "--", status).status == status


def test_ends_with_99_and_says_so_when_a_status_could_be_taken_for_ours(host, guest):
    ended = host.deploy(guest("exitcode"), "--", 130)
    assert ended.status == 99
    assert "ended with status 130" in ended.stderr


def test_a_trap_names_the_functions_it_went_through(host, guest):
    ended = host.deploy(guest("trap_named"))
    assert ended.status == 134
    trap = ended.stderr[ended.stderr.index("enarx: workload trapped: ") :]
    assert "unreachable" in trap.splitlines()[0]
    assert "!innermost_function" in trap


def test_a_published_port_is_served_by_the_workload(host, guest, free_port):
    with host.start("--listen", f"echo=tcp:{free_port}", "--allow-plaintext", "echo", guest("tcp_echo")) as started:
        started.until_stderr(rb"EMULATED .* port %d is echo" % free_port)
        with socket.create_connection(("127.0.0.1", free_port), timeout=10) as connection:
            connection.sendall(b"through the host\n")
            assert connection.recv(100) == b"through the host\n"
        started.end(by=signal.SIGINT)


# --- Signals, detaching and coming back --------------------------------------------------------------------------------


def test_an_interrupt_ends_the_workload_with_130(host, waiting):
    with host.start(waiting) as started:
        started.until_stdout(b"ready\n")
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr


def test_an_interrupt_ends_a_loop_whenever_it_comes(host, guest):
    with host.start(guest("spin")) as started:
        started.until_stderr(NOTE.encode())
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr
    assert "ready" not in {each["host-says"]["state"] for each in host.listed().values()}


def test_a_terminal_that_closes_leaves_the_workload_running(host, waiting):
    with host.start(waiting) as started:
        started.until_stdout(b"ready\n")
        ended = started.end(by=signal.SIGHUP)
    assert ended.status == 0
    keep = re.search(r"enarx keep attach (\w+)", ended.stderr)[1]
    assert host.listed()[keep]["host-says"]["state"] == "ready"
    assert host.keep("stop", keep).status == 0


def test_attaches_again_where_output_was_left(host, guest):
    with host.start(guest("echo")) as first:
        first.send(b"one\n")
        first.until_stdout(b"one\n")
        ended = first.end(by=signal.SIGHUP)
    keep = re.search(r"enarx keep attach (\w+)", ended.stderr)[1]
    with host.start("keep", "attach", keep, "--on", host.url) as second:
        second.until_stderr(b"it is the one of the receipt")
        second.send(b"two\n")
        second.until_stdout(b"two\n")
        ended = second.end()
    assert (ended.status, ended.stdout) == (0, b"two\n"), ended.stderr
    assert "EMULATED" in ended.stderr


def test_a_second_attach_displaces_the_first(host, waiting):
    with host.start(waiting) as first:
        first.until_stdout(b"ready\n")
        keep = next(name for name, each in host.listed().items() if each["host-says"]["state"] == "ready")
        logs = host.keep("logs", keep)
        assert (logs.status, logs.stdout) == (0, b"ready\n"), logs.stderr
        ended = first.end()
    assert ended.status == 107
    assert f"lost EMULATED Keep {keep}" in ended.stderr
    assert "keep attach" in ended.stderr
    assert host.keep("stop", keep).status == 0


def test_logs_show_stops_and_lists_what_was_detached(host, waiting):
    keep = detached(host, waiting)
    logs = host.keep("logs", keep)
    assert (logs.status, logs.stdout) == (0, b"ready\n"), logs.stderr
    shown = host.keep("show", keep)
    assert shown.status == 0, shown.stderr
    text = shown.stdout.decode()
    assert "host says  ready" in text
    assert "attested   EMULATED nil Keep" in text
    assert "now, " in text
    document = host.listed()[keep]
    assert document["attested"]["emulated"] is True
    assert document["attested"]["pristine"] is True
    stopped = host.keep("stop", keep, "--grace", "1s")
    assert stopped.status == 0, stopped.stderr
    assert host.listed()[keep]["host-says"]["state"] != "ready"


FLOOD = (
    '(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    ' (memory (export "memory") 2) (data (i32.const 0) "\\08\\00\\00\\00\\00\\00\\01\\00")'
    ' (func (export "_start") (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 70000)))'
    " (br $again))))"
)


def test_a_workload_that_writes_without_end_is_read_attached_and_stopped(host, tmp_path):
    module = tmp_path / "flood.wat"
    module.write_text(FLOOD)
    keep = detached(host, module)
    logs = host.keep("logs", keep)
    assert logs.status == 0, logs.stderr
    assert len(logs.stdout) > 65536
    assert "bytes of output are gone from the log" in logs.stderr
    with host.start("keep", "attach", keep, "--on", host.url) as started:
        started.until_stdout(bytes(100_000))
        ended = started.end(by=signal.SIGHUP)
    assert ended.status == 0, ended.stderr
    stopped = host.keep("stop", keep)
    assert stopped.status == 0, stopped.stderr
    assert host.listed()[keep]["host-says"]["state"] == "ended"


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_who_reads_the_log_of_a_workload_that_ended_leaves_its_status_to_who_attaches(host, guest, follow):
    keep = detached(host, guest("exitcode"), "--", 7)
    assert host.keep("logs", keep, "--follow").status == 0
    assert host.keep("logs", keep, *follow).status == 0
    assert host.keep("attach", keep, stdin=b"").status == 7
    assert host.listed()[keep]["host-says"]["state"] == "ended"


def test_the_host_can_be_told_to_kill_a_keep_whose_key_is_lost(host, waiting, tmp_path):
    keep = detached(host, waiting)
    elsewhere = Host(url=host.url, enarx=host.enarx.with_env(XDG_STATE_HOME=str(tmp_path)))
    elsewhere.keep("stop", keep).refused(2, "found no such file", "--kill")
    assert elsewhere.keep("stop", keep, "--kill").status == 0
    assert host.listed()[keep]["host-says"]["state"] != "ready"


# --- Receipts ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def receipt(host, guest, tmp_path_factory):
    path = tmp_path_factory.mktemp("receipts") / "receipt.json"
    assert host.deploy("--receipt", path, guest("hello")).status == 0
    return path


def test_a_receipt_is_judged_again_offline(host, receipt, guest):
    assert receipt.stat().st_mode & 0o777 == 0o600
    ended = host.enarx.command("attest", "verify", receipt)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.startswith(b"accepted: receipt of EMULATED Keep ")
    assert hashlib.sha256(guest("hello").read_bytes()).hexdigest().encode() in ended.stdout
    document = json.loads(host.enarx.command("attest", "verify", receipt, "--json").stdout)
    assert (document["verdict"], document["emulated"], document["remarks"]) == ("accepted", True, [])


def test_a_receipt_is_not_accepted_by_a_policy_of_ones_own(host, receipt, tmp_path):
    policy = tmp_path / "policy.toml"
    text = json.loads(receipt.read_text())["policy"]
    import base64

    policy.write_bytes(base64.b64decode(text))
    ended = host.enarx.command("attest", "verify", receipt, "--policy", policy)
    assert ended.status == 104, ended.stderr


@pytest.mark.parametrize("member", ["exporter", "challenge", "keep-leaf", "receipt", "offer"])
def test_a_receipt_that_was_edited_is_refused(host, receipt, tmp_path, member):
    import base64

    document = json.loads(receipt.read_text())
    data = bytearray(base64.b64decode(document[member]))
    at = bytes(data).find(b"nonce") + 12 if member == "challenge" else len(data) // 3
    if member in {"receipt", "offer"}:
        at = bytes(data).find(b"package" if member == "receipt" else b"hpke-key") + 14
    data[at] ^= 1
    document[member] = base64.b64encode(data).decode()
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(document, indent=1))
    assert host.enarx.command("attest", "verify", edited).status in {103, 104}


# --- Refusals ----------------------------------------------------------------------------------------------------------


def test_an_emulated_platform_is_refused_unless_it_is_accepted_by_name(host, guest):
    before = host.listed()
    ended = host.enarx.command("deploy", "--to", host.url, guest("hello"))
    assert (ended.status, ended.stdout) == (104, b"")
    assert "EMULATED" in ended.stderr
    assert "--insecure-accept-emulated" in ended.stderr
    assert all(each["host-says"]["state"] != "ready" for name, each in host.listed().items() if name not in before)


def test_a_root_that_is_another_one_is_refused(host, guest):
    ended = host.enarx.command("deploy", "--to", host.url, f"{EMULATED}={'00' * 32}", guest("hello"))
    assert (ended.status, ended.stdout) == (104, b"")


def test_a_policy_that_refuses_names_every_finding_and_releases_nothing(host, receipt, guest, tmp_path):
    import base64

    text = base64.b64decode(json.loads(receipt.read_text())["policy"]).decode()
    policy = tmp_path / "policy.toml"
    keys = ".local/state/enarx/keeps/*/*/key.pem"
    before = set(Path(host.enarx.env["HOME"]).glob(keys))
    text = re.sub(r"(?m)^measurement = .*$", f'measurement = ["{"ab" * 48}"]', text)
    policy.write_text(re.sub(r"(?m)^vmpl = .*$", "vmpl = [3]", text))
    ended = host.deploy("--policy", policy, guest("hello"))
    assert (ended.status, ended.stdout) == (105, b""), ended.stderr
    assert "snp.measurement" in ended.stderr
    assert "snp.vmpl" in ended.stderr
    assert set(Path(host.enarx.env["HOME"]).glob(keys)) == before


def test_a_host_that_is_not_there_is_named(enarx, guest, free_port):
    ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{free_port}", guest("hello"))
    ended.refused(107, f"http://127.0.0.1:{free_port}", "connection refused")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-Server\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!",
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n\x1b[2J",
    ],
)
def test_a_port_that_is_somebody_elses_is_no_host(enarx, guest, answer):
    with socket.create_server(("127.0.0.1", 0)) as server, _answering(server, answer):
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{server.getsockname()[1]}", guest("hello"))
    ended.refused(107, "cannot understand the host", "want ")


@contextlib.contextmanager
def _answering(server, answer):
    import threading

    def work():
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    server.close()
    thread.join(10)


def test_a_token_never_goes_over_a_network_in_the_clear(enarx, guest):
    ended = enarx.with_env(ENARX_HOST_TOKEN="not-to-be-told").command(
        "deploy", "--to", "http://keeps.example", guest("hello")
    )
    ended.refused(102, "cannot send the token", "https://")
    assert "not-to-be-told" not in ended.stderr


def test_plaintext_sockets_have_to_be_allowed_by_name(enarx, guest):
    ended = enarx.command("deploy", "--listen", "web=tcp:0", guest("listen"))
    ended.refused(102, "socket web", "--allow-plaintext web")


def test_a_link_does_not_travel(enarx, guest, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("/etc/passwd")
    ended = enarx.command("deploy", "--dir", f"{tmp_path}/data::/data", guest("hello"))
    ended.refused(102, "symbolic link")


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("/no/such.wasm",), 102, "No such file"),
        (("--detach", "HELLO"), 102, "--to"),
        (("--to", "ftp://x", "HELLO"), 102, "ftp"),
        (("--to", "http://a:b@c", "HELLO"), 102, "want https://"),
        (("--token-file", "/no/such", "--to", "http://127.0.0.1:1", "HELLO"), 102, "/no/such"),
        ((f"{EMULATED}=xyz", "HELLO"), 102, "64 hex digits"),
        (("--policy", "/no/such", "HELLO"), 102, "/no/such"),
    ],
)
def test_what_was_typed_wrongly_is_said_in_one_line(enarx, guest, arguments, status, word):
    ended = enarx.command("deploy", *(guest("hello") if each == "HELLO" else each for each in arguments))
    ended.refused(status, word)


def test_a_module_that_is_none_is_refused_as_by_run(host, tmp_path):
    (tmp_path / "text.wasm").write_text("hello")
    ended = host.deploy(tmp_path / "text.wasm")
    assert (ended.status, ended.stdout) == (103, b""), ended.stderr


def test_a_loop_ends_at_its_time_limit(host, guest):
    ended = host.deploy("--timeout", "1s", guest("spin"))
    assert ended.status == 109, ended.stderr
    assert "1 s" in ended.stderr


def test_a_flood_ends_at_its_limit_of_output(host, guest):
    ended = host.deploy("--output", "3MiB", guest("flood"))
    assert ended.status == 109, ended.stderr
    assert len(ended.stdout) == 3 << 20
