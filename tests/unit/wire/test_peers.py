# SPDX-License-Identifier: Apache-2.0
"""How a peer is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire import Peer
from enarx.wire.peers import parse_peer

PACKAGE, TENANT = "0a" * 32, "1b" * 48


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        (PACKAGE, Peer(package=PACKAGE, tenant="any")),
        (f"{PACKAGE}:any", Peer(package=PACKAGE, tenant="any")),
        (f"{PACKAGE}:{TENANT}", Peer(package=PACKAGE, tenant=TENANT)),
    ],
)
def test_reads_package_and_tenant(text, peer):
    assert parse_peer(text) == peer


@pytest.mark.parametrize(
    "text",
    ["", ":", "any", PACKAGE[:-1], PACKAGE.upper(), f"{PACKAGE}:", f"{PACKAGE}:{TENANT}:", f"{PACKAGE}:{PACKAGE}",
     f"sha256:{PACKAGE}", f"{PACKAGE}\n"],
)  # fmt: skip
def test_refuses_what_is_none(text):
    with pytest.raises(ConfigError) as caught:
        parse_peer(text, name="--peer")
    assert caught.value.key == "--peer"


@given(st.text(max_size=200))
def test_any_text_is_a_peer_or_refused(text):
    try:
        peer = parse_peer(text)
    except ConfigError:
        return
    assert text in {f"{peer.package}:{peer.tenant}", peer.package}
