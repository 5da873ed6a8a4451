# SPDX-License-Identifier: Apache-2.0
"""An engine for services: instances come from slots that are mapped once and used again.

Making and destroying an instance then changes no mappings, which a service does for every request. It maps the same
artefacts as `enarx.runtime.engine.make_engine`, but those that need more than a slot has, which it refuses to load.

Source: Wasmtime 50 C API header `wasmtime/config.h`, pooling allocation.
"""

from __future__ import annotations

from enarx.runtime import capi
from enarx.runtime.capi import N, P
from enarx.runtime.component.values import c_uint32
from enarx.runtime.engine import configure

_pool_new = capi.bind("wasmtime_pooling_allocation_config_new", P)
_pool_delete = capi.bind("wasmtime_pooling_allocation_config_delete", None, P)
_strategy_set = capi.bind("wasmtime_pooling_allocation_strategy_set", None, P, P)

MAX_INSTANCES = 64
"""Components at once: the threads of a service."""

# Of each kind, for all instances. Address space is what they cost until they are used.
_COUNTS = {
    "total_component_instances": MAX_INSTANCES,
    "total_core_instances": 32 * MAX_INSTANCES,
    "total_memories": 2 * MAX_INSTANCES,
    "total_tables": 8 * MAX_INSTANCES,
    "total_stacks": 0,
    "max_tables_per_module": 8,
    "max_unused_warm_slots": MAX_INSTANCES,
}
_SIZES = {
    "table_elements": 1 << 16,
    "max_core_instance_size": 1 << 22,
    # Guests put their stack first, and its far end is what would be cleared for nothing.
    "linear_memory_keep_resident": 0,
    # Below it, clearing is cheaper than giving back and faulting in again.
    "table_keep_resident": 1 << 14,
}


def make_pooled_engine(*, fuel: bool) -> int:
    """Make an engine whose instances come from a pool; it lives as long as its holder.

    Args:
        fuel: whether code counts fuel.
    """
    config = capi.config_new()
    configure(config, fuel=fuel)
    pool = _pool_new()
    for name, count in _COUNTS.items():
        capi.bind(f"wasmtime_pooling_allocation_config_{name}_set", None, P, c_uint32)(pool, count)
    for name, size in _SIZES.items():
        capi.bind(f"wasmtime_pooling_allocation_config_{name}_set", None, P, N)(pool, size)
    _strategy_set(config, pool)
    _pool_delete(pool)
    engine: int = capi.engine_new_with_config(config)
    return engine
