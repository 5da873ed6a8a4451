# SPDX-License-Identifier: Apache-2.0
"""What can be run, and what a visitor may not make of it."""

from __future__ import annotations

import os

import pytest

from enarx.errors import ConfigError, UsageError
from enarx.playground.modules import JobLimits, find_examples, pack_example, pack_upload

LIMITS = JobLimits(memory_bytes=1 << 20, timeout_s=4.0, output_bytes=1000, module_bytes=100, stdin_bytes=10)
MODULE = b"\0asm\x01\0\0\0"
NARROWER = '[limits]\nmemory = "64 KiB"\ntimeout = "1500ms"\noutput = "10 B"\nfuel = 7\n'
WIDER = '[limits]\nmemory = "1 GiB"\ntimeout = "1h"\noutput = "1 GiB"\n'


def example(folder, name="mine", *, module="main.wasm", data=MODULE, config=None, about=None):
    here = folder / name
    here.mkdir()
    (here / module).write_bytes(data)
    if config is not None:
        (here / "Enarx.toml").write_text(config)
    if about is not None:
        (here / "about.txt").write_text(about)
    return here


def test_there_are_examples_that_say_what_they_do():
    found = find_examples(None)
    assert {each.name for each in found} == {"hello", "shout", "trap", "forever"}
    assert all(each.about and each.source.startswith(";; SPDX") for each in found)


@pytest.mark.parametrize("each", find_examples(None), ids=lambda each: each.name)
def test_an_example_travels_as_it_is_shown(each):
    package = pack_example(each, JobLimits())
    assert package.plaintexts["main.wasm"].decode() == each.source
    assert package.plaintexts.get("Enarx.toml", b"").decode() == each.config
    assert package.path == each.name
    assert package.ports == ()


def test_examples_of_the_operator_come_after_ours_and_may_replace_them(tmp_path):
    example(tmp_path, config="", about="Mine,\nand more")
    example(tmp_path, "hello", data=b"\0asm\x01\0\0\0other")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "a-file").touch()
    found = {each.name: each for each in find_examples(str(tmp_path))}
    assert list(found)[-1] == "mine"
    assert (found["mine"].about, found["mine"].config_path, found["mine"].source) == ("Mine, and more", None, "")
    assert pack_example(found["hello"], JobLimits()).plaintexts["main.wasm"].endswith(b"other")


def test_an_example_of_the_operator_may_have_directories_of_his(tmp_path):
    here = example(tmp_path, config='[[dirs]]\nhost = "data"\nguest = "/data"\nread_only = true\n')
    (here / "data").mkdir()
    (here / "data" / "poem.txt").write_text("words")
    found = next(each for each in find_examples(str(tmp_path)) if each.name == "mine")
    assert b"words" in pack_example(found, JobLimits()).plaintexts["files"]


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"config": '[[files]]\nkind = "listen"\nname = "web"\nport = 80\n'}, "found a socket"),
        ({"config": "[limits]\nmemory = 3.5\n"}, "memory"),
        ({"about": "\0" * 4097}, "found more than 4096 bytes"),
        ({"module": "main.wat", "data": b"\xff"}, "want UTF-8"),
    ],
)
def test_refuses_examples_that_cannot_be_used(tmp_path, made, problem):
    example(tmp_path, **made)
    with pytest.raises((UsageError, ConfigError), match=problem):
        find_examples(str(tmp_path))


def test_refuses_a_folder_without_examples(tmp_path):
    with pytest.raises(UsageError, match="found none, want folders with main"):
        find_examples(str(tmp_path))
    with pytest.raises(UsageError, match="No such file"):
        find_examples(str(tmp_path / "nowhere"))


def test_what_is_sent_travels_and_is_in_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.listdir("/proc/self/fd")
    package = pack_upload(MODULE, '[env]\nNAME = "Anna"\n', LIMITS)
    assert package.plaintexts == {"main.wasm": MODULE, "Enarx.toml": b'[env]\nNAME = "Anna"\n'}
    assert (package.path, package.ports, os.listdir(tmp_path)) == ("main.wasm", (), [])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        ("", {"memory-bytes": 1 << 20, "timeout-ms": 4000, "output-bytes": 1000}),
        (WIDER, {"memory-bytes": 1 << 20, "timeout-ms": 4000, "output-bytes": 1000}),
        (NARROWER, {"memory-bytes": 64 << 10, "timeout-ms": 1500, "output-bytes": 10}),
    ],
)
def test_limits_are_the_narrower_ones(config, limits):
    package = pack_upload(MODULE, config, LIMITS)
    assert package.configuration.limits == limits
    assert package.memory_bytes == limits["memory-bytes"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ('[[files]]\nkind = "listen"\nname = "web"\nport = 80\n', "found a socket"),
        ('[[files]]\nkind = "connect"\nhost = "localhost"\nport = 80\n', "found a socket"),
        ('[[dirs]]\nhost = "/etc"\nguest = "/etc"\n', "found a directory"),
        ('steward = "https://steward.example"\n', "found a Steward"),
        ('[tls]\ncertificate = "/etc/ssl/certs/a.pem"\nprivate_key = "/etc/ssl/private/a.pem"\n', r"found \[tls\]"),
        ('[tls]\ntrust_anchors = ["/etc/shadow"]\n', r"found \[tls\]"),
        ('allow_connect = ["*:*"]\n', "found allow_connect"),
        ("unknown = 1\n", "unknown"),
        ("[", "Enarx.toml"),
    ],
)
def test_refuses_an_enarx_toml_that_reaches_beyond_the_workload(config, problem):
    with pytest.raises(ConfigError, match=problem):
        pack_upload(MODULE, config, LIMITS)


@pytest.mark.parametrize("data", [b"", MODULE + b"\0" * 93])
def test_refuses_a_module_without_or_with_too_many_bytes(data):
    with pytest.raises(UsageError, match=f"found {len(data)} bytes, want 1 to 100"):
        pack_upload(data, "", LIMITS)
