# SPDX-License-Identifier: Apache-2.0
"""What a program imports: which forms count, what is followed, what is left."""

from __future__ import annotations

import pytest

from enarx.errors import DecodeError
from enarx.image.closure import Module, find_closure


def modules(**sources):
    names = {name.replace("__", "."): source for name, source in sources.items()}
    return {
        name: Module(source=source.encode(), is_package=any(other.startswith(name + ".") for other in names))
        for name, source in names.items()
    }


def find(given, *roots, **options):
    return find_closure(given, roots, **{"in_functions": True, **options})


def test_follows_imports_of_imports():
    found = find(modules(a="import b", b="from c import x", c="", d=""), "a")
    assert found.inside == {"a", "b", "c"}
    assert found.outside == set()


def test_brings_the_packages_that_a_module_is_in():
    found = find(modules(p="import q", p__a="", q=""), "p.a")
    assert found.inside == {"p", "p.a", "q"}


def test_what_is_imported_out_of_a_package_can_be_a_module():
    found = find(modules(a="from p import b, name", p="", p__b="", p__c=""), "a")
    assert found.inside == {"a", "p", "p.b"}
    assert found.outside == set()


def test_reads_relative_imports():
    found = find(modules(p="from . import a", p__a="from .b import c", p__b="from ..q import d", q=""), "p")
    assert found.inside >= {"p", "p.a", "p.b"}


def test_names_what_is_not_given():
    found = find(modules(a="import os.path, ssl"), "a", "none")
    assert found.outside == {"os", "os.path", "ssl", "none"}


def test_an_import_for_types_does_not_count():
    source = "if TYPE_CHECKING:\n import b\nelse:\n import c\nif typing.TYPE_CHECKING:\n import b\nif not TYPE_CHECKING:\n import d"
    assert find(modules(a=source, b="", c="", d=""), "a").inside == {"a", "c", "d"}


@pytest.mark.parametrize("form", ["def f():\n {}", "async def f():\n {}", "class C:\n def f(self):\n  {}"])
def test_an_import_in_a_function_counts_where_it_is_wanted(form):
    given = modules(a=form.format("import b"), b="")
    assert find(given, "a").inside == {"a", "b"}
    assert find(given, "a", in_functions=False).inside == {"a"}


@pytest.mark.parametrize("form", ["try:\n {}\nexcept ImportError: pass", "class C:\n {}", "with x:\n if y:\n  {}"])
def test_an_import_elsewhere_always_counts(form):
    assert find(modules(a=form.format("import b"), b=""), "a", in_functions=False).inside == {"a", "b"}


def test_leaves_out_what_it_is_told_to():
    found = find(modules(a="import b, ssl", b=""), "a", without=frozenset({"b", "ssl"}))
    assert (found.inside, found.outside) == ({"a"}, set())


@pytest.mark.parametrize("source", ["import", "\0", "(" * 1000])
def test_refuses_what_is_no_python(source):
    with pytest.raises(DecodeError, match="cannot find what a module imports: a:"):
        find(modules(a=source), "a")
