# SPDX-License-Identifier: Apache-2.0
"""Error numbers of WASI preview 1, and what the host's become.

Source: WASI snapshot preview 1, `errno` in `typenames.witx`.
"""

from __future__ import annotations

SUCCESS = 0
AGAIN = 6
BADF = 8
FAULT = 21
INVAL = 28
IO = 29
MFILE = 33
NOTCONN = 53
NOTSOCK = 57
NOTSUP = 58
PIPE = 64
SPIPE = 70

# Linux's numbers (asm-generic/errno.h), which are the same on x86-64 and AArch64; the `errno` module would be one
# more import on every start. Everything not named here is IO.
_FROM_HOST = {
    1: 63,  # EPERM
    4: 27,  # EINTR
    5: IO,
    9: BADF,  # EBADF: not open in that direction
    11: AGAIN,
    12: 48,  # ENOMEM
    13: 2,  # EACCES
    22: INVAL,
    23: 41,  # ENFILE
    24: MFILE,
    27: 22,  # EFBIG
    28: 51,  # ENOSPC
    29: SPIPE,
    32: PIPE,
    95: NOTSUP,
    103: 13,  # ECONNABORTED
    104: 15,  # ECONNRESET
    105: 42,  # ENOBUFS
    107: NOTCONN,
    110: 73,  # ETIMEDOUT
    111: 14,  # ECONNREFUSED
    113: 23,  # EHOSTUNREACH
}


def from_host(error: OSError) -> int:
    """Return the guest's number for a host error."""
    return _FROM_HOST.get(error.errno or 0, IO)
