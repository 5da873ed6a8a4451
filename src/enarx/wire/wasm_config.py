# SPDX-License-Identifier: Apache-2.0
"""The configuration of a Wasm artifact: what kind of WebAssembly is in it, for whoever looks before fetching it.

Nothing is decided by it here. What a package is, its layers say.

Source: CNCF TAG Runtime, Wasm OCI Artifact layout, "Wasm config" (`application/vnd.wasm.config.v0+json`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from enarx.errors import DecodeError
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "COMPONENT_OS",
    "MAX_CONFIG_BYTES",
    "MODULE_OS",
    "WasmConfig",
    "decode_wasm_config_untrusted",
    "encode_wasm_config",
]

MAX_CONFIG_BYTES = 1 << 20
MODULE_OS, COMPONENT_OS = "wasip1", "wasip2"
_MAX_NAMES = 20_000
_MAX_ITEMS = 100_000
_LATEST_S = 253_402_300_799


class WasmConfig(NamedTuple):
    """What a configuration says.

    Args:
        created_s: Unix time; None where another program left it out.
        os: `wasip1` for a module, `wasip2` for a component.
        layer_digests: of the manifest's layers, in their order.
        imports: of a component; None of a module.
        exports: as well.
    """

    created_s: int | None
    os: str
    layer_digests: tuple[str, ...]
    imports: tuple[str, ...] | None = None
    exports: tuple[str, ...] | None = None


def encode_wasm_config(config: WasmConfig) -> bytes:
    """Return a configuration in JSON, the same bytes every time.

    Raises:
        DecodeError: it is larger than 1 MiB, or its time is none.
    """
    value: dict[str, Any] = {}
    if config.created_s is not None:
        if not 0 <= config.created_s <= _LATEST_S:
            raise DecodeError(f"cannot encode the Wasm configuration: time: found {config.created_s}, want Unix time")
        created = datetime.fromtimestamp(config.created_s, UTC)
        value["created"] = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    value |= {"architecture": "wasm", "os": config.os, "layerDigests": list(config.layer_digests)}
    if config.imports is not None or config.exports is not None:
        value["component"] = {"exports": list(config.exports or ()), "imports": list(config.imports or ())}
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > MAX_CONFIG_BYTES:
        raise DecodeError(
            f"cannot encode the Wasm configuration: size: found {len(data)} bytes, want at most {MAX_CONFIG_BYTES}"
        )
    return data


def decode_wasm_config_untrusted(data: bytes) -> WasmConfig:
    """Decode a configuration; members that others add are passed over.

    Raises:
        DecodeError: it is none.
    """
    value = load_json_untrusted(data, what="Wasm configuration", max_bytes=MAX_CONFIG_BYTES, max_items=_MAX_ITEMS)
    if type(value) is not dict:
        raise _refusal("the text", value, "an object")
    if value.get("architecture") != "wasm":
        raise _refusal("architecture", value.get("architecture"), "wasm")
    system = value.get("os")
    if type(system) is not str or len(system) > 255:
        raise _refusal("os", system, f"{MODULE_OS} or {COMPONENT_OS}")
    component = value.get("component")
    if component is not None and type(component) is not dict:
        raise _refusal("component", component, "an object")
    return WasmConfig(
        created_s=_time(value.get("created")),
        os=system,
        layer_digests=_names(value, "layerDigests"),
        imports=None if component is None else _names(component, "imports"),
        exports=None if component is None else _names(component, "exports"),
    )


def _time(value: Any) -> int | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value if type(value) is str and len(value) <= 64 else "")
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise _refusal("created", value, "a time") from error


def _names(value: dict[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name) or []
    if type(found) is not list or len(found) > _MAX_NAMES or not all(type(each) is str for each in found):
        raise _refusal(name, found, "an array of text")
    return tuple(found)


def _refusal(where: str, found: Any, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the Wasm configuration: {where}: found {quote(found)}, want {want}")
