# SPDX-License-Identifier: Apache-2.0
"""What the Steward counts, for Prometheus. No label names a Keep, a tenant or a package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0)


class Metrics:
    """Counters of one Steward process."""

    def __init__(self) -> None:
        self._entries = 0
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "enarx_steward_requests",
            "Requests answered, by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "enarx_steward_request_seconds",
            "Time to answer a request.",
            ["endpoint"],
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._decisions = Counter(
            "enarx_steward_decisions", "Decisions in the log, by kind.", ["kind"], registry=self._registry
        )
        # Of each there are a few, and to look one up by its labels takes as long as to count.
        self._requests_of = cache(self._requests.labels)
        self._seconds_of = cache(self._seconds.labels)
        self._decisions_of = cache(self._decisions.labels)
        self.judging_seconds = Histogram(
            "enarx_steward_judging_seconds",
            "Time to judge evidence, its signatures included, without waiting for a thread.",
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._nonces = Counter(
            "enarx_steward_nonces_refused",
            "Nonces that were refused, by why: foreign, expired, replayed.",
            ["why"],
            registry=self._registry,
        )
        self.turned_away = Counter("enarx_steward_turned_away", "Requests that found no room.", registry=self._registry)
        self._log_entries = Gauge(
            "enarx_steward_log_entries", "Decisions that the newest checkpoint covers.", registry=self._registry
        )
        self._in_force = Gauge(
            "enarx_steward_certificates_in_force",
            "Certificates that have not ended and are not revoked, as this process knows.",
            registry=self._registry,
        )
        self.tampered = Gauge(
            "enarx_steward_certificates_tampered",
            "Certificates in force whose rows were not what the log says, at the last review.",
            registry=self._registry,
        )
        self.unjudged = Gauge(
            "enarx_steward_certificates_unjudged",
            "Certificates in force that could not be judged at the last review, for an error that is no verdict.",
            registry=self._registry,
        )
        self._under_way = Gauge(
            "enarx_steward_judging_now", "Requests that are judged or wait for it.", registry=self._registry
        )

    def watch(self, *, in_force: Callable[[], int], under_way: Callable[[], int]) -> None:
        """Ask for these numbers whenever somebody wants them.

        Args:
            in_force: counts certificates.
            under_way: counts requests.
        """
        self._in_force.set_function(in_force)
        self._under_way.set_function(under_way)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests_of(endpoint, status).inc()
        self._seconds_of(endpoint).observe(seconds)

    def decided(self, kind: str, log_entries: int) -> None:
        """Count a decision, and say how many the log has by now."""
        self._decisions_of(kind).inc()
        # Several answers of one checkpoint come in any order.
        self._entries = max(self._entries, log_entries)
        self._log_entries.set(self._entries)

    def nonce_refused(self, why: str) -> None:
        """Count a nonce: `foreign`, `expired` or `replayed`."""
        self._nonces.labels(why).inc()

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)
