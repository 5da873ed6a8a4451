# SPDX-License-Identifier: Apache-2.0
"""The parts of a service that a process would show only after a day; the rest is in tests/integration/test_steward_service.py."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509

from enarx.errors import ConfigError, EnarxError, PlatformError, UsageError
from enarx.serving.logs import Log
from enarx.steward import service as module
from enarx.steward.authority import make_authority
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import found, load_keys
from enarx.steward.rules import RuleSources, load_configuration, load_rules
from enarx.steward.service import StewardOptions, serve
from tests.attesting import make_policy_text
from tests.integration.certificates import Authority
from tests.recorder import Recorder
from tests.unit.steward.verdicts import AT

NAME = "steward.example.com"


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "steward"
    found(str(path), name=NAME, at=AT, policy=make_policy_text().encode())
    return path


def options(state, **changes):
    return StewardOptions(
        host="127.0.0.1", port=0, state=str(state), sources=RuleSources(now=lambda: AT, is_offline=True), **changes
    )


class Service:
    """A service that is not started, with a clock of ours."""

    def __init__(self, state, **changes):
        self.now = AT
        self.log = Recorder()
        folder = StewardFolder(str(state))
        configuration = load_configuration(folder)
        keys = load_keys(folder, name=configuration.name, at=AT)
        chosen = options(state, **changes)
        loaded = load_rules(folder, chosen.sources, configuration, keys, None)
        listening = SimpleNamespace(url="https://127.0.0.1:1")
        self.service = module._Service(chosen, folder, loaded, keys, None, listening, Log(self.log), lambda: self.now)
        self.service._context = self.service._make_context()

    def serial(self):
        """Return the serial number of the certificate that a client is shown now."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        near = client.wrap_bio(incoming, outgoing, server_hostname=NAME)
        far = self.service._context.wrap_bio(outgoing, incoming, server_side=True)
        for _ in range(3):
            for end in (near, far):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return x509.load_der_x509_certificate(near.getpeercert(binary_form=True)).serial_number

    def renew(self, *, is_asked):
        asyncio.run(self.service._renew_certificate(is_asked=is_asked))


def test_its_own_certificate_is_another_one_after_a_day(state):
    steward = Service(state)
    first = steward.serial()
    steward.now = AT + timedelta(hours=23)
    steward.renew(is_asked=True)
    assert steward.serial() == first
    steward.now = AT + timedelta(hours=25)
    steward.renew(is_asked=False)
    second = steward.serial()
    assert second != first
    # A clock that was set back is no reason to wait.
    steward.now = AT
    steward.renew(is_asked=False)
    assert steward.serial() != second


def test_the_operators_certificate_is_read_again_when_he_asks(state, tmp_path):
    authority = Authority(tmp_path, "operator")
    pair = authority.issue(NAME, NAME)
    steward = Service(state, tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    first = steward.serial()
    authority.issue(NAME, NAME)
    steward.now = AT + timedelta(days=9)
    steward.renew(is_asked=False)
    assert steward.serial() == first
    steward.renew(is_asked=True)
    second = steward.serial()
    assert second != first
    pair.key.write_text("nothing")
    with pytest.raises(UsageError):
        steward.renew(is_asked=True)
    assert steward.serial() == second


class Changed:
    """Stands for `Decisions`."""

    def __init__(self):
        self.rules = []

    async def change_rules(self, rules):
        self.rules.append(rules)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("policy.toml", "", "found no policy"),
        ("policy.toml", "version = 1", "policy.toml"),
        ("steward.toml", 'name = "another.example.com"', "cannot change the name"),
        ("steward.toml", "name = 1", "steward.toml"),
    ],
)
def test_files_with_an_error_change_nothing(state, file, text, reason):
    steward, changed = Service(state), Changed()
    before = steward.service.policies
    (state / file).write_text(text)
    asyncio.run(steward.service._load_again(changed))
    assert changed.rules == []
    assert steward.service.policies is before
    ((event, facts),) = steward.log.events
    assert event == "rules-not-loaded"
    assert reason in facts["reason"]


def test_files_without_one_are_in_force_at_once(state):
    steward, changed = Service(state), Changed()
    with open(state / "steward.toml", "a", encoding="utf-8") as file:
        file.write(f'\n[[grant]]\npackage = "{"ab" * 32}"\ntenant = "any"\n')
    asyncio.run(steward.service._load_again(changed))
    assert len(changed.rules) == 1
    assert len(steward.service.policies.grants) == 1


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"tls_certificate": "x"}, UsageError, "both or neither"),
        ({"tls_key": "x"}, UsageError, "both or neither"),
        ({"tls_certificate": "x", "tls_key": "x", "insecure_http": True}, UsageError, "want one of them"),
        ({"tls_certificate": "/nowhere", "tls_key": "/nowhere"}, UsageError, "cannot use the TLS certificate"),
        ({"database": "mysql://user:secret@host/name"}, UsageError, "cannot open the log"),
        ({"database": "not a url"}, UsageError, "cannot open the log"),
    ],
)
def test_what_does_not_go_together_is_an_error_of_the_command(state, changes, error, match):
    with pytest.raises(error, match=match) as refused:
        serve(options(state, **changes), log=Log(Recorder()), announce=pytest.fail, clock=lambda: AT)
    assert "secret" not in str(refused.value)


def test_a_folder_that_cannot_serve_is_an_error_of_the_command(state, tmp_path):
    def refused(path) -> type[EnarxError]:
        with pytest.raises(EnarxError) as found:
            serve(options(path), log=Log(Recorder()), announce=pytest.fail, clock=lambda: AT)
        return type(found.value)

    assert refused(tmp_path / "nothing") is UsageError
    with StewardFolder(str(state)) as other:
        other.lock()
        assert refused(state) is PlatformError
    (state / "steward.toml").write_text("name = 1")
    assert refused(state) is ConfigError
    (state / "steward.toml").unlink()
    assert refused(state) is UsageError


def test_the_chain_that_is_shown_is_the_authoritys(state):
    assert Service(state).service.chain_pem == (state / "ca.pem").read_bytes()
    assert make_authority(NAME, AT).chain_pem != (state / "ca.pem").read_bytes()


class House:
    """Stands for `Decisions`, and ends the service's house after so many reviews."""

    def __init__(self, reviews):
        self.rules = []
        self.steps = []
        self.left = reviews

    async def change_rules(self, rules):
        self.steps.append("rules")
        self.rules.append(rules)

    async def review(self):
        self.steps.append("review")
        self.left -= 1
        if not self.left:
            raise asyncio.CancelledError


def test_a_broken_tls_file_keeps_nothing_from_being_reviewed_and_rules_are_loaded_once(state, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)
    monkeypatch.setattr(module, "REVIEW_S", 0)
    pair = Authority(tmp_path, "operator").issue(NAME, NAME)
    steward, house = Service(state, tls_certificate=str(pair.certificate), tls_key=str(pair.key)), House(3)
    pair.key.write_text("half written")
    steward.service._reload.set()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(steward.service._keep_house(house))
    assert house.steps == ["rules", "review", "review", "review"]
    events = [event for event, _ in steward.log.events]
    assert events == ["rules-loaded", "tls-certificate-not-renewed", "tls-certificate-not-renewed"]


def test_rules_that_could_not_be_logged_are_put_in_force_later_without_reading_them_again(state, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)
    steward, house = Service(state), House(2)
    reads, errors = [], [PlatformError("cannot write the log")]
    load = steward.service._load_rules
    monkeypatch.setattr(steward.service, "_load_rules", lambda: reads.append(1) or load())

    async def change_rules(rules):
        if errors:
            raise errors.pop()
        await House.change_rules(house, rules)

    house.change_rules = change_rules
    steward.service._reload.set()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(steward.service._keep_house(house))
    assert (len(reads), house.steps) == (1, ["review", "rules", "review"])
    assert [event for event, _ in steward.log.events] == ["rules-not-changed", "rules-loaded"]
