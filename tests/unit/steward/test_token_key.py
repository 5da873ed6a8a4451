# SPDX-License-Identifier: Apache-2.0
"""A key in a token that behaves as the test wants; `tests/integration/test_steward_token.py` has a real one."""

from __future__ import annotations

import copy
import threading
from datetime import timedelta

import pkcs11
import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag
from pkcs11.util.ec import encode_named_curve_parameters

from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.steward import token_key
from enarx.steward.authority import CRL_LIFETIME, install_chain, make_authority, make_request
from enarx.steward.key_uris import KeyUri
from enarx.steward.token_key import TokenError, TokenKey, make_token_key, open_token_key
from tests.unit.steward.keeps import AT

PIN = "12-34"
SIGNATURE = ec.ECDSA(hashes.SHA384())


class Object:
    """A public or a private key in a token."""

    def __init__(self, kind, key, label, identifier, key_type=KeyType.EC):
        self.kind, self.key, self.label, self.id, self.key_type = kind, key, label, identifier, key_type

    def __getitem__(self, attribute):
        point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        # An OCTET STRING in DER, of which the length is below 128.
        return {
            Attribute.EC_PARAMS: encode_named_curve_parameters(self.key.curve.name),
            Attribute.EC_POINT: bytes((4, len(point))) + point,
        }[attribute]

    def sign(self, digest, mechanism):
        assert (self.kind, mechanism) == (ObjectClass.PRIVATE_KEY, pkcs11.Mechanism.ECDSA)
        r, s = utils.decode_dss_signature(self.key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA384()))))
        return r.to_bytes(48) + s.to_bytes(48)


class Token:
    """A token in a module of its own, which is also the session: one at a time is open."""

    flags = TokenFlag.LOGIN_REQUIRED

    def __init__(self):
        self.pin, self.label, self.objects = PIN, "steward", []
        self.opened = self.closed = self.resets = 0
        self.failing = []
        self.made_with = None

    def put(self, key, *, label="ca", identifier=b"1", public=None, **more):
        self.objects.append(Object(ObjectClass.PRIVATE_KEY, key, label, identifier))
        self.objects.append(Object(ObjectClass.PUBLIC_KEY, public or key, label, identifier, **more))

    # --- The module

    def get_token(self, *, token_label, token_serial):
        if self.failing:
            raise self.failing.pop(0)
        if token_label != self.label or token_serial is not None:
            raise pkcs11.NoSuchToken(f"No token matching {token_label}")
        return self

    def reinitialize(self):
        self.resets += 1

    # --- The token

    def open(self, *, rw, user_pin):
        if user_pin != self.pin and self.flags:
            raise pkcs11.PinIncorrect
        self.opened += 1
        return self

    # --- The session

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed += 1

    def get_objects(self, wanted):
        kind, label = wanted[Attribute.CLASS], wanted.get(Attribute.LABEL)
        return (each for each in self.objects if each.kind is kind and label in {None, each.label})

    def get_key(self, *, object_class, label=None, id=None):  # noqa: A002  # its name there
        found = [
            each
            for each in self.objects
            if each.kind is object_class and label in {None, each.label} and id in {None, each.id}
        ]
        if len(found) != 1:
            raise pkcs11.MultipleObjectsReturned if found else pkcs11.NoSuchKey
        if object_class is ObjectClass.PRIVATE_KEY:
            return _Signing(self, found[0])
        return found[0]

    def create_domain_parameters(self, kind, parameters, *, local):
        assert (kind, local) == (KeyType.EC, True)
        assert parameters == {Attribute.EC_PARAMS: encode_named_curve_parameters("secp384r1")}
        return self

    def generate_keypair(self, *, label, id, **made_with):  # noqa: A002  # its name there
        self.made_with = made_with
        self.put(ec.generate_private_key(ec.SECP384R1()), label=label, identifier=id)


class _Signing:
    """A private key that signs unless its token fails."""

    def __init__(self, token, found):
        self._token, self._found = token, found
        self.id, self.label = found.id, found.label

    def sign(self, digest, mechanism):
        if self._token.failing:
            raise self._token.failing.pop(0)
        return self._found.sign(digest, mechanism)


@pytest.fixture
def token(monkeypatch):
    made = Token()
    monkeypatch.setattr(token_key, "_module", lambda uri: made)
    open_token_key.cache_clear()
    return made


@pytest.fixture
def uri(tmp_path):
    path = tmp_path / "pin"
    path.write_text(f"{PIN}\n")
    path.chmod(0o600)
    return KeyUri(module="/m.so", token="steward", label="ca", pin_file=str(path))


@pytest.fixture
def key(token, uri):
    token.put(ec.generate_private_key(ec.SECP384R1()))
    return open_token_key(uri)


class TestKey:
    def test_is_an_authority_s_as_one_in_a_file_is(self, key):
        made = make_authority("steward.example.com", AT, key=key)
        found = install_chain(key, made.chain_pem, path="ca.pem", at=AT)
        crl = x509.load_der_x509_crl(found.crl([(7, AT, "superseded")], at=AT, number=1))
        assert crl.is_signature_valid(key.public_key())
        assert crl.next_update_utc - AT == CRL_LIFETIME
        leaf = found.server_credential("localhost", at=AT + timedelta(days=1)).chain[0]
        leaf.verify_directly_issued_by(found.root)
        assert x509.load_pem_x509_csr(make_request("steward.example.com", key)).is_signature_valid

    def test_stays_in_its_token(self, key):
        with pytest.raises(UnsupportedAlgorithm, match="does not leave its token"):
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(UnsupportedAlgorithm, match="does not leave its token"):
            key.private_numbers()
        with pytest.raises(UnsupportedAlgorithm, match="does not derive keys"):
            key.exchange(ec.ECDH(), key.public_key())
        assert copy.copy(key) is copy.deepcopy(key) is key
        assert key.key_size == 384

    def test_signs_no_digest_of_somebody_else_s(self, key):
        with pytest.raises(UnsupportedAlgorithm, match="hashed elsewhere"):
            key.sign(bytes(48), ec.ECDSA(utils.Prehashed(hashes.SHA384())))

    def test_is_one_key_for_the_whole_process(self, key, uri, token):
        assert open_token_key(uri) is key
        assert (token.opened, token.closed) == (1, 0)

    def test_a_token_without_a_pin_needs_none(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP384R1()))
        token.flags = TokenFlag(0)
        assert isinstance(open_token_key(KeyUri(module="/m.so", token="steward", id=b"1")), TokenKey)


class TestRefuses:
    def test_a_wrong_pin(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP384R1()))
        token.pin = "another"
        with pytest.raises(UsageError, match=r"refuses the PIN \(PinIncorrect\)") as refused:
            open_token_key(uri)
        assert PIN not in str(refused.value) + str(refused.value.hint)

    @pytest.mark.parametrize("flag", [TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED])
    def test_the_last_try_before_a_token_locks(self, token, uri, flag):
        token.put(ec.generate_private_key(ec.SECP384R1()))
        token.flags |= flag
        with pytest.raises(UsageError, match="locked, or will be by one wrong PIN more") as refused:
            open_token_key(uri)
        assert token.opened == 0
        assert uri.pin_file in refused.value.hint

    def test_a_token_that_wants_a_pin_and_is_given_no_file(self, token):
        with pytest.raises(UsageError, match="asks for a PIN, want the file") as refused:
            open_token_key(KeyUri(module="/m.so", token="steward", label="ca"))
        assert "pin-source" in refused.value.hint

    @pytest.mark.parametrize("text", ["", "\n", "12\n34\n", b"\xff"])
    def test_a_file_without_a_pin(self, token, uri, tmp_path, text):
        (tmp_path / "pin").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UsageError, match="want the PIN alone"):
            open_token_key(uri)

    def test_a_pin_that_others_can_read(self, token, uri, tmp_path):
        (tmp_path / "pin").chmod(0o640)
        with pytest.raises(UsageError, match="cannot use the PIN"):
            open_token_key(uri)

    def test_another_token(self, token, uri):
        token.label = "another"
        with pytest.raises(PlatformError, match="NoSuchToken: No token matching steward") as refused:
            open_token_key(uri)
        assert "pkcs11-tool --module /m.so" in refused.value.hint

    def test_a_token_without_the_key(self, token, uri):
        with pytest.raises(PlatformError, match="found NoSuchKey, want"):
            open_token_key(uri)
        assert (token.opened, token.closed) == (1, 1)

    def test_two_keys_of_one_label(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP384R1()))
        token.put(ec.generate_private_key(ec.SECP384R1()), identifier=b"2")
        with pytest.raises(PlatformError, match="MultipleObjectsReturned"):
            open_token_key(uri)

    def test_another_curve(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(ConfigError, match="want one on P-384"):
            open_token_key(uri)

    def test_another_kind(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP384R1()), key_type=KeyType.RSA)
        with pytest.raises(ConfigError, match="want one on P-384"):
            open_token_key(uri)

    def test_another_key_s_public_key(self, token, uri):
        token.put(ec.generate_private_key(ec.SECP384R1()), public=ec.generate_private_key(ec.SECP384R1()))
        with pytest.raises(ConfigError, match="another one's public key beside it"):
            open_token_key(uri)
        assert (token.opened, token.closed) == (1, 1)


class TestFailing:
    def test_a_token_that_came_back_signs(self, key, token):
        token.failing = [pkcs11.DeviceRemoved()]
        key.public_key().verify(key.sign(b"text", SIGNATURE), b"text", SIGNATURE)
        assert (token.opened, token.resets) == (2, 1)

    def test_one_that_did_not_says_so_and_may_come_later(self, key, token):
        token.failing = [pkcs11.SessionHandleInvalid(), pkcs11.NoSuchToken()]
        with pytest.raises(TokenError, match=r"ca in token steward: /m\.so: found NoSuchToken"):
            key.sign(b"text", SIGNATURE)
        key.public_key().verify(key.sign(b"text", SIGNATURE), b"text", SIGNATURE)

    def test_a_pin_that_is_refused_is_not_shown_again(self, key, token):
        token.failing, token.pin = [pkcs11.DeviceRemoved()], "another"
        for _ in range(3):
            with pytest.raises(TokenError, match="refuses the PIN"):
                key.sign(b"text", SIGNATURE)
        assert token.resets == 1

    def test_a_pin_that_cannot_be_read_is_looked_for_again(self, key, token, uri, tmp_path):
        token.failing = [pkcs11.DeviceRemoved()]
        (tmp_path / "pin").rename(tmp_path / "elsewhere")
        with pytest.raises(TokenError, match="cannot read the PIN"):
            key.sign(b"text", SIGNATURE)
        (tmp_path / "elsewhere").rename(tmp_path / "pin")
        key.public_key().verify(key.sign(b"text", SIGNATURE), b"text", SIGNATURE)

    def test_another_key_in_its_place_is_refused(self, key, token):
        token.failing, token.objects = [pkcs11.DeviceRemoved()], []
        token.put(ec.generate_private_key(ec.SECP384R1()))
        for _ in range(2):
            with pytest.raises(TokenError, match="found another one than before"):
                key.sign(b"text", SIGNATURE)

    def test_one_that_hangs_is_not_waited_for(self, key, token, monkeypatch):
        monkeypatch.setattr(token_key, "TOKEN_TIMEOUT_S", 0.05)
        hanging = threading.Event()
        monkeypatch.setattr(token_key, "_sign", lambda opened, digest: hanging.wait(60))
        try:
            for _ in range(2):
                with pytest.raises(TokenError, match="found no answer within"):
                    key.sign(b"text", SIGNATURE)
        finally:
            hanging.set()


class TestMaking:
    def test_makes_one_that_stays(self, token, uri):
        key, is_new = make_token_key(uri)
        assert is_new
        assert token.made_with["store"]
        template = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
        assert token.made_with["private_template"] == template
        assert token.made_with["capabilities"] == pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY
        key.public_key().verify(key.sign(b"text", SIGNATURE), b"text", SIGNATURE)

    def test_uses_one_that_is_there(self, token, uri):
        there = ec.generate_private_key(ec.SECP384R1())
        token.put(there)
        key, is_new = make_token_key(uri)
        assert (key.public_key(), is_new) == (there.public_key(), False)
        assert token.made_with is None

    def test_makes_none_without_a_label(self, token, uri, tmp_path):
        unnamed = KeyUri(module="/m.so", token="steward", id=b"9", pin_file=str(tmp_path / "pin"))
        with pytest.raises(ConfigError, match="found no label in its URI"):
            make_token_key(unnamed)
        assert token.closed == 1


def test_a_module_that_is_none_is_said(uri, tmp_path):
    with pytest.raises(PlatformError, match=r"/m\.so: found PKCS11Error: OS exception while loading"):
        open_token_key(uri)


def test_without_the_extra_it_is_named(uri, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(PlatformError, match="found no module pkcs11") as refused:
        open_token_key(uri)
    assert refused.value.hint == "pip install 'enarx[pkcs11]'"
