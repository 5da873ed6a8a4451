# SPDX-License-Identifier: Apache-2.0
"""Processes in which courts sit: what goes there and comes back, rules that change, and how they end."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from enarx.errors import AppraisalError, ConfigError, VerificationError
from enarx.serving.logs import Log
from enarx.steward import chambers as module
from enarx.steward.api import problem_of
from enarx.steward.chambers import Chambers, plain
from enarx.steward.court import Rules
from enarx.steward.facts import facts_of_error
from enarx.steward.judging import NoGrantError
from enarx.steward.rooms import BusyError
from tests.recorder import Recorder
from tests.unit.steward import courts
from tests.unit.steward.keeps import IDENTITY, authority, make_request
from tests.unit.steward.verdicts import refused_result

TOP = Path(__file__).parents[3]
WAIT_S = 30.0


@pytest.fixture(scope="module")
def rules():
    return courts.make_rules()


def run(scenario, rules, count=1):
    """Run a scenario with processes."""

    async def main():
        recorder = Recorder()
        chambers = Chambers(count, Log(recorder))
        try:
            await chambers.start(rules)
            async with asyncio.timeout(WAIT_S):
                await scenario(chambers)
        finally:
            chambers.close()
        assert chambers.taken == 0

    asyncio.run(main())


def has_ended(pidfd):
    """Wait until a process is no more."""
    with os.fdopen(pidfd) as file:
        return bool(select.select([file], [], [], WAIT_S)[0])


def test_a_keep_is_certified_in_another_process_and_refused_with_all_that_is_said(rules):
    async def scenario(chambers):
        made, took_s = await chambers.run(rules, courts.certify(make_request()))
        leaf = x509.load_der_x509_certificate(made.certificate)
        leaf.verify_directly_issued_by(authority().certificate)
        assert 0 < took_s < WAIT_S
        with pytest.raises(NoGrantError, match="no grant names this Keep") as refused:
            await chambers.run(rules, courts.certify(make_request(IDENTITY._replace(package=bytes(32)))))
        assert refused.value.hint is not None
        forged = make_request(report_data=bytes(64))
        with pytest.raises(VerificationError) as found:
            await chambers.run(rules, courts.certify(forged))
        assert found.value.result.failures
        assert (await chambers.run(rules, courts.pid_of))[0] != os.getpid()

    run(scenario, rules)


def test_each_process_judges_by_the_rules_of_each_request(rules):
    other = courts.make_rules(debug='{ skip = "not here" }')
    assert other.court.policy_sha256 != rules.court.policy_sha256

    async def scenario(chambers):
        assert chambers.count == 2
        for each in (rules, other, other):
            asked = [chambers.run(each, courts.policy_of) for _ in range(4)]
            found = [value for value, _ in await asyncio.gather(*asked)]
            assert len({pid for pid, _ in found}) == 2
            assert {policy for _, policy in found} == {each.court.policy_sha256}

    run(scenario, rules, count=2)


def test_a_bug_is_said_and_the_next_request_is_judged(rules):
    async def scenario(chambers):
        with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
            await chambers.run(rules, courts.fail)
        assert (await chambers.run(rules, courts.policy_of))[0][1] == rules.court.policy_sha256

    run(scenario, rules)


def test_a_process_that_ends_fails_what_it_had_to_do_and_is_replaced(rules, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)

    async def scenario(chambers):
        first, _ = await chambers.run(rules, courts.pid_of)
        asked = [chambers.run(rules, work) for work in (courts.end, courts.pid_of)]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, BusyError)
        while not chambers.count:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0)
        second, _ = await chambers.run(rules, courts.policy_of)
        assert second[0] != first
        assert second[1] == rules.court.policy_sha256

    run(scenario, rules)


def test_without_a_process_there_is_no_room(rules, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", WAIT_S)

    async def scenario(chambers):
        for _ in range(2):
            with pytest.raises(BusyError):
                await chambers.run(rules, courts.end)
        assert chambers.count == 0

    run(scenario, rules)


def test_rules_that_a_process_cannot_use_are_an_error_of_the_start(rules):
    broken = Rules(rules.court, None, replace(rules.recipe, policy_text=b"version = 1\n"))

    async def scenario(chambers):
        raise AssertionError

    with pytest.raises(ConfigError, match="found no TEE"):
        run(scenario, broken)


def test_signals_of_the_service_do_not_end_it_and_nobody_reads_its_keys(rules):
    async def scenario(chambers):
        (dumpable, ignored), _ = await chambers.run(rules, courts.ignored_of)
        assert dumpable == 0
        assert ignored == {signal.SIGINT, signal.SIGTERM}

    run(scenario, rules)


def test_processes_end_when_they_are_closed(rules):
    ends = []

    async def scenario(chambers):
        ends.append(os.pidfd_open((await chambers.run(rules, courts.pid_of))[0]))

    run(scenario, rules)
    assert has_ended(ends[0])


def test_processes_end_with_a_service_that_is_killed():
    program = (
        "import asyncio\n"
        "from enarx.steward.chambers import Chambers\n"
        "from tests.unit.steward import courts\n"
        "async def main():\n"
        "    rules, chambers = courts.make_rules(), Chambers(2, None)\n"
        "    await chambers.start(rules)\n"
        "    found = await asyncio.gather(*(chambers.run(rules, courts.pid_of) for _ in range(2)))\n"
        "    print(*(pid for pid, _ in found), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{TOP / 'src'}:{TOP}"}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        child.kill()
    assert len(set(pids)) == 2
    assert all(map(has_ended, ends))


def test_an_error_is_told_with_what_people_and_log_read_of_it_and_nothing_else():
    result = refused_result()
    with pytest.raises(AppraisalError) as refused:
        result.require()
    # Like certificates, a lock cannot be pickled.
    refused.value.result = replace(result, subject=threading.Lock())
    told = pickle.loads(pickle.dumps(plain(refused.value)))  # noqa: S301  # ours
    assert type(told) is AppraisalError
    assert problem_of(told) == problem_of(refused.value)
    assert facts_of_error(told) == facts_of_error(refused.value)
    assert told.hint == refused.value.hint
    assert told.result.claims == {}


def test_what_cannot_be_sent_fails_one_request(rules):
    async def scenario(chambers):
        first, _ = await chambers.run(rules, courts.pid_of)
        with pytest.raises(RuntimeError, match="cannot pickle"):
            await chambers.run(rules, courts.unsendable)
        with pytest.raises(RuntimeError, match="cannot be read"):
            await chambers.run(rules, courts.unreadable)
        assert (await chambers.run(rules, courts.pid_of))[0] == first

    run(scenario, rules)


def test_requests_that_come_together_are_answered_each_with_its_own(rules):
    async def scenario(chambers):
        works = [courts.pid_of, courts.unsendable, *[courts.policy_of] * 9, courts.fail, courts.pid_of]
        asked = [asyncio.ensure_future(chambers.run(rules, work)) for work in works]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        pid, unsendable, *policies, failed, again = answers
        assert pid[0] == again[0]
        assert isinstance(unsendable, RuntimeError)
        assert {found for found, _ in policies} == {(pid[0], rules.court.policy_sha256)}
        assert isinstance(failed, Exception)

    run(scenario, rules)


def test_a_process_knows_whether_more_is_waiting():
    near, far = socket.socketpair()

    def frame(message):
        return module._HEAD.pack(len(message)) + message

    with near, far:
        messages = module._messages(far)
        near.sendall(frame(b"one") + frame(b"two"))
        message, is_last = next(messages)
        assert (message, is_last()) == (b"one", False)
        message, is_last = next(messages)
        assert (message, is_last()) == (b"two", True)
        near.sendall(frame(b"three")[:6])
        assert not is_last()
        near.sendall(frame(b"three")[6:])
        assert next(messages)[0] == b"three"
        near.sendall(frame(b"cut short")[:7])
        near.shutdown(socket.SHUT_WR)
        assert next(messages, None) is None


def test_a_process_that_does_not_answer_is_replaced(rules, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)

    async def scenario(chambers):
        first, _ = await chambers.run(rules, courts.pid_of)
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)
        with pytest.raises(BusyError, match="no answer"):
            await chambers.run(rules, courts.stop)
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", WAIT_S)
        while chambers.count:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0)
        while not chambers.count:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0)
        assert (await chambers.run(rules, courts.pid_of))[0] != first

    run(scenario, rules)
