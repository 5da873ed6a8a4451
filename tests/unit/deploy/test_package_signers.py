# SPDX-License-Identifier: Apache-2.0
"""When a deployment wants a signature, and what comes of it."""

from __future__ import annotations

import pytest

from enarx.crypto.signature_keys import public_key_of
from enarx.deploy.package_signers import find_signers
from enarx.deploy.package_source import Signers, open_reference
from enarx.errors import AppraisalError, UsageError
from enarx.rats import PackageSigner
from enarx.registry.dsse import sign_with_key
from enarx.registry.referrers import attach
from enarx.wire.dsse import DSSE
from tests.unit.registry.signed import AT, MODULE, key, make_package, sigstore

TENANT = PackageSigner(name="tenant", key=public_key_of(key()))
SIGNERS = find_signers([TENANT], is_required=False, at=AT)


def test_nobody_wants_a_signature_where_nobody_says_so():
    assert find_signers([], is_required=False, at=AT) is None


@pytest.mark.parametrize("is_required", [False, True])
def test_a_policy_that_names_signers_wants_a_signature_whatever_the_flag_says(is_required):
    assert find_signers([TENANT], is_required=is_required, at=AT) == Signers((TENANT,), AT, None)


def test_a_signature_by_anybody_cannot_be_wanted():
    with pytest.raises(UsageError, match="found no signer in the policy, want one") as caught:
        find_signers([], is_required=True, at=AT)
    assert "[[package.signer]]" in caught.value.hint


def test_a_trust_root_is_read_for_those_who_may_sign(tmp_path):
    path = tmp_path / "root.json"
    with pytest.raises(UsageError, match=r"cannot read the trust root: .*root.json"):
        find_signers([TENANT], is_required=False, at=AT, trust_root=str(path))
    path.write_bytes(sigstore().trust_root())
    assert find_signers([TENANT], is_required=False, at=AT, trust_root=str(path)).trust_root == path.read_bytes()
    with pytest.raises(UsageError, match="cannot use --trust-root: found no signer"):
        find_signers([], is_required=False, at=AT, trust_root=str(path))


def test_a_signed_package_is_opened_and_an_unsigned_one_is_not(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    with pytest.raises(AppraisalError, match="is not signed"), open_reference(layout.path, require=SIGNERS):
        pass
    attach(layout, package, DSSE, sign_with_key(package.digest, key()))
    with open_reference(layout.path, require=SIGNERS) as opened:
        assert opened.oci_digest == package.digest
        assert [each.signer for each in opened.signatures] == ["tenant"]
        with open(f"{opened.path}/main.wasm", "rb") as file:
            assert file.read() == MODULE


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_has_no_manifest_is_refused_where_a_signature_is_wanted(tmp_path, is_folder):
    (tmp_path / "main.wasm").write_bytes(MODULE)
    path = str(tmp_path if is_folder else tmp_path / "main.wasm")
    with open_reference(path) as opened:
        assert opened.path == path
    with pytest.raises(AppraisalError, match="found a plain module or folder, want a signed package"):
        open_reference(path, require=SIGNERS).__enter__()


def test_a_signer_of_some_repositories_does_not_vouch_for_a_layout(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    attach(layout, package, DSSE, sign_with_key(package.digest, key()))
    signer = PackageSigner(name="tenant", key=TENANT.key, repository="registry.example/*")
    with pytest.raises(AppraisalError, match="nobody who may sign for packages that are in no registry"):
        open_reference(layout.path, require=find_signers([signer], is_required=True, at=AT)).__enter__()
