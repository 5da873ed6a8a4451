# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError
from enarx.wire.release import (
    MAX_RELEASE_BYTES,
    Blob,
    Configuration,
    Content,
    Directory,
    Entry,
    Manifest,
    Release,
    TravellingFiles,
    decode_files_untrusted,
    decode_identity_untrusted,
    decode_manifest_untrusted,
    decode_release_untrusted,
    encode_files,
    encode_identity,
    encode_manifest,
    encode_release,
)
from tests.cddl import schema
from tests.unit.wire.session_strategies import FILES, IDENTITIES, MANIFESTS, RELEASES

QUICK = settings(max_examples=200, deadline=None, derandomize=True)
FORMATS = {
    "release": (RELEASES, encode_release, decode_release_untrusted),
    "manifest": (MANIFESTS, encode_manifest, decode_manifest_untrusted),
    "identity": (IDENTITIES, encode_identity, decode_identity_untrusted),
    "files": (FILES, encode_files, decode_files_untrusted),
}


@pytest.mark.parametrize("rule", FORMATS)
def test_a_record_comes_back_as_it_was_and_is_what_the_cddl_says(rule):
    records, encode_record, decode_record = FORMATS[rule]

    @given(records)
    @QUICK
    def check(record):
        data = encode_record(record)
        assert decode_record(data) == record
        schema("session", rule).validate_cbor(data)

    check()


@pytest.mark.parametrize("rule", FORMATS)
def test_a_member_too_many_or_too_few_is_refused(rule):
    records, encode_record, decode_record = FORMATS[rule]
    optional = {"steward", "Enarx.toml", "directories", "tls"}

    @given(records, st.data())
    @QUICK
    def check(record, data):
        value = decode_untrusted(encode_record(record), max_bytes=MAX_RELEASE_BYTES)
        with pytest.raises(DecodeError, match="unknown members"):
            decode_record(encode(value | {"unknown": 1}))
        if needed := [name for name in value if name not in optional]:
            del value[data.draw(st.sampled_from(needed))]
            with pytest.raises(DecodeError, match="want one"):
                decode_record(encode(value))

    check()


@pytest.mark.soak
@pytest.mark.parametrize("rule", FORMATS)
def test_any_bytes_are_a_record_or_refused_at_length(rule):
    records, encode_record, decode_record = FORMATS[rule]

    @given(st.one_of(st.binary(max_size=300), records.map(encode_record)), st.data())
    @settings(max_examples=int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000")), deadline=None)
    def check(data, draw):
        changed = bytearray(data)
        for _ in range(draw.draw(st.integers(0, 3)) if changed else 0):
            at = draw.draw(st.integers(0, len(changed)))
            changed[at : at + draw.draw(st.integers(0, 2))] = draw.draw(st.binary(max_size=3))
        try:
            record = decode_record(bytes(changed))
        except DecodeError:
            return
        assert encode_record(record) == bytes(changed)

    check()


@pytest.mark.parametrize(
    "path", [(), ("..",), (".",), ("a", "..", "b"), ("a/b",), ("/a",), ("a\0",), ("",), ("a",) * 65, ("a" * 256,)]
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    for contents in (None, b"x"):
        files = TravellingFiles((Directory("/data", False, (Entry(path, contents),)),), {})
        with pytest.raises(DecodeError, match="directories"):
            decode_files_untrusted(encode_files(files))


def make_release(**changes):
    blob = Blob(bytes(32), bytes(32), 1, bytes(32), 1)
    return Release(
        package=encode_manifest(Manifest(Content(bytes(32), 1), None)),
        blobs={"main.wasm": blob},
        configuration=Configuration(),
        time_ns=1,
        salt=bytes(32),
    )._replace(**changes)


def test_a_release_without_a_module_is_refused():
    blob = make_release().blobs["main.wasm"]
    with pytest.raises(DecodeError, match=r"no main\.wasm"):
        decode_release_untrusted(encode_release(make_release(blobs={"Enarx.toml": blob})))


def test_a_blob_of_another_name_is_refused():
    blobs = make_release().blobs
    with pytest.raises(DecodeError, match=r"want one of main\.wasm, Enarx\.toml, files"):
        decode_release_untrusted(encode_release(make_release(blobs=blobs | {"more": blobs["main.wasm"]})))


def test_a_release_has_a_limit_that_is_said_before_it_is_sent():
    configuration = Configuration(arguments=("x" * 4000,) * 17)
    with pytest.raises(DecodeError, match="want at most 65536") as caught:
        encode_release(make_release(configuration=configuration))
    assert "arguments" in caught.value.hint


def test_nothing_given_is_no_member_at_all():
    value = decode_untrusted(encode_release(make_release()), max_bytes=MAX_RELEASE_BYTES)
    assert value["configuration"] == {}
