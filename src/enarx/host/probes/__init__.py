# SPDX-License-Identifier: Apache-2.0
"""What this machine has of each backend, what it lacks, and what to do about it.

A probe reads a `Machine` and nothing else, never judges evidence, and leaves no trace. Whether a backend is usable is
decided here, once: its hardware and its set-up are both certain, and this version can launch it.
"""

from __future__ import annotations

from dataclasses import dataclass

from enarx import __version__
from enarx.host import backends
from enarx.host.probes import cca, nil, pef, sgx, snp, tdx, vm
from enarx.host.probes.datum import BackendReport, Datum, Probed, all_passed, first_failure, strip_unprintable
from enarx.host.probes.kvm import KvmAnswer
from enarx.host.probes.machine import Machine, this_machine

__all__ = [
    "BackendReport",
    "Datum",
    "KvmAnswer",
    "Machine",
    "PlatformReport",
    "report_backend",
    "report_platform",
    "this_machine",
]

# In the order in which people see them. One more than Keeps can be of: a guest of it gives no evidence.
_PROBES = {
    "snp": snp.probe,
    "tdx": tdx.probe,
    "cca": cca.probe,
    "pef": pef.probe,
    "sgx": sgx.probe,
    "vm": vm.probe,
    "nil": nil.probe,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformReport:
    """This machine and every backend of `enarx.host.BACKENDS`, in that order, and `pef`.

    Args:
        version: of enarx.
        sysname, release, machine: what uname says.
        backends: one report each.
    """

    version: str
    sysname: str
    release: str
    machine: str
    backends: tuple[BackendReport, ...]


def report_platform(machine: Machine) -> PlatformReport:
    """Probe a machine for every backend."""
    return PlatformReport(
        version=__version__,
        sysname=strip_unprintable(machine.sysname),
        release=strip_unprintable(machine.release),
        machine=strip_unprintable(machine.machine),
        backends=tuple(report_backend(backend, machine) for backend in _PROBES),
    )


def report_backend(backend: str, machine: Machine) -> BackendReport:
    """Probe a machine for one backend.

    Args:
        backend: one of `enarx.host.BACKENDS`, or `pef`.
        machine: the machine to probe.
    """
    probed = _PROBES[backend](machine)
    present = all_passed(probed.hardware)
    configured = all_passed(probed.setup)
    launchable = backend in backends.LAUNCHABLE
    usable = present is True and configured is True and launchable
    return BackendReport(
        backend=backend,
        present=present,
        configured=configured,
        usable=usable,
        why=None if usable else _explain(backend, probed, launchable=launchable),
        data=(*probed.hardware, *probed.setup, *probed.facts),
    )


def _explain(backend: str, probed: Probed, *, launchable: bool) -> str:
    """Say in one line why a backend is not usable: the first thing to blame on the machine, then on this version."""
    reasons = []
    blamed = first_failure(probed.hardware) or first_failure(probed.setup)
    if blamed is not None:
        reasons.append(f"{blamed.name}: {blamed.info or 'no'}")
    if not launchable:
        reasons.append(backends.reservation(backend) or f"this version has no launcher for {backend}")
    return "; ".join(reasons)
