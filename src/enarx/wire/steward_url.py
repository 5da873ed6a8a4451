# SPDX-License-Identifier: Apache-2.0
"""Where a Steward is: an https:// URL, taken apart the same way by who names it, by who wants it and by the Keep that asks it.

There is no user, no query and no fragment in it; a path is what the Steward's own paths are put behind.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from enarx.errors import ConfigError
from enarx.wire.quoting import quote

__all__ = ["MAX_URL_BYTES", "StewardUrl", "parse_steward_url"]

MAX_URL_BYTES = 2048
_URL = re.compile(
    # A host name or IPv4 address, or an IPv6 address in brackets; then a port and a path, both of which may be missing.
    r"[hH][tT]{2}[pP][sS]://(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[0-9A-Za-z_](?:[0-9A-Za-z_.-]{0,252})))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>/[0-9A-Za-z._~!$&'()*+,;=:@%/-]*)?"
)
_DEFAULT_PORT = 443
_MAX_PORT = 65535


class StewardUrl(NamedTuple):
    """A Steward's place; two spellings of one place are equal.

    Args:
        host: a name in small letters, or an address, without brackets.
        port: 1 to 65535.
        path: what goes before the Steward's own paths: empty, or it begins with a slash and does not end with one.
    """

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return host and port as HTTP's `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"


def parse_steward_url(text: str, *, name: str = "steward") -> StewardUrl:
    """Take a Steward's URL apart.

    Args:
        text: what was written.
        name: the key or flag, for the message.

    Raises:
        ConfigError: it is none; its key is `name`. Nothing else, for any text.
    """
    found = _URL.fullmatch(text) if len(text) <= MAX_URL_BYTES else None
    port = int(found["port"] or _DEFAULT_PORT) if found is not None else 0
    if found is None or port > _MAX_PORT:
        # What stands before an @ would be a password.
        shown = "one with an @" if "@" in text else quote(text)
        raise ConfigError(
            f"{name}: found {shown}, want https://HOST, https://HOST:PORT or one of these with a path",
            hint="a Steward is never asked in the clear",
            key=name,
        )
    host = (found["v6"] or found["host"]).lower().rstrip(".")
    return StewardUrl(host, port, (found["path"] or "").rstrip("/"))
