# SPDX-License-Identifier: Apache-2.0
"""A Keep that is a machine, with a Steward: it asks through its port, gets its certificate, and serves TLS with it."""

from __future__ import annotations

import signal

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.wire.keep_certificate import decode_keep_certificate_untrusted
from enarx.wire.release import decode_identity_untrusted
from tests.integration.test_deploy import EMULATED
from tests.integration.test_steward import NAME, PAGE, curl, named, packed, presented, serials, trusting
from tests.machines import BOOT_S, environment, require_image, serve
from tests.machines import NAME as IMAGE
from tests.steward_processes import StewardProcess, found_steward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tenant(enarx):
    """The command of somebody who has the image."""
    require_image()
    return enarx.with_env(XDG_DATA_HOME=environment({})["XDG_DATA_HOME"])


@pytest.fixture(scope="module")
def policy(tenant, tmp_path_factory):
    """What the operator's policy is when he accepts machines of this image, and of no other."""
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    ended = tenant.command("policy", "init", path, "--image", IMAGE)
    assert ended.status == 0, ended.stderr
    said = ("measurement", "family_id", "image_id", "host_data")
    lines = [line for line in path.read_text().splitlines() if line.partition(" ")[0] not in said]
    # By its name: an emulated platform has another digest for it, because no firmware there checks what it starts.
    lines.insert(lines.index("[snp]") + 1, f'image = "{IMAGE}"')
    return "\n".join(lines) + "\n"


def test_a_machine_gets_its_certificate_and_serves_with_it(tenant, policy, guest, tmp_path):
    path, digest = packed(tmp_path / "app", guest("web-service"), "web-service")
    state = found_steward(tmp_path / "steward", policy=policy, grants=((digest, "any", (NAME,)),))
    steward = StewardProcess(state, EMULATED, "--offline", env=tenant.env)
    with steward, serve(tmp_path / "host", env=tenant.env) as host:
        to_host = ("--to", host.url, "--backend", "vm", EMULATED)
        with tenant.start_command("deploy", *to_host, *named(steward), path) as started:
            port = int(started.until_stderr(rb"port (\d+) is web\n", BOOT_S)[1])
            answer = curl("--cacert", steward.root, f"https://{NAME}:{port}/")
            assert (answer.returncode, answer.stdout) == (0, PAGE), answer.stderr
            leaf = presented(port, trusting(steward.root))
            # The one that is in the Steward's log, for this package in a machine on the emulated platform.
            assert serials(steward) == [f"{leaf.serial_number:x}"]
            assert "EMULATED platform" in leaf.subject.rfc4514_string()
            keep = decode_keep_certificate_untrusted(leaf.public_bytes(Encoding.DER))
            assert decode_identity_untrusted(keep.identity).package == digest
            assert keep.result is not None
            assert started.end(by=signal.SIGINT).status == 130


def test_a_machine_of_another_image_gets_none(tenant, policy, guest, tmp_path):
    """The policy is for Keeps that are processes: the machine is authentic, and refused."""
    path, digest = packed(tmp_path / "app", guest("web-service"), "web-service")
    wanted = policy.replace(f'image = "{IMAGE}"', 'image = "process"')
    state = found_steward(tmp_path / "steward", policy=wanted, grants=((digest, "any", (NAME,)),))
    steward = StewardProcess(state, EMULATED, "--offline", env=tenant.env)
    with steward, serve(tmp_path / "host", env=tenant.env) as host:
        to_host = ("--to", host.url, "--backend", "vm", EMULATED)
        ended = tenant.command("deploy", *to_host, *named(steward), path, timeout_s=BOOT_S)
        assert (ended.status, ended.stdout) == (105, b""), ended.stderr
        assert "[snp.measurement]" in ended.stderr
        assert serials(steward) == []
