# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that opening an encrypted package uses. The rules of `deployment_targets` hold here too."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.fuzz.deployment_targets import _JSON, _pieces_of, _unpack
from tests.fuzz.deployment_targets import _PACKED as _PACKED_PIECES
from tests.fuzz.verifier_mutations import is_json, write_cbor
from tests.fuzz.verifier_targets import Target, attribute, make_target

OPTIONS, RECIPIENTS = "registry.layer_options", "registry.recipients"


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def private_options() -> list[bytes]:
    """Return private options as this and other programs write them."""
    digest, nonce = "sha256:" + "ab" * 32, _base64(bytes(range(16)))
    return [
        _encode({"symkey": _base64(bytes(range(32))), "digest": digest, "cipheroptions": {"nonce": nonce}}),
        _encode({"symkey": "", "digest": digest, "cipheroptions": {"nonce": nonce}, "previouslayersdigest": ""}),
    ]


def public_options() -> list[bytes]:
    """Return public options as this and other programs write them."""
    cipher, hmac = "AES_256_CTR_HMAC_SHA256", _base64(bytes(range(32)))
    return [
        _encode({"cipher": cipher, "hmac": hmac, "cipheroptions": {}}),
        _encode({"cipher": cipher, "hmac": None, "cipheroptions": {"hmac": hmac}}),
    ]


def jwes() -> list[bytes]:
    """Return flattened and general ones, which open with no key."""

    def header(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(_encode(value)).decode().rstrip("=")

    rest = {"iv": "geuJF5YPM9aUq68s", "ciphertext": "ZaDB6CTltIcSZxTx", "tag": "kTDvdPJ_T1l59_JsyxtA1A"}
    key = "A" * 342
    several = [{"header": {"alg": "RSA-OAEP"}, "encrypted_key": key}, {"header": {"alg": "ECDH-ES+A256KW"}}]
    return [
        _encode({"protected": header({"alg": "RSA-OAEP", "enc": "A256GCM"}), "encrypted_key": key, **rest}),
        _encode({"protected": header({"enc": "A256GCM"}), "recipients": several, **rest}),
    ]


def _options(name: str) -> Callable[[], Callable[[bytes], object]]:
    """What is read is written as something that is read as that value."""

    def make() -> Callable[[bytes], object]:
        decode, encode = attribute(OPTIONS, f"decode_{name}_untrusted"), attribute(OPTIONS, f"encode_{name}")

        def call(data: bytes) -> object:
            value = decode(data)
            if decode(encode(value)) != value:
                raise AssertionError("what was written is another value")
            return value

        return call

    return make


def _wrapped() -> Callable[[bytes], object]:
    """Annotations that nobody can open, as far as they are well formed."""
    unwrap, keys = attribute(RECIPIENTS, "unwrap"), attribute(RECIPIENTS, "DecryptionKeys")
    names = attribute(RECIPIENTS, "HPKE_KEYS"), attribute(RECIPIENTS, "JWE_KEYS")
    refused, kept = attribute("errors", "VerificationError"), attribute("channel.hpke", "KeptKey")()

    def call(data: bytes) -> object:
        texts = [piece.decode("latin-1") for piece in _pieces_of(_unpack(data, 2)[:2])]
        try:
            unwrap(dict(zip(names, texts, strict=False)), keys(hpke=(kept,)), what="layer")
        except refused:
            return True
        raise AssertionError("found a key in bytes that have none")

    return call


def wrapped() -> list[bytes]:
    """Return values of both annotations, packed."""
    values = [_base64(each) for each in jwes()]
    sealed = _base64(bytes(1200))
    return [write_cbor([sealed, values[0]]), write_cbor([f"{sealed},{sealed}", ",".join(values)])]


_TABLE_OF_TARGETS = (
    make_target("private options", OPTIONS, "decode_private_options_untrusted", private_options, _JSON, is_json, 10, make=_options("private_options"), max_bytes=1100),
    make_target("public options", OPTIONS, "decode_public_options_untrusted", public_options, _JSON, is_json, 10, make=_options("public_options"), max_bytes=1100),
    make_target("jwe", RECIPIENTS, "parse_jwe_untrusted", jwes, _JSON, is_json, 10, max_bytes=4000),
    make_target("wrapped keys", RECIPIENTS, "unwrap", wrapped, _PACKED_PIECES, lambda data: len(data) > 4, 3, make=_wrapped, max_bytes=8000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
