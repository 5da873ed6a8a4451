# SPDX-License-Identifier: Apache-2.0
"""A Steward dies by SIGKILL before each of its writes, or in the middle of it, and no certificate that anybody holds is missing.

Clients ask for certificates, all at once, while the policy changes and the Steward is ended; `tests.dying` kills it at the write that
was drawn. Then it is started again, and its log must have what every client was told, and continue what an auditor kept before.

`make soak` does so at 1000 points, which are more than there are writes, or with fewer `SOAK_EXAMPLES` at a sample. `ENARX_KILL_SEED` draws the same ones again.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx2
import pytest

from enarx.steward.auditing import audit
from enarx.wire import steward as wire
from tests.dying import Dying
from tests.soak import EXAMPLES, FULL
from tests.steward_processes import (
    TOP,
    WAIT_S,
    StewardProcess,
    Visitor,
    found_steward,
    policy_text,
    run_steward,
)

CLIENTS = 4
EACH = 3
"""Certificates that each client asks for."""
POINTS = 1000
"""More than there are writes, so that a full run meets each."""
COUNT = min(POINTS, max(1, POINTS * EXAMPLES // FULL))
SAMPLE = 12
SEED = os.environ.get("ENARX_KILL_SEED") or secrets.token_hex(4)
GOOD, OTHER = (f'["{byte * 48}"]' for byte in ("00", "31"))


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A Steward's folder with a log, a certificate of it, and a checkpoint that an auditor keeps."""
    folder = tmp_path_factory.mktemp("before")
    state = found_steward(folder / "state", policy=policy_text(measurement=GOOD))
    with StewardProcess(state, "--offline") as steward:
        first = certificate_in(steward.certify(Visitor()))
        steward.signal(signal.SIGTERM)
        assert steward.wait() == 0
    kept = folder / "checkpoint"
    run_steward("audit", "--state", str(state), "--save", str(kept))
    return SimpleNamespace(state=state, kept=kept, first=first)


@pytest.fixture(scope="module")
def writes(before, tmp_path_factory):
    """What is written when nobody dies."""
    state = copy_of(before, tmp_path_factory.mktemp("whole"))
    dying = Dying(state)
    told = life(state, dying)
    assert len(told) == CLIENTS * EACH
    require_whole(before, state, told)
    calls = {name for name, path in dying.seen if path.startswith("steward.sqlite3")}
    assert {"pwrite", "fdatasync"} <= calls, dying.seen
    return len(dying.seen)


def copy_of(before, folder):
    return shutil.copytree(before.state, folder / "state")


def certificate_in(answer):
    assert answer.status_code == 201, answer.text
    return wire.decode_certificate_answer_untrusted(answer.content).chain[0]


def life(state, dying):
    """Let a Steward serve until it is ended, by us or by a write; return the certificates that clients were told."""
    try:
        steward = StewardProcess(state, "--offline", popen=dying.popen)
    except AssertionError:
        # It did not come to serve.
        assert dying.died.is_set()
        dying.close()
        return []
    told = []
    with steward:
        with ThreadPoolExecutor(CLIENTS) as clients:
            for certificates in [clients.submit(ask, steward) for _ in range(CLIENTS)]:
                told += certificates.result(2 * WAIT_S)
        seen = len(steward.lines)
        if not dying.died.is_set():
            # What was given is refused by this policy, and revoked.
            (state / "policy.toml").write_text(policy_text(measurement=OTHER))
            steward.signal(signal.SIGHUP)
            try:
                steward.wait_for("reviewed", after=seen)
            except AssertionError:
                assert dying.died.is_set()
        steward.signal(signal.SIGTERM)
        assert steward.wait() == (-signal.SIGKILL if dying.died.is_set() else 0)
    dying.close()
    return told


def ask(steward):
    """Ask for certificates as long as somebody answers; return those that were given."""
    told = []
    with steward.client() as client:
        for _ in range(EACH):
            try:
                told.append(certificate_in(steward.certify(Visitor(), client=client)))
            except httpx2.TransportError:
                break
    return told


def audited(state, kept, certificate=None):
    key = verifier_key(state)
    return audit(f"sqlite:///{state / 'steward.sqlite3'}", key, since=kept.read_text(), certificate=certificate)


def verifier_key(state):
    from enarx.steward.configuration import decode_configuration
    from enarx.steward.folder import StewardFolder
    from enarx.steward.founding import load_log_signer

    with StewardFolder(str(state)) as folder:
        name = decode_configuration((state / "steward.toml").read_bytes(), path="steward.toml").name
        return load_log_signer(folder, name=name).verifier_key


def require_whole(before, state, told):
    """Require that a log has what clients were told, that it continues what was kept, and that its Steward goes on."""
    for certificate in (before.first, *told):
        found = audited(state, before.kept, certificate)
        assert found.findings == ()
        assert found.certificate_index is not None
    (state / "policy.toml").write_text(policy_text(measurement=GOOD))
    with StewardProcess(state, "--offline") as steward:
        last = certificate_in(steward.certify(Visitor()))
        steward.signal(signal.SIGTERM)
        assert steward.wait() == 0
    leaf = state.parent / "leaf.der"
    leaf.write_bytes(last)
    run_steward("audit", "--state", str(state), "--since", str(before.kept), "--certificate", str(leaf))


def dies(before, writes, folder, number, count):
    """Kill a Steward at one of its writes: at each of as many parts of its life once."""
    draw = random.Random(f"{SEED} {number}")
    at = min(writes - 1, int((number + draw.random()) * writes / count))
    torn = draw.choice((0.0, draw.random()))
    state = copy_of(before, folder)
    dying = Dying(state, at=at, torn=torn)
    told = life(state, dying)
    where = dying.seen[at] if at < len(dying.seen) else "nowhere"
    print(
        f"ENARX_KILL_SEED={SEED}: point {number}: write {at} of {writes}, {where}, {torn:.2f} of it: {len(told)} told"
    )
    require_whole(before, state, told)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(SAMPLE))
def test_killed_at_some_write_it_has_what_it_told(before, writes, tmp_path, number):
    dies(before, writes, tmp_path, number, SAMPLE)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(COUNT))
def test_killed_at_every_write_it_has_what_it_told(before, writes, tmp_path, number):
    dies(before, writes, tmp_path, number, COUNT)


@pytest.mark.slow
def test_killed_while_it_is_made_it_is_there_whole_or_not_at_all(tmp_path):
    """`enarx steward init`, at each of its writes."""
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text())
    whole, at = 0, 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        dying = Dying(folder, at=at)
        command = [sys.executable, "-m", "enarx", "steward", "init", "--state", str(folder / "state")]
        with dying.popen(
            [*command, "--name", "localhost", "--policy", str(policy)],
            env={**os.environ, "PYTHONPATH": str(TOP / "src")}, stderr=-3, stdout=-3,
        ) as child:  # fmt: skip
            status = child.wait(WAIT_S)
        dying.close()
        if (folder / "state").exists():
            whole += 1
            with StewardProcess(folder / "state", "--offline") as steward:
                certificate_status = steward.certify(Visitor()).status_code
            # Nobody has a grant yet: the folder is one that serves.
            assert certificate_status == 403
        else:
            run_steward("init", "--state", str(folder / "state"), "--name", "localhost", "--policy", str(policy))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        at += 1
    assert whole
    assert at > 5, dying.seen
