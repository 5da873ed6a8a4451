# SPDX-License-Identifier: Apache-2.0
"""The production verifier over what a driver returned."""

from __future__ import annotations

from enarx.rats import Evidence, Outcome
from enarx.verifier import verify_evidence
from enarx.verifier.endorsement_files import read_endorsements
from enarx.wire.cmw import Indicator, decode_cmw_untrusted, leaves

REPORT_DATA = bytes(range(64))
OTHER_DATA = bytes(range(1, 65))


def judge(attested, *, at, anchors, report_data=REPORT_DATA, endorsements=None):
    """Judge evidence with what came along, as the tenant does."""
    along = read_endorsements(
        [
            ("/".join(path), leaf.value)
            for each in attested.endorsements
            for path, leaf in leaves(decode_cmw_untrusted(each))
        ]
    )
    if endorsements is not None:
        along = along + endorsements
    evidence = Evidence(data=attested.evidence)
    return verify_evidence(evidence, at=at, anchors=anchors, endorsements=along, report_data=report_data)


def assert_judged(attested, *, freshness, **setting):
    """Assert that it is accepted for its own report data, and refused for another: for that reason only."""
    result = judge(attested, **setting)
    result.require()
    refused = judge(attested, **setting, report_data=OTHER_DATA)
    assert [finding.check.id for finding in refused.findings if finding.outcome is Outcome.FAILED] == [freshness]
    return result


def record(data):
    """Return the one record in a CMW."""
    return decode_cmw_untrusted(data)


def assert_marked(attested, media_type):
    """Assert what the records are called."""
    assert record(attested.evidence).type == media_type
    assert record(attested.evidence).indicator == Indicator.EVIDENCE
    assert all(record(each).indicator == Indicator.ENDORSEMENTS for each in attested.endorsements)
