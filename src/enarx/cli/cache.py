# SPDX-License-Identifier: Apache-2.0
"""`enarx cache list|clear`: the compiled modules that starts are made of."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed


def _list(parsed: Parsed) -> int:
    from enarx.runtime.cache import Cache, default_root
    from enarx.runtime.cache_keeping import list_entries

    root = default_root()
    entries = list_entries(Cache(root, ui.note if parsed.flag("verbose") else ui.silence))
    if parsed.flag("json"):
        import json

        rows = [{"name": name, "kind": kind, "bytes": size} for name, kind, size in entries]
        ui.out(json.dumps({"root": root, "entries": rows}, indent=2))
        return 0
    for name, kind, size in entries:
        ui.out(f"{name}  {kind:<10}  {size:>12} bytes")
    ui.note(f"{len(entries)} compiled modules in {root}")
    return 0


def _clear(_: Parsed) -> int:
    from enarx.runtime.cache import default_root
    from enarx.runtime.cache_keeping import clear

    removed = clear(default_root())
    ui.note(f"removed {removed} compiled modules")
    return 0


COMMANDS = {
    "cache list": Command(
        "cache list",
        summary="show the compiled modules that are kept",
        description="Show what the compiled-module cache holds: the digest of each source, its kind and its size.",
        options=(Option("json", "", "one JSON document"),),
        examples=(("enarx cache list --json", "the same, for a program"),),
        run=_list,
    ),
    "cache clear": Command(
        "cache clear",
        summary="remove them",
        description=(
            "Remove every compiled module, and what was fetched from registries. The next run of each application compiles it\n"
            "again, and fetches it again if it is in a registry."
        ),
        examples=(("enarx cache clear", "start from nothing"),),
        run=_clear,
    ),
}
