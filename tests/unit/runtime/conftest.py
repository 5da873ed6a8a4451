# SPDX-License-Identifier: Apache-2.0
"""What the tests of the cache share: a place for it, what it says, and what is really compiled."""

from __future__ import annotations

import pytest

from enarx import __version__
from enarx.runtime import cache_keeping, capi, compiling
from enarx.runtime.cache import Cache

FOLDER = f"modules-{capi.ENGINE_VERSION}-{__version__}"
TEXT = '(module (func (export "_start")))'


class Said(list):
    """What the cache said; called with a line."""

    def __call__(self, line):
        self.append(line)


@pytest.fixture
def said():
    return Said()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "home/.cache/enarx"


@pytest.fixture
def source(tmp_path):
    """A module whose times have settled, as far as the cache can be made to believe."""
    path = tmp_path / "app.wat"
    path.write_text(TEXT)
    return path


@pytest.fixture
def settled(monkeypatch):
    """Every file is old enough for its digest to be remembered; the change time cannot be set from outside."""
    monkeypatch.setattr(cache_keeping, "_SETTLED_NS", -(1 << 62))


@pytest.fixture
def compiled(monkeypatch):
    """The sources that were really compiled."""
    seen = []
    real = compiling.compile_source

    def compile_source(source, path, *, fuel):
        seen.append(source)
        return real(source, path, fuel=fuel)

    monkeypatch.setattr(compiling, "compile_source", compile_source)
    return seen


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def make(root, said):
    return Cache(str(root), said)
