# SPDX-License-Identifier: Apache-2.0
"""Take `host:port` apart, as the entries of `allow_connect` write it.

Only the notation is known here. What a host pattern means, and whether a connection may be made, is the runtime's to say.
Imported on every start of `run`: no import here may cost time.
"""

from __future__ import annotations

from enarx.errors import ConfigError
from enarx.wire.quoting import quote

__all__ = ["MAX_PORT", "split_host_port"]

MAX_PORT = 65_535
_MAX_TEXT = 300  # a DNS name has at most 253 characters


def split_host_port(text: str, *, name: str = "endpoint") -> tuple[str, int | None]:
    """Separate the port from a host name, an address, a network or a pattern.

    Args:
        text: `HOST:PORT`. A host with colons of its own stands in brackets: `[::1]:80`, `[fd00::/8]:443`. PORT is 1 to
            65535, or `*` for every port.
        name: the flag or the key, for the message.

    Returns:
        the host as written, without brackets, and the port; the port is None where `*` was written.

    Raises:
        ConfigError: anything else; its key is `name`.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        well_formed = ":" in host
    else:
        well_formed = ":" not in host
    well_formed = well_formed and bool(colon and host) and len(text) <= _MAX_TEXT
    well_formed = well_formed and not any(c <= " " or "\x7f" <= c <= "\xa0" or c in "[]@\\" for c in host)
    if well_formed and port == "*":
        return host, None
    # isascii first: isdigit alone is also true of digits that int() refuses.
    if well_formed and port.isascii() and port.isdigit() and port[0] != "0" and len(port) <= len(str(MAX_PORT)):
        number = int(port)
        if number <= MAX_PORT:
            return host, number
    raise ConfigError(
        f"{name}: found {quote(text)}, want HOST:PORT with a port from 1 to 65535 or *",
        hint="such as example.com:443, *.example.com:443, 10.0.0.0/8:5432, [::1]:80 or *:443",
        key=name,
    )
