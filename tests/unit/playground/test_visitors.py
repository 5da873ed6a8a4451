# SPDX-License-Identifier: Apache-2.0
"""Who a visitor is, and how much he may ask for."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from enarx.playground import visitors as module
from enarx.playground.visitors import HOUR_S, Visitors
from enarx.serving.requests import RefusedError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def request(*headers, client="198.51.100.7"):
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "headers": raw, "client": (client, 4711) if client else None})


def make(*, an_hour=2, header=None, clock=None):
    return Visitors(an_hour=an_hour, header=header, time_s=clock or Clock())


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        (None, ""),
    ],
)
def test_a_visitor_is_an_address_or_the_network_of_one(address, name):
    assert make().name_untrusted(request(client=address)) == name


def test_a_header_is_not_believed_where_no_proxy_is_in_front():
    assert make().name_untrusted(request(("x-forwarded-user", "anna"))) == "198.51.100.7"


def test_a_visitor_is_who_the_proxy_says():
    assert make(header="X-Forwarded-User").name_untrusted(request(("x-forwarded-user", "anna"))) == "anna"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-forwarded-user", "")],
        [("x-forwarded-user", "a" * 257)],
        [("x-forwarded-user", "anna"), ("x-forwarded-user", "bert")],
    ],
)
def test_refuses_whom_the_proxy_does_not_name_once(headers):
    with pytest.raises(RefusedError, match="headers X-Forwarded-User, want one") as refused:
        make(header="X-Forwarded-User").name_untrusted(request(*headers))
    assert refused.value.status == 401


def test_a_visitor_has_so_many_jobs_in_any_hour():
    clock = Clock()
    found = make(clock=clock)
    found.admit("anna")
    clock.now += 100
    found.admit("anna")
    found.admit("bert")
    with pytest.raises(RefusedError, match="found 2 jobs of yours in an hour") as refused:
        found.admit("anna")
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": str(int(HOUR_S) - 100 + 1)})
    clock.now += HOUR_S - 100
    found.admit("anna")
    with pytest.raises(RefusedError):
        found.admit("anna")


def test_no_more_visitors_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    found = make(an_hour=1)
    for name in ("anna", "bert", "carl"):
        found.admit(name)
    # Who has not come for longest is forgotten.
    found.admit("anna")
    with pytest.raises(RefusedError):
        found.admit("carl")
