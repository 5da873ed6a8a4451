# SPDX-License-Identifier: Apache-2.0
"""`enarx attest connect` as a process against services on loopback, and the clients that docs/connect.md shows."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from enarx.deploy.connecting import KeepPolicy
from enarx.deploy.policy import make_policy
from enarx.testing.snp import FakeAmd
from tests.attesting import NOW, make_policy_text
from tests.conftest import TIMEOUT_S
from tests.presenting import IDENTITY, FakeSteward, make_self_signed_keep, serving

PAGE = (Path(__file__).parents[2] / "docs/connect.md").read_text(encoding="utf-8")
OTHER = IDENTITY._replace(package=b"P" * 32)
PACKAGE = f"--package={IDENTITY.package.hex()}"


@pytest.fixture(scope="module")
def steward():
    return FakeSteward(at=NOW, intermediate=True)


@pytest.fixture
def root(steward, tmp_path):
    path = tmp_path / "steward.pem"
    path.write_bytes(steward.pem)
    return path


@pytest.fixture
def connect(fresh, tmp_path):
    def call(shown, *argv):
        with serving(shown, tmp_path) as service:
            ended = fresh.command("attest", "connect", f"localhost:{service.port}", *argv)
        assert service.greeted == 2  # the last one is the test's own
        assert service.received == b""
        return ended

    return call


def test_a_stewards_certificate_is_accepted_by_its_root_and_nothing_else(connect, steward, root):
    ended = connect(steward.issue(), "--steward-root", root, PACKAGE)
    assert (ended.status, ended.stderr) == (0, "")
    assert b"presents a Steward's certificate" in ended.stdout
    assert connect(steward.issue(), PACKAGE).status == 106
    assert connect(steward.issue(names=["keep.example"]), "--steward-root", root).status == 104
    assert connect(FakeSteward(at=NOW).issue(), "--steward-root", root).status == 104
    assert connect(steward.issue(identity=OTHER), "--steward-root", root, PACKAGE).status == 105
    assert connect(steward.issue(emulated=True), "--steward-root", root).status == 105
    assert connect(steward.issue(extension=None), "--steward-root", root).status == 105
    assert connect(steward.issue(extension=b"garbage"), "--steward-root", root).status == 103


def test_a_key_alone_is_accepted_where_that_is_said(connect, tmp_path):
    amd = FakeAmd()
    policy = tmp_path / "policy.toml"
    policy.write_text(make_policy_text(amd.root))
    shown = make_self_signed_keep(amd, at=NOW)
    ended = connect(shown, "--policy", policy, PACKAGE, "--offline")
    assert ended.status == 105
    assert "key-only, not fresh" in ended.stderr
    ended = connect(shown, "--policy", policy, PACKAGE, "--offline", "--accept-key-only", "--json")
    assert ended.status == 0
    assert json.loads(ended.stdout)["fresh"] is False


def test_without_tls_there_is_nothing_to_judge(fresh):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        fresh.command("attest", "connect", f"127.0.0.1:{port}", "--timeout=0.3s").refused(107, "within 0.3 s")
    fresh.command("attest", "connect", f"127.0.0.1:{port}").refused(107, "connection refused")


@pytest.mark.skipif(shutil.which("curl") is None, reason="install curl")
def test_curl_needs_the_root_alone(steward, root, tmp_path):
    def get(shown):
        with serving(shown, tmp_path) as service:
            command = ["curl", "-sS", "--noproxy", "*", "--cacert", root, f"https://localhost:{service.port}/"]
            return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)

    assert get(steward.issue()).stdout == b"hello"
    for shown in (steward.issue(names=["keep.example"]), FakeSteward(at=NOW).issue()):
        refused = get(shown)
        assert refused.returncode == 60
        assert refused.stdout == b""


def adapter():
    """Return the names of the page's recipe."""
    pytest.importorskip("requests", reason="install requests")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (recipe,) = (block for block in blocks if "class KeepAdapter" in block)
    names = {}
    exec(compile(recipe, "docs/connect.md", "exec"), names)  # noqa: S102 - it is a page of ours
    return names


def test_the_adapter_for_requests_is_as_the_page_has_it(steward, root, tmp_path):
    names = adapter()
    requests = names["requests"]
    session = names["make_session"](KeepPolicy(steward_root=steward.root, package=IDENTITY.package), str(root))
    with session:
        with serving(steward.issue(), tmp_path) as service:
            assert session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S).text == "hello"
        assert b"/secret" in service.received
        with serving(steward.issue(identity=OTHER), tmp_path) as service:
            with pytest.raises(requests.exceptions.SSLError, match=r"service\.package"):
                session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S)
            with pytest.raises(requests.exceptions.InvalidSchema):
                session.get(f"http://localhost:{service.port}/secret", timeout=TIMEOUT_S)
        assert service.received == b""
        # Public authorities beside the root change nothing, and verification cannot be turned off.
        session.verify = True
        with serving(FakeSteward(at=NOW).issue(), tmp_path) as service, pytest.raises(requests.exceptions.SSLError):
            session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S)
        assert service.received == b""
        session.verify = False
        with serving(steward.issue(), tmp_path) as service, pytest.raises(ValueError, match="CERT_NONE"):
            session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S)
        assert service.received == b""


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_adapter_for_requests_takes_a_key_alone_where_that_is_said(tmp_path):
    names = adapter()
    amd = FakeAmd()
    appraisal = make_policy(make_policy_text(amd.root).encode(), name="p.toml")
    policy = KeepPolicy(accept_key_only=True, package=IDENTITY.package, appraisal=appraisal)
    with names["make_session"](policy, False) as session:
        with serving(make_self_signed_keep(amd, at=NOW), tmp_path) as service:
            assert session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S).text == "hello"
        shown = make_self_signed_keep(amd, at=NOW, identity=OTHER)
        with serving(shown, tmp_path) as service, pytest.raises(names["requests"].exceptions.SSLError):
            session.get(f"https://localhost:{service.port}/secret", timeout=TIMEOUT_S)
        assert service.received == b""
