# SPDX-License-Identifier: Apache-2.0
"""Decompression that ends: at a limit, whatever the bytes say.

gzip is everywhere. zstd came to Python's standard library with 3.14; before that it is refused, because another program's decoder
would read strangers' bytes without our limits.

Source: RFC 1952 (gzip); RFC 8878 (zstd); PEP 784.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from enarx.errors import DecodeError, PlatformError

__all__ = ["decompressed"]

_PIECE_BYTES = 1 << 18
_GZIP = 16 + zlib.MAX_WBITS
_MAX_WINDOW_LOG = 27
# What is left of a piece is copied at the end of each member, and a member may be of 20 bytes and empty.
_STEP_BYTES = 1 << 14
_MAX_MEMBERS = 100_000


def decompressed(pieces: Iterator[bytes], form: str, max_bytes: int, what: str) -> Iterator[bytes]:
    """Return what was compressed, in pieces of at most 256 KiB.

    Args:
        pieces: compressed.
        form: `gzip` or `zstd`.
        max_bytes: of plaintext.
        what: names it in messages.

    Raises:
        DecodeError: it is something else, ends too early, or is longer.
        PlatformError: this Python cannot decompress it.
    """
    done = 0
    steps = (piece[at : at + _STEP_BYTES] for piece in pieces for at in range(0, len(piece), _STEP_BYTES))
    for piece in _gunzipped(steps, what) if form == "gzip" else _unzstd(steps, what):
        done += len(piece)
        if done > max_bytes:
            raise DecodeError(f"cannot decompress {what}: found more than {max_bytes} bytes, want at most that")
        yield piece


def _gunzipped(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP)
    is_begun, members = False, 1
    for piece in pieces:
        data = piece
        while data:
            if member.eof:
                # One member may follow the other; they are one file.
                member, members = zlib.decompressobj(_GZIP), members + 1
                _require_few(members, what)
            is_begun = True
            try:
                plain = member.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise DecodeError(f"cannot decompress {what}: found {error}, want gzip") from error
            if plain:
                yield plain
            data = member.unused_data if member.eof else member.unconsumed_tail
    if not is_begun or not member.eof:
        raise DecodeError(f"cannot decompress {what}: found its end too early, want all of it")


def _unzstd(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    try:
        from importlib import import_module

        zstd: Any = import_module("compression.zstd")
    except ImportError as error:
        raise PlatformError(
            f"cannot decompress {what}: found zstd, which this Python has not, want gzip or no compression",
            hint="Python 3.14 has it; or ask the publisher for a package of `enarx package build`",
        ) from error
    options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    frame = zstd.ZstdDecompressor(options=options)
    is_begun, frames = False, 1
    for piece in pieces:
        data = piece
        while data or not (frame.eof or frame.needs_input):
            if frame.eof:
                frame, frames = zstd.ZstdDecompressor(options=options), frames + 1
                _require_few(frames, what)
            is_begun = True
            try:
                plain = frame.decompress(data, _PIECE_BYTES)
            except zstd.ZstdError as error:
                raise DecodeError(f"cannot decompress {what}: found {error}, want zstd") from error
            if plain:
                yield plain
            data = frame.unused_data if frame.eof else b""
    if not is_begun or not frame.eof:
        raise DecodeError(f"cannot decompress {what}: found its end too early, want all of it")


def _require_few(members: int, what: str) -> None:
    if members > _MAX_MEMBERS:
        raise DecodeError(f"cannot decompress {what}: found more than {_MAX_MEMBERS} parts, want at most that")
