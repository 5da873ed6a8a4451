# SPDX-License-Identifier: Apache-2.0
"""What `enarx deploy` says about the end of a workload, and how its options are read."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest

from enarx.cli import deploy, exit_status, load
from enarx.cli.deploy import _copy_receipt, show_ended
from enarx.cli.help import describe_usage
from enarx.deploy.host_client import HostKeep, HostReason
from enarx.deploy.session import Ended
from enarx.errors import ConfigError, DecodeError, EnarxError, KeepError, TransportError, UsageError
from enarx.wire.session import Exit, ExitFailure

KEEP = {"id": "ab", "backend": "vm", "created": "today", "memory_bytes": 1, "ports": ()}


def ended(status, *, failure=None, trap=None, hint=None, was_signalled=False):
    return show_ended(Ended(exit=Exit(status, failure, trap, hint), was_signalled=was_signalled), "app.wasm")


@pytest.mark.parametrize(
    ("status", "was_signalled", "shown"),
    [
        (0, False, 0),
        (99, False, 99),
        (100, False, 99),
        (130, False, 99),
        (130, True, 130),
        (137, True, 137),
        (131, True, 99),
    ],
)
def test_a_status_that_could_be_taken_for_ours_becomes_99_unless_it_is_our_signals(status, was_signalled, shown, capfd):
    assert ended(status, was_signalled=was_signalled) == shown
    assert ("ending with 99" in capfd.readouterr().err) is (shown != status)


def test_a_trap_is_134_whatever_the_status(capfd):
    assert ended(134, trap="wasm trap: wasm `unreachable` instruction executed", hint="look there") == 134
    assert capfd.readouterr().err.startswith("enarx: workload trapped: app.wasm: ")


def test_a_machine_elsewhere_is_the_private_hosts_and_names_the_backend(monkeypatch):
    asked = {}

    async def deploy_package(package, **options):
        asked.update(options)
        raise KeepError("enough")

    monkeypatch.setattr("enarx.deploy.deploying.deploy_package", deploy_package)
    parsed = load("deploy").parse(["--machine", "tdx=192.0.2.7:8471", "app.wasm"])
    assert deploy._host_options(parsed) == ["--machine=tdx=192.0.2.7:8471"]
    with pytest.raises(KeepError, match="enough"):
        asyncio.run(deploy._deploy_to(parsed, None, SimpleNamespace(address=None), "state"))
    assert asked["backend"] == "tdx"


def test_a_machine_elsewhere_is_not_for_a_host_elsewhere(monkeypatch):
    monkeypatch.setattr("enarx.deploy.package.load_package", lambda *_, **__: None)
    parsed = load("deploy").parse(["--to", "http://127.0.0.1:1", "--machine", "tdx=192.0.2.7:8471", "app.wasm"])
    with pytest.raises(UsageError, match="--machine or --experimental with --to, want none"):
        deploy._deploy(parsed)


@pytest.mark.parametrize(("kind", "error"), [(102, UsageError), (103, DecodeError), (109, KeepError)])
def test_a_failure_is_the_error_that_the_keep_names(kind, error):
    with pytest.raises(EnarxError, match="no room") as raised:
        ended(1, failure=ExitFailure(kind, "no room", "make some"))
    assert type(raised.value) is error
    assert raised.value.hint == "make some"
    assert exit_status(raised.value, "deploy") == kind


@pytest.mark.parametrize(
    ("answers", "says", "hint"),
    [
        (
            [HostKeep(**KEEP, state="ended", reason=HostReason("KeepError", "QEMU: killed", "look"))],
            "it is ended: QEMU: killed",
            "look",
        ),
        ([HostKeep(**KEEP, state="ready"), HostKeep(**KEEP, state="lost")], "the host says that it is lost", None),
        ([HostKeep(**KEEP, state="ready")] * 3, "lost Keep ab: found it closed", "keep attach ab --on http://h"),
        ([TransportError("no answer")], "lost Keep ab: found it closed", "keep attach ab --on http://h"),
    ],
)
def test_a_session_that_breaks_says_what_the_host_says_of_the_keep_or_the_way_back(monkeypatch, answers, says, hint):
    async def show_keep(_):
        answer = asked.pop(0)
        if isinstance(answer, EnarxError):
            raise answer
        return answer

    asked = list(answers)
    monkeypatch.setattr(deploy, "_LOST_TRIES", 3)
    monkeypatch.setattr(deploy, "_LOST_S", 0.3)
    host = SimpleNamespace(show_keep=show_keep, address=SimpleNamespace(url="http://h"))
    error = asyncio.run(deploy.lost(TransportError("found it closed"), "Keep ab", "ab", host))
    assert type(error) is TransportError
    assert says in str(error)
    assert error.hint == hint if hint is None else hint in error.hint
    assert not asked


def test_usage_errors_are_102():
    assert exit_status(ConfigError("x"), "deploy") == 102
    assert exit_status(ConfigError("x"), "keep stop") == 2


@pytest.mark.parametrize(
    ("word", "value"), [("--insecure-accept-emulated", ""), ("--insecure-accept-emulated=ab", "ab")]
)
def test_an_optional_value_follows_an_equals_sign_only(word, value):
    parsed = load("deploy").parse([word, "app.wasm"])
    assert parsed.value("insecure-accept-emulated") == value
    assert parsed.operands == ["app.wasm"]
    assert "[--insecure-accept-emulated[=ROOT-SHA256]]" in describe_usage(load("deploy"))


@pytest.fixture
def written(monkeypatch):
    monkeypatch.setattr("enarx.wire.receipt_file.encode_receipt", lambda _: b"receipt")
    return lambda path: _copy_receipt(SimpleNamespace(receipt_file=None), str(path))


def test_a_receipt_is_for_its_owner_whatever_was_there(written, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"something longer")
    old.chmod(0o644)
    for path in (old, new):
        written(path)
        assert path.read_bytes() == b"receipt"
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_receipt_can_go_to_what_is_no_file_and_leaves_its_mode(written, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    pipe.chmod(0o644)
    with open(os.open(pipe, os.O_RDWR), "rb", buffering=0) as reader:
        written(pipe)
        assert reader.read(100) == b"receipt"
    assert pipe.stat().st_mode & 0o777 == 0o644


def test_a_receipt_that_cannot_be_written_is_no_end(written, tmp_path, capfd):
    written(tmp_path / "nowhere" / "receipt")
    assert "cannot write the receipt" in capfd.readouterr().err


# --- Stewards ------------------------------------------------------------------------------------------------------------

PACKAGE, TENANT = "0a" * 32, "1b" * 48


@pytest.mark.parametrize(("given", "missing"), [("--steward", "--steward-root"), ("--steward-root", "--steward URL")])
def test_a_steward_is_named_with_its_root(given, missing):
    with pytest.raises(UsageError, match=f"found {given} alone, want {missing}"):
        deploy._read_steward(load("deploy").parse([given, "x", "app.wasm"]))


def test_peers_are_read_and_nothing_else_is_given():
    parsed = load("deploy").parse(["--peer", PACKAGE, "--peer", f"{PACKAGE}:{TENANT}", "app.wasm"])
    overrides = deploy._read_overrides(parsed)
    package = bytes.fromhex(PACKAGE)
    assert overrides.peers == [(package, None), (package, bytes.fromhex(TENANT))]
    assert not deploy._read_overrides(load("deploy").parse(["app.wasm"])).peers


def test_a_peer_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="--peer"):
        deploy._read_overrides(load("deploy").parse(["--peer", "shop", "app.wasm"]))


def test_says_by_which_digests_a_steward_knows_the_deployment(tmp_path, capfd):
    path = str(tmp_path / "tenant.pem")
    package = SimpleNamespace(steward=None, digest=b"d" * 32)
    key = deploy._read_tenant_key(load("deploy").parse(["--tenant-key", path, "app.wasm"]), package)
    made, said = capfd.readouterr().err.splitlines()
    assert path in made
    assert f"package sha256:{'64' * 32}, tenant sha384:" in said
    again = deploy._read_tenant_key(load("deploy").parse(["--tenant-key", path, "app.wasm"]), package)
    assert again.private_numbers() == key.private_numbers()
    assert capfd.readouterr().err.splitlines() == [said]


def test_says_nothing_of_digests_where_nobody_asks_for_them(capfd):
    package = SimpleNamespace(steward=None, digest=b"d" * 32)
    assert deploy._read_tenant_key(load("deploy").parse(["app.wasm"]), package) is None
    assert not capfd.readouterr().err
