# SPDX-License-Identifier: Apache-2.0
"""Who may sign packages, as a policy says it."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.crypto.signature_keys import key_id_of, public_key_of
from enarx.errors import ConfigError
from enarx.rats import PackageSigner
from enarx.verifier.policy_signers import MAX_SIGNERS, read_signers
from enarx.verifier.policy_toml import decode_policy, read_policy
from tests.unit.registry.signed import key, public_pem
from tests.unit.verifier.policy_rules import SNP_TEXT, rules_of

PEM = public_pem(key()).decode()
KEY = f'[[package.signer]]\nkey = """\n{PEM}"""\n'
PERSON = '[[package.signer]]\nidentity = "dev@tenant.example"\nissuer = "https://issuer.example"\n'


def decode(text):
    return decode_policy((SNP_TEXT + text).encode(), path="p.toml", rules_of=rules_of).package_signers


def problems(text):
    return [str(each) for each in read_policy((SNP_TEXT + text).encode(), path="p.toml", rules_of=rules_of).problems]


def refuse(text):
    with pytest.raises(ConfigError) as caught:
        decode(text)
    assert caught.value.line is not None
    assert len(problems(text)) == 1
    return str(caught.value).partition(": ")[2]


def test_a_policy_that_names_nobody_wants_nothing():
    assert decode("") == ()


def test_signers_are_keys_and_identities():
    public = public_key_of(key())
    named = 'name = "release"\nrepository = "registry.example:5000/team/*"\n'
    assert decode(KEY + PERSON + KEY + named) == (
        PackageSigner(name=key_id_of(public)[:19], key=public),
        PackageSigner(name="dev@tenant.example", identity="dev@tenant.example", issuer="https://issuer.example"),
        PackageSigner(name="release", key=public, repository="registry.example:5000/team/*"),
    )


def test_evidence_is_judged_alike_with_and_without_signers():
    plain, named = (decode_policy((SNP_TEXT + more).encode(), path="p.toml", rules_of=rules_of) for more in ("", KEY))
    assert (plain.expectations, plain.tees) == (named.expectations, named.tees)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[package]\n", "package.signer: found nothing, want 1 to 64 tables, [[package.signer]]"),
        ("[package]\nsigner = []\n", "package.signer: found 0 tables, want 1 to 64 tables"),
        ("[package]\nsigner = 5\n", "package.signer: found a number, want 1 to 64 tables"),
        ("[package]\nsigner = [5]\n", "package.signer[0]: found a number, want a table"),
        (KEY + "[package.more]\n", "package.more: found an unknown key, want signer"),
        ("[[package]]\n", "package: found an array, want tables, [[package.signer]]"),
        ("[[package.signer]]\n", "package.signer[0]: found neither, want key alone, or identity and issuer"),
        ('[[package.signer]]\nname = "x"\n', "package.signer[0]: found neither, want key alone"),
        ('[[package.signer]]\nidentity = "x"\n', "package.signer[0]: found identity, want key alone, or identity and issuer"),
        ('[[package.signer]]\nissuer = "x"\n', "package.signer[0]: found issuer, want key alone, or identity and issuer"),
        (KEY + 'issuer = "x"\n', "package.signer[0]: found key and issuer, want key alone"),
        (KEY + PERSON.partition("\n")[2], "package.signer[0]: found key and identity and issuer, want key alone"),
        (KEY + 'repositry = "x"\n', "package.signer[0].repositry: found an unknown key, want repository"),
        (KEY + 'zzz = "x"\n', "package.signer[0].zzz: found an unknown key, want name, key, identity"),
        (KEY + "name = 5\n", "package.signer[0].name: found 5, want text"),
        (KEY + 'name = " "\n', "package.signer[0].name: found ' ', want text"),
        (KEY + 'name = "a\\nb"\n', "package.signer[0].name: found 'a\\nb', want text of one line"),
        (KEY + f'name = "{"x" * 501}"\n', "package.signer[0].name: found 'xxxx"),
        ('[[package.signer]]\nkey = "x"\n', "package.signer[0].key: found no PUBLIC KEY block, want one in PEM"),
        (KEY + 'repository = "registry.example/*/app"\n', "package.signer[0].repository: found 'registry.example/*/app', want HOST/NAME"),
        (KEY + 'repository = "https://x/y"\n', "package.signer[0].repository: found 'https://x/y', want HOST/NAME"),
        (KEY + 'repository = "registry.example"\n', "package.signer[0].repository: found 'registry.example', want HOST/NAME"),
        (PERSON + KEY * MAX_SIGNERS, "package.signer: found 65 tables, want 1 to 64"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text, message):
    assert refuse(text).startswith(message)


def test_all_problems_are_told():
    assert len(problems("[[package.signer]]\n" + KEY.replace("MCow", "AAAA") + PERSON + "x = 1\ny = 2\n")) == 4


def test_a_file_that_names_images_keeps_its_signers():
    from enarx.image.policies import expand_policy

    text, images = expand_policy(('version = 1\n[snp]\nimage = "process"\n' + KEY).encode(), path="p.toml")
    assert images == ("process",)
    assert tomllib.loads(text.decode())["package"]["signer"] == [{"key": PEM}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just(PEM),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["signer", "name", "key", "identity", "issuer", "repository", "x"]), inner, max_size=5
            )
        ),
        max_leaves=15,
    )
)
def test_any_table_gives_signers_or_problems(table):
    told = []
    found = read_signers(table, lambda path, problem: told.append((path, problem)))
    assert found or told
    assert all(problem.isprintable() for _, problem in told)
