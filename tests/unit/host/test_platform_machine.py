# SPDX-License-Identifier: Apache-2.0
"""The emulated platform measures the QEMU that runs, by its own words and files, and answers on a port."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

import pytest

from enarx.errors import DecodeError, PlatformError
from enarx.host import platform as platform_module
from enarx.host.launchers.qemu import MachineSpec, command_line
from enarx.host.platform import EmulatedPlatform, answer_port, measure_machine, parts_of_machine
from enarx.host.process_facts import start_ticks
from enarx.image import measure
from enarx.wire.platform_answer import encode_answer

WAIT_S = 20.0


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A QEMU that is this process: with its words, and with files under the numbers that it was told."""
    held = []

    def opened(name):
        (tmp_path / name).write_bytes(name.encode())
        held.append(os.open(tmp_path / name, os.O_RDONLY))
        return f"/proc/self/fd/{held[-1]}"

    words = list(
        command_line(
            MachineSpec(
                backend="vm",
                arch="x86_64",
                name="0123456789abcdef",
                accelerator="tcg",
                memory_bytes=480 << 20,
                cmdline="console=ttyS0 a b",
                has_platform=True,
            )
        )
    )
    for option, name in (("-kernel", "kernel"), ("-initrd", "initramfs"), ("-bios", "firmware")):
        words[words.index(option) + 1] = opened(name)
    monkeypatch.setattr(platform_module, "_words_of", lambda pid, ticks: words)
    asked = []
    monkeypatch.setattr(measure, "snp_launch_digest", lambda **parts: asked.append(parts) or bytes(48))
    yield words, asked, tmp_path
    for fd in held:
        os.close(fd)


def measured():
    return measure_machine(os.getpid(), start_ticks(os.getpid()))


def test_a_machine_is_measured_by_what_it_was_started_with(machine):
    _, asked, _ = machine
    assert measured() == bytes(48)
    assert asked == [
        {
            "firmware": b"firmware",
            "kernel": b"kernel",
            "initramfs": b"initramfs",
            "cmdline": "console=ttyS0 a b",
            "vcpus": 1,
            "vcpu_type": "EPYC-v3",
        }
    ]


def test_a_file_that_is_replaced_is_measured_as_the_machine_has_it(machine):
    _, asked, folder = machine
    (folder / "new").write_bytes(b"another")
    (folder / "new").rename(folder / "kernel")
    measured()
    assert asked[0]["kernel"] == b"kernel"


@pytest.mark.parametrize(
    "more",
    [
        ["-fw_cfg", "name=opt/x,string=y"],
        ["-device", "loader,file=x"],
        ["-device", "virtio-rng-pci"],
        ["-device", "virtserialport,bus=ports.0,chardev=x,name=other.0"],
        ["-drive", "file=x"],
        ["-acpitable", "file=x"],
        ["-append", "twice"],
        ["-kernel", "/proc/self/fd/0"],
        ["-smbios", "type=11,value=x"],
        ["-netdev", "user,id=n"],
        ["--nodefaults"],
        ["-S"],
        ["positional"],
        ["-name"],
        [""],
    ],
)
def test_an_option_that_is_not_a_keeps_is_refused(machine, more):
    words, asked, _ = machine
    words += more
    with pytest.raises(PlatformError, match="want only options of Keeps"):
        measured()
    assert not asked


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-cpu", "host"),
        ("-cpu", "EPYC,+sgx"),
        ("-machine", "q35,vmport=off,firmware=x"),
        ("-machine", "microvm"),
        ("-kernel", "/boot/vmlinuz"),
        ("-smp", "1,maxcpus=4"),
        ("-m", "1G,slots=2"),
        ("-serial", "stdio"),
    ],
)
def test_a_value_that_is_not_a_keeps_is_refused(machine, option, value):
    words, _, _ = machine
    words[words.index(option) + 1] = value
    with pytest.raises(PlatformError, match="want only options of Keeps"):
        measured()


@pytest.mark.parametrize("option", ["-bios", "-kernel", "-initrd", "-append", "-smp", "-cpu"])
def test_everything_that_is_measured_has_to_be_there(machine, option):
    words, _, _ = machine
    at = words.index(option)
    del words[at : at + 2]
    with pytest.raises(PlatformError, match=f"found no {option}, want each once"):
        measured()


def test_a_file_that_the_machine_does_not_have_is_refused(machine):
    words, _, _ = machine
    words[words.index("-kernel") + 1] = "/proc/self/fd/999"
    with pytest.raises(PlatformError, match="/proc/self/fd/999: No such file"):
        measured()


def test_a_machine_that_ended_meanwhile_is_refused(machine):
    with pytest.raises(PlatformError, match="found that it has ended"):
        measure_machine(os.getpid(), start_ticks(os.getpid()) + 1)


def test_a_process_that_is_no_qemu_is_refused():
    with pytest.raises(PlatformError, match="want only options of Keeps"):
        measured()


# --- What it was started with


def told():
    return parts_of_machine(os.getpid(), start_ticks(os.getpid()))


def test_the_parts_of_a_machine_are_what_it_was_started_with(machine):
    words, _, folder = machine
    (folder / "firmware").write_bytes(bytes(8192))
    # Whatever else it has: this is for machines of every backend.
    words += ["-object", "sev-snp-guest,id=x"]
    assert told() == (
        measure.snp_firmware_pages(bytes(8192)),
        hashlib.sha256(b"kernel").digest(),
        hashlib.sha256(b"initramfs").digest(),
        hashlib.sha256(b"console=ttyS0 a b\0").digest(),
    )


def test_a_machine_without_a_part_is_not_told(machine):
    words, _, _ = machine
    del words[words.index("-initrd") :]
    with pytest.raises(PlatformError, match="found no -append, -initrd, want each"):
        told()


def test_firmware_that_is_no_pages_is_not_told(machine):
    with pytest.raises(DecodeError, match="found 8 bytes, want whole pages"):
        told()


def test_a_platform_measures_what_it_was_told_to():
    calls = []
    platform = EmulatedPlatform(measure=lambda pid, ticks: calls.append((pid, ticks)) or b"m" * 48)
    assert platform.measure(5, 6) == platform.measure(5, 6) == b"m" * 48
    assert calls == [(5, 6)]


# --- The port


@pytest.fixture
def port():
    near, far = socket.socketpair()
    near.settimeout(WAIT_S)

    def report(request):
        if request.startswith(b"no"):
            raise DecodeError("no")
        return encode_answer(request[:8], b"table")

    thread = threading.Thread(target=answer_port, args=(far, report))
    thread.start()
    yield near, thread
    near.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def received(port, size):
    data = b""
    while len(data) < size:
        data += port.recv(size - len(data))
    return data


def test_a_port_answers_one_request_after_the_other(port):
    near, _ = port
    for number in range(3):
        wanted = encode_answer(bytes([number] * 8), b"table")
        near.sendall(bytes([number] * 10))
        near.sendall(bytes([number] * 54))
        assert received(near, len(wanted)) == wanted


def test_a_refusal_is_two_empty_blocks_and_the_port_goes_on(port):
    near, _ = port
    near.sendall(b"no".ljust(64))
    assert received(near, 8) == bytes(8)
    near.sendall(bytes(64))
    assert received(near, 4) == b"\0\0\0\x08"


def test_a_port_that_closes_in_the_middle_of_a_request_ends_it(port):
    near, thread = port
    near.sendall(b"half")
    near.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
