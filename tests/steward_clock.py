# SPDX-License-Identifier: Apache-2.0
"""`enarx` whose Steward has another time: run as a program with by how many seconds it is ahead, and then the command."""

from __future__ import annotations

import sys
from datetime import timedelta


def main(argv):
    ahead, *command = argv
    from enarx.cli import main as enarx
    from enarx.cli import steward

    right = steward._now
    steward._now = lambda: right() + timedelta(seconds=float(ahead))
    return enarx(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
