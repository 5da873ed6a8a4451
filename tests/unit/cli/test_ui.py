# SPDX-License-Identifier: Apache-2.0
"""What is printed goes where it belongs, whole, and moves nobody's cursor."""

from __future__ import annotations

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from enarx.cli import ui
from enarx.errors import KeepError


def test_facts_go_to_stdout_and_the_rest_to_stderr(capfd):
    ui.out("a fact")
    ui.out("a line\n")
    ui.note("a note")
    ui.show_hint("a step")
    out, err = capfd.readouterr()
    assert out == "a fact\na line\n"
    assert err == "enarx: a note\nhint: a step\n"


def test_an_error_is_one_line_whatever_is_in_it(capfd):
    ui.show_error(KeepError("a\nb\x1b[31m", hint="c\rd"))
    assert (
        capfd.readouterr().err
        == "enarx: a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m\nhint: c\N{REPLACEMENT CHARACTER}d\n"
    )


@given(st.text())
def test_nothing_printable_controls_a_terminal(text):
    shown = ui.printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_a_name_that_is_no_text_is_printed_somehow(capfd):
    ui.note("caf\udce9")
    assert capfd.readouterr().err.startswith("enarx: caf")


def test_more_than_a_pipe_holds_is_written_whole(monkeypatch):
    read_end, write_end = os.pipe()
    got = []

    def read():
        with open(read_end, "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    ui._write(write_end, "x" * 300_000)
    os.close(write_end)
    reader.join(20)
    assert len(got[0]) == 300_000
