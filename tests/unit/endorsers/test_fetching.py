# SPDX-License-Identifier: Apache-2.0
"""Cache, service, patience: when something is asked for again, how long, and what is made do with."""

from __future__ import annotations

import os
import threading
from datetime import UTC, timedelta
from email.utils import format_datetime

import pytest

from enarx.endorsers.amd_kds import chain_wanted, crl_wanted, vcek_wanted
from enarx.endorsers.disk_cache import DiskCache
from enarx.endorsers.fetching import Fetcher, _retry_after_s
from enarx.endorsers.http import Client
from enarx.errors import EndorsementError
from enarx.testing.endorsers import Answer

from .conftest import CHIP, NOW, TCB, Amd


@pytest.fixture
def cache(tmp_path):
    return DiskCache(str(tmp_path / "cache"))


@pytest.fixture
def said():
    return []


@pytest.fixture
def fetcher(cache, clock, said):
    def make(**options):
        return Fetcher(cache, Client(), clock.timing, say=said.append, **options)

    return make


@pytest.fixture
def vcek(vendors, amd):
    vendors.serve_vcek("Milan", CHIP, TCB, amd.vek())
    return vcek_wanted(vendors.url, "Milan", CHIP, TCB)


@pytest.fixture
def crl(vendors, amd):
    vendors.serve_amd_crl("Milan", amd.crl())
    return crl_wanted(vendors.url, "Milan")


class TestCertificates:
    def test_are_asked_for_once(self, fetcher, vcek, vendors, clock):
        first = fetcher().fetch(vcek)
        assert not first.source.from_cache
        assert (first.source.url, first.source.fetched_at) == (vcek.key, NOW)
        clock.pass_by(days=1999)
        second = fetcher().fetch(vcek)
        assert second.source.from_cache
        assert second.value == first.value
        assert len(vendors.asked) == 1

    def test_are_asked_for_again_when_they_end(self, fetcher, vcek, vendors, clock, amd):
        fetcher().fetch(vcek)
        clock.pass_by(days=2001)
        with pytest.raises(EndorsementError, match="valid until 2031-11-22T00:00:00Z"):
            fetcher().fetch(vcek)
        assert len(vendors.asked) == 2

    def test_are_kept_for_each_tcb_level(self, fetcher, vcek, vendors, amd):
        other_tcb = TCB[:7] + b"\x01"
        vendors.serve_vcek("Milan", CHIP, other_tcb, amd.vek(tcb=other_tcb))
        other = vcek_wanted(vendors.url, "Milan", CHIP, other_tcb)
        values = [fetcher().fetch(wanted).value for wanted in (vcek, other, vcek, other)]
        assert values[0] == values[2] != values[1] == values[3]
        assert len(vendors.asked) == 2

    def test_are_found_under_the_vendors_name_whatever_mirror_they_came_from(self, fetcher, vcek):
        fetcher().fetch(vcek)
        elsewhere = vcek_wanted("https://another.invalid", "Milan", CHIP, TCB)
        assert fetcher(offline=True).fetch(elsewhere).source.from_cache


class TestLists:
    def test_are_used_for_a_day_without_asking(self, fetcher, crl, vendors, clock):
        fetcher().fetch(crl)
        clock.pass_by(hours=23)
        assert fetcher().fetch(crl).source.from_cache
        assert len(vendors.asked) == 1

    def test_are_asked_for_again_after_a_day(self, fetcher, crl, vendors, clock, amd):
        fetcher().fetch(crl)
        clock.pass_by(hours=25)
        newer = amd.crl(issued=NOW)
        vendors.serve_amd_crl("Milan", newer)
        item = fetcher().fetch(crl)
        assert (item.value, item.source.from_cache, item.source.note) == (newer, False, None)

    def test_are_used_until_their_end_where_the_service_is_down_and_say_so(self, fetcher, crl, vendors, clock):
        kept = fetcher().fetch(crl).value
        clock.pass_by(days=20)
        vendors.change("/vcek/v1/Milan/crl", status=503)
        item = fetcher().fetch(crl)
        assert (item.value, item.source.from_cache, item.source.stale) == (kept, True, False)
        assert "status 503" in item.source.note
        # Whoever has something to go on with does not wait for a service that is down.
        assert clock.slept == []

    def test_a_service_that_is_down_is_left_alone_for_a_while(self, fetcher, crl, vendors, clock):
        one = fetcher()
        one.fetch(crl)
        clock.pass_by(days=20)
        vendors.change("/vcek/v1/Milan/crl", status=503)
        notes = [one.fetch(crl).source.note for _ in range(3)]
        assert all("status 503" in note for note in notes)
        assert len(vendors.asked) == 2
        clock.pass_by(minutes=11)
        one.fetch(crl)
        assert len(vendors.asked) == 3

    def test_stale_ones_are_refused(self, fetcher, crl, vendors, clock):
        fetcher().fetch(crl)
        clock.pass_by(days=31)
        vendors.change("/vcek/v1/Milan/crl", status=503)
        with pytest.raises(EndorsementError, match="status 503"):
            fetcher().fetch(crl)
        with pytest.raises(EndorsementError, match="valid until 2026-07-01T00:00:00Z, and enarx is offline"):
            fetcher(offline=True).fetch(crl)

    def test_stale_ones_from_the_service_are_refused(self, fetcher, crl, clock):
        clock.pass_by(days=31)
        with pytest.raises(EndorsementError, match="valid until 2026-07-01T00:00:00Z, want a current one"):
            fetcher().fetch(crl)

    def test_stale_ones_are_used_where_that_is_allowed_and_say_so(self, fetcher, crl, vendors, clock):
        fetcher().fetch(crl)
        clock.pass_by(days=31)
        assert fetcher(allow_stale=True, offline=True).fetch(crl).source.stale
        item = fetcher(allow_stale=True).fetch(crl)
        assert item.source.stale
        assert not item.source.from_cache
        vendors.change("/vcek/v1/Milan/crl", status=503)
        item = fetcher(allow_stale=True).fetch(crl)
        assert item.source.stale
        assert item.source.valid_until == NOW + timedelta(days=30)
        assert "status 503" in item.source.note

    def test_their_last_second_is_not_stale(self, fetcher, crl, clock):
        fetcher().fetch(crl)
        clock.now = NOW + timedelta(days=30)
        assert not fetcher(offline=True).fetch(crl).source.stale
        clock.pass_by(seconds=1)
        with pytest.raises(EndorsementError):
            fetcher(offline=True).fetch(crl)

    def test_an_older_one_does_not_replace_a_newer_one(self, fetcher, crl, vendors, clock, amd):
        kept = fetcher().fetch(crl).value
        older = amd.crl(issued=NOW - timedelta(days=31))
        vendors.serve_amd_crl("Milan", older)
        clock.pass_by(days=2)
        item = fetcher().fetch(crl)
        assert item.value == kept
        assert "want none older" in item.source.note
        assert fetcher(refresh=True).fetch(crl).value == older

    def test_one_from_the_future_is_refused(self, fetcher, crl, vendors, amd):
        vendors.serve_amd_crl("Milan", amd.crl(issued=NOW + timedelta(days=2)))
        with pytest.raises(EndorsementError, match="issued at 2026-06-03"):
            fetcher().fetch(crl)

    def test_one_that_was_fetched_in_the_future_is_asked_for_again(self, fetcher, crl, vendors, clock):
        clock.pass_by(days=10)
        fetcher().fetch(crl)
        clock.now = NOW
        fetcher().fetch(crl)
        assert len(vendors.asked) == 2


class TestPatience:
    def test_a_throttled_question_is_asked_again_when_the_service_bids(self, fetcher, vcek, vendors, clock, said):
        vendors.throttle(vendors_path(vcek, vendors), times=2, retry_after="7")
        assert not fetcher().fetch(vcek).source.from_cache
        assert clock.slept == [7.25, 7.25]
        assert len(vendors.asked) == 3
        assert "found status 429, want 200; asking again in 7 s" in said[1]

    def test_without_a_bid_the_pauses_grow(self, fetcher, vcek, vendors, clock):
        vendors.throttle(vendors_path(vcek, vendors), times=2)
        fetcher().fetch(vcek)
        assert clock.slept == [10.25, 20.25]

    def test_the_wait_has_a_limit_and_the_error_says_what_to_do(self, fetcher, vcek, vendors, clock):
        vendors.throttle(vendors_path(vcek, vendors), times=99)
        with pytest.raises(EndorsementError, match="asked 3 times") as refusal:
            fetcher().fetch(vcek)
        assert sum(clock.slept) < 60
        assert "mirror" in refusal.value.hint
        assert f"curl -f -o FILE '{vcek.key}'" in refusal.value.hint
        assert "--endorsements FILE" in refusal.value.hint

    def test_a_bid_beyond_the_limit_is_not_waited_for(self, fetcher, vcek, vendors, clock):
        vendors.throttle(vendors_path(vcek, vendors), times=1, retry_after="3600")
        with pytest.raises(EndorsementError, match="in 3600 s, of 60 s"):
            fetcher().fetch(vcek)
        assert clock.slept == []

    def test_attempts_are_counted_where_no_time_passes(self, fetcher, vcek, vendors):
        vendors.throttle(vendors_path(vcek, vendors), times=99, retry_after="0")
        with pytest.raises(EndorsementError, match="asked 5 times"):
            fetcher().fetch(vcek)
        assert len(vendors.asked) == 5

    def test_a_connection_that_breaks_is_tried_again(self, fetcher, vcek, vendors):
        vendors.serve_first(vendors_path(vcek, vendors), Answer(body=bytes(99), cut=True))
        assert not fetcher().fetch(vcek).source.from_cache

    @pytest.mark.parametrize("status", [201, 204, 401, 403, 407, 418, 451, 501])
    def test_another_status_is_final(self, fetcher, vcek, vendors, status):
        vendors.change(vendors_path(vcek, vendors), status=status, body=b"")
        with pytest.raises(EndorsementError, match=f"found status {status}, want 200"):
            fetcher().fetch(vcek)
        assert len(vendors.asked) == 1

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            (None, None), ("12", 12.0), ("0", 0.0), ("-1", None), ("1.5", None), ("soon", None), ("9" * 10, None), ("\u0663", None),
            (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0), ("Sun, 99 Foo 2026 00:00:00 GMT", None),
            (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0), ("", None), ("Mon, 01 Jun 2026 00:00:30 -0000", 30.0),
        ],
    )  # fmt: skip
    def test_reads_every_form_of_a_bid(self, text, seconds):
        assert _retry_after_s(text, NOW) == seconds


class TestAnswers:
    @pytest.mark.parametrize("body", [b"", b"<html>maintenance</html>", b"\x30\x82\x05\x00"])
    def test_garbage_is_refused_and_not_kept(self, fetcher, vcek, vendors, body, cache):
        vendors.change(vendors_path(vcek, vendors), body=body)
        with pytest.raises(EndorsementError, match="cannot get the VCEK of Milan chip 0102"):
            fetcher().fetch(vcek)
        assert cache.load(vcek.key) is None

    def test_the_certificate_of_another_chip_is_refused_and_not_kept(self, fetcher, vcek, vendors, cache, amd):
        vendors.change(vendors_path(vcek, vendors), body=amd.vek(CHIP[::-1]))
        with pytest.raises(EndorsementError, match="certificate of another chip"):
            fetcher().fetch(vcek)
        assert cache.load(vcek.key) is None

    def test_an_answer_cannot_write_to_a_terminal(self, fetcher, vendors):
        wanted = chain_wanted(vendors.url, "Milan")
        forged = Amd("Milan\x1b[2J\n" + "M" * 40).chain()
        vendors.serve("/vcek/v1/Milan/cert_chain", forged)
        with pytest.raises(EndorsementError, match=r"SEV-Milan\?\[2J\?M") as refusal:
            fetcher().fetch(wanted)
        assert str(refusal.value).isprintable()

    def test_too_many_bytes_are_refused(self, fetcher, vcek, vendors):
        vendors.change(vendors_path(vcek, vendors), body=bytes(16385))
        with pytest.raises(EndorsementError, match="more than 16384 bytes"):
            fetcher().fetch(vcek)

    def test_garbage_does_not_replace_what_is_kept(self, fetcher, crl, vendors, clock):
        kept = fetcher().fetch(crl).value
        clock.pass_by(days=2)
        vendors.change("/vcek/v1/Milan/crl", body=b"garbage")
        assert fetcher().fetch(crl).value == kept

    def test_nothing_there_says_what_that_means(self, fetcher, vendors):
        wanted = vcek_wanted(vendors.url, "Milan", CHIP, TCB)
        with pytest.raises(EndorsementError, match="found none, want one") as refusal:
            fetcher().fetch(wanted)
        assert "is the report genuine" in refusal.value.hint

    def test_tries_each_spelling_until_there_is_one(self, fetcher, vcek, vendors):
        genoa = vcek_wanted(vendors.url, "Genoa", CHIP, TCB)
        assert fetcher().fetch(genoa, vcek).source.url == vcek.key
        assert len(vendors.asked) == 2
        assert fetcher().fetch(genoa, vcek).source.from_cache
        assert len(vendors.asked) == 2

    def test_a_poisoned_entry_is_replaced(self, fetcher, vcek, vendors, cache):
        good = fetcher().fetch(vcek).value
        name = cache._name(vcek.key)
        with open(name, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 0xFF]))
        item = fetcher().fetch(vcek)
        assert (item.value, item.source.from_cache) == (good, False)

    def test_an_entry_that_no_longer_is_an_answer_is_forgotten(self, fetcher, vcek, cache, amd):
        from enarx.endorsers.disk_cache import Entry

        cache.store(Entry(url=vcek.key, body=amd.ask, fetched_at=NOW))
        with pytest.raises(EndorsementError, match="offline"):
            fetcher(offline=True).fetch(vcek)
        assert cache.load(vcek.key) is None

    def test_a_full_disk_is_said_and_does_no_harm(self, fetcher, vcek, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", fail)
        item = fetcher().fetch(vcek)
        assert "No space left on device" in item.source.note


class TestTurns:
    def test_two_threads_ask_once(self, fetcher, vcek, vendors, clock):
        vendors.gate.clear()
        waiting, done = threading.Event(), threading.Event()
        second_clock = type(clock)()

        def wait(_seconds):
            # The second thread polls: the first is in the middle of its question.
            waiting.set()
            done.wait(30)

        items = []
        first = threading.Thread(target=lambda: (items.append(fetcher().fetch(vcek)), done.set()))
        first.start()
        assert vendors.arrived.acquire(timeout=30)
        second_fetcher = fetcher()
        second_fetcher._timing = type(clock.timing)(now=lambda: second_clock.now, sleep=wait, jitter=lambda: 0.0)
        second = threading.Thread(target=lambda: items.append(second_fetcher.fetch(vcek)))
        second.start()
        assert waiting.wait(30)
        vendors.gate.set()
        first.join(30)
        second.join(30)
        assert len(vendors.asked) == 1
        assert [item.source.from_cache for item in items] == [False, True]

    def test_another_process_is_waited_for(self, fetcher, vcek, vendors, clock, cache, said):
        turn = DiskCache(cache.path).try_turn("amd")
        assert turn.__enter__()
        passed = []

        def sleep(seconds):
            passed.append(seconds)
            if len(passed) == 3:
                assert vendors.asked == []
                turn.__exit__(None, None, None)

        one = fetcher()
        one._timing = type(clock.timing)(now=lambda: NOW, monotonic=lambda: 0.0, sleep=sleep, jitter=lambda: 0.0)
        one.fetch(vcek)
        assert len(passed) == 3
        assert said[0] == "waiting for another enarx that is asking amd"

    def test_another_process_is_waited_for_no_longer_than_the_limit(self, fetcher, vcek, vendors, clock, cache):
        with DiskCache(cache.path).try_turn("amd"), pytest.raises(EndorsementError, match="for 60 s, want a turn"):
            fetcher().fetch(vcek)
        assert 60 <= sum(clock.slept) < 61
        assert vendors.asked == []

    def test_what_is_kept_needs_no_turn(self, fetcher, vcek, cache, clock):
        fetcher().fetch(vcek)
        with DiskCache(cache.path).try_turn("amd"):
            assert fetcher().fetch(vcek).source.from_cache
        assert clock.slept == []


class TestOffline:
    def test_names_what_is_missing_and_how_to_get_it(self, fetcher, vcek, vendors):
        with pytest.raises(EndorsementError, match="cannot get the VCEK of Milan chip 0102030405060708") as refusal:
            fetcher(offline=True).fetch(vcek)
        assert vcek.key in str(refusal.value)
        assert f"curl -f -o FILE '{vcek.key}'" in refusal.value.hint
        assert vendors.asked == []

    def test_uses_what_is_kept_and_says_that_it_may_be_old(self, fetcher, vcek, crl, vendors, clock):
        fetcher().fetch(vcek)
        fetcher().fetch(crl)
        clock.pass_by(days=5)
        assert fetcher(offline=True).fetch(vcek).source.note is None
        assert fetcher(offline=True).fetch(crl).source.note == "enarx is offline"
        assert len(vendors.asked) == 2

    def test_does_not_refresh(self, fetcher, crl, vendors):
        fetcher().fetch(crl)
        assert fetcher(offline=True, refresh=True).fetch(crl).source.from_cache
        assert len(vendors.asked) == 1


def test_refreshing_asks_again(fetcher, vcek, vendors):
    fetcher().fetch(vcek)
    assert not fetcher(refresh=True).fetch(vcek).source.from_cache
    assert len(vendors.asked) == 2


def vendors_path(wanted, vendors):
    return wanted.url.removeprefix(vendors.url)


def test_times_are_aware_utc(fetcher, vcek):
    source = fetcher().fetch(vcek).source
    assert source.fetched_at.tzinfo is UTC
    assert source.valid_until.utcoffset() == timedelta(0)
