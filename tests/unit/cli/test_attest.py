# SPDX-License-Identifier: Apache-2.0
"""`enarx attest inspect|verify` in this process: what they print, and what they make of arguments and of the clock."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.cli import attest, main
from enarx.cli.attest_text import compare, explain, show_claims, summarise
from enarx.crypto.certificates import load_pem_chain_untrusted
from enarx.endorsers.at_hand import platform_of
from enarx.errors import DecodeError, UsageError
from enarx.rats import (
    AttestationResult,
    Check,
    Concern,
    Endorsements,
    Evidence,
    Finding,
    OneOf,
    Outcome,
    TrustAnchors,
)
from enarx.testing.dcap import AT as INTEL_AT
from enarx.testing.dcap import SGX, TDX, EnclaveReport, FakeIntel, Platform, TdReport
from enarx.testing.endorsers import FakeVendors
from enarx.testing.snp import FakeAmd
from enarx.verifier import recognise
from enarx.verifier.endorsement_files import read_endorsements
from enarx.wire.ear import Tier, verify_ear_jwt
from tests.attesting import NOW, write_files
from tests.evidence import cases, evidence_path, needs_evidence, read

AUTHENTIC = Check("x.signature", "it is signed", Concern.AUTHENTICITY, "a document")
ACCEPTABLE = Check("x.debug", "it cannot be debugged", Concern.APPRAISAL, "a document")
AT = datetime(2026, 6, 1, tzinfo=UTC)
HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\nnew line\u202e\x00"


class Claims(dict):
    def named(self):
        return self


def make_result(*findings, **values):
    return AttestationResult(
        **{"tee": "snp", "subject": Claims(), "findings": findings, "at": AT, "policy_name": "p.toml"} | values
    )


def finding(outcome=Outcome.FAILED, expected=0, found=1, check=ACCEPTABLE, source="policy p: x", anchor=None):
    return Finding(check, outcome, expected, found, source, anchor)


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture
def files(tmp_path, amd):
    return write_files(tmp_path / "case", amd)


@pytest.fixture
def run(capfd):
    def call(*argv):
        capfd.readouterr()
        status = main(["attest", *map(str, argv)])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def verify(run, files, *more):
    return run(
        "verify", files.report, "--endorsements", files.certificates, "--policy", files.policy, "--offline", *more
    )


class TestText:
    def test_says_verdict_trust_time_and_checks(self):
        result = make_result(
            finding(Outcome.PASSED, check=AUTHENTIC),
            chains=(("ROOT", "CA", "the report"),),
            tcb_status="OutOfDate",
            advisory_ids=("INTEL-SA-1",),
            valid_until=AT,
        )
        text = summarise(result, "a quote", ("JSON", "text"))
        assert text.splitlines() == [
            "accepted: a quote (in text, in JSON)",
            "  trust     ROOT > CA > the report",
            "  tcb       OutOfDate (INTEL-SA-1)",
            "  policy    p.toml",
            "  time      judged for 2026-06-01T00:00:00Z, valid until 2026-06-01T00:00:00Z",
            "  checks    1 passed",
        ]
        assert "EMULATED" in summarise(make_result(emulated=True), "a report")

    def test_explains_what_failed_or_else_everything(self):
        result = make_result(
            finding(Outcome.PASSED, check=AUTHENTIC, anchor="ROOT, 00ff"),
            finding(),
            finding(Outcome.UNDECIDED, found=None),
        )
        short, long = (explain(result, everything=everything, colour=False) for everything in (False, True))
        assert "x.signature" not in short
        assert short.count("x.debug: it cannot be debugged") == 2
        assert "      found     none\n      expected  0\n      source    policy p: x" in short
        assert long.startswith("Is it authentic?\n  ✓ x.signature: it is signed\n")
        assert "      anchor    ROOT, 00ff" in long

    def test_colours_only_when_asked(self):
        result = make_result(finding())
        assert "\x1b[31m✗\x1b[0m" in explain(result, everything=True, colour=True)
        assert "\x1b" not in explain(result, everything=True, colour=False)
        assert summarise(result, "x", colour=True).startswith("\x1b[1;31mrefused\x1b[0m: x")

    def test_no_text_of_others_reaches_the_terminal_as_it_is(self):
        result = make_result(
            finding(found=HOSTILE, expected=OneOf(HOSTILE), source=HOSTILE, anchor=HOSTILE),
            chains=((HOSTILE, "x"),),
            tcb_status=HOSTILE,
            advisory_ids=(HOSTILE,),
            policy_name=HOSTILE,
        )
        for text in (
            summarise(result, "x"),
            explain(result, everything=True, colour=False),
            show_claims({HOSTILE: HOSTILE, "inner": {HOSTILE: [HOSTILE]}, "list": [{HOSTILE: HOSTILE}]}),
        ):
            assert all(each.isprintable() for each in text.replace("\n", ""))
            assert "red" in text

    def test_shows_where_two_long_values_differ(self):
        same = "0" * 500
        found, expected = compare(same + "a" + same, same + "b" + same, 160)
        assert found != expected
        assert (found[0], found[-1]) == ("…", "…")
        assert found.index("a") == expected.index("b") < 30
        assert len(found) <= 160
        assert compare(same, "", 160) == ("0" * 158 + "…", "")
        assert compare("a", "b", 160) == ("a", "b")
        assert compare("a" + same, "b" + same, 160)[0].startswith("a0")
        assert compare(same, same[:-1], 160)[1].endswith("0")
        assert compare(same + "x", same, 160)[0].endswith("x")

    def test_a_value_that_failed_is_shown_to_its_end(self):
        text = explain(
            make_result(finding(found=bytes(200), expected=bytes(199) + b"\1")), everything=False, colour=False
        )
        assert "0" * 400 + "\n" in text
        assert "0" * 398 + "01\n" in text


class TestTime:
    @pytest.mark.parametrize(
        ("text", "time"),
        [
            ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
            ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
            ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
            ("2020-01-01", datetime(2020, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_reads(self, text, time):
        assert attest.time_of(text) == time

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("2019-12-31T23:59:59Z", "2019-12-31, want 2020 or later"),
            ("2020-01-01T00:00:00+01:00", "2019-12-31"),
            ("yesterday", "yesterday, want a time"),
            ("", "want a time"),
            ("0001-01-01T00:00:00+10:00", "want a time"),
            ("9999-12-31T23:59:59-10:00", "want a time"),
            ("1767225600", "want a time"),
        ],
    )
    def test_refuses(self, run, files, text, found):
        status, out, err = verify(run, files, "--at", text)
        assert (status, out) == (2, "")
        assert f"--at: found {found}" in err or found in err
        assert err.splitlines()[1].startswith("hint: ")

    def test_refuses_a_clock_that_is_not_set(self, run, files, monkeypatch):
        monkeypatch.setattr("time.time", lambda: 86400.0)
        status, out, err = verify(run, files)
        assert (status, out) == (108, "")
        assert err.splitlines() == [
            "enarx: cannot verify: this machine's clock: found 1970-01-02, want 2020 or later",
            "hint: set the clock, or say which time to judge for: --at 2026-01-31T00:00:00Z",
        ]
        # With a time of one's own the clock does not matter.
        assert verify(run, files, "--at", NOW.isoformat())[0] == 0


class TestVerdicts:
    def test_accepts_and_says_that_it_is_emulated(self, run, files):
        status, out, err = verify(run, files)
        assert status == 0
        assert out.startswith("accepted: AMD SEV-SNP report version 3\n  EMULATED")
        assert err == "enarx: EMULATED: this platform is software; nothing here protects data in use\n"

    def test_says_what_no_policy_means(self, run, files):
        status, _, err = run("verify", files.report, "--offline")
        assert status == 106
        assert "no policy was given" not in err
        assert "leave out --offline" in err

    def test_hints_at_another_chips_certificate(self, run, files, tmp_path, amd):
        other = write_files(tmp_path / "other", amd, chip="another")
        status, out, err = run(
            "verify", files.report, "--endorsements", other.certificates, "--policy", files.policy, "--offline"
        )
        assert status == 104
        assert "snp.vek.hwid" in out
        assert "hint: the certificate is another chip's" in err

    def test_names_no_option_that_was_given(self, run, files):
        status, _, err = run("verify", files.report, "--endorsements", files.certificates, "--offline", "--explain")
        assert status == 104
        assert "hint" not in err

    @pytest.mark.parametrize("two", [("--json", "--explain"), ("--explain", "--ear"), ("--json", "--ear")])
    def test_prints_one_thing(self, run, files, two):
        one, other = sorted(two, key=("--explain", "--json", "--ear").index)
        status, out, err = verify(run, files, one, other, *(["key.pem"] if other == "--ear" else []))
        assert (status, out) == (2, "")
        assert f"found {one} and {other}, want one of them" in err

    @pytest.mark.parametrize(
        ("value", "found"), [("xyz", "xyz"), ("", "0 bytes"), ("00" * 65, "65 bytes"), ("0", "0, want hex")]
    )
    def test_refuses_report_data(self, run, files, value, found):
        status, _, err = verify(run, files, "--report-data", value)
        assert status == 2
        assert f"--report-data: found {found}" in err

    @pytest.mark.parametrize("prefix", ["", "0x"])
    def test_requires_report_data_whatever_the_policy_says(self, run, tmp_path, amd, prefix):
        files = write_files(tmp_path / "fresh", amd, report={"report_data": bytes(range(64))})
        assert verify(run, files, "--report-data", prefix + bytes(range(64)).hex())[0] == 0
        status, out, _ = verify(run, files, "--report-data", prefix + bytes(64).hex())
        assert status == 105
        assert "snp.report_data" in out
        assert "the caller's expectation" in out


class TestEar:
    @pytest.mark.parametrize(
        "make", [lambda: ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate]
    )
    def test_signs_a_result(self, run, tmp_path, amd, make):
        files = write_files(tmp_path / "fresh", amd, report={"report_data": bytes(range(64))})
        key = make()
        path = tmp_path / "key.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        given = ("--ear", path, "--report-data")
        status, out, _ = verify(run, files, *given, bytes(range(64)).hex())
        assert status == 0
        ear = verify_ear_jwt(out.strip(), [key.public_key()], at=NOW + timedelta(hours=12))
        (appraisal,) = ear.submods.values()
        assert ear.nonce == appraisal.nonce == bytes(range(64))
        assert appraisal.status is Tier.WARNING
        assert appraisal.verifier_claims["enarx_emulated"] is True
        # A result that is a no is signed too, and vouches for no nonce.
        status, out, _ = verify(run, files, *given, bytes(64).hex())
        assert status == 105
        ear = verify_ear_jwt(out.strip(), [key.public_key()], at=NOW + timedelta(hours=12))
        (appraisal,) = ear.submods.values()
        assert (ear.nonce, appraisal.nonce) == (bytes(64), None)
        assert appraisal.status is Tier.CONTRAINDICATED

    def test_refuses_a_key_that_is_none(self, run, files, tmp_path):
        path = tmp_path / "key.pem"
        assert verify(run, files, "--ear", path)[0] == 2
        path.write_bytes(b"no key")
        assert verify(run, files, "--ear", path)[0] == 2
        key = rsa.generate_private_key(65537, 2048)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        status, out, err = verify(run, files, "--ear", path)
        assert (status, out) == (2, "")
        assert "want one on P-256, P-384 or Ed25519" in err


class TestEndorsements:
    def test_takes_a_folder_and_says_what_it_leaves_out(self, run, files):
        status, _, err = run(
            "verify", files.report, "--endorsements", files.report.parent, "--policy", files.policy, "--offline"
        )
        assert status == 0
        assert "left out" in err
        assert "report.bin" in err
        assert "policy.toml" in err

    def test_refuses_a_named_file_that_is_none(self, files):
        with pytest.raises(DecodeError, match=r"report\.bin: found none of the known formats"):
            attest.read_paths([str(files.report)])

    def test_refuses_too_many(self, tmp_path, monkeypatch):
        for number in range(3):
            (tmp_path / str(number)).write_bytes(b"x" * 100)
        monkeypatch.setattr(attest, "_MAX_FILES", 2)
        with pytest.raises(UsageError, match="more than 2 files"):
            attest.read_paths([str(tmp_path)])
        monkeypatch.setattr(attest, "_MAX_FILES", 3)
        monkeypatch.setattr(attest, "_MAX_FILES_BYTES", 299)
        with pytest.raises(UsageError, match="or 299 bytes"):
            attest.read_paths([str(tmp_path)])

    def test_refuses_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("os.listdir", refuse)
        with pytest.raises(UsageError, match="Permission denied"):
            attest.read_paths([str(tmp_path)])

    def test_none_are_none(self):
        assert attest.read_paths([]).certificates == ()


def test_a_timeout_of_none_is_told_what_happens_without_one(run, tmp_path):
    path = tmp_path / "evidence"
    path.write_bytes(b"x")
    status, _, err = run("verify", path, "--timeout", "0s")
    assert status == 2
    assert "60s" in err


class TestFetching:
    @pytest.fixture
    def fetch(self, run, tmp_path, monkeypatch):
        """Judge a quote now, whenever that is, with a cache of this test and what is at one address."""

        def call(quote, url, at, *more, timeout="2s"):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
            monkeypatch.setattr("time.time", at.timestamp)
            path = tmp_path / "quote"
            path.write_bytes(quote)
            return run("verify", path, "--intel-pcs", url, "--timeout", timeout, *more)

        return call

    @pytest.mark.parametrize(("tee", "body"), [(TDX, TdReport()), (SGX, EnclaveReport())])
    def test_collateral_of_intel_is_fetched_once(self, fetch, monkeypatch, tee, body):
        intel, platform = FakeIntel(), Platform()
        monkeypatch.setattr("enarx.verifier.pinned_anchors", lambda: TrustAnchors(intel=(intel.root.der,)))
        quote = intel.make_quote(body, platform)
        with FakeVendors() as vendors:
            # Where nothing is found there is no time here to ask again.
            status, _, err = fetch(quote, vendors.url, INTEL_AT, timeout="500ms")
            assert (status, "hint: " in err) == (106, True)
            vendors.serve_collateral(tee.lower(), platform.fmspc, "platform", intel.make_collateral(tee, platform))
            vendors.asked.clear()
            status, out, err = fetch(quote, vendors.url, INTEL_AT)
            assert status == 0, err
            assert "  tcb       UpToDate\n" in out
            assert len(vendors.asked) == 4
            assert fetch(quote, vendors.url, INTEL_AT)[0] == 0
            assert len(vendors.asked) == 4
        # What is kept outlasts the service, and does not go stale silently.
        status, out, _ = fetch(quote, vendors.url, INTEL_AT + timedelta(days=60), timeout="500ms")
        assert status == 106
        assert out.startswith("undecided: ")

    @needs_evidence
    def test_collateral_of_a_real_quote_is_fetched(self, fetch):
        (case, *_) = (each for each in cases("tdx") if each["verdict"] == "valid" and "tcb_info" in each["inputs"])
        names = [name for key, name in case["inputs"].items() if key != "quote"]
        (gathered,) = read_endorsements([(name, read(name)) for name in names]).intel
        chains = ("tcb_info", "qe_identity", "pck_crl")
        collateral = replace(
            gathered,
            **{
                f"{name}_chain": load_pem_chain_untrusted(read(case["inputs"][f"{name}_issuer_chain"]))
                for name in chains
            },
        )
        quote = read(case["inputs"]["quote"])
        fmspc, authority = platform_of(recognise(Evidence(data=quote)).parsed.quote, Endorsements())
        with FakeVendors() as vendors:
            vendors.serve_collateral("tdx", fmspc, authority, collateral)
            status, out, err = fetch(quote, vendors.url, datetime.fromisoformat(case["eval_time"]))
        assert status == 0, err
        assert f"  tcb       {case['tcb_status']}" in out


class TestInspect:
    def test_shows_a_report(self, run, files):
        status, out, err = run("inspect", files.report)
        assert status == 0
        assert out.startswith("format: AMD SEV-SNP report version 3\n")
        assert f"chip_id: {files.case.report.chip_id.hex()}" in out
        assert err == "enarx: decoded only: nothing here was verified\n"

    def test_shows_certificates_and_lists(self, run, files):
        status, out, _ = run("inspect", files.certificates)
        assert status == 0
        assert out.count("certificates:") == 3
        assert "  subject: CN=ARK-Milan" in out
        status, out, _ = run("inspect", files.crl, "--json")
        assert status == 0
        assert json.loads(out)["crls"][0]["issuer"].startswith("CN=ARK-Milan")

    def test_shows_a_token_and_believes_nothing(self, run, tmp_path):
        path = tmp_path / "token"
        parts = [json.dumps(each).encode() for each in ({"alg": "none"}, {"iss": HOSTILE, "big": 10**30})]
        path.write_bytes(b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in [*parts, b"sig"]))
        status, out, _ = run("inspect", path)
        assert status == 0
        assert "format: JSON Web Token" in out
        assert "\x1b" not in out
        status, out, _ = run("inspect", path, "--json")
        assert json.loads(out)["claims"]["iss"] == HOSTILE

    def test_shows_a_token_nested_deeply_as_far_as_it_shows_anything(self, run, tmp_path):
        path = tmp_path / "token"
        parts = [b"{}", b'{"a":' * 60 + b"1" + b"}" * 60]
        path.write_bytes(b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in [*parts, b"sig"]))
        status, out, _ = run("inspect", path, "--json")
        assert status == 0
        assert "nested too deeply to show" in out
        parts[1] = b'{"a":' * 100_000
        path.write_bytes(b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in [*parts, b"sig"]))
        assert run("inspect", path)[0] == 103

    def test_refuses_what_it_does_not_know(self, run, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(b"Salted__\x12\x34\x56\x78\x9a\xbc\xde\xf0\xff")
        status, out, err = run("inspect", path)
        assert (status, out) == (103, "")
        assert "format: found none that is known" in err
        assert "encrypted file has to be decrypted first" in err

    @needs_evidence
    @pytest.mark.parametrize(
        ("name", "format_name"),
        [
            ("snp/milan-v2-virtee/report.hex", "AMD SEV-SNP report version 2"),
            ("nitro/anjuna-2021/document.cbor", "AWS Nitro attestation document"),
            ("enarx/milan.signed.crl.csr", "AMD SEV-SNP report version 2"),
        ],
    )
    def test_shows_real_evidence(self, run, name, format_name):
        status, out, _ = run("inspect", evidence_path(name), "--json")
        assert status == 0
        assert json.loads(out)["format"] == format_name

    def test_zeros_are_nothing(self, run, tmp_path):
        path = tmp_path / "zeros"
        path.write_bytes(bytes(100))
        assert run("inspect", path)[0] == 103

    @needs_evidence
    def test_shows_a_log_of_old_firmware(self, run):
        status, out, _ = run("inspect", evidence_path("tpm/eventlog/debian-10.bin"))
        assert status == 0
        assert out.startswith("format: TCG event log\n")
