# SPDX-License-Identifier: Apache-2.0
"""What a host of one's own is given, and what it has to say. The real one is in tests/integration/test_deploy.py."""

from __future__ import annotations

import asyncio
import json

import pytest

from enarx.deploy import own_host as module
from enarx.deploy.own_host import private_host
from enarx.errors import PlatformError

# What stands in for the host: it writes what it was given beside itself, says what the test wants, and waits for the end.
CHILD = """
import json, os, sys
fd = int(sys.argv[sys.argv.index("--parent-fd") + 1])
json.dump({{"arguments": sys.argv, "environment": dict(os.environ)}}, open({facts!r}, "w"))
os.write(fd, {words!r})
os.close(fd) if {ends!r} else sys.stdin.read() or __import__("signal").pause()
"""


@pytest.fixture
def start(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "END_TIMEOUT_S", 0.1)

    def start(words, *, ends=False):
        facts = tmp_path / "facts.json"
        monkeypatch.setattr(module, "_BOOTSTRAP", CHILD.format(facts=str(facts), words=words, ends=ends))

        async def run():
            async with asyncio.timeout(20), private_host() as found:
                return found, json.loads(facts.read_text())

        return asyncio.run(run())

    return start


def test_it_gets_a_token_that_is_nowhere_else(start, monkeypatch):
    monkeypatch.setenv("ENARX_HOST_TOKEN", "another hosts")
    monkeypatch.setenv("SECRET_OF_A_SHELL", "x")
    found, given = start(b"http://127.0.0.1:1234 a-token\n")
    assert (found.address.url, found.token) == ("http://127.0.0.1:1234", "a-token")
    assert "a-token" not in json.dumps(given)
    assert given["environment"].keys() <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "XDG_DATA_HOME"}
    assert "PATH" in given["environment"]


@pytest.mark.parametrize(
    "words", [b"http://127.0.0.1:1234\n", b"http://127.0.0.1:1234 \n", b"x" * 600, b"\xff\n", b"\n"]
)
def test_a_host_without_address_or_token_is_none(start, words):
    with pytest.raises(PlatformError, match="cannot start a host for this run"):
        start(words, ends=True)
