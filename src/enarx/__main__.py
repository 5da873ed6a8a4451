# SPDX-License-Identifier: Apache-2.0
"""`python -m enarx`: the command, where its launcher is not on the path."""

from __future__ import annotations

import sys

from enarx.cli import main

sys.exit(main(sys.argv[1:]))
