# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from enarx.crypto.signature_keys import key_id_of, public_key_of
from enarx.errors import AppraisalError, DecodeError, TransportError, VerificationError
from enarx.rats import PackageSigner
from enarx.registry.dsse import sign_with_key
from enarx.registry.referrers import BUNDLE, MAX_ATTACHED, attach
from enarx.registry.signatures import KEYLESS, LOCAL_KEY, judge_signatures, require_signed
from enarx.wire.dsse import DSSE, encode_statement
from tests.unit.registry.signed import AT, IDENTITY, ISSUER, key, make_package, sigstore

TENANT = PackageSigner(name="tenant", key=public_key_of(key()))
OTHER = PackageSigner(name="other", key=public_key_of(key("other")))
PERSON = PackageSigner(name="release team", identity=IDENTITY, issuer=ISSUER)


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "layout")


def with_key(package, name="tenant", digest=None):
    layout, subject = package
    return attach(layout, subject, DSSE, sign_with_key(digest or subject.digest, key(name)))


def keyless(package, identity=IDENTITY, issuer=ISSUER, instance="one", digest=None, **options):
    layout, subject = package
    data = sigstore(instance).sign(digest or subject.digest, identity, issuer, **({"at": AT} | options))
    return attach(layout, subject, BUNDLE, data)


def require(package, *signers, **options):
    layout, subject = package
    return require_signed(
        layout, subject.digest, signers, **({"at": AT, "trust_root": sigstore().trust_root()} | options)
    )


def test_a_local_keys_signature_is_said_to_be_one(package):
    made = with_key(package)
    (found,) = require(package, OTHER, TENANT)
    assert found == (LOCAL_KEY, "tenant", key_id_of(TENANT.key), None, None, None, made.digest)
    assert found.line == f"local key {key_id_of(TENANT.key)} (tenant): no log, no time"
    assert "keyless" not in found.line


def test_a_keyless_signature_is_said_to_be_one(package):
    made = keyless(package)
    (found,) = require(package, TENANT, PERSON)
    assert found == (KEYLESS, "release team", None, IDENTITY, ISSUER, AT + timedelta(seconds=5), made.digest)
    assert found.line == f"keyless: {IDENTITY}, vouched for by {ISSUER} (release team): logged 2026-06-01T12:00:05Z"
    assert "local key" not in found.line


def test_every_accepted_signature_is_returned(package):
    with_key(package)
    keyless(package)
    assert {each.kind for each in require(package, TENANT, PERSON)} == {LOCAL_KEY, KEYLESS}


def test_an_unsigned_package_is_refused(package):
    with pytest.raises(
        AppraisalError, match=r"is not signed: sha256:.*: found no signature attached, want .* by tenant"
    ):
        require(package, TENANT)


def test_somebody_elses_key_is_refused(package):
    with_key(package, "other")
    with pytest.raises(
        AppraisalError, match=r"not signed by anybody who may: .*another local key: found sha256:.*by tenant"
    ):
        require(package, TENANT)


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [("x@tenant.example", ISSUER), (IDENTITY, "https://other.example"), (IDENTITY.upper(), ISSUER)],
)
def test_another_identity_and_another_issuer_are_refused(package, identity, issuer):
    keyless(package, identity, issuer)
    with pytest.raises(
        AppraisalError, match=r"somebody else's: found .* of 'https.*, want dev@tenant.example of https"
    ):
        require(package, PERSON)


def test_a_key_does_not_vouch_for_an_identity_nor_an_identity_for_a_key(package):
    with_key(package)
    with pytest.raises(AppraisalError, match="of a local key: found no such key among the signers"):
        require(package, PERSON)


def test_a_keyless_signature_is_none_of_a_key(package):
    keyless(package)
    with pytest.raises(AppraisalError, match="is keyless: found no identity among the signers"):
        require(package, TENANT)


def test_a_bundle_stored_as_an_envelope_is_neither(package):
    layout, subject = package
    data = sigstore().sign(subject.digest, IDENTITY, ISSUER, at=AT)
    attach(layout, subject, DSSE, data)
    with pytest.raises(AppraisalError, match="cannot decode the signature envelope"):
        require(package, TENANT, PERSON)


def test_an_envelope_stored_as_a_bundle_is_neither(package):
    layout, subject = package
    attach(layout, subject, BUNDLE, sign_with_key(subject.digest, key()))
    with pytest.raises(AppraisalError, match="cannot decode the sigstore bundle"):
        require(package, TENANT, PERSON)


def test_a_document_about_the_package_that_is_no_signature_is_not_called_false(package):
    scanned = json.loads(encode_statement(package[1].digest)) | {"predicateType": "https://scans.example/passed"}
    keyless(package, payload=json.dumps(scanned).encode())
    with pytest.raises(AppraisalError, match=r"not signed by anybody who may: .*says something else: predicateType"):
        require(package, PERSON)


def test_a_signature_of_another_package_is_false(package):
    with_key(package, digest="sha256:" + "cd" * 32)
    with pytest.raises(VerificationError, match=r"signature is false: .*of another package: found sha256:cdcd"):
        require(package, TENANT)


def test_a_keyless_signature_of_another_package_is_false(package):
    keyless(package, digest="sha256:" + "cd" * 32)
    with pytest.raises(VerificationError, match=r"signature is false: .*of another package: found sha256:cdcd"):
        require(package, PERSON)


def test_a_signature_of_another_sigstore_instance_is_false(package):
    keyless(package, instance="two")
    with pytest.raises(VerificationError, match=r"signature is false: .*not authentic"):
        require(package, PERSON)


def test_a_certificate_that_had_expired_is_false(package):
    keyless(package, logged_after=timedelta(hours=1))
    with pytest.raises(VerificationError, match=r"signature is false: .*not authentic"):
        require(package, PERSON, at=AT + timedelta(days=1))


def test_false_and_foreign_signatures_beside_a_good_one_change_nothing(package):
    layout, subject = package
    with_key(package, "other")
    with_key(package, digest="sha256:" + "cd" * 32)
    keyless(package, instance="two")
    attach(layout, subject, DSSE, b"rubbish")
    attach(layout, subject, BUNDLE, b"rubbish")
    with_key(package)
    judged = judge_signatures(layout, subject.digest, (TENANT, PERSON), at=AT, trust_root=sigstore().trust_root())
    assert [each.signer for each in judged.accepted] == ["tenant"]
    assert sorted(type(error).__name__ for _, error in judged.refused) == [
        "AppraisalError",
        "DecodeError",
        "DecodeError",
        "VerificationError",
        "VerificationError",
    ]
    assert len(require(package, TENANT, PERSON)) == 1


def test_more_than_so_many_are_not_looked_at_and_that_is_said(package):
    layout, subject = package
    for number in range(MAX_ATTACHED + 2):
        attach(layout, subject, DSSE, b"%d" % number)
    with pytest.raises(AppraisalError, match="and 61 more; want"):
        require(package, TENANT)


@pytest.mark.parametrize(
    ("pattern", "repository", "may"),
    [
        (None, None, True),
        (None, "registry.example/app", True),
        ("registry.example/app", "registry.example/app", True),
        ("registry.example/app", "registry.example/apple", False),
        ("registry.example/app", "other.example/app", False),
        ("registry.example/app", None, False),
        ("registry.example/team/*", "registry.example/team/app", True),
        ("registry.example/team/*", "registry.example/team/a/b", True),
        ("registry.example/team/*", "registry.example/team", False),
        ("registry.example/team/*", "registry.example/teammate/app", False),
        ("registry.example/*", "registry.example:5000/app", False),
        ("registry.example/team/*", None, False),
    ],
)
def test_a_signer_may_sign_for_his_repositories(package, pattern, repository, may):
    with_key(package)
    signer = PackageSigner(name="tenant", key=TENANT.key, repository=pattern)
    if may:
        assert require(package, signer, repository=repository)
    else:
        with pytest.raises(AppraisalError, match="signer: found nobody who may sign for"):
            require(package, signer, repository=repository)


def test_the_signer_of_another_repository_does_not_count(package):
    with_key(package)
    signers = (PackageSigner(name="a", key=TENANT.key, repository="registry.example/a"), OTHER)
    with pytest.raises(AppraisalError, match="want one of " + key_id_of(OTHER.key)):
        require(package, *signers, repository="registry.example/b")


def test_nobody_may_sign_where_nobody_is_named(package):
    with_key(package)
    with pytest.raises(AppraisalError, match="found nobody who may sign for packages that are in no registry"):
        require(package)


def test_a_trust_root_that_cannot_be_read_is_told_even_where_it_is_not_needed(package):
    with_key(package)
    with pytest.raises(DecodeError, match="trust root"):
        require(package, TENANT, PERSON, trust_root=b"{}")


def test_a_registry_that_cannot_be_asked_is_no_verdict(package):
    class Silent:
        def referrers(self, *_):
            raise TransportError("cannot ask: no answer")

    with pytest.raises(TransportError, match="no answer"):
        require_signed(Silent(), package[1].digest, [TENANT], at=AT)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"key": b"k", "identity": "a", "issuer": "b"},
        {"identity": "a"},
        {"issuer": "b"},
        {"key": b"k", "issuer": "b"},
        {"key": b""},
    ],
)
def test_a_signer_is_a_key_or_an_identity_with_its_issuer(values):
    with pytest.raises(ValueError, match="want a key, or an identity with its issuer"):
        PackageSigner(name="x", **values)
