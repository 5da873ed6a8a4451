# SPDX-License-Identifier: Apache-2.0
"""The chain of a self-test with a host that is a fake: which steps are tried, which are not, and that what was started is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from enarx.cli import selftest_chain
from enarx.cli.selftest_chain import HELLO, KINDS, hello_package, run_chain, selftest_policy
from enarx.cli.selftest_report import STEPS, Outcome, Trial
from enarx.errors import KeepError, PlatformError, TransportError
from enarx.host.launchers.own_process import mark_of
from enarx.verifier.policy_toml import decode_policy
from tests import fake_gramine

KIND = {kind.name: kind for kind in KINDS}
ID = "fedcba9876543210"


@pytest.fixture
def trial():
    return Trial("nil", "nil", changed=lambda: None)


@pytest.fixture
def host(monkeypatch):
    """A host that does what a test says."""
    host = SimpleNamespace(deleted=[], ended=[], create=lambda: ID, session=None, options=None)

    class Client:
        def __init__(self, address, *, token):
            pass

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            host.ended.append("client")

        async def create_keep(self, *, backend, memory_bytes, ports):
            return SimpleNamespace(id=host.create())

        async def list_keeps(self):
            return () if host.deleted else (SimpleNamespace(id=ID),)

        async def delete_keep(self, keep_id):
            host.deleted.append(keep_id)

        async def open_session(self, keep_id):
            raise TransportError("no session")

    @contextlib.asynccontextmanager
    async def private_host(*, options, words):
        host.options = options
        words.write(b"a warning")
        try:
            yield SimpleNamespace(address=None, token="t")
        finally:
            host.ended.append("host")

    monkeypatch.setattr(selftest_chain, "HostClient", Client)
    monkeypatch.setattr(selftest_chain, "private_host", private_host)
    monkeypatch.setattr(selftest_chain._Chain, "_predict", lambda self, image, found: None)
    return host


def chain(kind, trial, tmp_path):
    asyncio.run(run_chain(KIND[kind], trial, image_name="none", folder=str(tmp_path), fetch=None))
    assert {step.name for step in trial.steps} == set(STEPS)
    return {step.name: (step.outcome, step.reason or (step.error or {}).get("message")) for step in trial.steps}


def test_a_keep_that_does_not_start_leaves_nothing_to_tear_down(host, trial, tmp_path):
    def create():
        raise PlatformError("no QEMU")

    host.create = create
    steps = chain("nil", trial, tmp_path)
    assert steps["start"] == (Outcome.FAILED, "no QEMU")
    assert steps["evidence"] == steps["teardown"] == (Outcome.NOT_TRIED, "start failed")
    assert host.ended == ["client", "host"]
    assert trial.status == 108
    assert trial.host_said == "a warning"


def test_a_keep_that_cannot_be_asked_is_ended(host, trial, tmp_path):
    steps = chain("nil", trial, tmp_path)
    assert steps["start"][0] is Outcome.OK
    assert steps["evidence"] == (Outcome.FAILED, "no session")
    assert steps["verdict"] == (Outcome.NOT_TRIED, "evidence failed")
    assert steps["teardown"][0] is Outcome.OK
    assert host.deleted == [ID]
    assert host.ended == ["client", "host"]
    assert trial.status == 107


def test_what_still_runs_after_the_end_is_said(host, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_chain, "END_S", 0.05)
    command = [sys.executable, "-I", "-S", mark_of(ID), "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        # `Popen` returns while the kernel has yet to note the command line.
        child.stdout.readline()
        steps = chain("nil", trial, tmp_path)
        child.communicate(b"\n")
    assert steps["teardown"] == (
        Outcome.FAILED,
        "cannot end the Keep: found 1 of its processes after 0.05 s, want none",
    )


def test_another_command_line_than_was_computed_is_refused_and_the_keep_ended(host, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_chain._Chain, "_command", lambda self: ("/bin/qemu", "-name", f"keep-{'0' * 16}"))
    steps = chain("nil", trial, tmp_path)
    assert steps["start"][0] is Outcome.FAILED
    assert "found another command line than was computed" in steps["start"][1]
    assert host.deleted == [ID]


def test_a_machine_without_an_image_is_said(host, trial, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))
    steps = chain("snp", trial, tmp_path)
    assert steps["image"][0] is Outcome.FAILED
    assert "found no such image" in steps["image"][1]
    assert steps["start"] == (Outcome.NOT_TRIED, "image failed")
    assert host.options is None


def test_pef_has_a_command_line_and_no_keep(host, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_chain, "this_arch", lambda: "ppc64")
    steps = chain("pef", trial, tmp_path)
    assert "pef-guest,id=protection" in trial.steps[0].command
    assert steps["start"] == (Outcome.NOT_TRIED, "no Keep is deployed there: its guests have no way to give evidence")
    assert trial.outcome is Outcome.NOT_TRIED
    assert host.options is None


def test_pef_elsewhere_is_an_error(host, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_chain, "this_arch", lambda: "x86_64")
    assert chain("pef", trial, tmp_path)["command line"] == (
        Outcome.FAILED,
        "backend pef: found a machine of x86_64, want ppc64",
    )


def test_the_options_of_a_host(host, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_chain, "verify_image", lambda image: None)
    image = SimpleNamespace(name="n", digest="d", arch="aarch64")
    monkeypatch.setattr(selftest_chain._Chain, "_open_image", lambda self: image)
    monkeypatch.setattr(selftest_chain._Chain, "_command", lambda self: ())
    chain("cca", trial, tmp_path)
    assert host.options == ["--experimental", "--image=none"]
    chain("vm (emulated SNP)", trial, tmp_path)
    assert host.options == ["--image=none", "--vm-evidence=emulated-snp"]


# --- Enclaves


@pytest.fixture
def enclave(tmp_path, monkeypatch):
    """Stand-ins for Gramine's programs, and an image for them."""
    programs = fake_gramine.install(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("enarx.host.launchers.gramine._throwaway_key", lambda: b"-----BEGIN RSA PRIVATE KEY-----\n")
    monkeypatch.setattr("enarx.host.launchers.sgx._unpack", lambda image: image.folder)
    image = fake_gramine.image(tmp_path / "image")
    image.digest = "00" * 32
    monkeypatch.setattr(selftest_chain._Chain, "_open_image", lambda self: image)
    monkeypatch.setattr(selftest_chain, "verify_image", lambda image: None)
    return programs


def test_an_enclave_attests_itself_and_no_keep_is_started(enclave, host, trial, tmp_path):
    steps = chain("sgx", trial, tmp_path)
    by_name = {step.name: step for step in trial.steps}
    assert by_name["reference values"].facts["reference_values"] == {"sgx.mr_enclave": [fake_gramine.MEASUREMENT.hex()]}
    assert by_name["command line"].command == (str(enclave / "gramine-sgx"), "keep")
    assert steps["evidence"][0] is Outcome.OK
    # The stand-in's quotes are certified by nobody, which is what the verifier finds.
    assert steps["verdict"][0] is Outcome.FAILED
    assert by_name["verdict"].facts["result"]["tee"] == "sgx"
    assert steps["start"][0] is Outcome.NOT_TRIED
    assert "no Keep runs in an enclave" in steps["start"][1]
    assert steps["hello"] == (Outcome.NOT_TRIED, "verdict failed")
    assert host.options is None


def test_without_a_signer_the_measurement_is_unknown_and_nothing_is_started(enclave, host, trial, tmp_path):
    (enclave / "gramine-sgx-sign").unlink()
    steps = chain("sgx", trial, tmp_path)
    facts = {step.name: step for step in trial.steps}["reference values"].facts
    assert facts["mr_enclave"].startswith("unknown")
    assert "sgx.mr_enclave" in facts["not_computed"]
    assert steps["evidence"] == (
        Outcome.FAILED,
        "cannot sign an enclave: found no gramine-sgx-sign on PATH, want it",
    )


# --- The workload and its verdict


def test_the_workload_says_hello(tmp_path):
    package = hello_package(str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "enarx", "run", str(tmp_path / "hello.wasm")],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == HELLO
    assert package.memory_bytes == selftest_chain.MEMORY_BYTES


@pytest.mark.parametrize(("output", "status"), [(b"", 0), (HELLO, 3), (b"other", 0)])
def test_other_output_or_another_status_is_refused(output, status):
    from enarx.deploy.session import Ended

    class Conversation:
        async def converse(self, source, sink):
            await sink.write(1, output)
            await sink.write(2, b"why")
            return Ended(exit=SimpleNamespace(status=status, failure=None), was_signalled=False)

    found = SimpleNamespace(facts={})
    with pytest.raises(KeepError, match="the workload said something else"):
        asyncio.run(selftest_chain._hear(Conversation(), found))
    assert found.facts["status"] == status


@pytest.mark.parametrize("section", ["tdx", "tpm", "cca", "sgx"])
def test_a_policy_without_reference_values_leaves_them_out_by_name(section):
    text, missing = selftest_policy(section, {}, "ab" * 32 if section == "tpm" else None)
    decode_policy(text.encode(), path="selftest")
    document = tomllib.loads(text)
    assert missing
    assert all(document[section][key.partition(".")[2]]["skip"].startswith("no file says") for key in missing)


def test_a_policy_has_the_values_of_an_image_and_the_key():
    values = {f"pcr{index}": ["11" * 32] for index in (0, 2, 3, 4, 5, 6, 7, 8, 9)}
    text, missing = selftest_policy("tpm", values, "ab" * 32)
    document = tomllib.loads(text)
    assert missing == ("tpm.pcr1",)
    assert document["insecure_vtpm_aks"] == document["tpm"]["ak"] == ["ab" * 32]
    assert document["tpm"]["pcr4"] == ["11" * 32]
    decode_policy(text.encode(), path="selftest")
