# SPDX-License-Identifier: Apache-2.0
"""What the host counts, for Prometheus. Numbers of the host and of all Keeps together: no label names a tenant or a Keep."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from enarx.host.fleet import Fleet

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)


class Metrics:
    """Counters of one host process.

    Args:
        fleet: is asked for its numbers whenever somebody wants them.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "enarx_host_requests",
            "Requests answered, by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "enarx_host_request_seconds",
            "Time to answer a request.",
            ["endpoint"],
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self.strangers = Counter(
            "enarx_host_strangers", "Requests without a token or certificate of a tenant.", registry=self._registry
        )
        self.uploaded = Counter(
            "enarx_host_uploaded_bytes", "Bytes of blobs that tenants sent.", registry=self._registry
        )
        self._registry.register(_FleetNumbers(fleet))

    def answered(self, endpoint: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` is None for what takes as long as its user wants."""
        self._requests.labels(endpoint, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(endpoint).observe(seconds)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)


class _FleetNumbers:
    """The fleet as a collector."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        states = Tally(record.state for record in fleet.reserved.values())
        keeps = GaugeMetricFamily("enarx_host_keeps", "Keeps that run or start, by state.", labels=["state"])
        for state in ("starting", "ready"):
            keeps.add_metric([state], states[state])
        yield keeps
        yield CounterMetricFamily("enarx_host_keeps_ended", "Keeps that ended.", value=fleet.ended_keeps)
        reserved = sum(record.reserved_bytes for record in fleet.reserved.values())
        yield GaugeMetricFamily(
            "enarx_host_keep_memory_reserved_bytes", "Memory set aside, packages and machines included.", value=reserved
        )
        usages = [usage for keep in fleet.hosted.values() if (usage := keep.usage()) is not None]
        resident = sum(usage.memory_bytes for usage in usages)
        yield GaugeMetricFamily("enarx_host_keep_memory_resident_bytes", "Memory in use by Keeps.", value=resident)
        cpu = sum(usage.cpu_s for usage in usages)
        yield GaugeMetricFamily("enarx_host_keep_cpu_seconds", "CPU time of the Keeps that run.", value=cpu)
        yield GaugeMetricFamily("enarx_host_blob_reserved_bytes", "Disk reserved for blobs.", value=fleet.disk_bytes)
        received, sent = fleet.relayed_before
        for keep in fleet.hosted.values():
            received, sent = received + keep.relayed_bytes[0], sent + keep.relayed_bytes[1]
        relayed = CounterMetricFamily("enarx_host_relayed_bytes", "Bytes on links to Keeps.", labels=["direction"])
        relayed.add_metric(["from_keep"], received)
        relayed.add_metric(["to_keep"], sent)
        yield relayed
        yield GaugeMetricFamily("enarx_host_draining", "1 where no new Keeps are taken.", value=int(fleet.is_draining))
