# SPDX-License-Identifier: Apache-2.0
"""What a Steward has from vendors: what evidence lacks, and the newest lists of what is revoked.

Rules of this file:

- Whoever sends evidence chooses the lists that come with it, and may keep an old one for as long as it lasts. So what vendors say now is
  looked at beside it: of several lists the one that revokes decides, and of several sets of collateral the newest.
- A vendor that cannot be reached makes nothing worse than it is: the lists at hand are used, and then those that came along.
- What anybody may have fetched has a folder of its own: asking takes turns in each, and what is kept is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from enarx.endorsers import Endorsers, Timing
from enarx.rats import Endorsements
from enarx.verifier import Recognised

__all__ = ["Fetch", "Fetching", "lists_at_hand", "make_missing", "make_newest"]

NEWEST_AGE = timedelta(hours=1)
"""For so long lists and collateral of our own fetching are the newest."""

SLOW_S = 2.0
VAIN_S = 600.0
"""A vendor that took longer than the first to give nothing is not asked for newer lists until the second has passed."""

Fetch = Callable[[Recognised, Endorsements, datetime], Endorsements]
"""Fetches what evidence needs and is not at hand, for a time. Raises EndorsementError with what to do where there is none of it."""


class Fetching(NamedTuple):
    """What may be fetched, and for whom.

    Args:
        missing: what a Keep that asks for a certificate did not send.
        for_results: the same for anybody who asks for a result.
        newest: lists and collateral, at most an hour old where the vendor answers. Raises nothing.
        kept: the folder they are in.
    """

    missing: Fetch
    for_results: Fetch
    newest: Fetch
    kept: str


def make_missing(endorsers: Endorsers) -> Fetch:
    """Return what fetches what is missing."""

    def fetch(recognised: Recognised, known: Endorsements, at: datetime) -> Endorsements:
        fetched = endorsers.fetch_for(recognised, known=known, at=at)
        if not fetched.sources:
            fetched.require()
        return fetched.endorsements

    return fetch


def make_newest(endorsers: Endorsers, kept: str, *, monotonic: Callable[[], float] = time.monotonic) -> Fetch:
    """Return what gives the newest lists.

    Args:
        endorsers: whose lists are at most `NEWEST_AGE` old.
        kept: their folder.
        monotonic: in seconds.
    """
    at_hand = lists_at_hand(kept)
    in_vain: dict[str, float] = {}

    def newest(recognised: Recognised, known: Endorsements, at: datetime) -> Endorsements:
        began = monotonic()
        failed = in_vain.get(recognised.section)
        if failed is not None and began - failed < VAIN_S:
            return at_hand(recognised, known, at)
        fetched = endorsers.fetch_newest_for(recognised, known=known)
        if fetched.missing and monotonic() - began > SLOW_S:
            in_vain[recognised.section] = monotonic()
        return fetched.endorsements

    return newest


def lists_at_hand(kept: str) -> Fetch:
    """Return what gives the newest lists of a folder, and fetches nothing.

    Raises:
        PlatformError: the folder cannot be used.
    """
    clock = _Clock()
    endorsers = Endorsers(kept, timing=Timing(now=clock), offline=True)

    def newest(recognised: Recognised, known: Endorsements, at: datetime) -> Endorsements:
        clock.at = at
        return endorsers.fetch_newest_for(recognised, known=known).endorsements

    return newest


class _Clock:
    """The time that is judged for."""

    def __init__(self) -> None:
        self.at = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at
