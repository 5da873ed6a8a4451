# SPDX-License-Identifier: Apache-2.0
"""The backend that needs nothing and protects nothing from the machine it runs on."""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine

__all__ = ["probe"]


def probe(_machine: Machine) -> Probed:
    """Ask for nothing; tell what this backend does not protect."""
    return Probed(
        hardware=(),
        setup=(),
        facts=(
            Datum(
                name="protects data in use",
                passed=False,
                info="whoever owns or administers this machine can read and change the application and its data",
                fix="for what they must not see, use a machine where a backend above is usable",
            ),
        ),
    )
