# SPDX-License-Identifier: Apache-2.0
"""`enarx platform selftest` with probes and chains that are fakes; the real ones are tests/integration/test_selftest.py."""

from __future__ import annotations

import json
import os
import stat

import pytest

from enarx import cli
from enarx.cli import platform_selftest, selftest_chain
from enarx.cli.platform_selftest import reason_against
from enarx.errors import KeepError, UsageError
from enarx.host import probes
from enarx.host.probes import BackendReport, Datum

HAS = {"nil", "vm"}


def probed(backend, *, present=None, configured=True):
    present = backend in HAS if present is None else present
    return BackendReport(
        backend=backend,
        present=present,
        configured=configured,
        usable=present,
        why=None if present else "CPU: another",
        data=(Datum(name="CPU", passed=present, fix=None if present else "buy one"),),
    )


@pytest.fixture
def tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probes, "this_machine", lambda: None)
    monkeypatch.setattr(probes, "report_backend", lambda backend, machine: probed(backend))
    monkeypatch.setattr(platform_selftest, "_system", lambda: {"kernel": "Linux"})
    tried = []

    def written():
        """Return the step that is on the disk last."""
        backends = json.loads((tmp_path / "r.json").read_text())["backends"]
        return backends[-1]["steps"][-1]["step"]

    async def run_chain(kind, trial, *, image_name, folder, fetch):
        assert os.listdir(folder) == []
        tried.append((kind.name, image_name))
        with trial.step("verdict"):
            # What there was until here is there, whatever this step does to the machine.
            assert written() == "probes"
        assert written() == "verdict"
        trial.skip_rest("enough")

    monkeypatch.setattr(selftest_chain, "run_chain", run_chain)
    return tried


def run(capfd, *argv):
    status = cli.main(["platform", "selftest", "--offline", *argv])
    out, err = capfd.readouterr()
    return status, out, err


def test_what_the_machine_has_is_tried_and_the_rest_is_said(tried, tmp_path, capfd):
    status, out, err = run(capfd, "--report", "r.json", "--image", "mine")
    assert status == 0
    assert tried == [("vm (virtual TPM)", "mine"), ("vm (emulated SNP)", "mine"), ("nil", "mine")]
    assert "- snp: not tried: no snp: CPU: another\n" in out
    assert "✔ nil: ok: enough\n" in out
    document = json.loads((tmp_path / "r.json").read_text())
    assert [each["outcome"] for each in document["backends"]] == ["not tried"] * 5 + ["ok"] * 3
    assert document["backends"][0]["steps"][0]["facts"]["data"][0]["fix"] == "buy one"
    text = (tmp_path / "r.txt").read_text()
    assert text.startswith("To send this report: attach r.json and r.txt")
    assert "      ✗ CPU -> buy one\n" in text
    assert "enarx: wrote r.json and r.txt" in err


def test_the_files_are_for_their_owner(tried, tmp_path, capfd):
    os.umask(os.umask(0o022))
    run(capfd, "--report", "r.json")
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("r.json", "r.txt")} == {0o600}
    assert sorted(os.listdir(tmp_path)) == ["r.json", "r.txt"]


def test_a_backend_that_is_asked_for_is_tried_alone_and_whatever_the_probes_say(tried, capfd):
    status, out, err = run(capfd, "--report", "r.json", "--backend", "snp", "--backend", "nil")
    assert status == 0
    assert [name for name, _ in tried] == ["snp", "nil"]
    assert "snp: trying, although the probes say: no snp: CPU: another" in err
    assert "tdx" not in out


def test_the_status_is_that_of_what_failed(tried, monkeypatch, capfd):
    async def fails(kind, trial, **_):
        from enarx.cli.selftest_report import StepFailedError

        with pytest.raises(StepFailedError), trial.step("start"):
            raise KeepError("it ended")

    monkeypatch.setattr(selftest_chain, "run_chain", fails)
    status, out, err = run(capfd, "--report", "r.json", "--backend", "nil")
    assert status == 109
    assert "✗ nil: failed: start: it ended" in out
    assert "nil: failed: start: it ended" in err


def test_json_is_the_same_document_as_the_file(tried, tmp_path, capfd):
    _, out, _ = run(capfd, "--report", "r.json", "--json", "--backend", "nil")
    assert json.loads(out) == json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize("name", ["r.json", "r.txt"])
def test_a_file_that_is_there_stays(tried, tmp_path, capfd, name):
    (tmp_path / name).write_text("mine")
    status, _, err = run(capfd, "--report", "r.json")
    assert (status, tried) == (2, [])
    assert f"cannot write {name}: found one already" in err
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_is_not_there_is_said(tried, capfd):
    status, _, err = run(capfd, "--report", "none/r.json")
    assert (status, tried) == (2, [])
    assert "cannot write none/r.json.new: No such file or directory" in err


def test_an_unknown_backend_is_refused(tried, capfd):
    status, _, err = run(capfd, "--backend", "svn")
    assert status == 2
    assert "--backend: found 'svn', want one of snp, tdx, cca, pef, sgx, vm, nil" in err


def test_without_a_name_the_report_is_named_by_its_time(tried, tmp_path, monkeypatch, capfd):
    async def run_chain(kind, trial, **_):
        trial.skip_rest("enough")

    monkeypatch.setattr(selftest_chain, "run_chain", run_chain)
    assert run(capfd, "--backend", "nil")[0] == 0
    names = sorted(os.listdir(tmp_path))
    assert [name.rpartition(".")[2] for name in names] == ["json", "txt"]
    assert names[0].startswith("enarx-selftest-20")


def test_what_is_not_known_to_be_missing_is_tried():
    assert reason_against(probed("cca", present=True, configured=None)) is None
    assert reason_against(probed("nil")) is None
    assert reason_against(probed("vm", configured=False)) is not None
    assert reason_against(probed("snp")) == "no snp: CPU: another"


def test_what_a_machine_consists_of_is_told_without_its_name():
    system = platform_selftest._system()
    assert os.uname().release in system["kernel"]
    assert os.uname().nodename not in json.dumps(system)


def test_a_program_that_is_not_there_has_no_version(tmp_path, monkeypatch):
    assert platform_selftest._version("no-such-program-at-all") is None
    program = tmp_path / "odd"
    program.write_text("#!/bin/sh\necho first; echo second; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert platform_selftest._version("odd") == "first"
    program.write_text("#!/bin/sh\nexit 3\n")
    assert platform_selftest._version("odd") == "status 3"


def test_backends_of_the_option_are_those_of_the_chain():
    assert [kind.backend for kind in selftest_chain.KINDS if kind.evidence != "emulated-snp"] == list(
        platform_selftest._BACKENDS
    )
    with pytest.raises(UsageError):
        platform_selftest._wanted(platform_selftest.COMMANDS["platform selftest"].parse(["--backend", ""]))
