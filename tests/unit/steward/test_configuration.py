# SPDX-License-Identifier: Apache-2.0
"""steward.toml: what it says, and what is wrong with it."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.steward.configuration import Configuration, Grant, configuration_text, decode_configuration, names_for
from enarx.wire.release import Identity

PACKAGE, TENANT = "aa" * 32, "bb" * 48
GRANT = f'[[grant]]\npackage = "{PACKAGE}"\n'
FULL = f"""
name = "steward.example.com"
trust_domain = "example.com"
lifetime = "1h30m"
crl_url = "http://steward.example.com/v1/crl"

[original]
enabled = true

{GRANT}tenant = "{TENANT}"
dns = ["web.example.com", "localhost"]

{GRANT}tenant = "any"
"""


def read(text: str) -> Configuration:
    return decode_configuration(text.encode(), path="steward.toml")


def test_reads_all_that_there_is():
    assert read(FULL) == Configuration(
        name="steward.example.com",
        trust_domain="example.com",
        lifetime=timedelta(minutes=90),
        crl_url="http://steward.example.com/v1/crl",
        is_original_enabled=True,
        grants=(
            Grant(package=b"\xaa" * 32, tenant=b"\xbb" * 48, dns=("web.example.com", "localhost")),
            Grant(package=b"\xaa" * 32, tenant=None),
        ),
    )


def test_localhost_is_the_steward_s_alone_no_more_than_anybody_s():
    (grant,) = read(f'name = "localhost"\n{GRANT}tenant = "any"\ndns = ["localhost"]').grants
    assert grant.dns == ("localhost",)


def test_the_name_alone_suffices():
    assert read('name = "s"') == Configuration(name="s", trust_domain="s", lifetime=timedelta(hours=24))


def test_the_text_for_a_new_steward_grants_nothing():
    made = read(configuration_text("steward.example.com"))
    assert made == Configuration(name="steward.example.com", trust_domain="steward.example.com")
    assert read(configuration_text("s.example", "example")).trust_domain == "example"
    with pytest.raises(ConfigError, match=r"--name: found .*, want a DNS name"):
        configuration_text('x"\n[original]\nenabled = true\n# "')
    with pytest.raises(ConfigError, match="--trust-domain: found"):
        configuration_text("x", 'x"\n# "')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name: found nothing, want the DNS name of the Steward"),
        ("name = 5", "1: name: found 5, want a DNS name"),
        ('name = "Steward.example"', "1: name: found 'Steward.example', want a DNS name in small letters"),
        ('name = "10.0.0.1"', "1: name: found '10.0.0.1', want a DNS name"),
        ('name = "a..b"', "name: found 'a..b'"),
        ('name = "a.b."', "name: found 'a.b.'"),
        (f'name = "{"a" * 64}"', "name: found"),
        (f'name = "{".".join(["a" * 60] * 5)}"', "name: found"),
        ('name = "s"\ntrust-domain = "x"', "2: trust-domain: found an unknown key, want trust_domain"),
        ('name = "s"\ntrust_domain = "Ex"', "2: trust_domain: found 'Ex'"),
        ('name = "s"\nlifetime = "9m"', "2: lifetime: found '9m', want a duration from 10m to 168h"),
        ('name = "s"\nlifetime = "169h"', "2: lifetime: found '169h'"),
        ('name = "s"\nlifetime = "soon"', "2: lifetime: found 'soon'"),
        ('name = "s"\nlifetime = []', "2: lifetime: found an array"),
        ('name = "s"\ncrl_url = "ftp://x/"', "2: crl_url: found 'ftp://x/', want an address"),
        ('name = "s"\ncrl_url = "http://x/ y"', "2: crl_url"),
        ('name = "s"\noriginal = true', "2: original: found a boolean, want a table"),
        ('name = "s"\n[original]\nenabled = 1', "3: original.enabled: found 1, want true or false"),
        ('name = "s"\n[original]\nenable = true', "3: original.enable: found an unknown key, want enabled"),
        ('name = "s"\ngrant = 5', "2: grant: found a number, want at most 1000 tables"),
        ('name = "s"\ngrant = [5]', "2: grant[0]: found a number, want a table"),
        (f'name = "s"\n{GRANT}', "grant[0].tenant: found nothing, want 96 hexadecimal digits in small letters, or"),
        ('name = "s"\n[[grant]]\ntenant = "any"', "grant[0].package: found nothing, want 64 hexadecimal digits"),
        (f'name = "s"\n{GRANT}tenant = "Any"', "4: grant[0].tenant: found 'Any'"),
        (f'name = "s"\n{GRANT}tenant = "{"AA" * 48}"', "4: grant[0].tenant: found"),
        (
            f'name = "s"\n{GRANT}tenant = "any"\ndns = "x"',
            "5: grant[0].dns: found a string, want an array of at most 32",
        ),
        (f'name = "s"\n{GRANT}tenant = "any"\ndns = ["*.x"]', "5: grant[0].dns[0]: found '*.x', want a DNS name"),
        (f'name = "s"\n{GRANT}tenant = "any"\ndns = ["1.2.3.4"]', "grant[0].dns[0]: found '1.2.3.4'"),
        (
            f'name = "s.example"\n{GRANT}tenant = "{TENANT}"\ndns = ["a.s.example", "s.example"]',
            "5: grant[0].dns[1]: found 's.example', the Steward's own name, want another one",
        ),
        (f'name = "s"\n{GRANT}tenant = "any"\ndns = [5]', "grant[0].dns[0]: found 5"),
        (f'name = "s"\n{GRANT}tenants = "any"', "4: grant[0].tenants: found an unknown key, want tenant"),
        ('name = "s"\npolicy = "x"', "2: policy: found an unknown key"),
        ("name", "syntax"),
    ],
)
def test_says_what_is_wrong_and_where(text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)
    assert str(error.value).startswith("steward.toml:")
    assert error.value.path == "steward.toml"


def test_has_limits():
    with pytest.raises(ConfigError, match="want at most 1000000"):
        read("#" * 1_000_001)
    with pytest.raises(ConfigError, match="want at most 1000 tables"):
        read('name = "s"\n' + f'{GRANT}tenant = "any"\n' * 1001)
    names = ", ".join(f'"n{number}"' for number in range(33))
    with pytest.raises(ConfigError, match="an array of at most 32 names"):
        read(f'name = "s"\n{GRANT}tenant = "any"\ndns = [{names}]')


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(derandomize=True)
def test_any_bytes_are_a_configuration_or_its_own_error(data):
    with contextlib.suppress(ConfigError):
        assert decode_configuration(data, path="p").name


IDENTITY = Identity(b"p" * 32, b"m" * 32, b"c" * 32, pristine=False, tenant=b"t" * 48)
OWN = Grant(package=b"p" * 32, tenant=b"t" * 48, dns=("b", "a"))
ANY = Grant(package=b"p" * 32, tenant=None, dns=("c", "a"))


def test_names_are_those_of_all_grants_that_hold():
    pristine = IDENTITY._replace(pristine=True)
    assert names_for((OWN, ANY), pristine) == ("a", "b", "c")
    assert names_for((OWN, ANY), IDENTITY) == ("a", "b")
    assert names_for((ANY,), pristine._replace(tenant=b"x" * 48)) == ("a", "c")


def test_any_holds_for_nobody_who_added_something():
    assert names_for((ANY,), IDENTITY) is None


def test_no_grant_is_something_else_than_no_name():
    assert names_for((), IDENTITY) is None
    assert names_for((OWN,), IDENTITY._replace(package=b"x" * 32)) is None
    assert names_for((Grant(package=b"p" * 32, tenant=b"t" * 48),), IDENTITY) == ()
