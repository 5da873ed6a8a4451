# SPDX-License-Identifier: Apache-2.0
"""The options of a layer's cipher, as ocicrypt has them: public ones in an annotation, private ones under the wrapping.

The public ones are from strangers and name the HMAC. The private ones are from whoever encrypted the layer: key, nonce, and the digest
of the plaintext. A nonce among the public ones is refused. No message has a byte of the private ones in it.

One of the private ones is ours, among the cipher's, where other programs leave it alone: the layers that are one package. Without it
whoever can write to a repository could put somebody's encrypted files beside a module of his own, or a module beside another Enarx.toml,
and the recipient would open them all.

Source: ocicrypt 1.1, `blockcipher` (`PublicLayerBlockCipherOptions`, `PrivateLayerBlockCipherOptions`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, NamedTuple

from enarx.channel.ocicrypt import HMAC_BYTES, KEY_BYTES, NONCE_BYTES, LayerSecret
from enarx.errors import DecodeError
from enarx.wire.oci import Descriptor, is_digest
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "MAX_OPTIONS_BYTES",
    "Opened",
    "decode_private_options_untrusted",
    "decode_public_options_untrusted",
    "encode_private_options",
    "encode_public_options",
    "together_digest",
]

MAX_OPTIONS_BYTES = 16 << 10

_CIPHER = "AES_256_CTR_HMAC_SHA256"
_MAX_ITEMS = 200
_TOGETHER = "enarx.together"


class Opened(NamedTuple):
    """What a layer's wrapped options say.

    Args:
        secret: for the cipher.
        plaintext: SHA-256.
        together: `together_digest` of the layers that are one package, this one among them; None where who encrypted it says nothing
            of others.
    """

    secret: LayerSecret
    plaintext: bytes
    together: bytes | None = None


def together_digest(layers: Iterable[Descriptor]) -> bytes:
    """Return a SHA-256 over the layers of a package as they are without encryption: types, digests and lengths, in their order."""
    return sha256(_encode([[each.media_type, each.digest, each.size] for each in layers])).digest()


def encode_private_options(options: Opened) -> bytes:
    """Return the private options in JSON: a secret, to be wrapped."""
    together = {} if options.together is None else {_TOGETHER: _base64(options.together)}
    return _encode(
        {
            "symkey": _base64(options.secret.key),
            "digest": "sha256:" + options.plaintext.hex(),
            "cipheroptions": {"nonce": _base64(options.secret.nonce), **together},
        }
    )


def encode_public_options(hmac: bytes) -> bytes:
    """Return the public options in JSON."""
    return _encode({"cipher": _CIPHER, "hmac": _base64(hmac), "cipheroptions": {}})


def decode_public_options_untrusted(data: bytes) -> bytes:
    """Decode the public options of a layer.

    Args:
        data: JSON, at most 16384 bytes.

    Returns:
        The HMAC.

    Raises:
        DecodeError: they are none, or of another cipher.
    """
    value = _object(data, "public options")
    if value.get("cipher") != _CIPHER:
        raise _refusal("public options", "cipher", quote(value.get("cipher")), _CIPHER)
    others = _others(value, "public options")
    if "nonce" in others:
        # Other programs prefer this one: nothing that is not under the wrapping may choose it.
        raise _refusal("public options", "nonce", "one", "none: it is beside the key")
    # Early versions of ocicrypt had it among the options of the cipher.
    hmac = value.get("hmac")
    return _bytes(others.get("hmac") if hmac is None else hmac, HMAC_BYTES, "public options", "hmac")


def decode_private_options_untrusted(data: bytes) -> Opened:
    """Decode the private options of a layer, which whoever encrypted it has made.

    Args:
        data: JSON, at most 16384 bytes.

    Raises:
        DecodeError: they are none.
    """
    value = _object(data, "private options")
    digest = value.get("digest")
    if type(digest) is not str or not is_digest(digest):
        raise _refusal("private options", "digest", "another thing", "sha256: and 64 small hex digits")
    others = _others(value, "private options")
    secret = LayerSecret(
        key=_bytes(value.get("symkey"), KEY_BYTES, "private options", "symkey"),
        nonce=_bytes(others.get("nonce"), NONCE_BYTES, "private options", "nonce"),
    )
    together = _bytes(others[_TOGETHER], 32, "private options", _TOGETHER) if _TOGETHER in others else None
    return Opened(secret, bytes.fromhex(digest[7:]), together)


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = load_json_untrusted(data, what=what, max_bytes=MAX_OPTIONS_BYTES, max_items=_MAX_ITEMS)
    if type(value) is not dict:
        raise _refusal(what, "the text", quote(value), "an object")
    return value


def _others(value: dict[str, Any], what: str) -> dict[str, Any]:
    found = value.get("cipheroptions")
    if found is None:
        return {}
    if type(found) is not dict:
        raise _refusal(what, "cipheroptions", quote(found), "an object")
    return found


def _bytes(value: object, length: int, what: str, where: str) -> bytes:
    # Never quoted: it may be a key.
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) and len(value) <= 256 else b""
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        raise _refusal(what, where, "another thing", f"{length} bytes in base64")
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encode(value: dict[str, Any] | list[list[Any]]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _refusal(what: str, where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the {what}: {where}: found {found}, want {want}")
