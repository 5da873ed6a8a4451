# SPDX-License-Identifier: Apache-2.0
"""`enarx playground serve`: what its options become, and what they may not be."""

from __future__ import annotations

import pytest

from enarx.cli import main, playground
from enarx.playground.modules import JobLimits


def options(*given):
    return playground._options(playground.COMMANDS["playground serve"].parse(list(given)))


def test_without_options_it_is_for_this_machine_and_accepts_nothing_emulated():
    found = options()
    assert (found.host, found.port, found.backend) == ("127.0.0.1", 8480, "nil")
    assert (found.accept_emulated, found.connect, found.examples, found.visitor_header) == (None, None, None, None)
    assert (found.limits, found.at_once, found.an_hour) == (JobLimits(), 2, 60)
    assert found.policy().name.startswith("default")


def test_options_are_passed_on():
    found = options(
        "--listen", "[::1]:0", "--insecure-accept-emulated", "--backend", "vm", "--to", "http://127.0.0.1:8470",
        "--max-jobs", "3", "--jobs-an-hour", "4", "--memory", "64 MiB", "--timeout", "3s", "--output", "1 KiB",
        "--max-module", "2 MiB", "--visitor-header", "X-Forwarded-User", "--insecure-http",
    )  # fmt: skip
    assert (found.host, found.port, found.backend, found.accept_emulated) == ("::1", 0, "vm", "")
    assert found.limits == JobLimits(memory_bytes=64 << 20, timeout_s=3.0, output_bytes=1024, module_bytes=2 << 20)
    assert (found.at_once, found.an_hour, found.visitor_header, found.insecure_http) == (3, 4, "X-Forwarded-User", True)
    assert found.connect().address.url == "http://127.0.0.1:8470"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--listen", "0.0.0.0:0"], "found no TLS certificate, want one"),
        (["--tls-key", "key.pem"], "found one of --tls-certificate and --tls-key"),
        (["--timeout", "0s"], "--timeout"),
        (["--timeout", "11m"], "want at most 600s"),
        (["--max-jobs", "0"], "want a number from 1 to 1000000"),
        (["--memory", "lots"], "--memory"),
        (["--output", "0"], "want 1 to"),
        (["--examples", "nowhere"], "No such file"),
        (["--policy", "nowhere"], "cannot read the policy"),
    ],
)
def test_says_how_it_is_held_wrong(tmp_path, capfd, monkeypatch, options, problem):
    monkeypatch.chdir(tmp_path)
    assert main(["playground", "serve", *options]) == 2
    assert problem in capfd.readouterr().err
