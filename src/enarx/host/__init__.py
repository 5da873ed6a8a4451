# SPDX-License-Identifier: Apache-2.0
"""The host side: which Keeps this machine can start, and why not the others.

The face holds what every `run` needs and nothing that costs start-up time; the probes are `enarx.host.probes`, imported
by those who run them.
"""

from __future__ import annotations

from enarx.host.backends import BACKENDS, LAUNCHABLE, choose_backend

__all__ = ["BACKENDS", "LAUNCHABLE", "choose_backend"]
