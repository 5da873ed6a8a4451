# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from enarx.cli.selftest_report import FORMAT, STEPS, Outcome, Report, StepFailedError, Trial
from enarx.errors import EndorsementError, PlatformError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.25
        return self.now


@pytest.fixture
def report():
    return Report(made_at="2026-01-02T03:04:05Z", enarx="1.2.3", system={"kernel": "Linux 6.1", "swtpm": None})


@pytest.fixture
def trial(report):
    changes = []
    report.trials.append(Trial("snp", "snp", changed=lambda: changes.append(1), clock=Clock()))
    report.trials[0].changes = changes
    return report.trials[0]


def fail(trial, name, error):
    with pytest.raises(StepFailedError, match=name), trial.step(name):
        raise error


def test_a_step_has_its_time_what_was_found_and_the_command(trial):
    with trial.step("start") as found:
        found.facts["keep"] = "0123"
        found.command = ("qemu", "-m", "1")
        assert trial.changes == []
    step = trial.steps[0]
    assert (step.name, step.outcome, step.elapsed_s) == ("start", Outcome.OK, 0.25)
    assert (step.facts, step.command, step.error) == ({"keep": "0123"}, ("qemu", "-m", "1"), None)
    assert trial.changes == [1]


def test_a_step_that_fails_has_class_message_hint_and_what_was_found_before(trial):
    def start():
        with trial.step("start") as found:
            found.facts["keep"] = "0123"
            found.command = ("qemu",)
            raise PlatformError("cannot run QEMU: found status 1", hint="install another")

    with pytest.raises(StepFailedError):
        start()
    step = trial.steps[0]
    assert step.error == {
        "class": "PlatformError",
        "message": "cannot run QEMU: found status 1",
        "hint": "install another",
    }
    assert (step.outcome, step.status, step.facts, step.command) == (Outcome.FAILED, 108, {"keep": "0123"}, ("qemu",))
    assert (trial.outcome, trial.status) == (Outcome.FAILED, 108)
    assert trial.why == "start: cannot run QEMU: found status 1"


def test_a_bug_is_in_the_record_with_its_traceback(trial):
    fail(trial, "evidence", KeyError("x"))
    step = trial.steps[0]
    assert (step.error["class"], step.status) == ("bug: KeyError", 1)
    assert "test_selftest_report.py" in step.facts["traceback"]


def test_an_interrupt_is_no_step_that_failed(trial):
    with pytest.raises(KeyboardInterrupt), trial.step("start"):
        raise KeyboardInterrupt
    assert trial.steps == []


def test_what_follows_is_in_the_record_and_not_tried(trial):
    fail(trial, "image", PlatformError("none"))
    trial.skip_rest("image failed", but=("teardown",))
    trial.skip_rest("another reason")
    assert {step.name for step in trial.steps} == set(STEPS)
    assert {step.name: step.reason for step in trial.steps if step.name in {"start", "teardown"}} == {
        "start": "image failed",
        "teardown": "another reason",
    }
    assert all(step.outcome is Outcome.NOT_TRIED for step in trial.steps[1:])


def test_a_trial_is_ok_where_evidence_was_accepted_and_says_how_far_it_went(trial):
    with trial.step("probes"):
        pass
    assert trial.outcome is Outcome.NOT_TRIED
    with trial.step("verdict"):
        pass
    trial.skip_rest("no Keep runs there")
    assert (trial.outcome, trial.why, trial.status) == (Outcome.OK, "no Keep runs there", 0)


def test_a_trial_that_went_to_its_end_has_nothing_to_explain(trial):
    for name in ("verdict", "hello", "teardown"):
        with trial.step(name):
            pass
    assert (trial.outcome, trial.why) == (Outcome.OK, None)


def test_the_status_of_all_is_that_of_the_first_that_failed(report, trial):
    report.trials.append(Trial("tdx", "tdx", changed=lambda: None))
    assert report.status == 0
    fail(report.trials[1], "verdict", EndorsementError("stale"))
    assert report.status == 106
    fail(trial, "start", PlatformError("no"))
    assert report.status == 108


def test_the_document(report, trial):
    with trial.step("command line") as found:
        found.command = ("qemu", "-append", "a b")
        found.facts["a list"] = ["1", "2"]
    fail(trial, "start", PlatformError("no"))
    trial.skip_rest("start failed")
    document = json.loads(json.dumps(report.document()))
    assert document["format"] == FORMAT
    assert document["system"] == {"kernel": "Linux 6.1", "swtpm": None}
    (backend,) = document["backends"]
    assert backend["steps"][:3] == [
        {
            "step": "command line",
            "outcome": "ok",
            "elapsed_s": 0.25,
            "command": ["qemu", "-append", "a b"],
            "facts": {"a list": ["1", "2"]},
        },
        {
            "step": "start",
            "outcome": "failed",
            "elapsed_s": 0.25,
            "error": {"class": "PlatformError", "message": "no", "hint": None},
        },
        {"step": "probes", "outcome": "not tried", "reason": "start failed"},
    ]
    assert (backend["outcome"], backend["why"], backend["host_said"]) == ("failed", "start: no", "")


def test_the_text(report, trial):
    with trial.step("command line") as found:
        found.command = ("qemu", "-append", "a b")
        found.facts |= {
            "short": "1",
            "long": "x" * 5000,
            "table": {"not": {"shown": 1}},
            "values": {"a": ["1"]},
            "text": "b\nc",
            "a list": ["1", "2"],
        }
        found.lines.append("a line")
    fail(trial, "start", PlatformError("no\x1b[31m", hint="try"))
    assert report.text().splitlines() == [
        "enarx 1.2.3 self-test, 2026-01-02T03:04:05Z",
        "kernel: Linux 6.1",
        "swtpm: not there",
        "",
        "✗ snp: failed: start: no�[31m",
        "  ✔ command line (0.25 s)",
        "      $ qemu -append 'a b'",
        "      short: 1",
        "      long: 5000 characters, which the JSON has",
        "      values, a: 1",
        "      text: 3 characters, which the JSON has",
        "      a list: 1, 2",
        "      a line",
        "  ✗ start (0.25 s): no�[31m",
        "      hint: try",
    ]
    assert "a line" not in report.text(brief=True)
    assert "hint: try" in report.text(brief=True)


def test_what_the_host_said_is_at_the_end(report, trial):
    fail(trial, "start", PlatformError("no"))
    trial.host_said = "error bug\n  Traceback\x1b"
    assert report.text(brief=True).splitlines()[-3:] == ["  the host said:", "      error bug", "        Traceback�"]
    assert report.document()["backends"][0]["host_said"] == "error bug\n  Traceback\x1b"


def test_what_was_not_tried_is_one_line(report, trial):
    with trial.step("probes") as found:
        found.lines.append("the processor has none")
    trial.skip_rest("no snp: none")
    assert report.text(brief=True).splitlines()[3:] == ["", "- snp: not tried: no snp: none"]
    assert report.text().splitlines()[-1] == "      the processor has none"
