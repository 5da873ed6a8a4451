# SPDX-License-Identifier: Apache-2.0
"""The real system calls, and the layouts of structures as the kernel's own headers have them."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import termios

import pytest

from enarx.attester import nsm, sev_guest
from enarx.attester.system import LinuxSystem, exists, iowr, read_file, refusal, write_file
from enarx.testing.attesters import FakeFile, FakeNsm, FakeSevGuest, FakeSystem

STRUCTURES = {
    "struct snp_report_req": (sev_guest.ReportRequest, 96, {"user_data": 0, "vmpl": 64, "rsvd": 68}),
    "struct snp_report_resp": (sev_guest.ReportResponse, 4000, {}),
    "struct snp_ext_report_req": (sev_guest.ExtReportRequest, 112, {"data": 0, "certs_address": 96, "certs_len": 104}),
    "struct snp_guest_request_ioctl": (
        sev_guest.GuestRequest,
        32,
        {"msg_version": 0, "req_data": 8, "resp_data": 16, "exitinfo2": 24},
    ),
    "struct nsm_iovec": (nsm.Vector, 16, {"addr": 0, "len": 8}),
    "struct nsm_raw": (nsm.NsmMessage, 32, {"request": 0, "response": 16}),
}
NUMBERS = {
    "SNP_GET_REPORT": (sev_guest.SNP_GET_REPORT, FakeSevGuest.GET_REPORT),
    "SNP_GET_EXT_REPORT": (sev_guest.SNP_GET_EXT_REPORT, FakeSevGuest.GET_EXT_REPORT),
    "NSM_IOCTL_RAW": (nsm.NSM_IOCTL_RAW, FakeNsm.IOCTL_RAW),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_the_kernels_layout(name):
    structure, size, offsets = STRUCTURES[name]
    assert ctypes.sizeof(structure) == size
    assert {field: getattr(structure, field).offset for field in offsets} == offsets


def test_the_report_follows_the_firmwares_header():
    offsets = [getattr(sev_guest.ReportResponse, name).offset for name, _ in sev_guest.ReportResponse._fields_]
    assert offsets == [0, 4, 8, 32]


def test_emulations_and_drivers_have_the_same_numbers():
    for driver, emulation in NUMBERS.values():
        assert driver == emulation


def test_the_kernels_headers_say_so(tmp_path):
    """The headers that come with the compiler are Linux'."""
    lines = [
        "#include <stddef.h>",
        "#include <linux/ioctl.h>",
        "#include <linux/sev-guest.h>",
        "#include <linux/nsm.h>",
    ]
    for name, (_, size, offsets) in STRUCTURES.items():
        lines.append(f'_Static_assert(sizeof({name}) == {size}, "size of {name}");')
        lines += [f'_Static_assert(offsetof({name}, {each}) == {at}, "{each}");' for each, at in offsets.items()]
    lines += [f'_Static_assert({name} == {number:#x}UL, "{name}");' for name, (number, _) in NUMBERS.items()]
    source = tmp_path / "layouts.c"
    source.write_text("\n".join(lines) + "\n")
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(tmp_path), "ZIG_LOCAL_CACHE_DIR": str(tmp_path)}

    def compiles(target):
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-c", "-o", tmp_path / "layouts.o", source]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode == 0, done.stderr

    for target in ("x86_64-linux-gnu", "aarch64-linux-gnu"):
        assert compiles(target) == (True, "")
    source.write_text("\n".join(lines).replace("== 4000", "== 4001"))
    is_fine, words = compiles(target)
    assert not is_fine
    assert "size of struct snp_report_resp" in words


def test_files_are_read_and_written_whole(tmp_path):
    system = LinuxSystem(str(tmp_path))
    (tmp_path / "file").write_bytes(bytes(200_000))
    assert read_file(system, "/file", 200_000) == bytes(200_000)
    with pytest.raises(OSError, match="File too large") as caught:
        read_file(system, "/file", 199_999)
    assert caught.value.errno == errno.EFBIG
    (tmp_path / "file").write_bytes(b"")
    write_file(system, "/file", b"data")
    assert read_file(system, "/file", 10) == b"data"
    system.mkdir("/folder")
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        system.mkdir("/folder")
    system.rmdir("/folder")
    with pytest.raises(FileNotFoundError):
        system.rmdir("/folder")


def test_nothing_is_inherited(tmp_path):
    (tmp_path / "file").touch()
    fd = LinuxSystem(str(tmp_path)).open("/file", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_write_that_takes_a_part_is_an_error():
    class Short(FakeSystem):
        def write(self, fd, data):
            return len(data) - 1

    system = Short({"/file": FakeFile()})
    with pytest.raises(OSError, match="3 of 4 bytes were taken"):
        write_file(system, "/file", b"data")
    assert system.files == {}


def test_an_ioctl_changes_its_argument():
    parent, child = os.openpty()
    window = ctypes.create_string_buffer(b"\7\0\5\0\0\0\0\0", 8)
    LinuxSystem().ioctl(child, termios.TIOCSWINSZ, window)
    found = ctypes.create_string_buffer(8)
    LinuxSystem().ioctl(child, termios.TIOCGWINSZ, found)
    assert found.raw == window.raw
    os.close(parent)
    os.close(child)


def test_a_device_of_another_kind_refuses_our_calls():
    system = LinuxSystem()
    fd = system.open("/dev/null", os.O_RDWR)
    for number, _ in NUMBERS.values():
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTTY}\]"):
            system.ioctl(fd, number, ctypes.create_string_buffer(32))
    system.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        system.close(fd)


def test_numbers_of_ioctls_are_those_of_the_header():
    # TDX_CMD_GET_REPORT0, which has a structure of another size.
    assert iowr(ord("T"), 1, 1088) == 0xC4405401


def test_waits():
    LinuxSystem().sleep(0)


@pytest.mark.parametrize(
    ("number", "there"), [(errno.ENOENT, False), (errno.ENXIO, False), (errno.EACCES, True), (None, True)]
)
def test_a_file_that_does_not_open_may_be_there(number, there):
    assert exists(FakeSystem({"/dev/x": FakeFile(error=number)}), "/dev/x") is there


def test_an_error_that_nobody_knows_is_told_as_the_kernel_names_it():
    assert str(refusal("/dev/x", OSError(errno.ENOSPC, "No space left on device"), {})) == (
        "cannot attest: /dev/x: found no space left on device (ENOSPC), want evidence"
    )
