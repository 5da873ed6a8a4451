# SPDX-License-Identifier: Apache-2.0
"""Packages out of a Drawbridge: what is right comes whole, and what is wrong in any place leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.registry import drawbridge
from enarx.registry.drawbridge import Imported, import_package, parse_pin
from enarx.registry.drawbridge_http import Asker
from enarx.wire.drawbridge import DIRECTORY, ENTRY, SIGNED_ENTRY, WASM, parse_drawbridge_ref
from tests.fake_drawbridge import (
    CONFIGURATION,
    HAS_FILES,
    MODULE,
    PACKAGE,
    PREFIX,
    FakeDrawbridge,
    body_of,
    compact,
    entry_of,
    header_of,
)

TAG, TREE = "/_tag/1.0.0", "/_tag/1.0.0/tree"


@pytest.fixture
def fake():
    with FakeDrawbridge() as running:
        yield running


def bring(fake, tmp_path, **how):
    ref = parse_drawbridge_ref(fake.slug)
    asker = Asker(ref, plain_http=True, stall_s=5, document_s=10)
    return import_package(ref, str(tmp_path / "app"), asker, **how)


def refused(fake, tmp_path, error, said, **how):
    """Require that an import fails for a reason, and that nothing of it is left."""
    with pytest.raises(error) as caught:
        bring(fake, tmp_path, **how)
    assert said in str(caught.value), caught.value
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


# --- What is right


def test_a_package_comes_whole(fake, tmp_path):
    seen = []
    found = bring(fake, tmp_path, progress=lambda *step: seen.append(step))
    assert found == Imported(fake.root_digest, ("Enarx.toml", "main.wasm"), len(MODULE + CONFIGURATION))
    app = tmp_path / "app"
    assert {path.name: path.read_bytes() for path in app.iterdir()} == PACKAGE
    assert stat.S_IMODE(app.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in app.iterdir()} == {0o644}
    assert os.listdir(tmp_path) == ["app"]
    assert fake.asked == [PREFIX + path for path in (TAG, TREE, TREE + "/Enarx.toml", TREE + "/main.wasm")]
    assert ("fetching main.wasm", len(MODULE), len(MODULE)) in seen


def test_files_come_along(fake, tmp_path):
    fake.put(HAS_FILES)
    found = bring(fake, tmp_path, pin=parse_pin(fake.root_digest))
    assert found.files == ("Enarx.toml", "data/a.txt", "data/more/b:1", "main.wasm")
    assert (tmp_path / "app/data/a.txt").read_bytes() == b"text"
    assert (tmp_path / "app/data/more/b:1").read_bytes() == b""


def test_a_tag_may_be_of_a_module_alone(fake, tmp_path):
    fake.bodies = {TREE: body_of(MODULE, WASM)}
    fake.tag(entry_of(MODULE, WASM))
    found = bring(fake, tmp_path, pin=hashlib.sha256(MODULE).digest())
    assert found == Imported(f"sha256:{hashlib.sha256(MODULE).hexdigest()}", ("main.wasm",), len(MODULE))
    assert (tmp_path / "app/main.wasm").read_bytes() == MODULE


def test_an_empty_folder_may_be_there_and_nothing_else(fake, tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    bring(fake, tmp_path)
    with pytest.raises(UsageError, match="found one already"):
        bring(fake, tmp_path)
    assert {path.name: path.read_bytes() for path in app.iterdir()} == PACKAGE
    with pytest.raises(UsageError, match="cannot write"):
        bring(fake, tmp_path / "nowhere")


def test_one_strong_digest_is_enough(fake, tmp_path):
    for path, body in fake.bodies.items():
        fake.bodies[path] = body.having(content_digest=body.headers["Content-Digest"].split(",")[2])
    bring(fake, tmp_path)


# --- What is pinned


def test_another_package_than_the_pinned_one_is_refused(fake, tmp_path):
    right = fake.root_digest
    fake.put({**PACKAGE, "main.wasm": MODULE + b"\0\1\0"})
    refused(fake, tmp_path, VerificationError, f"want {right}", pin=parse_pin(right))
    # The tag alone says so: nothing more was asked for.
    assert fake.asked == [PREFIX + TAG]
    # A tag that lies about it: what is served is not what it says.
    lying = entry_of(fake.bodies[TREE].data, DIRECTORY)
    lying["digest"] = {"sha-512": lying["digest"]["sha-512"]}
    fake.tag(lying)
    refused(fake, tmp_path, VerificationError, f"want {right}", pin=parse_pin(right))


@pytest.mark.parametrize(
    "text", ["", "sha256:", "ab" * 32, "sha256:" + "AB" * 32, "sha512:" + "ab" * 64, "sha256:" + "ab" * 33]
)
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(UsageError, match="want sha256:"):
        parse_pin(text)


# --- Digests, lengths and types that are wrong


BODIES = [TAG, TREE, TREE + "/Enarx.toml", TREE + "/main.wasm"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("algorithm", ["sha-224", "sha-256", "sha-384", "sha-512"])
def test_each_digest_of_a_header_counts(fake, tmp_path, path, algorithm):
    body = fake.bodies[path]
    listed = body.headers["Content-Digest"].split(",")
    wrong = header_of(b"something else").split(",")
    mixed = ",".join(w if w.startswith(algorithm) else right for right, w in zip(listed, wrong, strict=True))
    fake.bodies[path] = body.having(content_digest=mixed)
    refused(fake, tmp_path, VerificationError, f"{path}: {algorithm}: found ")


@pytest.mark.parametrize("path", BODIES)
def test_a_body_without_a_digest_is_refused(fake, tmp_path, path):
    fake.bodies[path] = fake.bodies[path].having(content_digest=None)
    refused(fake, tmp_path, VerificationError, f"{path}: found no Content-Digest")
    fake.bodies[path] = fake.bodies[path].having(content_digest="sha-256=:AAAA:")
    refused(fake, tmp_path, DecodeError, "want 32 bytes in base64")


@pytest.mark.parametrize("path", BODIES[1:])
def test_a_body_that_its_own_header_fits_is_held_against_the_tree(fake, tmp_path, path):
    """The registry serves another body, of the same length, with digests of its own: the one above does not know it."""
    body = fake.bodies[path]
    other = bytes([body.data[0] ^ 1]) + body.data[1:]
    fake.bodies[path] = body_of(other, body.headers["Content-Type"])
    refused(fake, tmp_path, VerificationError, "of the tree")


@pytest.mark.parametrize("algorithm", ["sha-224", "sha-256", "sha-384", "sha-512"])
def test_each_digest_of_the_tree_counts(fake, tmp_path, algorithm):
    entry = entry_of(MODULE, WASM)
    entry["digest"][algorithm] = entry_of(b"another", WASM)["digest"][algorithm]
    fake.put({**PACKAGE, "main.wasm": (body_of(MODULE, WASM), entry)})
    refused(fake, tmp_path, VerificationError, f"{TREE}/main.wasm: {algorithm}: found ")


@pytest.mark.parametrize("path", BODIES[1:])
def test_a_type_that_is_not_the_trees_is_refused(fake, tmp_path, path):
    fake.bodies[path] = fake.bodies[path].having(content_type="application/octet-stream")
    refused(fake, tmp_path, VerificationError, "found the type 'application/octet-stream', want the ")


@pytest.mark.parametrize(("difference", "error"), [(-1, TransportError), (1, VerificationError)])
def test_a_length_that_is_not_the_trees_is_refused(fake, tmp_path, difference, error):
    entry = entry_of(MODULE, WASM)
    entry["length"] += difference
    fake.put({**PACKAGE, "main.wasm": (body_of(MODULE, WASM), entry)})
    refused(fake, tmp_path, error, "8 bytes, want")


@pytest.mark.parametrize("length", ["9", "7", "-8", "x", "9999999999999999999"])
def test_a_length_that_is_announced_and_not_sent_is_refused(fake, tmp_path, length):
    path = TREE + "/main.wasm"
    fake.bodies[path] = fake.bodies[path].having(content_length=length)
    refused(fake, tmp_path, (TransportError, VerificationError, DecodeError), "cannot ")


def test_a_body_without_a_length_is_taken_for_what_it_is(fake, tmp_path):
    fake.bodies[TREE] = fake.bodies[TREE].having(content_length=None)
    bring(fake, tmp_path)


# --- Tags and trees that are no package


def test_a_signed_tag_is_refused_as_the_original_does(fake, tmp_path):
    fake.bodies[TAG] = body_of(b'{"payload":"","signatures":[]}', SIGNED_ENTRY)
    refused(fake, tmp_path, DecodeError, "signed tags are not currently supported")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (body_of(compact(entry_of(b"", DIRECTORY)), "application/json"), "want " + ENTRY),
        (body_of(b"", ENTRY), "want JSON"),
        (body_of(b"[]", ENTRY), "want an object"),
        (body_of(compact(entry_of(b"", "text/html")), ENTRY), "found a tree of type 'text/html'"),
    ],
)
def test_what_is_no_tag_is_refused(fake, tmp_path, body, said):
    fake.bodies[TAG] = body
    refused(fake, tmp_path, DecodeError, said)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"main.wasm": MODULE}, "Enarx.toml: found none"),
        ({"Enarx.toml": CONFIGURATION}, "main.wasm: found none"),
        ({**PACKAGE, "main.wasm": {}}, "main.wasm: found none"),
        ({**PACKAGE, "main.wasm": (body_of(MODULE, "text/plain"), entry_of(MODULE, "text/plain"))}, "found the type 'text/plain'"),
        ({**PACKAGE, "oci-layout": b"{}"}, "found oci-layout"),
        ({**PACKAGE, "data": {"..": b"x"}}, "found the name '..'"),
        ({**PACKAGE, "../../outside": b"x"}, "found the name '../../outside'"),
    ],
)  # fmt: skip
def test_a_tree_that_is_no_package_is_refused(fake, tmp_path, files, said):
    fake.put(files)
    refused(fake, tmp_path, DecodeError, said)
    # Before any file was asked for.
    assert not [
        path for path in fake.asked if path.endswith((".wasm", ".toml")) and "main.wasm" in files and files["main.wasm"]
    ]


def test_a_directory_that_is_none_is_refused(fake, tmp_path):
    data = b"<html>"
    fake.bodies[TREE] = body_of(data, DIRECTORY)
    fake.tag(entry_of(data, DIRECTORY))
    refused(fake, tmp_path, DecodeError, "want JSON")


# --- Limits


def deep(levels):
    return {"d": deep(levels - 1)} if levels else {"f": b""}


def test_directories_in_each_other_have_an_end(fake, tmp_path):
    fake.put({**PACKAGE, "d": deep(drawbridge.MAX_DEPTH - 2)})
    bring(fake, tmp_path)
    (tmp_path / "app").rename(tmp_path.with_name("elsewhere"))
    fake.put({**PACKAGE, "d": deep(drawbridge.MAX_DEPTH - 1)})
    refused(fake, tmp_path, DecodeError, "found more than 16 directories in each other")


def test_a_tree_that_is_small_and_full_of_itself_has_an_end(fake, tmp_path):
    """Each level names the one below it fifty times: a few bytes, and more than anybody could fetch."""
    levels = [body_of(b"{}", DIRECTORY)]
    for _ in range(5):
        below = entry_of(levels[-1].data, DIRECTORY)
        levels.append(body_of(compact({f"d{number}": below for number in range(50)}), DIRECTORY))
    fake.put({**PACKAGE, "d": (levels[-1], entry_of(levels[-1].data, DIRECTORY))})

    class Endless(dict):
        """Serves each level wherever it is asked for."""

        def get(self, path, default=None):
            return super().get(path) or levels[len(levels) - path.count("/d")]

    fake.bodies = Endless(fake.bodies)
    refused(fake, tmp_path, DecodeError, "found more than 200 directories")
    assert len(fake.asked) == 1 + drawbridge.MAX_DIRECTORIES


def test_a_tree_of_too_many_files_is_refused(fake, tmp_path):
    fake.put({**PACKAGE, "data": {f"f{number}": b"" for number in range(drawbridge.MAX_NODES)}})
    refused(fake, tmp_path, DecodeError, "found more than 2000 files")


@pytest.mark.parametrize(
    ("name", "limit"), [("main.wasm", 100_000_000), ("Enarx.toml", 1_000_000), ("data", 256 << 20)]
)
def test_a_file_over_its_limit_is_not_asked_for(fake, tmp_path, name, limit):
    content = PACKAGE.get(name, b"")
    media_type = fake.bodies[f"{TREE}/{name}"].headers["Content-Type"] if name in PACKAGE else "text/plain"
    entry = entry_of(content, media_type) | {"length": limit + 1}
    fake.put({**PACKAGE, name: (body_of(content, media_type), entry)})
    refused(fake, tmp_path, TransportError, f"found {limit + 1} bytes, want at most {limit}")
    assert fake.asked == [PREFIX + TAG, PREFIX + TREE]


def test_a_directory_over_its_limit_is_not_asked_for(fake, tmp_path):
    fake.tag(entry_of(b"", DIRECTORY) | {"length": 1_000_001})
    refused(fake, tmp_path, TransportError, "found 1000001 bytes, want at most 1000000")
    assert fake.asked == [PREFIX + TAG]


def test_a_directory_of_its_limit_is_read(fake, tmp_path):
    entry = entry_of(b"", "text/plain") | {"padding": "x" * 990_000}
    fake.put({**PACKAGE, "data": (body_of(b"", "text/plain"), entry)})
    assert len(fake.bodies[TREE].data) < 1_000_000
    bring(fake, tmp_path)
