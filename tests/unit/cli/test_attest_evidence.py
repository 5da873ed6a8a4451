# SPDX-License-Identifier: Apache-2.0
"""`enarx attest evidence`: what it writes is what `attest verify` reads."""

from __future__ import annotations

import os

import pytest

import enarx.attester
from enarx.attester import find_attester
from enarx.cli.attest_evidence import COMMANDS
from enarx.errors import PlatformError, UsageError
from enarx.rats import Evidence, Verdict
from enarx.testing.attesters import FakeSystem, snp_source
from enarx.testing.attesters_configfs import FakeConfigfs, snp_provider
from enarx.testing.attesters_tpm import FakeTpmDevice
from enarx.testing.snp import AT, FakeAmd
from enarx.testing.tpm import FakeTpm
from enarx.verifier import recognise, verify_evidence
from enarx.wire.cmw import decode_cmw_untrusted

AMD = FakeAmd()
COMMAND = COMMANDS["attest evidence"]
NONCE = "00ff1e"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with SEV-SNP and a TPM."""
    devices = {
        "/sys/kernel/config/tsm/report": FakeConfigfs(snp_provider(snp_source(AMD))),
        "/dev/tpmrm0": FakeTpmDevice(FakeTpm(kind="ecc")),
    }
    system = FakeSystem(devices)
    monkeypatch.setattr(enarx.attester, "find_attester", lambda **options: find_attester(system=system, **options))
    return system


def run(*arguments):
    return COMMAND.run(COMMAND.parse(list(arguments)))


def judge(data, report_data):
    return verify_evidence(Evidence(data=data), at=AT, anchors=AMD.anchors, report_data=report_data)


def test_a_file_has_evidence_and_certificates(tmp_path, capfd):
    path = tmp_path / "evidence.cmw"
    assert run("--nonce", NONCE, "--output", str(path)) == 0
    judge(path.read_bytes(), bytes.fromhex(NONCE)).require()
    assert judge(path.read_bytes(), b"another").verdict is Verdict.REFUSED
    out, err = capfd.readouterr()
    assert not out
    assert err == f"enarx: evidence of backend snp; judge it with --report-data {NONCE.ljust(128, '0')}\n"


def test_a_pipe_gets_the_bytes(capfdbinary):
    assert run("--nonce", f"0x{NONCE}") == 0
    judge(capfdbinary.readouterr().out, bytes.fromhex(NONCE)).require()


def test_json_is_one_document(capfd):
    assert run("--nonce", NONCE, "--json") == 0
    out, _ = capfd.readouterr()
    assert out.endswith("}\n")
    assert out.count("\n") == 1
    judge(out.encode(), bytes.fromhex(NONCE)).require()


def test_without_a_nonce_it_is_random_and_said(capfd):
    said = set()
    for _ in range(2):
        run("--json")
        out, err = capfd.readouterr()
        said.add(err)
        judge(out.encode(), bytes.fromhex(err.split()[-1])).require()
    assert len(said) == 2


def test_another_backend_can_be_asked_for(capfdbinary):
    run("--backend", "vm", "--nonce", NONCE)
    data = capfdbinary.readouterr().out
    assert recognise(Evidence(data=data)).section == "tpm"
    assert decode_cmw_untrusted(data).type == "application/vnd.enarx.tpm-quote+json"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--backend", "tdx"], PlatformError, "tdx: found no device"),
        (["--backend", "nil"], UsageError, "backend: found nil"),
        (["--nonce", "xyz"], UsageError, "--nonce: found xyz, want hex"),
        (["--nonce", ""], UsageError, "--nonce: found 0 bytes, want 1 to 64"),
        (["--nonce", "00" * 65], UsageError, "--nonce: found 65 bytes, want 1 to 64"),
        (["--output", "/nowhere/at/all"], UsageError, "cannot write /nowhere/at/all: No such file"),
    ],
)
def test_mistakes_are_said(arguments, error, words):
    with pytest.raises(error) as caught:
        run(*arguments)
    assert words in str(caught.value)


def test_a_terminal_gets_no_bytes(monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    with pytest.raises(UsageError, match="found a terminal, want a file or a pipe") as caught:
        run()
    assert "--output FILE" in caught.value.hint


def test_the_choices_are_the_backends():
    choices = next(option.choices for option in COMMAND.options if option.name == "backend")
    assert choices == enarx.attester.BACKENDS
