# SPDX-License-Identifier: Apache-2.0
"""The table of docs/languages.md: what the last run of tests/integration/test_languages.py saw of each example.

The test leaves what it saw in `build/languages/rows`. An example of which nothing is there keeps the row that the page has,
so the table can be written again without building anything; one that nobody ever ran says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
EXAMPLES = TOP / "examples" / "languages"
ROWS = TOP / "build" / "languages" / "rows"

HEAD = (
    "| language | builds here | runs under `nil` | runs in an emulated Keep | server | module | built again in | starts in |\n"
    "|---|---|---|---|---|---|---|---|"
)
NOT_RUN = "not run yet"
_NONE = "-"


def languages() -> list[str]:
    """Return the folders of the examples."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/build"))


def languages_table(before: str, rows: Path = ROWS) -> str:
    """Return the table, a row for each example.

    Args:
        before: the table as the page has it.
        rows: where the tests left what they saw.
    """
    kept = {link_of(name): line for name in languages() for line in before.splitlines() if link_of(name) in line}
    lines = [HEAD]
    for name in languages():
        program = _seen(rows / f"{name}.program.json")
        if program is None:
            lines.append(kept.get(link_of(name)) or _row(name, {"unavailable": NOT_RUN}, {}))
        else:
            lines.append(_row(name, program, _seen(rows / f"{name}.server.json") or {}))
    return "\n".join(lines)


def link_of(name: str) -> str:
    """Return the link by which a row is known."""
    title = next(line for line in (EXAMPLES / name / "README.md").read_text().splitlines() if line.startswith("# "))
    return f"| [{title.removeprefix('# ')}](../examples/languages/{name}/README.md) |"


def _seen(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _row(name: str, program: dict[str, Any], server: dict[str, Any]) -> str:
    if "nil" not in program:
        why = program.get("unavailable") or program["failed"]
        return f"{link_of(name)} no: {why.replace('|', '/')} |" + f" {_NONE} |" * 6
    if "nil" in server:
        serves = "yes, in both"
    else:
        serves = "none" if "none" in server else f"no: {server.get('failed', NOT_RUN)}"
    cells = (
        "yes",
        _yes(program["nil"]),
        _yes(program["keep"]),
        serves,
        _size(program["module_bytes"]),
        f"{program['build_s']:.1f} s",
        f"{program['start_ms']} ms",
    )
    return f"{link_of(name)} {' | '.join(cells)} |"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"
