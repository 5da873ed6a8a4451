# SPDX-License-Identifier: Apache-2.0
"""Write the generated parts of docs/: helps of commands, keys of a policy, presets, checks, roots, what examples were seen to do.

Each stands between two markers that name it. Run `make docs` after a change to a command, a rule or a check; a test of
each page fails until it was run.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from enarx.cli import COMMANDS, load
from enarx.cli.help import describe
from enarx.cli.top import overview

TOOLS = Path(__file__).parent
if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))  # A test runs this file from elsewhere.

from checks_page import anchors_table, baseline_table, checks_table, peers_table  # noqa: E402 - see above
from languages_page import languages_table  # noqa: E402 - see above

DOCS = TOOLS.parent / "docs"
PAGES = ("checks.md", "cli.md", "languages.md", "policy.md", "verifier.md")

_HELP = re.compile(r"(?<=<!-- help: )([a-z ]+)( -->\n).*?(?=<!-- end of help -->)", re.DOTALL)
_KEYS = re.compile(r"(?<=<!-- keys: )([a-z]+)( -->\n).*?(?=<!-- end of keys -->)", re.DOTALL)
_ANCHORS = re.compile(r"(?<=<!-- anchors -->\n).*?(?=<!-- end of anchors -->)", re.DOTALL)
_BASELINE = re.compile(r"(?<=<!-- baseline -->\n).*?(?=<!-- end of baseline -->)", re.DOTALL)
_CHECKS = re.compile(r"(?<=<!-- checks: )([a-z]+)( -->\n).*?(?=<!-- end of checks -->)", re.DOTALL)
_LANGUAGES = re.compile(r"(?<=<!-- languages -->\n)(.*?)(?=<!-- end of languages -->)", re.DOTALL)
_PEERS = re.compile(r"(?<=<!-- peers: )([a-z]+)( -->\n).*?(?=<!-- end of peers -->)", re.DOTALL)
_PRESETS = re.compile(r"(?<=<!-- presets -->\n).*?(?=<!-- end of presets -->)", re.DOTALL)


def helps() -> dict[str, str]:
    """Return the text of `--help` by command line."""
    return {"enarx": overview()} | {f"enarx {name}": describe(load(name)) for name in COMMANDS}


def keys_table(section: str) -> str:
    """Return the keys of a TEE's policy as a table."""
    from enarx.verifier.policy_write import strict_value
    from enarx.verifier.registry import judge_of

    rows = ["| key | what is true when it passes | value | `policy init` writes |", "|---|---|---|---|"]
    for rule in judge_of(section).rules:
        strict = strict_value(rule)
        written = "a line to fill in" if strict is None else f"`{strict}`"
        cells = (f"`{rule.key}`", rule.check.title, rule.grammar.wanted, written)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def presets_table() -> str:
    """Return the presets as a table."""
    from enarx.verifier.presets import PRESETS

    rows = ["| preset | date | minima | source |", "|---|---|---|---|"]
    for preset in PRESETS.values():
        minima = [
            f"{product} {', '.join(f'{name} {value}' for name, value in components.items())}"
            for product, components in preset.by_product.items()
        ]
        minima += [f"`{name}` {value}" for name, value in preset.numbers.items()]
        sources = "; ".join(f"[{source.title}]({source.url}): {source.says}" for source in preset.sources)
        rows.append(f"| `{preset.name}` | {preset.date} | {'; '.join(minima)} | {sources} |")
    return "\n".join(rows)


def render(page: str) -> str:
    """Return the page with every block written again.

    Raises:
        KeyError: a marker names no command.
    """
    texts = helps()
    page = _HELP.sub(lambda found: f"{found[1]}{found[2]}\n```text\n{texts[found[1]]}```\n\n", page)
    page = _CHECKS.sub(lambda found: f"{found[1]}{found[2]}\n{checks_table(found[1])}\n\n", page)
    page = _PEERS.sub(lambda found: f"{found[1]}{found[2]}\n{peers_table(found[1])}\n\n", page)
    page = _BASELINE.sub(lambda _: f"\n{baseline_table()}\n\n", page)
    page = _ANCHORS.sub(lambda _: f"\n{anchors_table()}\n\n", page)
    page = _LANGUAGES.sub(lambda found: f"\n{languages_table(found[1])}\n\n", page)
    page = _KEYS.sub(lambda found: f"{found[1]}{found[2]}\n{keys_table(found[1])}\n\n", page)
    return _PRESETS.sub(lambda _: f"\n{presets_table()}\n\n", page)


def main() -> int:
    """Write the pages."""
    for name in PAGES:
        path = DOCS / name
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
