# SPDX-License-Identifier: Apache-2.0
"""Records behave as frozen, slotted, keyword-only dataclasses do."""

from __future__ import annotations

import pytest

from enarx.runtime import workload
from enarx.wire import DEFAULT, ConnectFile, EnarxToml, Limits, ListenFile, NullFile, StdioFile, Tls, replace
from enarx.wire.records import DEFAULT_MEMORY_BYTES


def test_the_default_is_the_three_standard_streams_and_nothing_else():
    assert [file.name for file in DEFAULT.files] == ["stdin", "stdout", "stderr"]
    assert (
        EnarxToml(
            steward=None, args=(), env=(), files=DEFAULT.files, dirs=(), limits=Limits(), tls=Tls(), allow_connect=None
        )
        == DEFAULT
    )
    assert Limits() == Limits(memory_bytes=None, timeout_s=None, fuel=None, output_bytes=None, open_files=None)
    assert Tls() == Tls(certificate=None, private_key=None, client_auth="none", trust_anchors=())


def test_the_default_of_memory_is_the_runtimes():
    assert workload.DEFAULT_MEMORY_BYTES == DEFAULT_MEMORY_BYTES


def test_fills_in_defaults_and_takes_values():
    assert NullFile().name == "null"
    file = ListenFile(name="web", port=80)
    assert (file.name, file.prot, file.addr, file.port) == ("web", "tls", "::", 80)


@pytest.mark.parametrize("values", [{}, {"name": "a"}, {"name": "a", "port": 1, "host": "b"}])
def test_refuses_missing_and_unknown_fields(values):
    with pytest.raises(TypeError, match="ListenFile takes name, prot, addr, port"):
        ListenFile(**values)


def test_refuses_positional_fields():
    with pytest.raises(TypeError):
        NullFile("a")


def test_cannot_be_changed():
    file = NullFile()
    with pytest.raises(AttributeError, match="frozen"):
        file.name = "other"
    with pytest.raises(AttributeError, match="frozen"):
        del file.name
    with pytest.raises(AttributeError):
        file.other = 1
    assert file == NullFile()


def test_is_equal_and_hashed_by_its_fields_and_type():
    assert StdioFile(kind="stdin", name="a") == StdioFile(kind="stdin", name="a")
    assert hash(Limits(fuel=1)) == hash(Limits(fuel=1))
    assert Limits(fuel=1) != Limits(fuel=2)
    assert ConnectFile(name="a", host="b", port=1) != ListenFile(name="a", port=1)
    assert NullFile(name="a") != "a"


def test_shows_its_fields():
    assert repr(NullFile(name="a")) == "NullFile(name='a')"
    assert repr(StdioFile(kind="stdin", name="b")) == "StdioFile(kind='stdin', name='b')"


def test_is_copied_with_changes():
    limits = Limits(fuel=1, open_files=2)
    assert replace(limits, fuel=3) == Limits(fuel=3, open_files=2)
    assert limits.fuel == 1
    with pytest.raises(TypeError):
        replace(limits, fule=3)
