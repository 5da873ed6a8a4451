# SPDX-License-Identifier: Apache-2.0
"""A wasi:cli command in Python: a large module that starts slowly, and most of WASI at once.

Prints a line, its arguments and the variable GREETING, reads the file that its last argument names where there is one, and
fails when its last argument is "fail". Whatever it imports must be imported at the top: the interpreter is snapshotted after
that, and the snapshot has no library to import from later.
"""

import os
import sys
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        print("Hello, Enarx!")
        print(sys.argv[1:], os.environ.get("GREETING"))
        last = sys.argv[-1] if len(sys.argv) > 1 else ""
        if last.startswith("/"):
            print(Path(last).read_text(encoding="utf-8"), end="")
        if last == "fail":
            sys.exit(1)
