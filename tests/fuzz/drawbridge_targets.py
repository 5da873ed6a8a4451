# SPDX-License-Identifier: Apache-2.0
"""The parsers of what a Drawbridge sends. The rules of `deployment_targets` hold here too."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.deployment_targets import _JSON
from tests.fuzz.verifier_mutations import by_text, is_json
from tests.fuzz.verifier_targets import Target, attribute, make_target

DRAWBRIDGE = "wire.drawbridge"


def _content_digest() -> Callable[[bytes], object]:
    decode = attribute(DRAWBRIDGE, "decode_content_digest_untrusted")
    # As a header comes: each byte is a character.
    return lambda data: decode(data.decode("latin-1"))


def _headers() -> list[bytes]:
    from tests.fake_drawbridge import header_of

    both = f"{header_of(b'')},{header_of(b'x')}"
    return [header_of(b"").encode(), header_of(b"x").split(",")[1].encode(), both.encode()]


def _directories() -> list[bytes]:
    from tests.fake_drawbridge import HAS_FILES, PACKAGE, tree_of

    return [
        b"{}",
        *(body.data for files in (PACKAGE, HAS_FILES) for path, body in tree_of(files)[0].items() if not path),
    ]


def _tags() -> list[bytes]:
    from tests.fake_drawbridge import PACKAGE, compact, entry_of, tree_of

    _, root = tree_of(PACKAGE)
    return [compact(root), compact(entry_of(b"m", "application/wasm") | {"custom": [1, {"of": "somebody" * 40}]})]


_TABLE_OF_TARGETS = (
    make_target("drawbridge tag", DRAWBRIDGE, "decode_tag_untrusted", _tags, _JSON, is_json, 10, max_bytes=2000),
    make_target("drawbridge directory", DRAWBRIDGE, "decode_directory_untrusted", _directories, _JSON, is_json, 10, max_bytes=4000),
    make_target("drawbridge content digest", DRAWBRIDGE, "decode_content_digest_untrusted", _headers, by_text, lambda data: b"=:" in data, 20, make=_content_digest, max_bytes=1100),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
