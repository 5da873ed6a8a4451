# SPDX-License-Identifier: Apache-2.0
"""The engine of services."""

from __future__ import annotations

import pytest

from enarx.errors import DecodeError
from enarx.runtime.component import find_interface
from enarx.runtime.component.binding import Component, Keep, Linker
from enarx.runtime.component.pooling import MAX_INSTANCES, make_pooled_engine
from tests.unit.runtime.component.conftest import make_workload


@pytest.fixture
def linker_and_engine(runner, guest):
    engine = make_pooled_engine(fuel=False)
    compiled = runner.compile(guest("component/http_hello").read_bytes())
    return Linker(Component(engine, compiled), find_interface), engine


def test_takes_what_was_compiled_for_the_plain_engine_and_gives_slots_back(linker_and_engine):
    linker, engine = linker_and_engine
    for _ in range(3 * MAX_INSTANCES):
        keep = Keep(engine, make_workload())
        linker.instantiate(keep)
        keep.close()


def test_has_a_slot_for_every_thread_and_not_more(linker_and_engine):
    linker, engine = linker_and_engine
    keeps = [Keep(engine, make_workload()) for _ in range(MAX_INSTANCES + 1)]
    for keep in keeps[:-1]:
        linker.instantiate(keep)
    with pytest.raises(DecodeError, match="limit"):
        linker.instantiate(keeps[-1])
    for keep in keeps:
        keep.close()
