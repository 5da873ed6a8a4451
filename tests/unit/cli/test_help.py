# SPDX-License-Identifier: Apache-2.0
"""The help of every command says all that its description holds."""

from __future__ import annotations

import pytest

from enarx.cli import COMMANDS, load
from enarx.cli.help import describe


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_names_its_options_and_has_an_example(name):
    command = load(name)
    text = describe(command)
    assert text.startswith(f"usage: enarx {name}")
    for option in command.options:
        assert f"  --{option.name}" in text
        assert " ".join(option.summary.split()[:3]) in " ".join(text.split())
        assert not option.environment or f"[${option.environment}]" in " ".join(text.split())
    assert "examples:\n  " in text
    for example, _ in command.examples:
        assert f"  {example}\n" in text
