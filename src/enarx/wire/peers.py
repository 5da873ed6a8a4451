# SPDX-License-Identifier: Apache-2.0
"""How a peer is written: `PACKAGE:TENANT`, digests in hex, where `any` or nothing at all for the tenant is whoever it may be.

The same in Enarx.toml, in `--peer` and in the configuration of a release. Nothing is known here of who a peer is.
"""

from __future__ import annotations

import re

from enarx.errors import ConfigError
from enarx.wire.quoting import quote
from enarx.wire.records import Peer

__all__ = ["ANY_TENANT", "is_package_digest", "is_tenant", "parse_peer"]

ANY_TENANT = "any"
_PACKAGE = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[0-9a-f]{96}|any")


def is_package_digest(text: str) -> bool:
    """Return whether a text is the digest of a package: a SHA-256 in small hex digits."""
    return _PACKAGE.fullmatch(text) is not None


def is_tenant(text: str) -> bool:
    """Return whether a text is the digest of a tenant's key, a SHA-384 in small hex digits, or `any`."""
    return _TENANT.fullmatch(text) is not None


def parse_peer(text: str, *, name: str = "peer") -> Peer:
    """Read `PACKAGE`, or `PACKAGE:TENANT`.

    Args:
        text: what was written.
        name: the flag, for the message.

    Raises:
        ConfigError: it is something else; its key is `name`.
    """
    package, colon, tenant = text.partition(":")
    tenant = tenant if colon else ANY_TENANT
    if not is_package_digest(package) or not is_tenant(tenant):
        raise ConfigError(
            f"{name}: found {quote(text)}, want PACKAGE or PACKAGE:TENANT in 64 and 96 small hex digits",
            hint="enarx keep show says the digests of a Keep",
            key=name,
        )
    return Peer(package=package, tenant=tenant)
