# SPDX-License-Identifier: Apache-2.0
"""wasi:random 0.2. All of it comes from the kernel, the insecure interfaces too: nothing is gained by less.

Source: WIT package wasi:random@0.2.12.
"""

from __future__ import annotations

import os

from enarx.runtime.component.binding import Interface, Trap
from enarx.runtime.component.values import U64, Bytes, Tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.runtime.component.binding import Keep

MAX_BYTES = 1 << 20
"""In one call. On the way each byte takes 64 in the engine, which no memory limit counts."""

random_interface = Interface("wasi:random/random")
insecure_interface = Interface("wasi:random/insecure")
insecure_seed_interface = Interface("wasi:random/insecure-seed")

INTERFACES = (random_interface, insecure_interface, insecure_seed_interface)


@random_interface.func("get-random-bytes", (U64,), Bytes)
@insecure_interface.func("get-insecure-random-bytes", (U64,), Bytes)
def _get_random_bytes(_keep: Keep, size: int) -> bytes:
    if size > MAX_BYTES:
        raise Trap(f"found a request for {size} bytes, want at most {MAX_BYTES}")
    return os.urandom(size)


@random_interface.func("get-random-u64", (), U64)
@insecure_interface.func("get-insecure-random-u64", (), U64)
def _get_random_u64(_keep: Keep) -> int:
    return int.from_bytes(os.urandom(8), "little")


@insecure_seed_interface.func("insecure-seed", (), Tuple(U64, U64))
def _insecure_seed(keep: Keep) -> tuple[int, int]:
    return _get_random_u64(keep), _get_random_u64(keep)
