# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import time

import pytest

from enarx.host.probes.kvm import ask_kvm

# Says what a child says, then does what a device may do to it.
SCRIPT = "import os, signal, sys; os.write(1, {said!r}); {then}"


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "kvm"
    path.write_bytes(b"")
    return path


def ask(device, said, then="sys.exit()", timeout_s=20.0):
    program = (sys.executable, "-I", "-S", "-c", SCRIPT.format(said=said, then=then))
    return ask_kvm(device, has_cpuid=True, timeout_s=timeout_s, program=program)


def test_a_missing_device_starts_no_child(tmp_path):
    answer = ask_kvm(tmp_path / "kvm", has_cpuid=True, program=("this program does not exist",))
    assert (answer.exists, answer.opened, answer.stopped) == (False, False, "not there")


def test_a_device_that_cannot_be_looked_at_says_why(tmp_path):
    (tmp_path / "kvm").symlink_to("kvm")
    assert ask_kvm(tmp_path / "kvm", has_cpuid=True).stopped == "too many levels of symbolic links"


def test_a_file_that_is_not_kvm_fails_at_the_first_call(device):
    answer = ask_kvm(device, has_cpuid=True)
    assert answer.opened
    assert answer.api_version is None
    assert answer.stopped == "KVM_GET_API_VERSION: inappropriate ioctl for device"


def test_a_directory_in_its_place_does_not_open(tmp_path):
    answer = ask_kvm(tmp_path, has_cpuid=False)
    assert (answer.exists, answer.opened, answer.stopped) == (True, False, "open: is a directory")


def test_a_working_device_answers_everything(device):
    said = (
        b"begin open\nbegin KVM_GET_API_VERSION\napi 12\nbegin KVM_GET_SUPPORTED_CPUID\n"
        b"cpuid 2147483679 0 31 51 1006 100\nbegin KVM_CREATE_VM\nend\n"
    )
    answer = ask(device, said)
    assert answer.created_vm
    assert answer.api_version == 12
    assert answer.cpuid == {(0x8000001F, 0): (31, 51, 1006, 100)}
    assert answer.stopped is None


def test_a_device_that_hangs_is_left_in_time_and_the_step_is_named(device):
    said = b"begin open\nbegin KVM_GET_API_VERSION\napi 12\nbegin KVM_CREATE_VM\n"
    started = time.monotonic()
    answer = ask(device, said, then="signal.pause()", timeout_s=1.0)
    assert time.monotonic() - started < 10
    assert answer.opened
    assert answer.api_version == 12
    assert not answer.created_vm
    assert answer.stopped == "KVM_CREATE_VM gave no answer within 1 s, so the child process that asked was killed"


def test_a_child_that_ignores_signals_is_killed_too(device):
    then = "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; signal.pause()"
    answer = ask(device, b"begin open\n", then=then, timeout_s=1.0)
    assert answer.stopped == "open gave no answer within 1 s, so the child process that asked was killed"
    assert not answer.opened


def test_a_child_that_will_not_go_is_left_behind_in_time(device):
    # A descendant that keeps the pipe open stands for a process that the kernel cannot end; it ends itself by its alarm.
    then = "os.fork(); signal.alarm(8); signal.pause()"
    started = time.monotonic()
    answer = ask(device, b"begin open\nbegin KVM_CREATE_VM\n", then=then, timeout_s=1.0)
    assert time.monotonic() - started < 6
    assert answer.stopped == "KVM_CREATE_VM gave no answer within 1 s, so the child process that asked was killed"


def test_a_child_that_dies_is_not_a_yes(device):
    answer = ask(device, b"begin open\nbegin KVM_CREATE_VM\nen", then="os.kill(os.getpid(), 9)")
    assert not answer.created_vm
    assert answer.stopped == "the child process that asks died at KVM_CREATE_VM"


def test_a_child_that_cannot_start_is_said(device):
    answer = ask_kvm(device, has_cpuid=True, program=("/nonexistent/program",))
    assert answer.exists
    assert answer.stopped == "the child process that asks could not start: no such file or directory"
