# SPDX-License-Identifier: Apache-2.0
"""Load sources as told, line by line, and say what came of each; a process of its own, because it may die or never end.

A line of stdin is a file's name and its bytes in hexadecimal. The answer is a line: the kind of what was compiled, the
refusal, or what must not be. What could be compiled is mapped too. Run by `test_module_loading_fuzz`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from enarx.errors import DecodeError
from enarx.runtime import capi
from enarx.runtime.cache import MODULE, Cache
from enarx.runtime.engine import make_engine

MAX_BYTES = 8 << 30


def load(cache, engine, path):
    """Load one file as a start does; return its kind or the refusal."""
    try:
        artefact = cache.find(str(path))
    except DecodeError as error:
        message = str(error)
        if not message.startswith(f"cannot load the module: {path}: ") or "\n" in message:
            raise AssertionError(f"not a line of ours: {message!r}") from error
        return "refused"
    if artefact.kind == MODULE:
        module = capi.buffer(8)
        capi.require(capi.module_deserialize_file(engine, artefact.path.encode(), capi.address(module)))
        capi.bind("wasmtime_module_delete", None, capi.P)(module[0])
    return artefact.kind


def main():
    """Answer line by line until stdin ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    engine = make_engine(fuel=False)
    with tempfile.TemporaryDirectory(prefix="enarx-fuzz-") as folder:
        cache = Cache(f"{folder}/cache", lambda _: None)
        for line in sys.stdin:
            name, data = json.loads(line)
            path = Path(folder, name)
            path.write_bytes(bytes.fromhex(data))
            try:
                answer = load(cache, engine, path)
            except BaseException as error:  # noqa: BLE001  # it is the answer
                answer = f"wrong: {type(error).__name__}: {error}"
            path.unlink()
            os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
