# SPDX-License-Identifier: Apache-2.0
"""Bytes that nobody could have but who was given them, and a search for them however they are written.

A canary is text, so that it can be an argument, and random, so that it is found nowhere by chance. It is looked for as it is,
in base64 at each of the three places where a group of it may begin (both alphabets), in hexadecimal of either case, and in
UTF-16 of either byte order.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping

LENGTH = 32


def make_canary() -> str:
    """Return a new canary: 32 hexadecimal digits' worth of letters, none of which has a meaning in URLs, JSON or TOML."""
    return "".join(secrets.choice("GHJKLMNPQRSTUVWXYZghjkmnpqrstuvwxyz") for _ in range(LENGTH))


def spellings(canary: bytes) -> dict[str, bytes]:
    """Return what to look for, by the name of how it is written."""
    found = {
        "raw": canary,
        "hex": canary.hex().encode(),
        "HEX": canary.hex().upper().encode(),
        "UTF-16 LE": canary.decode("latin-1").encode("utf-16-le"),
        "UTF-16 BE": canary.decode("latin-1").encode("utf-16-be"),
    }
    for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
        for before in range(3):
            # Characters to which bytes before or after contribute are not known.
            written = encode(bytes(before) + canary)
            first = -(-before * 8 // 6)
            last = (before + len(canary)) * 8 // 6
            found[f"{name} +{before}"] = written[first:last]
    return found


def search(canary: str | bytes, places: Mapping[str, bytes | bytearray]) -> set[tuple[str, str]]:
    """Return where a canary is, as place and spelling.

    Args:
        canary: what to look for.
        places: bytes, by what they are.
    """
    wanted = spellings(canary.encode() if isinstance(canary, str) else canary)
    return {(place, name) for place, data in places.items() for name, text in wanted.items() if text in data}


def unmasked(data: bytes) -> bytes:
    """Return what a WebSocket client said on a connection: its frames are masked, each with a key that is beside it.

    Args:
        data: of one direction of a connection, from the request that opened it on.
    """
    _, end, rest = data.partition(b"\r\n\r\n")
    said = bytearray()
    at = 0
    while end and at + 2 <= len(rest):
        length, size = rest[at + 1] & 127, 0
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(rest[at + 2 : at + 2 + size], "big")
        key_at = at + 2 + size
        if not rest[at + 1] & 128:
            break
        key = rest[key_at : key_at + 4]
        masked = rest[key_at + 4 : key_at + 4 + length]
        said += _exclusive_or(masked, key)
        at = key_at + 4 + length
    return bytes(said)


def _exclusive_or(data: bytes, key: bytes) -> bytes:
    if len(key) < 4:
        return b""
    repeated = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


def read_all(paths: Iterable[object]) -> dict[str, bytes]:
    """Return the contents of files that can be read, by path; what vanished meanwhile is none."""
    found = {}
    for path in paths:
        try:
            with open(str(path), "rb") as file:
                found[str(path)] = file.read()
        except OSError:
            continue
    return found
