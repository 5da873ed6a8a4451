# SPDX-License-Identifier: Apache-2.0
"""Policy files: every notation, every place, and any text at all."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.rats import AppraisalPolicy, AtLeast, AtMost, EachAtLeast, FromCaller, NamedSteward, OneOf, Skip, Subset
from enarx.verifier.policy_toml import MAX_BYTES, MAX_PROBLEMS, PolicyText, decode_policy, decode_value, read_policy
from enarx.verifier.registry import SECTIONS, judge_of
from tests.unit.verifier.policy_rules import RULES, SGX_TEXT, SNP_TEXT, rules_of

SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000"))


def decode(text):
    return decode_policy(text.encode(), path="p.toml", rules_of=rules_of)


def refuse(text):
    with pytest.raises(ConfigError) as caught:
        decode(text)
    error = caught.value
    assert error.path == "p.toml"
    assert str(error).startswith("p.toml:")
    assert str(error).isprintable()
    assert not str(error).endswith(".")
    return error


def swap(old, new, text=SNP_TEXT):
    assert text.count(old) == 1
    return text.replace(old, new)


def test_every_notation_of_snp():
    policy = decode(SNP_TEXT)
    assert policy.name == "p.toml"
    assert policy.tees == {"snp"}
    assert policy.expectations == {
        "snp.measurement": OneOf(b"\xab" * 48),
        "snp.vmpl": OneOf(0),
        "snp.firmware": AtLeast((1, 55, 29)),
        "snp.chip_id": Skip("any chip of AMD's"),
        "snp.report_id": Skip("new with each launch"),
        "snp.report_data": FromCaller(),
        "snp.reported_tcb": EachAtLeast(
            {
                "Milan": {"bootloader": 0, "tee": 0, "snp": 29, "microcode": 0},
                "Turin": {"fmc": 0, "bootloader": 0, "tee": 0, "snp": 4, "microcode": 0},
            }
        ),
        "snp.guest_policy.debug": OneOf(False),
        "snp.guest_policy.smt": Skip("any number of threads"),
    }
    assert policy.insecure_emulated_roots == policy.insecure_vtpm_aks == frozenset()


def test_dotted_keys_and_inline_tables_are_tables():
    policy = decode(SGX_TEXT)
    assert policy.expectations["sgx.attributes.debug"] == OneOf(False)
    assert policy.expectations["sgx.collateral.tcb_evaluation_data_number"] == AtLeast(19)
    assert policy.expectations["sgx.collateral.grace_days"] == AtMost(0)
    assert policy.expectations["sgx.advisories"] == Subset()


def test_several_tees():
    text = SNP_TEXT + SGX_TEXT.removeprefix("version = 1\n")
    policy = decode(text)
    assert policy.tees == {"snp", "sgx"}
    assert len(policy.expectations) == len(RULES["snp"]) + len(RULES["sgx"])


def test_insecure_digests():
    text = f'insecure_emulated_roots = ["{"0F" * 32}"]\ninsecure_vtpm_aks = ["{"01" * 32}", "{"02" * 32}"]\n{SNP_TEXT}'
    policy = decode(text)
    assert policy.insecure_emulated_roots == {b"\x0f" * 32}
    assert policy.insecure_vtpm_aks == {b"\x01" * 32, b"\x02" * 32}


def test_a_steward_is_named_and_its_root_not_read():
    """From a receipt there is no folder that the root could be in."""
    assert decode(SNP_TEXT).steward is None
    named = decode(SNP_TEXT + '[steward]\nurl = "https://steward.example"\nroot = "no/such.pem"\n')
    assert named.steward == NamedSteward(url="https://steward.example", root="no/such.pem")
    assert replace(named, steward=None) == decode(SNP_TEXT)


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ('url = "https://a"', "steward", "found no root"),
        ('url = "http://a"\nroot = "r"', "steward.url", "want https://HOST"),
        ('url = "https://a"\nroot = 1', "steward.root", "found 1"),
        ('url = "https://a"\nroot = "r"\nroots = "r"', "steward.roots", "want root"),
    ],
)
def test_refuses_what_names_no_steward(table, key, words):
    error = refuse(f"{SNP_TEXT}[steward]\n{table}\n")
    assert (error.key, words in str(error)) == (key, True)


def test_a_preset_is_remembered_by_its_key():
    text = read_policy(SNP_TEXT.encode(), path="p.toml", rules_of=rules_of)
    assert text.presets == {"snp.reported_tcb": "amd-2026-05"}
    assert text.problems == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("version = 1", "version = 2", 1, "version", "found 2, want 1"),
        ("version = 1", "version = true", 1, "version", "found true, want 1"),
        ("version = 1", "version = 1.0", 1, "version", "found 1.0, want 1"),
        ("version = 1\n", "\n", None, "version", "found nothing, want 1"),
        ("vmpl = [0]", "vmpl = 0", 5, "snp.vmpl", "found 0, want a list of numbers from 0 to 3"),
        ("vmpl = [0]", "vmpl = []", 5, "snp.vmpl", "found [], want a list"),
        ("vmpl = [0]", "vmpl = [4]", 5, "snp.vmpl", "found 4, want"),
        ("vmpl = [0]", "vmpl = [true]", 5, "snp.vmpl", "found True, want"),
        ("vmpl = [0]", "vmpl = [0.0]", 5, "snp.vmpl", "found 0.0, want"),
        ("vmpl = [0]", "vmpl = [0x" + "f" * 5000 + "]", 5, "snp.vmpl", "found an integer of 20000 bits, want at most"),
        ("vmpl = [0]", "vmpl = [[[[[[1]]]]]]", 5, "snp.vmpl", "found values nested too deeply"),
        ("vmpl = [0]", "vmpl = 2026-01-01", 5, "snp.vmpl", "want a list"),
        ("vmpl = [0]", "vmlp = [0]", 5, "snp.vmlp", "found an unknown key, want vmpl"),
        ("vmpl = [0]", "", 3, "snp.vmpl", "found nothing, want a list of numbers"),
        ("ab" * 48, "ab" * 47, 4, "snp.measurement", "found a value of 47 bytes, want a list of 48-byte values"),
        ('debug = "forbidden"', "debug = false", 13, "snp.guest_policy.debug", 'found False, want "forbidden" or'),
        ('debug = "forbidden"', 'debugg = "forbidden"', 13, "snp.guest_policy.debugg", "unknown key, want debug"),
        ("[snp.guest_policy]", "[snp.guest_polcy]", 12, "snp.guest_polcy", "found an unknown key, want guest_policy"),
        ("[snp]", "[spn]", 3, "spn", "found an unknown key, want snp"),
        ('"new with each launch"', '""', 8, "snp.report_id", "want skip = text of one line"),
        ('"new with each launch"', '" "', 8, "snp.report_id", "want skip = text of one line"),
        ('"new with each launch"', '"a\\nb"', 8, "snp.report_id", "want skip = text of one line"),
        ('"new with each launch"', f'"{"x" * 501}"', 8, "snp.report_id", "at most 500 characters"),
        ('"new with each launch"', "true", 8, "snp.report_id", "found true, want skip = text"),
        ('= "new with each launch" }', '= "a", values = [] }', 8, "snp.report_id", "want skip alone"),
        ("amd-2026-05", "amd-2062-05", 10, "snp.reported_tcb", "which does not exist, want one of amd-2025-02"),
        ("amd-2026-05", "intel-2025-05", 10, "snp.reported_tcb", "which is not for this key, want one of amd-2025-02"),
        ('"from-caller"', '"aa"', 9, "snp.report_data", "found 'aa', want \"from-caller\""),
        ('firmware = "1.55.29"', "firmware = 1.55", 6, "snp.firmware", "found 1.55, want a version"),
    ],
)
def test_refuses_with_line_and_key(old, new, line, key, words):
    error = refuse(swap(old, new))
    assert error.line == line
    assert error.key == key
    assert words in str(error)


@pytest.mark.parametrize("text", ["", "version = 1", "# nothing\nversion = 1\n"])
def test_refuses_a_policy_without_a_tee(text):
    with pytest.raises(ConfigError) as caught:
        decode(text)
    problems = read_policy(text.encode(), path="p.toml", rules_of=rules_of).problems
    assert any("found no TEE, want at least one of [snp], [tdx]" in str(problem) for problem in problems)
    assert caught.value.status == 2


def test_refuses_a_tee_that_is_no_table():
    assert "found an array, want a table, [snp]" in str(refuse("version = 1\nsnp = []\n"))


def test_refuses_a_value_where_a_table_belongs():
    error = refuse(swap("[snp.guest_policy]\n", "guest_policy = 1\n[other]\n"))
    assert "unknown key" in str(error)
    problems = read_policy(
        swap("attributes.debug", "attributes", SGX_TEXT).encode(), path="p", rules_of=rules_of
    ).problems
    assert [str(problem) for problem in problems] == [
        "p:4: sgx.attributes: found a string, want a table, [sgx.attributes]"
    ]


def test_refuses_to_skip_a_whole_table():
    text = swap('attributes.debug = "forbidden"', 'attributes = { skip = "all of it" }', SGX_TEXT)
    error = refuse(text)
    assert error.key == "sgx.attributes"
    assert "found a skip of the whole table, want one for each key: debug" in str(error)


def test_names_a_key_of_another_table_when_it_is_the_nearest():
    text = swap("vmpl = [0]", 'vmpl = [0]\ndebug = "forbidden"')
    assert "found an unknown key, want snp.guest_policy.debug" in str(refuse(text))


def test_says_where_a_top_key_belongs():
    error = refuse(SNP_TEXT + f'insecure_vtpm_aks = ["{"00" * 32}"]\n')
    assert error.hint == "insecure_vtpm_aks belongs above the first [table] of the file"


@pytest.mark.parametrize(
    "values", ["[]", "true", '["00"]', f'["{"zz" * 32}"]', "[1]", f'["{"00" * 33}"]', str(["00" * 32] * 65)]
)
@pytest.mark.parametrize("key", ["insecure_emulated_roots", "insecure_vtpm_aks"])
def test_refuses_what_is_no_digest(key, values):
    error = refuse(f"{key} = {values}\n{SNP_TEXT}")
    assert error.line == 1
    assert error.key.startswith(key)
    assert "want 1 to 64 SHA-256 digests in hex" in str(error)


def test_every_missing_key_is_told_at_once():
    text = read_policy(b"version = 1\n[snp]\n", path="p.toml", rules_of=rules_of)
    assert text.policy is None
    assert [problem.key for problem in text.problems] == [rule.key for rule in RULES["snp"]]
    assert {problem.line for problem in text.problems} == {2}
    with pytest.raises(ConfigError) as caught:
        decode("version = 1\n[snp]\n")
    assert caught.value.hint == f"enarx policy check p.toml shows all {len(RULES['snp'])} problems"


def test_stops_telling_when_there_are_too_many():
    text = "version = 1\n[snp]\n" + "".join(f"k{n} = 1\n" for n in range(MAX_PROBLEMS * 5))
    assert len(read_policy(text.encode(), path="p", rules_of=rules_of).problems) == MAX_PROBLEMS


@pytest.mark.parametrize("data", [b"x = [", b"\xff", b"a.b.c.d.e.f.g.h.i = 1", b"a = 1\na = 2"])
def test_refuses_what_is_no_toml(data):
    with pytest.raises(ConfigError, match=r"^p\.toml(:\d)?: (syntax|text): "):
        read_policy(data, path="p.toml", rules_of=rules_of)


def test_refuses_a_file_that_is_too_large():
    assert decode(SNP_TEXT + "#" * (MAX_BYTES - len(SNP_TEXT)))
    assert "want at most 1000000" in str(refuse(SNP_TEXT + "#" * (MAX_BYTES - len(SNP_TEXT) + 1)))


def test_the_registered_judges_are_the_default(monkeypatch):
    class Judge:
        rules = RULES["snp"]

    monkeypatch.setattr("enarx.verifier.policy_toml.judge_of", lambda section: Judge)
    assert decode_policy(SNP_TEXT.encode(), path="p").tees == {"snp"}


keys = st.sampled_from(
    [
        *SECTIONS,
        *(rule.key for rules in RULES.values() for rule in rules),
        *(rule.key.rpartition(".")[2] for rules in RULES.values() for rule in rules),
        "version",
        "insecure_emulated_roots",
        "insecure_vtpm_aks",
        "guest_policy",
        "skip",
        "preset",
        "Milan",
        "snp.reported_tcb.Milan",
        '""',
        '"a\\nb"',
    ]
)
scalars = st.one_of(
    st.sampled_from(["true", "nan", "0x" + "f" * 3000, "-1", "1", "0", "255", "1979-05-27", "07:32:00", "'forbidden'"]),
    st.sampled_from(
        ['"required"', '"from-caller"', '"amd-2026-05"', '"1.55.29"', f'"{"ab" * 48}"', '"UpToDate"', '""']
    ),
    st.text(max_size=8).map(lambda text: "'" + "".join(c for c in text if c.isprintable() and c != "'") + "'"),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(keys, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key} = {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
lines = st.one_of(
    st.tuples(keys, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    keys.map(lambda key: f"[{key}]"),
    st.sampled_from((SNP_TEXT + SGX_TEXT).splitlines()),
)
texts = st.one_of(
    st.lists(lines, max_size=12).map("\n".join),
    st.tuples(st.sampled_from([SNP_TEXT, SGX_TEXT]), st.integers(0, 12), lines).map(
        lambda parts: "\n".join([*parts[0].splitlines()[: parts[1]], parts[2], *parts[0].splitlines()[parts[1] + 1 :]])
    ),
).map(str.encode)


def a_policy_or_an_error(data):
    try:
        text = read_policy(data, path="p.toml", rules_of=rules_of)
    except ConfigError as error:
        text = PolicyText(policy=None, problems=(error,), presets={}, find_line=lambda path: None)
    for problem in text.problems:
        assert type(problem) is ConfigError
        assert str(problem).startswith("p.toml")
        assert len(str(problem)) < 3000
    assert (text.policy is None) == bool(text.problems)
    if text.policy is not None:
        assert isinstance(text.policy, AppraisalPolicy)
        assert text.policy.expectations.keys() == {rule.key for section in text.policy.tees for rule in RULES[section]}


@given(texts)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_text_is_a_policy_or_an_error(data):
    a_policy_or_an_error(data)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_are_a_policy_or_an_error(data):
    a_policy_or_an_error(data)


@pytest.mark.soak
@given(texts)
@settings(max_examples=SOAK_EXAMPLES, deadline=None)
def test_soak_any_text_is_a_policy_or_an_error(data):
    a_policy_or_an_error(data)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["skip", "from-caller"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["skip", "preset", "Milan", "snp"]), inner)
    ),
    max_leaves=10,
)


@given(json_like, st.sampled_from([rule for rules in RULES.values() for rule in rules]))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_value_is_an_expectation_or_a_value_error(value, rule):
    try:
        told = f"found {decode_value(rule, value)}"
    except ValueError as error:
        told = str(error)
    assert "found" in told


@given(json_like, st.sampled_from(SECTIONS), st.integers(0, 200))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_value_is_an_expectation_or_a_value_error_for_every_real_key(value, section, index):
    real = judge_of(section).rules
    rule = real[index % len(real)]
    for form in (value, [value], {"measurement": value}, {"Milan": value}):
        try:
            told = f"found {decode_value(rule, form)}"
        except ValueError as error:
            told = str(error)
        assert "found" in told
