# SPDX-License-Identifier: Apache-2.0
"""The tutorial does what it shows, in each of its languages, in one shell, from an empty folder.

Commands stand behind `$ ` in `console` blocks, and beneath each what it prints: `...` for any lines, `…` for anything in a line. Files
are the blocks behind a line with their name alone. The shell has a network of its own, so that the ports are those of the page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guests import build

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "tutorial.md").read_text(encoding="utf-8")
LANGUAGES = ("Go", "Rust", "C")
TIMEOUT_S = 600
GREETING, CHANGED = "Hello from a Keep!", "Hello from afar!!!"
# A person waits until a service says that it listens, before he types the next command.
SETTLE = """
listening() { cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "0A" { print $2 }' | sort; }
begun() { comm -13 <(echo "$before") <(listening) | grep -q .; }
settle() { for _ in $(seq 600); do begun && return; kill -0 $! || return; sleep 0.1; done; }
"""

pytestmark = pytest.mark.slow


class Step(NamedTuple):
    """A command and what it prints, or a file and what is in it."""

    command: str
    shown: str
    file: str = ""


def steps_of(page: str) -> list[Step]:
    """Return what a reader does, one after the other."""
    found = []
    for block in re.finditer(r"(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        file, kind, text = block.groups()
        if kind == "console":
            parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
            assert parts[0] == "", "a block begins with a command"
            found += [Step(command, shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]
        else:
            assert file, f"a block of {kind} without a name"
            found.append(Step("", text, file))
    return found


def sections_of(language: str) -> tuple[list[Step], list[Step], list[Step]]:
    """Return how a program is made, how it is compiled again, and what is done with it."""
    before, *languages = re.split(r"^### In (?=\w+$)", PAGE.partition("\n## 2.")[0], flags=re.MULTILINE)
    assert not steps_of(before)
    of = dict(text.split("\n", 1) for text in languages)
    assert tuple(of) == LANGUAGES
    own = steps_of(of[language])
    last_file = max(index for index, step in enumerate(own) if step.file)
    return own, own[last_file + 1 :], steps_of("\n## 2." + PAGE.partition("\n## 2.")[2])


def script_of(steps: list[Step]) -> str:
    """Return a script of the shell that says where each command begins, and how it ended."""
    lines = [SETTLE]
    for number, step in enumerate(steps):
        lines.append(f"printf '\\n@@ {number}\\n'")
        if step.file:
            lines.append(f"cat > {step.file} <<'@@@'\n{step.shown}@@@")
        elif step.command.endswith("&"):
            lines += ["before=$(listening)", f"{step.command[:-1]} >> ../service.log 2>&1 &", "settle"]
        else:
            lines.append(step.command)
        lines.append("printf '\\n@@ ended %s\\n' $?")
    return "\n".join(lines)


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return what matches the lines that a page shows."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown.splitlines()
    ]
    return re.compile("".join(lines))


@pytest.fixture(params=LANGUAGES)
def language(request):
    missing = {
        "Go": shutil.which("go") is None and "go is not installed",
        "Rust": not (Path(build.CARGO).exists() and build.RUST_LIBRARY.exists() and shutil.which("wasm-ld"))
        and f"Rust for WASI is not installed: {build.RUST_PACKAGES}",
        "C": False,
    }[request.param]
    if missing:
        pytest.skip(missing)
    return request.param


def run(script: str, folder: Path, language: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, as a user with nothing, with a network that has nothing but loopback."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "enarx").symlink_to(Path(sys.executable).parent / "enarx")
    # Through a link the interpreter would not find its environment.
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    env = {
        "HOME": str(folder),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "ZIG_GLOBAL_CACHE_DIR": str(build.ZIG_CACHE),
        "ZIG_LOCAL_CACHE_DIR": str(build.ZIG_CACHE),
        "GOCACHE": str(build.CACHE.parent / "go"),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
    }
    if language == "Rust":
        # Debian's compiler finds its linker by a name that Debian gives to another package.
        for name in ("cargo", "rustc"):
            (tools / name).symlink_to(f"/usr/bin/{name}")
        linker = shutil.which("wasm-ld")
        env |= {"RUSTFLAGS": f"-C linker={linker} -C linker-flavor=wasm-ld", "CARGO_NET_OFFLINE": "true"}
    own_network = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*own_network, "bash", "-c", 'ip link set lo up && exec bash -c "$0"', script]
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        text=True,
        check=False,
    )


def test_every_command_does_what_the_page_shows(tmp_path, language):
    own, again, rest = sections_of(language)
    edit = Step(
        f"grep -rl '{GREETING}' main.* src 2>/dev/null | grep -v wasm | xargs sed -i 's/{GREETING}/{CHANGED}/'", ""
    )
    last = next(index for index in reversed(range(len(rest))) if rest[index].command.startswith("enarx deploy"))
    steps = [*own, *rest[:last], edit, *again, *rest[last:]]
    done = run(script_of(steps), tmp_path, language)
    said = re.split(r"\n@@ (\d+)\n", done.stdout)
    log = tmp_path / "service.log"
    everything = done.stdout + (log.read_text() if log.exists() else "")
    assert [int(each) for each in said[1::2]] == list(range(len(steps))), everything
    for step, text in zip(steps, said[2::2], strict=True):
        output, status = re.fullmatch(r"(.*)\n@@ ended (\d+)\n?", text, re.DOTALL).groups()
        if step.file:
            continue
        refused = "no grant names" in step.shown
        assert (status != "0") == refused, f"{step.command}\n{output}\n{everything}"
        assert pattern_of(step.shown).fullmatch(output), f"{step.command}\n{output}"
