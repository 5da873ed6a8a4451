# SPDX-License-Identifier: Apache-2.0
"""Which system calls the workload process may make, from before it knows its workload: a seccomp filter.

Whoever escapes from the engine is left with memory, threads of this process, files that it may open, and sockets that it was
given. No program can be started, no process made or looked into, no address family reached but AF_UNIX, nothing mounted, loaded,
traced or measured. Files are not the filter's affair: it sees no path. Who the process is says which of them it may open.

What is not in the table is refused as not permitted, so that libraries that only try can go on. A call of another
architecture's numbers ends the process.

Source: Linux include/uapi/linux/seccomp.h, filter.h, audit.h; arch/x86/entry/syscalls/syscall_64.tbl; asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from enarx.errors import PlatformError

__all__ = ["restrict_calls"]

# A name, its number on x86-64, its number on aarch64; a dash where it is not there.
_CALLS = """
brk 12 214, madvise 28 233, membarrier 324 283, memfd_create 319 279, mincore 27 232, mmap 9 222,
mprotect 10 226, mremap 25 216, msync 26 227, munmap 11 215,
clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230 115, exit 60 93, exit_group 231 94,
futex 202 98, get_robust_list 274 100, getcpu 309 168, getitimer 36 102, getpid 39 172, getppid 110 173,
getrandom 318 278, getrusage 98 165, gettid 186 178, gettimeofday 96 169, nanosleep 35 101, pause 34 -,
restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134, rt_sigpending 127 136, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sched_getaffinity 204 123,
sched_yield 24 124, set_robust_list 273 99, set_tid_address 218 96, setitimer 38 103, sigaltstack 131 132,
sysinfo 99 179, time 201 -, times 100 153, uname 63 160,
getegid 108 177, geteuid 107 175, getgid 104 176, getresgid 120 150, getresuid 118 148, getuid 102 174,
access 21 -, chdir 80 49, close 3 57, close_range 436 436, copy_file_range 326 285, dup 32 23, dup2 33 -,
dup3 292 24, faccessat 269 48, faccessat2 439 439, fadvise64 221 223, fallocate 285 47, fchdir 81 50,
fcntl 72 25, fdatasync 75 83, flock 73 32, fstat 5 80, fstatfs 138 44, fsync 74 82, ftruncate 77 46,
getcwd 79 17, getdents64 217 61, link 86 -, linkat 265 37, lseek 8 62, lstat 6 -, mkdir 83 -, mkdirat 258 34,
newfstatat 262 79, open 2 -, openat 257 56, openat2 437 437, pread64 17 67, preadv 295 69, preadv2 327 286,
pwrite64 18 68, pwritev 296 70, pwritev2 328 287, read 0 63, readlink 89 -, readlinkat 267 78, readv 19 65,
rename 82 -, renameat 264 38, renameat2 316 276, rmdir 84 -, stat 4 -, statfs 137 43, statx 332 291,
symlink 88 -, symlinkat 266 36, truncate 76 45, umask 95 166, unlink 87 -, unlinkat 263 35, utimensat 280 88,
write 1 64, writev 20 66,
accept 43 202, accept4 288 242, connect 42 203, epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22,
epoll_pwait2 441 441, epoll_wait 232 -, eventfd2 290 19, getpeername 52 205, getsockname 51 204,
getsockopt 55 209, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, pselect6 270 72, recvfrom 45 207,
recvmmsg 299 243, recvmsg 47 212, select 23 -, sendmmsg 307 269, sendmsg 46 211, sendto 44 206,
setsockopt 54 208, shutdown 48 210, socketpair 53 199
"""

_CLONE, _CLONE3, _IOCTL, _KILL, _PRCTL, _PRLIMIT64, _SECCOMP, _SOCKET, _TGKILL = range(9)
# AUDIT_ARCH, and the numbers of the calls above that are looked into.
_MACHINES = {
    "x86_64": (0xC000003E, (56, 435, 16, 62, 157, 302, 317, 41, 234)),
    "aarch64": (0xC00000B7, (220, 435, 29, 129, 167, 261, 277, 198, 131)),
}

_CLONE_THREAD = 0x10000
_AF_UNIX = 1
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO: what Python asks of files and sockets.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421)
# PR_GET_PDEATHSIG, _GET_DUMPABLE, _SET_NAME, _GET_NAME, _GET_SECCOMP, _GET_NO_NEW_PRIVS, _SET_VMA: nothing that gives anything.
_PRCTLS = (2, 3, 15, 16, 21, 39, 0x53564D41)

_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_SET_MODE_FILTER, _FOR_ALL_THREADS = 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def restrict_calls() -> None:
    """Refuse this process, all its threads and what they may ever start every call but those that a workload needs.

    It must have given up new privileges. A machine that is not in the table has no filter: no Keep of a TEE runs on one.

    Raises:
        PlatformError: the kernel does not do it.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        return
    code = make_filter(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    library = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_MACHINES[machine][1][_SECCOMP])
    found = library.syscall(number, _SET_MODE_FILTER, _FOR_ALL_THREADS, ctypes.byref(program))
    if found:
        problem = f"thread {found} has another" if found > 0 else os.strerror(ctypes.get_errno())
        raise PlatformError(f"cannot start the process: seccomp filter: {problem}")


def make_filter(machine: str, pid: int) -> bytes:
    """Return the filter: instructions of eight bytes.

    Args:
        machine: as `uname` says it, one of the table's.
        pid: of the process that it is for.
    """
    architecture, numbers = _MACHINES[machine]
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for number in call_numbers(machine).values():
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    # The C library does without, and then says what it wants where it can be looked at.
    code += [(_JUMP_EQUAL, 0, 1, numbers[_CLONE3]), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    code += _where_argument(numbers[_CLONE], 0, (_CLONE_THREAD,), _JUMP_SET)
    code += _where_argument(numbers[_SOCKET], 0, (_AF_UNIX,))
    code += _where_argument(numbers[_IOCTL], 1, _IOCTLS)
    code += _where_argument(numbers[_PRCTL], 0, _PRCTLS)
    # Itself, by its number or as none.
    code += _where_argument(numbers[_PRLIMIT64], 0, (0, pid))
    for call in (_KILL, _TGKILL):
        code += _where_argument(numbers[call], 0, (pid,))
    code.append((_RETURN, 0, 0, _REFUSE | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def call_numbers(machine: str) -> dict[str, int]:
    """Return the calls that are allowed whatever their arguments are, by name."""
    column = tuple(_MACHINES).index(machine)
    numbers = {}
    for entry in _CALLS.split(","):
        name, *of_machines = entry.split()
        if of_machines[column] != "-":
            numbers[name] = int(of_machines[column])
    return numbers


def _where_argument(
    number: int, index: int, values: tuple[int, ...], test: int = _JUMP_EQUAL
) -> list[tuple[int, int, int, int]]:
    """Return instructions that allow a call where an argument's lower half is one of some values, and else refuse it.

    The kernel takes each of these arguments for an int, but for the flags of `clone`, whose upper half `clone` ignores.
    """
    checks = [instruction for value in values for instruction in ((test, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    body = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index), *checks, (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]
