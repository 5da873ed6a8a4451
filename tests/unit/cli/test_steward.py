# SPDX-License-Identifier: Apache-2.0
"""`enarx steward init|serve|audit`: what they make, print and end with. What a Steward does is in tests/integration."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509

from enarx import __version__
from enarx.cli import main, steward
from enarx.errors import UsageError
from enarx.steward import folder as files
from enarx.steward.configuration import decode_configuration
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import database_url, load_log_signer
from enarx.steward.ledger import Entry, encode_entry, open_ledger
from tests.attesting import NOW, make_policy_text

NAME = "steward.example.com"


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENARX_STEWARD_DATABASE", raising=False)
    monkeypatch.delenv("ENARX_STEWARD_STATE", raising=False)
    return tmp_path / "steward"


def run(*words):
    return main(["steward", *map(str, words)])


def init(state, *words):
    return run("init", "--name", NAME, "--state", state, *words)


def write_log(state, count=3):
    """Write a few entries as a Steward does."""

    async def write():
        with StewardFolder(str(state)) as folder:
            ledger = open_ledger(database_url(folder), load_log_signer(folder, name=NAME))
            try:
                for _ in range(count):
                    body = encode_entry(kind="policy", at=NOW, policy_sha256=bytes(32))
                    await ledger.append(Entry(kind="policy", at=NOW, nonce=None, body=body))
            finally:
                await ledger.close()

    asyncio.run(write())


# --- init


def test_init_makes_a_folder_and_says_what_comes_next(state, capfd):
    assert init(state) == 0
    err = capfd.readouterr().err
    for text in (
        f"{state}/root.pem",
        f"enarx policy init {state}/policy.toml --image keep-{__version__}-",
        "`process` for a trial",
        f"{state}/steward.toml",
        "enarx steward serve",
    ):
        assert text in err
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    configuration = decode_configuration((state / files.CONFIGURATION).read_bytes(), path="")
    assert (configuration.name, configuration.trust_domain, configuration.grants) == (NAME, NAME, ())
    (root,) = x509.load_pem_x509_certificates((state / files.CHAIN).read_bytes())
    assert root.not_valid_after_utc.year - datetime.now(UTC).year >= 9  # noqa: TID251


def test_init_takes_a_policy_and_a_trust_domain(state, capfd):
    (state.parent / "mine.toml").write_text(make_policy_text())
    assert init(state, "--policy", "mine.toml", "--trust-domain", "example.com") == 0
    assert "policy init" not in capfd.readouterr().err
    assert (state / files.POLICY).read_text() == make_policy_text()
    assert decode_configuration((state / files.CONFIGURATION).read_bytes(), path="").trust_domain == "example.com"


def test_init_never_writes_over_keys(state, capfd):
    assert init(state) == 0
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    assert init(state) == 2
    assert "found something already" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_init_below_another_authority_writes_a_request(state, capfd):
    assert init(state, "--intermediate") == 0
    assert f"sign {state}/ca.csr" in capfd.readouterr().err
    assert x509.load_pem_x509_csr((state / files.REQUEST).read_bytes()).is_signature_valid
    (state.parent / "chain.pem").write_text("nothing")
    assert run("init", "--state", state, "--chain", "chain.pem") == 2
    assert "chain.pem" in capfd.readouterr().err
    assert not (state / files.CHAIN).exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("init",), "found no --name"),
        (("init", "--name", "no name"), "want a DNS name"),
        (("init", "--chain", "x", "--name", NAME), "found --name with --chain"),
        (("init", "--chain", "x", "--intermediate"), "found --intermediate with --chain"),
        (("init", "--name", NAME, "--policy", "nowhere.toml"), "nowhere.toml"),
        (("init", "--chain", "nowhere.pem"), "nowhere.pem"),
        (("serve",), "found no folder"),
        (("serve", "--listen", "everywhere"), "--listen"),
        (("serve", "--tls-key", "x"), "both or neither"),
        (("serve", "--log-format", "xml"), "want text or json"),
        (("serve", "--database-file", "nowhere"), "nowhere"),
        (("audit",), "found no folder"),
    ],
)
def test_what_cannot_be_done_is_said(state, capfd, words, text):
    assert run(*words, "--state", state) == 2
    assert text in capfd.readouterr().err
    assert not state.exists()


def test_a_steward_without_a_policy_does_not_serve(state, capfd):
    assert init(state) == 0
    assert run("serve", "--state", state, "--listen", "127.0.0.1:0") == 2
    err = capfd.readouterr().err
    assert "found no policy" in err
    assert f"enarx policy init {state}/policy.toml" in err


# --- serve


def options(state, *words):
    return steward._options(steward.COMMANDS["steward serve"].parse(["--state", str(state), *words]))


def test_flags_become_options(state):
    found = options(
        state,
        *(
            "--listen",
            "[::1]:0",
            "--insecure-http",
            "--offline",
            "--metrics-for-all",
            "--amd-kds",
            "https://kds.example.com",
        ),
        *("--insecure-accept-emulated", "--insecure-accept-emulated=" + "ab" * 32),
    )
    assert (found.host, found.port, found.state) == ("::1", 0, str(state))
    assert (found.insecure_http, found.metrics_for_all, found.database) == (True, True, None)
    assert found.sources.accept_emulated == ("", "ab" * 32)
    assert (found.sources.is_offline, found.sources.amd_url) == (True, "https://kds.example.com")
    usual = options(state)
    assert (usual.host, usual.port, usual.insecure_http, usual.sources.is_offline) == ("127.0.0.1", 8471, False, False)


def test_the_url_of_the_database_is_no_argument(state, tmp_path, monkeypatch):
    """It may hold a password, and arguments are seen by everybody on the machine."""
    url = "postgresql+psycopg://user:secret@host/name"
    (tmp_path / "url").write_text(url + "\n")
    assert options(state, "--database-file", "url").database == url
    monkeypatch.setenv("ENARX_STEWARD_DATABASE", url)
    assert options(state).database == url
    (tmp_path / "url").write_text("")
    assert options(state, "--database-file", "url").database is None
    (tmp_path / "url").write_bytes(b"x" * 5000)
    with pytest.raises(UsageError, match="more than"):
        options(state, "--database-file", "url")
    assert "secret" not in repr(options(state))


# --- audit


def test_audit_proves_a_log_and_keeps_its_end_for_the_next_one(state, capfd):
    init(state)
    write_log(state)
    assert run("audit", "--state", state, "--save", "newest.txt") == 0
    out = capfd.readouterr().out
    assert "entries      3\n" in out
    assert f"log key      {NAME}+" in out
    write_log(state)
    assert run("audit", "--state", state, "--since", "newest.txt", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["entries"], document["findings"], document["certificate"]) == (6, [], None)
    assert document["checkpoint"].startswith(f"{NAME}\n6\n")


def test_audit_ends_with_104_where_the_log_is_not_what_was_signed(state, capfd):
    init(state)
    write_log(state)
    run("audit", "--state", state, "--save", "newest.txt")
    with sqlite3.connect(state / files.DATABASE) as database:
        database.execute('DELETE FROM entries WHERE "index" = 2')
    database.close()
    capfd.readouterr()
    assert run("audit", "--state", state, "--save", "other.txt") == 104
    captured = capfd.readouterr()
    assert "entry-removed" in captured.out
    assert "cannot verify the log" in captured.err
    assert not (state.parent / "other.txt").exists()
    assert run("audit", "--state", state, "--since", "newest.txt", "--json") == 104
    assert json.loads(capfd.readouterr().out)["findings"]


def test_audit_ends_with_104_where_a_certificate_is_not_in_the_log(state, capfd):
    init(state)
    write_log(state)
    assert run("audit", "--state", state, "--certificate", state / files.CHAIN) == 104
    assert "not-included" in capfd.readouterr().out


def test_audit_of_a_log_that_was_rolled_back(state, capfd):
    init(state)
    write_log(state)
    before = (state / files.DATABASE).read_bytes()
    write_log(state)
    assert run("audit", "--state", state, "--save", "newest.txt") == 0
    (state / files.DATABASE).write_bytes(before)
    assert run("audit", "--state", state) == 0
    assert run("audit", "--state", state, "--since", "newest.txt") == 104
    assert "history-rolled-back" in capfd.readouterr().out


def test_audit_without_a_log_says_so(state, capfd):
    init(state)
    assert run("audit", "--state", state) != 0
    assert capfd.readouterr().err
    (state.parent / "old.txt").write_bytes(b"\xff")
    assert run("audit", "--state", state, "--since", "old.txt") == 103


def test_who_has_the_public_key_and_the_database_needs_no_folder(state, tmp_path, capfd):
    init(state)
    write_log(state)
    run("audit", "--state", state, "--json")
    key = json.loads(capfd.readouterr().out)["log-key"]
    (state / files.DATABASE).rename(tmp_path / "elsewhere.sqlite3")
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/elsewhere.sqlite3")
    words = ("audit", "--database-file", "url", "--log-key")
    assert run(*words, key) == 0
    other = key.replace(NAME, "other.example.com")
    assert run(*words, other) != 0
    assert run(*words, "nothing") == 103
