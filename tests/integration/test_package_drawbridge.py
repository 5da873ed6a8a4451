# SPDX-License-Identifier: Apache-2.0
"""A package of the original's: out of a Drawbridge, into an OCI package that runs."""

from __future__ import annotations

import json

import pytest

from tests.fake_drawbridge import FakeDrawbridge

pytestmark = pytest.mark.slow

CONFIGURATION = b'[[files]]\nkind = "null"\n\n[[files]]\nkind = "stdout"\n\n[[files]]\nkind = "stderr"\n'


@pytest.fixture
def fake(guest):
    with FakeDrawbridge({"Enarx.toml": CONFIGURATION, "main.wasm": guest("hello").read_bytes()}) as running:
        yield running


def test_a_package_is_imported_built_and_run(enarx, fake, tmp_path):
    app, package = tmp_path / "app", tmp_path / "app.tar"
    arguments = ("--output", app, "--plain-http", "--digest", fake.root_digest)
    ended = enarx.command("package", "import", fake.slug, *arguments)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.decode().startswith(f"tree      {fake.root_digest}\n")
    ended = enarx.command("run", app)
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n"), ended.stderr
    ended = enarx.command("package", "build", app, "--output", package)
    assert ended.status == 0, ended.stderr
    ended = enarx.command("package", "info", package, "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)
    ended = enarx.command("run", package)
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n"), ended.stderr


def test_a_registry_that_changes_the_package_is_found_out(enarx, fake, tmp_path):
    app, pinned = tmp_path / "app", fake.root_digest
    fake.put({"Enarx.toml": CONFIGURATION + b"\n", "main.wasm": b"\0asm\1\0\0\0"})
    arguments = ("--output", app, "--plain-http", "--digest", pinned)
    ended = enarx.command("package", "import", fake.slug, *arguments)
    assert ended.status == 104, ended.stderr
    assert f"want {pinned}" in ended.stderr
    assert list(tmp_path.iterdir()) == []
