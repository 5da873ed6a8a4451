# SPDX-License-Identifier: Apache-2.0
"""The filter of the workload process: what is left of the kernel, tried in a process of its own, and the table against the headers."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from enarx.keep import seccomp
from enarx.keep.seccomp import call_numbers, make_filter

WAIT_S = 20
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
# Of the calls whose arguments are looked into, in the order of the numbers there.
CHECKED = ("clone", "clone3", "ioctl", "kill", "prctl", "prlimit64", "seccomp", "socket", "tgkill")
KNOWN = os.uname().machine in HEADERS


def run(code):
    """Run code in a process that the filter is for, and return its status and what it printed."""
    program = (
        "import ctypes, errno, os, signal, socket, sys, threading\n"
        "from enarx.keep.hardening import give_up\n"
        "from enarx.keep.seccomp import restrict_calls\n"
        "def number(call):\n"
        "    try:\n"
        "        call()\n"
        "    except OSError as error:\n"
        "        return error.errno\n"
        "    return 0\n"
        "give_up()\n"
        "restrict_calls()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + code], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    return done.returncode, done.stdout.strip() or done.stderr


@pytest.mark.skipif(not KNOWN, reason="a machine without a table")
@pytest.mark.parametrize(
    "call",
    [
        "os.fork",
        "lambda: os.execv('/bin/true', ['true'])",
        "lambda: os.posix_spawn('/bin/true', ['true'], {})",
        "lambda: socket.socket(socket.AF_INET)",
        "lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "lambda: os.kill(os.getppid(), 0)",
        "lambda: os.kill(-1, 0)",
        "lambda: os.chmod('/dev/null', 0o600)",
        "lambda: os.chown('/dev/null', 0, 0)",
        "lambda: os.setuid(0)",
        "lambda: os.chroot('/')",
        "lambda: os.mknod('/dev/shm/x')",
        "lambda: os.setxattr('/dev/null', 'user.x', b'')",
        "lambda: os.sched_setaffinity(0, {0})",
    ],
)
def test_refuses(call):
    assert run(f"print(number({call}))") == (0, str(errno.EPERM))


@pytest.mark.skipif(not KNOWN, reason="a machine without a table")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mount", "b'none', b'/mnt', b'tmpfs', 0, None"),
        ("ptrace", "16, 1, 0, 0"),
        ("unshare", "0x10000000"),
        ("prctl", "4, 1, 0, 0, 0"),
        ("process_vm_readv", "1, None, 0, None, 0, 0"),
        ("ioctl", "0, 0x5412, b'x'"),
        ("prlimit", "1, 7, None, None"),
        ("reboot", "0"),
    ],
)
def test_refuses_what_python_has_no_name_for(name, arguments):
    code = f"library = ctypes.CDLL(None, use_errno=True)\nprint(library.{name}({arguments}), ctypes.get_errno())"
    assert run(code) == (0, f"-1 {errno.EPERM}")


def test_allows_what_workloads_do(tmp_path):
    code = (
        f"os.chdir({str(tmp_path)!r})\n"
        "thread = threading.Thread(target=lambda: print('a thread'))\nthread.start(); thread.join()\n"
        "os.mkdir('d'); open('d/f', 'w').write('x'); os.rename('d/f', 'd/g'); os.link('d/g', 'h'); os.symlink('h', 'i')\n"
        "os.utime('h'); os.truncate('h', 0); os.unlink('h'); os.readlink('i'); os.listdir('d'); os.statvfs('d')\n"
        "one, other = socket.socketpair(); one.send(b'x'); other.recv(1); socket.socket(socket.AF_UNIX)\n"
        "fd = os.memfd_create('m'); os.pwrite(fd, b'x', 0); os.pread(fd, 1, 0); os.fsync(fd)\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('a signal')); os.kill(os.getpid(), signal.SIGTERM)\n"
        "import mmap; mmap.mmap(-1, 4096, prot=7).write(b'x'); import select; select.epoll().poll(0)\n"
        "print(os.getrandom(1) != b'', sys.stdin.isatty())\n"
    )
    assert run(code) == (0, "a thread\na signal\nTrue False")


@pytest.mark.skipif(not KNOWN, reason="a machine without a table")
def test_holds_for_threads_that_were_there_before():
    program = (
        "import os, socket, threading\n"
        "from enarx.keep.hardening import give_up\n"
        "from enarx.keep.seccomp import restrict_calls\n"
        "begin = threading.Event()\n"
        "def late():\n"
        "    begin.wait()\n"
        "    try:\n"
        "        socket.socket()\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
        "thread = threading.Thread(target=late)\n"
        "thread.start(); give_up(); restrict_calls(); begin.set(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stdout == f"{errno.EPERM}\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls of another architecture are x86-64's here")
def test_a_call_by_another_architecture_s_number_ends_the_process():
    # mov eax, 20; int 0x80; ret: getpid of i386, where the kernel has that.
    code = (
        "import mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7); page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n"
    )
    status, _ = run(code)
    assert status in {-signal.SIGSYS, -signal.SIGSEGV}


def test_a_kernel_that_refuses_is_told_of():
    # Without having given up new privileges, unless root does it.
    program = (
        "import os\nfrom enarx.keep import seccomp\n"
        "seccomp.make_filter = lambda *_: bytes(8)\n"
        "seccomp.restrict_calls()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert "PlatformError: cannot start the process: seccomp filter: " in done.stderr or not KNOWN


@pytest.mark.parametrize("machine", HEADERS)
def test_a_filter_is_a_program_that_the_kernel_takes(machine):
    code = make_filter(machine, 4711)
    instructions = list(struct.iter_unpack("=HBBI", code))
    assert len(instructions) < 4096
    for at, (operation, if_true, if_false, _) in enumerate(instructions):
        # Every way leads forward to an instruction, and the last one returns.
        if operation in {0x15, 0x45}:
            assert at + 1 + max(if_true, if_false) < len(instructions)
    assert instructions[-1][0] == 0x06


@pytest.mark.parametrize("machine", HEADERS)
def test_the_table_is_the_kernel_s(machine):
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("no kernel headers here")
    text = header.read_text(encoding="utf-8")
    defined = dict(re.findall(r"^#define __NR3264_(\w+)\s+(\d+)$", text, re.MULTILINE))
    defined |= dict(re.findall(r"^#define __NR_(\w+)\s+(\d+)$", text, re.MULTILINE))
    # As asm-generic says it for 64 bits.
    defined |= {new: defined[old] for new, old in (("newfstatat", "fstatat"),) if old in defined}
    ours = call_numbers(machine) | dict(zip(CHECKED, seccomp._MACHINES[machine][1], strict=True))
    assert {name: str(number) for name, number in ours.items()} == {name: defined[name] for name in ours}


@pytest.mark.parametrize("machine", HEADERS)
def test_nothing_that_makes_processes_or_reaches_the_kernel_is_in_the_table(machine):
    forbidden = re.compile(
        r"exec|fork|clone|ptrace|process_|mount|pivot|unshare|setns|bpf|module|kexec|keyctl|add_key|io_uring|userfault|perf|chmod|chown|set[ug]id|setres|cap|reboot|swap|quota|acct|iopl|ioperm|handle|fanotify|inotify|pidfd|landlock|secret|settime|mknod|xattr|^ioctl$|^socket$|^kill$|prctl|seccomp"
    )
    assert [name for name in call_numbers(machine) if forbidden.search(name)] == []
