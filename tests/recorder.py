# SPDX-License-Identifier: Apache-2.0
"""A log in a list, for `enarx.serving.logs.Log`."""

from __future__ import annotations

__all__ = ["Recorder"]


class Recorder:
    """Keeps events and their facts, and the names of those that are errors."""

    def __init__(self):
        self.events = []
        self.errors = []

    def tell(self, level, event, facts, error=None):
        self.events.append((event, facts))
        if level == "error":
            self.errors.append(event)
