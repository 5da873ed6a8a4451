# SPDX-License-Identifier: Apache-2.0
"""A source is a core module, a component or text of either; anything else is refused in one line with the reason."""

from __future__ import annotations

import contextlib
import os

import pytest
import wasmtime

from enarx.errors import ConfigError, DecodeError
from enarx.runtime.cache import COMPONENT, MODULE
from enarx.runtime.compiling import compile_source, digest, read_source

HELLO = wasmtime.wat2wasm('(module (func (export "_start")))')
EMPTY_COMPONENT = wasmtime.wat2wasm("(component)")


def refusal(source, path="app.wasm"):
    with pytest.raises(DecodeError) as caught:
        compile_source(bytes(source), path, fuel=False)
    message = str(caught.value)
    assert message.startswith(f"cannot load the module: {path}: ")
    assert "\n" not in message
    assert not message.endswith(".")
    return message, caught.value.hint


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (HELLO, MODULE),
        (EMPTY_COMPONENT, COMPONENT),
        (b"(module)", MODULE),
        (b"  \n ;; a comment\n(component)", COMPONENT),
    ],
)
def test_takes_either_kind_in_either_form(source, kind):
    found, code = compile_source(bytes(source), "app.wasm", fuel=False)
    assert found == kind
    assert code[:4] == b"\x7fELF"


def test_code_that_counts_fuel_is_other_code():
    assert compile_source(bytes(HELLO), "a", fuel=True)[1] != compile_source(bytes(HELLO), "a", fuel=False)[1]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (b"", "found an empty file"),
        (b"\0", "found bytes 00"),
        (b"hello", "found bytes 68 65 6c 6c"),
        (b"\0asn\1\0\0\0", "found bytes 00 61 73 6e"),
        (b"\0asm", "found version nothing"),
        (b"\0asm\2\0\0\0", "found version 02000000"),
        (b"\0asm\1\0\1\0", "found version 01000100"),
    ],
)
def test_what_is_none_is_told_by_its_first_bytes(source, found):
    assert found in refusal(source)[0]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (b"\x7fELF\2\1\1", "native program"),
        (b"#!/bin/sh\n", "compile it"),
        (b"#include <stdio.h>", "compile it"),
        (b"package main", "compile it"),
        (b"PK\3\4", "archive"),
    ],
)
def test_what_was_mistaken_for_a_module_is_recognised(source, hint):
    assert hint in refusal(source)[1]


@pytest.mark.parametrize("length", range(5, len(HELLO)))
def test_a_module_cut_anywhere_is_refused_or_whole(length):
    with contextlib.suppress(DecodeError):
        compile_source(bytes(HELLO[:length]), "app.wasm", fuel=False)


def test_text_is_told_where_it_is_wrong():
    assert "unknown operator" in refusal(b"(module (func i32.nonsense))")[0]
    refusal(b"(module", "app.wat")
    refusal(b"", "app.wat")
    refusal(b"\xff\xfe", "app.wat")
    refusal(b"(" * 100_000)


def test_refuses_what_this_engine_has_not_switched_on():
    assert "page size" in refusal(b"(module (memory 1 1 (pagesize 1)))")[0]


def test_refuses_an_import_that_is_no_function_of_wasi():
    """The trampoline's own table and memory are beside WASI's functions."""
    for kind, name in (("(table 37 funcref)", "table"), ("(memory 0)", "memory")):
        text = f'(module (import "wasi_snapshot_preview1" "{name}" {kind}))'
        assert f"wasi_snapshot_preview1::{name}" in refusal(text.encode())[0]


def test_reads_a_file_up_to_the_limit(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_source(fd, "f", 10) == b"x" * 10
        with pytest.raises(DecodeError, match="found 10 bytes, want at most 9"):
            read_source(fd, "f", 9)
    finally:
        os.close(fd)


def test_reads_a_device_or_pipe_up_to_the_limit():
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        with pytest.raises(DecodeError, match="found more than 1000000 bytes"):
            read_source(fd, "zero", 1_000_000)
    finally:
        os.close(fd)


def test_refuses_a_directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ConfigError, match="directory"):
            read_source(fd, "d", 1_000_000_000)
    finally:
        os.close(fd)


def test_the_digest_is_sha_256():
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
