# SPDX-License-Identifier: Apache-2.0
"""The Steward that a tenant's policy names: taken where no flag names one, and the only one where one does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.deploy.policy import find_steward
from enarx.errors import ConfigError, UsageError
from enarx.wire.release import Steward
from tests.fake_steward import FakeAuthority

AT = datetime(2026, 7, 1, tzinfo=UTC)
URL = "https://steward.example:8471"
TABLE = f'[steward]\nurl = "{URL}"\nroot = "steward/root.pem"\n'
POLICY = 'version = 1\n[snp]\nimage = "process"\n' + TABLE


@pytest.fixture(scope="module")
def authority():
    return FakeAuthority(AT)


@pytest.fixture
def write(tmp_path, authority):
    """Give what writes a policy beside the root that it names."""
    folder = tmp_path / "policies"
    (folder / "steward").mkdir(parents=True)
    (folder / "steward" / "root.pem").write_bytes(authority.root.public_bytes(Encoding.PEM))

    def write(text):
        (folder / "policy.toml").write_text(text)
        return str(folder / "policy.toml")

    return write


def test_a_policy_names_the_steward_and_its_root_beside_it(write, authority, monkeypatch, tmp_path):
    assert find_steward(write(POLICY)) == Steward(URL, authority.root_der)
    # Where the policy is, and not where the command is.
    monkeypatch.chdir(tmp_path / "policies")
    assert find_steward("policy.toml") == Steward(URL, authority.root_der)


def test_a_root_elsewhere_is_named_by_its_whole_path(write, authority, tmp_path):
    elsewhere = tmp_path / "elsewhere.pem"
    elsewhere.write_bytes(authority.root.public_bytes(Encoding.PEM))
    path = write(POLICY.replace("steward/root.pem", str(elsewhere)))
    assert find_steward(path) == Steward(URL, authority.root_der)


def test_flags_name_it_where_no_policy_does(write):
    flags = Steward(URL, b"root")
    assert find_steward(None, flags) is flags
    assert find_steward(None) is None
    path = write("version = 1\n")
    assert find_steward(path, flags) is flags
    assert find_steward(path) is None


def test_flags_that_name_the_same_are_no_contradiction(write, authority):
    flags = Steward("https://STEWARD.example:8471/", authority.root_der)
    assert find_steward(write(POLICY), flags) == Steward(URL, authority.root_der)


@pytest.mark.parametrize("other", ["url", "root"])
def test_flags_do_not_name_another(write, authority, other):
    flags = Steward("https://other.example" if other == "url" else URL, authority.root_der if other == "url" else b"x")
    flag = {"url": "--steward", "root": "--steward-root"}[other]
    with pytest.raises(UsageError, match=f"{flag}: found another Steward than") as caught:
        find_steward(write(POLICY), flags)
    assert "policy without [steward]" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "words", "line"),
    [
        ("steward = 1\n", "steward: found a number, want a table with url and root", 1),
        ("[steward]\nurl = 'https://a'\n", "steward: found no root, want the path of a PEM file", 1),
        ("[steward]\nroot = 'a'\n", "steward: found no url, want https://HOST", 1),
        ("[steward]\nurl = 'http://a'\nroot = 'a'\n", "steward.url: found 'http://a', want https://HOST", 2),
        ("[steward]\nurl = 'https://u:secret@a'\nroot = 'a'\n", "steward.url: found one with an @", 2),
        ("[steward]\nurl = 'https://a'\nroot = ''\n", "steward.root: found '', want the path of a PEM file", 3),
        (
            "[steward]\nurl = 'https://a'\nroot = 'a'\nrooot = 'b'\n",
            "steward.rooot: found an unknown key, want root",
            4,
        ),
        ("[steward]\nurl = ['https://a']\nroot = 'a'\n", "steward.url: found", 2),
    ],
)
def test_refuses_what_names_no_steward(write, table, words, line):
    path = write(table)
    with pytest.raises(ConfigError) as caught:
        find_steward(path)
    assert str(caught.value).startswith(f"{path}:{line}: {words}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "words"),
    [("nothing.pem", "No such file"), ("policy.toml", "found"), ("twice.pem", "found 2 certificates")],
)
def test_refuses_a_root_that_is_none(write, authority, tmp_path, root, words):
    (tmp_path / "policies" / "twice.pem").write_bytes(authority.root.public_bytes(Encoding.PEM) * 2)
    path = write(POLICY.replace("steward/root.pem", root))
    with pytest.raises(ConfigError, match=words) as caught:
        find_steward(path)
    assert "--steward-root" not in str(caught.value)


def test_refuses_a_policy_that_is_none(write, tmp_path):
    with pytest.raises(UsageError, match="cannot read the policy"):
        find_steward(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError):
        find_steward(write("[steward"))
