# SPDX-License-Identifier: Apache-2.0
"""The configuration of a Wasm artifact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.wire.wasm_config import WasmConfig, decode_wasm_config_untrusted, encode_wasm_config

NAMES = st.lists(st.text(max_size=8), max_size=4).map(tuple)
COMPONENT = WasmConfig(0, "wasip2", ("sha256:x",), ("wasi:io/streams@0.2.0",), ("wasi:cli/run@0.2.0",))


@given(
    st.builds(
        WasmConfig,
        st.none() | st.integers(0, 253402300799),
        st.sampled_from(["wasip1", "wasip2"]),
        NAMES,
        st.none(),
        st.none(),
    )
)
def test_a_modules_configuration_is_read_as_it_was_written(config):
    assert decode_wasm_config_untrusted(encode_wasm_config(config)) == config


@given(NAMES, NAMES)
def test_a_components_configuration_is_read_as_it_was_written(imports, exports):
    config = WasmConfig(7, "wasip2", (), imports, exports)
    assert decode_wasm_config_untrusted(encode_wasm_config(config)) == config


def test_what_is_written_is_what_others_expect():
    assert json.loads(encode_wasm_config(COMPONENT)) == {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": ["sha256:x"],
        "component": {"exports": ["wasi:cli/run@0.2.0"], "imports": ["wasi:io/streams@0.2.0"]},
    }


def test_a_time_of_another_zone_is_the_same_time():
    data = encode_wasm_config(COMPONENT).replace(b"1970-01-01T00:00:00Z", b"1970-01-01T02:00:00+02:00")
    assert decode_wasm_config_untrusted(data) == COMPONENT


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"architecture": "amd64"}, "architecture: found 'amd64', want wasm"),
        ({"os": 7}, "os: found 7"),
        ({"os": "x" * 256}, "os"),
        ({"component": []}, "component"),
        ({"component": {"imports": "x"}}, "imports"),
        ({"layerDigests": [7]}, "layerDigests"),
        ({"created": "soon"}, "created: found 'soon', want a time"),
        ({"created": 7}, "created"),
    ],
    ids=str,
)
def test_what_is_no_configuration_is_refused_with_its_place(changes, word):
    with pytest.raises(DecodeError, match=word):
        decode_wasm_config_untrusted(json.dumps(json.loads(encode_wasm_config(COMPONENT)) | changes).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data):
    with pytest.raises(DecodeError, match="Wasm configuration"):
        decode_wasm_config_untrusted(data)


def test_what_is_too_large_or_never_is_not_written():
    with pytest.raises(DecodeError, match="want at most 1048576"):
        encode_wasm_config(WasmConfig(0, "wasip2", (), ("x" * (1 << 20),), ()))
    for never in (-1, 253402300800):
        with pytest.raises(DecodeError, match="want Unix time"):
            encode_wasm_config(WasmConfig(never, "wasip1", ()))
