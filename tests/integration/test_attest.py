# SPDX-License-Identifier: Apache-2.0
"""`enarx attest` as people and scripts meet it: real processes, every status, every kind of bad input, and a vendor to ask."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time

import pytest

from enarx.rats import MAX_EVIDENCE_BYTES
from enarx.testing.endorsers import FakeVendors
from enarx.testing.snp import FakeAmd
from tests.attesting import YESTERDAY, make_pem, make_policy_text, write_files
from tests.conftest import ENARX, TIMEOUT_S
from tests.evidence import cases, evidence_path, needs_evidence

EMULATED = "enarx: EMULATED: this platform is software; nothing here protects data in use\n"


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture(scope="module")
def files(tmp_path_factory, amd):
    return write_files(tmp_path_factory.mktemp("attest") / "case", amd, report={"report_data": bytes(range(64))})


@pytest.fixture
def verify(fresh, files):
    """Run `attest verify` with everything that the case needs, and more."""

    def run(*more, evidence=files.report, endorsements=files.certificates, policy=files.policy, **how):
        given = ["attest", "verify", evidence, "--endorsements", endorsements]
        return fresh.command(*given, *(("--policy", policy) if policy else ()), "--offline", *more, **how)

    return run


class TestStatus:
    def test_accepted_is_0(self, verify):
        ended = verify()
        assert (ended.status, ended.stderr) == (0, EMULATED)
        assert ended.stdout.decode().startswith("accepted: AMD SEV-SNP report version 3\n  EMULATED: ")

    def test_not_authentic_is_104(self, verify, files, tmp_path):
        data = bytearray(files.report.read_bytes())
        data[0x90] ^= 1
        (tmp_path / "forged").write_bytes(data)
        ended = verify(evidence=tmp_path / "forged")
        assert ended.status == 104
        first, hint = ended.stderr.replace(EMULATED, "").splitlines()
        assert first.startswith(
            "enarx: snp evidence is not authentic: snp.report.signature failed: found one that the VEK did"
        )
        assert hint == "hint: --explain shows every check"
        assert ended.stdout.startswith(b"not authentic: AMD SEV-SNP report version 3\n")
        assert "\u2717 snp.report.signature" in ended.stdout.decode()

    def test_an_emulated_root_that_no_policy_names_is_104(self, verify):
        ended = verify(policy=None)
        assert ended.status == 104
        assert b"snp.ark.pinned" in ended.stdout

    def test_refused_is_105_and_says_every_reason(self, verify, files, tmp_path):
        policy = tmp_path / "policy.toml"
        policy.write_text(
            make_policy_text(
                files.amd.root, guest_svn="200", vmpl="[3]", measurement=f'["{"11" * 48}"]', smt='"forbidden"'
            )
        )
        ended = verify(policy=policy)
        assert ended.status == 105
        assert ended.stdout.startswith(b"refused: ")
        failed = [line.split(":")[0].split()[1] for line in ended.stdout.decode().splitlines() if "\u2717" in line]
        assert failed == ["snp.vmpl", "snp.guest_policy.smt", "snp.measurement", "snp.guest_svn"]
        first, hint = ended.stderr.replace(EMULATED, "").splitlines()
        assert first.startswith(
            "enarx: snp evidence is authentic and refused: snp.vmpl failed: found 0, want 3 (policy "
        )
        assert first.endswith("(and 3 more)")
        assert hint.startswith("hint: ")

    def test_undecided_is_106(self, fresh, files):
        ended = fresh.command("attest", "verify", files.report, "--policy", files.policy, "--offline")
        assert ended.status == 106
        assert ended.stdout.startswith(b"undecided: ")
        assert (
            "hint: pass what is missing with --endorsements, or leave out --offline to have it fetched" in ended.stderr
        )

    def test_another_chips_endorsements_are_104(self, verify, files, tmp_path):
        other = write_files(tmp_path / "other", files.amd, chip="another")
        ended = verify(endorsements=other.certificates)
        assert ended.status == 104
        assert "\u2717 snp.vek.hwid: the VCEK is this chip's" in ended.stdout.decode()
        assert "hint: the certificate is another chip's" in ended.stderr

    def test_old_evidence_is_105_where_the_caller_expects_an_answer(self, verify):
        assert verify("--report-data", bytes(range(64)).hex()).status == 0
        ended = verify("--report-data", "00")
        assert ended.status == 105
        assert "snp.report_data failed" in ended.stderr


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", ("size: found 0 bytes, want 1 to 4194304",)),
            (bytes(MAX_EVIDENCE_BYTES + 1), (f"found more than {MAX_EVIDENCE_BYTES} bytes",)),
            (b"\3\0\0\0" + bytes(500), ("size: found 504 bytes, want 1184",)),
            (
                b"Salted__\x12\x34\x56\xff\xff",
                ("format: found none that is known", "an encrypted file has to be decrypted"),
            ),
            (b"{", ("want JSON",)),
            (b"\x1b]0;title\x07" * 30, ("format: found none that is known",)),
            (b'{"report": "00", "quote": "11"}', ("found 0 members that are evidence, want one",)),
        ],
    )
    def test_evidence_that_is_none_is_103(self, verify, tmp_path, content, words):
        (tmp_path / "evidence").write_bytes(content)
        verify(evidence=tmp_path / "evidence").refused(103, *words)

    def test_a_truncated_report_is_103(self, verify, files, tmp_path):
        (tmp_path / "report").write_bytes(files.report.read_bytes()[:1000])
        verify(evidence=tmp_path / "report").refused(103, "size: found 1000 bytes, want 1184")

    @pytest.mark.parametrize("name", ["report.json", "quote.pem", "report.bin.gpg", "\u202ename\n"])
    def test_a_name_means_nothing(self, verify, files, tmp_path, name):
        (tmp_path / name).write_bytes(files.report.read_bytes())
        assert verify(evidence=tmp_path / name).status == 0

    def test_evidence_that_cannot_be_read_is_2(self, verify, tmp_path):
        verify(evidence=tmp_path / "nothing").refused(
            2, "nothing: No such file or directory", "hint: pass a file, or -"
        )
        verify(evidence=tmp_path).refused(2, "Is a directory")

    def test_endorsements_that_are_none(self, verify, files, tmp_path):
        verify(endorsements=tmp_path / "nothing").refused(2, "cannot read endorsements: ", "No such file")
        (tmp_path / "words").write_text("just words")
        verify(endorsements=tmp_path / "words").refused(
            103, "words: found none of the known formats, want certificates"
        )
        (tmp_path / "words").write_bytes(files.certificates.read_bytes()[:700])
        verify(endorsements=tmp_path / "words").refused(103, "cannot read endorsements: ")

    def test_a_policy_that_is_none_is_2(self, verify, files, tmp_path):
        policy = tmp_path / "policy.toml"
        verify(policy=policy).refused(2, "policy.toml: No such file")
        policy.write_text("")
        verify(policy=policy).refused(2, "policy.toml: ", "hint: ")
        policy.write_text(files.policy.read_text().replace("\nvmpl = ", "\nvmlp = "))
        verify(policy=policy).refused(2, "policy.toml:", "vmlp", "vmpl")
        policy.write_text("version = [")
        verify(policy=policy).refused(2, "policy.toml")
        policy.write_bytes(bytes(10_000_000))
        verify(policy=policy).refused(2, "policy.toml")

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--at", "2019-06-01"], "--at: found 2019-06-01, want 2020 or later"),
            (["--at", "noon"], "--at: found noon, want a time"),
            (["--report-data", "xy"], "--report-data: found xy, want hex"),
            (["--json", "--explain"], "found --explain and --json, want one of them"),
            (["--polcy", "x"], "did you mean --policy?"),
            (["another"], "found operands"),
            (["--timeout", "soon"], "--timeout: found "),
            (["--html", "/nowhere/page.html"], "cannot write /nowhere/page.html"),
            (["--ear", "/nowhere/key.pem"], "cannot sign the result: /nowhere/key.pem"),
        ],
    )
    def test_arguments_that_make_no_sense_are_2(self, verify, more, words):
        ended = verify(*more)
        assert ended.status == 2
        assert ended.stdout == b""
        assert words in ended.stderr

    def test_an_address_that_is_none_is_2(self, fresh, files):
        for option in ("--amd-kds", "--intel-pcs", "--proxy"):
            ended = fresh.command("attest", "verify", files.report, option, "ftp://x")
            assert ended.status == 2, option
            assert "want http" in ended.stderr


class TestOutput:
    def test_json_is_one_document_and_nothing_else(self, verify, fresh, files):
        ended = verify("--json")
        document = json.loads(ended.stdout)
        assert (document["verdict"], document["emulated"], document["tee"]) == ("accepted", True, "snp")
        assert len(document["findings"]) > 60
        refused = verify("--json", "--report-data", "00")
        assert refused.status == 105
        assert json.loads(refused.stdout)["verdict"] == "refused"
        undecided = fresh.command("attest", "verify", files.report, "--offline", "--json")
        assert (undecided.status, json.loads(undecided.stdout)["verdict"]) == (106, "undecided")

    def test_explain_shows_every_check(self, verify):
        text = verify("--explain").stdout.decode()
        document = json.loads(verify("--json").stdout)
        for finding in document["findings"]:
            assert f" {finding['id']}: {finding['title']}\n" in text
        assert text.index("Is it authentic?") < text.index("Is it acceptable?")
        assert "      expected  " in text
        assert "      source    " in text
        assert "      anchor    ARK-Milan, " in text

    def test_html_is_a_page_beside_the_text(self, verify, tmp_path):
        ended = verify("--html", tmp_path / "page.html")
        assert ended.status == 0
        assert ended.stdout.startswith(b"accepted: ")
        page = (tmp_path / "page.html").read_text()
        assert "<h1>Accepted, and emulated</h1>" in page
        assert "<li><span>SEV-Milan</span></li>" in page

    def test_reads_standard_input(self, verify, files):
        assert verify(evidence="-", stdin=files.report.read_bytes()).status == 0
        assert verify(evidence="-", stdin=files.report.read_bytes().hex().encode()).status == 0
        verify(evidence="-").refused(103, "size: found 0 bytes")

    def test_nothing_in_evidence_moves_a_cursor(self, fresh, tmp_path):
        token = b".".join([b"e30", b"eyJhIjoiXHUwMDFiWzMxbSBcdTAwMDcgXHUyMDJlIn0", b"c2ln"])
        ended = fresh.command("attest", "inspect", "-", stdin=token)
        assert ended.status == 0
        assert b"a: \xef\xbf\xbd[31m" in ended.stdout
        assert all(each.isprintable() for each in ended.stdout.decode().replace("\n", ""))
        ended = fresh.command("attest", "inspect", "-", "--json", stdin=token)
        assert json.loads(ended.stdout)["claims"]["a"] == "\x1b[31m \x07 \u202e"
        assert b"\x1b" not in ended.stdout

    @pytest.mark.parametrize(
        ("changes", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
    )
    def test_colours_on_a_terminal_only(self, verify, fresh, files, changes, is_coloured):
        assert b"\x1b" not in verify("--explain").stdout
        ours, theirs = pty.openpty()
        command = [ENARX, "attest", "verify", files.report, "--offline", "--explain"]
        environment = {**fresh.env, "TERM": "xterm", **changes}
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
            os.close(theirs)
            shown = read_terminal(ours)
            assert process.wait(TIMEOUT_S) == 106
        assert (b"\x1b[33m?\x1b[0m snp.vek.present" in shown) is is_coloured
        assert (b"\x1b" in shown) is is_coloured


def read_terminal(descriptor):
    """Return what is written to a terminal until nobody has it open any more."""
    shown, deadline = b"", time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if select.select([descriptor], [], [], 1)[0]:
                shown += os.read(descriptor, 1 << 16)
    except OSError:
        # The last writer closed it.
        return shown
    finally:
        os.close(descriptor)
    raise AssertionError(f"still written to after {TIMEOUT_S} s")


class TestFetching:
    @pytest.fixture
    def vendors(self, files):
        report, (vek, ask, ark) = files.case.report, files.case.certificates
        with FakeVendors() as vendors:
            vendors.serve_vcek("Milan", report.chip_id, report.reported_tcb, vek)
            vendors.serve_amd_chain("Milan", make_pem(ask, ark))
            vendors.serve_amd_crl("Milan", files.amd.make_crl(at=YESTERDAY))
            yield vendors

    @pytest.fixture
    def fetch(self, fresh, files):
        def run(url, *more, policy=files.policy, environment=None):
            command = fresh.with_env(**(environment or {}))
            given = ["attest", "verify", files.report, "--policy", policy]
            return command.command(*given, *(("--amd-kds", url) if url else ()), *more)

        return run

    def test_fetches_what_the_verdict_waits_for_and_asks_once(self, fetch, vendors, files, tmp_path):
        policy = tmp_path / "policy.toml"
        policy.write_text(make_policy_text(files.amd.root, revocation='"required"'))
        first = fetch(vendors.url, policy=policy)
        assert first.status == 0, first.stderr
        assert first.stdout.startswith(b"accepted: ")
        assert "the VCEK of Milan" in first.stderr
        assert len(vendors.asked) == 3
        second = fetch(vendors.url, policy=policy)
        assert second.status == 0
        assert len(vendors.asked) == 3
        # The address can stand in the environment; what is at hand is not asked for.
        third = fetch(None, environment={"ENARX_AMD_KDS": vendors.url})
        assert third.status == 0
        assert len(vendors.asked) == 3

    def test_asks_for_nothing_when_told_so_or_when_nothing_is_missing(self, fetch, vendors, files):
        assert fetch(vendors.url, "--offline").status == 106
        assert fetch(vendors.url, "--endorsements", files.certificates).status == 0
        assert fetch(vendors.url, "--endorsements", files.certificates, "--report-data", "00").status == 105
        assert vendors.asked == []

    def test_without_an_answer_it_stays_undecided(self, fetch, free_port):
        ended = fetch(f"http://127.0.0.1:{free_port}", "--timeout", "2s")
        assert ended.status == 106
        assert ended.stdout.startswith(b"undecided: ")
        assert "cannot get the VCEK" in ended.stderr
        assert "hint: " in ended.stderr

    def test_a_vendor_that_does_not_know_the_chip_leaves_it_undecided(self, fetch):
        with FakeVendors() as empty:
            ended = fetch(empty.url)
        assert ended.status == 106
        assert "cannot get the VCEK" in ended.stderr

    def test_what_a_liar_serves_is_not_believed(self, fetch, vendors, files):
        rogue = FakeAmd(owner="rogue").make_case(at=YESTERDAY)
        report = files.case.report
        vendors.serve_vcek("Milan", report.chip_id, report.reported_tcb, rogue.certificates[0])
        vendors.serve_amd_chain("Milan", make_pem(*rogue.certificates[1:]))
        ended = fetch(vendors.url)
        assert ended.status in {104, 106}

    def test_no_proxy_is_taken_from_the_environment_but_ours(self, fetch, vendors, free_port):
        nobody = f"http://127.0.0.1:{free_port}"
        assert (
            fetch(vendors.url, environment={"HTTPS_PROXY": nobody, "HTTP_PROXY": nobody, "ALL_PROXY": nobody}).status
            == 0
        )

    def test_our_own_variable_names_the_proxy(self, fetch, vendors, free_port):
        ended = fetch(vendors.url, "--timeout", "2s", environment={"ENARX_PROXY": f"http://127.0.0.1:{free_port}"})
        assert ended.status == 106
        assert vendors.asked == []


@needs_evidence
class TestRealEvidence:
    @pytest.mark.parametrize("tee", ["snp", "tdx", "nitro"])
    def test_is_accepted_from_a_folder_of_files(self, fresh, tmp_path, tee):
        (case, *_) = (
            each
            for each in cases(tee)
            if each["verdict"] == "valid" and "policy" not in each["inputs"] and "gosev" not in each["id"]
        )
        main = next(case["inputs"][name] for name in ("report", "quote", "document") if name in case["inputs"])
        for name, path in case["inputs"].items():
            (tmp_path / f"{name}.txt").symlink_to(evidence_path(path))
        ended = fresh.command(
            "attest", "verify", evidence_path(main), "--endorsements", tmp_path, "--at", case["eval_time"], "--offline"
        )
        assert ended.status == 0, ended.stderr
        assert ended.stdout.startswith(b"accepted: ")
        assert "no policy was given: this says where the evidence comes from" in ended.stderr
