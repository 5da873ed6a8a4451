# SPDX-License-Identifier: Apache-2.0
"""What is set aside for a Keep. How Keeps begin and end is seen in tests/integration/test_host_service.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enarx.host.fleet import package_limit
from enarx.host.store import KeepRecord

MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory_mib", "most_mib", "package_mib"),
    [
        # What `enarx deploy` asks for if nothing is said.
        (1024, 512, 512),
        (1, 512, 32),
        (64, 512, 32),
        (100, 512, 50),
        (4096, 512, 512),
        (4096, 8192, 2048),
        (1024, 1, 1),
    ],
)
def test_a_package_has_half_of_the_memory_or_a_little(memory_mib, most_mib, package_mib):
    assert package_limit(memory_mib * MIB, most_mib * MIB) == package_mib * MIB


def test_what_is_set_aside_for_a_keep_has_room_for_its_package():
    record = KeepRecord(
        id="0" * 16,
        tenant="one",
        backend="nil",
        state="ready",
        created_ns=1,
        memory_bytes=5,
        package_bytes=2,
        boot="boot",
    )
    assert record.reserved_bytes == 7
    assert replace(record, package_bytes=0).reserved_bytes == 5
