# SPDX-License-Identifier: Apache-2.0
"""What is written is as `docs/formats` says: its CDDL, and the examples of `docs/formats.md`.

No checker of CDDL for Python reads all of it (zcbor 0.9 needs an older cbor2), so what is compared is members and tags.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from enarx.crypto import cose
from enarx.crypto.cbor import Tagged, decode_untrusted
from enarx.wire.cmw import CmwCollection, CmwRecord, decode_cmw_untrusted, encode_cmw_cbor, encode_cmw_json
from enarx.wire.corim import MAX_CORIM_BYTES, decode_corim_untrusted, encode_corim, sign_corim
from enarx.wire.ear import CLAIM_OF_FINDING, MAX_EAR_BYTES, ear_claims, sign_ear_cwt
from tests.unit.wire import test_cmw, test_corim, test_ear

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs/formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def payload_of(token):
    return cose.parse_sign1_untrusted(token, max_bytes=MAX_EAR_BYTES).payload


WRITTEN = [
    ("cmw", "cmw", encode_cmw_cbor(CmwCollection({"x": CmwRecord("a/b", b"y")}, "tag:a"))),
    ("ear", "ear", payload_of(sign_ear_cwt(test_ear.FULL, test_ear.P256))),
    (
        "ear",
        "ear",
        payload_of(sign_ear_cwt(test_ear.build(test_ear.result(test_ear.finding("x", test_ear.Outcome.FAILED))), test_ear.P256)),
    ),
    ("corim", "corim", encode_corim(test_corim.ONE)),
    ("corim", "corim", encode_corim(test_corim.FULL)),
    (
        "corim",
        "corim-meta",
        cose.parse_sign1_untrusted(
            sign_corim(test_corim.ONE, test_corim.KEY, signer="ACME", not_after=test_corim.AT), max_bytes=MAX_CORIM_BYTES
        ).header[8],
    ),
]  # fmt: skip


NAMED_BY_THEIR_MAKERS = {"x", "cpu0", "rtmr1"}


def members_and_tags(value):
    """Yield the names and numbers of members, and the tags, of all that is written."""
    if isinstance(value, Tagged):
        yield f"#6.{value.tag}("
        if value.tag == 506:
            value = Tagged(506, decode_untrusted(value.value, max_bytes=MAX_CORIM_BYTES, tags=TAGS))
        yield from members_and_tags(value.value)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in NAMED_BY_THEIR_MAKERS:
                yield f'"{key}" =>' if isinstance(key, str) else f"{key} =>"
            yield from members_and_tags(item)
    elif isinstance(value, list):
        for item in value:
            yield from members_and_tags(item)


TAGS = frozenset({1, 37, 111, 501, 506, 553, 560, 563})


@pytest.mark.parametrize(("name", "rule", "data"), WRITTEN)
def test_every_member_and_tag_that_is_written_is_in_its_cddl(name, rule, data):
    text = (TOP / f"docs/formats/{name}.cddl").read_text(encoding="utf-8")
    assert re.search(rf"^{rule} = ", text, re.MULTILINE)
    written = set(members_and_tags(decode_untrusted(data, max_bytes=MAX_EAR_BYTES, tags=TAGS)))
    assert written
    assert [item for item in sorted(written) if item not in text] == []


@pytest.mark.parametrize("page", sorted(TOP.glob("docs/formats/*.cddl")), ids=lambda page: page.stem)
def test_every_name_of_a_cddl_is_defined_in_it(page):
    text = re.sub(r'"[^"]*"|;.*', "", page.read_text(encoding="utf-8"))
    defined = set(re.findall(r"^([a-z][a-z0-9-]*) = ", text, re.MULTILINE))
    labels = set(re.findall(r"([a-z][a-z0-9-]*):", text))
    used = set(re.findall(r"(?<![\w#.-])[a-z][a-z0-9-]*", text)) - labels
    assert used - defined <= {"any", "uint", "int", "tstr", "bstr", "bool", "null"}


def block(kind, *, after):
    """Return the first example of a kind below a heading."""
    start = PAGE.index(after)
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE[start:], re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_page_s_wrapper_is_one():
    text = block("json", after="## CMW")
    record = CmwRecord("application/vnd.example.rats-conceptual-msg", b"#G\xdaU", test_cmw.Indicator.EVIDENCE)
    assert decode_cmw_untrusted(text.encode()) == record
    assert json.loads(text) == json.loads(encode_cmw_json(record))
    assert block("text", after="## CMW").strip() == encode_cmw_cbor(record).hex()


def test_the_page_s_result_is_what_is_written():
    assert json.loads(block("json", after="## EAR")) == ear_claims(test_ear.FULL)


def test_the_page_s_reference_values_are_what_is_written():
    text = block("text", after="## CoRIM")
    data = bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))
    assert decode_corim_untrusted(data) == test_corim.ONE
    assert encode_corim(test_corim.ONE) == data


def test_the_page_has_every_row_of_the_table():
    for claim, _ in CLAIM_OF_FINDING:
        assert f"| `{claim.replace('_', '-')}` |" in PAGE
