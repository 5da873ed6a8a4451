# SPDX-License-Identifier: Apache-2.0
"""What the page asks for: what is answered, and what is refused before anything is run."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx2
import pytest

from enarx.playground import api as module
from enarx.playground.api import make_app
from enarx.playground.modules import find_examples
from enarx.playground.visitors import Visitors
from enarx.serving.logs import Log
from tests.loops import run
from tests.recorder import Recorder
from tests.unit.playground.conftest import end
from tests.unit.playground.test_modules import LIMITS, MODULE

HERE = "http://127.0.0.1:8480"
UPLOAD = {"module": base64.b64encode(MODULE).decode()}


class Page:
    """The application, asked without a network."""

    def __init__(self, jobs, *, is_local=True, header=None, emulated=True, an_hour=60):
        self.jobs = jobs
        self.log = Recorder()
        self.app = make_app(
            jobs=jobs,
            visitors=Visitors(an_hour=an_hour, header=header, time_s=lambda: 0.0),
            examples=find_examples(None),
            limits=LIMITS,
            accepts_emulated=emulated,
            is_local=is_local,
            log=Log(self.log),
        )

    async def ask(self, method, path, *, url=HERE, client="127.0.0.1", headers=None, **body):
        transport = httpx2.ASGITransport(app=self.app, client=(client, 4711))
        async with httpx2.AsyncClient(transport=transport, base_url=url) as asking:
            return await asking.request(method, path, headers=headers, **body)

    async def run(self, job, **options):
        return await self.ask("POST", "/v1/jobs", json=job, **options)

    async def follow(self, job_id, **options):
        answer = await self.ask("GET", f"/v1/jobs/{job_id}/events", **options)
        return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", "text/html", "<title>enarx playground</title>"),
        ("/page.css", "text/css", "color-scheme"),
        ("/page.js", "text/javascript", "EventSource"),
    ],
)
def test_the_page_may_do_nothing_but_ask_its_own_service(make_jobs, path, kind, text):
    async def test():
        answer = await Page(make_jobs()).ask("GET", path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert text in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")

    run(test)


def test_the_page_has_no_text_of_its_own_that_is_markup():
    script = (module.resources.files("enarx.playground") / "page/page.js").read_text()
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]


def test_says_what_there_is(make_jobs):
    async def test():
        answer = (await Page(make_jobs()).ask("GET", "/v1/playground")).json()
        assert answer["accepts-emulated"] is True
        assert answer["limits"] == {
            "module-bytes": 100,
            "memory-bytes": 1 << 20,
            "output-bytes": 1000,
            "stdin-bytes": 10,
            "timeout-s": 4.0,
        }
        forever = next(each for each in answer["examples"] if each["name"] == "forever")
        assert forever["source"].startswith(";; SPDX")
        assert "timeout" in forever["enarx-toml"]
        assert forever["about"]

    run(test)


@pytest.mark.parametrize("job", [{"example": "hello", "stdin": "abc"}, {**UPLOAD, "stdin": "abc"}])
def test_runs_an_example_or_what_is_sent(make_jobs, host, job):
    async def test():
        page = Page(make_jobs())
        answer = await page.run(job)
        assert answer.status_code == 201
        job_id = answer.json()["id"]
        events = await page.follow(job_id)
        assert [event["kind"] for event in events] == ["started", "running", "output", "output", "ended"]
        assert await page.follow(job_id, headers={"last-event-id": "2"}) == events[3:]
        assert await page.follow(job_id, headers={"last-event-id": "x"}) == events
        receipt = await page.ask("GET", f"/v1/jobs/{job_id}/receipt")
        assert receipt.content == b"receipt"
        assert "receipt.json" in receipt.headers["content-disposition"]
        assert (await page.ask("DELETE", f"/v1/jobs/{job_id}")).status_code == 204
        await page.jobs.close()

    run(test)


def test_what_runs_can_be_stopped(make_jobs, host):
    async def forever(source, sink):
        await asyncio.Event().wait()

    host.talk = forever

    async def test():
        page = Page(make_jobs())
        job_id = (await page.run(UPLOAD)).json()["id"]
        following = asyncio.create_task(page.follow(job_id))
        assert (await page.run(UPLOAD)).status_code == 409
        assert (await page.run(UPLOAD, client="198.51.100.8")).status_code == 201
        third = await page.run(UPLOAD, client="198.51.100.9")
        assert (third.status_code, third.headers["retry-after"]) == (503, "5")
        assert (await page.ask("GET", "/healthz")).json() == {"status": "ok", "jobs": 2}
        assert (await page.ask("DELETE", f"/v1/jobs/{job_id}")).status_code == 204
        assert (await following)[-1]["message"] == "stopped"
        await page.jobs.close()

    run(test)


def test_a_job_that_says_nothing_for_long_is_not_dead(make_jobs, host, monkeypatch):
    async def slow(source, sink):
        await asyncio.sleep(0.05)
        return await host.echo(source, sink)

    host.talk = slow
    monkeypatch.setattr(module, "PING_S", 0.01)

    async def test():
        page = Page(make_jobs())
        job_id = (await page.run(UPLOAD)).json()["id"]
        answer = await page.ask("GET", f"/v1/jobs/{job_id}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert ": still there\n\n" in answer.text
        await page.jobs.close()

    run(test)


@pytest.mark.parametrize(
    ("job", "status", "problem"),
    [
        ({}, 400, "both or neither of example and module"),
        ({"example": "hello", **UPLOAD}, 400, "both or neither of example and module"),
        ({"example": "none"}, 400, "no example of that name"),
        ({"example": "hello", "enarx-toml": "args = []"}, 400, "which has its own"),
        ({"module": "*"}, 400, "found no base64"),
        ({"module": "AAAA" * 40}, 400, "found 120 bytes, want 1 to 100"),
        ({**UPLOAD, "enarx-toml": "[[dirs]]\nhost = '/etc'\nguest = '/etc'"}, 400, "found a directory"),
        ({**UPLOAD, "enarx-toml": "x" * 32769}, 400, "enarx-toml"),
        ({**UPLOAD, "stdin": "12345678901"}, 400, "stdin: found 11 bytes"),
        ({**UPLOAD, "more": 1}, 400, "more"),
        ({"module": 7}, 400, "module"),
        ([], 400, "the document"),
    ],
)
def test_refuses_what_cannot_be_run(make_jobs, host, job, status, problem):
    async def test():
        page = Page(make_jobs())
        answer = await page.run(job)
        assert answer.status_code == status
        assert problem in answer.json()["error"]["message"]
        assert page.jobs.running == 0

    run(test)


def test_refuses_a_request_that_is_too_large(make_jobs, host):
    async def test():
        page = Page(make_jobs())
        # Read no further: the client's own iterator is left where it is, which `run` would not have.
        assert (await page.run({"module": "A" * 70000})).status_code == 413
        assert page.jobs.running == 0

    asyncio.run(test())


class Slow:
    """A body that comes when it is told to."""

    def __init__(self):
        self.began, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self):
        yield b'{"example": "hello'
        self.began.set()
        await self.goes_on.wait()
        yield b'"}'


def test_few_requests_are_read_at_once_and_one_of_each_visitor(make_jobs, host, monkeypatch):
    monkeypatch.setattr(module, "MAX_READ_AT_ONCE", 2)
    headers = {"content-type": "application/json"}

    async def test():
        page = Page(make_jobs())
        bodies = [Slow(), Slow()]
        sending = [
            asyncio.create_task(
                page.ask("POST", "/v1/jobs", content=aiter(body), headers=headers, client=f"198.51.100.{at}")
            )
            for at, body in enumerate(bodies)
        ]
        for body in bodies:
            await body.began.wait()
        again = await page.run(UPLOAD, client="198.51.100.0")
        assert (again.status_code, "being sent" in again.text) == (409, True)
        third = await page.run(UPLOAD, client="198.51.100.9")
        assert (third.status_code, third.headers["retry-after"]) == (503, "5")
        for body in bodies:
            body.goes_on.set()
        assert [answer.status_code for answer in await asyncio.gather(*sending)] == [201, 201]
        await page.jobs.close()

    run(test)


def test_a_request_that_does_not_end_is_left(make_jobs, host, monkeypatch):
    monkeypatch.setattr(module, "MAX_BODY_S", 0.01)

    async def test():
        page = Page(make_jobs())
        headers = {"content-type": "application/json"}
        answer = await page.ask("POST", "/v1/jobs", content=aiter(Slow()), headers=headers)
        assert (answer.status_code, "in 0 s" in answer.text) == (408, True)
        assert (await page.run(UPLOAD)).status_code == 201
        await page.jobs.close()

    asyncio.run(test())


def test_refuses_what_is_no_document(make_jobs):
    async def test():
        page = Page(make_jobs())
        json_type = {"content-type": "application/json"}
        assert (await page.ask("POST", "/v1/jobs", content=b"{", headers=json_type)).status_code == 400
        assert (await page.ask("POST", "/v1/jobs", content=b"\xff", headers=json_type)).status_code == 400
        half = b'{"example": "hello", "stdin": "\\ud800"}'
        assert (await page.ask("POST", "/v1/jobs", content=half, headers=json_type)).status_code == 400
        answer = await page.ask("POST", "/v1/jobs", content=b"{}", headers={"content-type": "text/plain"})
        assert (answer.status_code, page.jobs.running) == (415, 0)

    run(test)


@pytest.mark.parametrize(
    ("headers", "url", "is_local", "status"),
    [
        ({"origin": HERE, "sec-fetch-site": "same-origin"}, HERE, True, 201),
        ({}, HERE, True, 201),
        ({"origin": "https://evil.example"}, HERE, True, 403),
        ({"origin": "null"}, HERE, True, 403),
        ({"sec-fetch-site": "cross-site"}, HERE, True, 403),
        ({"sec-fetch-site": "same-site"}, HERE, True, 403),
        # A name that somebody's DNS says is 127.0.0.1.
        ({"origin": "http://evil.example:8480"}, "http://evil.example:8480", True, 403),
        ({"origin": "https://play.example"}, "https://play.example", False, 201),
        ({"origin": "https://evil.example"}, "https://play.example", False, 403),
    ],
)
def test_only_this_page_may_run_something(make_jobs, host, headers, url, is_local, status):
    async def test():
        page = Page(make_jobs(), is_local=is_local)
        answer = await page.run(UPLOAD, headers=headers, url=url)
        assert answer.status_code == status
        await page.jobs.close()

    run(test)


def test_the_page_itself_may_be_linked_to(make_jobs):
    async def test():
        page = Page(make_jobs(), is_local=False)
        headers = {"sec-fetch-site": "cross-site"}
        assert (await page.ask("GET", "/", headers=headers)).status_code == 200
        assert (await page.ask("GET", "/v1/playground", headers=headers)).status_code == 403

    run(test)


def test_visitors_have_quotas_by_who_the_proxy_says_they_are(make_jobs, host):
    async def test():
        page = Page(make_jobs(), header="X-Forwarded-User", an_hour=1)
        assert (await page.run(UPLOAD)).status_code == 401
        anna, bert = {"x-forwarded-user": "anna"}, {"x-forwarded-user": "bert"}
        first = await page.run(UPLOAD, headers=anna)
        assert first.status_code == 201
        await page.follow(first.json()["id"])
        await end(page.jobs)
        again = await page.run(UPLOAD, headers=anna)
        assert (again.status_code, again.headers["retry-after"]) == (429, "3601")
        assert (await page.run(UPLOAD, headers=bert)).status_code == 201
        await page.jobs.close()

    run(test)


def test_a_refused_module_does_not_count(make_jobs, host):
    async def test():
        page = Page(make_jobs(), an_hour=1)
        assert (await page.run({"module": "*"})).status_code == 400
        assert (await page.run(UPLOAD)).status_code == 201
        await page.jobs.close()

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/none/events", 404),
        ("GET", "/v1/jobs/none/receipt", 404),
        ("DELETE", "/v1/jobs/none", 404),
        ("GET", "/nothing", 404),
        ("GET", "/page.js/", 404),
        ("GET", "/v1/jobs", 405),
    ],
)
def test_what_is_not_there(make_jobs, method, path, status):
    async def test():
        answer = await Page(make_jobs()).ask(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"].startswith("cannot ")

    run(test)


def test_a_job_that_was_refused_has_no_receipt(make_jobs, host):
    host.error = ValueError("a bug")

    async def test():
        page = Page(make_jobs())
        job_id = (await page.run(UPLOAD)).json()["id"]
        assert (await page.follow(job_id))[-1]["kind"] == "failed"
        assert (await page.ask("GET", f"/v1/jobs/{job_id}/receipt")).status_code == 404
        await page.jobs.close()

    run(test)


def test_a_bug_is_answered_and_logged(make_jobs, monkeypatch):
    async def test():
        page = Page(make_jobs())
        answer = await page.run(UPLOAD)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "cannot answer: found a bug of this page's"
        assert page.log.errors == ["bug"]

    monkeypatch.setattr(module, "pack_upload", lambda *_: 1 / 0)
    run(test)
