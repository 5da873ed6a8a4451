# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.errors import ConfigError, UsageError, VerificationError
from enarx.steward import folder as files
from enarx.steward.authority import make_authority, make_key
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import database_url, found, install, load_keys, load_log_signer
from enarx.steward.log import verify_checkpoint
from tests.attesting import make_policy_text
from tests.unit.steward.verdicts import AT

NAME = "steward.example.com"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "steward"


def load(state, at=AT):
    with StewardFolder(str(state)) as folder:
        return load_keys(folder, name=NAME, at=at)


def sign(state, *, at=AT, ca=True):
    """Sign a Steward's request with an authority of the operator's; return the chain in PEM."""
    request = x509.load_pem_x509_csr((state / files.REQUEST).read_bytes())
    root_key = make_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the operator's root")])

    def builder(subject, key, length):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key)
            .serial_number(7)
            .not_valid_before(at - timedelta(days=1))
            .not_valid_after(at + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=length is not None, path_length=length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(usage, critical=True)
        )

    usage = request.extensions.get_extension_for_class(x509.KeyUsage).value
    root = builder(name, root_key.public_key(), 1).sign(root_key, request.signature_hash_algorithm)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    leaf = builder(request.subject, request.public_key(), 0 if ca else None).add_extension(identifier, critical=False)
    signed = leaf.sign(root_key, request.signature_hash_algorithm)
    return signed.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)


def test_a_new_steward_has_all_that_it_needs_and_grants_nothing(state):
    found(str(state), name=NAME, at=AT)
    keys = load(state)
    assert keys.authority.chain_pem == (state / files.CHAIN).read_bytes() == (state / files.ROOT).read_bytes()
    assert isinstance(keys.result_key.curve, ec.SECP384R1)
    assert len({bytes(key.read_bytes()) for key in state.glob("*.key")}) == 5
    # What the original's protocol proves is less, so its authority is another.
    assert keys.original.root != keys.authority.root
    checkpoint = keys.log_signer.sign(1, bytes(32))
    assert verify_checkpoint(checkpoint, keys.log_signer.verifier_key).origin == NAME
    assert "\n[[grant]]" not in (state / files.CONFIGURATION).read_text()
    assert not (state / files.POLICY).exists()
    assert "localhost" not in repr(keys)
    assert "PRIVATE" not in repr(keys)


def test_two_stewards_have_nothing_in_common(state, tmp_path):
    found(str(state), name=NAME, at=AT)
    found(str(tmp_path / "other"), name=NAME, at=AT)
    for key in state.glob("*.key"):
        assert key.read_bytes() != (tmp_path / "other" / key.name).read_bytes()


def test_a_policy_is_looked_at_before_anything_is_made(state):
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        found(str(state), name=NAME, at=AT, policy=b"nothing", policy_path="mine.toml")
    assert not state.exists()
    found(str(state), name=NAME, at=AT, policy=make_policy_text().encode())
    assert (state / files.POLICY).read_text() == make_policy_text()


@pytest.mark.parametrize(
    ("name", "domain"), [("Steward", None), ("a b", None), ('"', None), (NAME, "a b"), (NAME, '"')]
)
def test_names_that_cannot_be_are_refused(state, name, domain):
    with pytest.raises(ConfigError):
        found(str(state), name=name, at=AT, trust_domain=domain)
    assert not state.exists()


def test_below_the_operators_authority_it_serves_once_that_has_signed(state):
    found(str(state), name=NAME, at=AT, is_intermediate=True)
    assert not (state / files.CHAIN).exists()
    assert not (state / files.ROOT).exists()
    with pytest.raises(UsageError, match="want what your authority signed") as refused:
        load(state)
    assert "--chain" in refused.value.hint
    chain = sign(state)
    install(str(state), chain, chain_path="chain.pem", at=AT)
    assert not (state / files.REQUEST).exists()
    authority = load(state).authority
    assert authority.chain_pem == chain
    # Not the one above: it may have others below it.
    assert (state / files.ROOT).read_bytes() == authority.certificate.public_bytes(Encoding.PEM)
    # The root goes with no certificate.
    assert authority.chain == (authority.certificate,)


def test_a_chain_of_another_key_or_of_no_authority_is_not_installed(state, tmp_path):
    found(str(state), name=NAME, at=AT, is_intermediate=True)
    found(str(tmp_path / "other"), name=NAME, at=AT, is_intermediate=True)
    for chain in (sign(tmp_path / "other"), sign(state, ca=False), make_authority(NAME, AT).chain_pem):
        with pytest.raises(VerificationError, match=r"chain\.pem"):
            install(str(state), chain, chain_path="chain.pem", at=AT)
        assert not (state / files.CHAIN).exists()
    with pytest.raises(ConfigError):
        install(str(state), b"", chain_path="chain.pem", at=AT)


def test_keys_that_are_none_are_refused(state):
    found(str(state), name=NAME, at=AT)
    for name, content, kind in (
        (files.NONCE_KEY, b"short", ConfigError),
        (files.LOG_KEY, (state / files.KEY).read_bytes(), ConfigError),
        (files.RESULT_KEY, (state / files.LOG_KEY).read_bytes(), ConfigError),
        (files.CHAIN, (state / files.ORIGINAL_CHAIN).read_bytes(), VerificationError),
    ):
        before = (state / name).read_bytes()
        (state / name).write_bytes(content)
        with pytest.raises(kind) as refused:
            load(state)
        assert "PRIVATE" not in str(refused.value)
        (state / name).write_bytes(before)
    load(state)


def test_an_authority_that_has_ended_does_not_serve(state):
    found(str(state), name=NAME, at=AT)
    with pytest.raises(VerificationError, match="in force"):
        load(state, at=AT + timedelta(days=4000))
    with pytest.raises(VerificationError, match="in force"):
        load(state, at=AT - timedelta(days=2))


def test_the_log_is_in_the_folder_whatever_its_name(tmp_path):
    from sqlalchemy import make_url

    state = tmp_path / "a ?b%20"
    found(str(state), name=NAME, at=AT)
    with StewardFolder(str(state)) as folder:
        assert make_url(database_url(folder)).database == str(state / files.DATABASE)
        assert load_log_signer(folder, name=NAME).verifier_key.name == NAME
