# SPDX-License-Identifier: Apache-2.0
"""Reference values of CoRIM in a policy: exactly what the maker said, or a refusal."""

from __future__ import annotations

import pytest

from enarx.errors import ConfigError
from enarx.verifier.policy_corim import references_from_corim
from enarx.verifier.registry import judge_of
from enarx.wire.corim import ENVIRONMENTS, Digest, Environment, Measurement, ReferenceValue, ReferenceValueSet
from tests.unit.verifier.policy_rules import rules_of

A, B = Digest("sha-384", b"\xaa" * 48), Digest("sha-384", b"\xbb" * 48)
SMALL = Digest("sha-256", b"\xcc" * 32)


def measure(key, *digests, **values):
    return Measurement(key=key, digests=digests, **values)


def triple(section, *measurements):
    environment = ENVIRONMENTS[section] if isinstance(section, str) else section
    return ReferenceValue(environment=environment, measurements=measurements)


def take(*triples, rules=rules_of):
    return references_from_corim(ReferenceValueSet(id="x", values=triples), path="r.corim", rules_of=rules)


def values(*triples, rules=rules_of):
    return {key: reference.toml for key, reference in take(*triples, rules=rules)[1].items()}


def test_digests_of_several_environments():
    sections, references = take(
        triple("tdx", measure("mrtd", A, B)),
        triple("snp", measure("measurement", A)),
        triple("nitro", measure("pcr0", B)),
    )
    assert sections == ("snp", "tdx", "nitro")
    assert references["tdx.mrtd"].toml == f'["{"aa" * 48}", "{"bb" * 48}"]'
    assert references["nitro.pcrs.pcr0"].toml == f'["{"bb" * 48}"]'
    assert references["snp.measurement"].remarks == ("from 'r.corim'",)


def test_numbers():
    assert values(triple("sgx", measure("mrsigner", SMALL), measure("isv_svn", min_svn=4)))["sgx.isv_svn"] == "4"
    assert values(triple("snp", measure("vmpl", svn=0))) == {"snp.vmpl": "[0]"}


def test_whole_keys_and_last_words():
    assert values(triple("sgx", measure("collateral.tcb_evaluation_data_number", min_svn=18))) == {
        "sgx.collateral.tcb_evaluation_data_number": "18"
    }
    assert values(triple("snp", measure("chip_id", raw=b"\1" * 64))) == {"snp.chip_id": f'["{"01" * 64}"]'}


def test_registers():
    assert values(triple("nitro", measure(None, registers={0: (A,)}))) == {"nitro.pcrs.pcr0": f'["{"aa" * 48}"]'}
    assert values(triple("nitro", measure("pcr", registers={0: (A,)}))) == {"nitro.pcrs.pcr0": f'["{"aa" * 48}"]'}
    assert values(triple("nitro", measure(None, registers={"pcr0": (A,)}))) == {"nitro.pcrs.pcr0": f'["{"aa" * 48}"]'}


def test_masked_values_where_the_key_has_masks():
    def rules(section):
        return judge_of(section).rules

    masked = measure("td_attributes", raw=b"\xff" * 8, raw_mask=b"\x01" + bytes(7))
    assert values(triple("tdx", masked), rules=rules) == {"tdx.td_attributes": '["0100000000000000/0100000000000000"]'}
    with pytest.raises(ConfigError, match=r"a value of snp\.measurement that it cannot have"):
        take(triple("snp", measure("measurement", raw=b"\1" * 48, raw_mask=b"\1" * 48)))


def test_alternatives_of_one_element_come_together():
    first, second = triple("tdx", measure("mrtd", A)), triple("tdx", measure("mrtd", A, B))
    assert values(first, second) == {"tdx.mrtd": f'["{"aa" * 48}", "{"bb" * 48}"]'}


@pytest.mark.parametrize(
    ("triples", "words"),
    [
        (
            [triple(Environment(vendor="AMD"), measure("measurement", A))],
            "found the environment 'AMD', want one of AMD",
        ),
        ([triple(Environment(vendor="AMD", model="SEV-SNP", layer=1), measure("measurement", A))], "and nothing more"),
        ([triple("snp", measure("mesurement", A))], "found the element 'mesurement', which is no key of a policy"),
        ([triple("snp", measure(641, A))], "found an element named 641, want the name of a policy's key"),
        ([triple("snp", measure(None, A))], "found an element named nothing"),
        ([triple("snp", measure("measurement", SMALL))], "found a value of 32 bytes, want a list of 48-byte values"),
        (
            [triple("snp", measure("measurement", A, svn=3))],
            "found several kinds of values for the element 'measurement'",
        ),
        ([triple("snp", measure("measurement", A, registers={0: (B,)}))], "found several kinds of values"),
        ([triple("snp", measure("measurement", A), measure("measurement", B))], "found snp.measurement twice"),
        ([triple("sgx", measure("isv_svn", svn=3))], "found a value of sgx.isv_svn that it cannot have"),
        ([triple("snp", measure("vmpl", min_svn=0))], "found a value of snp.vmpl that it cannot have"),
        ([triple("sgx", measure("grace_days", min_svn=1))], "a value of another kind for sgx.collateral.grace_days"),
        ([triple("sgx", measure("advisories", SMALL))], "a value of another kind for sgx.advisories"),
        ([triple("sgx", measure("isv_svn", min_svn=1 << 70))], "found an integer of 71 bits"),
        (
            [
                triple("sgx", measure("mrsigner", SMALL), measure("isv_svn", min_svn=3)),
                triple("sgx", measure("mrsigner", SMALL)),
            ],
            "found several triples for one environment with several elements",
        ),
        (
            [triple("tdx", measure("mrtd", A)), triple("tdx", measure("report_data", A))],
            "found several triples for one environment",
        ),
        (
            [triple("sgx", measure("isv_svn", min_svn=3)), triple("sgx", measure("isv_svn", min_svn=4))],
            "found several bounds for sgx.isv_svn, want one",
        ),
        ([triple("nitro", measure("pcr9", A))], "which is no key of a policy, want one key"),
    ],
)
def test_refuses_what_a_policy_cannot_say(triples, words):
    with pytest.raises(ConfigError) as caught:
        take(*triples)
    assert words in str(caught.value)
    assert str(caught.value).startswith("r.corim: reference values: found ")


def test_an_element_that_two_keys_end_with_is_refused():
    with pytest.raises(ConfigError, match="want one key"):
        take(triple("snp", measure("smt", svn=1)), rules=lambda section: judge_of(section).rules)


@pytest.mark.parametrize("section", ENVIRONMENTS)
def test_every_environment_is_a_section_with_digests(section):
    from enarx.verifier.grammar import Digests

    rules = [rule for rule in judge_of(section).rules if rule.strict is None and isinstance(rule.grammar, Digests)]
    name = rules[0].key.partition(".")[2]
    size = rules[0].grammar.size or 48
    digest = Digest({32: "sha-256", 48: "sha-384"}[size], b"\1" * size)
    found = values(triple(section, measure(name, digest)), rules=lambda section: judge_of(section).rules)
    assert found == {rules[0].key: f'["{"01" * size}"]'}
