# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import struct

import pytest

from enarx.host.probes import machine as machine_module
from enarx.host.probes.machine import CPUID_LEAVES, MAX_FILE_BYTES, read_cpuid, this_machine


def test_reads_only_the_first_processor(build, parts):
    cpu = build(files={"/proc/cpuinfo": parts.cpuinfo("GenuineIntel", "A: B", "vmx sgx")}).read_cpuinfo()
    assert (cpu.vendor, cpu.brand, cpu.flags) == ("GenuineIntel", "A: B", {"vmx", "sgx"})


def test_never_reads_more_than_the_limit_of_a_file(build):
    machine = build(files={"/proc/cpuinfo": "x" * (MAX_FILE_BYTES + 1)})
    assert len(machine.read_text("/proc/cpuinfo")) == MAX_FILE_BYTES


def test_a_pipe_in_the_place_of_a_file_does_not_block(build, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert build().read_text("/pipe") == ""


def test_finds_a_program_that_may_be_executed_and_no_other(build, tmp_path):
    machine = build(programs=("zstd",))
    assert machine.find_program("zstd") == "/usr/bin/zstd"
    (tmp_path / "usr/bin/zstd").chmod(0o644)
    assert machine.find_program("zstd") is None
    assert machine.find_program("swtpm") is None


def test_a_leaf_beyond_the_last_is_zero_even_if_the_cpu_repeats_another(monkeypatch, tmp_path):
    maxima = {0x0: 0xD, 0x80000000: 0x8000001F}

    def pread(fd, length, offset):
        leaf = offset & 0xFFFFFFFF
        return struct.pack("<4I", maxima.get(leaf, 7), offset >> 32, leaf, 9)

    monkeypatch.setattr(machine_module.os, "pread", pread)
    (tmp_path / "cpuid").write_bytes(b"")
    answers = read_cpuid(tmp_path / "cpuid")
    assert set(answers) == set(CPUID_LEAVES)
    assert answers[0x8000001F, 0] == (7, 0, 0x8000001F, 9)
    assert answers[0x7, 0] == (7, 0, 7, 9)
    assert all(answers[0x12, subleaf] == (0, 0, 0, 0) for subleaf in range(10))


def test_a_cpuid_device_that_says_too_little_is_refused(tmp_path):
    (tmp_path / "cpuid").write_bytes(b"short")
    with pytest.raises(OSError, match="found 5 bytes for leaf 0x0, want 16"):
        read_cpuid(tmp_path / "cpuid")


def test_relative_entries_of_the_search_path_are_left_out(monkeypatch):
    monkeypatch.setenv("PATH", ".:/usr/bin::bin")
    assert this_machine().search_path == ("/usr/bin",)


def test_a_machine_without_a_cpuid_device_says_why(monkeypatch):
    def refuse(device):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine_module, "read_cpuid", refuse)
    monkeypatch.setattr(machine_module, "ask_kvm", lambda *_, **__: None)
    found = this_machine()
    assert not found.cpuid
    assert found.cpuid_unknown
