# SPDX-License-Identifier: Apache-2.0
"""The outbound rule: what each pattern allows, what look-alikes it refuses, and lookups with a time limit."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, TransportError
from enarx.runtime import egress
from enarx.runtime.egress import Egress, pattern_for, resolve

# Patterns


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("example.com:443", "EXAMPLE.Com.", 443),
        ("EXAMPLE.com.:443", "example.com", 443),
        ("example.com:*", "example.com", 1),
        ("example.com:*", "example.com", 65535),
        ("*:443", "any.name", 443),
        ("*:443", "192.0.2.1", 443),
        ("*:443", "2001:db8::1", 443),
        ("*:*", "any.name", 8080),
        ("*.example.com:443", "a.example.com", 443),
        ("*.example.com:443", "c.b.a.example.com.", 443),
        ("xn--bcher-kva.example:80", "XN--bcher-kva.example", 80),
        ("my_service:80", "my_service", 80),
        ("localhost:5432", "localhost", 5432),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("192.0.2.1:80", "::ffff:192.0.2.1", 80),
        ("192.0.2.1:80", "[::ffff:c000:201]", 80),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1", 80),
        ("[::1]:80", "::1", 80),
        ("[::1]:80", "[0:0:0:0:0:0:0:1]", 80),
        ("10.0.0.0/8:5432", "10.255.0.1", 5432),
        ("0.0.0.0/0:53", "198.51.100.7", 53),
        ("192.0.2.1/32:80", "192.0.2.1", 80),
        ("[2001:db8::]/32:443", "2001:DB8:ffff::1", 443),
        ("[::]/0:443", "2001:db8::1", 443),
    ],
)
def test_a_pattern_permits(pattern, host, port):
    rule = Egress([pattern])
    assert rule.permits(host, port)
    assert rule.permits_name(host)
    rule.require(host, port)


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("example.com:443", "example.com", 80),
        ("example.com:443", "www.example.com", 443),
        ("example.com:443", "example.com.evil.net", 443),
        ("example.com:443", "example.com..", 443),
        ("example.com:443", "192.0.2.1", 443),
        ("example.com:*", "example.com", 0),
        ("example.com:*", "example.com", 65536),
        ("example.com:*", "example.com", -1),
        ("*.example.com:443", "example.com", 443),
        ("*.example.com:443", "evilexample.com", 443),
        ("*.example.com:443", "a.evilexample.com", 443),
        ("*.example.com:443", ".example.com", 443),
        ("*.example.com:443", "*.example.com", 443),
        ("*.example.com:443", "a.example.com.net", 443),
        ("*:443", "a b", 443),
        ("*:443", "", 443),
        ("*:443", "a\0.example.com", 443),
        ("*:443", "b\xfccher.example", 443),
        ("\x6bey.example:443", "\u212aey.example", 443),
        ("10.0.0.0/8:5432", "11.0.0.1", 5432),
        ("10.0.0.0/8:5432", "10.0.0.1", 5433),
        ("10.0.0.0/8:5432", "ten.example", 5432),
        ("[::]/0:443", "192.0.2.1", 443),
        ("[::]/0:443", "::ffff:192.0.2.1", 443),
        ("0.0.0.0/0:443", "::1", 443),
        ("[2001:db8::]/32:443", "2001:db9::", 443),
        ("[fe80::]/10:443", "fe80::1%eth0", 443),
        ("localhost:80", "127.0.0.1", 80),
    ],
)
def test_a_pattern_does_not_permit(pattern, host, port):
    assert not Egress([pattern]).permits(host, port)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "127.0.0.01",
        "0177.0.0.1",
        "1.2.3.4.5",
        "256.1.1.1",
        "a.b.1",
        "a.0x1",
        "127.0.0.1.",
        " 127.0.0.1",
        "127.0.0.1 ",
        "[127.0.0.1]",
        "1.2.3",
        "a.0x",
        "[a]",
        "[::1",
        "::1]",
        "::1 ",
    ],
)
def test_what_other_parsers_take_for_an_address_is_neither_name_nor_address(host):
    rule = Egress(["*:*"])
    assert not rule.permits(host, 80)
    assert not rule.permits_name(host)
    with pytest.raises(TransportError, match="found no name or address"):
        resolve(host, 80, timeout_s=1)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", "no host with a port"),
        ("example.com", "no host with a port"),
        (":443", "no host with a port"),
        ("::1:80", "no host with a port"),
        ("2001:db8::/32:443", "no host with a port"),
        ("http://example.com:443", "no host with a port"),
        ("example.com:", 'port ""'),
        ("example.com:0", 'port "0"'),
        ("example.com:65536", 'port "65536"'),
        ("example.com:+80", r'port "\+80"'),
        ("example.com:https", 'port "https"'),
        ("*.:80", r"no domain after \*"),
        ("*.10.0.0.1:80", r"no domain after \*"),
        ("a.*.com:80", "neither a name nor an address"),
        ("*a.com:80", "neither a name nor an address"),
        ("10.0.0:80", "neither a name nor an address"),
        ("010.0.0.1:80", "neither a name nor an address"),
        ("[127.0.0.1]:80", "neither a name nor an address"),
        ("-a.com:80", "neither a name nor an address"),
        ("a-.com:80", "neither a name nor an address"),
        ("a..com:80", "neither a name nor an address"),
        ("a b:80", "neither a name nor an address"),
        ("a" * 64 + ":80", "neither a name nor an address"),
        ("a." * 130 + "com:80", "neither a name nor an address"),
        ("example.com/8:80", "no address before /"),
        ("10.0.0.0/:80", "prefix length"),
        ("10.0.0.0/33:80", "prefix length"),
        ("[2001:db8::]/129:80", "prefix length"),
        ("10.0.0.1/8:80", "bits beyond the prefix, want 10.0.0.0/8"),
        ("[2001:db8::1]/32:80", r"bits beyond the prefix, want \[2001:db8::\]/32"),
        ("[::ffff:10.0.0.0]/104:80", "an IPv4 network written as IPv6"),
        ("a" * 400, "400 characters"),
        ("b\xfccher.example:80", "characters outside ASCII"),
    ],
)
def test_refuses_a_pattern_of_another_form(pattern, found):
    with pytest.raises(ConfigError, match=found) as caught:
        Egress(["good.example:1", pattern])
    assert caught.value.key == "allow_connect"
    assert "\n" not in str(caught.value)


def test_a_pattern_outside_ascii_gets_the_hint_how_to_write_it():
    with pytest.raises(ConfigError) as caught:
        Egress(["b\xfccher.example:80"])
    assert "xn--bcher-kva.example" in caught.value.hint


def test_refuses_too_many_patterns():
    Egress(["a:1"] * 1024)
    with pytest.raises(ConfigError, match="found 1025 patterns"):
        Egress(["a:1"] * 1025)


def test_nothing_is_permitted_without_patterns():
    rule = Egress([])
    assert not rule.permits("localhost", 80)
    assert not rule.permits("::1", 80)
    assert not rule.permits_name("localhost")


def test_patterns_add_up():
    rule = Egress(["a.example:1", "a.example:2", "*.example:3", "*:4"])
    assert [port for port in range(1, 6) if rule.permits("a.example", port)] == [1, 2, 3, 4]


def test_a_refusal_names_the_pattern_that_would_allow_it():
    with pytest.raises(ConfigError, match=r'outbound connection refused: "example.com:443"') as caught:
        Egress(["example.com:80"]).require("example.com", 443)
    assert caught.value.hint == 'allow_connect = ["example.com:443"]'
    assert caught.value.key == "allow_connect"
    with pytest.raises(ConfigError) as caught:
        Egress(["*:*"]).require("127.1", 443)
    assert caught.value.hint is None


@pytest.mark.parametrize("host", ["example.com", "192.0.2.1", "::1", "[::1]"])
def test_the_pattern_for_a_host_permits_it_and_nothing_near(host):
    rule = Egress([pattern_for(host, 80)])
    assert rule.permits(host, 80)
    assert not rule.permits(host, 81)


# Learnt addresses


def test_the_addresses_of_an_allowed_name_are_permitted_on_its_ports_only():
    rule = Egress(["db.example:5432"])
    assert not rule.permits("192.0.2.7", 5432)
    rule.learn("DB.example.", ["192.0.2.7", "2001:db8::7"])
    assert rule.permits("192.0.2.7", 5432)
    assert rule.permits("::ffff:192.0.2.7", 5432)
    assert rule.permits("2001:db8::7", 5432)
    assert not rule.permits("192.0.2.7", 22)
    assert not rule.permits("192.0.2.8", 5432)


def test_nothing_is_learnt_of_a_name_that_is_not_allowed():
    rule = Egress(["db.example:5432"])
    rule.learn("evil.example", ["192.0.2.7"])
    rule.learn("db.example", ["not an address", "127.1", "another.name"])
    assert not rule.permits("192.0.2.7", 5432)
    assert not rule.permits("another.name", 5432)


def test_two_names_at_one_address_add_up():
    rule = Egress(["a.example:1", "b.example:2"])
    rule.learn("a.example", ["192.0.2.7"])
    rule.learn("b.example", ["192.0.2.7"])
    assert rule.permits("192.0.2.7", 1)
    assert rule.permits("192.0.2.7", 2)


def test_what_one_keep_learns_no_other_knows():
    first, second = Egress(["a.example:1"]), Egress(["a.example:1"])
    first.learn("a.example", ["192.0.2.7"])
    assert not second.permits("192.0.2.7", 1)


def test_memory_of_addresses_is_bounded_and_forgets_the_oldest():
    rule = Egress(["a.example:1"])
    for number in range(egress.MAX_LEARNED + 5):
        rule.learn("a.example", [str(ipaddress.ip_address(0x0A000000 + number))])
    assert len(rule._learned) == egress.MAX_LEARNED
    assert not rule.permits("10.0.0.4", 1)
    assert rule.permits("10.0.0.5", 1)


def test_one_answer_teaches_a_bounded_number_of_addresses():
    rule = Egress(["a.example:1"])
    rule.learn("a.example", [f"192.0.2.{number}" for number in range(50)])
    assert len(rule._learned) == egress.MAX_ADDRESSES


# Any text

HOSTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="ab.-_*:/[]019xf", max_size=30),
    st.ip_addresses().map(str),
    st.sampled_from(["example.com", "a.example.com", "127.1", "0x7f.1", "localhost", "\u212a", "xn--a", "1."]),
)


PATTERNS = st.one_of(HOSTS, st.tuples(HOSTS, st.sampled_from(["80", "*", "0", "", "/8:80"])).map(":".join))


def decide(pattern, host):
    try:
        rule = Egress([pattern])
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
        assert rule.permits(host, 80) in {True, False}
        assert rule.permits_name(host) in {True, False}
        rule.learn(host, [host])
    assert "\n" not in message
    assert message.isascii()


def test_any_text_as_pattern_is_a_rule_or_a_config_error():
    settings(max_examples=400, deadline=None, derandomize=True)(given(PATTERNS, HOSTS)(decide))()


@pytest.mark.soak
def test_any_text_as_pattern_is_a_rule_or_a_config_error_for_long():
    count = int(os.environ.get("ENARX_SOAK_EXAMPLES", "200000"))
    settings(max_examples=count, deadline=None)(given(PATTERNS, HOSTS)(decide))()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(HOSTS)
def test_a_wildcard_never_permits_the_apex_or_a_look_alike(host):
    rule = Egress(["*.example.com:443"])
    if rule.permits(host, 443):
        labels = host.lower().removesuffix(".").split(".")
        assert labels[-2:] == ["example", "com"]
        assert len(labels) > 2
        assert all(labels)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(HOSTS)
def test_a_host_that_looks_like_an_address_is_the_one_the_standard_library_sees(host):
    parsed = egress._host(host)
    if isinstance(parsed, bytes):
        seen = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        seen = getattr(seen, "ipv4_mapped", None) or seen
        assert seen.packed == parsed
    elif parsed is not None:
        with pytest.raises(ValueError, match="does not appear"):
            ipaddress.ip_address(parsed)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_network_permits_what_the_standard_library_says_is_in_it(base, bits, address):
    network = ipaddress.ip_network(f"{base}/{bits % (base.max_prefixlen + 1)}", strict=False)
    text = f"[{network.network_address}]" if network.version == 6 else str(network.network_address)
    if getattr(network.network_address, "ipv4_mapped", None) or getattr(address, "ipv4_mapped", None):
        return
    rule = Egress([f"{text}/{network.prefixlen}:80"])
    assert rule.permits(str(address), 80) == (address in network)
    assert rule.permits(str(network.broadcast_address), 80)


# Lookups


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "db.localhost"])
def test_localhost_is_loopback_without_asking_anybody(monkeypatch, name):
    monkeypatch.setattr(egress, "getaddrinfo", lambda *_: pytest.fail("asked"))
    assert resolve(name, 80, timeout_s=1) == [(socket.AF_INET, ("127.0.0.1", 80)), (socket.AF_INET6, ("::1", 80))]


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("192.0.2.1", socket.AF_INET, "192.0.2.1"),
        ("::ffff:192.0.2.1", socket.AF_INET, "192.0.2.1"),
        ("[2001:DB8::1]", socket.AF_INET6, "2001:db8::1"),
    ],
)
def test_an_address_is_its_own_answer(monkeypatch, host, family, address):
    monkeypatch.setattr(egress, "getaddrinfo", lambda *_: pytest.fail("asked"))
    assert resolve(host, 443, timeout_s=1) == [(family, (address, 443))]


def answer(*addresses):
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 7))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses
    ]


def test_a_name_is_looked_up_in_its_one_form(monkeypatch):
    asked = []
    monkeypatch.setattr(egress, "getaddrinfo", lambda *call: asked.append(call[0]) or answer("192.0.2.1", "fe80::1"))
    assert resolve("DB.Example.", 80, timeout_s=5) == [
        (socket.AF_INET, ("192.0.2.1", 80)),
        (socket.AF_INET6, ("fe80::1", 80, 0, 7)),
    ]
    assert asked == [b"db.example"]


def test_answers_are_bounded_and_none_twice(monkeypatch):
    many = answer("192.0.2.1", "192.0.2.1", *[f"192.0.2.{number}" for number in range(2, 100)])
    monkeypatch.setattr(egress, "getaddrinfo", lambda *_: many)
    answers = resolve("db.example", 80, timeout_s=5)
    assert [where[0] for _, where in answers] == [f"192.0.2.{number}" for number in range(1, 17)]


def test_a_name_that_does_not_exist_says_so(monkeypatch):
    def fail(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(egress, "getaddrinfo", fail)
    with pytest.raises(TransportError, match=r"^name lookup failed: no.example: name or service not known$"):
        resolve("no.example", 80, timeout_s=5)


def test_any_other_failure_of_a_lookup_is_reported_too(monkeypatch):
    def fail(*_):
        raise OSError("Out of something")

    monkeypatch.setattr(egress, "getaddrinfo", fail)
    with pytest.raises(TransportError, match="out of something"):
        resolve("db.example", 80, timeout_s=5)


def test_a_slow_lookup_is_given_up_and_only_so_many_may_wait(monkeypatch):
    go_on = threading.Event()
    ended = threading.Semaphore(0)

    def slow(*_):
        go_on.wait(20)
        ended.release()
        return answer("192.0.2.1")

    monkeypatch.setattr(egress, "getaddrinfo", slow)
    try:
        for _ in range(egress.MAX_LOOKUPS):
            with pytest.raises(TransportError, match=r"found no answer, want one within 0.001 s"):
                resolve("slow.example", 80, timeout_s=0.001)
        with pytest.raises(TransportError, match="found 16 lookups under way"):
            resolve("slow.example", 80, timeout_s=0.001)
    finally:
        go_on.set()
    for _ in range(egress.MAX_LOOKUPS):
        assert ended.acquire(timeout=20)
    # The last threads may still be between their answer and their count.
    for _ in range(1000):
        try:
            assert len(resolve("slow.example", 80, timeout_s=5)) == 1
        except TransportError:
            continue
        break
    else:
        pytest.fail("the lookups that ended are still counted")


def test_the_c_library_is_asked_for_real():
    # The name that every machine can look up without a network.
    found = {where[0] for *_, where in egress._look_up("localhost", 30)}
    assert found & {"127.0.0.1", "::1"}


def test_importing_the_module_costs_nothing_that_start_up_avoids():
    # Run as a script, because its package loads the engine.
    code = f"""
import sys
sys.path.insert(0, {egress.__file__.rpartition("/enarx/")[0]!r})
before = set(sys.modules)
names = {{"__name__": "egress"}}
exec(open({egress.__file__!r}).read(), names)
assert names["Egress"](["*.example.com:443", "10.0.0.0/8:1", "[::1]:1"]).permits("10.0.0.1", 1)
print(*[name for name in set(sys.modules) - before if not name.startswith("enarx")])
"""
    command = [sys.executable, "-I", "-S", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert set(run.stdout.split()) <= {"__future__", "_socket"}
