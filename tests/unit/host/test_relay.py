# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S104
"""Where the host connects to. What it relays is seen in tests/integration/test_host_service.py."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from types import SimpleNamespace

import pytest

from enarx.errors import PlatformError, TransportError
from enarx.host import relay
from enarx.host.relay import MAX_LOOKUPS, Outbound, OutboundRules, bind_port

API = 8470


def refused(rules, address, port=80):
    outbound = Outbound(rules, keeps=1)
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


class Resolver:
    """Knows `quick` and nobody else; other names keep their thread until it is let go."""

    def __init__(self):
        self.let_go = threading.Event()
        self.asked = []

    def __call__(self, host, *_, **__):
        self.asked.append(host)
        if host != "quick":
            assert self.let_go.wait(20)
        raise OSError("no such name")


class Wanted:
    """A stream that a Keep opened."""

    def __init__(self, host):
        self.target = SimpleNamespace(host=host, port=9)
        self.reason = None

    def reset(self, reason):
        self.reason = reason


def test_names_that_nobody_answers_for_hold_up_their_own_keep_only(monkeypatch):
    monkeypatch.setattr(relay, "CONNECT_TIMEOUT_S", 0.2)
    resolver = Resolver()

    async def work():
        outbound = Outbound(OutboundRules(), keeps=2, resolve=resolver)

        async def reason_for(host, slots):
            stream = Wanted(host)
            with pytest.raises(TransportError):
                await outbound.carry(stream, slots)
            return stream.reason

        one, other = asyncio.Semaphore(MAX_LOOKUPS), asyncio.Semaphore(MAX_LOOKUPS)
        try:
            async with asyncio.timeout(10):
                slow = [asyncio.create_task(reason_for(f"slow{number}", one)) for number in range(50)]
                assert set(await asyncio.gather(*slow)) == {"timeout"}
                # Nobody waits for them any more, and still they have their threads.
                assert len(resolver.asked) == MAX_LOOKUPS
                assert await reason_for("quick", one) == "timeout"
                monkeypatch.setattr(relay, "CONNECT_TIMEOUT_S", 10.0)
                assert await reason_for("quick", other) == "unreachable"
                resolver.let_go.set()
                assert await reason_for("quick", one) == "unreachable"
        finally:
            resolver.let_go.set()
            outbound.close()

    asyncio.run(work())
