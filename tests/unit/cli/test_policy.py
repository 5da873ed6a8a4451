# SPDX-License-Identifier: Apache-2.0
"""`enarx policy init|check`: what they write, print and end with."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from enarx.cli import main
from enarx.cli.policy import _TEES, load_policy
from enarx.errors import ConfigError, DecodeError, UsageError
from enarx.image import measure_process, package_folder
from enarx.rats import Check, Concern
from enarx.verifier import Recognised
from enarx.verifier.ledger import Examined, Judge
from enarx.verifier.policy_keys import OF_ONE_GUEST, OF_ONE_MACHINE, OF_WHOEVER_SIGNED
from enarx.verifier.registry import SECTIONS, judge_of
from enarx.wire.corim import ENVIRONMENTS, Digest, Measurement, ReferenceValue, ReferenceValueSet, sign_corim
from tests.unit.verifier.policy_rules import RULES, SNP_TEXT, snp_part

TOP = Path(__file__).parents[3]
SIGNATURE = Check("snp.report.signature", "the report is signed", Concern.AUTHENTICITY, "test")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("enarx.verifier.policy_toml.judge_of", lambda section: Judge(section, None, RULES[section]))
    return tmp_path


@pytest.fixture
def evidence(here, monkeypatch):
    """Return a function that makes evidence of claims, and whether it is authentic: True, False or None."""

    def make(part=None, *, authentic=True, name="report.bin"):
        def examine(parsed, endorsements, setting, ledger):
            if authentic is None:
                ledger.doubt(SIGNATURE, expected="a VCEK", found=None, source="test")
            else:
                ledger.require(SIGNATURE, authentic, expected="a signature", found="one", source="test")
            return Examined((part or snp_part(),), "snp")

        monkeypatch.setattr("enarx.verifier.recognise", lambda evidence: Recognised("snp", "a test report", None))
        monkeypatch.setattr("enarx.verifier.registry.judge_of", lambda section: Judge(section, examine, RULES[section]))
        (here / name).write_bytes(b"evidence")
        return name

    return make


def run(capfd, *argv):
    status = main(["policy", *argv])
    out, err = capfd.readouterr()
    return status, out, err


def refused(result, status, *words):
    found, out, err = result
    assert found == status, err
    assert err.splitlines()[0].startswith("enarx: ")
    assert len(err.splitlines()) <= 2, err
    for word in words:
        assert word in err
    assert out == ""


def test_init_writes_what_has_to_be_filled_in(here, capfd):
    status, out, err = run(capfd, "init", "p.toml", "--tee", "sgx", "--tee", "snp")
    assert (status, out) == (0, "")
    text = (here / "p.toml").read_text()
    assert text.index("[snp]") < text.index("[sgx]")
    assert "enarx: fill in before it can be used: snp.measurement, snp.chip_id, sgx.mrsigner, sgx.isv_svn\n" in err
    assert "hint: enarx policy check p.toml\n" in err
    with pytest.raises(ConfigError):
        load_policy("p.toml")


def test_init_from_evidence_is_complete(capfd, evidence):
    status, out, err = run(capfd, "init", "p.toml", "--from-evidence", evidence())
    assert (status, out) == (0, "")
    assert "fill in" not in err
    assert "taken on your word" not in err
    assert load_policy("p.toml").tees == {"snp"}


def test_init_from_evidence_of_one_tee_and_another_tee(capfd, evidence):
    status, _, err = run(capfd, "init", "p.toml", "--from-evidence", evidence(), "--tee", "snp", "--tee", "nitro")
    assert status == 0
    assert "fill in before it can be used: nitro.pcrs.pcr0\n" in err


def test_init_refuses_evidence_that_is_not_authentic(here, capfd, evidence):
    refused(
        run(capfd, "init", "p.toml", "--from-evidence", evidence(authentic=False)),
        104,
        "not authentic: snp.report.signature failed",
    )
    assert not (here / "p.toml").exists()


def test_init_says_when_authenticity_is_undecided(capfd, evidence):
    status, _, err = run(capfd, "init", "p.toml", "--from-evidence", evidence(authentic=None))
    assert status == 0
    assert "enarx: taken on your word: whether report.bin is authentic is undecided: snp.report.signature" in err


def test_init_from_an_image(here, capfd):
    (here / "image.json").write_text(json.dumps({"reference_values": {"snp": {"measurement": ["ab" * 48]}}}))
    status, _, err = run(capfd, "init", "p.toml", "--from-image", "image.json")
    assert status == 0
    assert "fill in before it can be used: snp.chip_id\n" in err
    assert "# Reference values: the image manifest 'image.json'" in (here / "p.toml").read_text()


def test_init_from_an_installed_image(here, capfd, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(here))
    platform = here / "enarx/emulated-platform"
    platform.mkdir(parents=True, mode=0o700)
    (platform / "ark.der").write_bytes(b"root")
    argv = ("init", "p.toml", "--image", "process", "--insecure-accept-emulated")
    status, _, err = run(capfd, *argv, f"--insecure-accept-emulated={'AB' * 32}")
    assert status == 0
    assert "which accepts snp" in err
    text = (here / "p.toml").read_text()
    assert f'measurement = ["{measure_process(package_folder()).hex()}"]' in text
    assert "# Reference values: the installed image 'process'" in text
    roots = sorted((hashlib.sha256(b"root").hexdigest(), "ab" * 32))
    assert tomllib.loads(text)["insecure_emulated_roots"] == roots


def test_init_without_an_emulated_platform_of_its_own(here, capfd, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(here))
    argv = ("init", "p.toml", "--image", "process", "--insecure-accept-emulated")
    refused(run(capfd, *argv), 108, "this installation's emulated platform: found none")


@pytest.fixture
def corim(here):
    """Write a signed CoRIM and its signer's public key, and return the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    measurement = Measurement(key="measurement", digests=(Digest("sha-384", b"\xab" * 48),))
    values = ReferenceValueSet(
        id="image", values=(ReferenceValue(environment=ENVIRONMENTS["snp"], measurements=(measurement,)),)
    )
    (here / "r.corim").write_bytes(sign_corim(values, key, signer="maker"))
    (here / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def test_init_from_a_signed_corim(here, capfd, corim):
    status, _, err = run(capfd, "init", "p.toml", "--corim", "r.corim", "--corim-key", "key.pem")
    assert status == 0
    assert "fill in before it can be used: snp.chip_id\n" in err
    text = (here / "p.toml").read_text()
    assert "# Reference values: 'r.corim', signed by 'maker'" in text
    assert f"# from 'r.corim'\nmeasurement = [\"{'ab' * 48}\"]" in text


def test_init_takes_the_key_of_a_certificate(here, capfd, corim):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, corim.public_key(), 1, at, at.replace(year=2027))
    (here / "cert.pem").write_bytes(builder.sign(corim, SHA256()).public_bytes(Encoding.PEM))
    assert run(capfd, "init", "p.toml", "--corim", "r.corim", "--corim-key", "cert.pem")[0] == 0


def test_init_refuses_a_corim_of_another_signer(here, capfd, corim):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (here / "key.pem").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    refused(run(capfd, "init", "p.toml", "--corim", "r.corim", "--corim-key", "key.pem"), 104, "signature: found none")
    assert not (here / "p.toml").exists()


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAA==\n", b"-----BEGIN PUBLIC KEY-----\n" * 9999]
)
def test_init_refuses_what_is_no_key(here, capfd, corim, pem):
    (here / "key.pem").write_bytes(pem)
    refused(run(capfd, "init", "p.toml", "--corim", "r.corim", "--corim-key", "key.pem"), 103, "found no public key")


def test_init_refuses_a_key_of_another_kind(here, capfd, corim):
    key = rsa.generate_private_key(65537, 2048).public_key()
    (here / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    refused(run(capfd, "init", "p.toml", "--corim", "r.corim", "--corim-key", "key.pem"), 103, "for ECDSA or Ed25519")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["p.toml"], "found no TEE to accept, want one"),
        (["p.toml", "--tee", "sev"], "--tee: found sev, want one of snp, tdx"),
        (["p.toml", "--from-image", "a", "--from-evidence", "b"], "found --from-evidence and --from-image"),
        (["p.toml", "--image", "other"], "cannot open an image: other: found no such image"),
        (["p.toml", "--image", "process", "--from-image", "a"], "found --from-image and --image, want one of them"),
        (["p.toml", "--image", "process", "--insecure-accept-emulated=x"], "found 'x', want the SHA-256"),
        (["p.toml", "--image", "process", "--insecure-accept-emulated=ab"], "found 'ab', want the SHA-256"),
        (["p.toml", "--tee", "sgx", f"--insecure-accept-emulated={'ab' * 32}"], "without snp, want both or neither"),
        (["p.toml", "--tee", "snp", "--corim", "a"], "found one of --corim and --corim-key"),
        (["p.toml", "--tee", "snp", "--corim-key", "a"], "found one of --corim and --corim-key"),
        (["p.toml", "--from-image", "gone.json"], "cannot read gone.json: No such file"),
        (["p.toml", "--from-evidence", "gone.bin"], "cannot read gone.bin: No such file"),
        (["gone/p.toml", "--tee", "snp"], "cannot write gone/p.toml: No such file"),
        ([], "found operands none, want FILE"),
    ],
)
def test_init_refuses(here, capfd, argv, words):
    refused(run(capfd, "init", *argv), 2, words)
    assert not (here / "p.toml").exists()


def test_the_tees_of_the_command_are_those_of_the_verifier():
    """The help is printed without the verifier, so that they stand in two places."""
    assert _TEES == SECTIONS


def test_keys_that_are_treated_apart_exist(monkeypatch):
    monkeypatch.undo()
    keys = {rule.key for section in SECTIONS for rule in judge_of(section).rules}
    assert keys >= OF_ONE_GUEST | OF_ONE_MACHINE | OF_WHOEVER_SIGNED


def test_init_leaves_what_is_there(here, capfd):
    (here / "p.toml").write_text("mine")
    refused(run(capfd, "init", "p.toml", "--tee", "snp"), 2, "found one already, want none")
    assert (here / "p.toml").read_text() == "mine"


def test_check_of_a_good_policy(here, capfd):
    (here / "p.toml").write_text(SNP_TEXT)
    status, out, err = run(capfd, "check", "p.toml")
    assert (status, out) == (0, "")
    assert err == "enarx: p.toml can be used: it accepts snp\n"


def test_check_prints_every_problem_with_its_line(here, capfd):
    (here / "p.toml").write_text(SNP_TEXT.replace("vmpl = [0]", "vmlp = [0]"))
    status, out, err = run(capfd, "check", "p.toml")
    assert status == 2
    lines = out.splitlines()
    assert lines[0].startswith("error: p.toml:5: snp.vmlp: found an unknown key, want vmpl (the keys here are ")
    assert lines[1].startswith("error: p.toml:3: snp.vmpl: found nothing, want a list of numbers")
    assert err == "enarx: p.toml: found 2 errors, want none\n"


def test_check_prints_warnings_and_ends_well(here, capfd):
    (here / "p.toml").write_text(SNP_TEXT.replace("amd-2026-05", "amd-2025-02"))
    status, out, err = run(capfd, "check", "p.toml")
    assert status == 0
    assert out.startswith("warning: p.toml:10: snp.reported_tcb: found the preset amd-2025-02 of 2025-02-03, want")
    assert err == "enarx: p.toml can be used: it accepts snp; 1 warning\n"


def test_check_of_a_contradiction_ends_with_2(here, capfd):
    (here / "p.toml").write_text(SNP_TEXT.replace('debug = "forbidden"', 'debug = "required"'))
    status, out, err = run(capfd, "check", "p.toml")
    assert status == 2
    assert out.startswith("error: p.toml:13: snp.guest_policy.debug: ")
    assert err == "enarx: p.toml: found 1 error, want none\n"


def test_check_of_what_is_no_toml_is_an_error_as_everywhere(here, capfd):
    (here / "p.toml").write_text("= 1")
    refused(run(capfd, "check", "p.toml"), 2, "p.toml:1: syntax: ")


def test_check_with_evidence(here, capfd, evidence):
    (here / "p.toml").write_text(SNP_TEXT)
    status, out, _ = run(capfd, "check", "p.toml", "--evidence", evidence(snp_part(vmpl=1), authentic=False))
    assert status == 0
    assert "note: p.toml:5: snp.vmpl: this evidence is refused: found 1, want 0" in out
    assert "warning: p.toml:3: snp: found snp.measurement exactly as in this evidence" in out


def test_check_as_json(here, capfd, evidence):
    (here / "p.toml").write_text(SNP_TEXT)
    status, out, err = run(capfd, "check", "p.toml", "--json", "--evidence", evidence())
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["usable"] is True
    assert document["tees"] == ["snp"]
    assert document["presets"] == {"snp.reported_tcb": "amd-2026-05"}
    assert [(remark["level"], remark["key"], remark["line"]) for remark in document["remarks"]] == [
        ("warning", "snp", 3)
    ]


def test_check_of_a_bad_policy_as_json(here, capfd):
    (here / "p.toml").write_text("version = 1\n[nitro]\n")
    status, out, err = run(capfd, "check", "p.toml", "--json")
    assert (status, err) == (2, "")
    document = json.loads(out)
    assert document["usable"] is False
    assert document["tees"] is None
    assert [remark["key"] for remark in document["remarks"]] == ["nitro.pcrs.pcr0", "nitro.nonce"]


@pytest.mark.parametrize("argv", [["gone.toml"], ["."], [], ["a", "b"], ["p.toml", "--evidence", "gone.bin"]])
def test_check_refuses(here, capfd, argv):
    (here / "p.toml").write_text(SNP_TEXT)
    refused(run(capfd, "check", *argv), 2, "enarx: cannot ")


def test_load_policy(here):
    (here / "p.toml").write_text(SNP_TEXT)
    assert load_policy("p.toml").name == "p.toml"
    with pytest.raises(UsageError):
        load_policy("gone.toml")
    (here / "p.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="want at most 1000000"):
        load_policy("p.toml")


def test_help_loads_no_verifier(capfd):
    assert main(["policy", "init", "--help"]) == 0
    assert "enarx policy init policy.toml --tee snp" in capfd.readouterr().out


def test_the_tables_are_what_the_rules_say(monkeypatch):
    monkeypatch.undo()
    page = (TOP / "docs/policy.md").read_text(encoding="utf-8")
    render = runpy.run_path(str(TOP / "tools/make_docs.py"))["render"]
    assert render(page) == page, "run: make docs"


def test_the_file_is_for_its_owner_to_show(here, capfd):
    """A policy is no secret: it is written like any other file."""
    old = os.umask(0o022)
    try:
        assert run(capfd, "init", "p.toml", "--tee", "snp")[0] == 0
    finally:
        os.umask(old)
    assert (here / "p.toml").stat().st_mode & 0o777 == 0o644


def test_evidence_that_is_none_is_a_decode_error(here, capfd, monkeypatch):
    def recognise(evidence):
        raise DecodeError("cannot decode the evidence: format: found none that is known")

    monkeypatch.setattr("enarx.verifier.recognise", recognise)
    (here / "x").write_bytes(b"x")
    refused(run(capfd, "init", "p.toml", "--from-evidence", "x"), 103, "found none that is known")
