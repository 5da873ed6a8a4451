# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from enarx.cli.progress import show_progress


def test_progress_on_a_terminal_is_one_line_that_changes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show_progress() as show:
        for done in (0, 50, 50, 100):
            show("fetching", done, 100)
    lines = ["enarx: fetching: 0%", "enarx: fetching: 50%", "enarx: fetching: 100%", ""]
    assert capsys.readouterr().err == "".join("\r\x1b[K" + line for line in lines)


def test_progress_elsewhere_is_a_line_for_each_step(capfd):
    with show_progress() as show:
        for what, done, total in (("looking", 0, 0), ("fetching", 0, 100), ("fetching", 100, 100)):
            show(what, done, total)
    assert capfd.readouterr().err == "enarx: looking\nenarx: fetching (100 bytes)\n"
