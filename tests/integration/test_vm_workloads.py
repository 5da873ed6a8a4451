# SPDX-License-Identifier: Apache-2.0
"""What workloads can do in a Keep that is a process, they can in one that is a machine: components, services, sockets, directories.

Most tests are those of `test_deploy_sockets.py`, with a host here whose Keeps are machines. Under emulation a module takes some
thirty times as long to compile, so that the guests are small ones.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass

import pytest

from tests.integration.test_deploy import Host
from tests.integration.test_deploy_sockets import (  # noqa: F401 - tests of another host, run with the one below
    authority,
    echo,
    package,
    stranger,
    test_64_connections_at_once_are_64_streams,
    test_a_c_server_answers_64_connections_at_once,
    test_a_component_asks_over_http_by_name,
    test_a_component_connects_by_name_and_by_address,
    test_a_server_that_the_host_puts_there_instead_is_refused,
    test_an_http_service_answers_through_the_host,
    test_an_http_service_sees_a_body,
    test_clients_that_go_away_or_do_not_read_stop_nobody,
    test_connects_to_a_server_that_proves_its_name_and_shows_what_it_was_given,
    test_half_a_close_still_gets_its_answer,
    test_one_connection_after_the_other,
)
from tests.machines import BOOT_S, environment, require_image, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HELLO = b"Hello, Enarx!\n"


@dataclass(frozen=True, kw_only=True)
class MachineHost(Host):
    """A host whose Keeps are machines."""

    def deploy(self, *arguments, **how):
        given = ("--backend", "vm", "--memory", "64MiB", *arguments)
        return Host.deploy(self, *given, **{"timeout_s": BOOT_S, **how})

    def start(self, *arguments):
        return Host.start(self, "--backend", "vm", "--memory", "64MiB", *arguments)


@pytest.fixture(scope="module")
def host(enarx, tmp_path_factory):
    require_image()
    tenant = enarx.with_env(XDG_DATA_HOME=environment({})["XDG_DATA_HOME"])
    with serve(tmp_path_factory.mktemp("host") / "state", env=tenant.env) as running:
        yield MachineHost(url=running.url, enarx=tenant)


@pytest.fixture
def listener():
    """A server that waits as long as a machine may take to start."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(BOOT_S)
        yield sock


# --- Commands


@pytest.mark.parametrize(("last", "status"), [("nothing", 0), ("fail", 1), ("trap", 134)])
def test_a_component_has_its_arguments_and_ends_with_its_own_status(host, guest, last, status):
    ended = host.deploy("--env", "A=1", guest("component/args_cmd"), "--", "x", last)
    assert (ended.status, ended.stdout) == (status, f"main.wasm\nx\n{last}\n\nA=1\n".encode()), ended.stderr


def test_a_component_copies_what_it_is_given(host, guest):
    data = os.urandom(2 << 20)
    ended = host.deploy(guest("component/echo_cmd"), stdin=data)
    assert ended.status == 0, ended.stderr
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(data).digest()


def test_a_component_says_hello_and_has_a_time_limit(host, guest):
    ended = host.deploy(guest("component/hello_cmd"))
    assert (ended.status, ended.stdout) == (0, HELLO), ended.stderr
    stopped = host.deploy("--timeout", "1s", guest("component/args_cmd"), "--", "spin")
    assert stopped.status == 109
    assert "wall time" in stopped.stderr


@pytest.mark.parametrize("name", ["component/cat_file", "cat_file"])
def test_a_workload_reads_the_directory_that_travelled_with_it(host, guest, tmp_path, name):
    app = package(tmp_path / "app", guest(name), "")
    (app / "data").mkdir()
    (app / "data" / "own").write_text("own\n")
    toml = '[[dirs]]\nhost = "data"\nguest = "/d"\n'
    (app / "Enarx.toml").write_text(toml)
    path = "own" if name.startswith("component/") else "/d/own"
    ended = host.deploy(app, "--", path)
    assert (ended.status, ended.stdout) == (0, b"own\n"), ended.stderr
