# SPDX-License-Identifier: Apache-2.0
"""Jobs whose Keeps are made up: what the library would do, said by the test."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from enarx.deploy import Ended
from enarx.playground import jobs as module
from enarx.playground.jobs import Deploying, Jobs
from enarx.playground.modules import pack_upload
from enarx.serving.logs import Log
from enarx.wire.session import Exit
from tests.recorder import Recorder
from tests.unit.playground.test_modules import LIMITS, MODULE

ENDED = Exit(0, None, None, None)


async def until(found):
    """Let others have their turns until something is so."""
    while not found():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


async def end(jobs):
    await until(lambda: not jobs.running)


class FakeHost:
    """A host, and what is deployed to it."""

    def __init__(self):
        self.deleted = []
        self.removed = []
        self.options = None
        self.verdict = None
        self.error = None
        self.say = ()
        self.talk = self.echo
        self.exit = ENDED
        self.delete_error = None

    @contextlib.asynccontextmanager
    async def connect(self):
        yield self

    async def delete_keep(self, keep_id):
        self.deleted.append(keep_id)
        if self.delete_error is not None:
            raise self.delete_error

    async def deploy(self, package, **options):
        self.package, self.options = package, options
        for text in self.say:
            options["say"](text)
        if self.verdict is not None:
            image = SimpleNamespace(name="enarx", version="1")
            judged = SimpleNamespace(result=self.verdict, format="a report")
            options["accepted"](SimpleNamespace(judged=judged, offer=SimpleNamespace(image=image)))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            keep=SimpleNamespace(id="f00d"),
            receipt_file=b"receipt",
            folder=SimpleNamespace(remove=lambda: self.removed.append("f00d")),
            conversation=self,
        )

    async def converse(self, source, sink):
        return await self.talk(source, sink)

    async def echo(self, source, sink):
        while data := await source.read(4):
            await sink.write(1, data)
        await sink.write(2, b"\xff")
        return Ended(exit=self.exit, was_signalled=False)


@pytest.fixture
def host(monkeypatch):
    host = FakeHost()
    monkeypatch.setattr(module, "deploy_package", host.deploy)
    monkeypatch.setattr(module, "encode_receipt", bytes)
    return host


@pytest.fixture
def log():
    return Recorder()


@pytest.fixture
def make_jobs(host, log):
    def make(*, at_once=2, timeout_s=5.0):
        deploying = Deploying(
            connect=host.connect,
            policy=lambda: None,
            backend="nil",
            fetch=None,
            accept_emulated="",
            state_root="/nowhere",
        )
        return Jobs(deploying, at_once=at_once, timeout_s=timeout_s, log=Log(log))

    return make


@pytest.fixture
def package():
    return pack_upload(MODULE, "", LIMITS)
