# SPDX-License-Identifier: Apache-2.0
"""What a host and a tenant have to agree on about the host's API: numbers and names. Bodies are in docs/formats/host-api.json.

Imported by the help of commands: imports nothing.
"""

from __future__ import annotations

__all__ = ["DEFAULT_PORT", "MAX_PORTS", "MAX_SESSION_PIECE_BYTES", "MAX_TOKEN_BYTES", "SUBPROTOCOL"]

DEFAULT_PORT = 8470
SUBPROTOCOL = "enarx-link.v1"
"""Of the WebSocket of a session."""

MAX_SESSION_PIECE_BYTES = 1 << 20
"""Of one message of that WebSocket, in either direction. Where it ends means nothing."""

MAX_PORTS = 64
"""Of one Keep, published."""

MAX_TOKEN_BYTES = 1024
