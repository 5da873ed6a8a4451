# SPDX-License-Identifier: Apache-2.0
"""The manifest of an image: what it consists of, in JSON that is the same for the same image.

It is for people and for whoever asks what is in an image: what is measured are the files themselves. It names no machine,
no time and no user.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enarx.errors import ConfigError
from enarx.image.lock import Input

__all__ = [
    "MANIFEST",
    "MAX_MANIFEST_BYTES",
    "UKI",
    "Artefact",
    "File",
    "Manifest",
    "decode_manifest",
    "differences",
    "encode_manifest",
]

MANIFEST = "manifest.json"
UKI = "uki.efi"
MAX_MANIFEST_BYTES = 8 << 20
_FORMAT = 1
_MAX_FILES = 20_000
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARTEFACT = re.compile(r"cmdline|initramfs|kernel|uki\.efi|firmware/[a-z0-9]{1,20}\.fd")
_REQUIRED = frozenset({"cmdline", "initramfs", "kernel"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of an image's folder.

    Args:
        sha256: 64 hex digits.
        size: in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One entry of the initramfs.

    Args:
        path: in it, without a slash before it.
        mode: kind and permissions, as octal text: `100644`.
        size: of its contents in bytes.
        sha256: of its contents: 64 hex digits; of a link that is where it leads.
    """

    path: str
    mode: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an image consists of.

    Args:
        enarx: the version of enarx that is in it.
        arch: `x86_64` or `aarch64`.
        compression: of the initramfs.
        command_line: the kernel's.
        artefacts: by path in the folder.
        reference: what hardware measures of it, as `enarx image measure` says, by section and key of a policy; empty for an
            architecture that nobody here measures. PCR 4 is that of QEMU from 10.0 on.
        inputs: what it was made from, beside enarx.
        files: what is in the initramfs, in its order.
    """

    enarx: str
    arch: str
    compression: str
    command_line: str
    artefacts: Mapping[str, Artefact]
    reference: Mapping[str, Mapping[str, list[str]]]
    inputs: tuple[Input, ...]
    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what `sha256sum` prints for the artefacts, in the order of their paths: 64 hex digits."""
        lines = [f"{self.artefacts[path].sha256}  {path}\n" for path in sorted(self.artefacts)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the JSON of a manifest."""
    value = {"format": _FORMAT, **asdict(manifest)}
    # One line for each thing: two manifests can be compared line by line.
    lines = []
    for name, part in value.items():
        text = json.dumps(part, ensure_ascii=True)
        if isinstance(part, tuple):
            text = "[\n" + ",\n".join("  " + json.dumps(entry, ensure_ascii=True) for entry in part) + "\n]"
        lines.append(f"{json.dumps(name)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode_manifest(data: bytes, path: str) -> Manifest:
    """Decode the JSON of a manifest.

    Args:
        data: the file.
        path: its name, for messages.

    Raises:
        ConfigError: it is no manifest.
    """
    try:
        value = json.loads(data.decode("ascii"))
        if value.pop("format") != _FORMAT or value.keys() != set(Manifest.__slots__):
            raise ValueError(f"want format {_FORMAT} with {', '.join(Manifest.__slots__)}")
        if not value["artefacts"].keys() >= _REQUIRED or len(value["files"]) > _MAX_FILES:
            raise ValueError(f"want artefacts {', '.join(sorted(_REQUIRED))} and at most {_MAX_FILES} files")
        return Manifest(
            enarx=_text(value["enarx"]),
            arch=_text(value["arch"]),
            compression=_text(value["compression"]),
            command_line=_text(value["command_line"]),
            artefacts={_match(_ARTEFACT, key): _artefact(entry) for key, entry in value["artefacts"].items()},
            reference={
                section: {key: [_match(_HEX, text) for text in texts] for key, texts in values.items()}
                for section, values in value["reference"].items()
            },
            inputs=tuple(Input(**{key: entry[key] for key in Input.__slots__}) for entry in value["inputs"]),
            files=tuple(_file(entry) for entry in value["files"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"cannot open an image: {path}: found no manifest: {error}", path=path) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, want text")
    return value


def _match(pattern: re.Pattern[str], value: Any) -> str:
    if not pattern.fullmatch(_text(value)):
        raise ValueError(f"found {value!r:.100}, want {pattern.pattern}")
    return _text(value)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r:.40}, want a size")
    return value


def _artefact(entry: Any) -> Artefact:
    return Artefact(sha256=_match(_SHA256, entry["sha256"]), size=_size(entry["size"]))


def _file(entry: Any) -> File:
    return File(
        path=_text(entry["path"]),
        mode=_text(entry["mode"]),
        size=_size(entry["size"]),
        sha256=_match(_SHA256, entry["sha256"]),
    )


def differences(one: Manifest, other: Manifest) -> list[str]:
    """Return what differs between two images: paths in their folders, or in their initramfs where that is known."""
    files = ({entry.path: entry for entry in manifest.files} for manifest in (one, other))
    mine, others = files
    inside = sorted(path for path in mine.keys() | others.keys() if mine.get(path) != others.get(path))
    paths = sorted(one.artefacts.keys() | other.artefacts.keys())
    outside = [path for path in paths if one.artefacts.get(path) != other.artefacts.get(path)]
    return [path for path in outside if path != "initramfs" or not inside] + [f"initramfs: {path}" for path in inside]
