# SPDX-License-Identifier: Apache-2.0
"""The template of `config init`, and the reference: what they show is what the decoder takes."""

from __future__ import annotations

import re
from pathlib import Path

from enarx.wire import DEFAULT, ENARX_TOML_TEMPLATE, Dir, Tls, decode_enarx_toml
from enarx.wire.enarx_toml import _FILE_KEYS, _TOP_KEYS, MAX_BYTES, MAX_FILES


def test_as_it_is_it_says_what_no_file_says():
    assert decode_enarx_toml(ENARX_TOML_TEMPLATE.encode(), path="Enarx.toml") == DEFAULT
    assert ENARX_TOML_TEMPLATE.count('\n[[files]]\nkind = "std') == 3


def test_uncommented_it_shows_every_key_at_work():
    text = re.sub(r"(?m)^# ", "", ENARX_TOML_TEMPLATE)
    decoded = decode_enarx_toml(text.encode(), path="Enarx.toml")
    assert decoded.steward
    assert decoded.args
    assert decoded.env
    assert decoded.allow_connect
    assert [file.name for file in decoded.files] == ["stdin", "stdout", "stderr", "web", "database"]
    assert [entry.guest for entry in decoded.dirs] == ["/data"]
    for record in (decoded.limits, decoded.tls):
        assert all(getattr(record, field) is not None for field in record.__slots__)
    known = {*_TOP_KEYS, *(key for keys in _FILE_KEYS.values() for key in keys)}
    written = set(re.findall(r"(?m)^\[*(\w+)(?:\]| =)", text))
    assert known <= written


def test_explains_with_two_hashes_and_has_no_line_beyond_120_characters():
    for line in ENARX_TOML_TEMPLATE.splitlines():
        assert re.match(r"## [A-Z\"]|# [\w\[]|\[\[files\]\]|kind = |$", line), line
        assert len(line) <= 120


def test_the_reference_shows_every_key_and_its_examples_work():
    reference = (Path(__file__).parents[3] / "docs" / "enarx-toml.md").read_text(encoding="utf-8")
    examples = re.findall(r"(?ms)^```toml\n(.*?)^```", reference)
    assert len(examples) >= 8
    for example in examples:
        assert decode_enarx_toml(example.encode(), path="docs/enarx-toml.md") != DEFAULT
    keys = {*_TOP_KEYS, *(key for keys in _FILE_KEYS.values() for key in keys), *Dir.__slots__, *Tls.__slots__}
    for key in sorted(keys | {"memory", "timeout", "fuel", "output", "open_files"}):
        assert re.search(rf"(?m)^\| `{key}` \|", reference), key
    assert f"at most {MAX_FILES}" in reference
    assert f"{MAX_BYTES:,} bytes" in reference
