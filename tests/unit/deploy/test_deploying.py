# SPDX-License-Identifier: Apache-2.0
"""Deploying against a host and a Keep that are a few lines: what each is told where it goes well, and where it does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from enarx.deploy.deploying import deploy_package
from enarx.deploy.host_client import parse_address
from enarx.deploy.package import load_package
from enarx.errors import (
    AppraisalError,
    ConfigError,
    KeepError,
    PlatformError,
    TransportError,
    UsageError,
    VerificationError,
)
from enarx.image.measure import LaunchParts, snp_firmware_pages
from enarx.image.reference import emulated_measurements
from enarx.wire.session import Attach, Provision, Refuse
from tests.tenants import AT, FakeHost, FakeKeep, make_pipes


class Host(FakeHost):
    """Has one Keep, which goes through the steps that a test gives."""

    def __init__(self, keep, steps):
        super().__init__()
        self.address = parse_address("http://127.0.0.1:8470")
        self.keep, self.steps = keep, steps
        self.deleted = []
        self.life = None

    async def create_keep(self, **_):
        return SimpleNamespace(id="0123456789abcdef", ports=())

    async def open_session(self, _):
        ours, theirs = make_pipes()

        async def live():
            await self.keep.open(theirs)
            try:
                for step in self.steps:
                    await step(self.keep)
            except TransportError:
                return
            await self.keep.listen()

        self.life = asyncio.ensure_future(live())
        return ours

    async def delete_keep(self, keep_id):
        self.deleted.append(keep_id)


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "main.wasm"
    path.write_bytes(b"\0asm" + bytes(1000))
    return load_package(str(path))


def deploy(host, package, folder, policy, **given):
    """Deploy, let the session end, and return what the Keep was told after its last step."""

    async def run():
        async with asyncio.timeout(30):
            try:
                deployment = await deploy_package(
                    package,
                    host=host,
                    policy=policy,
                    state_root=str(folder / "state"),
                    clock_ns=lambda: int(AT.timestamp() * 1e9),
                    **given,
                )
                await deployment.conversation.leave()
            finally:
                # A session that nobody closes is open for ever.
                async with asyncio.timeout(5):
                    await host.life
            return deployment

    return asyncio.run(run())


def fail(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_the_keep_is_told_once_its_receipt_is_stored(platform, policy, package, tmp_path, monkeypatch):
    keep = FakeKeep(platform)
    host = Host(keep, [FakeKeep.offer, FakeKeep.receipt])
    deployment = deploy(host, package, tmp_path, lambda: policy)
    assert keep.received == [Attach(0)]
    assert deployment.folder.load_receipt() == deployment.receipt_file
    assert host.deleted == []


def test_a_keep_whose_receipt_cannot_be_stored_is_not_told(platform, policy, package, tmp_path, monkeypatch):
    monkeypatch.setattr("enarx.deploy.folder.DeploymentFolder.store_receipt", fail(PlatformError("no room")))
    keep = FakeKeep(platform)
    host = Host(keep, [FakeKeep.offer, FakeKeep.receipt])
    with pytest.raises(PlatformError, match="no room"):
        deploy(host, package, tmp_path, lambda: policy)
    assert keep.received == []
    assert host.deleted == ["0123456789abcdef"]


def test_a_keep_that_runs_something_else_is_refused(platform, policy, package, tmp_path):
    keep = FakeKeep(platform)
    lie = lambda each: each.receipt(lambda identity: identity._replace(module=bytes(32)))  # noqa: E731
    with pytest.raises(VerificationError):
        deploy(Host(keep, [FakeKeep.offer, lie]), package, tmp_path, lambda: policy)
    assert keep.received == [Refuse("verification")]


@pytest.mark.parametrize("told", ["truth", "lie", "nothing"])
def test_what_a_host_says_of_a_machine_names_the_part_and_changes_no_verdict(
    platform, policy, package, tmp_path, monkeypatch, told
):
    from tests.unit.image.machines import installed, make_machine

    installed(tmp_path / "data", monkeypatch)
    other = make_machine(initramfs=b"another")
    (measurement,) = emulated_measurements(other)
    truth = LaunchParts(
        snp_firmware_pages(other.firmware["vm"]),
        other.boot.kernel_sha256,
        other.boot.initramfs_sha256,
        other.boot.cmdline_sha256,
    )
    said = {
        "truth": truth,
        "lie": truth._replace(initramfs_sha256=make_machine().boot.initramfs_sha256),
        "nothing": None,
    }

    async def show_parts(keep_id):
        assert host.deleted == []
        if said[told] is None:
            raise KeepError("it has ended")
        return said[told]

    keep = FakeKeep(platform, measurement=measurement, backend="vm")
    host = Host(keep, [FakeKeep.offer])
    host.show_parts = show_parts
    with pytest.raises(AppraisalError) as refused:
        deploy(host, package, tmp_path, lambda: replace(policy, images=("keep-test",)))
    untold = "not as in image keep-test: firmware, kernel, initramfs or command line"
    assert (
        refused.value.hint
        == {
            "truth": "not as in image keep-test: initramfs",
            "lie": f"{untold}; what the host says that it started does not give this launch digest",
            "nothing": untold,
        }[told]
    )
    assert keep.received == [Refuse("appraisal")]
    assert host.deleted == ["0123456789abcdef"]


def test_a_policy_that_is_none_leaves_the_session(platform, package, tmp_path):
    keep = FakeKeep(platform)
    host = Host(keep, [FakeKeep.offer])
    with pytest.raises(ConfigError):
        deploy(host, package, tmp_path, fail(ConfigError("no policy")))
    assert keep.received == []
    assert host.deleted == ["0123456789abcdef"]


@pytest.mark.parametrize("problem", ["room", "accepted", "folder"])
def test_what_fails_after_the_verdict_is_told_and_nothing_is_released(
    platform, policy, package, tmp_path, monkeypatch, problem
):
    given = {}
    kind = UsageError
    if problem == "room":
        object.__setattr__(package, "plaintexts", {"main.wasm": bytes((1 << 20) + 1)})
    elif problem == "accepted":
        given["accepted"] = fail(UsageError("not this one"))
    else:
        kind = PlatformError
        monkeypatch.setattr("enarx.deploy.folder.DeploymentFolder.create", fail(PlatformError("no room")))
    keep = FakeKeep(platform)
    host = Host(keep, [FakeKeep.offer])
    with pytest.raises(kind):
        deploy(host, package, tmp_path, lambda: policy, **given)
    assert keep.received == [Refuse("usage")]
    assert not any(isinstance(message, Provision) for message in keep.received)
    assert host.deleted == ["0123456789abcdef"]
