# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

from enarx.host.process_facts import boot_id, find_marked, has_ended, open_process, start_ticks, usage_of


def test_holds_on_to_a_process_until_it_has_ended():
    with subprocess.Popen([sys.executable, "-Xa-mark-of-mine=1", "-c", "input()"], stdin=subprocess.PIPE) as child:
        ticks = start_ticks(child.pid)
        pidfd = open_process(child.pid, ticks)
        assert not has_ended(pidfd)
        assert open_process(child.pid, ticks + 1) is None
        child.stdin.close()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        # Not reaped yet: its pid is there, and it is not.
        assert start_ticks(child.pid) is None
        assert has_ended(pidfd)
        assert open_process(child.pid, ticks) is None
        os.close(pidfd)
    assert open_process(child.pid, ticks) is None
    assert usage_of(child.pid) is None


def test_finds_processes_by_an_argument():
    command = [sys.executable, "-Xa-mark-of-mine=2", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        # `Popen` returns while the kernel has yet to note the command line.
        child.stdout.readline()
        assert find_marked(b"-Xa-mark-of-mine=2") == [child.pid]
        assert find_marked(b"-Xa-mark-of-mine") == []


def test_says_what_a_process_uses():
    usage = usage_of(os.getpid())
    assert 1 << 20 < usage.memory_bytes < 1 << 40
    assert usage.cpu_s > 0


def test_the_boot_has_a_name():
    assert len(boot_id()) == 36
