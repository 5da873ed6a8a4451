# SPDX-License-Identifier: Apache-2.0
"""The run-time register of an offer, and of what follows the receipt."""

from __future__ import annotations

import hashlib

from enarx.attester.configfs import TdxRegister
from enarx.attester.tpm import TpmRegister
from enarx.rats import Skip
from enarx.verifier import baseline_policy
from enarx.verifier.keep_evidence import empty_keep, provisioned_keep, unknown_keep

DIGEST = hashlib.sha384(b"receipt").digest()


def test_an_empty_keep_has_extended_nothing():
    policy = empty_keep(baseline_policy("tdx", "tpm"))
    assert policy.expectations["tdx.rtmr3"].holds(bytes(48))
    assert not policy.expectations["tdx.rtmr3"].holds(DIGEST)
    assert policy.expectations["tpm.pcr15"].holds(bytes(32))
    azure = empty_keep(baseline_policy("azure")).expectations["azure.pcr15"]
    assert azure.holds(bytes(32))
    assert not azure.holds(hashlib.sha256(b"").digest())


def test_a_provisioned_keep_has_extended_its_receipt_as_the_drivers_do():
    policy = provisioned_keep(baseline_policy("tdx", "tpm"), DIGEST)
    assert policy.expectations["tdx.rtmr3"].holds(TdxRegister.predict(None, DIGEST))
    assert policy.expectations["tpm.pcr15"].holds(TpmRegister.predict(None, DIGEST))
    assert not policy.expectations["tdx.rtmr3"].holds(bytes(48))
    azure = provisioned_keep(baseline_policy("azure"), DIGEST).expectations["azure.pcr15"]
    assert azure.holds(TpmRegister.predict(None, DIGEST))
    assert not azure.holds(bytes(32))


def test_of_a_keep_whose_receipt_is_unknown_nothing_is_expected_and_the_reason_is_said():
    policy = unknown_keep(baseline_policy("tdx", "tpm"))
    for key in ("tdx.rtmr3", "tpm.pcr15"):
        assert isinstance(policy.expectations[key], Skip)
        assert "the receipt" in policy.expectations[key].reason
    assert policy.expectations["tdx.rtmr2"] == baseline_policy("tdx").expectations["tdx.rtmr2"]


def test_a_policy_without_such_a_register_stays_as_it_is():
    policy = baseline_policy("snp")
    assert empty_keep(policy) is policy
    assert provisioned_keep(policy, DIGEST) is policy
    assert unknown_keep(policy) is policy
