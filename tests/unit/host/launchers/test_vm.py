# SPDX-License-Identifier: Apache-2.0
"""A machine is started, watched, adopted and ended, and says why it ended; QEMU is a fake one."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from enarx.errors import KeepError, PlatformError
from enarx.host.launchers import KeepSpec
from enarx.host.launchers import vm as vm_module
from enarx.host.launchers.guard import ENDING_BYTES, MAX_CONSOLE_BYTES
from enarx.host.launchers.swtpm import TpmSeed
from enarx.host.launchers.vm import GUARD_PROGRAM, VmLauncher, machine_bytes
from enarx.host.process_facts import children_of, find_marked, has_ended, open_process
from enarx.image import store

FAKE = Path(__file__).parents[3] / "fake_qemu.py"
WAIT_S = 30.0


class Host:
    """A launcher with a fake QEMU, and the Keeps that it started."""

    def __init__(self, folder, monkeypatch):
        self.top = folder
        self.program = folder / "program"
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} "$@"\n')
        self.program.chmod(0o755)
        self.image = folder / "image"
        self.image.mkdir()
        for name in ("initramfs", "vm.fd"):
            (self.image / name).write_bytes(b"")
        seed = folder / "seed"
        seed.mkdir()
        (seed / "tpm2-00.permall").write_bytes(b"state")
        monkeypatch.setattr(store, "open_image", self.open_image)
        monkeypatch.setattr(vm_module, "open_seed", lambda: TpmSeed(str(seed), "00" * 32))
        # The interpreter of the fake may be where another user cannot reach it.
        monkeypatch.setattr(vm_module, "_user_of", lambda identifier: None)
        self.running = []

    def open_image(self, name):
        return SimpleNamespace(
            name=name,
            arch=os.uname().machine,
            kernel=str(self.image / "kernel"),
            initramfs=str(self.image / "initramfs"),
            firmware={"vm": str(self.image / "vm.fd")},
            cmdline="quiet",
        )

    def launcher(self, **options):
        options = {"find_program": lambda name: str(self.program), "boot_s": WAIT_S, **options}
        launcher = VmLauncher("vm", **options)
        launcher._accelerator = "tcg"
        return launcher

    def start(self, does, launcher=None, **options):
        (self.image / "kernel").write_text(does)
        launcher = launcher if launcher is not None else self.launcher(**options)
        identifier = secrets.token_hex(8)
        folder = self.top / identifier
        folder.mkdir()
        spec = KeepSpec(id=identifier, memory_bytes=1 << 20, package_bytes=1 << 20, log_bytes=1 << 16)
        launched = launcher.start(spec, str(folder))
        self.running.append(launched)
        return launcher, launched, folder

    def end(self):
        for launched in self.running:
            if not has_ended(launched.pidfd):
                signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
            wait_end(launched)


@pytest.fixture
def host(tmp_path, monkeypatch):
    if os.uname().machine != "x86_64":
        pytest.skip("the table's row for this architecture has another firmware")
    host = Host(tmp_path, monkeypatch)
    yield host
    host.end()


def wait_end(launched):
    """Wait for a guard to end, and for the machine of one that was killed."""
    children = [open_child(pid) for pid in children_of(launched.pid)]
    for pidfd in (launched.pidfd, *(child for child in children if child is not None)):
        until(lambda pidfd=pidfd: has_ended(pidfd))
    for child in children:
        if child is not None:
            os.close(child)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1])
    except ChildProcessError:
        return None


def open_child(pid):
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def until(condition):
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def console(folder):
    return (folder / "console").read_bytes()


def booted(folder):
    until(lambda: b"enarx keep: ready" in console(folder))


def child(launched, name):
    """Return the pid of QEMU or swtpm beside a guard, once it is that program."""

    def found():
        for pid in children_of(launched.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if str(FAKE).encode() in words and (b"socket" in words) == (name == "swtpm"):
                return pid
        return None

    until(found)
    return found()


# --- Beginning and ending


@pytest.mark.parametrize(("memory_mib", "machine_mib"), [(1, 480), (32, 480), (33, 512), (1024, 1472)])
@pytest.mark.parametrize(("accelerator", "more_mib"), [("kvm", 96), ("tcg", 96 + 256)])
def test_a_machine_takes_what_it_has_and_not_only_what_its_workload_may(memory_mib, machine_mib, accelerator, more_mib):
    launcher = VmLauncher("vm")
    launcher._accelerator = accelerator
    assert launcher.reserved_bytes(memory_mib << 20, 512 << 20) == (machine_mib + more_mib) << 20


@pytest.mark.parametrize(("evidence", "key"), [("vtpm", "00" * 32), ("emulated-snp", None)])
def test_the_key_of_a_machines_tpm_is_told_where_it_has_one(host, monkeypatch, evidence, key):
    monkeypatch.setattr(vm_module, "EmulatedPlatform", lambda **_: SimpleNamespace(open=lambda: None))
    assert host.start("boot", evidence=evidence)[1].tpm_key_sha256 == key


def test_a_machine_boots_carries_the_link_and_ends_when_it_is_told_to(host):
    launcher, launched, folder = host.start("boot")
    with launcher.connect(str(folder)) as link:
        link.setblocking(True)
        link.settimeout(WAIT_S)
        link.sendall(b"hello")
        assert link.recv(5) == b"hello"
    children = children_of(launched.pid)
    assert len(children) == 2
    launcher.stop(launched, at_once=False)
    assert wait_end(launched) == 0
    assert json.loads((folder / "ending").read_bytes())["kind"] == "stopped"
    assert launcher.explain(str(folder)) is None
    assert not [pid for pid in children if open_child(pid)]


def test_what_is_killed_at_once_takes_its_machine_with_it(host):
    launcher, launched, folder = host.start("boot")
    booted(folder)
    held = [os.pidfd_open(pid) for pid in children_of(launched.pid)]
    launcher.stop(launched, at_once=True)
    for pidfd in held:
        until(lambda pidfd=pidfd: has_ended(pidfd))
        os.close(pidfd)
    assert wait_end(launched) == -signal.SIGKILL
    assert launcher.explain(str(folder)) is None


def test_a_machine_that_switches_itself_off_is_no_error(host):
    launcher, launched, folder = host.start("off")
    assert wait_end(launched) == 0
    assert launcher.explain(str(folder)) is None
    assert console(folder).endswith(b"enarx keep: ready\r\n")


def test_ten_machines_in_a_row_leave_nothing(host):
    launcher = host.launcher()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(10):
        _, launched, folder = host.start("boot", launcher)
        booted(folder)
        launcher.stop(launched, at_once=False)
        wait_end(launched)
        launcher.explain(str(folder))
        os.close(launched.pidfd)
        host.running.remove(launched)
        assert not find_marked(f"-Xenarx-keep={folder.name}".encode())
        assert not find_marked(f"keep-{folder.name}".encode())
    assert set(os.listdir("/proc/self/fd")) == before
    assert not launcher._launched


def test_another_host_takes_a_machine_over(host):
    _, launched, folder = host.start("boot")
    booted(folder)
    other = host.launcher()
    adopted = other.adopt(folder.name, launched.pid, launched.start_ticks)
    assert adopted.pid == launched.pid
    with other.connect(str(folder)) as link:
        link.setblocking(True)
        link.settimeout(WAIT_S)
        link.sendall(b"again")
        assert link.recv(5) == b"again"
    other.stop(adopted, at_once=False)
    until(lambda: has_ended(adopted.pidfd))
    os.close(adopted.pidfd)
    assert host.launcher().adopt(folder.name, launched.pid, launched.start_ticks) is None


def test_a_machine_whose_pid_was_never_recorded_is_found_and_ended(host):
    _, launched, folder = host.start("boot")
    booted(folder)
    held = os.pidfd_open(child(launched, "QEMU"))
    host.launcher().stop_strays(folder.name)
    until(lambda: has_ended(launched.pidfd) and has_ended(held))
    os.close(held)


def test_a_machine_that_is_private_ends_with_its_host(host, tmp_path):
    code = (
        "import sys, time; sys.path[:0] = {path!r}; sys.argv = ['x']\n"
        "import _pytest.monkeypatch, pathlib\n"
        "sys.path.insert(0, {here!r}); import test_vm\n"
        "host = test_vm.Host(pathlib.Path({top!r}), _pytest.monkeypatch.MonkeyPatch())\n"
        "launcher, launched, folder = host.start('boot', dies_with_host=True)\n"
        "test_vm.booted(folder); print(launched.pid, launched.start_ticks, flush=True); sys.stdin.read()\n"
    ).format(path=sys.path, here=str(Path(__file__).parent), top=str(tmp_path / "inner"))
    (tmp_path / "inner").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid, ticks = map(int, parent.stdout.readline().split())
    guard = open_process(pid, ticks)
    parent.kill()
    parent.communicate()
    until(lambda: has_ended(guard))
    os.close(guard)


# --- Failures, each with its error


def explained(host, does, **options):
    launcher, launched, folder = host.start(does, **options)
    begun = time.monotonic()
    assert wait_end(launched) == 0
    assert time.monotonic() - begun < 15
    return launcher.explain(str(folder)), folder


def test_a_boot_that_never_gets_ready_is_ended_with_the_end_of_its_console(host):
    error, _ = explained(host, "silent", boot_s=1.0)
    assert type(error) is KeepError
    assert "found no 'enarx keep: ready' in 1 s" in str(error)
    assert str(error).endswith("it said last: BdsDxe: starting Boot0002")
    assert "enarx image verify" in error.hint


def test_a_guest_that_ends_before_it_is_ready_did_not_start(host):
    error, _ = explained(host, "off-early")
    assert type(error) is KeepError
    assert "found that it ended by itself" in str(error)
    assert "No working init found" in str(error)


def test_qemu_that_cannot_start_for_want_of_memory_is_this_machines_fault(host):
    error, _ = explained(host, "refuse")
    assert type(error) is PlatformError
    assert "found status 1; it said last: qemu-system-x86_64: cannot set up guest memory" in str(error)
    assert error.hint == "ask for less memory, or end other Keeps"


def test_qemu_that_is_killed_is_said(host):
    launcher, launched, folder = host.start("boot")
    booted(folder)
    os.kill(child(launched, "QEMU"), signal.SIGKILL)
    wait_end(launched)
    error = launcher.explain(str(folder))
    assert type(error) is KeepError
    assert str(error) == "the Keep ended: QEMU: found it killed by signal 9, want it to run"


def test_qemu_that_is_killed_for_want_of_memory_is_said(host, monkeypatch, tmp_path):
    from enarx.host.launchers import guard

    counts = iter([1, 2])
    monkeypatch.setattr(guard, "_oom_kills", lambda: next(counts))
    watcher = guard.Guard.__new__(guard.Guard)
    watcher._oom_kills = next(counts)
    assert watcher._short_of_memory(-signal.SIGKILL) == ", as this machine ran out of memory"


def test_swtpm_that_is_killed_ends_the_keep(host):
    launcher, launched, folder = host.start("boot")
    booted(folder)
    os.kill(child(launched, "swtpm"), signal.SIGKILL)
    wait_end(launched)
    error = launcher.explain(str(folder))
    assert type(error) is KeepError
    assert str(error) == "the Keep ended: swtpm: found it killed by signal 9, want it to run"


@pytest.mark.parametrize("does", ["hang"])
def test_qemu_that_hangs_is_killed_in_time(host, does):
    error, _ = explained(host, does, answer_s=2.0)
    assert type(error) is KeepError
    assert "QEMU: found no answer in 2 s, so it was killed" in str(error)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("panic", "its kernel panicked"),
        ("told", "found that it was told to end (host-signal)"),
        ("state", "found its machine in state internal-error, want running"),
        ("noise", "found JSON that is no object, want QMP"),
    ],
)
def test_what_else_ends_a_machine_is_said(host, does, says):
    error, _ = explained(host, does)
    assert type(error) is KeepError
    assert says in str(error)


def test_a_console_without_end_fills_no_disk(host):
    launcher, _, folder = host.start("flood")
    until(lambda: len(console(folder)) == MAX_CONSOLE_BYTES)
    with launcher.connect(str(folder)) as link:
        link.setblocking(True)
        link.settimeout(WAIT_S)
        link.sendall(b"x")
        assert link.recv(1) == b"x"
    assert len(console(folder)) == MAX_CONSOLE_BYTES


def test_there_is_room_for_the_reason_before_the_machine_starts(host):
    _, _, folder = host.start("boot")
    assert (folder / "ending").stat().st_size == ENDING_BYTES


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{}", b'{"kind": 1, "message": 2, "hint": 3}', b"\xff", b'{"kind": "off"']
)
def test_an_ending_that_was_not_written_explains_nothing(host, tmp_path, said):
    (tmp_path / "ending").write_bytes(said)
    assert host.launcher().explain(str(tmp_path)) is None


def test_a_disk_that_is_full_is_said_before_anything_is_started(host, monkeypatch):
    monkeypatch.setattr(vm_module.os, "pwrite", lambda *_: 100)
    with pytest.raises(PlatformError, match="cannot start a machine: No space left on device"):
        host.start("boot")
    assert not host.running


# --- What is missing


@pytest.mark.parametrize(
    ("missing", "hint"),
    [("qemu-system-x86_64", "apt install qemu-system-x86"), ("swtpm", "apt install swtpm swtpm-tools")],
)
def test_a_program_that_is_missing_is_named_with_its_package(host, missing, hint):
    with pytest.raises(PlatformError, match=f"found no {missing} on PATH") as caught:
        host.start("boot", find_program=lambda name: None if name == missing else str(host.program))
    assert caught.value.hint == hint


def test_an_image_that_is_missing_is_said_with_how_it_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    launcher = VmLauncher("vm", find_program=lambda name: "/bin/true")
    launcher._accelerator = "tcg"
    with pytest.raises(PlatformError) as caught:
        launcher.start(KeepSpec(id="0" * 16, memory_bytes=1, package_bytes=1, log_bytes=1), str(tmp_path))
    assert "enarx image build" in caught.value.hint


def test_an_image_without_firmware_is_refused(host, monkeypatch):
    image = host.open_image("x")
    image.firmware = {}
    monkeypatch.setattr(store, "open_image", lambda name: image)
    with pytest.raises(PlatformError, match="found no firmware for vm"):
        host.start("boot")


def test_an_image_of_another_machine_is_refused(host, monkeypatch):
    image = host.open_image("x")
    image.arch = "sparc"
    monkeypatch.setattr(store, "open_image", lambda name: image)
    with pytest.raises(PlatformError, match="found it for sparc"):
        host.start("boot")


# --- Another architecture


@pytest.fixture
def arm_image(host, monkeypatch):
    """An image for the architecture that this machine is not."""
    image = host.open_image("arm")
    image.arch = "aarch64"
    monkeypatch.setattr(store, "open_image", lambda name: image)
    return image


def test_an_image_of_another_architecture_is_emulated_where_that_is_wanted(host, arm_image, monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        return str(host.program)

    launcher = host.launcher(foreign=True, find_program=find, boot_s=None)
    # As on a machine where KVM works.
    launcher._accelerator = "kvm"
    assert launcher.start_timeout_s == vm_module.BOOT_S["kvm"] + 10
    words = launcher.command(KeepSpec(id="0" * 16, memory_bytes=1 << 20, package_bytes=1, log_bytes=1))
    assert asked == ["qemu-system-aarch64", "swtpm"]
    assert words[words.index("-machine") + 1] == "virt,gic-version=3"
    assert words[words.index("-accel") + 1].startswith("tcg")
    assert words[-1] == "tpm-tis-device,tpmdev=vtpm"
    assert launcher.start_timeout_s == vm_module.BOOT_S["tcg"] + 10


def test_its_keep_starts_like_every_other(host, arm_image):
    _, _, folder = host.start("boot", foreign=True)
    booted(folder)


def test_its_qemu_is_named_with_its_package(host, arm_image):
    find = {"swtpm": str(host.program)}.get
    with pytest.raises(PlatformError, match="found no qemu-system-aarch64 on PATH") as caught:
        host.start("boot", foreign=True, find_program=find)
    assert caught.value.hint == "apt install qemu-system-arm"


def test_it_is_refused_where_nobody_asked_to_emulate(host, arm_image):
    with pytest.raises(PlatformError, match="image arm: found it for aarch64, want x86_64") as caught:
        host.start("boot")
    assert caught.value.hint == "enarx host serve --experimental emulates it"


def test_it_is_refused_for_a_backend_that_cannot_be_emulated(host, arm_image):
    launcher = VmLauncher("snp", foreign=True, find_program=lambda name: str(host.program))
    with pytest.raises(PlatformError, match="found it for aarch64, want x86_64") as caught:
        launcher.command(KeepSpec(id="0" * 16, memory_bytes=1 << 20, package_bytes=1, log_bytes=1))
    assert caught.value.hint is None


def test_it_has_no_emulated_snp_platform(host, arm_image):
    with pytest.raises(PlatformError, match="want x86_64 for the emulated SNP platform") as caught:
        host.start("boot", foreign=True, evidence="emulated-snp")
    assert caught.value.hint == "--vm-evidence vtpm"


def test_it_needs_firmware_too(host, arm_image):
    arm_image.firmware = {}
    with pytest.raises(PlatformError, match="found no firmware for vm"):
        host.start("boot", foreign=True)


# --- What the machine gets


def test_memory_is_the_workloads_and_room_and_whole_steps():
    assert machine_bytes(1) == 480 << 20
    assert machine_bytes(32 << 20) == 480 << 20
    assert machine_bytes((32 << 20) + 1) == 512 << 20


def test_qemu_gets_its_descriptors_and_no_other(host):
    _, launched, folder = host.start("boot")
    booted(folder)
    pid = child(launched, "QEMU")
    links = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert {fd for fd in links if fd > 2} >= {3, 5, 6, 7, 8, 9, 10}
    files = {fd: path for fd, path in links.items() if path.startswith("/") and "/dev/" not in path}
    assert files == {5: str(host.image / "kernel"), 6: str(host.image / "initramfs"), 7: str(host.image / "vm.fd")}
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0" in limits
    assert os.getsid(pid) == pid


def test_the_guard_is_told_where_the_host_has_a_say(host):
    _, launched, folder = host.start("boot", cpus=1)
    booted(folder)
    assert len(os.sched_getaffinity(child(launched, "QEMU"))) == 1
    words = Path(f"/proc/{launched.pid}/cmdline").read_bytes().split(b"\0")
    assert words[1:5] == [b"-I", b"-S", f"-Xenarx-keep={folder.name}".encode(), GUARD_PROGRAM.encode()]


def test_a_link_of_a_machine_that_is_gone_is_refused(host):
    launcher, launched, folder = host.start("off")
    wait_end(launched)
    with pytest.raises(OSError, match="refused"), launcher.connect(str(folder)):
        pass


def test_the_ending_is_json_that_anybody_can_read(host):
    _, launched, folder = host.start("panic")
    wait_end(launched)
    assert json.loads((folder / "ending").read_bytes())["kind"] == "KeepError"


def test_a_stream_is_no_way_to_the_platform(host):
    with pytest.raises(PlatformError, match="want the port"):
        host.launcher().report(None, bytes(64))
