# SPDX-License-Identifier: Apache-2.0
"""The page: well formed, complete, and nothing in it that is not ours to say."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from enarx.cli.attest_html import result_page
from enarx.rats import AttestationResult, Check, Concern, Finding, OneOf, Outcome

AUTHENTIC = Check("x.signature", "it is signed", Concern.AUTHENTICITY, "a document")
ACCEPTABLE = Check("x.debug", "it cannot be debugged", Concern.APPRAISAL, "a document")
AT = datetime(2026, 6, 1, tzinfo=UTC)
HOSTILE = "</code><script src=//evil>alert(1)</script><img src=x onerror=y>\"'&\x1b[31m\u202e\ud800"
VOID = {"meta"}


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], [], [], {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def finding(outcome, expected=0, found=1, check=AUTHENTIC, source="a source", anchor=None):
    return Finding(check, outcome, expected, found, source, anchor)


class Claims(dict):
    def named(self):
        return self


def make_page(*findings, claims=None, subject="report.bin", wrappers=(), **values):
    result = AttestationResult(
        **{"tee": "snp", "subject": Claims(claims or {}), "findings": findings, "at": AT, "policy_name": "p"} | values
    )
    return result_page(result, format_name="a format", wrappers=wrappers, subject=subject)


@pytest.mark.parametrize(
    ("findings", "title", "tone"),
    [
        ([finding(Outcome.PASSED)], "Accepted", "passed"),
        ([finding(Outcome.FAILED)], "Not authentic", "failed"),
        ([finding(Outcome.FAILED, check=ACCEPTABLE)], "Authentic, and refused by the policy", "failed"),
        ([finding(Outcome.UNDECIDED)], "Cannot be decided", "undecided"),
    ],
)
def test_says_the_verdict_first_and_in_its_colour(findings, title, tone):
    page = make_page(*findings)
    assert Reader(page).text["h1"] == [title]
    assert f'<header class="{tone}">' in page
    assert f"<title>{title}: report.bin</title>" in page


def test_what_is_emulated_is_never_green():
    page = make_page(finding(Outcome.PASSED), emulated=True, chains=(("ROOT", "the report"),))
    assert '<li class="software"><span><small>emulated root</small>ROOT</span></li>' in page
    assert Reader(page).text["h1"] == ["Accepted, and emulated"]
    assert '<header class="undecided">' in page
    assert 'role="alert">Emulated: this platform is software.' in page
    assert "mulated" not in make_page(finding(Outcome.PASSED)).partition("</style>")[2]


def test_draws_each_chain_from_its_anchor_to_what_is_signed():
    page = make_page(
        finding(Outcome.PASSED), chains=(("ROOT", "CA", "LEAF", "the report"), ("ROOT", "TCB", "the TCB info"))
    )
    assert page.count('<ol class="chain">') == 2
    assert (
        '<ol class="chain"><li class="trust"><span><small>trust anchor</small>ROOT</span></li><li><span>CA</span></li>'
        '<li><span>LEAF</span></li><li class="end"><span>the report</span></li></ol>'
    ) in page
    assert "reaches a trust anchor" in make_page(finding(Outcome.FAILED))


def test_colours_every_finding_and_repeats_those_that_decide():
    page = make_page(
        *(finding(outcome) for outcome in Outcome),
        finding(Outcome.SKIPPED, check=ACCEPTABLE),
        wrappers=("JSON", "text"),
    )
    rows = page.partition("Is it authentic?")[2]
    for outcome in Outcome:
        assert rows.count(f'<tr class="{outcome}">') == (2 if outcome is Outcome.SKIPPED else 1)
        assert f'aria-label="{outcome}"' in rows
    assert page.partition("What the verdict rests on")[2].count('<tr class="failed">') == 2
    assert "a format, in text, in JSON" in page
    assert "What the verdict rests on" not in make_page(finding(Outcome.PASSED))


def test_marks_where_two_values_of_a_size_differ():
    page = make_page(finding(Outcome.FAILED, expected=bytes(16), found=bytes(7) + b"\x10" + bytes(8)))
    assert "0" * 14 + "<mark>1</mark>" + "0" * 17 in page
    assert "0" * 14 + "<mark>0</mark>" + "0" * 17 in page
    assert "<mark>" not in make_page(finding(Outcome.PASSED, expected=bytes(16), found=bytes(15) + b"\1"))
    assert "<mark>" not in make_page(finding(Outcome.FAILED, expected=0, found=1))


def test_nothing_of_others_becomes_markup_or_controls():
    check = Check("x", HOSTILE, Concern.AUTHENTICITY, HOSTILE)
    page = make_page(
        finding(Outcome.FAILED, OneOf(HOSTILE), HOSTILE, check, HOSTILE, HOSTILE),
        finding(Outcome.FAILED, "a" * len(HOSTILE), HOSTILE, check),
        claims={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}, "list": [{HOSTILE: HOSTILE}]},
        subject=HOSTILE,
        policy_name=HOSTILE,
        chains=((HOSTILE, HOSTILE, HOSTILE),),
        tcb_status=HOSTILE,
        advisory_ids=(HOSTILE,),
    )
    reader = Reader(page)
    assert not {"script", "img", "link", "iframe"} & set(reader.seen)
    assert all(each.isprintable() for each in page.replace("\n", ""))
    page.encode()
    assert page.count("&lt;script") > 10


def test_needs_nothing_else():
    page = make_page(finding(Outcome.PASSED), chains=(("A", "b"),))
    names = {name for name, _ in Reader(page).attributes}
    assert not {"src", "href", "srcset", "style", "onload", "action"} & names
    assert not any(word in page for word in ("url(", "@import", "http://", "https://", "<script"))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


def test_a_page_has_an_end():
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    page = make_page(finding(Outcome.FAILED, found="x" * 10_000_000), claims={"long": "y" * 10_000_000, "deep": deep})
    assert len(page) < 200_000
    assert "(10000000 characters)" in page
    assert "nested too deeply to show" in page
