# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from enarx.steward.metrics import Metrics


def lines(metrics):
    return set(metrics.exposition().decode().splitlines())


def test_requests_are_counted_by_endpoint_and_status():
    metrics = Metrics()
    metrics.answered("certify", 201, 0.004)
    metrics.answered("certify", 201, 0.004)
    metrics.answered("certify", 403, 0.004)
    assert lines(metrics) >= {
        'enarx_steward_requests_total{endpoint="certify",status="201"} 2.0',
        'enarx_steward_requests_total{endpoint="certify",status="403"} 1.0',
        'enarx_steward_request_seconds_bucket{endpoint="certify",le="0.0025"} 0.0',
        'enarx_steward_request_seconds_bucket{endpoint="certify",le="0.005"} 3.0',
    }


def test_decisions_are_counted_by_kind_and_the_log_has_a_size():
    metrics = Metrics()
    metrics.decided("certificate", 7)
    metrics.decided("refusal", 9)
    metrics.decided("revocation", 8)
    assert lines(metrics) >= {
        'enarx_steward_decisions_total{kind="certificate"} 1.0',
        'enarx_steward_decisions_total{kind="refusal"} 1.0',
        'enarx_steward_decisions_total{kind="revocation"} 1.0',
        "enarx_steward_log_entries 9.0",
    }


def test_nonces_and_requests_that_were_turned_away_are_counted():
    metrics = Metrics()
    metrics.nonce_refused("replayed")
    metrics.turned_away.inc()
    assert lines(metrics) >= {
        'enarx_steward_nonces_refused_total{why="replayed"} 1.0',
        "enarx_steward_turned_away_total 1.0",
    }


def test_numbers_that_change_by_themselves_are_asked_for():
    metrics = Metrics()
    numbers = [3, 1]
    metrics.watch(in_force=lambda: numbers[0], under_way=lambda: numbers[1])
    assert lines(metrics) >= {"enarx_steward_certificates_in_force 3.0", "enarx_steward_judging_now 1.0"}
    numbers[:] = [2, 0]
    assert lines(metrics) >= {"enarx_steward_certificates_in_force 2.0", "enarx_steward_judging_now 0.0"}


def test_rows_that_were_tampered_with_are_said():
    metrics = Metrics()
    assert lines(metrics) >= {"enarx_steward_certificates_tampered 0.0"}
    metrics.tampered.set(2)
    assert lines(metrics) >= {"enarx_steward_certificates_tampered 2.0"}


def test_two_stewards_in_one_process_count_apart():
    one, other = Metrics(), Metrics()
    one.decided("result", 1)
    assert 'enarx_steward_decisions_total{kind="result"} 1.0' not in lines(other)
