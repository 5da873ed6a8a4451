# SPDX-License-Identifier: Apache-2.0
"""`enarx package import`: what it prints, where a token comes from, and that nobody sees it."""

from __future__ import annotations

import json

import pytest

from enarx.cli import main
from tests.fake_drawbridge import CONFIGURATION, MODULE, PACKAGE, Body, FakeDrawbridge

TOKEN = "a-token.that-nobody_hears"


@pytest.fixture
def fake():
    with FakeDrawbridge() as running:
        yield running


def run(capfd, *arguments):
    status = main(["package", "import", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert TOKEN not in out + err
    return status, out, err


def test_says_what_was_brought_and_that_nothing_was_pinned(fake, tmp_path, capfd):
    app = tmp_path / "app"
    status, out, err = run(capfd, fake.slug, "--output", app, "--plain-http")
    assert status == 0, err
    assert out == (f"tree      {fake.root_digest}\nplace     {app}\nfiles     2, {len(MODULE + CONFIGURATION)} bytes\n")
    assert f"nothing was pinned: the registry says what {fake.slug} is; --digest {fake.root_digest}" in err
    assert (app / "main.wasm").read_bytes() == MODULE


def test_says_it_as_json(fake, tmp_path, capfd):
    app = tmp_path / "app"
    arguments = ("--output", app, "--plain-http", "--digest", fake.root_digest, "--json")
    status, out, err = run(capfd, fake.slug.removeprefix("drawbridge://"), *arguments)
    assert status == 0, err
    assert "pinned" not in err
    assert json.loads(out) == {
        "tree": fake.root_digest,
        "place": str(app),
        "files": sorted(PACKAGE),
        "bytes": len(MODULE + CONFIGURATION),
    }


def test_a_token_comes_from_a_file_or_the_environment(fake, tmp_path, capfd, monkeypatch):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("ENARX_DRAWBRIDGE_TOKEN", "another")
    assert run(capfd, fake.slug, "--output", tmp_path / "a", "--plain-http", "--token-file", path)[0] == 0
    assert {each["authorization"] for each in fake.headers} == {f"Bearer {TOKEN}"}
    fake.headers.clear()
    monkeypatch.setenv("ENARX_DRAWBRIDGE_TOKEN", TOKEN)
    assert run(capfd, fake.slug, "--output", tmp_path / "b", "--plain-http")[0] == 0
    assert {each["authorization"] for each in fake.headers} == {f"Bearer {TOKEN}"}
    fake.bodies["/_tag/1.0.0"] = Body(status=401, data=f"Invalid token provided: {TOKEN}".encode())
    status, _, err = run(capfd, fake.slug, "--output", tmp_path / "c", "--plain-http")
    assert status == 107
    assert "found status 401: Invalid token provided: [token]" in err
    monkeypatch.setenv("ENARX_DRAWBRIDGE_TOKEN", TOKEN + " x")
    assert run(capfd, fake.slug, "--output", tmp_path / "c", "--plain-http")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("examples/fib:1.0.0", "--output", "x"), 2, "want drawbridge://HOST"),
        (("store.example/examples/fib:1.0.0",), 2, "found no --output"),
        (("store.example/examples/fib:1.0.0", "--output", "x", "--digest", "sha256:1"), 2, "want sha256:"),
        (("store.example/examples/fib:1.0.0", "--output", "x", "--plain-http"), 2, "want TLS"),
        (("store.example/examples/fib:1.0.0", "--output", "x", "--ca-bundle", "/nowhere.pem"), 2, "cannot use the authorities"),
        (("store.example/examples/fib:1.0.0", "--output", "x", "--token-file", "/nowhere"), 2, "cannot read the token"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anybody_is_asked(arguments, status, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capfd, *arguments)
    assert (found, list(tmp_path.iterdir())) == (status, [])
    assert said in err


def test_a_package_that_is_not_the_pinned_one_leaves_nothing(fake, tmp_path, capfd):
    status, out, err = run(
        capfd, fake.slug, "--output", tmp_path / "app", "--plain-http", "--digest", f"sha256:{'00' * 32}"
    )
    assert (status, out, list(tmp_path.iterdir())) == (104, "", [])
    assert f"found the digest {fake.root_digest}" in err
