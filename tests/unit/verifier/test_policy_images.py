# SPDX-License-Identifier: Apache-2.0
"""Names of images in a policy file, and the values that take their place."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.verifier.policy_images import expand_images, named_images
from enarx.verifier.policy_toml import decode_policy
from tests.unit.verifier.policy_rules import SNP_TEXT, rules_of

IMAGES = {
    "keep-1": {"snp": {"measurement": ["ab" * 48], "host_data": ["00" * 32]}, "tdx": {"mr_td": ["cd" * 48]}},
    'a "b"': {"snp": {"measurement": ["ef" * 48, "01" * 48]}},
}


def expand(text):
    return expand_images(text.encode(), IMAGES, path="p.toml").decode()


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        expand(text)
    assert caught.value.path == "p.toml"
    return caught.value


def test_values_take_the_place_of_a_name():
    text = '# mine\nversion = 1\n\n[snp]\nimage = "keep-1" # the newest\nvmpl = [0]\n\n[tdx]\nimage = "keep-1"\n'
    expanded = expand(text)
    assert tomllib.loads(expanded) == {
        "version": 1,
        "snp": {"vmpl": [0], **IMAGES["keep-1"]["snp"]},
        "tdx": IMAGES["keep-1"]["tdx"],
    }
    assert '# Image "keep-1"\nmeasurement = [' in expanded
    assert expanded.startswith("# mine\nversion = 1\n")
    assert named_images(text.encode(), path="p.toml") == ("keep-1",)


@pytest.mark.parametrize(
    "text",
    [
        'snp.image = "keep-1"\n',
        "snp.image = 'keep-1'",
        '[snp]\r\n  image = "keep-1"\r\n',
        '[snp]\n# image = "other"\nimage\t=\t"keep-1"',
    ],
)
def test_a_name_may_be_written_in_several_ways(text):
    assert tomllib.loads(expand(text))["snp"] == IMAGES["keep-1"]["snp"]


def test_a_text_without_names_stays_as_it_is():
    assert expand(SNP_TEXT) == SNP_TEXT
    assert named_images(SNP_TEXT.encode(), path="p.toml") == ()


def test_the_expanded_text_is_a_policy_and_the_other_is_none():
    line = next(line for line in SNP_TEXT.splitlines() if line.startswith("measurement"))
    named = SNP_TEXT.replace(line, 'image = "keep-1"')
    images = {"keep-1": {"snp": {"measurement": tomllib.loads(line)["measurement"]}}}
    expanded = expand_images(named.encode(), images, path="p.toml")
    policy = decode_policy(expanded, path="p.toml", rules_of=rules_of)
    assert policy.expectations == decode_policy(SNP_TEXT.encode(), path="p.toml", rules_of=rules_of).expectations
    with pytest.raises(ConfigError, match=r"snp\.image: found an unknown key") as caught:
        decode_policy(named.encode(), path="p.toml", rules_of=rules_of)
    assert caught.value.key == "snp.image"


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        ('[snp]\nimage = "gone"', "snp.image", 2, "found 'gone', want one of keep-1"),
        ("[tdx]\nimage = 'a \"b\"'", None, None, "an image that says [snp], want one with values for [tdx]"),
        (
            '[snp]\nimage = "keep-1"\nmeasurement = ["00"]',
            "snp.measurement",
            3,
            "found it beside an image that says it",
        ),
        ('[snp]\nimage = "keep-1"\nhost_data = { skip = "x" }', "snp.host_data", 3, "beside an image"),
        ('snp = { image = "keep-1" }', "snp.image", 1, "on a line of its own"),
        ('[snp]\nimage = """keep-1"""', "snp.image", 2, "on a line of its own"),
        ("[snp]\nimage = 1", "snp.image", 2, "want the name of an image"),
        ('[snp]\nimage = ""', "snp.image", 2, "want the name of an image"),
        ('[snp]\nimage = ["keep-1"]', "snp.image", 2, "want the name of an image"),
    ],
)
def test_refuses_what_cannot_be_put_in(text, key, line, words):
    error = refusal(text)
    assert words in str(error)
    if key is not None:
        assert (error.key, error.line) == (key, line)


def test_a_name_in_a_text_is_no_name():
    """The line of a text of several lines looks like one that names an image."""
    text = '[snp]\nnote = """\nimage = "keep-1"\n"""\nvmpl = [0]\n'
    assert expand(text) == text


def test_refuses_what_is_no_toml():
    with pytest.raises(ConfigError):
        named_images(b"[snp", path="p.toml")


@given(
    st.lists(
        st.sampled_from(
            [
                "[snp]",
                "[tdx]",
                'image = "keep-1"',
                "image = 'a \"b\"'",
                'note = """',
                '"""',
                "x = 1",
                "# image",
                "",
                "snp.image = 'keep-1'",
            ]
        ),
        max_size=9,
    )
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_what_comes_out_means_what_went_in(lines):
    data = "\n".join(lines).encode()
    try:
        expanded = expand_images(data, IMAGES, path="p.toml")
    except ConfigError:
        return
    before, after = tomllib.loads(data.decode()), tomllib.loads(expanded.decode())
    for section in ("snp", "tdx"):
        table = dict(before.get(section, {}))
        name = table.pop("image", None)
        assert after.get(section, {}) == table | (IMAGES[name][section] if name else {})
