# SPDX-License-Identifier: Apache-2.0
"""The operator's page: which Keeps this host has, their state and what they use. HTML and one style sheet, no script.

It shows no verdict, and says so: an untrusted host could paint any. Everything that came from elsewhere is escaped, and the
content security policy allows nothing but this style sheet, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

import enarx

if TYPE_CHECKING:
    from enarx.host.fleet import Fleet
    from enarx.host.store import KeepRecord

__all__ = ["STYLE_SOURCE", "render_page"]

REFRESH_S = 5

_STYLE = """
:root { color-scheme: light dark; font: 14px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 88rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; }
p { margin: .3rem 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: 600; padding: 1rem 0 .3rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent);
  white-space: nowrap; }
td.ports, td.why { white-space: normal; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: .92em ui-monospace, monospace; }
.ready { color: light-dark(#116329, #56d364); }
.starting { color: light-dark(#7a4e00, #e3b341); }
.lost { color: light-dark(#a40e26, #ff7b72); }
tr.ended, .quiet { opacity: .7; }
"""
STYLE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
"""What the content security policy allows."""


def render_page(fleet: Fleet, *, at: datetime) -> bytes:
    """Return the page.

    Args:
        fleet: the Keeps.
        at: the time to be shown; aware.
    """
    records = fleet.records()
    running = [record for record in records if record.id in fleet.reserved]
    ended = [record for record in reversed(records) if record.id not in fleet.reserved][:20]
    memory = sum(record.reserved_bytes for record in running)
    limits = fleet.limits
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>enarx host: {len(running)} Keeps</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>enarx host</h1>
<p>{"Draining: no new Keeps are taken." if fleet.is_draining else "Takes new Keeps."}
{len(running)} of {limits.keeps} Keeps, {_size(memory)} of {_size(limits.memory_bytes)} memory,
{_size(fleet.disk_bytes)} of {_size(limits.disk_bytes)} disk for blobs.</p>
<p class="quiet">This page says what the host sees from outside. Whether a Keep can be trusted only its tenant can find out.</p>
{_running(fleet, running)}
{_ended(ended)}
<p class="quiet">enarx {escape(enarx.__version__)}, {_time(at)} UTC, again every {REFRESH_S} s</p>
</body>
</html>
"""
    return page.encode()


def _running(fleet: Fleet, records: list[KeepRecord]) -> str:
    if not records:
        return "<p>No Keep runs.</p>"
    rows = []
    for record in records:
        keep = fleet.hosted.get(record.id)
        usage = keep.usage() if keep else None
        received, sent = keep.relayed_bytes if keep else (0, 0)
        current = keep.record if keep else record
        ports = ", ".join(f"{escape(name)}&nbsp;{port}" for name, port in current.ports) or "none"
        rows.append(
            f"<tr><td><code>{escape(record.id)}</code></td>"
            f'<td class="{escape(record.state)}">{escape(record.state)}</td>'
            f"<td>{escape(record.backend)}</td><td>{escape(record.tenant)}</td><td>{_time(_moment(record.created_ns))}</td>"
            f'<td class="n">{_size(usage.memory_bytes) if usage else "?"}</td><td class="n">{_size(record.memory_bytes)}</td>'
            f'<td class="n">{f"{usage.cpu_s:.1f} s" if usage else "?"}</td>'
            f'<td class="n">{_size(received)}</td><td class="n">{_size(sent)}</td>'
            f'<td class="n">{keep.sessions if keep else 0}</td><td class="ports">{ports}</td></tr>'
        )
    return (
        '<div class="scroll"><table><caption>Running</caption><thead><tr><th>Keep</th><th>State</th><th>Backend</th>'
        '<th>Tenant</th><th>Since (UTC)</th><th class="n">Memory used</th><th class="n">asked for</th><th class="n">CPU time</th>'
        '<th class="n">From Keep</th><th class="n">To Keep</th><th class="n">Sessions</th><th>Ports</th></tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _ended(records: list[KeepRecord]) -> str:
    if not records:
        return ""
    rows = [
        f'<tr class="ended"><td><code>{escape(record.id)}</code></td><td class="{escape(record.state)}">{escape(record.state)}</td>'
        f"<td>{escape(record.backend)}</td><td>{escape(record.tenant)}</td><td>{_time(_moment(record.created_ns))}</td>"
        f"<td>{_time(_moment(record.ended_ns)) if record.ended_ns else '?'}</td>"
        f'<td class="why">{escape(record.reason.message) if record.reason else ""}</td></tr>'
        for record in records
    ]
    return (
        '<div class="scroll"><table><caption>Ended</caption><thead><tr><th>Keep</th><th>State</th><th>Backend</th>'
        "<th>Tenant</th><th>Since (UTC)</th><th>Until (UTC)</th><th>Why, where that was an error</th></tr></thead><tbody>"
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _moment(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC)


def _time(at: datetime) -> str:
    return f'<time datetime="{at.isoformat(timespec="seconds")}">{at:%Y-%m-%d %H:%M:%S}</time>'


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f}&nbsp;{unit}" if unit == "B" or value >= 100 else f"{value:.1f}&nbsp;{unit}"
