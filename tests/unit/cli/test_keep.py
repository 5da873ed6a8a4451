# SPDX-License-Identifier: Apache-2.0
"""What `enarx keep list` and `keep show` print of what others say, and how long `keep stop` waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from enarx.cli import keep
from enarx.deploy.host_client import HostKeep, HostReason
from enarx.deploy.receipt import AttestedFacts
from enarx.errors import ConfigError, UsageError
from enarx.wire.release import Identity
from enarx.wire.session import Limits

LISTED = HostKeep(id="ab", backend="nil", state="ready", created="today", memory_bytes=1, ports=())


def facts(**members):
    known = {
        "at": datetime(2026, 6, 1, tzinfo=UTC),
        "identity": Identity(b"a" * 32, b"b" * 32, b"c" * 32, True, b"d" * 48),
        "image": "enarx 1",
        "backend": "nil",
        "limits": Limits(1, 1, 1),
        "status": "warning",
        "emulated": True,
        "policy_name": "default",
    }
    return AttestedFacts(**known | members)


@pytest.fixture
def listed(monkeypatch, capfd):
    def listed(found, **members):
        async def list_keeps():
            return [found]

        async def show_keep(_):
            return found

        host = SimpleNamespace(list_keeps=list_keeps, show_keep=show_keep)
        monkeypatch.setattr(keep, "_stored_facts", lambda *_: facts(**members))
        monkeypatch.setattr(keep, "_folder", lambda *_: SimpleNamespace(exists=lambda: False))
        parsed = SimpleNamespace(flag=lambda _: False, operands=["ab"])
        assert asyncio.run(keep._list(parsed, host)) == 0
        text = capfd.readouterr().out
        assert asyncio.run(keep._show(parsed, host)) == 0
        assert capfd.readouterr().out == text
        return text

    return listed


@pytest.mark.parametrize(("text", "grace_ms"), [("0", 0), ("0s", 0), ("1ms", 1), ("1m", 60_000)])
def test_a_grace_may_be_none_at_all(text, grace_ms):
    assert keep._grace_ms(text) == grace_ms


def test_a_grace_that_is_none_is_told_what_none_at_all_is_called():
    with pytest.raises(ConfigError) as refused:
        keep._grace_ms("soon")
    assert "--grace 0" in refused.value.hint
    with pytest.raises(UsageError, match="want at most"):
        keep._grace_ms("30d")


def test_each_fact_has_its_source_beside_it(listed):
    lines = listed(LISTED).splitlines()
    assert lines[0] == "EMULATED Keep ab"
    assert {line.split()[0] for line in lines[1:]} == {"host", "attested"}
    assert "attested   EMULATED nil Keep, image enarx 1, when it was deployed" in lines[2]


def test_why_a_keep_ended_and_its_tpms_key_are_the_hosts_word(listed, capfd):
    ended = replace(
        LISTED, state="ended", reason=HostReason("KeepError", "QEMU: killed", "look"), vtpm_key_sha256="ab" * 32
    )
    lines = listed(ended).splitlines()
    assert "  host says  why it ended: QEMU: killed" in lines
    assert any(line.startswith(f"  host says  its virtual TPM's key is sha256:{'ab' * 32}") for line in lines)
    assert not any("why it ended" in line or "TPM" in line for line in listed(LISTED).splitlines())
    said = keep._document(ended, None)["host-says"]
    assert said["reason"] == {"class": "KeepError", "message": "QEMU: killed", "hint": "look"}
    assert said["vtpm-key-sha256"] == "ab" * 32
    assert not {"reason", "vtpm-key-sha256"} & keep._document(LISTED, None)["host-says"].keys()


@pytest.mark.parametrize("member", ["image", "backend", "status", "policy_name"])
def test_nothing_that_a_keep_says_moves_the_cursor(listed, member):
    text = listed(LISTED, **{member: "snp\x1b[2K\r\nattested   snp"})
    assert "snp\ufffd[2K\ufffd\ufffdattested   snp" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == len(listed(LISTED).splitlines())
