# SPDX-License-Identifier: Apache-2.0
"""What a package is said to be able to do is what is in it."""

from __future__ import annotations

import pytest

from enarx.deploy.package import load_package
from enarx.errors import DecodeError
from enarx.registry.building import build_package
from enarx.registry.describing import abilities, folder_digest, inside_of, package_digest
from enarx.registry.wasm_outline import Outline
from enarx.wire.oci import WASM, decode_manifest_untrusted
from tests.unit.registry.layouts import IMPORTING, MODULE, new, package
from tests.unit.registry.test_building import make_app

TOML = """
args = ["secret argument"]
allow_connect = ["db.example:5432"]
[env]
TOKEN = "secret value"
[[files]]
kind = "listen"
name = "http"
port = 8443
[[files]]
kind = "connect"
host = "api.example"
prot = "tcp"
port = 80
[[dirs]]
host = "data"
guest = "/data"
read_only = true
"""


@pytest.fixture
def app(tmp_path):
    app = make_app(tmp_path / "app")
    (app / "Enarx.toml").write_text(TOML)
    return app


def test_the_digest_is_the_one_of_receipts_whichever_way(app, tmp_path):
    layout = new(tmp_path / "layout")
    manifest = decode_manifest_untrusted(layout.resolve(build_package(str(app), layout).digest).data)
    deployed = load_package(str(app), plaintext=frozenset({"api.example"}))
    assert package_digest(manifest) == folder_digest(str(app)) == deployed.digest
    (app / "Enarx.toml").unlink()
    assert folder_digest(str(app)) == load_package(str(app / "main.wasm")).digest


def test_what_is_encrypted_or_no_package_has_no_digest_yet(tmp_path):
    layout = new(tmp_path / "layout")
    for media_type in (WASM + "+encrypted", "text/plain"):
        manifest = decode_manifest_untrusted(layout.resolve(package(layout, (media_type, b"x")).digest).data)
        assert package_digest(manifest) is None


def test_it_says_what_the_module_asks_for_and_what_it_is_given(app):
    inside = inside_of(str(app))
    said = abilities(inside)
    assert said == (
        "is a command: it runs once",
        "can read and write its standard streams and what it has opened",
        "wants env::memory, which a Keep does not offer: it will not start",
        "is given: http, listens on port 8443 (tls)",
        "is given: api.example, a connection to api.example:80 (tcp)",
        "is given: data as /data for reading",
        "may connect to db.example:5432",
        "is given: 1 argument",
        "is given: variables TOKEN",
    )
    assert "secret" not in repr(said)
    assert inside.files == 8


def test_files_are_counted(app):
    assert inside_of(str(app)).files_bytes == sum(
        path.stat().st_size
        for path in app.rglob("*")
        if path.is_file() and path.name not in {"main.wasm", "Enarx.toml"}
    )


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("wasi:http/outgoing-handler@0.2.0", "send HTTP requests"),
        ("wasi:filesystem/types@0.2.3", "use files"),
        ("wasi:sockets/tcp@0.2.0", "connect to hosts"),
        ("wasi:cli/environment@0.2.0", "arguments"),
        ("wasi:nn/tensor@0.2.0", "wants wasi:nn/tensor@0.2.0, which a Keep does not offer"),
        ("wasi_snapshot_preview1::fd_write", "which a Keep does not offer"),
    ],
)
def test_interfaces_of_components_are_told_in_words(app, name, word):
    inside = inside_of(str(app))._replace(outline=Outline(is_component=True, imports=(name,), exports=()), toml=None)
    said = abilities(inside)
    assert said[0] == "exports no beginning: it will not start"
    assert len(said) == 2
    assert word in said[1]


@pytest.mark.parametrize(
    ("is_component", "export", "word"),
    [
        (False, "_start", "command"),
        (False, "", "command"),
        (True, "wasi:cli/run@0.2.3", "command"),
        (True, "wasi:http/incoming-handler@0.2.0", "service"),
        (True, "_start", "exports no beginning"),
        (False, "wasi:cli/run@0.2.3", "exports no beginning"),
    ],
)
def test_where_a_workload_begins(app, is_component, export, word):
    outline = Outline(is_component=is_component, imports=(), exports=("memory", export))
    (said,) = abilities(inside_of(str(app))._replace(outline=outline, toml=None))
    assert word in said


def test_a_module_without_a_beginning_of_any_kind_is_told_so(app):
    inside = inside_of(str(app))._replace(outline=Outline(is_component=False, imports=(), exports=()), toml=None)
    assert abilities(inside) == ("exports no beginning: it will not start",)


def test_what_is_no_module_is_refused(tmp_path):
    (tmp_path / "main.wasm").write_bytes(IMPORTING[:-1] + MODULE)
    with pytest.raises(DecodeError, match=r"cannot read main\.wasm"):
        inside_of(str(tmp_path))
