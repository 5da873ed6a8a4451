# SPDX-License-Identifier: Apache-2.0
"""Write the help of every command into docs/cli.md, between the markers that name it.

Run `make docs` after a change to a command; tests/unit/cli/test_docs.py fails until it was run.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from enarx.cli import COMMANDS, load
from enarx.cli.top import overview

TARGET = Path(__file__).parent.parent / "docs/cli.md"

_BLOCK = re.compile(r"(?<=<!-- help: )([a-z ]+)( -->\n).*?(?=<!-- end of help -->)", re.DOTALL)


def helps() -> dict[str, str]:
    """Return the text of `--help` by command line."""
    return {"enarx": overview()} | {f"enarx {name}": load(name).help() for name in COMMANDS}


def render(page: str) -> str:
    """Return the page with every block written again.

    Raises:
        KeyError: a marker names no command.
    """
    texts = helps()
    return _BLOCK.sub(lambda found: f"{found[1]}{found[2]}\n```text\n{texts[found[1]]}```\n\n", page)


def main() -> int:
    """Write the page."""
    TARGET.write_text(render(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
