# SPDX-License-Identifier: Apache-2.0
"""What is declared here against the WIT that a component was built with, type by type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from enarx.runtime.component import find_interface
from enarx.runtime.component import values as v
from enarx.runtime.component.binding import Borrow, Own

PRIMITIVES = {
    v.Bool: "bool",
    v.U8: "u8",
    v.U16: "u16",
    v.U32: "u32",
    v.U64: "u64",
    v.S32: "s32",
    v.S64: "s64",
    v.String: "string",
}


def describe_codec(codec):
    """Describe a codec in nested tuples."""
    if codec is None:
        return None
    if codec in PRIMITIVES:
        return PRIMITIVES[codec]
    if codec is v.Bytes:
        return ("list", "u8")
    match codec:
        case v.ListOf():
            return ("list", describe_codec(codec.element))
        case v.Option():
            return ("option", describe_codec(codec.some))
        case v.Result():
            return ("result", describe_codec(codec.ok), describe_codec(codec.err))
        case v.Tuple():
            return ("tuple", *map(describe_codec, codec.elements))
        case v.Record():
            return ("record", *((name.decode(), describe_codec(field)) for name, field in codec.fields))
        case v.Variant():
            return ("variant", *((name, describe_codec(payload)) for name, payload in codec.cases.items()))
        case v.Enum():
            return ("enum", *sorted(codec.cases))
        case v.Flags():
            return ("flags", *sorted(codec.names))
        case Own():
            return ("own", codec.kind.name)
        case Borrow():
            return ("borrow", codec.kind.name)
    raise TypeError(codec)


class Wit:
    """A WIT document as `wasm-tools component wit --json` writes it."""

    def __init__(self, document) -> None:
        self.document = document

    def interface_name(self, index):
        interface = self.document["interfaces"][index]
        package = self.document["packages"][interface["package"]]["name"].partition("@")[0]
        return f"{package}/{interface['name']}"

    def describe(self, type_):
        """Describe a type as `describe_codec` does."""
        if type_ is None or isinstance(type_, str):
            return type_
        definition = self.document["types"][type_]
        kind = definition["kind"]
        if kind == "resource":
            return f"{self.interface_name(definition['owner']['interface'])}.{definition['name']}"
        ((name, content),) = kind.items()
        match name:
            case "type":
                return self.describe(content)
            case "handle":
                ((how, resource),) = content.items()
                return (how, self.describe(resource))
            case "list" | "option":
                return (name, self.describe(content))
            case "result":
                return (name, self.describe(content["ok"]), self.describe(content["err"]))
            case "tuple":
                return (name, *map(self.describe, content["types"]))
            case "record":
                return (name, *((field["name"], self.describe(field["type"])) for field in content["fields"]))
            case "variant":
                return (name, *((case["name"], self.describe(case["type"])) for case in content["cases"]))
            case "enum":
                return (name, *sorted(case["name"] for case in content["cases"]))
            case "flags":
                return (name, *sorted(flag["name"] for flag in content["flags"]))
        raise TypeError(kind)

    def functions(self, package):
        """Yield interface, name, parameters and result of each function of a package."""
        for index, interface in enumerate(self.document["interfaces"]):
            name = self.interface_name(index)
            # `run` is what a command exports.
            if name.startswith(package) and name != "wasi:cli/run":
                for function in interface["functions"].values():
                    params = tuple(self.describe(param["type"]) for param in function["params"])
                    yield name, function["name"], params, self.describe(function.get("result"))


def mismatches(document, package):
    """List what is not declared here as it is there."""
    found = []
    for interface_name, name, params, result in Wit(document).functions(package):
        interface = find_interface(interface_name)
        function = interface and interface.functions.get(name)
        if function is None:
            found.append((interface_name, name, "missing"))
            continue
        ours = tuple(map(describe_codec, function.params)), describe_codec(function.result)
        if ours != (params, result):
            found.append((interface_name, name, ours, (params, result)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random"],
)
def test_every_function_is_declared_as_in_wit(package):
    from tests.guests.build import MissingToolError, python_guest

    try:
        guest = python_guest("app")
    except MissingToolError as error:
        pytest.skip(str(error))
    tool = Path(sys.executable).with_name("wasm-tools")
    text = subprocess.run(
        [tool, "component", "wit", "--json", guest], check=True, capture_output=True, timeout=60
    ).stdout
    document = json.loads(text)
    assert list(Wit(document).functions(package))
    assert mismatches(document, package) == []
