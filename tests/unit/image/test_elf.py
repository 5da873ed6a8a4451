# SPDX-License-Identifier: Apache-2.0
"""ELF files: what the installed ones need, and that any bytes are read or refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.image.elf import is_elf, needed_libraries

PYTHON = Path(sys.executable).resolve().read_bytes()


def test_an_interpreter_needs_the_c_library():
    assert is_elf(PYTHON)
    assert "libc.so.6" in needed_libraries(PYTHON)


def test_the_engine_needs_few():
    (library,) = Path(wasmtime.__file__).parent.glob("linux-*/_libwasmtime.so")
    assert set(needed_libraries(library.read_bytes())) >= {"libc.so.6", "libgcc_s.so.1"}


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x02" + bytes(100)]
)
def test_refuses_what_is_no_such_file(data):
    assert not is_elf(data)
    with pytest.raises(DecodeError, match="cannot read an ELF file"):
        needed_libraries(data)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.binary(min_size=1, max_size=64))
def test_reads_or_refuses_any_bytes(place, data):
    try:
        names = needed_libraries(PYTHON[:place] + data + PYTHON[place + len(data) : 100_000])
    except DecodeError:
        return
    assert all(isinstance(name, str) for name in names)
