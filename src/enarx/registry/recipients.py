# SPDX-License-Identifier: Apache-2.0
"""For whom a layer is encrypted: the layer's secret, wrapped for recipients in annotations. Their keys are files (`recipient_keys`).

Two kinds of recipient:

- **HPKE** (`enarx.channel.hpke`), for tenants and Keeps: `org.opencontainers.image.enc.keys.provider.enarx`. Each recipient has a value
  of its own, and none of them says whose it is.
- **JWE** with RSA-OAEP and A256GCM, which other programs open: `org.opencontainers.image.enc.keys.jwe`. One value for all of them, in the
  JSON serialization: flattened for one, general for several.

An annotation is a list of values in base64 with commas between them, which is ocicrypt's. What is wrapped is ocicrypt's too: the
"private options" in JSON, and who unwraps them has a layer's secret. Neither kind says who encrypted: signatures do.

Values that are for others are skipped. Values that are well formed and open with none of the keys are one refusal, whatever the reason.

Source: ocicrypt 1.1 (`keywrap/jwe`, `keywrap/keyprovider`); RFC 7516; RFC 9180.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from enarx.channel.hpke import KeptKey, seal
from enarx.errors import DecodeError, VerificationError
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

__all__ = [
    "HPKE_KEYS",
    "JWE_KEYS",
    "MAX_RECIPIENTS",
    "DecryptionKeys",
    "Recipients",
    "has_wrapped_keys",
    "parse_jwe_untrusted",
    "unwrap",
    "wrap",
]

HPKE_KEYS = "org.opencontainers.image.enc.keys.provider.enarx"
JWE_KEYS = "org.opencontainers.image.enc.keys.jwe"

MAX_RECIPIENTS = 16
"""Of either kind, for one layer."""
MAX_WRAPPED_BYTES = 64 << 10
"""Of one value of an annotation."""

_INFO = b"enarx package layer secret, version 1"
_MAX_VALUES = 32
"""Of one annotation, and of recipients in all of its JWEs: each costs a private operation."""
_ALGORITHM, _ENCRYPTION = "RSA-OAEP", "A256GCM"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


class Recipients(NamedTuple):
    """For whom something is encrypted.

    Args:
        hpke: public keys of 1216 bytes.
        rsa: public keys.
    """

    hpke: tuple[bytes, ...] = ()
    rsa: tuple[RSAPublicKey, ...] = ()


class DecryptionKeys(NamedTuple):
    """What somebody can open."""

    hpke: tuple[KeptKey, ...] = ()
    rsa: tuple[RSAPrivateKey, ...] = ()


def has_wrapped_keys(annotations: Mapping[str, str]) -> bool:
    """Return whether there is a wrapped secret of a kind that is known here."""
    return HPKE_KEYS in annotations or JWE_KEYS in annotations


def wrap(secret: bytes, recipients: Recipients) -> dict[str, str]:
    """Return annotations from which each recipient, and nobody else, gets a layer's secret.

    Args:
        secret: the private options in JSON.
        recipients: at least one.
    """
    annotations = {}
    if recipients.hpke:
        values = [seal(public, secret, _INFO) for public in recipients.hpke]
        annotations[HPKE_KEYS] = ",".join(map(_base64, values))
    if recipients.rsa:
        annotations[JWE_KEYS] = _base64(_wrap_jwe(secret, recipients.rsa))
    return annotations


def unwrap(annotations: Mapping[str, str], keys: DecryptionKeys, *, what: str) -> bytes:
    """Return a layer's secret.

    Args:
        annotations: of the layer, from strangers.
        keys: tried one after the other.
        what: names the layer in messages.

    Returns:
        The private options in JSON, which whoever encrypted chose.

    Raises:
        DecodeError: the annotations are not well formed.
        VerificationError: it is wrapped for none of the keys.
    """
    for value in _values(annotations, HPKE_KEYS, what):
        for kept in keys.hpke:
            try:
                return kept.open(value, _INFO)
            except VerificationError:
                continue
    messages = [parse_jwe_untrusted(value) for value in _values(annotations, JWE_KEYS, what)]
    count = sum(len(message["recipients"]) for message in messages)
    if count > _MAX_VALUES:
        raise DecodeError(
            f"cannot decrypt the {what}: {JWE_KEYS}: found {count} recipients, want at most {_MAX_VALUES}"
        )
    for message in messages:
        for key in keys.rsa:
            opened = _unwrap_jwe(message, key)
            if opened is not None:
                return opened
    raise VerificationError(
        f"cannot decrypt the {what}: found it encrypted for others, want one of the keys given",
        hint="pass the private key of one of its recipients with --decryption-key",
    )


def parse_jwe_untrusted(data: bytes) -> dict[str, Any]:
    """Decode a JWE in the JSON serialization, flattened or general.

    Args:
        data: at most 65536 bytes.

    Returns:
        Its members, with those recipients alone whose key is wrapped with RSA-OAEP; there may be none.

    Raises:
        DecodeError: it is none, or one that ocicrypt would not write: compressed, with another content encryption or additional data.
    """
    value = load_json_untrusted(data, what="JWE", max_bytes=MAX_WRAPPED_BYTES, max_items=2000)
    if type(value) is not dict:
        raise _no_jwe("the text", quote(value), "an object")
    for name in ("unprotected", "aad"):
        if name in value:
            raise _no_jwe(name, "one", "none")
    message: dict[str, Any] = {name: _text(value, name) for name in ("protected", "iv", "ciphertext", "tag")}
    header = load_json_untrusted(_decode_url(message["protected"]), what="JWE's header", max_bytes=4096, max_items=100)
    if type(header) is not dict or header.get("enc") != _ENCRYPTION or set(header) - {"enc", "alg", "kid"}:
        raise _no_jwe("protected", quote(header), f"enc {_ENCRYPTION}, and at most alg and kid with it")
    entries = value.get("recipients")
    if entries is None:
        entries = [{name: value[name] for name in ("header", "encrypted_key") if name in value}]
    if type(entries) is not list or not 1 <= len(entries) <= _MAX_VALUES:
        raise _no_jwe("recipients", quote(entries), f"an array of 1 to {_MAX_VALUES}")
    message["recipients"] = [each for each in (_recipient(entry, header) for entry in entries) if each is not None]
    return message


def _recipient(entry: Any, protected: dict[str, Any]) -> dict[str, Any] | None:
    if type(entry) is not dict or type(entry.get("header", {})) is not dict:
        raise _no_jwe("recipients", quote(entry), "objects")
    header = entry.get("header", {})
    if "alg" in header and "alg" in protected:
        raise _no_jwe("alg", "it twice", "it once")
    if (header.get("alg") or protected.get("alg")) != _ALGORITHM:
        return None
    own = {"alg": _ALGORITHM} if "alg" in header else {}
    return {"header": own, "encrypted_key": _text(entry, "encrypted_key")}


def _wrap_jwe(secret: bytes, keys: Sequence[RSAPublicKey]) -> bytes:
    from joserfc import jwe
    from joserfc.jwk import RSAKey

    protected = {"enc": _ENCRYPTION} if len(keys) > 1 else {"alg": _ALGORITHM, "enc": _ENCRYPTION}
    kind = jwe.GeneralJSONEncryption if len(keys) > 1 else jwe.FlattenedJSONEncryption
    message = kind(protected, secret)
    for key in keys:
        message.add_recipient({"alg": _ALGORITHM} if len(keys) > 1 else {}, RSAKey.import_key(key))
    value = dict(jwe.encrypt_json(message, None, algorithms=[_ALGORITHM, _ENCRYPTION]))
    if not value.get("header", True):
        del value["header"]
    return json.dumps(value, separators=(",", ":")).encode()


def _unwrap_jwe(message: dict[str, Any], key: RSAPrivateKey) -> bytes | None:
    """Return what a JWE has for a key, or None where it has nothing for it or was changed."""
    from joserfc import jwe
    from joserfc.errors import JoseError
    from joserfc.jwk import RSAKey

    if not message["recipients"]:
        return None
    registry = jwe.JWERegistry(
        algorithms=[_ALGORITHM, _ENCRYPTION], verify_all_recipients=False, max_recipients=_MAX_VALUES
    )
    # As it is and not in PEM: reading that takes a quarter of a second, and a stranger says how often this is done.
    imported = RSAKey.import_key(key)
    try:
        # `parse_jwe_untrusted` made this dictionary: of the general form, and no other members.
        opened = jwe.decrypt_json(message, imported, registry=registry)  # type: ignore[arg-type]
    except (JoseError, ValueError, AssertionError):
        return None
    return opened.plaintext


def _values(annotations: Mapping[str, str], name: str, what: str) -> list[bytes]:
    text = annotations.get(name)
    if text is None:
        return []
    values = text.split(",", _MAX_VALUES + 1)
    if len(values) > _MAX_VALUES:
        raise DecodeError(f"cannot decrypt the {what}: {name}: found more than {_MAX_VALUES} values, want at most that")
    try:
        decoded = [base64.b64decode(value, validate=True) for value in values if len(value) <= 2 * MAX_WRAPPED_BYTES]
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"cannot decrypt the {what}: {name}: found another text, want values in base64") from error
    if len(decoded) != len(values):
        raise DecodeError(f"cannot decrypt the {what}: {name}: found a longer value, want {MAX_WRAPPED_BYTES} bytes")
    return decoded


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if type(found) is not str or not _BASE64URL.fullmatch(found):
        raise _no_jwe(name, quote(found), "text in base64url")
    return found


def _decode_url(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise _no_jwe("protected", quote(text), "base64url") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _no_jwe(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the JWE: {where}: found {found}, want {want}")
