# SPDX-License-Identifier: Apache-2.0
"""steward.toml: what a Steward is called, how long its certificates last, and who gets which names.

::

    name = "steward.example.com"            # by which it is reached
    trust_domain = "example.com"            # of SPIFFE identifiers; the name where it is left out
    lifetime = "24h"                        # of certificates, 10m to 168h
    crl_url = "http://steward.example.com/v1/crl"   # written into certificates where it is given

    [original]
    enabled = false                         # the original's protocol, for keys without names

    [[grant]]
    package = "64 hex digits"               # the package's digest
    tenant = "96 hex digits"                # of the tenant's key; or "any", which holds for pristine Keeps alone
    dns = ["web.example.com"]

Rules of this file:

- A grant names package and tenant. Anybody can deploy a public package with arguments of his own; `any` is for Keeps that have none.
- What is not understood is refused: a key that is ignored could be the one that narrows a grant.
- What evidence must be is in the policy file; nothing of it is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from enarx.errors import ConfigError
from enarx.wire.quoting import kind_of, quote
from enarx.wire.release import Identity
from enarx.wire.toml_lines import KeyPath, line_finder
from enarx.wire.toml_text import all_of, dotted, one_of, parse_toml
from enarx.wire.units import parse_duration

__all__ = [
    "ANY_TENANT",
    "DEFAULT_LIFETIME",
    "MAX_LIFETIME",
    "MIN_LIFETIME",
    "Configuration",
    "Grant",
    "configuration_text",
    "decode_configuration",
    "names_for",
]

MAX_BYTES = 1_000_000
MAX_GRANTS = 1000
MAX_NAMES = 32
"""Of one grant; all of them are in each certificate."""
MIN_LIFETIME, MAX_LIFETIME = timedelta(minutes=10), timedelta(hours=168)
DEFAULT_LIFETIME = timedelta(hours=24)
ANY_TENANT = "any"

_KEYS = ("name", "trust_domain", "lifetime", "crl_url", "original", "grant")
_ORIGINAL_KEYS = ("enabled",)
_GRANT_KEYS = ("package", "tenant", "dns")
_HEX = re.compile(r"[0-9a-f]*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label has a letter, so that it is no address.
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?=[0-9-]*[a-z]){_LABEL}")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+/[!-~]{0,1000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who gets which names.

    Args:
        package: SHA-256 of the manifest.
        tenant: SHA-384 of the tenant's key; None is any, for pristine Keeps alone.
        dns: names, perhaps none: then the SPIFFE identifier alone.
    """

    package: bytes
    tenant: bytes | None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What steward.toml says.

    Args:
        name: DNS name of the Steward.
        trust_domain: of SPIFFE identifiers.
        lifetime: of certificates.
        crl_url: for certificates, or None.
        is_original_enabled: whether the original's protocol is answered.
        grants: in their order.
    """

    name: str
    trust_domain: str
    lifetime: timedelta = DEFAULT_LIFETIME
    crl_url: str | None = None
    is_original_enabled: bool = False
    grants: tuple[Grant, ...] = ()


def names_for(grants: tuple[Grant, ...], identity: Identity) -> tuple[str, ...] | None:
    """Return the names that grants give to a Keep: all of those that name its package and tenant, sorted.

    Args:
        grants: of the operator.
        identity: that was attested.

    Returns:
        DNS names, perhaps none; None where no grant names the Keep.
    """
    found = [
        grant
        for grant in grants
        if grant.package == identity.package
        and (identity.pristine if grant.tenant is None else grant.tenant == identity.tenant)
    ]
    return tuple(sorted({name for grant in found for name in grant.dns})) if found else None


def configuration_text(name: str, trust_domain: str | None = None) -> str:
    """Return a steward.toml for a new Steward: no grants, and how one is written.

    Raises:
        ConfigError: one of them cannot be a name.
    """
    domain = name if trust_domain is None else trust_domain
    for option, value, form in (("--name", name, _DNS_NAME), ("--trust-domain", domain, _TRUST_DOMAIN)):
        if not form.fullmatch(value):
            want = "a DNS name in small letters" if form is _DNS_NAME else "small letters, digits and . _ -"
            raise ConfigError(f"{option}: found {quote(value)}, want {want}", key=option)
    return (
        "# Who gets which names from this Steward. What their evidence must be is in policy.toml.\n"
        f'name = "{name}"\n'
        f'trust_domain = "{domain}"\n'
        'lifetime = "24h"\n'
        f'# crl_url = "https://{name}/v1/crl"\n'
        "\n"
        '# One for each package and tenant: enarx keep show says both. tenant = "any" holds for Keeps alone that were given\n'
        "# nothing beyond the package: no arguments, environment, directories or other overrides.\n"
        "# [[grant]]\n"
        '# package = "..."\n'
        '# tenant = "..."\n'
        f'# dns = ["web.{name}"]\n'
    )


def decode_configuration(data: bytes, *, path: str) -> Configuration:
    """Decode a steward.toml.

    Args:
        data: the content of the file, UTF-8, at most 1,000,000 bytes.
        path: the file as the user named it, for messages only.

    Raises:
        ConfigError: something is wrong with it; `path`, and where they are known `line` and `key`, say where. Nothing else, for any
            input.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    return _Reader(path, line_finder(text)).read(document)


class _Reader:
    """One reading of a file."""

    def __init__(self, path: str, find_line: Callable[[KeyPath], int | None]) -> None:
        self._path = path
        self._find_line = find_line

    def read(self, document: dict[str, Any]) -> Configuration:
        self._known(document, (), _KEYS)
        name = self._text(document, ("name",), _DNS_NAME, "a DNS name in small letters: steward.example.com")
        if name is None:
            raise self._wrong(("name",), "found nothing, want the DNS name of the Steward")
        domain = self._text(document, ("trust_domain",), _TRUST_DOMAIN, "a SPIFFE trust domain: example.com")
        original = self._table(document.get("original", {}), ("original",), _ORIGINAL_KEYS)
        return Configuration(
            name=name,
            trust_domain=name if domain is None else domain,
            lifetime=self._lifetime(document),
            crl_url=self._text(document, ("crl_url",), _URL, "an address that begins with http:// or https://"),
            is_original_enabled=self._flag(original, ("original", "enabled")),
            grants=self._grants(document.get("grant", []), name),
        )

    def _grants(self, tables: Any, own: str) -> tuple[Grant, ...]:
        if not isinstance(tables, list) or len(tables) > MAX_GRANTS:
            raise self._wrong(("grant",), f"found {kind_of(tables)}, want at most {MAX_GRANTS} tables [[grant]]")
        return tuple(self._grant(table, ("grant", index), own) for index, table in enumerate(tables))

    def _grant(self, value: Any, where: KeyPath, own: str) -> Grant:
        table = self._table(value, where, _GRANT_KEYS)
        package = self._digest(table, (*where, "package"), 32)
        tenant = None if table.get("tenant") == ANY_TENANT else self._digest(table, (*where, "tenant"), 48)
        names = table.get("dns", [])
        if not isinstance(names, list) or len(names) > MAX_NAMES:
            raise self._wrong((*where, "dns"), f"found {kind_of(names)}, want an array of at most {MAX_NAMES} names")
        for index, name in enumerate(names):
            if not isinstance(name, str) or not _DNS_NAME.fullmatch(name):
                raise self._wrong(
                    (*where, "dns", index), f"found {quote(name)}, want a DNS name in small letters, without a wildcard"
                )
            # A Keep with this name would be the Steward to its clients; localhost is nobody's name, and what trials have for both.
            if name == own != "localhost":
                raise self._wrong(
                    (*where, "dns", index), f"found {quote(name)}, the Steward's own name, want another one"
                )
        return Grant(package=package, tenant=tenant, dns=tuple(names))

    def _digest(self, table: dict[str, Any], where: KeyPath, size: int) -> bytes:
        value = table.get(str(where[-1]))
        if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
            other = f', or "{ANY_TENANT}" for Keeps that were given nothing else' if where[-1] == "tenant" else ""
            raise self._wrong(
                where, f"found {quote(value)}, want {2 * size} hexadecimal digits in small letters{other}"
            )
        return bytes.fromhex(value)

    def _lifetime(self, document: dict[str, Any]) -> timedelta:
        if "lifetime" not in document:
            return DEFAULT_LIFETIME
        want = "want a duration from 10m to 168h"
        try:
            lifetime = timedelta(seconds=parse_duration(document["lifetime"]))
        except (ConfigError, OverflowError) as error:
            raise self._wrong(("lifetime",), f"found {quote(document['lifetime'])}, {want}") from error
        if not MIN_LIFETIME <= lifetime <= MAX_LIFETIME:
            raise self._wrong(("lifetime",), f"found {quote(document['lifetime'])}, {want}")
        return lifetime

    def _text(self, table: dict[str, Any], where: KeyPath, form: re.Pattern[str], want: str) -> str | None:
        value = table.get(str(where[-1]))
        if value is not None and (not isinstance(value, str) or not form.fullmatch(value)):
            raise self._wrong(where, f"found {quote(value)}, want {want}")
        return value

    def _flag(self, table: dict[str, Any], where: KeyPath) -> bool:
        value = table.get(str(where[-1]), False)
        if not isinstance(value, bool):
            raise self._wrong(where, f"found {quote(value)}, want true or false")
        return value

    def _table(self, value: Any, where: KeyPath, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(where, f"found {kind_of(value)}, want a table")
        self._known(value, where, keys)
        return value

    def _known(self, table: dict[str, Any], where: KeyPath, keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                nearest = get_close_matches(key[:40].lower(), keys, n=1)
                raise self._wrong(
                    (*where, key),
                    f"found an unknown key, want {nearest[0] if nearest else one_of(keys)}",
                    f"the keys here are {all_of(keys)}" if nearest and len(keys) > 1 else None,
                )

    def _wrong(self, key: KeyPath, message: str, hint: str | None = None) -> ConfigError:
        line = self._find_line(key)
        place = self._path if line is None else f"{self._path}:{line}"
        return ConfigError(f"{place}: {dotted(key)}: {message}", hint=hint, path=self._path, line=line, key=dotted(key))
