# SPDX-License-Identifier: Apache-2.0
"""Put off the import of a module that another one imports and hardly ever uses, because a start is waited for.

`importlib.util.LazyLoader` does not do: an `import` statement of a module that is there already looks at the module's own description,
and by that loads it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["late_import"]


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def late_import(name: str) -> Iterator[None]:
    """Give whoever imports a module in this block one that imports itself at its first use.

    Args:
        name: of a top-level module, imported as a whole. Where it is there already, nothing happens.
    """
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
