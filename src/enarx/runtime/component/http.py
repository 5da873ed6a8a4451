# SPDX-License-Identifier: Apache-2.0
"""wasi:http 0.2 as components import it; a service's own side is `http_service`."""

from __future__ import annotations

from enarx.runtime.component.http_fields import types_interface
from enarx.runtime.component.http_outgoing import outgoing_handler_interface

INTERFACES = (types_interface, outgoing_handler_interface)
