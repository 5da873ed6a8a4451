# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.event_log import EV_NO_ACTION, parse_event_log_untrusted, replay, serialise_event_log
from enarx.errors import DecodeError
from enarx.testing.tpm import FakeTpm, make_log, make_secure_boot_event
from tests.evidence import cases, needs_evidence, read

DRIVER_CONFIG = 0x80000001


def booted(**options):
    tpm = FakeTpm("log", **options)
    tpm.boot()
    tpm.extend(8, b"kernel")
    return tpm


LOG = booted().event_log()


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("locality", [0, 3, 4])
def test_replays_to_what_the_tpm_holds(bank, locality):
    tpm = booted(locality=locality)
    registers = replay(parse_event_log_untrusted(tpm.event_log()), bank)
    assert sorted(registers) == list(range(9))
    assert all(registers[index] == tpm.pcrs[bank][index] for index in registers)


def test_writes_a_log_as_it_was_read():
    assert serialise_event_log(parse_event_log_untrusted(LOG)) == LOG


def test_replays_nothing_for_a_bank_that_the_log_lacks():
    assert replay(parse_event_log_untrusted(LOG), "sha512") == {}


@pytest.mark.parametrize("filling", [b"\xff", b"\0"])
@pytest.mark.parametrize("size", [1, 3, 8, 500])
def test_filling_ends_a_log(filling, size):
    assert parse_event_log_untrusted(LOG + filling * size) == parse_event_log_untrusted(LOG)


@pytest.mark.parametrize("tail", [b"\xff" * 8 + b"\0", b"\0" * 40 + b"\1", b"trailing"])
def test_refuses_what_is_neither_filling_nor_an_event(tail):
    with pytest.raises(DecodeError):
        parse_event_log_untrusted(LOG + tail)


def test_refuses_or_shortens_every_truncation():
    whole = parse_event_log_untrusted(LOG)
    for size in range(len(LOG)):
        try:
            log = parse_event_log_untrusted(LOG[:size])
        except DecodeError:
            continue
        assert len(log.events) < len(whole.events)


def sha1(data):
    return hashlib.sha1(data, usedforsecurity=False).digest()


def legacy_event(register, kind, digest, data):
    return struct.pack("<II20sI", register, kind, digest, len(data)) + data


def test_reads_and_replays_a_legacy_log():
    first, second = sha1(b"one"), sha1(b"two")
    data = legacy_event(0, 8, first, b"one") + legacy_event(4, 13, second, b"two")
    log = parse_event_log_untrusted(data)
    assert (log.algorithms, log.events, len(log.legacy_events)) == ((), (), 2)
    assert replay(log, "sha1") == {
        0: sha1(bytes(20) + first),
        4: sha1(bytes(20) + second),
    }
    assert replay(log, "sha256") == {}
    assert serialise_event_log(log) == data


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (b"", "size"),
        (bytes(31), "size"),
        (legacy_event(32, 8, bytes(20), b""), "register"),
        (struct.pack("<II20sI", 0, 8, bytes(20), 0xFFFFFFFF), "size of an event"),
        (LOG + struct.pack("<III", 0, 8, 0xFFFFFFFF), "digests of an event"),
        (LOG + struct.pack("<IIIH", 0, 8, 1, 0x7777), "digest algorithm"),
        (LOG + struct.pack("<IIIH20sH", 0, 8, 2, 4, bytes(20), 4), "digest algorithm"),
        (LOG + struct.pack("<IIII", 0, 8, 0, 0xFFFFFFFF), "size of an event"),
        (LOG + struct.pack("<IIII", 99, 8, 0, 0), "register"),
        (bytes((2 << 20) + 1), "size"),
    ],
)
def test_refuses_what_is_no_log(data, subject):
    with pytest.raises(DecodeError, match=subject):
        parse_event_log_untrusted(data)


def spec_id(count, rows, vendor=b"\0"):
    data = b"Spec ID Event03\0" + bytes(8) + struct.pack("<I", count) + rows + vendor
    return legacy_event(0, EV_NO_ACTION, bytes(20), data)


ROW = struct.pack("<HH", 11, 32)


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (spec_id(0, b""), "algorithms"),
        (spec_id(0xFFFFFFFF, ROW), "algorithms"),
        (spec_id(2, ROW + ROW), "algorithm"),
        (spec_id(1, struct.pack("<HH", 11, 20)), "algorithm"),
        (spec_id(1, struct.pack("<HH", 0x7777, 20)), "algorithm"),
        (spec_id(1, ROW, b"\5abc"), "vendor"),
        (spec_id(1, ROW, b""), "algorithms"),
        (legacy_event(0, EV_NO_ACTION, bytes(20), b"Spec ID Event03\0"), "Spec ID event"),
    ],
)
def test_refuses_a_spec_id_event_that_is_wrong(data, subject):
    assert parse_event_log_untrusted(spec_id(1, ROW)).algorithms == ("sha256",)
    with pytest.raises(DecodeError, match=subject):
        parse_event_log_untrusted(data)


def test_refuses_to_replay_an_event_without_the_banks_digest():
    log = parse_event_log_untrusted(make_log(("sha1", "sha256"), [(0, 8, {"sha1": bytes(20)}, b"")]))
    assert replay(log, "sha1")
    with pytest.raises(DecodeError, match="no sha256 digest"):
        replay(log, "sha256")


def test_refuses_a_startup_locality_out_of_place():
    locality = (0, EV_NO_ACTION, {"sha256": bytes(32)}, b"StartupLocality\0\3")
    event = (0, 8, {"sha256": bytes(32)}, b"")
    initial = bytes(31) + b"\3"
    good = parse_event_log_untrusted(make_log(("sha256",), [locality, event]))
    assert replay(good, "sha256") == {0: hashlib.sha256(initial + bytes(32)).digest()}
    for events in ([event, locality], [locality, locality, event], [(7, *locality[1:]), event]):
        with pytest.raises(DecodeError, match="StartupLocality"):
            replay(parse_event_log_untrusted(make_log(("sha256",), events)), "sha256")


def test_does_not_extend_no_action_events():
    log = parse_event_log_untrusted(make_log(("sha256",), [(5, EV_NO_ACTION, {"sha256": bytes(32)}, b"anything")]))
    assert replay(log, "sha256") == {}


@pytest.mark.parametrize(("value", "answer"), [(b"\1", True), (b"\0", False), (b"", False), (b"\2", None)])
def test_reads_secure_boot_from_the_first_measurement_of_pcr_7(value, answer):
    tpm = FakeTpm("log")
    tpm.boot(secure_boot=value)
    assert parse_event_log_untrusted(tpm.event_log()).secure_boot("sha256") is answer


def test_does_not_believe_secure_boot_data_that_the_digest_does_not_cover():
    tpm = FakeTpm("log")
    tpm.extend(7, make_secure_boot_event(b"\1"), kind=DRIVER_CONFIG, digest_of=make_secure_boot_event(b"\0"))
    assert parse_event_log_untrusted(tpm.event_log()).secure_boot("sha256") is None


def test_does_not_believe_a_secure_boot_event_that_is_not_the_first():
    tpm = FakeTpm("log")
    tpm.extend(7, make_secure_boot_event(b"\0"), kind=4)
    tpm.extend(7, make_secure_boot_event(b"\1"), kind=DRIVER_CONFIG)
    assert parse_event_log_untrusted(tpm.event_log()).secure_boot("sha256") is None


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


LOG_CASES = [case for tee in ("tpm", "tdx") for case in cases(tee) if "event_log" in case["inputs"]]


@needs_evidence
def test_the_corpus_has_logs():
    assert len(LOG_CASES) == 11


@pytest.mark.parametrize("case", LOG_CASES, ids=lambda case: case["id"])
def test_real_logs_replay_to_their_claims(case):
    data = read(case["inputs"]["event_log"])
    log = parse_event_log_untrusted(data)
    claims = plain(log.named())
    assert {key: claims[key] for key in case["claims"]} == case["claims"]
    assert data.startswith(serialise_event_log(log))


@needs_evidence
def test_a_real_ccel_replays_to_the_rtmrs_of_its_quote():
    from enarx.abi.quote import parse_quote_untrusted

    case = next(case for case in LOG_CASES if "quote" in case["inputs"])
    registers = replay(parse_event_log_untrusted(read(case["inputs"]["event_log"])), "sha384")
    report = parse_quote_untrusted(read(case["inputs"]["quote"])).report
    rtmrs = (report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3)
    assert all(rtmrs[index - 1] == value for index, value in registers.items())


@needs_evidence
def test_reads_a_log_that_is_one_short_event():
    log = parse_event_log_untrusted(read("tpm/eventlog/short_no_action_eventlog.bin"))
    assert len(log.legacy_events) == 1


def check_any_bytes(position, change, cut):
    data = bytearray(LOG)
    at = position % len(data)
    data[at : at + len(change)] = change
    with contextlib.suppress(DecodeError):
        log = parse_event_log_untrusted(bytes(data[: len(data) - cut]))
        for bank in log.banks:
            replay(log, bank)
            log.secure_boot(bank)
        log.named()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 16), st.binary(max_size=16), st.integers(0, 40))
def test_any_bytes_are_a_log_or_a_decode_error(position, change, cut):
    check_any_bytes(position, change, cut)
