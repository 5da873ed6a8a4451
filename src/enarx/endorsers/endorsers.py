# SPDX-License-Identifier: Apache-2.0
"""Decide what one piece of evidence needs from its vendor, and gather it.

One thing that cannot be had does not keep the others away: what is missing is in the record, and whether that matters is
the policy's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from enarx.abi.quote import SgxQuote, TdxQuote
from enarx.abi.snp import SnpReport
from enarx.endorsers import amd_kds, intel_pcs
from enarx.endorsers.amd_kds import AMD_KDS_URL
from enarx.endorsers.at_hand import brought_by, has_crl, has_issuer, leaf_for, line_of_report, parts_of, platform_of
from enarx.endorsers.disk_cache import DiskCache
from enarx.endorsers.fetching import MAX_AGE, Fetcher, Item, Source, Timing, Wanted
from enarx.endorsers.http import Client, require_base_url
from enarx.endorsers.intel_pcs import INTEL_PCS_URL
from enarx.errors import EndorsementError
from enarx.rats import Endorsements, IntelCollateral
from enarx.verifier import Recognised

__all__ = ["Endorsers", "Fetched"]

_NOTHING = Endorsements()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was fetched for one piece of evidence.

    Args:
        endorsements: without those that were at hand already.
        sources: where each of them came from, and whether it is stale.
        missing: why each of the others could not be had.
    """

    endorsements: Endorsements = _NOTHING
    sources: tuple[Source, ...] = ()
    missing: tuple[EndorsementError, ...] = ()

    @property
    def stale(self) -> tuple[Source, ...]:
        """Those that are past their next update; there are none unless the caller allowed them."""
        return tuple(source for source in self.sources if source.stale)

    def __add__(self, other: Fetched) -> Fetched:
        """Return both together."""
        return Fetched(
            endorsements=self.endorsements + other.endorsements,
            sources=self.sources + other.sources,
            missing=self.missing + other.missing,
        )

    def require(self) -> None:
        """Raise what is missing.

        Raises:
            EndorsementError: something is; the hint is the first one's.
        """
        if self.missing:
            raise EndorsementError(
                "; ".join(dict.fromkeys(str(error) for error in self.missing)), hint=self.missing[0].hint
            ) from self.missing[0]


class Endorsers:
    """AMD's KDS and Intel's PCS, or mirrors of them, behind a cache; for any number of threads.

    Args:
        cache_dir: a directory of ours alone; it is made where there is none. Processes that share it take turns.
        timing: the clock, and what is waited with.
        client: asks servers; None is a new one without a proxy, trusting certifi's roots.
        amd_url: base URL of AMD KDS or a mirror of it.
        intel_url: base URL of Intel's PCS or a PCCS.
        update: `standard` or `early`, which of Intel's two TCB baselines.
        offline: never use the network.
        refresh: ask even where the cache has an answer that lasts.
        allow_stale: use what is past its next update where there is nothing newer; `Source.stale` says so.
        max_wait_s: for each thing that is fetched.
        max_total_s: for all that one piece of evidence needs; None is so long for each.
        max_age: how long lists and collateral are used before they are asked for again.
        say: is told one line about whatever takes time.

    Raises:
        PlatformError: the directory cannot be used, or is not ours alone.
        UsageError: an address is none.
    """

    def __init__(
        self,
        cache_dir: str,
        *,
        timing: Timing,
        client: Client | None = None,
        amd_url: str = AMD_KDS_URL,
        intel_url: str = INTEL_PCS_URL,
        update: str = "standard",
        offline: bool = False,
        refresh: bool = False,
        allow_stale: bool = False,
        max_wait_s: float = 60.0,
        max_total_s: float | None = None,
        max_age: timedelta = MAX_AGE,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._amd_url = require_base_url(amd_url, "AMD KDS")
        self._intel_url = require_base_url(intel_url, "Intel PCS")
        self._update = update
        self._timing = timing
        self._max_total_s = max_total_s
        self._fetcher = Fetcher(
            DiskCache(cache_dir),
            client if client is not None else Client(),
            timing,
            offline=offline,
            refresh=refresh,
            allow_stale=allow_stale,
            max_wait_s=max_wait_s,
            max_age=max_age,
            say=say,
        )

    def fetch_for(
        self, recognised: Recognised, *, known: Endorsements = _NOTHING, at: datetime | None = None
    ) -> Fetched:
        """Fetch what evidence needs and neither brings along nor has at hand.

        Nitro documents, CCA tokens and TPM quotes need nothing that could be fetched.

        Args:
            recognised: what `enarx.verifier.recognise` returned.
            known: what is at hand besides.
            at: the time that will be judged for; None is now.

        Returns:
            What could be had, and in `missing` what could not: `require()` raises for that.
        """
        known = recognised.endorsements + brought_by(recognised.parsed) + known
        at = at if at is not None else self._timing.now()
        gathered = self._gather()
        for part in parts_of(recognised.parsed):
            if isinstance(part, SnpReport):
                self._take_snp(gathered, part, known, at)
            else:
                self._take_for_quote(gathered, part, known, at)
        return gathered.fetched()

    def fetch_newest_for(self, recognised: Recognised, *, known: Endorsements = _NOTHING) -> Fetched:
        """Fetch what vendors say of revoked keys and of TCBs now, whatever of that came along: who sends it chooses which.

        Args:
            recognised: what `enarx.verifier.recognise` returned.
            known: what is at hand besides; its certificates tell what the platform is.

        Returns:
            As `fetch_for`, without certificates.
        """
        known = recognised.endorsements + brought_by(recognised.parsed) + known
        gathered = self._gather()
        for part in parts_of(recognised.parsed):
            if isinstance(part, SnpReport):
                line = line_of_report(part, leaf_for(part, known))
                if line is not None:
                    gathered.take_crl(amd_kds.crl_wanted(self._amd_url, line, _key_of(part)))
            else:
                self._take_for_quote(gathered, part, replace(known, intel=()), None)
        return gathered.fetched()

    def _gather(self) -> _Gathered:
        return _Gathered(self._fetcher, None if self._max_total_s is None else self._fetcher.until(self._max_total_s))

    def fetch_snp(self, report: SnpReport, *, known: Endorsements = _NOTHING, at: datetime | None = None) -> Fetched:
        """Fetch what an SNP report needs and is not at hand: its VCEK, certificates above it, its ARK's revocation list.

        Args:
            report: parsed, and not believed.
            known: what is at hand.
            at: the time that will be judged for; None is now.
        """
        gathered = self._gather()
        self._take_snp(gathered, report, known, at if at is not None else self._timing.now())
        return gathered.fetched()

    def _take_snp(self, gathered: _Gathered, report: SnpReport, known: Endorsements, at: datetime) -> None:
        key = _key_of(report)
        leaf = leaf_for(report, known)
        line = line_of_report(report, leaf)
        if leaf is None:
            leaf, line = gathered.take_vek(self._amd_url, report, line)
        if leaf is not None and line is not None and not has_issuer(leaf, known):
            gathered.take_certificates(amd_kds.chain_wanted(self._amd_url, line, key))
        if line is not None and not has_crl(known, line, at):
            gathered.take_crl(amd_kds.crl_wanted(self._amd_url, line, key))

    def _take_for_quote(
        self, gathered: _Gathered, quote: SgxQuote | TdxQuote, known: Endorsements, at: datetime | None
    ) -> None:
        tee = "sgx" if isinstance(quote, SgxQuote) else "tdx"
        try:
            fmspc, ca = platform_of(quote, known)
        except EndorsementError as error:
            gathered.miss(error)
            return
        if at is not None and any(intel_pcs.covers(each, tee, fmspc, ca, at) for each in known.intel):
            return
        self._take_intel(gathered, tee, fmspc, ca)

    def fetch_intel(self, tee: str, fmspc: bytes, ca: str) -> Fetched:
        """Fetch the collateral of a kind of SGX or TDX platform.

        Args:
            tee: `sgx` or `tdx`.
            fmspc: 6 bytes, of the PCK certificate.
            ca: `platform` or `processor`, by the PCK certificate's issuer.
        """
        gathered = self._gather()
        self._take_intel(gathered, tee, fmspc, ca)
        return gathered.fetched()

    def _take_intel(self, gathered: _Gathered, tee: str, fmspc: bytes, ca: str) -> None:
        tcb_info = gathered.take(intel_pcs.tcb_info_wanted(self._intel_url, tee, fmspc, self._update))
        qe_identity = gathered.take(intel_pcs.qe_identity_wanted(self._intel_url, tee, self._update))
        pck_crl = gathered.take(intel_pcs.pck_crl_wanted(self._intel_url, ca))
        root_crl = gathered.take(intel_pcs.root_crl_wanted(self._intel_url))
        if tcb_info is not None and qe_identity is not None:
            gathered.intel.append(
                IntelCollateral(
                    tcb_info=tcb_info.value[0],
                    tcb_info_chain=tcb_info.value[1],
                    qe_identity=qe_identity.value[0],
                    qe_identity_chain=qe_identity.value[1],
                    pck_crl=pck_crl.value[0] if pck_crl is not None else b"",
                    pck_crl_chain=pck_crl.value[1] if pck_crl is not None else (),
                    root_ca_crl=root_crl.value if root_crl is not None else b"",
                )
            )


class _Gathered:
    """What was fetched so far, and what could not be."""

    def __init__(self, fetcher: Fetcher, until: float | None) -> None:
        self._fetcher = fetcher
        self._until = until
        self._certificates: list[bytes] = []
        self._crls: list[bytes] = []
        self.intel: list[IntelCollateral] = []
        self._sources: list[Source] = []
        self._missing: list[EndorsementError] = []

    def miss(self, error: EndorsementError) -> None:
        self._missing.append(error)

    def take(self, *candidates: Wanted) -> Item | None:
        try:
            item = self._fetcher.fetch(*candidates, until=self._until)
        except EndorsementError as error:
            self._missing.append(error)
            return None
        self._sources.append(item.source)
        return item

    def take_vek(self, base_url: str, report: SnpReport, line: str | None) -> tuple[bytes | None, str | None]:
        """Fetch the certificate of the key that signed, and return it and its line, as far as they are known then."""
        try:
            lines = _lines_to_ask(report, line)
            wanted = {each: amd_kds.vcek_wanted(base_url, each, report.chip_id, report.reported_tcb) for each in lines}
        except EndorsementError as error:
            self._missing.append(error)
            return None, line
        item = self.take(*wanted.values())
        if item is None:
            return None, line
        self._certificates.append(item.value)
        return item.value, next(each for each, wanted_one in wanted.items() if wanted_one.key == item.source.url)

    def take_certificates(self, wanted: Wanted) -> None:
        item = self.take(wanted)
        if item is not None:
            self._certificates += item.value

    def take_crl(self, wanted: Wanted) -> None:
        item = self.take(wanted)
        if item is not None:
            self._crls.append(item.value)

    def fetched(self) -> Fetched:
        return Fetched(
            endorsements=Endorsements(
                certificates=tuple(self._certificates), crls=tuple(self._crls), intel=tuple(self.intel)
            ),
            sources=tuple(self._sources),
            missing=tuple(self._missing),
        )


def _key_of(report: SnpReport) -> str:
    return "vlek" if report.signing_key == "VLEK" else "vcek"


def _lines_to_ask(report: SnpReport, line: str | None) -> tuple[str, ...]:
    if report.signing_key == "VLEK":
        raise EndorsementError(
            "cannot get the VLEK: found a report signed by a VLEK, which AMD does not publish, want its certificate",
            hint="ask the cloud for an extended report (its certificate table has the VLEK), or pass --endorsements",
        )
    if report.signing_key != "VCEK":
        raise EndorsementError(
            f"cannot get the key of the report: signing key: found {report.signing_key}, want VCEK or VLEK"
        )
    if line is not None:
        return (line,)
    if report.version >= 3:
        raise EndorsementError(
            f"cannot get the VCEK: product: found CPUID family {report.cpuid_family:#x} model {report.cpuid_model:#x},"
            f" want one of {', '.join(amd_kds.LINES)}",
            hint="pass the certificates with --endorsements",
        )
    return amd_kds.lines_to_try(report.chip_id)
