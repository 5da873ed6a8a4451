# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, UsageError
from enarx.host.tenants import LOCAL, Tenants, decode_tenants, load_tenants, private_tenants

DIGEST = hashlib.sha256(b"token").hexdigest()
CERTIFICATE = hashlib.sha256(b"certificate").hexdigest()
FILE = f"""
[[tenants]]
name = "one"
token_sha256 = "{DIGEST}"
max_keeps = 3
max_memory = "1 GiB"
max_disk = 100

[[tenants]]
name = "two"
certificate_sha256 = "{CERTIFICATE}"

[operator]
token_sha256 = "{hashlib.sha256(b"operator").hexdigest()}"
"""


def decode(text):
    return decode_tenants(text.encode(), path="t.toml")


def test_recognises_tokens_and_certificates():
    tenants = decode(FILE)
    one = tenants.recognise_untrusted(b"token", None)
    assert (one.name, one.max_keeps, one.max_memory_bytes, one.max_disk_bytes) == ("one", 3, 1 << 30, 100)
    two = tenants.recognise_untrusted(None, bytes.fromhex(CERTIFICATE))
    assert two.name == "two"
    assert two.max_keeps > 1 << 60
    assert not tenants.is_open
    assert tenants.use_certificates


@pytest.mark.parametrize("token", [b"", b"wrong", b"token ", b"toke", DIGEST.encode(), b"token" + bytes(5000)])
def test_refuses_strangers(token):
    tenants = decode(FILE)
    assert tenants.recognise_untrusted(token, None) is None
    assert tenants.recognise_untrusted(token, bytes.fromhex(CERTIFICATE)) is None
    assert tenants.recognise_untrusted(None, bytes.fromhex(DIGEST)) is None
    assert tenants.recognise_untrusted(None, None) is None


def test_only_the_operators_token_is_the_operators():
    tenants = decode(FILE)
    assert tenants.is_operator_untrusted(b"operator")
    for token in (None, b"", b"token", b"operator2"):
        assert not tenants.is_operator_untrusted(token)
    without = decode(FILE.partition("[operator]")[0])
    assert not without.is_operator_untrusted(b"")
    assert not without.is_operator_untrusted(None)


def test_without_a_file_everybody_is_local():
    tenants = Tenants(None)
    assert tenants.is_open
    assert not tenants.use_certificates
    assert tenants.recognise_untrusted(b"anything", None) is LOCAL


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ("max_keeps = 3", 'max_keeps = "3"', "tenants[0].max_keeps", 5),
        ("max_keeps = 3", "max_keeps = -1", "tenants[0].max_keeps", 5),
        ("max_keeps = 3", "max_keeps = true", "tenants[0].max_keeps", 5),
        ("max_keeps = 3", "max_keep = 3", "tenants[0].max_keep", 5),
        ('"1 GiB"', '"much"', "tenants[0].max_memory", 6),
        ('name = "two"', 'name = "one"', "tenants[1].name", 10),
        ('name = "two"', 'name = "two\\n"', "tenants[1].name", 10),
        ('name = "two"', "", "tenants[1].name", None),
        (DIGEST, DIGEST.upper(), "tenants[0].token_sha256", 4),
        (DIGEST, "my-secret-token", "tenants[0].token_sha256", 4),
        (f'certificate_sha256 = "{CERTIFICATE}"', "", "tenants[1]", 9),
        (f'certificate_sha256 = "{CERTIFICATE}"', f'token_sha256 = "{DIGEST}"', "tenants[1].token_sha256", 11),
        ("[operator]", "[operator]\nname = 1", "operator", 13),
        ("[operator]", "[other]", "other", 13),
        ("[[tenants]]", "[[tenant]]", "tenant", None),
    ],
)
def test_refuses_what_is_wrong_and_says_where(old, new, key, line):
    with pytest.raises(ConfigError) as wrong:
        decode(FILE.replace(old, new))
    assert wrong.value.key == key
    assert line is None or wrong.value.line == line
    assert "my-secret-token" not in str(wrong.value)


@pytest.mark.parametrize("text", ["", "tenants = 1", "tenants = [1]", "tenants = []", "what"])
def test_refuses_a_file_without_tenants(text):
    with pytest.raises(ConfigError):
        decode(text)


@given(st.binary(max_size=200) | st.text(alphabet='[]"=tenas\n_12', max_size=200).map(str.encode))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_bytes_are_tenants_or_a_config_error(data):
    try:
        assert isinstance(decode_tenants(data, path="t"), Tenants)
    except ConfigError as error:
        assert error.path == "t"  # noqa: PT017


@pytest.mark.parametrize(
    ("mode", "allowed"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o622, False)]
)
def test_the_file_is_its_owners_alone(tmp_path, mode, allowed):
    path = tmp_path / "tenants.toml"
    path.write_text(FILE)
    path.chmod(mode)
    if allowed:
        assert not load_tenants(str(path)).is_open
        return
    with pytest.raises(UsageError, match=f"found mode {mode:04o}"):
        load_tenants(str(path))


def test_a_file_that_is_none_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        load_tenants(str(tmp_path / "none"))
    with pytest.raises(UsageError):
        load_tenants(str(tmp_path))
    with pytest.raises(UsageError, match="want a file"):
        load_tenants(os.devnull)


def test_a_private_host_has_one_tenant_who_is_its_operator():
    tenants = private_tenants(b"token")
    assert tenants.recognise_untrusted(b"token", None).name == LOCAL.name
    assert tenants.is_operator_untrusted(b"token")
    assert tenants.is_private
    assert not tenants.is_open
    for stranger in (None, b"", b"other"):
        assert tenants.recognise_untrusted(stranger, None) is None
        assert not tenants.is_operator_untrusted(stranger)
    assert not Tenants(None).is_private
