# SPDX-License-Identifier: Apache-2.0
"""What the tests of examples/services share: each service is built by its script, deployed by its own policy, and has users."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from enarx.deploy.connecting import KeepPolicy, keep_ssl_context, load_steward_root
from enarx.deploy.package import load_package
from enarx.wire.release import Steward
from tests.between import Between
from tests.guests import build
from tests.integration.test_deploy import EMULATED, Host
from tests.steward_processes import TOP, StewardProcess, found_steward

EXAMPLES = TOP / "examples"
SERVICES = EXAMPLES / "services"
NAME = "localhost"
START_S = 300.0
"""Until a large program is compiled, on a busy machine."""
PEER_S = 30.0
_UNAVAILABLE = 69
"""What a build ends with where something cannot be fetched."""


def missing(name):
    """Return what the compiler of a service is missing, or nothing."""
    if name in {"word-game", "gateway"}:
        there = Path(build.RUSTC).exists() and build.RUST_LIBRARY.exists() and shutil.which("wasm-ld")
        return "" if there else f"install {build.RUST_PACKAGES}"
    if name == "analytics":
        return ""
    return "" if shutil.which("go") else "install Go 1.22 or later"


def built(name, folder, *, source=SERVICES):
    """Build a service by its script, as its page says; skips where something that it needs is not there."""
    if missing(name):
        pytest.skip(missing(name))
    environment = {
        **os.environ,
        "GOCACHE": str(TOP / "build/go"),
        "ENARX_LANGUAGES_CACHE": str(TOP / "build/languages"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["nice", "-n", "10", str(source / name / "build"), str(folder / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode == _UNAVAILABLE:
        pytest.skip(done.stderr.strip().rpartition("\n")[2])
    assert done.returncode == 0, done.stderr
    return folder / name


def digest_of(package):
    return load_package(str(package), steward=Steward(url=f"https://{NAME}", root=b"")).digest


def change(package, old, new):
    """Change a text that is in a package's Enarx.toml once."""
    text = (package / "Enarx.toml").read_text()
    assert text.count(old) == 1, old
    (package / "Enarx.toml").write_text(text.replace(old, new))


def named(steward):
    return ("--steward", f"https://{NAME}:{steward.port}", "--steward-root", steward.root)


@contextlib.contextmanager
def stewarded(tenant, guest, folder, grants, env):
    """Run a Steward that accepts Keeps of this installation, and gives names by these grants."""
    # The emulated platform of this user is there once there was a Keep on it.
    assert tenant.deploy(guest("hello")).status == 0
    policy = (SERVICES / "word-game/policy.toml").read_text()
    state = found_steward(folder / "state", policy=policy, grants=grants)
    with StewardProcess(state, EMULATED, "--offline", env=env) as running:
        yield running


@contextlib.contextmanager
def world(enarx, guest, folder, grants):
    """Run a host with somebody in between, and a Steward; gives `between`, `tenant` and `steward`."""
    with Between(enarx.env) as between:
        tenant = Host(url=between.url, enarx=enarx)
        with stewarded(tenant, guest, folder, grants, enarx.env) as steward:
            yield SimpleNamespace(between=between, tenant=tenant, steward=steward)


@contextlib.contextmanager
def deployed(tenant, name, package, *options, says=b"ready\n"):
    """Deploy a service by its own policy while the block runs; gives its port. It says nothing but this on standard output."""
    with tenant.start("--policy", SERVICES / name / "policy.toml", *options, package) as started:
        port = int(started.until_stderr(rb"port (\d+) is web\n", START_S)[1])
        started.until_stdout(b"^" + says, START_S)
        yield port
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr
    assert ended.stdout == says


def keep_context(steward, package, *, tenant=None):
    """Return a context for those who trust a Steward's root, and want this package of this tenant or any."""
    root = load_steward_root(str(steward.root))
    policy = KeepPolicy(steward_root=root, package=package, tenant=tenant, insecure_accept_emulated="")
    return keep_ssl_context(policy)


class Users:
    """Those who use a service by HTTP. What they are told is kept."""

    def __init__(self, port, context):
        self.port, self.context = port, context
        self.told = []

    def connect(self):
        connection = http.client.HTTPSConnection(NAME, self.port, timeout=PEER_S, context=self.context)
        return contextlib.closing(connection)

    def ask(self, method, path, body=None, *, token=None, on=None):
        """Make one request, on a connection of its own if none is given; return status and body, as JSON where it is."""
        with contextlib.ExitStack() as stack:
            connection = on or stack.enter_context(self.connect())
            connection.request(method, path, body, {"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            content = response.read()
        self.told.append(content)
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json and content else content
