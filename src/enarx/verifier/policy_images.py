# SPDX-License-Identifier: Apache-2.0
"""Replace the images that a policy file names by their reference values, so that its text says everything by itself.

A table of a policy may have `image = "NAME"` in place of the keys that the image says: `measurement` of `[snp]`, for instance.

Rules of this file:

- Text goes in and text comes out, and what comes out is a policy file without names, which anybody can judge by later. Nothing
  is looked up: what images say is an argument.
- An image's keys must not be in the table as well: one of the two would be forgotten.
- The line that names an image is replaced and nothing else; that the result means the same is compared, not hoped for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from enarx.errors import ConfigError
from enarx.verifier.policy_toml import MAX_BYTES
from enarx.verifier.policy_write import toml_of
from enarx.verifier.registry import SECTIONS
from enarx.wire.quoting import kind_of, quote
from enarx.wire.toml_lines import line_finder
from enarx.wire.toml_text import parse_toml

__all__ = ["IMAGE", "ImageValues", "expand_images", "named_images"]

IMAGE = "image"
"""The key that names an image."""

ImageValues = Mapping[str, Mapping[str, Any]]
"""What an image says: by section, then by key without the section's name, values as a policy has them."""

_LINE = re.compile(r"""(\s*)((?:[a-z]+\s*\.\s*)?)image\s*=\s*("[^"]*"|'[^']*')\s*(?:#.*)?""")
_MAX_NAME_CHARS = 200


def named_images(data: bytes, *, path: str) -> tuple[str, ...]:
    """Return the images that a policy file names, each once, in the order of its tables.

    Args:
        data: the content of the file.
        path: its name, for messages.

    Raises:
        ConfigError: it is no TOML document, or has something else for a name.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    return tuple(dict.fromkeys(name for _, name in _names(text, document, path)))


def expand_images(data: bytes, images: Mapping[str, ImageValues], *, path: str) -> bytes:
    """Return a policy file with the values of the images that it names.

    Args:
        data: the content of the file.
        images: what each says, by name.
        path: the file's name, for messages.

    Raises:
        ConfigError: a name that is not among the images, an image without values for its table, a key that the image says and
            the file too, or a name that is not on a line of its own.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    lines = text.split("\n")
    find_line = line_finder(text)
    for section, name in _names(text, document, path):
        key = f"{section}.{IMAGE}"
        if name not in images:
            raise _refusal(path, find_line, key, quote(name), f"one of {', '.join(images) or 'no images at all'}")
        values = images[name].get(section)
        if not values:
            others = ", ".join(f"[{other}]" for other in images[name]) or "nothing"
            raise _refusal(path, find_line, key, f"an image that says {others}", f"one with values for [{section}]")
        twice = sorted(values.keys() & document[section].keys())
        if twice:
            raise _refusal(path, find_line, f"{section}.{twice[0]}", "it beside an image that says it", "one of them")
        number = find_line((section, IMAGE))
        match = _LINE.fullmatch(lines[number - 1].rstrip("\r")) if number else None
        if number is None or match is None:
            raise _refusal(path, find_line, key, "it together with something else", "it on a line of its own")
        indent, prefix = match[1], match[2]
        said = [f"{indent}{prefix}{key} = {toml_of(value)}" for key, value in values.items()]
        lines[number - 1] = "\n".join([f"{indent}# Image {toml_of(name)}", *said])
        del document[section][IMAGE]
        document[section].update(values)
    expanded = "\n".join(lines)
    if len(expanded.encode()) > MAX_BYTES or not _means(expanded, document):
        raise ConfigError(
            f"{path}: found images whose values cannot be put in place of their names, want each name on a line of its own",
            path=path,
        )
    return expanded.encode()


def _means(text: str, document: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == document
    except tomllib.TOMLDecodeError:
        return False


def _names(text: str, document: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """List the sections that name an image."""
    for section in SECTIONS:
        table = document.get(section)
        if not isinstance(table, dict) or IMAGE not in table:
            continue
        name = table[IMAGE]
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
            found = quote(name) if isinstance(name, str) else kind_of(name)
            raise _refusal(path, line_finder(text), f"{section}.{IMAGE}", found, "the name of an image")
        yield section, name


def _refusal(path: str, find_line: Any, key: str, found: str, want: str) -> ConfigError:
    line = find_line(tuple(key.split(".")))
    where = path if line is None else f"{path}:{line}"
    return ConfigError(f"{where}: {key}: found {found}, want {want}", path=path, line=line, key=key)
