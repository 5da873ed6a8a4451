# SPDX-License-Identifier: Apache-2.0
"""Every case of the evidence corpus, judged by the tool that anybody can run on a corpus of his own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.evidence import FOLDER, cases, needs_evidence

TOOL = os.path.join(os.path.dirname(__file__), "..", "..", "tools", "judge_corpus.py")
TEES = ("snp", "sgx", "tdx", "nitro", "cca", "azure", "tpm", "measure")
IDS = [(tee, case["id"]) for tee in TEES for case in cases(tee)]


@pytest.fixture(scope="module")
def answers():
    """The line of each case."""
    done = subprocess.run([sys.executable, TOOL, FOLDER], capture_output=True, check=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["id"]: line for line in lines}


@needs_evidence
def test_answers_every_case_once_and_in_no_other_words(answers):
    assert set(answers) == {name for _, name in IDS}
    wanted = {"id", "verdict", "reasons", "error", "claims", "tcb_status", "advisory_ids", "seconds"}
    assert {frozenset(line) for line in answers.values()} == {frozenset(wanted)}


@needs_evidence
@pytest.mark.parametrize(("tee", "name"), IDS)
def test_gives_the_verdict_for_a_reason_that_is_listed(tee, name, answers):
    (case,) = (each for each in cases(tee) if each["id"] == name)
    answer = answers[name]
    assert answer["verdict"] == case["verdict"], answer
    if case["verdict"] == "invalid" and case["reasons"]:
        assert set(answer["reasons"]) & set(case["reasons"]), answer
    # What the platform was is the corpus's own remark: the evidence does not say it.
    claims = {key: value for key, value in case["claims"].items() if key != "platform"}
    assert {key: answer["claims"].get(key) for key in claims} == claims
    for key in ("tcb_status", "advisory_ids"):
        if key in case:
            assert answer[key] == case[key]


def test_says_how_it_is_called(tmp_path):
    done = subprocess.run([sys.executable, TOOL, str(tmp_path)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert b"found no folder with cases.jsonl" in done.stderr


def test_a_case_that_cannot_be_put_is_said_and_the_next_one_judged(tmp_path):
    cases_file = tmp_path / "cases.jsonl"
    lines = [
        {"id": "gone", "tee": "snp", "inputs": {"report": "gone.bin"}, "eval_time": "any"},
        {"id": "other", "tee": "snp", "inputs": {"surprise": "x"}, "eval_time": "any"},
        {"id": "text", "tee": "snp", "inputs": {"report": "cases.jsonl"}, "eval_time": "any"},
    ]
    cases_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run([sys.executable, TOOL, str(tmp_path)], capture_output=True, check=True, timeout=60)
    gone, other, text = (json.loads(line) for line in done.stdout.splitlines())
    assert (gone["verdict"], gone["error"]) == (None, "UsageError")
    assert (other["verdict"], other["error"]) == (None, "UsageError")
    assert (text["verdict"], text["error"]) == ("invalid", "DecodeError")
