# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.wire.dsse import (
    IN_TOTO,
    MAX_ENVELOPE_BYTES,
    SIGN_PREDICATE,
    Envelope,
    EnvelopeSignature,
    Statement,
    decode_envelope_untrusted,
    decode_statement_untrusted,
    encode_envelope,
    encode_statement,
    pre_authentication,
)

DIGEST = "sha256:" + "ab" * 32
ENVELOPE = Envelope("text/plain", b"hello", (EnvelopeSignature(b"s" * 64, "sha256:11"), EnvelopeSignature(b"t")))


def test_the_encoding_that_is_signed_is_that_of_the_specification():
    # The example of the specification's protocol.md.
    assert (
        pre_authentication("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_are_those_of_the_bytes():
    assert pre_authentication("é", b"\xff") == b"DSSEv1 2 \xc3\xa9 1 \xff"


@given(st.tuples(st.text(max_size=20), st.binary(max_size=20)), st.tuples(st.text(max_size=20), st.binary(max_size=20)))
def test_two_documents_are_never_signed_as_one(one, other):
    try:
        encodings = [pre_authentication(*each) for each in (one, other)]
    except UnicodeEncodeError:
        return
    assert (encodings[0] == encodings[1]) == (one == other)


def test_an_envelope_is_read_as_it_was_written():
    assert decode_envelope_untrusted(encode_envelope(ENVELOPE)) == ENVELOPE


def test_an_envelope_in_the_other_alphabet_and_with_members_of_others_is_read():
    document = json.loads(encode_envelope(ENVELOPE))
    document["payload"] = base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode()
    document["more"] = document["signatures"][0]["more"] = [1]
    assert decode_envelope_untrusted(json.dumps(document).encode()).payload == b"\xfb\xff\xfe"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"payload": None}, "payload: found nothing, want base64"),
        ({"payload": ""}, "payload: found '', want base64 of 1 to"),
        ({"payload": "a b="}, "payload: found 'a b=', want base64"),
        ({"payload": 5}, "payload: found 5, want base64"),
        ({"payloadType": 5}, "payloadType: found 5, want text"),
        ({"payloadType": ""}, "payloadType: found '', want text"),
        ({"signatures": []}, "signatures: found 0, want 1 to 4"),
        ({"signatures": [{"sig": "YQ=="}] * 5}, "signatures: found 5, want 1 to 4"),
        ({"signatures": {}}, "signatures: found a table, want 1 to 4"),
        ({"signatures": ["YQ=="]}, "found 'YQ==', want an object"),
        ({"signatures": [{"sig": "YQ==", "keyid": 5}]}, "keyid: found 5, want text"),
        ({"signatures": [{"keyid": "x"}]}, "sig: found nothing, want base64"),
        ({"signatures": [{"sig": base64.b64encode(bytes(1025)).decode()}]}, "sig: found .*, want base64 of 1 to 1024"),
    ],
)
def test_an_envelope_that_is_none_is_refused_for_what_is_wrong(change, message):
    document = json.loads(encode_envelope(ENVELOPE)) | change
    with pytest.raises(DecodeError, match=message):
        decode_envelope_untrusted(json.dumps(document).encode())


def test_a_key_twice_in_an_envelope_is_refused():
    with pytest.raises(DecodeError, match="a key twice in one object"):
        decode_envelope_untrusted(encode_envelope(ENVELOPE)[:-1] + b',"payloadType":"text/html"}')


def test_an_envelope_that_is_too_large_is_not_decoded():
    with pytest.raises(DecodeError, match="size: found 65537 bytes"):
        decode_envelope_untrusted(bytes(MAX_ENVELOPE_BYTES + 1))


def test_a_statement_names_the_manifest_and_says_that_it_is_signed():
    assert decode_statement_untrusted(encode_statement(DIGEST)) == Statement((DIGEST,), SIGN_PREDICATE)
    assert IN_TOTO == "application/vnd.in-toto+json"


def test_subjects_with_other_digests_alone_are_left_out():
    document = json.loads(encode_statement(DIGEST))
    document["subject"].insert(0, {"digest": {"sha512": "00"}})
    document["subject"].append({"name": "x", "digest": {"sha256": "cd" * 32, "sha512": "00"}})
    assert decode_statement_untrusted(json.dumps(document).encode()).subjects == (DIGEST, "sha256:" + "cd" * 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "_type: found 'https://in-toto.io/Statement/v0.1', want"),
        ({"subject": []}, "subject: found 0, want 1 to 64"),
        ({"subject": [{}] * 65}, "subject: found 65"),
        ({"subject": [{"digest": {"sha256": "AB" * 32}}]}, "subject.digest.sha256: found .*, want 64 digits"),
        ({"subject": [{"digest": {"sha256": "ab" * 31}}]}, "subject.digest.sha256: found .*, want 64 digits"),
        ({"subject": [{"digest": []}]}, "found an array, want an object"),
        ({"subject": [{}]}, "found nothing, want an object"),
        ({"predicateType": None}, "predicateType: found nothing, want text"),
    ],
)
def test_a_statement_that_is_none_is_refused_for_what_is_wrong(change, message):
    document = json.loads(encode_statement(DIGEST)) | change
    with pytest.raises(DecodeError, match=message):
        decode_statement_untrusted(json.dumps(document).encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures", "sig", "subject", "digest", "sha256", "_type"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.binary(max_size=100) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_value_or_a_decode_error(data):
    for decode in (decode_envelope_untrusted, decode_statement_untrusted):
        try:
            assert decode(data)
        except DecodeError:
            continue
