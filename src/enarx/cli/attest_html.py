# SPDX-License-Identifier: Apache-2.0
"""An attestation result as one HTML page that needs nothing else: no script, no font, no network.

The page's own policy forbids scripts and connections, and every text from the evidence is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from enarx.cli.attest_text import count_same
from enarx.cli.ui import printable
from enarx.rats import AttestationResult, Concern, Finding, Outcome, Verdict, render
from enarx.wire.result_json import plain_claims

__all__ = ["result_page"]

_TITLES = {
    Verdict.ACCEPTED: "Accepted",
    Verdict.NOT_AUTHENTIC: "Not authentic",
    Verdict.REFUSED: "Authentic, and refused by the policy",
    Verdict.UNDECIDED: "Cannot be decided",
}
_MEANINGS = {
    Verdict.ACCEPTED: "Every signature and binding holds up to a trust anchor, and the policy accepts what the evidence says.",
    Verdict.NOT_AUTHENTIC: "A signature, a certificate or a binding does not hold. What the evidence says must not be believed.",
    Verdict.REFUSED: "The evidence comes from where it says it does, and the policy does not accept what it says.",
    Verdict.UNDECIDED: "Something that would decide it is missing or out of date. This is neither a yes nor a no.",
}
_EMULATED_TITLE = "Accepted, and emulated"
_EMULATED_MEANING = "Every signature and binding holds up to the root of an emulated platform, which the policy accepts in spite of that."
_HEADINGS = {Concern.AUTHENTICITY: "Is it authentic?", Concern.APPRAISAL: "Is it acceptable?"}
_MARKS = {
    Outcome.PASSED: "\N{CHECK MARK}",
    Outcome.FAILED: "\N{BALLOT X}",
    Outcome.UNDECIDED: "?",
    Outcome.SKIPPED: "\N{EN DASH}",
    Outcome.NOTED: "\N{BULLET}",
}
_STYLE = """
:root { color-scheme:light dark; --ink:#1b1f24; --paper:#fff; --soft:#f3f5f7; --line:#d4dae0; --muted:#59636e;
  --passed:#1a7f37; --failed:#c62828; --undecided:#8a5a00; --skipped:#6e7781; --noted:#57606a; }
@media (prefers-color-scheme:dark) { :root { --ink:#e6edf3; --paper:#0d1117; --soft:#161b22; --line:#30363d; --muted:#9198a1;
  --passed:#3fb950; --failed:#ff7b72; --undecided:#d29922; --skipped:#8b949e; --noted:#9198a1; } }
* { box-sizing:border-box; }
body { margin:0 auto; max-width:76rem; padding:2rem 1.25rem 4rem; font:16px/1.5 system-ui,sans-serif; color:var(--ink); background:var(--paper); overflow-wrap:anywhere; }
h1 { font-size:1.7rem; line-height:1.25; margin:0; color:var(--tone); } h2 { font-size:1.2rem; margin:2.5rem 0 .75rem; }
header { border-left:.5rem solid var(--tone); padding:.75rem 1rem; background:var(--soft); border-radius:.25rem; }
header p { margin:.25rem 0 0; }
.emulated { margin:1rem 0; padding:.75rem 1rem; border:2px solid var(--failed); color:var(--failed); font-weight:600; border-radius:.25rem; }
dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:.3rem 1.25rem; margin:0; } dt { color:var(--muted); } dd { margin:0; }
.chain { display:flex; flex-wrap:wrap; align-items:stretch; row-gap:.6rem; margin:0 0 1rem; padding:0; list-style:none; }
.chain li { display:flex; align-items:center; min-width:0; }
.chain span { border:2px solid var(--line); border-radius:.4rem; padding:.45rem .7rem; background:var(--soft); min-width:0; }
.chain small { font-size:.75rem; } .chain .trust span { border-color:var(--passed); } .chain .software span { border-color:var(--undecided); }
.chain li.end span { border-style:dashed; background:none; }
.chain li + li::before { content:"signs \\2192"; color:var(--muted); font-size:.8rem; white-space:nowrap; padding:0 .5rem; }
table { width:100%; border-collapse:collapse; table-layout:fixed; } td, th { text-align:left; vertical-align:top; padding:.5rem .6rem; border-bottom:1px solid var(--line); }
th { font-weight:600; color:var(--muted); font-size:.85rem; } code { font:.85rem/1.45 ui-monospace,monospace; } small { color:var(--muted); display:block; }
.findings th:nth-child(1) { width:2.6rem; } .findings th:nth-child(2) { width:34%; } .findings th:nth-child(3) { width:29%; }
.findings td:first-child { font-weight:700; text-align:center; box-shadow:inset .3rem 0 0 var(--tone); color:var(--tone); }
.passed { --tone:var(--passed); } .failed { --tone:var(--failed); } .undecided { --tone:var(--undecided); } .skipped { --tone:var(--skipped); } .noted { --tone:var(--noted); }
.passed .id, .failed .id, .undecided .id { color:var(--tone); } tr.skipped, tr.noted { color:var(--muted); }
tr.failed { background:color-mix(in srgb,var(--failed) 9%,transparent); } tr.undecided { background:color-mix(in srgb,var(--undecided) 12%,transparent); }
mark { color:inherit; background:color-mix(in srgb,var(--tone) 28%,transparent); border-radius:.15rem; }
details { margin-top:2.5rem; } summary { cursor:pointer; font-weight:600; font-size:1.2rem; } .claims td:first-child { width:17rem; color:var(--muted); } .claims .claims td { padding-block:.2rem; }
@media (max-width:48rem) {
  body { padding:1rem .75rem 3rem; } dl { grid-template-columns:minmax(0,1fr); gap:0; } dd { margin-bottom:.4rem; }
  .chain { flex-direction:column; align-items:stretch; row-gap:0; } .chain li { flex-direction:column; align-items:stretch; }
  .chain li + li::before { content:"signs \\2193"; padding:.15rem .7rem; }
  .claims td:first-child { width:38%; } .findings thead { display:none; } .findings tr { display:block; position:relative; border-bottom:1px solid var(--line); box-shadow:inset .3rem 0 0 var(--tone); padding:.5rem 0 .5rem 2.4rem; }
  .findings td { display:block; border:0; padding:.1rem .25rem; } .findings td:first-child { position:absolute; left:.9rem; top:.5rem; box-shadow:none; }
  .findings td[data-name]::before { content:attr(data-name); display:block; color:var(--muted); font-size:.75rem; }
}
@media print { body { max-width:none; } details > * { display:block; } }
"""
_MAX_CHARACTERS = 20_000
_LEAST_MARKED = 16
_TONES = {
    Verdict.ACCEPTED: "passed",
    Verdict.REFUSED: "failed",
    Verdict.NOT_AUTHENTIC: "failed",
    Verdict.UNDECIDED: "undecided",
}


def result_page(result: AttestationResult, *, format_name: str, wrappers: tuple[str, ...] = (), subject: str) -> str:
    """Return the page.

    Args:
        result: what the verifier concluded.
        format_name: what the evidence is.
        wrappers: what it came in, the outermost first.
        subject: what the person calls it, such as the name of a file.
    """
    verdict = result.verdict
    title, tone, meaning = _TITLES[verdict], _TONES[verdict], _MEANINGS[verdict]
    if result.emulated and verdict is Verdict.ACCEPTED:
        title, tone, meaning = _EMULATED_TITLE, "undecided", _EMULATED_MEANING
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}: {_text(subject)}</title><style>{_STYLE}</style></head><body>",
            f'<header class="{tone}"><h1>{title}</h1><p>{meaning}</p></header>',
            *_emulated(result),
            "<h2>What was judged</h2>",
            _facts(result, format_name, wrappers, subject),
            *_table("What the verdict rests on", result.failures),
            "<h2>Chain of trust</h2>",
            *_chains(result),
            *(line for concern in Concern for line in _table(_HEADINGS[concern], _of(result, concern))),
            f"<details><summary>Everything the evidence says</summary>{_claims(plain_claims(result.claims))}</details>",
            "</body></html>\n",
        ]
    )


def _emulated(result: AttestationResult) -> Iterator[str]:
    if result.emulated:
        yield '<p class="emulated" role="alert">Emulated: this platform is software. Nothing here protects data in use.</p>'


def _facts(result: AttestationResult, format_name: str, wrappers: tuple[str, ...], subject: str) -> str:
    rows = [
        ("Evidence", subject),
        ("Format", format_name + (f", in {', in '.join(reversed(wrappers))}" if wrappers else "")),
        ("Policy", result.policy_name),
        ("Judged for", render(result.at)),
        ("Valid until", render(result.valid_until) if result.valid_until else "no endorsement sets an end"),
    ]
    if result.tcb_status is not None:
        rows.append(("TCB status", result.tcb_status))
        rows.append(("Advisories", ", ".join(result.advisory_ids) or "none"))
    counted = {outcome: sum(each.outcome is outcome for each in result.findings) for outcome in Outcome}
    rows.append(("Checks", ", ".join(f"{count} {outcome}" for outcome, count in counted.items() if count)))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in rows) + "</dl>"


def _chains(result: AttestationResult) -> Iterator[str]:
    if not result.chains:
        yield "<p>Nothing that came with the evidence reaches a trust anchor.</p>"
    for anchor, *others in result.chains:
        # The last box is what is signed, and no certificate.
        box, what = ("software", "emulated root") if result.emulated else ("trust", "trust anchor")
        boxes = [f'<li class="{box}"><span><small>{what}</small>{_text(anchor)}</span></li>']
        boxes += [f"<li><span>{_text(name)}</span></li>" for name in others[:-1]]
        boxes += [f'<li class="end"><span>{_text(name)}</span></li>' for name in others[-1:]]
        yield f'<ol class="chain">{"".join(boxes)}</ol>'


def _of(result: AttestationResult, concern: Concern) -> tuple[Finding, ...]:
    return tuple(finding for finding in result.findings if finding.check.concern is concern)


def _table(heading: str, findings: tuple[Finding, ...]) -> Iterator[str]:
    if not findings:
        return
    yield f"<h2>{heading}</h2>"
    yield (
        '<table class="findings"><thead><tr><th></th><th>Check</th><th>Found</th><th>Expected, and who says so</th></tr></thead>'
    )
    yield f"<tbody>{''.join(map(_finding, findings))}</tbody></table>"


def _finding(finding: Finding) -> str:
    check, outcome = finding.check, finding.outcome
    found, expected = render(finding.found), "" if finding.expected is None else render(finding.expected)
    if outcome is Outcome.FAILED:
        found, expected = _marked(found, expected), _marked(expected, found)
    else:
        found, expected = _text(found), _text(expected)
    sources = [finding.source] if finding.source else []
    if finding.anchor:
        sources.append(f"trust anchor: {finding.anchor}")
    wanted = (f"<code>{expected}</code>" if expected else "nothing") + "".join(
        f"<small>{_text(source)}</small>" for source in sources
    )
    return (
        f'<tr class="{outcome}"><td title="{outcome}"><span aria-label="{outcome}" role="img">{_MARKS[outcome]}</span></td>'
        f'<td>{_text(check.title)}<small class="id"><code>{_text(check.id)}</code></small><small>{_text(check.spec)}</small></td>'
        f'<td data-name="found"><code>{found}</code></td><td data-name="expected">{wanted}</td></tr>'
    )


def _marked(text: str, other: str) -> str:
    """Return a text with the part marked in which it differs from one as long: in a digest nobody sees it otherwise."""
    if len(text) != len(other) or text == other or len(text) < _LEAST_MARKED:
        return _text(text)
    first, last = count_same(text, other), len(text) - count_same(text[::-1], other[::-1])
    return f"{_text(text[:first])}<mark>{_text(text[first:last])}</mark>{_text(text[last:])}"


def _claims(claims: Mapping[str, object]) -> str:
    rows = (f"<tr><td>{_text(name)}</td><td>{_claim(value)}</td></tr>" for name, value in claims.items())
    return f'<table class="claims"><tbody>{"".join(rows)}</tbody></table>'


def _claim(value: object) -> str:
    if isinstance(value, Mapping):
        return _claims(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return "".join(map(_claims, value))
    return f"<code>{_text(render(value))}</code>"


def _text(text: str) -> str:
    """Return a text for the page: no markup, no control characters, and an end."""
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[:_MAX_CHARACTERS]}\N{HORIZONTAL ELLIPSIS} ({len(text)} characters)"
    return escape(printable(text))
