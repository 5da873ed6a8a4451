# SPDX-License-Identifier: Apache-2.0
"""Arguments and Enarx.toml become one workload; what cannot be one is refused in a line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx import runtime
from enarx.cli import main, ui
from enarx.cli.run import COMMANDS
from enarx.errors import ConfigError, KeepError, UsageError
from enarx.runtime import watch
from enarx.runtime.workload import Outcome

CONFIG = """
args = ["from", "file"]
allow_connect = ["example.com:443"]
[env]
A = "file"
B = "file"
[[files]]
kind = "stdin"
[[files]]
kind = "null"
[[files]]
kind = "stdout"
[[files]]
kind = "listen"
name = "http"
prot = "tls"
port = 8443
[[files]]
kind = "connect"
host = "example.com"
port = 443
prot = "tcp"
[[dirs]]
host = "data"
guest = "/data"
[limits]
memory = "2 MiB"
open_files = 7
[tls]
certificate = "server.pem"
private_key = "/keys/server.key"
trust_anchors = ["roots.pem"]
"""


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A place for the cache that is nobody's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def given_workload(monkeypatch, home):
    """Run `enarx run` up to its workload, which ends as it is told."""
    seen = []

    def run(*argv, outcome=None):
        def run_workload(workload, cache, begin):
            seen.append(workload)
            return outcome or Outcome(0)

        monkeypatch.setattr(runtime, "run_workload", run_workload)
        command = COMMANDS["run"]
        status = command.run(command.parse(["--backend", "nil", *argv]))
        return seen[-1] if outcome is None else status

    return run


@pytest.fixture
def module(tmp_path):
    """A directory with a module; the tests of this file never load it."""
    path = tmp_path / "app.wasm"
    path.write_bytes(b"")
    return path


def test_without_anything_said_it_is_stdio_and_the_defaults(given_workload, module):
    made = given_workload(str(module))
    assert (made.path, list(made.args), list(made.env), list(made.dirs)) == (str(module), [], [], [])
    assert [file.kind for file in made.files] == ["stdin", "stdout", "stderr"]
    assert not made.announce_files
    assert made.allow_connect is None
    limits = made.limits
    assert (limits.memory_bytes, limits.open_files) == (1 << 30, 1024)
    assert (limits.timeout_s, limits.fuel, limits.output_bytes) == (None, None, None)


def test_a_configuration_file_says_it_all(given_workload, module):
    config = module.with_name("Enarx.toml")
    config.write_text(CONFIG)
    made = given_workload(str(module), "--wasmcfgfile", str(config))
    assert list(made.args) == ["from", "file"]
    assert list(made.env) == [("A", "file"), ("B", "file")]
    assert [(file.kind, file.name, file.prot, file.port) for file in made.files] == [
        ("stdin", "stdin", "", 0),
        ("null", "null", "", 0),
        ("stdout", "stdout", "", 0),
        ("listen", "http", "tls", 8443),
        ("connect", "example.com", "tcp", 443),
    ]
    assert made.announce_files
    assert list(made.allow_connect) == ["example.com:443"]
    assert (made.limits.memory_bytes, made.limits.open_files) == (2 << 20, 7)
    assert [(d.host, d.guest, d.read_only) for d in made.dirs] == [(str(module.with_name("data")), "/data", False)]
    assert made.tls.certificate == str(module.with_name("server.pem"))
    assert made.tls.private_key == "/keys/server.key"
    assert made.tls.trust_anchors == (str(module.with_name("roots.pem")),)


def test_options_come_over_the_configuration_file(given_workload, module, tmp_path):
    config = module.with_name("Enarx.toml")
    config.write_text(CONFIG)
    made = given_workload(
        *(str(module), "--wasmcfgfile", str(config), "--env", "A=option", "--env", "C=", "--listen", "http=tcp:1"),
        *("--listen", "more=2", "--dir", f"{tmp_path}::/tmp::ro", "--memory", "1MiB", "--timeout", "1m", "--fuel", "5"),
        *("--output", "1kB", "--open-files", "9", "--", "x", "--y"),
    )
    assert list(made.args) == ["x", "--y"]
    assert list(made.env) == [("A", "option"), ("B", "file"), ("C", "")]
    assert [(file.name, file.prot, file.port) for file in made.files if file.kind == "listen"] == [
        ("http", "tcp", 1),
        ("more", "tls", 2),
    ]
    assert [d.read_only for d in made.dirs] == [False, True]
    limits = made.limits
    assert (limits.memory_bytes, limits.timeout_s, limits.fuel) == (1 << 20, 60.0, 5)
    assert (limits.output_bytes, limits.open_files) == (1000, 9)


def test_no_arguments_are_none_at_all(given_workload, module):
    config = module.with_name("Enarx.toml")
    config.write_text(CONFIG)
    assert list(given_workload(str(module), "--wasmcfgfile", str(config), "--").args) == []


def test_a_directory_is_its_module_and_its_configuration(given_workload, module):
    folder = module.parent
    (folder / "main.wasm").write_bytes(b"")
    assert given_workload(str(folder)).path == f"{folder}/main.wasm"
    (folder / "Enarx.toml").write_text(CONFIG)
    assert list(given_workload(str(folder)).args) == ["from", "file"]
    (folder / "other.toml").write_text('args = ["other"]')
    assert list(given_workload(str(folder), "--wasmcfgfile", str(folder / "other.toml")).args) == ["other"]


def test_refuses_a_directory_without_a_module(given_workload, tmp_path):
    with pytest.raises(UsageError, match=r"main\.wasm"):
        given_workload(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("env", "A"),
        ("env", "=1"),
        ("dir", "/tmp"),
        ("dir", "/tmp::"),
        ("dir", "::/tmp"),
        ("dir", "/tmp::/x::rw"),
        ("dir", "/tmp::/x::"),
        ("listen", "http"),
        ("listen", "=80"),
        ("listen", "http="),
        ("listen", "http=udp:80"),
        ("listen", "http=:80"),
        ("listen", "http=65536"),
        ("listen", "http=-1"),
        ("listen", "http=٣"),
        ("listen", "http=" + "9" * 5000),
        ("listen", "a:b=80"),
        ("listen", "a\nb=80"),
        ("listen", "\udcff=80"),
        ("fuel", "0"),
        ("fuel", "-1"),
        ("fuel", "1.5"),
        ("fuel", "٣"),
        ("fuel", str(1 << 63)),
        ("fuel", "00000000000000000001" + "9" * 5000),
        ("open-files", "0"),
        ("open-files", ""),
        ("memory", "lots"),
        ("memory", "-1"),
        ("output", "1.5MiB"),
        ("timeout", "0"),
        ("timeout", "never"),
        ("timeout", "366d"),
    ],
)
def test_refuses_a_value_that_is_none(given_workload, module, option, value):
    with pytest.raises((UsageError, ConfigError)) as caught:
        given_workload(str(module), f"--{option}={value}")
    assert f"--{option}: found " in str(caught.value)
    assert "\n" not in ui.printable(str(caught.value))


@pytest.mark.parametrize("place", ["/no/such/place", "/dev/null"])
def test_refuses_a_directory_that_is_none(given_workload, module, place):
    with pytest.raises(UsageError, match=f"--dir: {place}: found no such directory"):
        given_workload(str(module), f"--dir={place}::/x")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(["env", "dir", "listen", "fuel", "open-files", "memory", "output", "timeout"]), st.text(max_size=30)
)
def test_any_value_is_taken_or_refused(option, value):
    from enarx.cli.run import _workload

    parsed = COMMANDS["run"].parse(["app.wasm", f"--{option}={value}"])
    with contextlib.suppress(UsageError, ConfigError):
        _workload(parsed, "app.wasm", None)


@pytest.mark.parametrize("path", ["/no/such/Enarx.toml", "/"])
def test_refuses_a_configuration_that_cannot_be_read(given_workload, module, path):
    with pytest.raises(ConfigError) as caught:
        given_workload(str(module), "--wasmcfgfile", path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("outcome", "status", "told"),
    [
        (Outcome(0), 0, ""),
        (Outcome(99), 99, ""),
        (Outcome(100), 99, "enarx: the workload ended with status 100"),
        (Outcome(134), 99, "enarx: the workload ended with status 134"),
        (Outcome((1 << 32) - 1), 99, "enarx: the workload ended with status 4294967295"),
        (Outcome(134, trap="wasm trap: told"), 134, "enarx: workload trapped: {}: told"),
        (Outcome(1, hint="more memory"), 1, "hint: more memory"),
        (Outcome(0, hint="more memory"), 0, ""),
    ],
)
def test_the_status_is_the_workload_s(given_workload, module, capfd, outcome, status, told):
    assert given_workload(str(module), outcome=outcome) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(told.format(module))
    assert len(err.splitlines()) == bool(told)


def test_auto_says_what_is_not_protected(monkeypatch, module, capfd):
    limits = []

    def run_workload(workload, cache, begin):
        begin()
        return Outcome(0)

    monkeypatch.setattr(runtime, "run_workload", run_workload)
    monkeypatch.setattr(watch, "watch", lambda timeout_s, fail, leave: limits.append(timeout_s))
    monkeypatch.delenv("ENARX_BACKEND", raising=False)
    assert main(["run", str(module), "--timeout", "2s"]) == 0
    assert "nothing here protects data in use" in capfd.readouterr().err
    assert main(["run", str(module), "--backend", "nil"]) == 0
    assert capfd.readouterr().err == ""
    assert limits == [2.0, None]


def test_an_unknown_backend_is_refused(module, capfd):
    assert main(["run", str(module), "--backend", "moon"]) == 102
    assert "moon" in capfd.readouterr().err


def test_a_limit_that_was_hit_is_the_keep_s_status(monkeypatch, module, capfd):
    def run_workload(*_):
        raise KeepError("workload stopped: told", hint="do this")

    monkeypatch.setattr(runtime, "run_workload", run_workload)
    assert main(["run", "--backend", "nil", str(module)]) == 109
    assert capfd.readouterr().err == "enarx: workload stopped: told\nhint: do this\n"
