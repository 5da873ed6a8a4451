# SPDX-License-Identifier: Apache-2.0
"""What is given beside an Enarx.toml, put over it: the one way for `enarx run` and for a Keep.

Whoever runs a package can replace its arguments and its TLS peers, add to or change its environment, say on which ports it listens
and set its limits; nothing else. `enarx run --env A=B` needs this at every start, so it imports nothing but the records.
"""

from __future__ import annotations

from enarx.errors import ConfigError
from enarx.wire.records import DEFAULT, MAX_INT, MAX_OPEN_FILES, EnarxToml, ListenFile, Peer, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enarx.wire.records import File, Tls
    from enarx.wire.release import Configuration

__all__ = ["Overrides", "apply_overrides", "require_steward"]

# Field, least and most, as Enarx.toml has them.
_LIMITS = {
    "memory-bytes": ("memory_bytes", 0, MAX_INT),
    "timeout-ms": ("timeout_s", 1, 365 * 86_400_000),
    "fuel": ("fuel", 1, MAX_INT),
    "output-bytes": ("output_bytes", 0, MAX_INT),
    "open-files": ("open_files", 1, MAX_OPEN_FILES),
}


class Overrides:
    """What `enarx.wire.release.Configuration` holds, for those who cannot wait for its import.

    Args:
        arguments: instead of the file's, or None.
        environment: names and values, each instead of the file's of that name or after all of them.
        listen: name, `tls` or `tcp`, and port of `listen` entries, each instead of the file's of that name or after all;
            an empty prot is the entry's own, and `tls` for a new one.
        limits: `memory-bytes`, `timeout-ms`, `fuel`, `output-bytes` and `open-files`, those that are set.
        peers: digests of package and tenant, instead of the file's; None for the tenant is any. None, or none at all, is the file's.
    """

    __slots__ = ("arguments", "environment", "limits", "listen", "peers")

    def __init__(
        self,
        *,
        arguments: Sequence[str] | None = None,
        environment: Sequence[tuple[str, str]] | None = None,
        listen: Sequence[tuple[str, str, int]] | None = None,
        limits: Mapping[str, float] | None = None,
        peers: Sequence[tuple[bytes, bytes | None]] | None = None,
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.listen = listen
        self.limits = limits
        self.peers = peers


def apply_overrides(toml: EnarxToml | None, configuration: Configuration | Overrides) -> EnarxToml:
    """Return what holds.

    Args:
        toml: the file, or None where there is none.
        configuration: what is given beside it. Its `files`, for which a record of this kind has no room, are the caller's.

    Raises:
        ConfigError: a name, text or number that no Enarx.toml could have; no value of a variable or argument is shown.
    """
    base = DEFAULT if toml is None else toml
    environment = dict(base.env)
    for name, value in configuration.environment or ():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError("environment: found a name or value that cannot be one, want NAME=VALUE without NUL")
        environment[name] = value
    arguments = base.args if configuration.arguments is None else tuple(configuration.arguments)
    if any("\0" in argument for argument in arguments):
        raise ConfigError("arguments: found a NUL character, want text without")
    files = list(base.files)
    for name, prot, port in configuration.listen or ():
        _listen(files, name, prot, port)
    return replace(
        base,
        args=arguments,
        env=tuple(environment.items()),
        files=tuple(files),
        limits=replace(base.limits, **_limits(configuration.limits or {})),
        tls=_with_peers(base.tls, configuration.peers) if configuration.peers else base.tls,
    )


def require_steward(toml: EnarxToml, *, has_steward: bool) -> None:
    """Return only if what holds for TLS goes together with there being a Steward, or none.

    Args:
        toml: what holds.
        has_steward: whether the Keep has a certificate of a Steward that the tenant named.

    Raises:
        ConfigError: it does not.
    """
    tls = toml.tls
    if tls.peers and not has_steward:
        raise ConfigError(
            "tls.peers: found no Steward, want the one that certifies the peers",
            hint="enarx deploy --steward URL --steward-root FILE names it, or [steward] of the policy; enarx run has none",
            key="tls.peers",
        )
    if tls.client_auth != "none" and not tls.peers and not tls.trust_anchors and not has_steward:
        raise ConfigError(
            f'tls.client_auth: found "{tls.client_auth}" without tls.trust_anchors and without a Steward, want one of them:'
            " somebody has to say whose certificates clients show",
            hint='add trust_anchors = ["clients-ca.pem"]; or enarx deploy --steward URL --steward-root FILE, which then'
            " certifies the clients",
            key="tls.client_auth",
        )
    if has_steward and tls.certificate is not None:
        raise ConfigError(
            "tls.certificate: found together with a Steward, want one of them: the Keep shows one certificate",
            hint="leave certificate and private_key out of Enarx.toml, or deploy without --steward and [steward] of the policy",
            key="tls.certificate",
        )


def _with_peers(tls: Tls, peers: Sequence[tuple[bytes, bytes | None]]) -> Tls:
    """Return what holds for TLS with other peers: the Steward's root and its word alone."""
    for key in ("certificate", "trust_anchors"):
        if getattr(tls, key):
            raise ConfigError(
                f"tls.{key}: found together with peers, want one of them: peers are certified by a Steward",
                key=f"tls.{key}",
            )
    named = tuple(
        Peer(package=package.hex(), tenant="any" if tenant is None else tenant.hex()) for package, tenant in peers
    )
    return replace(tls, client_auth="required", peers=named)


def _listen(files: list[File], name: str, prot: str, port: int) -> None:
    """Give a listen entry another port, or add one."""
    for number, file in enumerate(files):
        if isinstance(file, ListenFile) and file.name == name:
            files[number] = replace(file, port=port, prot=prot or file.prot)
            return
    if not name or ":" in name or not name.isprintable():
        raise ConfigError("listen: found a name that cannot be one, want text without ':' and control characters")
    files.append(ListenFile(name=name, prot="tcp" if prot == "tcp" else "tls", port=port))


def _limits(given: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for key, number in given.items():
        field, least, most = _LIMITS[key]
        if not least <= number <= most:
            raise ConfigError(f"limits: {key}: found {number}, want {least} to {most}", key=f"limits.{key}")
        found[field] = number / 1000 if field == "timeout_s" else number
    return found
