# SPDX-License-Identifier: Apache-2.0
"""Mutated DCAP cases, each made from a number, and the two verifiers that are asked about them.

A case starts as a draft that everybody accepts as up to date. Re-signed cases are changed before the fake Intel signs, so that
all signatures hold and the logic behind them is what decides; raw cases are changed afterwards as well, in their bytes.
"""

from __future__ import annotations

import json
import random
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import dcap_qvl

from enarx.rats import IntelCollateral
from enarx.testing.dcap import (
    AT,
    SGX,
    TDX,
    EnclaveReport,
    FakeIntel,
    Identity,
    Platform,
    TdReport,
    make_isv_level,
    make_pem,
    make_qe_identity,
    make_qe_report,
    make_sgx_extension,
    make_tcb_info,
    make_tcb_level,
)

STATUSES = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
    "OutOfDateConfigurationNeeded", "Revoked",
)  # fmt: skip
STATUS_WEIGHTS = (5, 3, 3, 3, 4, 3, 1)
# Intel's rules know three words for a quoting enclave or a module; the others are there to be refused.
ISV_STATUS_WEIGHTS = (20, 1, 1, 1, 20, 1, 2)
SINCE, UNTIL = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)


class Case(NamedTuple):
    """What both verifiers are given."""

    number: int
    mutations: tuple[str, ...]
    resigned: bool
    quote: bytes
    collateral: IntelCollateral
    root: bytes
    at: datetime


class Answer(NamedTuple):
    """What one of them says; `status` and `advisories` count only where it accepts."""

    accepted: bool
    status: str | None
    advisories: frozenset[str]
    reason: str


def ask_oracle(quote: bytes, collateral: IntelCollateral, root: bytes | None, at: datetime) -> Answer:
    """Return the answer of `dcap_qvl`; without a root, under Intel's."""
    seconds = int(at.timestamp())
    try:
        foreign = _to_foreign(collateral)
        if root is None:
            report = dcap_qvl.verify(quote, foreign, seconds)
        else:
            report = dcap_qvl.verify_with_root_ca(quote, foreign, root, seconds)
    except ValueError as error:
        return Answer(False, None, frozenset(), str(error))
    return Answer(True, report.status, frozenset(report.advisory_ids), "")


def split_document(document: bytes) -> tuple[bytes, bytes]:
    """Return the signed text of a collateral document, which is not ours to reformat, and the signature."""
    start, end = document.index(b":") + 1, document.rindex(b',"signature":"')
    return document[start:end], bytes.fromhex(document[end + 14 :].rstrip(b' \n"}').decode())


def _to_foreign(collateral: IntelCollateral) -> dcap_qvl.QuoteCollateralV3:
    def pem(chain: tuple[bytes, ...]) -> str:
        return "".join(ssl.DER_cert_to_PEM_cert(der) for der in chain)

    tcb_info, tcb_info_signature = split_document(collateral.tcb_info)
    qe_identity, qe_identity_signature = split_document(collateral.qe_identity)
    return dcap_qvl.QuoteCollateralV3(
        pem(collateral.pck_crl_chain), collateral.root_ca_crl, collateral.pck_crl,
        pem(collateral.tcb_info_chain), tcb_info.decode(), tcb_info_signature,
        pem(collateral.qe_identity_chain), qe_identity.decode(), qe_identity_signature,
    )  # fmt: skip


# Drafts.


@cache
def intel(name: str = "test") -> FakeIntel:
    """Return a fake Intel, made once."""
    return FakeIntel(name)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A case that is not signed yet."""

    rng: random.Random
    tee: str
    version: int
    body: EnclaveReport | TdReport
    platform: Platform
    reference: Platform
    qe_report: EnclaveReport
    tcb_info: dict[str, Any]
    qe_identity: dict[str, Any]
    at: datetime = AT
    pck: dict[str, Any] = field(default_factory=dict)
    pck_intel: FakeIntel = field(default_factory=intel)
    signer_intel: FakeIntel = field(default_factory=intel)
    chain: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] = tuple
    revoked: list[str] = field(default_factory=list)
    crl_times: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    crl_of: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    header: Callable[[bytes], bytes] | None = None
    texts: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    certification: Callable[[bytes], tuple[int, bytes]] | None = None
    qe_auth: bytes = bytes(range(32))

    @property
    def td(self) -> TdReport | None:
        """The body where it is a trust domain's."""
        return self.body if isinstance(self.body, TdReport) else None

    def build(self) -> tuple[bytes, IntelCollateral]:
        """Sign it."""
        real = intel()
        ca = real.processor_ca if self.platform.instance_id is None else real.platform_ca
        pck_ca = self.pck_intel.processor_ca if self.platform.instance_id is None else self.pck_intel.platform_ca
        pck = self.pck_intel.certify(self.platform, **{"issuer": pck_ca, **self.pck})
        certificates = {
            "pck": pck, "ca": ca, "signer": real.tcb_signing, "root": real.root, "other ca": real.processor_ca
        }  # fmt: skip
        chain = self.chain((pck.der, pck_ca.der, self.pck_intel.root.der))
        made: dict[str, Any] = {
            "version": self.version, "pck": pck, "chain": chain, "qe_report": self.qe_report, "qe_auth": self.qe_auth
        }  # fmt: skip
        if self.certification is not None:
            made["certification"] = self.certification(make_pem(chain))
        quote = real.make_quote(self.body, self.platform, **made)
        if self.header is not None:
            size = {3: 432, 4: 632, 5: 54 + len(self.body.encode())}[self.version]
            quote = real.sign_quote(self.header(quote[:size]), self.tee, self.platform, **made)

        def crl(of: str) -> bytes:
            issuer: Identity = certificates[self.crl_of.get(of, of)]
            revoked = [certificates[each].certificate for each in self.revoked if (each == "pck") == (of == "ca")]
            since, until = self.crl_times.get(of, (SINCE, UNTIL))
            return real.make_crl(issuer, revoked, since=since, until=until)

        def document(name: str, value: dict[str, Any], sign: Callable[[Any], bytes]) -> bytes:
            text = json.dumps(value, separators=(",", ":")).encode()
            return sign(self.texts[name](text) if name in self.texts else text)

        signers = (self.signer_intel.tcb_signing.der, self.signer_intel.root.der)
        collateral = IntelCollateral(
            tcb_info=document("tcb_info", self.tcb_info, self.signer_intel.sign_tcb_info),
            tcb_info_chain=signers,
            qe_identity=document("qe_identity", self.qe_identity, self.signer_intel.sign_qe_identity),
            qe_identity_chain=signers,
            pck_crl=crl("ca"),
            pck_crl_chain=(ca.der, real.root.der),
            root_ca_crl=crl("root"),
        )
        for name, change in self.parts.items():
            collateral = replace(collateral, **{name: change(getattr(collateral, name))})
        return quote, collateral


def make_draft(rng: random.Random) -> Draft:
    """Return a draft that everybody accepts as up to date."""
    kind = rng.choice(("sgx 3", "tdx 4", "tdx 5", "tdx 5 1.5", "tdx 5 1.5"))
    tee = SGX if kind == "sgx 3" else TDX
    body: EnclaveReport | TdReport = EnclaveReport() if tee == SGX else TdReport()
    if kind.endswith("1.5"):
        body = TdReport(tee_tcb_svn2=TdReport().tee_tcb_svn)
    platform = Platform() if rng.random() < 0.8 else Platform(instance_id=None, sgx_type=0)
    return Draft(
        rng=rng,
        tee=tee,
        version=int(kind[4]),
        body=body,
        platform=platform,
        reference=platform,
        qe_report=make_qe_report(tee),
        tcb_info=make_tcb_info(tee, platform),
        qe_identity=make_qe_identity(tee),
    )


# Mutations before signing. Each returns nothing; its name is what the case's description shows.


def svns_of_the_platform(draft: Draft) -> None:
    rng = draft.rng
    components = list(draft.platform.components)
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(16)
        components[index] = min(255, max(0, components[index] + rng.choice((-3, -1, -1, 1, 200))))
    draft.platform = replace(draft.platform, components=tuple(components))


def svn_of_the_pce(draft: Draft) -> None:
    draft.platform = replace(
        draft.platform, pce_svn=draft.rng.choice((0, 5, 6, 14, 15, 15, 16, 127, 128, 255, 256, 65535))
    )


def svns_of_the_module(draft: Draft) -> None:
    if draft.td is not None:
        draft.body = replace(draft.td, tee_tcb_svn=_module_svns(draft.rng))


def svns_of_the_module_now(draft: Draft) -> None:
    if draft.td is not None and draft.td.tee_tcb_svn2 is not None:
        draft.body = replace(draft.td, tee_tcb_svn2=_module_svns(draft.rng))


def _module_svns(rng: random.Random) -> bytes:
    svns = [rng.choice((3, 4, 4, 5, 6, 6, 7)), rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 3)), rng.choice((2, 3, 4, 4, 4, 5))]
    svns += [rng.choice((0, 0, 0, 0, 0, 9)) for _ in range(13)]
    return bytes(svns)


def svn_of_the_qe(draft: Draft) -> None:
    draft.qe_report = replace(draft.qe_report, isv_svn=draft.rng.choice((0, 5, 6, 6, 7, 7, 8, 9, 65535)))


def levels_of_the_platform(draft: Draft) -> None:
    rng, platform = draft.rng, draft.reference
    levels = []
    for _ in range(rng.choice((0, 1, 2, 3, 3, 4, 5))):
        below = rng.randint(0, 3)
        components = [max(0, svn - rng.randint(0, below) + (rng.random() < 0.03)) for svn in platform.components]
        tdx = [rng.choice((0, 4, 5, 6, 7)), rng.choice((0, 0, 0, 1)), rng.choice((2, 3, 4, 4, 5))] + [0] * 13
        levels.append(
            make_tcb_level(
                components,
                rng.choice((0, 5, 14, 15, 15, 16)),
                _status(rng, STATUS_WEIGHTS),
                tdx=tdx if draft.tee == TDX else None,
                date=_date(rng),
                advisories=_advisories(rng),
            )
        )
    if rng.random() < 0.8:
        levels.append(
            make_tcb_level([0] * 16, 0, _status(rng, STATUS_WEIGHTS), tdx=[0] * 16 if draft.tee == TDX else None)
        )
    draft.tcb_info["tcbLevels"] = levels


def levels_of_the_module(draft: Draft) -> None:
    rng = draft.rng
    for identity in draft.tcb_info.get("tdxModuleIdentities", ()):
        identity["tcbLevels"] = _isv_levels(rng, (0, 2, 3, 4, 5, 6, 7))


def levels_of_the_qe(draft: Draft) -> None:
    draft.qe_identity["tcbLevels"] = _isv_levels(draft.rng, (0, 5, 6, 7, 8, 9, 65535))


def _isv_levels(rng: random.Random, svns: tuple[int, ...]) -> list[dict[str, Any]]:
    chosen = [rng.choice(svns) for _ in range(rng.choice((0, 1, 2, 2, 3, 4)))] + [0] * (rng.random() < 0.8)
    return [
        make_isv_level(svn, _status(rng, ISV_STATUS_WEIGHTS), date=_date(rng), advisories=_advisories(rng))
        for svn in chosen
    ]


def order_of_the_levels(draft: Draft) -> None:
    for levels in _all_levels(draft):
        draft.rng.shuffle(levels)


def words_for_the_status(draft: Draft) -> None:
    for index, levels in enumerate(_all_levels(draft)):
        for level in levels:
            if draft.rng.random() < 0.6:
                level["tcbStatus"] = _status(draft.rng, ISV_STATUS_WEIGHTS if index else STATUS_WEIGHTS)


def unknown_word_for_a_status(draft: Draft) -> None:
    level = draft.rng.choice(draft.rng.choice(_all_levels(draft)) or [{}])
    level["tcbStatus"] = draft.rng.choice(("TDRelaunchAdvised", "uptodate", "Fine", "", "UpToDate "))


def advisories(draft: Draft) -> None:
    for levels in _all_levels(draft):
        for level in levels:
            found = _advisories(draft.rng)
            level.pop("advisoryIDs", None)
            if found or draft.rng.random() < 0.5:
                level["advisoryIDs"] = found


def dates_of_the_levels(draft: Draft) -> None:
    for levels in _all_levels(draft):
        for level in levels:
            level["tcbDate"] = _date(draft.rng).strftime("%Y-%m-%dT%H:%M:%SZ")


def _all_levels(draft: Draft) -> list[list[dict[str, Any]]]:
    modules = draft.tcb_info.get("tdxModuleIdentities", ())
    return [draft.tcb_info["tcbLevels"], draft.qe_identity["tcbLevels"], *(each["tcbLevels"] for each in modules)]


def _status(rng: random.Random, weights: tuple[int, ...]) -> str:
    return rng.choices(STATUSES, weights)[0]


def _advisories(rng: random.Random) -> list[str]:
    return [f"INTEL-SA-{rng.randint(90000, 90009)}" for _ in range(rng.choice((0, 0, 1, 2, 3)))]


def _date(rng: random.Random) -> datetime:
    return datetime(2018, 1, 1, tzinfo=UTC) + timedelta(days=rng.randint(0, 3300))


def evaluation_numbers(draft: Draft) -> None:
    draft.tcb_info["tcbEvaluationDataNumber"] = draft.rng.choice((1, 17, 19, 20, 21))
    draft.qe_identity["tcbEvaluationDataNumber"] = draft.rng.choice((1, 17, 19, 20, 21))


def fmspc(draft: Draft) -> None:
    draft.tcb_info["fmspc"] = draft.rng.choice(
        (draft.tcb_info["fmspc"].upper(), "e0d06f000001", "00" * 6, "e0d06f", "zz" * 6)
    )


def pce_id(draft: Draft) -> None:
    draft.tcb_info["pceId"] = draft.rng.choice(("0000", "0001", "00", "000000"))


def kind_of_tcb_info(draft: Draft) -> None:
    name, value = draft.rng.choice(
        (("id", "SGX"), ("id", "TDX"), ("id", "tdx"), ("version", 2), ("version", 4), ("tcbType", 1), ("tcbType", 0))
    )
    draft.tcb_info[name] = value


def kind_of_qe_identity(draft: Draft) -> None:
    name, value = draft.rng.choice(
        (("id", "QE"), ("id", "TD_QE"), ("id", "QVE"), ("version", 1), ("version", 2), ("version", 3))
    )
    draft.qe_identity[name] = value


def identity_of_the_qe(draft: Draft) -> None:
    rng = draft.rng
    name, value = rng.choice(
        (
            ("mrsigner", bytes(rng.choice((b"\x51", b"\x7d", b"\x52"))).hex() * 32),
            ("isvprodid", rng.choice((0, 1, 2, 3))),
            ("miscselect", rng.choice(("00000000", "00000001", "01000000"))),
            ("miscselectMask", rng.choice(("FFFFFFFF", "00000000", "FEFFFFFF"))),
            ("attributes", rng.choice(("11", "15", "13", "01")) + "00" * 15),
            ("attributesMask", rng.choice(("FB", "FF", "00")) + "FF" * 7 + rng.choice(("00", "FF")) * 8),
        )
    )
    draft.qe_identity[name] = value


def report_of_the_qe(draft: Draft) -> None:
    rng, report = draft.rng, draft.qe_report
    flags = rng.choice((0x11, 0x15, 0x13, 0x17, 0x01, 0x05))
    draft.qe_report = rng.choice(
        (
            replace(report, attributes=bytes([flags]) + report.attributes[1:]),
            replace(report, attributes=report.attributes[:8] + b"\x03" + bytes(7)),
            replace(report, misc_select=rng.choice((bytes(4), b"\1\0\0\0", b"\0\0\0\1"))),
            replace(report, mr_signer=rng.choice((b"\x51", b"\x7d", b"\0")) * 32),
            replace(report, isv_prod_id=rng.choice((0, 1, 2, 3))),
            replace(report, mr_enclave=rng.randbytes(32), cpu_svn=rng.randbytes(16), config_svn=7),
            replace(report, report_data=rng.randbytes(64)),
            replace(report, reserved=1),
        )
    )


def identity_of_the_module(draft: Draft) -> None:
    rng, document = draft.rng, draft.tcb_info
    if draft.tee == SGX:
        return
    choice = rng.randrange(7)
    places = [document["tdxModule"], *document["tdxModuleIdentities"]] if "tdxModule" in document else []
    if choice == 0:
        document.pop(rng.choice(("tdxModule", "tdxModuleIdentities")), None)
    elif choice == 1:
        document["tdxModuleIdentities"] = rng.choice(([], document.get("tdxModuleIdentities", [])[:1]))
    elif choice == 2:
        for identity in document.get("tdxModuleIdentities", ()):
            identity["id"] = rng.choice((identity["id"].lower(), "TDX_1", "TDX_001", identity["id"], "TDX_02"))
    elif places:
        place = rng.choice(places)
        name, value = rng.choice(
            (
                ("mrsigner", rng.choice(("00", "01")) * 48),
                ("attributes", rng.choice(("00", "01")) * 8),
                ("attributesMask", rng.choice(("FF", "FE", "00")) * 8),
                ("attributes", "00" * 7),
            )
        )
        place[name] = value


def signer_of_the_module(draft: Draft) -> None:
    if draft.td is not None:
        name, value = draft.rng.choice(
            (
                ("mr_signer_seam", b"\1" * 48),
                ("seam_attributes", b"\1" + bytes(7)),
                ("seam_attributes", b"\1" * 8),
                ("mr_signer_seam", bytes(48)),
            )
        )
        draft.body = replace(draft.td, **{name: value})


def attributes(draft: Draft) -> None:
    rng = draft.rng
    if draft.td is not None:
        value = bytearray(draft.td.td_attributes)
        value[rng.choice((0, 0, 1, 2, 3, 3, 4, 7))] ^= 1 << rng.randrange(8)
        draft.body = replace(draft.td, td_attributes=bytes(value))
    else:
        value = bytearray(draft.body.encode()[48:64])
        value[rng.choice((0, 0, 0, 1, 7, 8, 15))] ^= 1 << rng.randrange(8)
        draft.body = replace(draft.body, attributes=bytes(value))


def values_nobody_compares(draft: Draft) -> None:
    rng = draft.rng
    if draft.td is not None:
        size = rng.randbytes
        draft.body = replace(
            draft.td, mr_seam=size(48), xfam=size(8), mr_td=size(48), mr_config_id=size(48), mr_owner=size(48),
            mr_owner_config=size(48), rtmrs=(size(48),) * 4, report_data=size(64),
        )  # fmt: skip
    else:
        draft.body = EnclaveReport(
            cpu_svn=rng.randbytes(16), mr_enclave=rng.randbytes(32), mr_signer=rng.randbytes(32),
            config_id=rng.randbytes(64), isv_prod_id=rng.randrange(65536), isv_svn=rng.randrange(65536),
            isv_family_id=rng.randbytes(16), report_data=rng.randbytes(64),
        )  # fmt: skip


def service_td(draft: Draft) -> None:
    if draft.td is not None and draft.td.tee_tcb_svn2 is not None:
        draft.body = replace(draft.td, mr_service_td=draft.rng.choice((bytes(47) + b"\1", b"\x11" * 48)))


def reserved_bytes(draft: Draft) -> None:
    if isinstance(draft.body, EnclaveReport):
        draft.body = replace(draft.body, reserved=1)


def header(draft: Draft) -> None:
    offset, value = draft.rng.choice(
        (
            (0, 2),
            (0, 6),
            (0, 5),
            (0, 4),
            (0, 3),
            (2, 3),
            (2, 0),
            (4, 0),
            (4, 0x81),
            (4, 0x82),
            (7, 1),
            (8, 3),
            (10, 3),
            (12, 0),
            (28, 9),
            (47, 1),
        )
    )

    def change(signed: bytes) -> bytes:
        return signed[:offset] + bytes([value]) + signed[offset + 1 :]

    draft.header = change


def body_descriptor(draft: Draft) -> None:
    if draft.version == 5:
        offset, value = draft.rng.choice(((48, 1), (48, 2), (48, 3), (48, 4), (48, 0), (49, 1), (50, 0), (51, 3)))

        def change(signed: bytes) -> bytes:
            return signed[:offset] + bytes([value]) + signed[offset + 1 :]

        draft.header = change


def time_of_judging(draft: Draft) -> None:
    second = timedelta(seconds=1)
    draft.at = draft.rng.choice(
        (SINCE, SINCE - second, SINCE + second, UNTIL, UNTIL - second, UNTIL + second, AT + timedelta(days=900))
    )


def dates_of_the_documents(draft: Draft) -> None:
    document = draft.rng.choice((draft.tcb_info, draft.qe_identity))
    name = draft.rng.choice(("issueDate", "nextUpdate"))
    at = draft.at + timedelta(seconds=draft.rng.choice((-86400, -1, 0, 0, 1, 86400)))
    document[name] = at.strftime("%Y-%m-%dT%H:%M:%SZ")


def forms_of_the_dates(draft: Draft) -> None:
    document = draft.rng.choice((draft.tcb_info, draft.qe_identity))
    name = draft.rng.choice(("issueDate", "nextUpdate"))
    document[name] = draft.rng.choice(
        (
            document[name].replace("Z", "+00:00"), document[name].replace("Z", ""), document[name].replace("T", " "),
            document[name].replace("Z", ".5Z"), document[name][:10], "2026-06-31T00:00:00Z", "", "soon",
            document[name].lower(), document[name].replace("Z", "+02:00"),
        )
    )  # fmt: skip


def dates_of_the_lists(draft: Draft) -> None:
    of = draft.rng.choice(("ca", "root"))
    shift = timedelta(seconds=draft.rng.choice((-86400, -1, 0, 0, 1, 86400)))
    draft.crl_times[of] = draft.rng.choice(
        ((draft.at + shift, UNTIL + timedelta(days=9)), (SINCE - timedelta(days=9), draft.at + shift))
    )


def dates_of_the_pck(draft: Draft) -> None:
    name = draft.rng.choice(("since", "until"))
    draft.pck[name] = draft.at + timedelta(seconds=draft.rng.choice((-86400, -1, 0, 0, 1, 86400)))


def revoked(draft: Draft) -> None:
    draft.revoked.append(draft.rng.choice(("pck", "ca", "signer", "root")))


def lists_of_others(draft: Draft) -> None:
    of, issuer = draft.rng.choice((("ca", "other ca"), ("ca", "root"), ("root", "ca"), ("root", "other ca")))
    draft.crl_of[of] = issuer


def order_of_the_chain(draft: Draft) -> None:
    order = draft.rng.choice(
        ((0, 2, 1), (2, 1, 0), (1, 0, 2), (0, 1), (0, 2), (1, 2), (0, 0, 1, 2), (0, 1, 1, 2), (0,), ())
    )
    draft.chain = lambda chain: tuple(chain[index] for index in order)


def chain_with_more(draft: Draft) -> None:
    rogue, real = intel("rogue"), intel()
    more = draft.rng.choice((rogue.root.der, rogue.platform_ca.der, real.processor_ca.der, real.tcb_signing.der))
    at_end = draft.rng.random() < 0.5
    draft.chain = lambda chain: (*chain, more) if at_end else (*chain[:1], more, *chain[1:])


def rogue_platform(draft: Draft) -> None:
    draft.pck_intel = intel("rogue")


def rogue_signer(draft: Draft) -> None:
    draft.signer_intel = intel("rogue")


def pck_by_another(draft: Draft) -> None:
    real = intel()
    draft.pck["issuer"] = draft.rng.choice(
        (real.root, real.tcb_signing, real.processor_ca, real.platform_ca, intel("rogue").platform_ca)
    )


def serial_of_the_pck(draft: Draft) -> None:
    draft.pck["serial"] = draft.rng.choice((1, 127, 128, 2**159 - 1))


def chains_of_the_collateral(draft: Draft) -> None:
    name = draft.rng.choice(("tcb_info_chain", "qe_identity_chain", "pck_crl_chain"))
    real = intel()
    draft.parts[name] = draft.rng.choice(
        (
            lambda chain: chain[::-1],
            lambda chain: chain[:1],
            lambda chain: (),
            lambda chain: (*chain, real.processor_ca.der),
            lambda chain: (real.platform_ca.der, real.root.der),
            lambda chain: (real.root.der,),
        )
    )


def sgx_extension(draft: Draft) -> None:
    content = make_sgx_extension(draft.platform)
    cut = draft.rng.randrange(len(content))
    draft.pck["sgx_extension"] = draft.rng.choice(
        (
            b"",
            content[:cut],
            content + b"\0",
            content[:cut] + bytes([content[cut] ^ 1 << draft.rng.randrange(8)]) + content[cut + 1 :],
        )
    )


def cpu_svn_unlike_the_components(draft: Draft) -> None:
    draft.platform = replace(draft.platform, cpu_svn=draft.rng.choice((b"\x09" * 16, bytes(16), b"\xff" * 16)))


def kind_of_the_platform(draft: Draft) -> None:
    draft.platform = replace(
        draft.platform, sgx_type=draft.rng.choice((0, 1, 2, 3)), configuration=(False, True, False)
    )


def forms_of_the_documents(draft: Draft) -> None:
    rng = draft.rng
    document = rng.choice((draft.tcb_info, draft.qe_identity))
    choice = rng.randrange(6)
    if choice == 0:
        document.pop(rng.choice(list(document)))
    elif choice == 1:
        document["somethingNew"] = {"nested": [1, 2.5, None]}
    elif choice == 2:
        document["tcbEvaluationDataNumber"] = rng.choice((-1, 2**32, "20", 20.0, None, True))
    elif choice == 3 and document["tcbLevels"]:
        level = rng.choice(document["tcbLevels"])
        level.pop(rng.choice(list(level)))
    elif choice == 4 and document["tcbLevels"]:
        tcb = rng.choice(document["tcbLevels"])["tcb"]
        name = "isvsvn" if "isvsvn" in tcb else "pcesvn"
        tcb[name] = rng.choice((-1, 65536, "5", 5.0, None, True))
    elif "tcbLevels" in draft.tcb_info:
        for level in draft.tcb_info["tcbLevels"]:
            components = level["tcb"]["sgxtcbcomponents"]
            rng.choice(
                (
                    lambda components=components: components.pop(),
                    lambda components=components: components.append({"svn": 0}),
                    lambda components=components: components[0].update(svn=rng.choice((256, -1, "1", 1.0))),
                    lambda components=components: components[0].update(category="BIOS", type="Early"),
                )
            )()


def texts_of_the_documents(draft: Draft) -> None:
    draft.texts[draft.rng.choice(("tcb_info", "qe_identity"))] = draft.rng.choice(
        (
            lambda text: json.dumps(json.loads(text), indent=1).encode(),
            lambda text: text.replace(b'"version":', b'"version":3,"version":'),
            lambda text: re.sub(rb'"tcbLevels":', b'"tcbLevels":[],"tcbLevels":', text),
            lambda text: text.replace(b'"id":', b'"id":"other","id":', 1),
            lambda text: text[:-1] + b',"extra":' + b"[" * 200 + b"]" * 200 + b"}",
            lambda text: text[:-1] + b',"extra":NaN}',
            lambda text: text[:-1] + b',"extra":1e999}',
            lambda text: text.replace(b"UpToDate", rb"UpTo\u0044ate"),
            lambda text: text + b" ",
            lambda text: b" " + text,
            lambda text: b"[" + text + b"]",
            lambda text: text.replace(b'"2026-', b'"+2026-'),
        )
    )


def certification_data(draft: Draft) -> None:
    draft.certification = draft.rng.choice(
        (
            lambda pem: (5, pem),
            lambda pem: (5, pem + b"\0\0\0"),
            lambda pem: (5, pem.replace(b"\n", b"\r\n")),
            lambda pem: (5, b"Certificates:\n" + pem),
            lambda pem: (5, pem.replace(b"-----\n-----BEGIN", b"-----\n\ntext\n\n-----BEGIN")),
            lambda pem: (5, pem.rstrip()),
            lambda pem: (5, pem + b"\0garbage"),
            lambda pem: (5, b""),
            lambda pem: (1, bytes(16)),
            lambda pem: (2, bytes(384)),
            lambda pem: (3, bytes(404)),
            lambda pem: (4, pem),
            lambda pem: (6, pem),
            lambda pem: (7, pem),
        )
    )


def authentication_data(draft: Draft) -> None:
    draft.qe_auth = draft.rng.choice((b"", b"\1", bytes(31), bytes(33), draft.rng.randbytes(1000)))


STATUS_MUTATIONS = (
    svns_of_the_platform, svns_of_the_platform, svn_of_the_pce, svns_of_the_module, svns_of_the_module,
    svns_of_the_module_now, svns_of_the_module_now, svn_of_the_qe, svn_of_the_qe, levels_of_the_platform,
    levels_of_the_platform, levels_of_the_module, levels_of_the_qe, order_of_the_levels, words_for_the_status,
    words_for_the_status, advisories, dates_of_the_levels, evaluation_numbers, values_nobody_compares,
)  # fmt: skip
OTHER_MUTATIONS = (
    unknown_word_for_a_status, fmspc, pce_id, kind_of_tcb_info, kind_of_qe_identity, identity_of_the_qe,
    report_of_the_qe, identity_of_the_module, signer_of_the_module, attributes, service_td, reserved_bytes, header,
    body_descriptor, time_of_judging, dates_of_the_documents, forms_of_the_dates, dates_of_the_lists,
    dates_of_the_pck, revoked, lists_of_others, order_of_the_chain, chain_with_more, rogue_platform, rogue_signer,
    pck_by_another, serial_of_the_pck, chains_of_the_collateral, sgx_extension, cpu_svn_unlike_the_components,
    kind_of_the_platform, forms_of_the_documents, texts_of_the_documents, certification_data, authentication_data,
)  # fmt: skip


# Mutations of bytes, after signing.


def _flip(rng: random.Random, data: bytes) -> bytes:
    offset = rng.randrange(len(data))
    return data[:offset] + bytes([data[offset] ^ 1 << rng.randrange(8)]) + data[offset + 1 :]


def flipped_quote(rng: random.Random, quote: bytes, collateral: IntelCollateral) -> tuple[bytes, IntelCollateral]:
    return _flip(rng, quote), collateral


def flipped_head_of_the_quote(rng, quote, collateral):
    return _flip(rng, quote[:1300]) + quote[1300:], collateral


def cut_quote(rng, quote, collateral):
    return quote[: rng.randrange(len(quote))], collateral


def longer_quote(rng, quote, collateral):
    return quote + rng.choice((b"\0", bytes(64), b"\1", rng.randbytes(8))), collateral


def flipped_document(rng, quote, collateral):
    name = rng.choice(("tcb_info", "qe_identity"))
    document = bytearray(getattr(collateral, name))
    first, last = document.index(b":") + 1, document.rindex(b',"signature":"')
    offset = rng.randrange(first, last)
    document[offset] ^= 1 << rng.randrange(7)
    return quote, replace(collateral, **{name: bytes(document)})


def flipped_signature_of_a_document(rng, quote, collateral):
    name = rng.choice(("tcb_info", "qe_identity"))
    body, signature = split_document(getattr(collateral, name))
    prefix = getattr(collateral, name)[: getattr(collateral, name).index(b":") + 1]
    changed = prefix + body + b',"signature":"' + _flip(rng, signature).hex().encode() + b'"}'
    return quote, replace(collateral, **{name: changed})


def flipped_list(rng, quote, collateral):
    name = rng.choice(("pck_crl", "root_ca_crl"))
    return quote, replace(collateral, **{name: _flip(rng, getattr(collateral, name))})


def flipped_chain(rng, quote, collateral):
    name = rng.choice(("tcb_info_chain", "qe_identity_chain"))
    chain = list(getattr(collateral, name))
    chain[0] = _flip(rng, chain[0])
    return quote, replace(collateral, **{name: tuple(chain)})


def collateral_of_the_other_tee(rng, quote, collateral):
    tee = TDX if b'"id":"SGX"' in collateral.tcb_info else SGX
    other = intel().make_collateral(tee, Platform())
    names = rng.choice((("tcb_info",), ("qe_identity",), ("tcb_info", "qe_identity")))
    return quote, replace(collateral, **{name: getattr(other, name) for name in names})


def swapped_documents(rng, quote, collateral):
    return quote, replace(collateral, pck_crl=collateral.root_ca_crl, root_ca_crl=collateral.pck_crl)


RAW_MUTATIONS = (
    flipped_quote, flipped_quote, flipped_head_of_the_quote, flipped_head_of_the_quote, cut_quote, longer_quote,
    flipped_document, flipped_signature_of_a_document, flipped_list, flipped_chain, collateral_of_the_other_tee,
    swapped_documents,
)  # fmt: skip


def make_case(number: int, *, without: str = "") -> Case:
    """Return the case of a number; three of four are re-signed throughout.

    Args:
        number: of the case.
        without: a mutation, one of `OTHER_MUTATIONS`, to leave out of it.
    """
    rng = random.Random(number)
    draft = make_draft(rng)
    resigned = number % 4 != 0
    names = []
    for _ in range(rng.choice((1, 2, 3, 4)) if resigned else rng.choice((0, 0, 1))):
        mutate = rng.choice(STATUS_MUTATIONS)
        mutate(draft)
        names.append(mutate.__name__)
    if resigned and rng.random() < 0.4:
        mutate = rng.choice(OTHER_MUTATIONS)
        if mutate.__name__ != without:
            mutate(draft)
            names.append(mutate.__name__)
    quote, collateral = draft.build()
    if not resigned:
        change = rng.choice(RAW_MUTATIONS)
        quote, collateral = change(rng, quote, collateral)
        names.append(change.__name__)
    return Case(number, tuple(names), resigned, quote, collateral, intel().root.der, draft.at)
