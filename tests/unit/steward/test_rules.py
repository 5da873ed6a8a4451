# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.steward import folder as files
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import found, load_keys
from enarx.steward.rules import RuleSources, load_configuration, load_rules, make_fetch
from tests.attesting import make_policy_text
from tests.unit.steward.verdicts import AT

ROOT = bytes(range(32))


@pytest.fixture
def folder(tmp_path):
    state = tmp_path / "steward"
    found(str(state), name="steward.example.com", at=AT, policy=make_policy_text().encode())
    with StewardFolder(str(state)) as opened:
        yield opened


def load(folder, *, fetch=None, **sources):
    configuration = load_configuration(folder)
    keys = load_keys(folder, name=configuration.name, at=AT)
    return load_rules(folder, RuleSources(now=lambda: AT, **sources), configuration, keys, fetch)


def write(folder, name, text):
    with open(folder.file(name), "w", encoding="utf-8") as file:
        file.write(text)


def test_rules_are_the_policy_and_the_configuration(folder):
    write(
        folder,
        files.CONFIGURATION,
        'name = "steward.example.com"\ntrust_domain = "example.com"\nlifetime = "2h"\n'
        f'[[grant]]\npackage = "{"ab" * 32}"\ntenant = "any"\ndns = ["a.example.com"]\n'
        f'[[grant]]\npackage = "{"ab" * 32}"\ntenant = "{"cd" * 48}"\n',
    )
    loaded = load(folder)
    text = make_policy_text()
    assert loaded.rules.court.policy_sha256 == sha256(text.encode()).digest()
    assert loaded.rules.court.judge.policy.text.decode() == text
    assert loaded.rules.court.judge.configuration is loaded.configuration
    assert loaded.shown.model_dump(by_alias=True) == {
        "policies": [{"name": "policy.toml", "sha256": sha256(text.encode()).hexdigest(), "text": text}],
        "insecure-accepted-roots": [],
        "grants": [
            {"package": "ab" * 32, "tenant": "any", "dns": ["a.example.com"]},
            {"package": "ab" * 32, "tenant": "cd" * 48, "dns": []},
        ],
        "trust-domain": "example.com",
        "lifetime-s": 7200,
    }


@pytest.mark.parametrize("text", [None, "", "\n\n", "# version = 1\n  # nothing\n"])
def test_without_a_policy_there_are_no_rules(folder, text):
    folder.remove(files.POLICY)
    if text is not None:
        write(folder, files.POLICY, text)
    with pytest.raises(UsageError, match="found no policy, want one") as refused:
        load(folder)
    assert "enarx policy init" in refused.value.hint


def test_a_policy_or_a_configuration_that_is_wrong_is_refused(folder):
    write(folder, files.POLICY, "version = 1\n")
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        load(folder)
    write(folder, files.POLICY, make_policy_text())
    write(folder, files.CONFIGURATION, 'name = "steward.example.com"\nlifetme = "1h"\n')
    with pytest.raises(ConfigError, match="lifetime"):
        load(folder)


def test_a_policy_that_others_can_write_is_refused(folder):
    Path(folder.file(files.POLICY)).chmod(0o666)
    with pytest.raises(PlatformError, match="nobody else can write"):
        load(folder)


def test_emulated_roots_are_accepted_by_the_flag_alone_and_shown(folder):
    assert load(folder).rules.court.judge.policy.policy.insecure_emulated_roots == frozenset()
    loaded = load(folder, accept_emulated=(ROOT.hex(),))
    assert loaded.rules.court.judge.policy.policy.insecure_emulated_roots == {ROOT}
    assert loaded.shown.insecure_accepted_roots == [ROOT.hex()]
    with pytest.raises(UsageError, match="64 hex digits"):
        load(folder, accept_emulated=("zz",))


def test_the_originals_protocol_has_rules_only_where_it_is_enabled(folder):
    assert load(folder).rules.court.original is None
    write(folder, files.CONFIGURATION, 'name = "steward.example.com"\n[original]\nenabled = true\n')
    rules = load(folder, fetch=make_fetch(folder, RuleSources(now=lambda: AT))).rules
    assert rules.fetching.original is not None
    assert rules.court.original.authority.chain_pem == folder.read(files.ORIGINAL_CHAIN)


def test_nothing_is_fetched_where_nothing_may_be(folder):
    assert make_fetch(folder, RuleSources(now=lambda: AT, is_offline=True)) is None
    assert load(folder).rules.fetching is None
    fetch = make_fetch(folder, RuleSources(now=lambda: AT))
    assert fetch is not None
    assert load(folder, fetch=fetch).rules.fetching is not None
    with pytest.raises(UsageError):
        make_fetch(folder, RuleSources(now=lambda: AT, amd_url="ftp://somewhere"))
