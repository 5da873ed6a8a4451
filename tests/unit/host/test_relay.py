# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S104
"""Where the host connects to. What it relays is seen in tests/integration/test_host_service.py."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from enarx.errors import PlatformError
from enarx.host.relay import Outbound, OutboundRules, bind_port

API = 8470


def refused(rules, address, port=80):
    outbound = Outbound(rules)
    try:
        outbound._require_allowed(ipaddress.ip_address(address), port)
    except PermissionError:
        return True
    finally:
        outbound.close()
    return False


@pytest.mark.parametrize(
    ("listening", "address", "port", "answer"),
    [
        ("127.0.0.1", "127.0.0.1", API, True),
        ("127.0.0.1", "::ffff:127.0.0.1", API, True),
        ("127.0.0.1", "127.0.0.1", API + 1, False),
        ("127.0.0.1", "127.0.0.2", API, False),
        ("0.0.0.0", "127.0.0.1", API, True),
        ("0.0.0.0", "127.1.2.3", API, True),
        ("0.0.0.0", "198.51.100.1", API, False),
        ("::1", "::1", API, True),
        ("::", "::1", API, True),
        ("::", "127.0.0.1", API, True),
        ("127.0.0.1", "0.0.0.0", 80, True),
        ("127.0.0.1", "::", 80, True),
        ("127.0.0.1", "::ffff:0.0.0.0", 80, True),
        ("127.0.0.1", "224.0.0.1", 80, True),
    ],
)
def test_never_connects_to_its_own_api(listening, address, port, answer):
    assert refused(OutboundRules(api=((listening, API),)), address, port) is answer


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_tenants_reach_public_addresses_only(address, public):
    assert refused(OutboundRules(local=False), address) is not public
    assert not refused(OutboundRules(local=True), address)


def test_binds_a_port_that_is_free():
    with bind_port("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PlatformError, match=str(port)):
            bind_port("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)):
            assert port
