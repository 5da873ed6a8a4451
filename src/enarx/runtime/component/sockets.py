# SPDX-License-Identifier: Apache-2.0
"""wasi:sockets 0.2 as components import it."""

from __future__ import annotations

from enarx.runtime.component.sockets_network import instance_network_interface, lookup_interface, network_interface
from enarx.runtime.component.sockets_tcp import create_tcp_interface, tcp_interface
from enarx.runtime.component.sockets_udp import create_udp_interface, udp_interface

INTERFACES = (
    network_interface,
    instance_network_interface,
    lookup_interface,
    tcp_interface,
    create_tcp_interface,
    udp_interface,
    create_udp_interface,
)
