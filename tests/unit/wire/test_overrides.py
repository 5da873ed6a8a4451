# SPDX-License-Identifier: Apache-2.0
"""What is given beside an Enarx.toml comes over it, in one way for `enarx run` and for a Keep."""

from __future__ import annotations

import pytest

from enarx.errors import ConfigError
from enarx.wire import DEFAULT, EnarxToml, Limits, ListenFile, NullFile, Peer, Tls, replace
from enarx.wire.overrides import Overrides, apply_overrides, require_steward
from enarx.wire.release import Configuration, ListenOverride

TOML = EnarxToml(
    args=("from", "file"),
    env=(("A", "1"), ("B", "2")),
    files=(NullFile(), ListenFile(name="http", prot="tcp", addr="127.0.0.1", port=80)),
    limits=Limits(fuel=5, timeout_s=9.5),
    allow_connect=("*:443",),
)


@pytest.fixture(params=[Overrides, Configuration], ids=["run", "keep"])
def given(request):
    return request.param


def test_nothing_given_is_the_file(given):
    assert apply_overrides(TOML, given()) == TOML
    assert apply_overrides(None, given()) == DEFAULT


def test_arguments_replace_the_file_s(given):
    assert apply_overrides(TOML, given(arguments=("x",))).args == ("x",)
    assert apply_overrides(TOML, given(arguments=())).args == ()


def test_variables_are_changed_where_they_stand_or_added(given):
    found = apply_overrides(TOML, given(environment=(("C", "3"), ("A", "x"), ("C", "4"))))
    assert found.env == (("A", "x"), ("B", "2"), ("C", "4"))


def test_a_listen_entry_gets_another_port_or_is_added(given):
    found = apply_overrides(TOML, given(listen=(ListenOverride("http", "tls", 8443), ListenOverride("new", "tcp", 1))))
    assert found.files == (
        NullFile(),
        ListenFile(name="http", prot="tls", addr="127.0.0.1", port=8443),
        ListenFile(name="new", prot="tcp", addr="::", port=1),
    )


def test_a_port_without_a_protocol_keeps_the_entry_s():
    found = apply_overrides(TOML, Overrides(listen=[("http", "", 1), ("new", "", 2)]))
    assert [(file.prot, file.port) for file in found.files[1:]] == [("tcp", 1), ("tls", 2)]


def test_limits_are_set_one_by_one(given):
    limits = {"memory-bytes": 0, "timeout-ms": 1500, "output-bytes": 0, "open-files": 3}
    found = apply_overrides(TOML, given(limits=limits)).limits
    assert found == Limits(memory_bytes=0, timeout_s=1.5, fuel=5, output_bytes=0, open_files=3)


@pytest.mark.parametrize(
    "limits",
    [
        {"memory-bytes": 1 << 63},
        {"timeout-ms": 0},
        {"timeout-ms": 1 << 60},
        {"fuel": 0},
        {"fuel": (1 << 64) - 1},
        {"output-bytes": 1 << 63},
        {"open-files": 0},
        {"open-files": (1 << 20) + 1},
    ],
)
def test_refuses_a_limit_that_no_workload_can_have(given, limits):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(TOML, given(limits=limits))
    assert caught.value.key == f"limits.{next(iter(limits))}"


@pytest.mark.parametrize(
    "values",
    [
        {"environment": (("", "secret"),)},
        {"environment": (("A=B", "secret"),)},
        {"environment": (("A", "secret\0"),)},
        {"environment": (("A\0", "secret"),)},
        {"arguments": ("secret\0",)},
        {"listen": (ListenOverride("", "tls", 1),)},
        {"listen": (ListenOverride("a:b", "tls", 1),)},
        {"listen": (ListenOverride("a\n", "tls", 1),)},
    ],
)
def test_refuses_what_no_enarx_toml_could_say_and_shows_no_value(given, values):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(TOML, given(**values))
    assert "secret" not in str(caught.value)


PEER = (b"\x01" * 32, None)


def test_peers_replace_the_file_s_and_have_to_show_a_certificate(given):
    toml = replace(TOML, tls=Tls(client_auth="optional", peers=(Peer(package="f" * 64, tenant="any"),)))
    found = apply_overrides(toml, given(peers=(PEER, (b"\x02" * 32, b"\x03" * 48)))).tls
    wanted = (Peer(package="01" * 32, tenant="any"), Peer(package="02" * 32, tenant="03" * 48))
    assert found == Tls(client_auth="required", peers=wanted)
    assert apply_overrides(toml, given(peers=None)).tls == toml.tls


@pytest.mark.parametrize("tls", [Tls(certificate="c", private_key="k"), Tls(trust_anchors=("a",))])
def test_refuses_peers_where_others_certify_them(given, tls):
    with pytest.raises(ConfigError, match="together with peers"):
        apply_overrides(replace(TOML, tls=tls), given(peers=(PEER,)))


@pytest.mark.parametrize(
    ("tls", "without", "with_one"),
    [
        (Tls(), None, None),
        (Tls(client_auth="required", trust_anchors=("a",)), None, None),
        (Tls(client_auth="optional"), "tls.client_auth", None),
        (Tls(client_auth="required"), "tls.client_auth", None),
        (Tls(peers=(Peer(package="f" * 64, tenant="any"),)), "tls.peers", None),
        (Tls(certificate="c", private_key="k"), None, "tls.certificate"),
    ],
)
def test_what_holds_for_tls_goes_together_with_the_steward(tls, without, with_one):
    for has_steward, key in ((False, without), (True, with_one)):
        toml = replace(TOML, tls=tls)
        if key is None:
            require_steward(toml, has_steward=has_steward)
            continue
        with pytest.raises(ConfigError) as caught:
            require_steward(toml, has_steward=has_steward)
        assert caught.value.key == key
