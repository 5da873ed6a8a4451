# SPDX-License-Identifier: Apache-2.0
"""Formats that processes share: Enarx.toml, and the small notations its keys and the command's flags have in common.

Runs: tenant, host, Keep. Trusted by: all of them, because it only turns bytes into records or refuses them.
Pure: no file, socket, clock or environment variable is read here.

Every `enarx run` imports this face, so what it loads at once imports nothing but enarx.errors. The decoder needs the TOML
parser of the standard library and the template is text that one command prints: both arrive when they are first named.
"""

from __future__ import annotations

from enarx.wire.endpoints import split_host_port
from enarx.wire.quoting import quote
from enarx.wire.records import (
    DEFAULT,
    ConnectFile,
    Dir,
    EnarxToml,
    File,
    Limits,
    ListenFile,
    NullFile,
    Peer,
    StdioFile,
    Tls,
    replace,
)
from enarx.wire.units import parse_duration, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.wire.enarx_toml import decode_enarx_toml
    from enarx.wire.template import ENARX_TOML_TEMPLATE
else:

    def __getattr__(name: str) -> object:
        if name == "decode_enarx_toml":
            from enarx.wire.enarx_toml import decode_enarx_toml

            return decode_enarx_toml
        if name == "ENARX_TOML_TEMPLATE":
            from enarx.wire.template import ENARX_TOML_TEMPLATE

            return ENARX_TOML_TEMPLATE
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT",
    "ENARX_TOML_TEMPLATE",
    "ConnectFile",
    "Dir",
    "EnarxToml",
    "File",
    "Limits",
    "ListenFile",
    "NullFile",
    "Peer",
    "StdioFile",
    "Tls",
    "decode_enarx_toml",
    "parse_duration",
    "parse_size",
    "quote",
    "replace",
    "split_host_port",
]
