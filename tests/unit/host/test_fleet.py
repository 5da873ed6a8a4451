# SPDX-License-Identifier: Apache-2.0
"""What is set aside for a Keep, and what is remembered. How Keeps begin and end is seen in tests/integration/test_host_service.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from enarx.errors import EnarxError, PlatformError
from enarx.host.fleet import Fleet, HostLimits, QuotaError, package_limit
from enarx.host.launchers.nil import NilLauncher
from enarx.host.launchers.vm import VmLauncher
from enarx.host.state import StateFolder
from enarx.host.store import Store
from enarx.host.tenants import Tenant

MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory_mib", "most_mib", "package_mib"),
    [
        # What `enarx deploy` asks for if nothing is said.
        (1024, 512, 512),
        (1, 512, 32),
        (64, 512, 32),
        (100, 512, 50),
        (4096, 512, 512),
        (4096, 8192, 2048),
        (1024, 1, 1),
    ],
)
def test_a_package_has_half_of_the_memory_or_a_little(memory_mib, most_mib, package_mib):
    assert package_limit(memory_mib * MIB, most_mib * MIB) == package_mib * MIB


def no_start(spec, folder):
    raise PlatformError("admitted")


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """A fleet whose launchers start nothing."""
    folder = StateFolder(str(tmp_path / "state"))
    store = Store(folder.store_path)
    launchers = {"vm": VmLauncher("vm"), "nil": NilLauncher()}
    launchers["vm"]._accelerator = "tcg"
    for launcher in launchers.values():
        monkeypatch.setattr(launcher, "start", no_start)
    yield Fleet(
        folder=folder,
        store=store,
        launchers=launchers,
        limits=HostLimits(memory_bytes=1 << 50),
        outbound=None,
        publish="127.0.0.1",
        log=SimpleNamespace(info=ignore, warning=ignore),
    )
    store.close()
    folder.close()


def ignore(*_, **__):
    """Write no log."""


def refusal(fleet, backend, memory_bytes, most_bytes=1 << 62):
    async def create():
        tenant = Tenant(name="one", max_memory_bytes=most_bytes)
        await fleet.create(tenant, backend=backend, memory_bytes=memory_bytes, ports=())

    with pytest.raises(EnarxError) as caught:
        asyncio.run(create())
    return caught.value


@pytest.mark.parametrize(
    ("backend", "memory_mib", "takes_mib"),
    [
        # A process: its workload and its package.
        ("nil", 64, 64 + 32),
        ("nil", 1024, 1024 + 512),
        # A machine: all of it, in steps of 32 MiB, with its package; what it is translated to, and what runs it.
        ("vm", 64, 64 + 448 + 256 + 96),
        ("vm", 65, 64 + 448 + 32 + 256 + 96),
        ("vm", 1024, 1024 + 448 + 256 + 96),
    ],
)
def test_a_keep_counts_with_all_that_it_takes_of_this_machine(fleet, backend, memory_mib, takes_mib):
    assert str(refusal(fleet, backend, memory_mib * MIB, takes_mib * MIB)) == "admitted"
    refused = refusal(fleet, backend, memory_mib * MIB, takes_mib * MIB - 1)
    assert type(refused) is QuotaError
    assert f"{takes_mib * MIB} wanted" in str(refused)
    fleet.limits = HostLimits(memory_bytes=takes_mib * MIB)
    assert str(refusal(fleet, backend, memory_mib * MIB)) == "admitted"
    fleet.limits = HostLimits(memory_bytes=takes_mib * MIB - 1)
    refused = refusal(fleet, backend, memory_mib * MIB)
    assert type(refused) is PlatformError
    assert "too little memory left" in str(refused)


def test_what_a_keep_takes_is_remembered_and_why_it_did_not_start(fleet):
    refusal(fleet, "vm", 64 * MIB)
    (record,) = fleet.records()
    assert (record.state, record.reserved_bytes) == ("ended", 864 * MIB)
    assert record.reason == ("PlatformError", "admitted", None)
    assert not fleet.reserved


def test_an_end_that_the_store_cannot_take_is_told_to_it_later(fleet, monkeypatch):
    def full(*_):
        raise PlatformError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(fleet._store, "ended", full)
        assert str(refusal(fleet, "nil", MIB)) == "admitted"
        assert not fleet.reserved
        assert [record.state for record in fleet._store.keeps()] == ["starting"]
        told = fleet.records()
        assert [record.state for record in told] == ["ended"]
    fleet._tell_store()
    assert list(fleet._store.keeps()) == fleet.records() == told


def test_a_keep_that_cannot_be_remembered_is_not_started(fleet, monkeypatch):
    def full(_):
        raise PlatformError("the disk is full")

    monkeypatch.setattr(fleet._store, "add", full)
    assert str(refusal(fleet, "nil", MIB)) == "the disk is full"
    assert not fleet.reserved
    assert fleet.records() == []
