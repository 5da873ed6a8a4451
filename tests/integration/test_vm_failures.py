# SPDX-License-Identifier: Apache-2.0
"""Machines that fail under a host that goes on: what the tenant, the host and the next host say of it, and how soon.

How each process of a machine fails without a host: test_vm_keep.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from enarx.host.launchers.swtpm import open_seed
from tests.hosting import request
from tests.integration.test_deploy import WORDS, Host, detached
from tests.machines import BOOT_S, beside, environment, guards, require_image, serve, small_disk, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOLD_S = 10.0
"""From the end of a process to what the tenant is told of it."""

# Takes 256 MiB in each of three memories, every page of them; the limit of a Keep is one for each memory.
GREEDY = f"""(module
  {"".join(f"(memory $m{n} 4096)" for n in range(3))}
  (export "memory" (memory $m0))
  (func (export "_start")
    {"".join(f"(memory.fill $m{n} (i32.const 0) (i32.const 1) (i32.const 0x10000000))" for n in range(3))}))"""


@pytest.fixture(scope="module", autouse=True)
def image():
    return require_image()


@pytest.fixture(scope="module")
def tenant(enarx):
    return enarx.with_env(XDG_DATA_HOME=environment({})["XDG_DATA_HOME"])


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A workload that says `ready` and waits for an hour."""
    module = tmp_path_factory.mktemp("guests") / "waiting.wat"
    module.write_text(WORDS)
    return module


def keep_of(host, tenant):
    return Host(url=host.url, enarx=tenant)


def in_machine(*arguments, memory="64MiB"):
    return ("--backend", "vm", "--memory", memory, *arguments)


def told(host, keep):
    return request(host.url, path=f"/v1/keeps/{keep}")[2]


# --- Its processes


def test_a_machine_that_is_killed_is_told_to_its_tenant_and_remembered_by_the_next_host(tenant, tmp_path, waiting):
    state = tmp_path / "state"
    with serve(state, env=tenant.env) as host:
        asking = keep_of(host, tenant)
        with asking.start(*in_machine(waiting)) as started:
            started.until_stdout(b"ready\n", BOOT_S)
            (guard,) = guards(state)
            began = time.monotonic()
            os.kill(beside(guard, "qemu"), signal.SIGKILL)
            ended = started.end(timeout_s=TOLD_S)
        assert ended.status == 107
        assert "the host says that it is ended: the Keep ended: QEMU: found it killed by signal 9" in ended.stderr
        assert time.monotonic() - began < TOLD_S
        (listed,) = asking.listed().values()
        said = listed["host-says"]
        assert (said["state"], said["reason"]["class"]) == ("ended", "KeepError")
        assert "why it ended: the Keep ended: QEMU: found it killed by signal 9" in asking.keep("list").stdout.decode()
        assert not os.listdir(state / "keeps")
        host.kill()
    with serve(state, env=tenant.env) as host:
        assert keep_of(host, tenant).listed()[said["id"]]["host-says"] == said


def test_why_a_machine_ended_while_there_was_no_host_is_told_by_the_next_one(tenant, tmp_path, waiting):
    state = tmp_path / "state"
    with serve(state, env=tenant.env) as host:
        keep = detached(keep_of(host, tenant), *in_machine(waiting), timeout_s=BOOT_S)
        (guard,) = guards(state)
        host.kill()
        os.kill(beside(guard, "qemu"), signal.SIGKILL)
        until(lambda: not guards(state))
        with serve(state, env=tenant.env) as after:
            said = told(after, keep)
            assert said["state"] == "ended"
            assert "QEMU: found it killed by signal 9" in said["reason"]["message"]


def test_a_machine_that_hangs_is_ended_and_its_tenant_told_why(tenant, tmp_path, waiting):
    state = tmp_path / "state"
    with serve(state, env=tenant.env) as host:
        asking = keep_of(host, tenant)
        with asking.start(*in_machine(waiting)) as started:
            started.until_stdout(b"ready\n", BOOT_S)
            (guard,) = guards(state)
            os.kill(beside(guard, "qemu"), signal.SIGSTOP)
            # The guard's own limit, and the time between two of its questions.
            ended = started.end(timeout_s=45.0)
        assert ended.status == 107
        assert "QEMU: found no answer in 30 s, so it was killed" in ended.stderr
        assert not guards(state)


# --- Its memory


@pytest.fixture
def host(tenant, tmp_path):
    with serve(tmp_path / "state", env=tenant.env) as running:
        yield running


def test_a_workload_in_a_machine_gets_as_much_memory_as_it_may_have(host, tenant, guest):
    ended = keep_of(host, tenant).deploy(*in_machine(guest("grow")), timeout_s=BOOT_S)
    assert ended.status == 3, ended.stderr
    assert ended.stdout == tenant.run("--memory", "64MiB", guest("grow")).stdout


def test_a_workload_that_takes_more_than_its_machine_has_is_ended_and_its_keep_goes_on(host, tenant, tmp_path):
    module = tmp_path / "greedy.wat"
    module.write_text(GREEDY)
    asking = keep_of(host, tenant)
    began = time.monotonic()
    keep = detached(asking, *in_machine(module, memory="256MiB"), timeout_s=BOOT_S)
    # Whoever comes later is told: the Keep is there, and was when its workload ended.
    ended = asking.keep("attach", keep, timeout_s=BOOT_S)
    assert time.monotonic() - began < BOOT_S
    assert ended.status == 109
    assert "the workload process was ended by signal 9" in ended.stderr
    assert "hint: it may have needed more memory than there is" in ended.stderr
    until(lambda: told(host, keep)["state"] == "ended")
    assert told(host, keep)["reason"] is None


# --- The host's disk

DISK_BYTES = 4 << 20


@pytest.fixture
def full_disk(tenant, tmp_path):
    """A host whose state directory is a disk of its own, and that disk's path from here."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    try:
        with serve(state, env=tenant.env, evidence="vtpm", preexec_fn=small_disk(state, DISK_BYTES)) as host:
            there = Path(f"/proc/{host.child.pid}/root{state}")
            yield host, there
            for pid in guards(there):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    except subprocess.SubprocessError:
        pytest.skip("no mount namespaces for this user")


def fill(disk):
    """Leave nothing of a disk."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def make(host):
    body = {"backend": "vm", "memory-bytes": 32 << 20, "ports": []}
    return request(host.url, "POST", body=body, timeout_s=BOOT_S)


def test_a_disk_that_is_full_refuses_what_is_new_and_loses_nothing_of_what_was(full_disk):
    host, disk = full_disk
    status, _, keep = make(host)
    assert status == 201
    assert keep["vtpm-key-sha256"] == open_seed().key_sha256
    (guard,) = guards(disk)
    fill(disk)
    began = time.monotonic()
    status, _, refused = make(host)
    assert (status, refused["error"]["class"]) == (503, "PlatformError")
    assert time.monotonic() - began < TOLD_S
    headers = {"Upload-Offset": "0", "Upload-Length": "100000"}
    blob = f"/v1/keeps/{keep['id']}/blobs/{'1' * 64}"
    status, _, refused = request(host.url, "PATCH", blob, headers=headers, content=bytes(100_000))
    assert (status, refused["error"]["class"]) == (503, "PlatformError")
    # It runs on; why it ends is told though there is no room.
    assert told(host, keep["id"])["state"] == "ready"
    os.kill(beside(guard, "swtpm"), signal.SIGKILL)
    until(lambda: told(host, keep["id"])["state"] == "ended", TOLD_S)
    assert "swtpm: found it killed by signal 9" in told(host, keep["id"])["reason"]["message"]
    assert not os.listdir(disk / "keeps")
    (disk / "filler").unlink()
    status, _, another = make(host)
    assert status == 201
    status, _, ended = request(host.url, "DELETE", f"/v1/keeps/{another['id']}")
    assert (status, ended["state"], ended["reason"]) == (200, "ended", None)
    assert {each["id"] for each in request(host.url)[2]["keeps"]} >= {keep["id"], another["id"]}
