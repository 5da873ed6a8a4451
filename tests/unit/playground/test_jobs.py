# SPDX-License-Identifier: Apache-2.0
"""Jobs from their start until they are forgotten: what is told, what is taken down, and who has to wait."""

from __future__ import annotations

import asyncio
import json

import pytest

from enarx.errors import AppraisalError, KeepError, TransportError
from enarx.playground import jobs as module
from enarx.playground.jobs import MAX_FOLLOWERS
from enarx.rats import Finding, Outcome
from enarx.serving.requests import RefusedError
from enarx.wire.session import Exit, ExitFailure
from tests.loops import run
from tests.unit.playground.conftest import end, until
from tests.unit.wire.test_result_json import CHECK, make

PASSED = make(Finding(CHECK, Outcome.PASSED, None, 0, "p"))


async def follow(job, begin=0):
    return [(number, json.loads(text)) async for number, text in job.follow(begin)]


async def kinds(job):
    return [event["kind"] for _, event in await follow(job)]


def test_a_job_tells_what_happens(make_jobs, host, package):
    host.say, host.verdict = ("uploading",), PASSED

    async def test():
        jobs = make_jobs()
        job = jobs.start("anna", package, b"abcdef")
        found = await follow(job)
        assert [number for number, _ in found] == list(range(8))
        started, note, verdict, running, *output, ended = [event for _, event in found]
        assert started == {"kind": "started", "package": package.digest.hex(), "backend": "nil"}
        assert note == {"kind": "note", "text": "uploading"}
        assert (verdict["verdict"], verdict["image"], verdict["format"]) == ("accepted", "enarx 1", "a report")
        assert verdict["findings"]
        assert running == {"kind": "running", "keep": "f00d"}
        assert [(event["fd"], event["data"]) for event in output] == [(1, "YWJjZA=="), (1, "ZWY="), (2, "/w==")]
        ended = {**ended}
        assert ended.pop("seconds") >= 0
        assert ended == {"kind": "ended", "status": 0, "trap": None, "message": None, "hint": None}
        assert await follow(job, 7) == found[7:]
        assert job.receipt == b"receipt"
        await end(jobs)

    run(test)
    assert (host.deleted, host.removed) == (["f00d"], ["f00d"])
    assert host.options["backend"] == "nil"
    assert (host.options["accept_emulated"], host.options["state_root"]) == ("", "/nowhere")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Exit(3, None, None, "a hint"), {"status": 3, "trap": None, "message": None, "hint": "a hint"}),
        (Exit(0, None, None, "a hint"), {"status": 0, "trap": None, "message": None, "hint": None}),
        (Exit(134, None, "a trap", None), {"status": 134, "trap": "a trap", "message": None, "hint": None}),
        (
            Exit(109, ExitFailure(109, "too long", "be quick"), None, None),
            {"status": 109, "trap": None, "message": "too long", "hint": "be quick"},
        ),
    ],
)
def test_the_end_is_the_workloads(make_jobs, host, package, found, told):
    host.exit = found

    async def test():
        jobs = make_jobs()
        (*_, (_, last)) = await follow(jobs.start("anna", package, b""))
        assert {**told, "kind": "ended", "seconds": last["seconds"]} == last
        await end(jobs)

    run(test)


def test_a_refusal_has_its_findings(make_jobs, host, package):
    host.error = AppraisalError("refused: debug", hint="look")
    host.error.result = make(Finding(CHECK, Outcome.FAILED, None, 2, "p"))

    async def test():
        jobs = make_jobs()
        found = [event for _, event in await follow(jobs.start("anna", package, b""))]
        assert [event["kind"] for event in found] == ["started", "verdict", "failed"]
        assert (found[2]["status"], found[2]["message"], found[2]["hint"]) == (105, "refused: debug", "look")
        await end(jobs)

    run(test)
    assert (host.deleted, host.removed) == ([], [])


def test_a_session_that_breaks_takes_the_keep_down(make_jobs, host, package):
    async def breaks(source, sink):
        raise TransportError("lost")

    host.talk, host.delete_error = breaks, KeepError("it is gone")

    async def test():
        jobs = make_jobs()
        assert (await kinds(jobs.start("anna", package, b"")))[-1] == "failed"
        await end(jobs)

    run(test)
    assert (host.deleted, host.removed) == (["f00d"], ["f00d"])


def test_a_bug_is_logged_and_told_as_one(make_jobs, host, package, log):
    host.error = RuntimeError("a secret of the visitor's")

    async def test():
        jobs = make_jobs()
        (*_, (_, last)) = await follow(jobs.start("anna", package, b""))
        assert (last["kind"], last["message"]) == ("failed", "cannot run the job: found a bug of this page's")
        await end(jobs)

    run(test)
    assert log.errors == ["bug"]


async def for_ever(source, sink):
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["stop", "close", "timeout"])
def test_a_job_that_does_not_end_is_ended(make_jobs, host, package, monkeypatch, how):
    host.talk = for_ever

    async def test():
        jobs = make_jobs(timeout_s=0.05 if how == "timeout" else 5.0)
        job = jobs.start("anna", package, b"")
        following = asyncio.create_task(follow(job))
        await until(lambda: job.receipt is not None)
        if how == "stop":
            jobs.stop(job.id)
        elif how == "close":
            await jobs.close()
        (*_, (_, last)) = await following
        wanted = "cannot run the job: found no end of it in time, want one" if how == "timeout" else "stopped"
        assert (last["kind"], last["message"]) == ("failed", wanted)
        await end(jobs)
        # Once more is no error.
        jobs.stop(job.id)

    monkeypatch.setattr(module, "START_S", 0.0 if how == "timeout" else 60.0)
    run(test)
    assert (host.deleted, host.removed) == (["f00d"], ["f00d"])


def test_a_visitor_has_one_job_at_a_time_and_all_have_so_many(make_jobs, host, package):
    host.talk = for_ever

    async def test():
        jobs = make_jobs(at_once=2)
        jobs.require_room("anna")
        first = jobs.start("anna", package, b"")
        with pytest.raises(RefusedError, match="found one of yours running") as refused:
            jobs.require_room("anna")
        assert refused.value.status == 409
        jobs.require_room("bert")
        jobs.start("bert", package, b"")
        with pytest.raises(RefusedError, match="found 2 running") as refused:
            jobs.require_room("carl")
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
        jobs.stop(first.id)
        await follow(first)
        await until(lambda: jobs.running == 1)
        jobs.require_room("anna")
        await jobs.close()

    run(test)


def test_a_job_is_forgotten_after_its_end(make_jobs, host, package, monkeypatch):
    monkeypatch.setattr(module, "FORGET_S", 0.0)

    async def test():
        jobs = make_jobs()
        job = jobs.start("anna", package, b"")
        assert jobs.find(job.id) is job
        await follow(job)
        await end(jobs)
        await asyncio.sleep(0)
        for ask in (jobs.find, jobs.stop):
            with pytest.raises(RefusedError, match="found none of that id") as refused:
                ask(job.id)
            assert refused.value.status == 404

    run(test)


def test_so_many_may_watch_a_job(make_jobs, host, package):
    async def test():
        jobs = make_jobs()
        job = jobs.start("anna", package, b"")
        watching = [job.follow(0) for _ in range(MAX_FOLLOWERS)]
        with pytest.raises(RefusedError) as refused:
            job.follow(0)
        assert refused.value.status == 429
        for events in watching:
            await anext(events)
            await events.aclose()
        assert await follow(job)
        await end(jobs)

    run(test)


def test_ids_cannot_be_guessed(make_jobs, host, package):
    async def test():
        jobs = make_jobs(at_once=1000)
        ids = {jobs.start(str(number), package, b"").id for number in range(100)}
        assert len(ids) == 100
        assert all(len(each) == 22 for each in ids)
        await jobs.close()

    run(test)


def test_an_end_that_is_not_the_workloads_is_a_failure(make_jobs, host, package):
    async def leaves(source, sink):
        return "detached"

    host.talk = leaves

    async def test():
        jobs = make_jobs()
        assert (await kinds(jobs.start("anna", package, b"")))[-1] == "failed"
        await end(jobs)

    run(test)
