# SPDX-License-Identifier: Apache-2.0
"""Random bytes, as many as asked for or a trap."""

from __future__ import annotations

import pytest

from enarx.runtime.component.binding import Trap
from enarx.runtime.component.random import (
    MAX_BYTES,
    insecure_interface,
    insecure_seed_interface,
    random_interface,
)

BYTES = (
    random_interface.functions["get-random-bytes"].call,
    insecure_interface.functions["get-insecure-random-bytes"].call,
)
NUMBERS = (
    random_interface.functions["get-random-u64"].call,
    insecure_interface.functions["get-insecure-random-u64"].call,
)


@pytest.mark.parametrize("call", BYTES)
def test_gives_as_many_bytes_as_asked_for(call):
    assert call(None, 0) == b""
    assert len(call(None, MAX_BYTES)) == MAX_BYTES
    assert call(None, 32) != call(None, 32)


@pytest.mark.parametrize("call", BYTES)
@pytest.mark.parametrize("size", [MAX_BYTES + 1, 2**64 - 1])
def test_too_many_trap(call, size):
    with pytest.raises(Trap):
        call(None, size)


@pytest.mark.parametrize("call", NUMBERS)
def test_gives_numbers_of_64_bits(call):
    numbers = {call(None) for _ in range(64)}
    assert len(numbers) == 64
    assert max(numbers).bit_length() > 56
    assert max(numbers) < 2**64


def test_a_seed_is_two_numbers():
    seed = insecure_seed_interface.functions["insecure-seed"].call(None)
    assert len(seed) == 2
    assert seed[0] != seed[1]
