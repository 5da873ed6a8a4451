# SPDX-License-Identifier: Apache-2.0
"""`enarx attest connect` in this process: statuses, and what it prints for people and for programs."""

from __future__ import annotations

import json
import socket
from datetime import timedelta

import pytest

from enarx.cli import main
from enarx.testing.snp import FakeAmd
from enarx.wire.ear import Tier
from tests.attesting import NOW, make_policy_text
from tests.presenting import IDENTITY, FakeSteward, make_self_signed_keep, serving

PACKAGE = f"--package={IDENTITY.package.hex()}"
TENANT = f"--tenant={IDENTITY.tenant.hex()}"


@pytest.fixture(scope="module")
def steward():
    return FakeSteward(at=NOW)


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture
def root(steward, tmp_path):
    path = tmp_path / "steward.pem"
    path.write_bytes(steward.pem)
    return f"--steward-root={path}"


@pytest.fixture
def policy(amd, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(make_policy_text(amd.root))
    return f"--policy={path}"


@pytest.fixture
def connect(capfd, tmp_path):
    """Serve what is shown, and run the command against it."""

    def call(shown, *argv, host="localhost"):
        capfd.readouterr()
        with serving(shown, tmp_path) as service:
            status = main(["attest", "connect", f"{host}:{service.port}", *argv])
        assert service.received == b""
        out, err = capfd.readouterr()
        return status, out, err

    return call


class TestSteward:
    def test_says_what_runs_there_and_who_says_so(self, connect, steward, root):
        status, out, err = connect(steward.issue(names=["localhost", "keep.example"]), root, PACKAGE, TENANT)
        assert status == 0
        assert err == ""
        first, *lines = out.splitlines()
        assert first.startswith("accepted: localhost:")
        assert first.endswith(" presents a Steward's certificate")
        assert f"  package   sha256:{IDENTITY.package.hex()}, as it is" in lines
        assert f"  module    sha256:{IDENTITY.module.hex()}" in lines
        assert f"  config    sha256:{IDENTITY.configuration.hex()}" in lines
        assert f"  tenant    key sha384:{IDENTITY.tenant.hex()}" in lines
        assert any(line.startswith("  names     localhost, keep.example, spiffe://") for line in lines)
        assert "  issuer    CN=Steward" in lines
        assert "  result    affirming, snp, by the Steward's policy policy.toml" in lines
        assert any("by the Steward, which signed the certificate with this in it" in line for line in lines)
        assert "its own word" not in out

    def test_says_when_something_was_given_beyond_the_package(self, connect, steward, root):
        given = IDENTITY._replace(pristine=False)
        status, out, _ = connect(steward.issue(identity=given), root)
        assert (status, "with something given beyond it" in out) == (0, True)
        status, _, err = connect(steward.issue(identity=given), root, "--pristine")
        assert (status, "service.pristine" in err) == (105, True)
        assert connect(steward.issue(), root, "--pristine")[0] == 0

    def test_explains_every_check(self, connect, steward, root):
        status, out, _ = connect(steward.issue(), root, PACKAGE, "--explain")
        assert status == 0
        for check in ("chain", "name", "time", "result", "emulated", "package"):
            assert f"\N{CHECK MARK} service.{check}: " in out
        assert "anchor    Steward, " in out

    def test_is_one_document_for_programs(self, connect, steward, root):
        status, out, err = connect(steward.issue(), root, PACKAGE, "--json")
        document = json.loads(out)
        assert (status, err) == (0, "")
        assert document["verdict"] == "accepted"
        assert document["kind"] == "service"
        assert document["presents"] == "Steward's certificate"
        assert document["fresh"] is True
        assert document["emulated"] is False
        assert document["identity"]["package"] == IDENTITY.package.hex()
        assert document["identity"]["pristine"] is True
        assert document["certificate"]["names"][0] == "localhost"
        assert document["steward-result"]["submods"]["cpu0"]["ear_status"] == "affirming"
        assert {each["id"] for each in document["result"]["findings"]} >= {"service.chain", "service.package"}

    def test_cannot_decide_without_a_root(self, connect, steward):
        status, out, err = connect(steward.issue(), PACKAGE)
        assert status == 106
        assert out.startswith("undecided: ")
        assert "what it says below is its own word" in out
        assert "service.chain" in err
        assert "hint: name the Steward's root with --steward-root FILE" in err

    @pytest.mark.parametrize(
        ("issued", "argv", "status", "reason"),
        [
            ({"names": ["keep.example"]}, [], 104, "service.name failed"),
            ({"lasts": timedelta(minutes=1)}, [], 104, "service.time failed"),
            ({}, ["--at=2037-01-01"], 104, "service.time failed"),
            ({}, [f"--package={'00' * 32}"], 105, "service.package failed"),
            ({}, [f"--tenant={'00' * 48}"], 105, "service.tenant failed"),
            ({"emulated": True}, [], 105, "service.emulated failed: found EMULATED"),
            ({"emulated": True}, [f"--insecure-accept-emulated={'00' * 32}"], 105, "service.emulated failed"),
            ({"status": Tier.CONTRAINDICATED}, [], 105, "service.result failed"),
            ({"extension": None}, [], 105, "no evidence of a Keep"),
            ({"extension": b"\x04\x01\x00"}, [], 103, "cannot decode CMW"),
            ({"extension": b"garbage"}, [], 103, "cannot decode CMW"),
        ],
    )
    def test_refuses_each_for_its_own_reason(self, connect, steward, root, issued, argv, status, reason):
        ended, out, err = connect(steward.issue(**issued), root, *argv)
        assert ended == status
        assert reason in err
        assert not out.startswith("accepted")

    def test_refuses_a_foreign_root(self, connect, root):
        status, out, err = connect(FakeSteward(at=NOW).issue(), root)
        assert status == 104
        assert out.startswith("not authentic: ")
        assert "service.chain failed" in err

    def test_an_emulated_platform_is_said_before_anything_else(self, connect, steward, root):
        shown = steward.issue(emulated=True)
        status, out, err = connect(shown, root, "--insecure-accept-emulated")
        assert status == 0
        assert out.startswith("accepted: EMULATED localhost:")
        for text in (out, err):
            assert "EMULATED: this platform is software; nothing here protects data in use" in text
        status, out, _ = connect(shown, root, "--json")
        assert status == 105
        assert json.loads(out)["emulated"] is True

    def test_the_name_may_be_another_than_the_address(self, connect, steward, root):
        shown = steward.issue(names=["keep.example"])
        assert connect(shown, root, "--server-name=keep.example", host="127.0.0.1")[0] == 0
        assert connect(shown, root, "--server-name=other.example", host="127.0.0.1")[0] == 104

    def test_says_that_a_policy_is_for_something_else(self, connect, steward, root, policy):
        status, _, err = connect(steward.issue(), root, policy)
        assert status == 0
        assert "this was judged by the Steward" in err

    def test_nothing_from_a_certificate_reaches_the_terminal_as_it_is(self, connect, steward, root):
        shown = steward.issue(developer="\x1b[31mred", build="\x07")
        _, out, err = connect(shown, root, "--explain")
        assert all(each.isprintable() for each in (out + err).replace("\n", ""))


class TestSelfSigned:
    def test_accepts_a_key_alone_only_where_that_is_said(self, connect, amd, policy):
        shown = make_self_signed_keep(amd, at=NOW)
        status, out, err = connect(shown, policy, PACKAGE, "--offline")
        assert status == 105
        assert out.startswith("refused: ")
        assert "key-only, not fresh" in err
        assert "--accept-key-only" in err
        status, out, err = connect(shown, policy, PACKAGE, "--offline", "--accept-key-only")
        assert status == 0
        assert "fresh     no: key-only" in out
        assert "EMULATED" in out

    def test_is_one_document_for_programs(self, connect, amd, policy):
        status, out, _ = connect(make_self_signed_keep(amd, at=NOW), policy, "--offline", "--json")
        document = json.loads(out)
        assert status == 105
        assert document["presents"] == "self-signed certificate with evidence"
        assert document["fresh"] is False
        assert document["steward-result"] is None
        assert document["result"]["tee"] == "snp"

    @pytest.mark.parametrize(
        ("argv", "status", "reason"),
        [
            (["--accept-key-only"], 105, "service.package failed"),
            (["--accept-key-only", f"--package={'00' * 32}"], 105, "service.package failed"),
            (["--accept-key-only", PACKAGE, f"--tenant={'00' * 48}"], 105, "service.tenant failed"),
            (["--accept-key-only", PACKAGE, "--at=2037-01-01"], 104, "service.time failed"),
        ],
    )
    def test_refuses_each_for_its_own_reason(self, connect, amd, policy, argv, status, reason):
        ended, _, err = connect(make_self_signed_keep(amd, at=NOW), policy, "--offline", *argv)
        assert ended == status
        assert reason in err

    def test_refuses_evidence_that_was_copied(self, connect, amd, policy):
        other = make_self_signed_keep(amd, at=NOW)
        shown = make_self_signed_keep(amd, at=NOW, key=other.key)
        status, _, err = connect(shown, policy, PACKAGE, "--offline", "--accept-key-only")
        assert status == 104
        assert "snp.report_data failed" in err

    def test_does_not_take_it_for_a_stewards(self, connect, amd, policy, root):
        status, _, err = connect(make_self_signed_keep(amd, at=NOW), policy, root, PACKAGE, "--offline")
        assert status == 104
        assert "service.chain failed" in err

    def test_the_installations_own_policy_applies_where_none_is_named(self, connect, amd):
        shown = make_self_signed_keep(amd, at=NOW)
        status, out, err = connect(shown, PACKAGE, "--offline", "--accept-key-only")
        assert status == 104
        assert "policy default (images of this installation)" in out
        assert "--insecure-accept-emulated" in err

    def test_cannot_decide_without_the_vendors_word(self, connect, amd, policy):
        shown = make_self_signed_keep(amd, at=NOW, with_endorsements=False)
        status, _, err = connect(shown, policy, PACKAGE, "--offline", "--accept-key-only")
        assert status == 106
        assert "without --offline" in err


class TestArguments:
    @pytest.mark.parametrize(
        "argv",
        [
            ["localhost"],
            ["localhost:*"],
            ["localhost:0"],
            [":443"],
            ["localhost:1", "--package=00"],
            ["localhost:1", f"--package={'0' * 63}x"],
            ["localhost:1", f"--tenant={'00' * 32}"],
            ["localhost:1", "--steward-root=/nowhere"],
            ["localhost:1", "--policy=/nowhere"],
            ["localhost:1", "--at=soon"],
            ["localhost:1", "--timeout=never"],
            ["localhost:1", "--insecure-accept-emulated=00"],
            ["localhost:1", "--explain", "--json"],
            ["localhost:1", "--server-name=no..name"],
        ],
    )
    def test_refuses_what_it_cannot_do(self, capfd, argv):
        assert main(["attest", "connect", *argv]) == 2
        assert capfd.readouterr().out == ""

    def test_refuses_a_root_with_a_key_alone(self, capfd, root):
        assert main(["attest", "connect", "localhost:1", root, "--accept-key-only"]) == 2
        assert "want one of them" in capfd.readouterr().err

    def test_says_that_nobody_is_there(self, capfd):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert main(["attest", "connect", f"127.0.0.1:{port}"]) == 107
        assert f"enarx: cannot connect to 127.0.0.1:{port}: connection refused" in capfd.readouterr().err

    def test_waits_no_longer_than_it_is_told(self, capfd):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert main(["attest", "connect", f"127.0.0.1:{listener.getsockname()[1]}", "--timeout=0.2s"]) == 107
        assert "within 0.2 s" in capfd.readouterr().err
