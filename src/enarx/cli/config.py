# SPDX-License-Identifier: Apache-2.0
"""`enarx config init`: a commented Enarx.toml to begin with."""

from __future__ import annotations

import os

from enarx.cli import ui
from enarx.cli.options import Command, Parsed
from enarx.errors import UsageError

_NAME = "Enarx.toml"


def _init(_: Parsed) -> int:
    from enarx.wire import ENARX_TOML_TEMPLATE

    try:
        fd = os.open(_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise UsageError(
            f"cannot write {_NAME}: found one already, want none", hint="remove it first, or edit it"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write {_NAME}: {error.strerror}") from error
    with open(fd, "w", encoding="utf-8") as file:
        file.write(ENARX_TOML_TEMPLATE)
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
