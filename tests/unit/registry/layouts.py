# SPDX-License-Identifier: Apache-2.0
"""Small packages, made by hand where nobody would make them so."""

from __future__ import annotations

import io
import tarfile

from enarx.registry.layout import LayoutFolder, make_layout
from enarx.wire.oci import (
    EMPTY,
    FILES,
    MANIFEST,
    TOML,
    WASM,
    Descriptor,
    Manifest,
    digest_of,
    encode_manifest,
)

MODULE = b"\0asm\x01\0\0\0"
# Imports wasi_snapshot_preview1 fd_write and env memory, exports _start: lengths are in one byte each.
IMPORTING = (
    MODULE
    + b"\x01\x04\x01\x60\0\0"
    + b"\x02\x32\x02\x16wasi_snapshot_preview1\x08fd_write\0\0\x03env\x06memory\x02\x01\x01\x02"
    + b"\x07\x0a\x01\x06_start\0\0"
)
COMPONENT = (
    b"\0asm\x0d\0\x01\0"
    + b"\x0a\x1a\x01\0\x15wasi:io/streams@0.2.0\x05\0"
    + b"\x0b\x18\x01\0\x12wasi:cli/run@0.2.0\x05\0\0"
)


def new(folder) -> LayoutFolder:
    folder.mkdir()
    return make_layout(str(folder))


def put(layout, data, media_type) -> Descriptor:
    wanted = Descriptor(media_type, digest_of(data), len(data))
    layout.put_blob(wanted, [data])
    return wanted


def package(layout, *layers, config=(EMPTY, b"{}"), tag="1", subject=None, artifact_type=None) -> Descriptor:
    """Put a manifest of layers, each a media type and bytes, into a layout."""
    put_layers = tuple(put(layout, data, media_type) for media_type, data in layers)
    manifest = Manifest(put(layout, config[1], config[0]), put_layers, {}, artifact_type, subject)
    return layout.put_manifest(encode_manifest(manifest), MANIFEST, tag=tag)


def tar(*entries, form=tarfile.USTAR_FORMAT) -> bytes:
    """Make an archive: of names with contents, or of `TarInfo`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            name, contents = entry
            info = tarfile.TarInfo(name)
            if contents is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
    return data.getvalue()


def special(name, kind, target="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def simple(layout, toml=None, files=None, **how) -> Descriptor:
    layers = [(WASM, MODULE)]
    if toml is not None:
        layers.append((TOML, toml))
    if files is not None:
        layers.append((FILES, files))
    return package(layout, *layers, **how)
