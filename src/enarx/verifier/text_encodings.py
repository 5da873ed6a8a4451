# SPDX-License-Identifier: Apache-2.0
"""Hex and base64, as tools print binary evidence."""

from __future__ import annotations

import base64
import binascii
import re

__all__ = ["decode_text"]

_HEX = re.compile(rb"(?:0[xX])?[0-9A-Fa-f]+").fullmatch
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}").fullmatch
_LEAST = 16


def decode_text(data: bytes) -> bytes | None:
    """Return what a text in hex, base64 or base64url stands for, or None where it is no such text.

    Args:
        data: ASCII; white space anywhere is ignored, padding may be left out.

    Text that is both is read as hex, because 32 hex digits in a row by chance are rarer than any evidence.
    """
    text = b"".join(data.rstrip(b"\0").split())
    if len(text) < _LEAST:
        return None
    if len(text) % 2 == 0 and _HEX(text):
        return bytes.fromhex(text[2 if text[:2] in {b"0x", b"0X"} else 0 :].decode())
    if _BASE64(text):
        body = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
        except (binascii.Error, ValueError):
            return None
    return None
