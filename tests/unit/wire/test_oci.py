# SPDX-License-Identifier: Apache-2.0
"""Manifests and indexes: what is written is read as it was, and what others write is read within limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.wire import oci
from enarx.wire.oci import (
    INDEX,
    MANIFEST,
    WASM,
    WASM_CONFIG,
    Descriptor,
    Index,
    Manifest,
    decode_index_untrusted,
    decode_manifest_untrusted,
    digest_of,
    encode_index,
    encode_manifest,
    is_digest,
)

CONFIG = Descriptor(WASM_CONFIG, digest_of(b"config"), 6)
LAYER = Descriptor(WASM, digest_of(b"layer"), 5, {oci.TITLE: "main.wasm"})
DIGESTS = st.binary(max_size=4).map(digest_of)
ANNOTATIONS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)
DESCRIPTORS = st.builds(
    Descriptor,
    st.sampled_from([WASM, oci.TOML, oci.FILES]),
    DIGESTS,
    st.integers(0, (1 << 53) - 1),
    ANNOTATIONS,
    st.sampled_from([None, "application/x"]),
)


def document(**changes):
    value = json.loads(encode_manifest(Manifest(CONFIG, (LAYER,)))) | changes
    return json.dumps({name: each for name, each in value.items() if each is not ...}).encode()


@given(
    st.builds(
        Manifest,
        DESCRIPTORS,
        st.lists(DESCRIPTORS, max_size=4).map(tuple),
        ANNOTATIONS,
        st.sampled_from([None, "application/x"]),
        st.none() | DESCRIPTORS,
    )
)
def test_a_manifest_is_read_as_it_was_written(manifest):
    data = encode_manifest(manifest)
    assert decode_manifest_untrusted(data) == manifest
    assert encode_manifest(decode_manifest_untrusted(data)) == data


@given(st.builds(Index, st.lists(DESCRIPTORS, max_size=4).map(tuple), ANNOTATIONS))
def test_an_index_is_read_as_it_was_written(index):
    assert decode_index_untrusted(encode_index(index)) == index


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data):
    for decode in (decode_manifest_untrusted, decode_index_untrusted):
        with pytest.raises(DecodeError, match=r"cannot decode the (manifest|index)"):
            decode(data)


def test_the_bytes_do_not_depend_on_the_order_of_annotations():
    one = Manifest(CONFIG, (LAYER,), {"a": "1", "b": "2"})
    other = Manifest(CONFIG, (LAYER,), {"b": "2", "a": "1"})
    assert encode_manifest(one) == encode_manifest(other)


def test_what_is_written_is_what_others_expect():
    assert json.loads(encode_manifest(Manifest(CONFIG, (LAYER,)))) == {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": WASM_CONFIG, "digest": CONFIG.digest, "size": 6},
        "layers": [
            {"mediaType": WASM, "digest": LAYER.digest, "size": 5, "annotations": {oci.TITLE: "main.wasm"}},
        ],
    }


def test_members_of_others_are_passed_over():
    found = decode_manifest_untrusted(document(platform={"os": "x"}, urls=[1], layers=[]))
    assert found == Manifest(CONFIG, ())


def test_an_artifact_type_may_have_parameters():
    named = "application/vnd.example.scan+json; version=1.1"
    assert decode_manifest_untrusted(document(artifactType=named)).artifact_type == named
    with pytest.raises(DecodeError, match="artifactType"):
        decode_manifest_untrusted(document(artifactType=named + "\n"))


def test_a_manifest_may_leave_out_its_media_type():
    assert decode_manifest_untrusted(document(mediaType=...)).layers == (LAYER,)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schemaVersion": 1}, "schemaVersion: found 1, want 2"),
        ({"schemaVersion": True}, "schemaVersion"),
        ({"schemaVersion": ...}, "schemaVersion: found nothing"),
        ({"mediaType": INDEX}, "mediaType"),
        ({"mediaType": []}, "mediaType"),
        ({"manifests": []}, "a member of another kind of document"),
        ({"config": None}, "config: found nothing, want a descriptor"),
        ({"config": {}}, "config.mediaType"),
        ({"layers": {}}, "layers: found a table, want an array"),
        ({"layers": [{}] * 101}, "layers: found an array of 101, want at most 100"),
        ({"layers": [7]}, r"layers\[0\]: found 7"),
        ({"config": {"mediaType": "x", "digest": CONFIG.digest, "size": 1}}, "config.mediaType"),
        ({"config": {"mediaType": WASM, "digest": "sha512:" + "0" * 128, "size": 1}}, "config.digest"),
        ({"config": {"mediaType": WASM, "digest": CONFIG.digest.upper(), "size": 1}}, "config.digest"),
        ({"config": {"mediaType": WASM, "digest": CONFIG.digest + "\n", "size": 1}}, "config.digest"),
        ({"config": {"mediaType": WASM, "digest": CONFIG.digest, "size": -1}}, "config.size"),
        ({"config": {"mediaType": WASM, "digest": CONFIG.digest, "size": True}}, "config.size"),
        ({"config": {"mediaType": WASM, "digest": CONFIG.digest, "size": 1 << 60}}, "config.size"),
        ({"annotations": {"a": 1}}, "annotations.'a': found 1, want a string"),
        ({"annotations": []}, "annotations"),
        ({"annotations": {str(n): "" for n in range(1001)}}, "at most 1000 members"),
        ({"artifactType": 7}, "artifactType"),
        ({"artifactType": "no type"}, "artifactType"),
        ({"subject": []}, "subject"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_manifest_is_refused_with_its_place(changes, word):
    with pytest.raises(DecodeError, match=word):
        decode_manifest_untrusted(document(**changes))


def test_a_manifest_over_its_limit_is_refused():
    with pytest.raises(DecodeError, match="size: found 4194305 bytes, want at most 4194304"):
        decode_manifest_untrusted(document() + b" " * (oci.MAX_MANIFEST_BYTES + 1 - len(document())))


def test_a_member_twice_is_refused():
    with pytest.raises(DecodeError, match="a key twice"):
        decode_manifest_untrusted(document()[:-1] + b',"layers":[]}')


def test_an_index_that_is_a_manifest_too_is_refused():
    data = json.loads(encode_index(Index(()))) | {"layers": []}
    with pytest.raises(DecodeError, match="another kind"):
        decode_index_untrusted(json.dumps(data).encode())


def test_a_digest_has_one_spelling():
    assert is_digest(CONFIG.digest)
    for text in ("", "sha256:", CONFIG.digest[:-1], CONFIG.digest + "0", CONFIG.digest.upper(), " " + CONFIG.digest):
        assert not is_digest(text)
