# SPDX-License-Identifier: Apache-2.0
"""Numbers of the host and of the guest, each by its name."""

from __future__ import annotations

import errno as host_errno

import pytest

from enarx.runtime.preview1 import errno

# Source: `errno` in typenames.witx of WASI snapshot preview 1, in its order.
NAMES = [
    "success",
    "2big",
    "acces",
    "addrinuse",
    "addrnotavail",
    "afnosupport",
    "again",
    "already",
    "badf",
    "badmsg",
    "busy",
    "canceled",
    "child",
    "connaborted",
    "connrefused",
    "connreset",
    "deadlk",
    "destaddrreq",
    "dom",
    "dquot",
    "exist",
    "fault",
    "fbig",
    "hostunreach",
    "idrm",
    "ilseq",
    "inprogress",
    "intr",
    "inval",
    "io",
    "isconn",
    "isdir",
    "loop",
    "mfile",
    "mlink",
    "msgsize",
    "multihop",
    "nametoolong",
    "netdown",
    "netreset",
    "netunreach",
    "nfile",
    "nobufs",
    "nodev",
    "noent",
    "noexec",
    "nolck",
    "nolink",
    "nomem",
    "nomsg",
    "noprotoopt",
    "nospc",
    "nosys",
    "notconn",
    "notdir",
    "notempty",
    "notrecoverable",
    "notsock",
    "notsup",
    "notty",
    "nxio",
    "overflow",
    "ownerdead",
    "perm",
    "pipe",
    "proto",
    "protonosupport",
    "prototype",
    "range",
    "rofs",
    "spipe",
    "srch",
    "stale",
    "timedout",
    "txtbsy",
    "xdev",
    "notcapable",
]
ALIASES = {"notsup": "EOPNOTSUPP"}


@pytest.mark.parametrize("host", range(1, 134))
def test_a_host_error_is_the_guest_s_of_the_same_name_or_io(host):
    found = NAMES[errno.from_host(OSError(host, "told"))]
    assert found == "io" or getattr(host_errno, ALIASES.get(found, f"E{found.upper()}")) == host


def test_an_error_without_a_number_is_io():
    assert errno.from_host(OSError("told")) == errno.IO
    assert errno.from_host(TimeoutError()) == errno.IO


@pytest.mark.parametrize("name", [name for name in dir(errno) if name[0] != "_" and name.isupper()])
def test_every_constant_has_its_number(name):
    assert NAMES[getattr(errno, name)] == name.lower()
