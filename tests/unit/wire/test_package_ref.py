# SPDX-License-Identifier: Apache-2.0
"""How packages are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import UsageError
from enarx.wire.package_ref import PathRef, RegistryRef, is_tag, parse_package_ref

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("oci://registry.example/app", RegistryRef("registry.example", "app", None, None)),
        ("oci://registry.example/team/app:1.0", RegistryRef("registry.example", "team/app", "1.0", None)),
        ("oci://registry.example:5000/a-b/c__d:_x", RegistryRef("registry.example:5000", "a-b/c__d", "_x", None)),
        (f"oci://localhost/app@{DIGEST}", RegistryRef("localhost", "app", None, DIGEST)),
        (f"oci://127.0.0.1:5000/app:1@{DIGEST}", RegistryRef("127.0.0.1:5000", "app", "1", DIGEST)),
        ("oci://[::1]:5000/app:1", RegistryRef("[::1]:5000", "app", "1", None)),
        ("app", PathRef("app", None, None)),
        ("./app.tar", PathRef("./app.tar", None, None)),
        ("layout:1.0", PathRef("layout", "1.0", None)),
        (f"layout@{DIGEST}", PathRef("layout", None, DIGEST)),
        (f"/a/layout:1@{DIGEST}", PathRef("/a/layout", "1", DIGEST)),
        ("a:b/c", PathRef("a:b/c", None, None)),
        ("a@sha256:12", PathRef("a@sha256", "12", None)),
        (":1", PathRef(":1", None, None)),
        (f"@{DIGEST}", PathRef("@sha256", DIGEST[7:], None)),
    ],
)
def test_reads_what_users_write(text, want):
    assert parse_package_ref(text) == want
    assert parse_package_ref(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "x" * 4097,
        "https://registry.example/app",
        "docker://registry.example/app",
        "oci://",
        "oci://registry.example",
        "oci://registry.example/",
        "oci:///app",
        "oci://registry.example/App",
        "oci://registry.example/a//b",
        "oci://registry.example/a/../b",
        "oci://registry.example/a/",
        "oci://registry.example/a_-b",
        "oci://registry.example/app:",
        "oci://registry.example/app:.x",
        "oci://registry.example/app:" + "x" * 129,
        "oci://registry.example/app@sha256:12",
        f"oci://registry.example/app@{DIGEST.upper()}",
        f"oci://registry.example/app@{DIGEST}@{DIGEST}",
        "oci://registry.example:0/app",
        "oci://registry.example:65536/app",
        "oci://user@registry.example/app",
        "oci://-registry.example/app",
        "oci://registry.example\n/app",
        "oci://registry.example/app\n",
        "oci://registry.example/" + "a" * 240,
    ],
    ids=lambda text: text[:40],
)
def test_refuses_what_is_no_name(text):
    with pytest.raises(UsageError, match="cannot read the package's name"):
        parse_package_ref(text)


@given(st.text(max_size=60) | st.text("oci:/@.-_a1A[]", max_size=40).map("oci://".__add__))
def test_every_text_is_a_name_that_is_written_the_same_or_is_refused(text):
    try:
        found = parse_package_ref(text)
    except UsageError:
        return
    assert found.text == text


def test_a_registry_is_asked_for_the_digest_then_the_tag_then_latest():
    assert parse_package_ref(f"oci://h/app:1@{DIGEST}").reference == DIGEST
    assert parse_package_ref("oci://h/app:1").reference == "1"
    assert parse_package_ref("oci://h/app").reference == "latest"


def test_what_a_tag_is():
    assert all(map(is_tag, ("1", "_", "a.b-c_D", "x" * 128)))
    assert not any(map(is_tag, ("", ".a", "-a", "a/b", "a:b", "x" * 129, "a\n")))


@pytest.mark.parametrize(
    ("host", "want"),
    [
        ("registry.example", "registry.example"),
        ("Registry.EXAMPLE", "registry.example"),
        ("registry.example:443", "registry.example"),
        ("registry.example:00443", "registry.example"),
        ("registry.example:05000", "registry.example:5000"),
        ("[FD00::1]", "[fd00::1]"),
        ("[fd00::1]:443", "[fd00::1]"),
    ],
)
def test_a_registry_has_one_name_however_it_is_written(host, want):
    found = parse_package_ref(f"oci://{host}/team/app:1.0")
    assert isinstance(found, RegistryRef)
    assert found.name == f"{want}/team/app"
    assert found.text == f"oci://{host}/team/app:1.0"


@pytest.mark.parametrize("host", ["[....]", "[::::::]", "[12]", "[1.2.3.4]"])
def test_what_is_in_brackets_is_an_address(host):
    with pytest.raises(UsageError, match="found the host"):
        parse_package_ref(f"oci://{host}/app")
