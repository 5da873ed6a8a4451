# SPDX-License-Identifier: Apache-2.0
"""The try-it page as it is installed: a real service with a host of its own, real Keeps, and nothing left when it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys

import httpx2
import pytest

from tests.canary import make_canary, read_all, search
from tests.guests.build import guest
from tests.hosting import ServiceProcess

WAIT_S = 60.0


class PlaygroundProcess(ServiceProcess):
    """The command, with temporary folders of its own."""

    def __init__(self, folder, *options, listen="127.0.0.1:0"):
        folder.mkdir()
        self.folder = folder
        super().__init__(
            [sys.executable, "-m", "enarx", "playground", "serve", "--listen", listen, *options],
            env={**os.environ, "TMPDIR": str(folder)},
        )
        self.url = self.wait_for("playground on ").rpartition(" ")[2]

    def ask(self, method, path, **options):
        with httpx2.Client(base_url=self.url, trust_env=False, timeout=WAIT_S) as client:
            return client.request(method, path, **options)

    def run(self, **job):
        """Run a job to its end; return its id and its events."""
        answer = self.ask("POST", "/v1/jobs", json=job)
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["id"]
        text = self.ask("GET", f"/v1/jobs/{job_id}/events").text
        return job_id, [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with PlaygroundProcess(
        tmp_path_factory.mktemp("page") / "tmp", "--insecure-accept-emulated", "--timeout", "5s"
    ) as page:
        yield page


def output(events, fd=1):
    return b"".join(
        base64.b64decode(event["data"]) for event in events if event["kind"] == "output" and event["fd"] == fd
    )


def sent(module):
    return base64.b64encode(module).decode()


def test_an_example_runs_in_a_keep_that_was_judged(page):
    _, events = page.run(example="shout", stdin="quiet words\n")
    verdict = next(event for event in events if event["kind"] == "verdict")
    assert (verdict["verdict"], verdict["emulated"]) == ("accepted", True)
    assert {finding["outcome"] for finding in verdict["findings"]} <= {"passed", "noted", "skipped"}
    assert output(events) == b"QUIET WORDS\n"
    assert (events[-1]["kind"], events[-1]["status"]) == ("ended", 0)


def test_the_other_examples_do_what_they_say(page):
    _, hello = page.run(example="hello")
    assert output(hello) == b"Hello from a Keep!\n"
    _, trap = page.run(example="trap")
    assert trap[-1]["status"] == 134
    assert "look_beyond_its_memory" in trap[-1]["trap"]
    _, forever = page.run(example="forever")
    assert (forever[-1]["status"], forever[-1]["message"]) == (
        109,
        "workload stopped: wall time: found more than 2 s, want at most 2 s",
    )


def test_what_a_visitor_sends_runs_by_his_enarx_toml_and_is_kept_nowhere(page):
    canary = make_canary()
    module = guest("args_env").read_bytes()
    _, events = page.run(module=sent(module), **{"enarx-toml": f'[env]\nSECRET = "{canary}"\n'})
    assert canary.encode() in output(events)
    assert events[-1]["status"] == 0
    files = [path for path in page.folder.rglob("*") if path.is_file()]
    assert not search(canary, {**read_all(files), "log": "\n".join(page.lines).encode()})


def test_the_receipt_can_be_judged_again(page, tmp_path):
    from enarx.deploy import rejudge
    from enarx.wire.receipt_file import decode_receipt_untrusted

    job_id, _ = page.run(example="hello")
    receipt = page.ask("GET", f"/v1/jobs/{job_id}/receipt").content
    assert rejudge(decode_receipt_untrusted(receipt))
    # The deployment's key and its copy of the receipt went with the Keep.
    (state,) = page.folder.glob("enarx-playground-*")
    assert not [path for path in state.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (b"hello", "want 00 61 73 6d"),
        (b'(module (import "env" "emscripten_memcpy_js" (func)) (func (export "_start")))', "not for Emscripten"),
        (b'(module (import "wbg" "__wbg_log" (func)) (func (export "_start")))', "wasm-bindgen's JavaScript glue"),
    ],
)
def test_says_what_is_wrong_with_a_module(page, module, problem):
    _, events = page.run(module=sent(module))
    assert events[-1]["kind"] == "ended"
    assert problem in f"{events[-1]['message']} {events[-1]['hint']}"


def test_a_keep_that_is_not_accepted_gets_nothing(tmp_path):
    with PlaygroundProcess(tmp_path / "tmp", "--offline") as page:
        _, events = page.run(example="hello")
        kinds = [event["kind"] for event in events]
        assert "running" not in kinds
        assert kinds[-2:] == ["verdict", "failed"]
        assert events[-2]["verdict"] != "accepted"
        assert events[-1]["status"] in {104, 105}


def test_it_ends_with_all_its_jobs_and_leaves_nothing(tmp_path):
    with PlaygroundProcess(tmp_path / "tmp", "--insecure-accept-emulated", "--timeout", "60s") as page:
        spin = sent(b'(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))')
        job_id = page.ask("POST", "/v1/jobs", json={"module": spin}).json()["id"]
        with (
            httpx2.Client(base_url=page.url, trust_env=False, timeout=WAIT_S) as client,
            client.stream("GET", f"/v1/jobs/{job_id}/events") as answer,
        ):
            lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
            while next(lines)["kind"] != "running":
                pass
            page.signal(signal.SIGTERM)
            last = next(event for event in lines if event["kind"] == "failed")
            assert last["message"] == "stopped"
        assert page.wait() == 0
        assert list(page.folder.iterdir()) == []
        assert not [line for line in page.lines if line and re.search(job_id, line)]
