# SPDX-License-Identifier: Apache-2.0
"""Intel's judgement of a platform: which TCB level it is at, which word that is, and which advisories apply.

Rules of this file:

- It knows values and no bytes: signatures, dates and identities of what it is given were checked elsewhere.
- Levels are taken from the highest to the lowest; the first that a platform reaches is its level.
- Whatever is not in Intel's rules, an unknown word or a level that is not there, is said and never guessed.

Source: Intel SGX and TDX PCS API 4, "TCB levels" and "TDX TCB evaluation"; Intel SGX ECDSA Quote Library Reference, appendix on
quote verification; Intel TDX DCAP Quote Verification, TD relaunch.
"""

from __future__ import annotations

from datetime import datetime
from operator import ge
from typing import NamedTuple

__all__ = [
    "STATUSES",
    "IsvLevel",
    "ModuleIdentity",
    "QeIdentity",
    "SvnLevel",
    "TcbInfo",
    "TcbStanding",
    "appraise_tcb",
    "find_isv_level",
    "find_module_identity",
    "merge_status",
    "module_version",
]

_UP_TO_DATE, _SW = "UpToDate", "SWHardeningNeeded"
_CONFIGURATION, _CONFIGURATION_SW = "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"
_OUT_OF_DATE, _OUT_OF_DATE_CONFIGURATION = "OutOfDate", "OutOfDateConfigurationNeeded"
_RELAUNCH, _RELAUNCH_CONFIGURATION = "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"
_REVOKED = "Revoked"

STATUSES = (
    _UP_TO_DATE,
    _SW,
    _CONFIGURATION,
    _CONFIGURATION_SW,
    _RELAUNCH,
    _RELAUNCH_CONFIGURATION,
    _OUT_OF_DATE,
    _OUT_OF_DATE_CONFIGURATION,
    _REVOKED,
)
"""Intel's words for a platform, the best first."""

_OF_LEVELS = frozenset(STATUSES) - {_RELAUNCH, _RELAUNCH_CONFIGURATION}
_OF_MODULES = frozenset({_UP_TO_DATE, _OUT_OF_DATE, _REVOKED})
_OF_QES = _OF_MODULES | {_CONFIGURATION, _OUT_OF_DATE_CONFIGURATION}
_NEEDS_CONFIGURATION = frozenset({_CONFIGURATION, _CONFIGURATION_SW, _OUT_OF_DATE_CONFIGURATION})
_MERGED_WITH_OUT_OF_DATE = {
    _UP_TO_DATE: _OUT_OF_DATE,
    _SW: _OUT_OF_DATE,
    _CONFIGURATION: _OUT_OF_DATE_CONFIGURATION,
    _CONFIGURATION_SW: _OUT_OF_DATE_CONFIGURATION,
}


class SvnLevel(NamedTuple):
    """A TCB level of a platform.

    Args:
        components: 16 SVNs of the processor.
        pce_svn: of the provisioning certification enclave.
        tdx_components: 16 SVNs of TDX, or None for SGX.
        date: when the level became current.
        status: Intel's word.
        advisory_ids: that apply.
    """

    components: tuple[int, ...]
    pce_svn: int
    tdx_components: tuple[int, ...] | None
    date: datetime
    status: str
    advisory_ids: tuple[str, ...]


class IsvLevel(NamedTuple):
    """A TCB level of a quoting enclave or a TDX module."""

    isv_svn: int
    date: datetime
    status: str
    advisory_ids: tuple[str, ...]


class ModuleIdentity(NamedTuple):
    """What a TDX module of one major version must be.

    Args:
        id: `TDX_` and the version in two hexadecimal digits; empty for the one that stands for version 0.
        mr_signer: 48 bytes.
        attributes: 8 bytes.
        attributes_mask: 8 bytes, which of them count.
        levels: in Intel's order.
    """

    id: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...] = ()


class TcbInfo(NamedTuple):
    """What Intel says about platforms of one FMSPC.

    Args:
        tee: `SGX` or `TDX`.
        issue_date: the first second for which it holds.
        next_update: the last one.
        fmspc: 6 bytes.
        pce_id: 2 bytes.
        tcb_type: 0.
        evaluation_data_number: rises with each TCB recovery.
        module: of TDX module version 0; None for SGX.
        modules: of the later versions.
        levels: from the highest to the lowest.
    """

    tee: str
    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    tcb_type: int
    evaluation_data_number: int
    module: ModuleIdentity | None
    modules: tuple[ModuleIdentity, ...]
    levels: tuple[SvnLevel, ...]


class QeIdentity(NamedTuple):
    """What Intel's quoting enclave must be.

    Args:
        id: `QE` or `TD_QE`.
        issue_date: the first second for which it holds.
        next_update: the last one.
        evaluation_data_number: as in `TcbInfo`.
        misc_select: 4 bytes, with its mask.
        misc_select_mask: which bits count.
        attributes: 16 bytes, with their mask.
        attributes_mask: which bits count.
        mr_signer: 32 bytes.
        isv_prod_id: a number.
        levels: in Intel's order.
    """

    id: str
    issue_date: datetime
    next_update: datetime
    evaluation_data_number: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[IsvLevel, ...]


class TcbStanding(NamedTuple):
    """Where a platform stands; a level is None where it was not found.

    Args:
        status: the merged word, or None where a level was not found or has a word that Intel's rules do not know.
        advisory_ids: of all levels, as Intel lists them.
        platform: the platform's level.
        module: the TDX module's level; None also for SGX and for module version 0, which has none.
        qe: the quoting enclave's level.
        has_current: whether the levels of what runs now were found; without a TDX 1.5 report, of what there is.
        unknown: words that Intel's rules do not know.
    """

    status: str | None
    advisory_ids: tuple[str, ...]
    platform: SvnLevel | None
    module: IsvLevel | None
    qe: IsvLevel | None
    has_current: bool
    unknown: frozenset[str]

    @property
    def date(self) -> datetime | None:
        """The date of the oldest level, or None where there is none."""
        levels = (self.platform, self.module, self.qe)
        return min((level.date for level in levels if level is not None), default=None)

    @property
    def out_of_date(self) -> bool:
        """Whether an update is due."""
        return self.status not in {_UP_TO_DATE, _SW, _CONFIGURATION, _CONFIGURATION_SW}


def module_version(tee_tcb_svn: bytes) -> int:
    """Return the major version of the TDX module."""
    return tee_tcb_svn[1]


def find_module_identity(info: TcbInfo, version: int) -> ModuleIdentity | None:
    """Return what a TDX module of a version must be, or None where Intel does not know the version."""
    if version == 0:
        return info.module
    wanted = f"TDX_{version:02X}"
    return next((identity for identity in info.modules if identity.id.upper() == wanted), None)


def find_isv_level(levels: tuple[IsvLevel, ...], isv_svn: int) -> IsvLevel | None:
    """Return the first level that an ISV SVN reaches."""
    return next((level for level in levels if isv_svn >= level.isv_svn), None)


def appraise_tcb(
    info: TcbInfo,
    identity: QeIdentity,
    components: tuple[int, ...],
    pce_svn: int,
    qe_isv_svn: int,
    tee_tcb_svn: bytes | None = None,
    tee_tcb_svn2: bytes | None = None,
) -> TcbStanding:
    """Find out where a platform stands.

    Args:
        info: for the platform's FMSPC and the quote's TEE.
        identity: of the quoting enclave.
        components: 16 SVNs of the PCK certificate.
        pce_svn: of the PCK certificate.
        qe_isv_svn: of the quoting enclave's report.
        tee_tcb_svn: 16 bytes of a TD report, or None for SGX.
        tee_tcb_svn2: 16 bytes of a TDX 1.5 report, or None.
    """
    qe = find_isv_level(identity.levels, qe_isv_svn)
    launch = _find_levels(info, components, pce_svn, tee_tcb_svn)
    now = launch if tee_tcb_svn2 is None else _find_levels(info, components, pce_svn, tee_tcb_svn2)
    advisories: dict[str, None] = {}
    unknown: set[str] = set()
    for level, words in (
        (launch.platform, _OF_LEVELS),
        (launch.module, _OF_MODULES),
        (now.platform, _OF_LEVELS),
        (now.module, _OF_MODULES),
        (qe, _OF_QES),
    ):
        if level is not None and level.status not in words:
            unknown.add(level.status)
    for level in (launch.platform, launch.module, qe):
        if level is not None:
            advisories.update(dict.fromkeys(level.advisory_ids))
    status, current = _merge_levels(launch, qe), _merge_levels(now, qe)
    if current is None or unknown:
        status = None
    elif status is not None and now is not launch:
        status = _advise_relaunch(status, current)
    return TcbStanding(
        status, tuple(advisories), launch.platform, launch.module, qe, now.is_complete, frozenset(unknown)
    )


class _Levels(NamedTuple):
    """Levels of one vector of SVNs; `is_complete` if all were found."""

    platform: SvnLevel | None
    module: IsvLevel | None
    is_complete: bool


def _find_levels(info: TcbInfo, components: tuple[int, ...], pce_svn: int, tee_tcb_svn: bytes | None) -> _Levels:
    platform = _find_platform(info.levels, components, pce_svn, tee_tcb_svn)
    if tee_tcb_svn is None or module_version(tee_tcb_svn) == 0:
        return _Levels(platform, None, platform is not None)
    identity = find_module_identity(info, module_version(tee_tcb_svn))
    module = find_isv_level(identity.levels, tee_tcb_svn[0]) if identity is not None else None
    return _Levels(platform, module, platform is not None and module is not None)


def _find_platform(
    levels: tuple[SvnLevel, ...], components: tuple[int, ...], pce_svn: int, tee_tcb_svn: bytes | None
) -> SvnLevel | None:
    # From version 1 on the TDX module has levels of its own, and the first two components are the module's.
    start = 2 if tee_tcb_svn is not None and module_version(tee_tcb_svn) > 0 else 0
    for level in levels:
        if pce_svn < level.pce_svn or not all(map(ge, components, level.components)):
            continue
        if tee_tcb_svn is None:
            return level
        if level.tdx_components is not None and all(map(ge, tee_tcb_svn[start:], level.tdx_components[start:])):
            return level
    return None


def _merge_levels(levels: _Levels, qe: IsvLevel | None) -> str | None:
    if not levels.is_complete or levels.platform is None or qe is None:
        return None
    status = levels.platform.status
    if levels.module is not None:
        status = merge_status(status, levels.module.status)
    return merge_status(status, qe.status)


def merge_status(status: str, part: str) -> str:
    """Return the word for a platform of which a part, the TDX module or the quoting enclave, has a word of its own."""
    if part == _REVOKED:
        return _REVOKED
    return _MERGED_WITH_OUT_OF_DATE.get(status, status) if part == _OUT_OF_DATE else status


def _advise_relaunch(launch: str, current: str) -> str:
    """Return the word for a domain from those for what it was launched on and for what runs now."""
    if _REVOKED in {launch, current}:
        return _REVOKED
    if current in _MERGED_WITH_OUT_OF_DATE and launch not in _MERGED_WITH_OUT_OF_DATE:
        return _RELAUNCH_CONFIGURATION if _NEEDS_CONFIGURATION & {launch, current} else _RELAUNCH
    return launch
