# SPDX-License-Identifier: Apache-2.0
"""The completion scripts are scripts, and know every command and option."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from enarx.cli import COMMANDS, load, main
from enarx.cli.completion import bash, fish, zsh

bash_only = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def complete(*words, last=""):
    """Return what bash offers for a command line."""
    line = " ".join(f"'{word}'" for word in ["enarx", *words, last])
    code = f"{bash()}\nCOMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _enarx; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, timeout=20, check=True, cwd="/proc/self/task"
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@bash_only
def test_bash_offers_the_commands():
    assert {name.split()[0] for name in COMMANDS} <= complete()
    assert complete(last="pl") == {"platform", "playground"}
    assert complete("cache", last="") >= {"list", "clear"}


@bash_only
@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_the_options_of_every_command(name):
    assert complete(*name.split(), last="--") == {f"--{option.name}" for option in load(name).options}


@bash_only
def test_bash_offers_the_values_of_an_option():
    assert complete("run", "--backend", last="n") == {"nil"}


@pytest.mark.parametrize("script", [bash, zsh, fish])
def test_every_script_names_every_option(script):
    text = script()
    for name in COMMANDS:
        for option in load(name).options:
            assert option.name in text


def test_fish_expects_no_word_after_an_option_that_can_stand_alone():
    lines = {line.partition(" -l ")[2].split()[0]: line for line in fish().splitlines() if " -l " in line}
    assert " -r " not in lines["insecure-accept-emulated"]
    assert " -r " in lines["to"]
    assert " -r " not in lines["detach"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_here_takes_its_script(shell, capfd):
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_refuses_a_shell_that_is_none(capfd):
    assert main(["completion", "cmd"]) == 2
    assert "want one of bash, zsh, fish" in capfd.readouterr().err
