# SPDX-License-Identifier: Apache-2.0
"""Newest lists: a vendor that does not answer is left alone for a while, and what is at hand does."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.endorsers import AMD_KDS_URL, Fetched
from enarx.endorsers.disk_cache import DiskCache, Entry
from enarx.errors import EndorsementError
from enarx.rats import Endorsements, Verdict
from enarx.steward import vendors
from tests.unit.steward import keeps as k
from tests.unit.steward.keeps import AT

LIST = Endorsements(crls=(b"list",))
OLD = Endorsements(crls=(b"old",))


def test_a_slow_vendor_is_not_asked_again_for_a_while(monkeypatch):
    seconds, asked = [0.0], []
    answers = [Fetched(endorsements=LIST), Fetched(missing=(EndorsementError("no answer"),))]
    takes = [vendors.SLOW_S + 1, vendors.SLOW_S + 1]

    def fetch_newest_for(recognised, *, known):
        asked.append(recognised.section)
        seconds[0] += takes[len(asked) % 2]
        return answers[min(len(asked) - 1, 1)]

    monkeypatch.setattr(vendors, "lists_at_hand", lambda _: lambda *_: OLD)
    endorsers = SimpleNamespace(fetch_newest_for=fetch_newest_for)
    newest = vendors.make_newest(endorsers, "folder", monotonic=lambda: seconds[0])
    snp, tdx = SimpleNamespace(section="snp"), SimpleNamespace(section="tdx")
    assert newest(snp, OLD, AT) == LIST
    assert newest(snp, OLD, AT) == Endorsements()
    assert newest(snp, OLD, AT) == OLD
    assert asked == ["snp", "snp"]
    newest(tdx, OLD, AT)
    seconds[0] += vendors.VAIN_S
    newest(snp, OLD, AT)
    assert asked == ["snp", "snp", "tdx", "snp"]


@pytest.mark.parametrize(("revoked", "verdict"), [((), Verdict.ACCEPTED), (("ask",), Verdict.NOT_AUTHENTIC)])
def test_a_list_that_was_fetched_ends_what_was_given_for_an_older_one(tmp_path, revoked, verdict):
    kept, later = str(tmp_path / "kept"), k.AT + timedelta(days=1)
    request = k.make_request()
    granted = k.judge().certify(request, now=k.AT)
    leaf = k.authority().issue(granted.wanted, at=k.AT).public_bytes(Encoding.DER)
    url = f"{AMD_KDS_URL}/vcek/v1/Milan/crl"
    body = k.amd().make_crl(revoked=revoked, at=later)
    DiskCache(kept).store(Entry(url=url, body=body, fetched_at=later))
    now = later + timedelta(days=9)
    again = k.judge(newest=vendors.lists_at_hand(kept)).again(k.shown(request, granted.report_data), leaf, now=now)
    assert again.verdict is verdict
    assert k.judge().again(k.shown(request, granted.report_data), leaf, now=now).verdict is Verdict.ACCEPTED
