# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json

import pytest

from enarx import __version__
from enarx.cli.platform import format_json, format_text, run_info
from enarx.host import probes
from enarx.host.probes import BackendReport, Datum, PlatformReport

ADVICE = "switch it on"


def make_report(brand="AMD EPYC"):
    cpu = Datum(
        name="CPU",
        passed=None,
        data=(
            Datum(name="CPU brand", passed=True, info=brand),
            Datum(name="SEV", passed=None, info="could not be determined", fix=ADVICE),
            Datum(name="SNP", passed=False, fix=ADVICE),
        ),
    )
    return PlatformReport(
        version="1.2.3",
        sysname="Linux",
        release="6.18",
        machine="x86_64",
        backends=(
            BackendReport(backend="snp", present=None, configured=False, usable=False, why="no luck", data=(cpu,)),
            BackendReport(backend="sgx", present=False, configured=False, usable=False, why="no SGX", data=()),
            BackendReport(backend="vm", present=True, configured=False, usable=False, why="no QEMU", data=()),
            BackendReport(backend="nil", present=True, configured=True, usable=True, why=None, data=()),
        ),
    )


class Stream(io.TextIOWrapper):
    """A text stream that can be a terminal and have a narrow encoding."""

    def __init__(self, *, terminal=False, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def written(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(probes, "this_machine", lambda: None)
    monkeypatch.setattr(probes, "report_platform", lambda _: make_report())


def test_the_text_has_a_line_per_answer_and_each_advice_once():
    assert format_text(make_report()).splitlines() == [
        "enarx 1.2.3",
        "system: Linux 6.18 x86_64",
        "✗ snp: not usable, not known to be present: no luck",
        "  ? CPU",
        "    ✔ CPU brand: AMD EPYC",
        f"    ? SEV: could not be determined -> {ADVICE}",
        "    ✗ SNP",
        "✗ sgx: not present: no SGX",
        "✗ vm: present, not usable: no QEMU",
        "✔ nil: usable",
    ]


def test_the_json_has_every_key_and_null_for_what_is_missing():
    document = json.loads(format_json(make_report()))
    assert list(document) == ["version", "system", "backends"]
    assert document["system"] == {"sysname": "Linux", "release": "6.18", "machine": "x86_64"}
    first = document["backends"][0]
    assert list(first) == ["backend", "present", "configured", "usable", "why", "data"]
    assert first["present"] is None
    assert document["backends"][-1]["why"] is None
    cpu = first["data"][0]
    assert cpu == {
        "name": "CPU",
        "pass": None,
        "info": None,
        "fix": None,
        "data": [
            {"name": "CPU brand", "pass": True, "info": "AMD EPYC", "fix": None, "data": []},
            {"name": "SEV", "pass": None, "info": "could not be determined", "fix": ADVICE, "data": []},
            {"name": "SNP", "pass": False, "info": None, "fix": ADVICE, "data": []},
        ],
    }


def test_json_output_is_one_document_and_nothing_else():
    out = Stream(terminal=True)
    assert run_info(json_output=True, out=out) == 0
    assert json.loads(out.written()) == json.loads(format_json(make_report()))
    assert "\x1b" not in out.written()


def test_colour_is_for_terminals_only():
    terminal, pipe = Stream(terminal=True), Stream()
    assert run_info(json_output=False, out=terminal) == 0
    assert run_info(json_output=False, out=pipe) == 0
    assert "\x1b[32m✔\x1b[0m nil: usable" in terminal.written()
    assert pipe.written() == format_text(make_report())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    out = Stream(terminal=True)
    run_info(json_output=False, out=out)
    assert "\x1b" not in out.written()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_narrow_encoding_gets_plain_marks_and_no_failure(monkeypatch, encoding):
    monkeypatch.setattr(probes, "report_platform", lambda _: make_report("測試 CPU"))
    out = Stream(encoding=encoding)
    assert run_info(json_output=False, out=out) == 0
    assert "+ nil: usable" in out.written()
    assert "- sgx: not present: no SGX" in out.written()
    assert "?? CPU" in out.written()


def test_a_name_with_control_characters_cannot_reach_the_terminal(monkeypatch):
    monkeypatch.setattr(probes, "report_platform", lambda _: make_report("\x1b]0;owned\x07EPYC\r\x9b2J\u202e"))
    for json_output in (False, True):
        out = Stream()
        run_info(json_output=json_output, out=out)
        assert all(character.isprintable() or character == "\n" for character in out.written())
        assert "\\u001b" not in out.written()


def test_the_report_of_this_machine_names_this_version(monkeypatch):
    monkeypatch.undo()
    out = Stream()
    assert run_info(json_output=True, out=out) == 0
    document = json.loads(out.written())
    assert document["version"] == __version__
    assert [backend["backend"] for backend in document["backends"]] == ["snp", "tdx", "cca", "pef", "sgx", "vm", "nil"]
