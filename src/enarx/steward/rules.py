# SPDX-License-Identifier: Apache-2.0
"""By what a Steward decides: its two files, and the flags of the command, made into judges.

Without a policy there are no rules: any genuine TEE would be accepted, whatever runs there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from enarx.endorsers import AMD_KDS_URL, INTEL_PCS_URL, Client, Endorsers, Timing
from enarx.endorsers.emulated_root import emulated_root
from enarx.errors import UsageError
from enarx.steward import folder as files
from enarx.steward.authority import write_key
from enarx.steward.configuration import ANY_TENANT, Configuration, decode_configuration
from enarx.steward.court import Certifier, Court, Recipe, Rules
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import StewardKeys
from enarx.steward.judging import Judge, OperatorPolicy, make_policy
from enarx.steward.models import Grant, Policies, PolicyText
from enarx.steward.original import OriginalSteward
from enarx.steward.vendors import NEWEST_AGE, Fetch, Fetching, lists_at_hand, make_missing, make_newest
from enarx.verifier import TrustCache

__all__ = ["LoadedRules", "RuleSources", "load_configuration", "load_rules", "make_fetch"]

FETCH_WAIT_S = 10.0
"""For each thing that is fetched; whoever asks waits for it."""

FETCH_TOTAL_S = 20.0
"""For all that one request lacks. What is asked for a result has half of it."""

NEWEST_TOTAL_S = 5.0
"""For newer lists than those at hand."""

_FETCHED = "endorsements"
_FETCHED_FOR_RESULTS = "endorsements-for-results"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSources:
    """What rules are made of beside the files in the folder.

    Args:
        now: the time, aware UTC.
        accept_emulated: emulated roots that are accepted beside the policy, as `enarx.endorsers.emulated_root` takes them.
        is_offline: whether nothing is fetched.
        amd_url: a mirror of AMD's service, or None.
        intel_url: a mirror of Intel's service, or None.
        proxy: to fetch through, or None.
    """

    now: Callable[[], datetime]
    accept_emulated: tuple[str, ...] = ()
    is_offline: bool = False
    amd_url: str | None = None
    intel_url: str | None = None
    proxy: str | None = None


class LoadedRules(NamedTuple):
    """Rules, and what everybody may know of them.

    Args:
        rules: to decide by.
        configuration: of the Steward.
        shown: to everybody.
    """

    rules: Rules
    configuration: Configuration
    shown: Policies


def load_configuration(folder: StewardFolder) -> Configuration:
    """Read steward.toml.

    Raises:
        UsageError: it is not there.
        ConfigError: it is wrong.
        PlatformError: it cannot be read, or others can write it.
    """
    return decode_configuration(folder.read(files.CONFIGURATION), path=folder.file(files.CONFIGURATION))


def make_fetch(folder: StewardFolder, sources: RuleSources) -> Fetching | None:
    """Return what fetches endorsements, with caches in the folder; None where nothing may be fetched.

    Raises:
        PlatformError: a cache cannot be used.
        UsageError: an address is none.
    """
    if sources.is_offline:
        return None

    def endorsers(kept: str, total_s: float) -> Endorsers:
        return Endorsers(
            kept,
            timing=Timing(now=sources.now),
            client=Client(proxy=sources.proxy),
            amd_url=sources.amd_url or AMD_KDS_URL,
            intel_url=sources.intel_url or INTEL_PCS_URL,
            max_wait_s=FETCH_WAIT_S,
            max_total_s=total_s,
            max_age=NEWEST_AGE,
        )

    kept = folder.file(_FETCHED)
    return Fetching(
        missing=make_missing(endorsers(kept, FETCH_TOTAL_S)),
        for_results=make_missing(endorsers(folder.file(_FETCHED_FOR_RESULTS), FETCH_WAIT_S)),
        newest=make_newest(endorsers(kept, NEWEST_TOTAL_S), kept),
        kept=kept,
    )


def load_rules(
    folder: StewardFolder,
    sources: RuleSources,
    configuration: Configuration,
    keys: StewardKeys,
    fetching: Fetching | None,
) -> LoadedRules:
    """Read the policy, and make rules of it and the configuration.

    Args:
        folder: of the Steward.
        sources: the flags.
        configuration: from `load_configuration`.
        keys: the Steward's.
        fetching: from `make_fetch`.

    Raises:
        UsageError: there is no policy, or it names an image that is not installed.
        ConfigError: it is wrong.
        PlatformError: it or the installation cannot be read, or others can write it.
        VerificationError: an image that it names is not what it was when it was made.
    """
    path = folder.file(files.POLICY)
    text = folder.read(files.POLICY) if folder.has(files.POLICY) else b""
    if not any(line.strip() and not line.lstrip().startswith(b"#") for line in text.splitlines()):
        raise UsageError(
            f"cannot decide: {path}: found no policy, want one: without it any genuine TEE would do",
            hint=f"enarx policy init {path} --image NAME, or --tee snp and fill it in",
        )
    roots = map(emulated_root, sources.accept_emulated)
    policy = make_policy(text, path=path, name=files.POLICY, accepted_roots=roots)
    cache = TrustCache()

    def court(fetch: Fetch | None, newest: Fetch | None) -> Court:
        original = None
        if configuration.is_original_enabled:
            original = OriginalSteward(keys.original, policy, fetch=fetch, cache=cache)
        return Court(
            judge=Judge(
                policy,
                configuration,
                root=keys.authority.certificate,
                result_key=keys.result_key,
                fetch=fetch,
                newest=newest,
                cache=cache,
            ),
            policy_sha256=policy.sha256,
            authority=keys.authority,
            result_key=keys.result_key,
            original=original,
        )

    recipe = Recipe(
        policy_text=policy.text,
        policy_name=policy.name,
        accepted_roots=policy.accepted_roots,
        configuration=configuration,
        authority=Certifier.of(keys.authority),
        result_key=write_key(keys.result_key),
        original=Certifier.of(keys.original) if configuration.is_original_enabled else None,
        kept=None if fetching is None else fetching.kept,
    )
    at_hand = None if fetching is None else lists_at_hand(fetching.kept)
    rules = Rules(
        court=court(None, at_hand),
        fetching=None if fetching is None else court(fetching.missing, fetching.newest),
        recipe=recipe,
        for_results=None if fetching is None else court(fetching.for_results, at_hand),
    )
    return LoadedRules(rules, configuration, _shown(policy, configuration))


def _shown(policy: OperatorPolicy, configuration: Configuration) -> Policies:
    return Policies(
        policies=[PolicyText(name=policy.name, sha256=policy.sha256.hex(), text=policy.text.decode())],
        insecure_accepted_roots=sorted(root.hex() for root in policy.policy.insecure_emulated_roots),
        grants=[
            Grant(
                package=grant.package.hex(),
                tenant=ANY_TENANT if grant.tenant is None else grant.tenant.hex(),
                dns=list(grant.dns),
            )
            for grant in configuration.grants
        ],
        trust_domain=configuration.trust_domain,
        lifetime_s=int(configuration.lifetime.total_seconds()),
    )
