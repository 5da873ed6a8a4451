# SPDX-License-Identifier: Apache-2.0
"""Many machines one after the other on one host, and what is left of them: no process, descriptor, thread, file or memory."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
from functools import partial
from pathlib import Path

import pytest

from enarx.host.process_facts import has_ended
from tests.hosting import request
from tests.machines import BOOT_S, MEMORY_BYTES, beside, guards, require_image, serve, until
from tests.soak import EXAMPLES

pytestmark = pytest.mark.soak

MACHINES = max(6, EXAMPLES // 1000)
"""100 in a full run."""

KINDS = [("vtpm", MACHINES)]
if MACHINES >= 50:
    # Not in a sample: each takes ten seconds.
    KINDS.append(("emulated-snp", MACHINES // 5))

KILL_EVERY = 5
"""How often one is not stopped but killed."""

SETTLED = 3
"""After so many the host has loaded and kept what it needs."""

RSS_BYTES = 1 << 20
"""How much more of memory a host may have at the end: less than one page for each machine would be, and the allocator's whims."""


@pytest.mark.timeout(60 * MACHINES)
@pytest.mark.parametrize(("evidence", "machines"), KINDS)
def test_machines_in_a_row_leave_nothing(enarx, tmp_path, evidence, machines):
    require_image()
    state, temporary = tmp_path / "state", tmp_path / "temporary"
    temporary.mkdir()
    with serve(state, env={**enarx.env, "TMPDIR": str(temporary)}, evidence=evidence) as host:
        settled, memory = None, []
        for number in range(machines):
            status, _, keep = request(
                host.url, "POST", body={"backend": "vm", "memory-bytes": MEMORY_BYTES, "ports": []}, timeout_s=BOOT_S
            )
            assert status == 201, keep
            (guard,) = guards(state)
            held = [os.pidfd_open(pid) for pid in (guard, beside(guard, "qemu"))]
            if number % KILL_EVERY == KILL_EVERY - 1:
                os.kill(guard, signal.SIGKILL)
                until(partial(has_a_keep_ended, host, keep["id"]))
            else:
                assert request(host.url, "DELETE", f"/v1/keeps/{keep['id']}")[0] == 200
            for pidfd in held:
                until(partial(has_ended, pidfd))
                os.close(pidfd)
            assert not named(keep["id"])
            if number < SETTLED:
                continue
            # A connection of ours to the API closes a moment after its answer, and may be there at the first look.
            settled = settled or left_of(host.child.pid)
            with contextlib.suppress(AssertionError):
                until(lambda: len(left_of(host.child.pid)[0]) <= len(settled[0]))  # noqa: B023 - the one that there is now
            left = left_of(host.child.pid)
            if len(left[0]) < len(settled[0]):
                settled = left
            assert left == settled
            memory.append(rss_bytes(host.child.pid))
        assert not guards(state)
        assert not list((state / "keeps").iterdir())
        assert not list(temporary.iterdir())
        listed = request(host.url)[2]["keeps"]
        assert {each["state"] for each in listed} == {"ended"}
    third = len(memory) // 3 or 1
    grown = statistics.median(memory[-third:]) - statistics.median(memory[:third])
    print(f"{machines} machines, {evidence}: {settled}, memory {memory}, grown by {grown} bytes")
    assert grown < RSS_BYTES


def has_a_keep_ended(host, keep):
    return request(host.url, path=f"/v1/keeps/{keep}")[2]["state"] == "ended"


def named(keep):
    """Return the processes that have a Keep's id among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue  # it ended while we looked
        if keep.encode() in words:
            found.append(path)
    return found


def left_of(pid):
    """Return descriptors, threads and children of a process."""
    process = Path(f"/proc/{pid}")
    fds = sorted(filter(None, map(kind_of, (process / "fd").iterdir())))
    children = "".join(path.read_text() for path in process.glob("task/*/children"))
    return tuple(fds), len(list((process / "task").iterdir())), children


def kind_of(fd):
    try:
        return os.readlink(fd).partition(":")[0]
    except FileNotFoundError:
        return None  # closed while we looked


def rss_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
