# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.steward.key_uris import KeyUri, decode_key_uri

MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"


def decode(text):
    return decode_key_uri(text, path="ca.uri")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"pkcs11:token=steward;object=ca?{MODULE}", {"token": "steward", "label": "ca"}),
        (f"PKCS11:serial=0e90;id=%01%ff?{MODULE}", {"serial": "0e90", "id": b"\1\xff"}),
        (f"pkcs11:object=a%20b%3B;type=private;token=t?{MODULE}", {"token": "t", "label": "a b;"}),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-source=file:/etc/pin", {"token": "t", "label": "k", "pin_file": "/etc/pin"}),
        (f"pkcs11:token=t;object=k?pin-source=file:///etc/pin&{MODULE}", {"token": "t", "label": "k", "pin_file": "/etc/pin"}),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-source=/etc/p%C3%A4n", {"token": "t", "label": "k", "pin_file": "/etc/pän"}),
    ],
)  # fmt: skip
def test_reads_where_a_key_is(text, found):
    assert decode(text) == KeyUri(module="/usr/lib/softhsm/libsofthsm2.so", **found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "found ''"),
        ("file:/etc/key", "found 'file:/etc/key'"),
        (f"pkcs11:?{MODULE}", "no token"),
        (f"pkcs11:token=t?{MODULE}", "no key"),
        (f"pkcs11:object=k?{MODULE}", "no token"),
        ("pkcs11:token=t;object=k", "no module-path"),
        ("pkcs11:token=t;object=k?module-path=softhsm.so", "'softhsm.so', want the absolute path"),
        ("pkcs11:token=t;object=k?module-name=softhsm", "'module-name=softhsm'"),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-value=1234", "a PIN in the URI"),
        (f"pkcs11:token=t;object=k;pin-value=1234?{MODULE}", "a PIN in the URI"),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-source=|cat /etc/pin", "'|cat /etc/pin', want the absolute path"),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-source=file://host/etc/pin", "'host/etc/pin'"),
        (f"pkcs11:token=t;object=k;type=cert?{MODULE}", "a type of object that signs nothing"),
        (f"pkcs11:token=t;object=k;slot-id=0?{MODULE}", "'slot-id=0'"),
        (f"pkcs11:token=t;object=k;object=l?{MODULE}", "object twice"),
        (f"pkcs11:token=t;object?{MODULE}", "'object'"),
        (f"pkcs11:token=;object=k?{MODULE}", "token of 0 bytes"),
        (f"pkcs11:token={'t' * 33};object=k?{MODULE}", "token of 33 bytes"),
        (f"pkcs11:serial={'t' * 17};object=k?{MODULE}", "serial of 17 bytes"),
        (f"pkcs11:token=%ff;object=k?{MODULE}", "token that is no UTF-8"),
        (f"pkcs11:token=t;object=%0a?{MODULE}", "object with characters that cannot be printed"),
        (f"pkcs11:token=t;object=k?module-path=/{'x' * 4096}", "characters, want at most 4096"),
    ],
)
def test_refuses_what_names_no_key_and_says_why(text, found):
    with pytest.raises(ConfigError) as refused:
        decode(text)
    assert str(refused.value).startswith("ca.uri: ")
    assert found in str(refused.value)
    assert "1234" not in str(refused.value) + str(refused.value.hint)


printable = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=4)


@given(token=printable, label=st.none() | printable, serial=st.none() | printable, pin=st.none() | printable,
       module=printable, identifier=st.binary(min_size=1, max_size=20))  # fmt: skip
def test_comes_back_as_it_was(token, label, serial, pin, module, identifier):
    uri = KeyUri(
        module=f"/{module}", token=token, serial=serial, label=label, id=identifier, pin_file=pin and f"/x{pin}"
    )
    assert decode(uri.text()) == uri


@given(
    st.text(max_size=80)
    | st.text(st.sampled_from("pkcs11:token=;?&module-path/object%0fin"), max_size=80).map("pkcs11:".__add__)
)
def test_anything_is_a_uri_or_a_configuration_error(text):
    try:
        assert decode(decode(text).text()) == decode(text)
    except ConfigError:
        return


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ({"token": "steward", "label": "ca"}, "ca in token steward"),
        ({"serial": "0e90", "id": b"\1\2"}, "id 0102 in token 0e90"),
    ],
)
def test_is_shown_briefly(uri, shown):
    assert str(KeyUri(module="/m", **uri)) == shown
