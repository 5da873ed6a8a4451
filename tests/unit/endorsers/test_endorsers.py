# SPDX-License-Identifier: Apache-2.0
"""What evidence needs is fetched, what it brings along is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest

from enarx.abi.quote import parse_quote_untrusted
from enarx.abi.snp import parse_report_untrusted
from enarx.endorsers import Endorsers, Fetched
from enarx.errors import EndorsementError, PlatformError, UsageError
from enarx.rats import Endorsements
from enarx.testing.dcap import Platform, TdReport
from enarx.verifier import Recognised
from enarx.verifier.snp import SnpEvidence

from .conftest import CHIP, NOW, TCB, TURIN_CHIP, TURIN_TCB, Amd


def report(*, version=3, chip=CHIP, tcb=TCB, cpuid=(0x19, 0x01), key_info=0):
    """Return a report with the fields that say what to ask for."""
    data = bytearray(1184)
    data[0:4] = version.to_bytes(4, "little")
    data[0x48:0x4C] = key_info.to_bytes(4, "little")
    data[0x180:0x188] = tcb
    if version >= 3:
        data[0x188:0x18A] = bytes(cpuid)
    data[0x1A0:0x1E0] = chip
    return parse_report_untrusted(bytes(data))


VLEK = 1 << 2


@pytest.fixture
def served(vendors, amd):
    """Serve everything about Milan's chip."""
    vendors.serve_vcek("Milan", CHIP, TCB, amd.vek())
    vendors.serve_amd_chain("Milan", amd.chain())
    vendors.serve_amd_crl("Milan", amd.crl())
    return vendors


class TestSnp:
    def test_fetches_key_chain_and_list(self, make, served, amd):
        fetched = make().fetch_snp(report())
        fetched.require()
        assert fetched.endorsements.certificates[1:] == (amd.ask, amd.ark)
        assert len(fetched.endorsements.crls) == 1
        assert [source.what for source in fetched.sources] == [
            f"the VCEK of Milan chip {CHIP.hex()[:16]} at TCB {TCB.hex()}",
            "the certificates of SEV-Milan and ARK-Milan",
            "the revocation list of ARK-Milan",
        ]
        assert fetched.stale == ()

    def test_is_all_from_the_cache_the_second_time(self, make, served):
        first = make().fetch_snp(report())
        second = make(offline=True).fetch_snp(report())
        assert second.endorsements == first.endorsements
        assert len(served.asked) == 3

    def test_asks_turin_as_turin_wants_it(self, make, vendors, turin):
        vendors.serve_vcek("Turin", TURIN_CHIP, TURIN_TCB, turin.vek(TURIN_CHIP, TURIN_TCB))
        fetched = make().fetch_snp(report(chip=TURIN_CHIP, tcb=TURIN_TCB, cpuid=(0x1A, 0x02)))
        assert len(fetched.endorsements.certificates) == 1
        assert vendors.asked[0] == (
            "/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=75"
        )

    def test_tries_milan_and_genoa_for_a_report_that_names_no_product(self, make, vendors):
        genoa = Amd("Genoa")
        vendors.serve_vcek("Genoa", CHIP, TCB, genoa.vek())
        vendors.serve_amd_chain("Genoa", genoa.chain())
        vendors.serve_amd_crl("Genoa", genoa.crl())
        make().fetch_snp(report(version=2)).require()
        assert [path.split("?")[0].split("/")[3] for path in vendors.asked] == ["Milan", "Genoa", "Genoa", "Genoa"]

    def test_a_product_that_is_not_known_is_not_asked_for(self, make, vendors):
        with pytest.raises(EndorsementError, match="CPUID family 0x1b model 0x2"):
            make().fetch_snp(report(cpuid=(0x1B, 0x02))).require()
        assert vendors.asked == []

    def test_a_masked_chip_is_not_asked_for(self, make, served):
        fetched = make().fetch_snp(report(chip=bytes(64)))
        with pytest.raises(EndorsementError, match="masks it"):
            fetched.require()
        assert served.asked == ["/vcek/v1/Milan/crl"]

    def test_a_vlek_cannot_be_asked_for_and_that_is_said(self, make, vendors, amd):
        vendors.serve_amd_crl("Milan", amd.crl(), "vlek")
        fetched = make().fetch_snp(report(key_info=VLEK))
        assert vendors.asked == ["/vlek/v1/Milan/crl"]
        with pytest.raises(EndorsementError, match="AMD does not publish") as refusal:
            fetched.require()
        assert "extended report" in refusal.value.hint

    def test_a_vlek_that_is_at_hand_gets_its_chain(self, make, vendors, amd):
        vendors.serve_amd_chain("Milan", amd.chain(vlek=True), "vlek")
        vendors.serve_amd_crl("Milan", amd.crl(), "vlek")
        known = Endorsements(certificates=(amd.vek(provider="CN=cloud"),))
        fetched = make().fetch_snp(report(key_info=VLEK), known=known)
        fetched.require()
        assert fetched.endorsements.certificates == (amd.asvk, amd.ark)

    def test_a_report_that_nobody_signed_has_no_key(self, make, served):
        with pytest.raises(EndorsementError, match="signing key: found none"):
            make().fetch_snp(report(key_info=7 << 2)).require()

    def test_what_is_at_hand_is_not_asked_for(self, make, served, amd):
        known = Endorsements(certificates=(b"garbage", amd.ark, amd.ask, amd.vek()), crls=(b"garbage", amd.crl()))
        assert make(offline=True).fetch_snp(report(), known=known) == Fetched()
        assert make(offline=True).fetch_snp(report(version=2), known=known) == Fetched()
        assert served.asked == []

    def test_a_key_for_another_chip_or_level_is_not_at_hand(self, make, served, amd):
        for other in (amd.vek(CHIP[::-1]), amd.vek(tcb=bytes(8)), amd.vek(provider="CN=cloud")):
            fetched = make().fetch_snp(report(), known=Endorsements(certificates=(other,)))
            assert len(fetched.endorsements.certificates) == 3

    def test_a_list_for_another_time_is_not_at_hand(self, make, served, amd):
        known = Endorsements(
            certificates=(amd.ask, amd.vek()), crls=(amd.crl(until=NOW - timedelta(seconds=1)), Amd("Genoa").crl())
        )
        fetched = make().fetch_snp(report(), known=known)
        assert len(fetched.endorsements.crls) == 1
        assert make().fetch_snp(report(), known=known, at=NOW - timedelta(days=1)) == Fetched()

    def test_one_thing_that_is_missing_does_not_keep_the_others_away(self, make, served):
        served.change("/vcek/v1/Milan/crl", status=404)
        fetched = make().fetch_snp(report())
        assert len(fetched.endorsements.certificates) == 3
        with pytest.raises(EndorsementError, match="the revocation list of ARK-Milan"):
            fetched.require()

    def test_offline_names_everything_that_is_missing(self, make, served):
        with pytest.raises(EndorsementError) as refusal:
            make(offline=True).fetch_snp(report()).require()
        assert f"https://kdsintf.amd.com/vcek/v1/Milan/{CHIP.hex()}?blSPL=03" in str(refusal.value)
        assert "https://kdsintf.amd.com/vcek/v1/Milan/crl" in str(refusal.value)
        assert served.asked == []


class TestIntel:
    def test_fetches_all_of_the_collateral(self, make, vendors, collateral, platform):
        paths = vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral)
        fetched = make().fetch_intel("tdx", platform.fmspc, "platform")
        fetched.require()
        assert fetched.endorsements == Endorsements(intel=(collateral,))
        assert tuple(vendors.asked) == paths

    def test_asks_for_the_early_baseline_where_that_is_wanted(self, make, vendors, collateral, platform):
        vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral, update="early")
        make(update="early").fetch_intel("tdx", platform.fmspc, "platform").require()
        assert vendors.asked[0].endswith("&update=early")

    def test_collateral_without_lists_is_better_than_none(self, make, vendors, collateral, platform):
        _, _, pck_crl, root_crl = vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral)
        vendors.change(pck_crl, status=404)
        vendors.change(root_crl, body=b"garbage")
        fetched = make().fetch_intel("tdx", platform.fmspc, "platform")
        (found,) = fetched.endorsements.intel
        assert found == replace(collateral, pck_crl=b"", pck_crl_chain=(), root_ca_crl=b"")
        assert len(fetched.missing) == 2

    def test_without_tcb_info_there_is_no_collateral(self, make, vendors, collateral, platform):
        tcb_info, *_ = vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral)
        vendors.change(tcb_info, headers={})
        fetched = make().fetch_intel("tdx", platform.fmspc, "platform")
        assert fetched.endorsements == Endorsements()
        with pytest.raises(EndorsementError, match="found no header tcb-info-issuer-chain"):
            fetched.require()

    def test_stale_collateral_is_refused_or_named(self, make, vendors, collateral, platform, clock):
        vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral)
        clock.pass_by(days=40)
        assert len(make().fetch_intel("tdx", platform.fmspc, "platform").missing) == 4
        fetched = make(allow_stale=True).fetch_intel("tdx", platform.fmspc, "platform")
        fetched.require()
        assert len(fetched.stale) == 4


class TestEvidence:
    @pytest.fixture
    def quote(self, intel, platform):
        return parse_quote_untrusted(intel.make_quote(TdReport(), platform))

    def test_a_report(self, make, served):
        recognised = Recognised("snp", "report", SnpEvidence(report=report()))
        assert len(make().fetch_for(recognised).sources) == 3

    def test_a_report_that_brings_everything(self, make, served, amd):
        brought = Endorsements(certificates=(amd.vek(), amd.ask))
        recognised = Recognised("snp", "report", SnpEvidence(report=report()), brought)
        fetched = make(offline=True).fetch_for(recognised, known=Endorsements(crls=(amd.crl(),)))
        assert fetched == Fetched()

    def test_a_report_with_a_certificate_table(self, make, amd):
        table = (("63da758d", amd.vek()), ("4ab7b379", amd.ask), ("92f81bc3", amd.crl()), ("", b"garbage"))
        recognised = Recognised("snp", "report", SnpEvidence(report=report(), table=table))
        assert make(offline=True).fetch_for(recognised) == Fetched()

    def test_a_report_and_a_quote_in_one(self, make, served, quote):
        fetched = make().fetch_for(Recognised("azure", "bundle", (report(), None, quote, (b"certificate",))))
        assert len(fetched.sources) == 3
        assert len(fetched.missing) == 4

    def test_a_quote(self, make, vendors, collateral, platform, quote):
        vendors.serve_collateral("tdx", platform.fmspc, "platform", collateral)
        fetched = make().fetch_for(Recognised("tdx", "quote", QuoteEvidence(quote)))
        fetched.require()
        assert fetched.endorsements.intel == (collateral,)

    def test_a_quote_of_a_processor_ca(self, make, vendors, intel):
        platform = Platform(instance_id=None)
        collateral = intel.make_collateral("TDX", platform)
        vendors.serve_collateral("tdx", platform.fmspc, "processor", collateral)
        quote = parse_quote_untrusted(intel.make_quote(TdReport(), platform))
        make().fetch_for(Recognised("tdx", "quote", QuoteEvidence(quote))).require()

    def test_a_quote_with_collateral(self, make, vendors, collateral, quote):
        brought = Endorsements(intel=(collateral,))
        recognised = Recognised("tdx", "quote", QuoteEvidence(quote), brought)
        assert make(offline=True).fetch_for(recognised) == Fetched()
        later = make(offline=True).fetch_for(recognised, at=NOW + timedelta(days=30))
        assert len(later.missing) == 4

    def test_a_quote_without_a_pck_certificate(self, make, vendors, intel, platform):
        quote = parse_quote_untrusted(intel.make_quote(TdReport(), platform, certification=(1, bytes(36))))
        recognised = Recognised("tdx", "quote", QuoteEvidence(quote))
        with pytest.raises(EndorsementError, match="certification data of type 1 and no PCK certificate"):
            make().fetch_for(recognised).require()
        pck = intel.certify(platform).der
        fetched = make(offline=True).fetch_for(recognised, known=Endorsements(certificates=(b"garbage", pck)))
        assert "E0D06F000000" in str(fetched.missing[0])

    def test_a_quote_with_a_broken_chain(self, make, vendors, intel, platform):
        quote = parse_quote_untrusted(intel.make_quote(TdReport(), platform, certification=(5, b"garbage")))
        with pytest.raises(EndorsementError, match="no PCK certificate"):
            make().fetch_for(Recognised("tdx", "quote", QuoteEvidence(quote))).require()

    def test_evidence_of_other_vendors_needs_nothing(self, make, vendors):
        assert make().fetch_for(Recognised("nitro", "document", object())) == Fetched()


class QuoteEvidence(NamedTuple):
    """Parsed evidence around a quote."""

    quote: object


def test_refuses_a_cache_open_to_others(tmp_path, clock):
    tmp_path.chmod(0o755)
    with pytest.raises(PlatformError):
        Endorsers(str(tmp_path), timing=clock.timing)


@pytest.mark.parametrize("name", ["amd_url", "intel_url"])
def test_refuses_a_mirror_in_the_clear(tmp_path, clock, name):
    with pytest.raises(UsageError, match="want https://"):
        Endorsers(str(tmp_path / "cache"), timing=clock.timing, **{name: "http://mirror.example"})


def recognised_report():
    return Recognised("snp", "report", SnpEvidence(report(), None))


class TestNewest:
    def test_lists_are_asked_for_whatever_came_along(self, make, served, amd, clock):
        known = Endorsements(certificates=(amd.vek(), amd.ask, amd.ark), crls=(amd.crl(),))
        assert make().fetch_for(recognised_report(), known=known).sources == ()
        fetched = make().fetch_newest_for(recognised_report(), known=known)
        assert [source.what for source in fetched.sources] == ["the revocation list of ARK-Milan"]
        assert len(fetched.endorsements.crls) == 1
        assert fetched.endorsements.certificates == ()

    def test_an_hour_can_be_their_age(self, make, served, clock):
        for minutes, asked in ((0, 1), (59, 1), (2, 2)):
            clock.pass_by(minutes=minutes)
            make(max_age=timedelta(hours=1)).fetch_newest_for(recognised_report())
            assert len(served.asked) == asked

    def test_what_is_kept_is_given_without_the_network(self, make, served, clock):
        assert make(offline=True).fetch_newest_for(recognised_report()).endorsements == Endorsements()
        online = make().fetch_newest_for(recognised_report())
        assert make(offline=True).fetch_newest_for(recognised_report()).endorsements == online.endorsements


def test_all_that_a_request_needs_has_one_end(make, served, clock):
    clock_says = iter([0.0, *[100.0] * 50])
    timing = replace(clock.timing, monotonic=lambda: next(clock_says))
    fetched = make(timing=timing, max_total_s=20.0).fetch_snp(report())
    assert served.asked == []
    assert all("no time left" in str(error) for error in fetched.missing)
    assert fetched.missing
