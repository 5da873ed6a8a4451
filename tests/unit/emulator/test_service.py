# SPDX-License-Identifier: Apache-2.0
"""What the emulated platform answers: AMD's layout, framed; the measurement is the caller's, never the guest's."""

from __future__ import annotations

import pytest

from enarx.abi.snp import parse_certificate_table_untrusted, parse_report_untrusted
from enarx.attester.emulated import EmulatedAttester
from enarx.emulator.installation import TCB, open_installation
from enarx.emulator.service import answer
from enarx.errors import DecodeError
from enarx.testing.snp import AT

REQUEST, MEASUREMENT, REPORT_ID = bytes(range(64)), b"m" * 48, b"r" * 32


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return open_installation(str(tmp_path_factory.mktemp("above") / "platform"), at=AT)


def split(data):
    size = int.from_bytes(data[:4], "big")
    return data[4 : 4 + size], data[4 + size :]


def test_answers_with_a_report_of_what_was_launched(opened):
    report, rest = split(answer(opened, REQUEST, measurement=MEASUREMENT, report_id=REPORT_ID))
    table, nothing = split(rest)
    assert not nothing
    assert table == opened.table
    assert len(parse_certificate_table_untrusted(table)) == 4
    parsed = parse_report_untrusted(report)
    assert parsed.reserved_fields == frozenset()
    assert (parsed.version, parsed.product, parsed.signing_key) == (3, "Genoa", "VCEK")
    assert (parsed.report_data, parsed.measurement, parsed.report_id) == (REQUEST, MEASUREMENT, REPORT_ID)
    assert (parsed.policy, parsed.vmpl, parsed.guest_svn) == (0x30000, 0, 0)
    assert not any(parsed.host_data + parsed.family_id + parsed.image_id + parsed.id_key_digest)
    assert parsed.chip_id == opened.processor.chip_id
    assert {parsed.current_tcb, parsed.reported_tcb, parsed.committed_tcb, parsed.launch_tcb} == {TCB}


def test_is_what_the_attester_reads(opened):
    answered = answer(opened, REQUEST, measurement=MEASUREMENT, report_id=REPORT_ID)
    attested = EmulatedAttester(lambda _: answered).attest(REQUEST)
    assert attested.evidence
    assert len(attested.endorsements) == 1


@pytest.mark.parametrize("size", [0, 63, 65, 112])
def test_refuses_a_request_of_another_size(opened, size):
    with pytest.raises(DecodeError, match=f"found {size} bytes, want 64"):
        answer(opened, bytes(size), measurement=MEASUREMENT, report_id=REPORT_ID)
