# SPDX-License-Identifier: Apache-2.0
"""The Python example: says hello, and what it was given."""

import os
import sys
from pathlib import Path

print("Hello from Python!")
print("arguments:", *sys.argv[1:])
print(f"NAME={os.environ.get('NAME', '')}")

data = sys.stdin.buffer.read()
lines = data.count(b"\n")
print(f"stdin: {len(data)} bytes, {lines} lines")

poem = Path("/data/poem.txt").read_text(encoding="utf-8")
print("poem:", poem.splitlines()[0])

sys.exit(3 if "fail" in sys.argv else 0)
