# SPDX-License-Identifier: Apache-2.0
"""What a tenant entrusts to a Keep is found nowhere else: not in what its host stores, logs or relays, not in any title of a process.

A canary of its own is in the package, the arguments, the environment and the standard input, and so in the output. Everything the
host has and everything that passes it is searched for them (`tests.canary`) while the workload runs, after the host and the Keep
were killed, and after the end. A socket of `prot = "tcp"` is what the same search does find.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.between import Between, until
from tests.canary import make_canary, read_all, search, unmasked
from tests.integration.test_deploy import Host

FILES_OF_A_PROCESS = ("cmdline", "environ", "comm", "status", "maps", "mountinfo")


@pytest.fixture
def allowed_cores():
    """Let processes that are started here write cores, if they do not forbid it themselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture
def between(enarx, allowed_cores):
    with Between(enarx.env) as running:
        yield running


@pytest.fixture
def tenant(between, enarx):
    return Host(url=between.url, enarx=enarx)


@pytest.fixture
def canaries():
    return {name: make_canary() for name in ("package", "arguments", "environment", "stdin")}


def package_with(canary, guest, folder):
    """Make a package: a module that has the canary in a custom section, and an Enarx.toml that has it too."""
    payload = b"\x06canary" + canary.encode()
    folder.mkdir()
    (folder / "main.wasm").write_bytes(guest.read_bytes() + b"\0" + bytes([len(payload)]) + payload)
    (folder / "Enarx.toml").write_text(f'[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\nname = "{canary}"\n')
    return folder


def children(pid):
    """Return what a process has started, whichever of its threads did."""
    listed = read_all(Path(f"/proc/{pid}/task").glob("*/children")).values()
    return [int(each) for each in b" ".join(listed).split()]


def processes(between):
    """Return the processes of the host, its Keeps and their workloads."""
    keeps = between.keep_pids()
    return [between.pid, *keeps, *(child for keep in keeps for child in children(keep))]


def titles(pids):
    """Return what a list of processes shows of them, and what their descriptors are called."""
    shown = read_all(f"/proc/{pid}/{name}" for pid in pids for name in FILES_OF_A_PROCESS)
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            shown[str(fd)] = os.fsencode(os.readlink(fd)) if fd.is_symlink() else b""
    return shown


def everything(between):
    """Return all that a host has and sees, by where it is."""
    relayed = {name: bytes(data) for name, data in between.recorded.items()}
    said = {f"{name} unmasked": unmasked(data) for name, data in relayed.items() if name.startswith("http")}
    return {**between.stored(), "log": between.log, **relayed, **said}


def require_nowhere(canaries, places):
    found = {name: search(canary, places) for name, canary in canaries.items()}
    assert not any(found.values()), found


def cores():
    """Return core files, where the kernel would write them for processes of ours."""
    return {str(path) for folder in ("/", os.getcwd()) for path in Path(folder).glob("core*") if path.is_file()}


def end(pid, number):
    """Send a signal to a process until it has ended: an engine that waits for faults of its own lets a first one pass."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
        if not select.select([pidfd], [], [], 0.2)[0]:
            signal.pidfd_send_signal(pidfd, number)
        assert select.select([pidfd], [], [], 30)[0], f"{pid} lives"
    finally:
        os.close(pidfd)


def test_canaries_are_nowhere_but_where_they_belong(between, tenant, canaries, guest, tmp_path):
    package = package_with(canaries["package"], guest("echo"), tmp_path / "app")
    options = ("--env", f"NAME={canaries['environment']}", package, "--", canaries["arguments"])
    before = cores()
    with tenant.start(*options) as started:
        started.send(canaries["stdin"].encode() + b"\n")
        started.until_stdout(canaries["stdin"].encode())
        (keep,) = between.keep_pids()
        (workload,) = children(keep)
        # What runs has them, so that there is something to be found.
        assert canaries["package"].encode() in Path(f"/proc/{workload}/fd/{module_fd(workload)}").read_bytes()
        running = {**everything(between), **titles(processes(between))}
        assert any(name.endswith("/cmdline") for name in running)
        assert any(re.search("/blobs/[0-9a-f]{64}$", name) for name in running)
        require_nowhere(canaries, running)

        between.kill_host()
        require_nowhere(canaries, everything(between))
        assert started.end().status == 107
    between.start()
    require_nowhere(canaries, {**everything(between), **titles(processes(between))})

    # Neither writes a core, whatever it is told to die of.
    end(workload, signal.SIGSEGV)
    end(keep, signal.SIGABRT)
    until(lambda: not list((between.state / "keeps").iterdir()), "the Keep to be forgotten")
    assert cores() == before
    require_nowhere(canaries, everything(between))

    # A Keep that is killed while its workload runs.
    with tenant.start(*options) as started:
        started.send(canaries["stdin"].encode())
        started.until_stdout(canaries["stdin"].encode())
        (keep,) = between.keep_pids()
        folder = next((between.state / "keeps").iterdir())
        kept = tmp_path / "kept"
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("link"))
        end(keep, signal.SIGKILL)
        require_nowhere(canaries, everything(between))
        assert started.end().status == 107

    # One that ends as it should.
    ended = tenant.deploy(*options, stdin=canaries["stdin"].encode())
    assert (ended.status, ended.stdout) == (0, canaries["stdin"].encode()), ended.stderr
    until(lambda: not between.keep_pids(), "the Keep's end")
    require_nowhere(canaries, {**everything(between), **read_all(kept.rglob("*")), **titles(processes(between))})


def module_fd(pid):
    """Return under which number a workload process has its module."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if "memfd:main.wasm" in os.readlink(f"/proc/{pid}/fd/{fd}"):
            return fd
    raise AssertionError("found no module")


def test_arguments_and_environment_are_canaries_too(between, tenant, canaries, guest, tmp_path):
    """The control of the control: this workload shows what it was given, and no more than its tenant sees it."""
    package = package_with(canaries["package"], guest("args_env"), tmp_path / "app")
    ended = tenant.deploy("--env", f"NAME={canaries['environment']}", package, "--", canaries["arguments"])
    assert ended.status == 0, ended.stderr
    assert canaries["arguments"].encode() in ended.stdout
    assert canaries["environment"].encode() in ended.stdout
    require_nowhere(canaries, everything(between))


def test_what_a_process_shows_is_found():
    """The control of titles: somebody was careless with an argument and a variable."""
    argument, variable = make_canary(), make_canary()
    command = [sys.executable, "-I", "-S", "-c", "print(flush=True); input()", argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"NAME": variable}) as careless:
        # A process that has just begun has no title yet.
        assert careless.stdout.readline() == b"\n"
        shown = titles([careless.pid])
        careless.communicate(b"\n")
    assert search(argument, shown) == {(f"/proc/{careless.pid}/cmdline", "raw")}
    assert search(variable, shown) == {(f"/proc/{careless.pid}/environ", "raw")}


def test_what_passes_a_plaintext_socket_is_found(between, tenant, guest):
    inside, outside = make_canary(), make_canary()
    options = ("--listen", "listen=tcp:0", "--allow-plaintext", "listen", "--env", f"A={inside}", guest("tcp_echo"))
    with tenant.start(*options) as started:
        port = int(started.until_stderr(rb"port (\d+) is listen")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(outside.encode())
            received = b""
            while len(received) < len(outside):
                received += peer.recv(100)
        assert received == outside.encode()
        places = everything(between)
        found = search(outside, places)
        assert {name for _, name in found} == {"raw"}
        assert {place.rpartition(" ")[0] for place, _ in found} == {"link to", "link from"}
        require_nowhere({"environment": inside}, places)
        started.end(by=signal.SIGINT)


# --- Core dumps --------------------------------------------------------------------------------------------------------


def test_a_process_that_gives_up_nothing_does_write_a_core(allowed_cores, tmp_path):
    """Or the tests here that find none mean nothing."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    if pattern.startswith(("|", "/")) or not resource.getrlimit(resource.RLIMIT_CORE)[1]:
        pytest.skip(f"cores are not written where a process works: {pattern}")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path) as child:
        end(child.pid, signal.SIGSEGV)
    assert list(tmp_path.glob("core*"))


def is_closed(pid):
    """Return whether a Python process is closed to others of its user: then its files in /proc are the superuser's.

    The command that makes it another user's is, for a moment.
    """
    return "python" in os.readlink(f"/proc/{pid}/exe") and os.stat(f"/proc/{pid}/environ").st_uid == 0


@pytest.fixture
def somebody():
    """How to begin a command that is to be another user's than the superuser's, whose files in /proc are his own always."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv of util-linux is not installed")
    # That user may not see where Python is.
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reading]


def test_a_process_that_gives_up_nothing_is_open(somebody):
    command = [*somebody, sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        until(lambda: "python" in os.readlink(f"/proc/{child.pid}/exe"), "Python")
        closed = is_closed(child.pid)
        child.communicate(b"\n")
    assert not closed


def test_a_keep_is_closed_to_its_user(somebody):
    from enarx.host.launchers.nil import KEEP_PROGRAM

    limits = ("--memory", str(1 << 30), "--package-limit", str(1 << 20), "--log", str(1 << 18))
    with socket.socket(socket.AF_UNIX) as link:
        link.bind("\0" + make_canary())
        link.listen()
        command = [*somebody, sys.executable, "-I", "-S", KEEP_PROGRAM, "--backend", "nil", *limits]
        command += ["--link-fd", str(link.fileno())]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, pass_fds=(link.fileno(),), cwd="/", **pipes) as keep:
            said = keep.stdout.readline()
            closed, limits = is_closed(keep.pid), Path(f"/proc/{keep.pid}/limits").read_text(encoding="ascii")
            end(keep.pid, signal.SIGABRT)
        assert (said, closed) == (b"enarx keep: ready\n", True)
        assert re.search(r"(?m)^Max core file size +0 +0 ", limits)
        assert keep.returncode == -signal.SIGABRT


def test_a_workload_process_is_closed_to_its_user(somebody):
    from enarx.keep.workload_start import CONTROL_FD, workload_command

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = f"import os, sys; os.dup2({theirs.fileno()}, {CONTROL_FD}); os.execv(sys.argv[1], sys.argv[1:])"
    first = [*somebody, sys.executable, "-I", "-S", "-c", program]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with (
        ours,
        subprocess.Popen([*first, *workload_command()], pass_fds=(theirs.fileno(),), **pipes) as workload,
    ):
        theirs.close()
        until(lambda: workload.poll() is not None or is_closed(workload.pid), "it to close itself")
        end(workload.pid, signal.SIGSEGV)
    assert workload.returncode == -signal.SIGSEGV
