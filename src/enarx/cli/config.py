# SPDX-License-Identifier: Apache-2.0
"""`enarx config init`: a commented Enarx.toml to begin with."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Parsed
from enarx.user_files import create_file

_NAME = "Enarx.toml"


def _init(_: Parsed) -> int:
    from enarx.wire import ENARX_TOML_TEMPLATE

    create_file(_NAME, ENARX_TOML_TEMPLATE.encode(), hint="remove it first, or edit it")
    ui.note(f"wrote {_NAME}; run it with: enarx run app.wasm --wasmcfgfile {_NAME}")
    return 0


COMMANDS = {
    "config init": Command(
        "config init",
        summary="write a commented Enarx.toml",
        description=(
            f"Write a commented {_NAME} into the current directory. A file that is there already stays as it is."
        ),
        examples=(("enarx config init", f"begin a new {_NAME}"),),
        run=_init,
    )
}
