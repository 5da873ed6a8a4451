# SPDX-License-Identifier: Apache-2.0
"""TPM 2.0: quotes that the verifier accepts, PCR 15, and everything that a TPM can answer instead."""

from __future__ import annotations

import errno
import hashlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.attester.attested import EVENT_LOG, TPM_QUOTE
from enarx.attester.tpm import TpmAttester, TpmRegister, find_tpm
from enarx.errors import DecodeError, EnarxError, PlatformError, UsageError
from enarx.rats import TrustAnchors
from enarx.testing.attesters import FakeFile, FakeSystem
from enarx.testing.attesters_tpm import FakeTpmDevice
from enarx.testing.tpm import AT, FakeTpm
from tests.unit.attester.judging import REPORT_DATA, assert_judged, assert_marked, record

DIGEST = b"\x5a" * 48
ANCHORS = TrustAnchors(tpm_aks=frozenset({FakeTpm(kind="ecc").pin}))
AK_HANDLE = 0x81000003


def make_device(**options):
    tpm = FakeTpm(kind="ecc", **options)
    tpm.boot()
    return FakeTpmDevice(tpm)


def assert_fails(device, *words, error=PlatformError, hint=None, ak_handle=None):
    system = device.machine()
    with pytest.raises(error) as caught:
        TpmAttester(system, ak_handle=ak_handle).attest(REPORT_DATA)
    for word in words:
        assert word in str(caught.value)
    if hint is not None:
        assert hint in caught.value.hint
    assert system.files == {}
    return system


def test_evidence_is_accepted():
    device = make_device()
    system = device.machine(event_log=True)
    attester = find_tpm(system)
    assert (attester.backend, attester.media_type, attester.register.name) == ("vm", TPM_QUOTE, "TPM PCR 15")
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, TPM_QUOTE)
    assert [record(each).type for each in attested.endorsements] == [EVENT_LOG]
    result = assert_judged(attested, at=AT, anchors=ANCHORS, freshness="tpm.nonce")
    claims = result.subject.named()
    assert claims["nonce"] == hashlib.sha256(REPORT_DATA).digest()
    assert claims["pcrs"] == device.tpm.pcrs["sha256"]
    assert claims["event_log_replays"]
    assert claims["secure_boot"]
    assert "restricted" in claims["ak_attributes"]
    assert system.files == {}


def test_evidence_of_a_key_that_is_not_pinned_is_not_accepted():
    attested = TpmAttester(make_device().machine()).attest(REPORT_DATA)
    with pytest.raises(EnarxError):
        assert_judged(attested, at=AT, anchors=TrustAnchors(), freshness="tpm.nonce")


def test_a_key_that_is_there_is_used():
    device = make_device()
    device.persistent = (AK_HANDLE,)
    attested = TpmAttester(device.machine(), ak_handle=AK_HANDLE).attest(REPORT_DATA)
    assert_judged(attested, at=AT, anchors=ANCHORS, freshness="tpm.nonce")
    assert 0x131 not in device.commands


def test_a_key_that_is_not_there_is_said():
    assert_fails(make_device(), "command 0x173: found a refusal (TPM_RC 0x18b), want success", ak_handle=AK_HANDLE)


def test_no_event_log_is_no_error():
    assert TpmAttester(make_device().machine()).attest(REPORT_DATA).endorsements == ()


def test_a_busy_tpm_is_asked_again():
    device = make_device()
    device.busy = 19
    system = device.machine()
    assert_judged(TpmAttester(system).attest(REPORT_DATA), at=AT, anchors=ANCHORS, freshness="tpm.nonce")
    assert system.slept == [0.25] * 19


def test_a_tpm_that_stays_busy_is_given_up():
    device = make_device()
    device.busy = 1000
    system = assert_fails(device, "found a busy TPM 20 times (TPM_RC 0x922)")
    assert len(device.commands) == 20
    assert len(system.slept) == 19


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (0x101, "a failure of the TPM (TPM_RC 0x101)", "restart"),
        (0x100, "was not started", "firmware"),
        (0x143, "does not know", None),
        (0x921, "locked", "lockout"),
        (0x923, "without room", "end programs"),
        (0x9A2, "a refusal (TPM_RC 0x9a2)", None),
    ],
)
def test_refusals_have_their_own_words(code, words, hint):
    device = make_device()
    device.code = code
    assert_fails(device, "/dev/tpmrm0: command 0x131: found", words, hint=hint)


def test_a_pcr_that_changes_in_between_is_read_again():
    device = make_device()
    changes = [3]

    def change():
        if changes[0]:
            changes[0] -= 1
            device.tpm.extend(10, b"a file")

    device.before_quote = change
    attested = TpmAttester(device.machine(event_log=True)).attest(REPORT_DATA)
    assert_judged(attested, at=AT, anchors=ANCHORS, freshness="tpm.nonce")
    assert changes == [0]


def test_pcrs_that_change_without_end_are_given_up():
    device = make_device()
    device.before_quote = lambda: device.tpm.extend(10, b"a file")
    assert_fails(device, "found PCRs that changed during 5 quotes", hint="extends PCRs")
    assert device.commands.count(0x158) == 5


def test_a_tpm_without_the_bank_is_said():
    assert_fails(make_device(banks=("sha1",)), "found 0 PCRs of bank sha256, want 24", hint="firmware")


def test_a_quote_over_other_data_is_refused():
    device = make_device()
    quote = device.tpm.quote
    device.tpm.quote = lambda _, **options: quote(bytes(32), **options)
    assert_fails(device, "found a quote over other report data")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x80\x02",
        struct.pack(">HII", 0x8001, 10, 0),
        struct.pack(">HII", 0x8002, 10, 0),
        struct.pack(">HII", 0x8002, 4096, 0),
        struct.pack(">HII", 0x8002, 14, 0) + b"\x80\xff\xff\xff",
        struct.pack(">HII", 0x8002, 20, 0) + b"\x80\xff\xff\xff\0\0\0\0\xff\xff",
    ],
)
def test_an_answer_that_is_none_is_refused(answer):
    device = make_device()
    device.answer = answer
    assert_fails(device, "cannot attest: /dev/tpmrm0", error=DecodeError)


def answer_of(body, tag=0x8002):
    return struct.pack(">HII", tag, 10 + len(body), 0) + body


def test_values_without_their_pcrs_are_refused():
    # Two PCRs of the bank are named, and one value is there.
    device = make_device()
    device.answer = answer_of(struct.pack(">IIHB3sIH32s", 1, 1, 0xB, 3, b"\x03\0\0", 1, 32, bytes(32)), tag=0x8001)
    with pytest.raises(DecodeError, match="found 1 values of 2 PCRs"):
        TpmRegister(device.machine()).read()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from([0x131, 0x17E, 0x158, 0x13C]))
def test_no_answer_does_more_than_raise_our_errors(body, command):
    device = make_device()
    system = device.machine()
    run = {0x13C: lambda: TpmRegister(system).extend(DIGEST)}.get(
        command, lambda: TpmAttester(system).attest(REPORT_DATA)
    )
    made = device.open("", 0)

    class Lying(type(made)):
        def _run(self, data):
            if int.from_bytes(data[6:10], "big") == command:
                return answer_of(body, int.from_bytes(data[:2], "big"))
            return super()._run(data)

    device.open = lambda rest, flags: Lying(device)
    with pytest.raises((PlatformError, DecodeError)):
        run()
    assert system.files == {}


def test_extending_shows_in_every_bank_and_in_the_next_quote():
    device = make_device()
    system = device.machine(event_log=True)
    register = TpmRegister(system)
    assert register.read() == bytes(32)
    assert register.extend(DIGEST) == register.predict(DIGEST) == device.tpm.pcrs["sha256"][15]
    second = register.extend(DIGEST)
    assert second == register.predict(DIGEST, register.predict(DIGEST)) == register.read()
    assert all(any(device.tpm.pcrs[bank][15]) for bank in device.tpm.banks)
    result = assert_judged(TpmAttester(system).attest(REPORT_DATA), at=AT, anchors=ANCHORS, freshness="tpm.nonce")
    assert result.subject.pcrs[15] == second


def test_a_register_that_does_not_change_is_noticed():
    device = make_device()
    device.forgets_event = True
    with pytest.raises(PlatformError, match=f"cannot extend TPM PCR 15: found {'00' * 32} after it, want"):
        TpmRegister(device.machine()).extend(DIGEST)


@pytest.mark.parametrize("size", [0, 32, 47, 49, 64])
def test_a_register_takes_48_bytes(size):
    register = TpmRegister(make_device().machine())
    for call in (register.extend, register.predict):
        with pytest.raises(UsageError, match=f"digest: found {size} bytes, want 48"):
            call(bytes(size))


def test_refuses_report_data_of_another_size():
    with pytest.raises(UsageError, match="found 32 bytes, want 64"):
        TpmAttester(make_device().machine()).attest(bytes(32))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied (EACCES)"),
        (errno.EBUSY, "a device that somebody else uses (EBUSY)"),
        (errno.EPIPE, "a TPM that is gone (EPIPE)"),
    ],
)
def test_a_device_that_does_not_open_is_said(number, words):
    system = FakeSystem({"/dev/tpmrm0": FakeFile(error=number)})
    for call in (lambda: TpmAttester(system).attest(REPORT_DATA), TpmRegister(system).read):
        with pytest.raises(PlatformError) as caught:
            call()
        assert f"/dev/tpmrm0: found {words}" in str(caught.value)


def test_finds_it_where_it_is():
    assert find_tpm(FakeSystem({})) is None


def test_the_bundle_is_json_in_hex():
    bundle = json.loads(record(TpmAttester(make_device().machine()).attest(REPORT_DATA).evidence).value)
    assert bundle.keys() == {"ak_public", "tpm_quote"}
    assert len(bundle["tpm_quote"]["pcrs"]) == 24
    assert bytes.fromhex(bundle["ak_public"]) == FakeTpm(kind="ecc").public_area


def run(device, data):
    """Run one raw command, and return the code that it ends with."""
    file = device.open("", 0)
    file.write(data)
    answer = file.read(4096)
    assert len(answer) == int.from_bytes(answer[2:6], "big")
    return int.from_bytes(answer[6:10], "big")


def test_the_emulation_refuses_what_a_tpm_refuses():
    device = make_device()
    read = struct.pack(">HII", 0x8001, 20, 0x17E) + bytes.fromhex("00000001000b03ffffff")
    assert run(device, read) == 0
    assert run(device, b"\x80\x03" + read[2:]) == 0x1E
    assert run(device, read + b"\0") == 0x142
    assert run(device, read[:6] + b"\0\0\1\x7a" + read[10:]) == 0x143
    assert run(device, b"\x80\x02" + read[2:]) == 0x125
    file = device.open("", 0)
    for data, number in ((bytes(5), errno.EINVAL), (read[:-1], errno.EINVAL), (bytes(4097), errno.E2BIG)):
        with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
            file.write(data)
    file.write(read)
    assert file.read(4) == b"\x80\x01\0\0"
    with pytest.raises(OSError, match=rf"\[Errno {errno.EBUSY}\]"):
        file.write(read)
