# SPDX-License-Identifier: Apache-2.0
"""Any bytes given as an Enarx.toml are a configuration or a ConfigError; nothing else, and nothing slow."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire import ENARX_TOML_TEMPLATE, EnarxToml, decode_enarx_toml

SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000"))

FULL = "\n".join(line.removeprefix("# ") for line in ENARX_TOML_TEMPLATE.splitlines() if line[:2] != "##").encode()

keys = st.sampled_from(
    [
        "steward",
        "args",
        "env",
        "files",
        "dirs",
        "limits",
        "tls",
        "allow_connect",
        "kind",
        "name",
        "prot",
        "host",
        "port",
        "addr",
        "guest",
        "read_only",
        "memory",
        "timeout",
        "fuel",
        "output",
        "open_files",
        "certificate",
        "private_key",
        "client_auth",
        "trust_anchors",
        "FD_NAMES",
        '""',
        '"a\\nb"',
        "'q'",
        "a.b",
        "0",
        "kimd",
    ]
)
scalars = st.one_of(
    st.sampled_from(
        ["true", "1.5", "nan", "-inf", "1e999", "0x" + "f" * 5000, "9" * 30, "-1", "0", "443", "1979-05-27", "07:32:00"]
    ),
    st.sampled_from(
        ['"stdin"', '"null"', '"listen"', '"connect"', '"tls"', '"required"', '"https://a"', '"/a"', '"a:1"']
    ),
    st.sampled_from(['"64 MiB"', '"1h30m"', '""', "''", '"\\u0000"', '"""\n"""', "'''a'''", '"::1"', '"[::1]:80"']),
    st.integers().map(str),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(keys, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key} = {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=8,
)
lines = st.one_of(
    st.builds(lambda key, value: f"{key} = {value}", keys, values),
    st.builds("[{}]".format, keys),
    st.builds("[[{}]]".format, keys),
)
made_documents = st.lists(lines, max_size=12).map(lambda lines: "\n".join(lines).encode())


@st.composite
def damaged_documents(draw):
    """Draw the full template with some spans removed, repeated or replaced."""
    data = FULL
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        new = draw(st.one_of(st.just(data[start:end] * 2), st.binary(max_size=8), scalars.map(str.encode)))
        data = data[:start] + new + data[end:]
    return data


def decodes_or_refuses(data):
    try:
        outcome = decode_enarx_toml(data, path="fuzz.toml")
    except ConfigError as error:
        outcome = error
    if isinstance(outcome, EnarxToml):
        return
    assert str(outcome).startswith("fuzz.toml:")
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 1000
    assert outcome.path == "fuzz.toml"
    assert outcome.line is None or 1 <= outcome.line <= data.count(b"\n") + 1


documents = st.one_of(st.binary(max_size=200), st.text().map(str.encode), made_documents, damaged_documents())


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(documents)
def test_any_bytes_are_a_configuration_or_refused(data):
    decodes_or_refuses(data)


@pytest.mark.soak
@settings(max_examples=SOAK_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents)
def test_any_bytes_are_a_configuration_or_refused_at_length(data):
    decodes_or_refuses(data)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(unit * (MEGABYTE // len(unit)), id=repr(unit[:12]))
        for unit in (
            b"[",
            b"{",
            b'"',
            b"'",
            b"a.",
            b"a=",
            b"\\",
            b'\\"""',
            b"[a]\n",
            b"[[a]]\n",
            b"[[files]]\n",
            b"a={",
            b"\n",
            b"#",
        )
    ]
    + [
        pytest.param(b"args=" + b"[" * 300 + b"]" * 300, id="nested arrays"),
        pytest.param(b"a" + b".a" * (MEGABYTE // 2 - 3) + b"=1", id="one long key"),
        pytest.param(b"".join(b"x%d" % i + b".a" * 60 + b"=1\n" for i in range(7800)), id="many long keys"),
        pytest.param(b"[env]\n" + b"".join(b'"k%d"="v"\n' % i for i in range(60_000)) + b"x=3", id="wrong at the end"),
        pytest.param(b"[limits]\nfuel=0x" + b"f" * (MEGABYTE - 20), id="huge integer"),
    ],
)
def test_a_hostile_megabyte_is_answered_soon(data):
    decodes_or_refuses(data)
