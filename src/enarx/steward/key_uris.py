# SPDX-License-Identifier: Apache-2.0
"""What says where an authority's key is, when it is in a token: a PKCS #11 URI.

::

    pkcs11:token=steward;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/enarx/pin

Rules of this file:

- One URI names one key: the module that is loaded, the token by its label or serial number, the key by its label or identifier.
- What is not understood is refused: it could be what tells this key from another one.
- There is no PIN in it. It is read from a file, so that it is in no command line and in no copy of the URI.

Source: RFC 7512 sections 2.3 and 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote as percent_encode
from urllib.parse import unquote_to_bytes

from enarx.errors import ConfigError
from enarx.wire.quoting import quote

__all__ = ["KeyUri", "decode_key_uri"]

MAX_CHARACTERS = 4096
MAX_LABEL_BYTES = 255
MAX_TOKEN_BYTES = 32
MAX_SERIAL_BYTES = 16
"""Of a token's label and serial number, which have fields of that size: PKCS #11 3.1 section 3.2, CK_TOKEN_INFO."""

_SCHEME = "pkcs11:"
_EXAMPLE = "pkcs11:token=NAME;object=NAME?module-path=/FILE&pin-source=file:/FILE"
_LIMITS = {"token": MAX_TOKEN_BYTES, "serial": MAX_SERIAL_BYTES, "object": MAX_LABEL_BYTES, "id": MAX_LABEL_BYTES}
_TEXTS = ("token", "serial", "object")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUri:
    """Where a key is.

    Args:
        module: absolute path of the PKCS #11 module.
        token: the token's label; None is any that has the serial number.
        serial: the token's serial number; None is any of that label.
        label: the key's, `object` in the URI; None is any that has the identifier.
        id: the key's identifier, 1 to 255 bytes; None is any of that label.
        pin_file: absolute path of the file whose first line is the PIN; None where the token asks for none.
    """

    module: str
    token: str | None = None
    serial: str | None = None
    label: str | None = None
    id: bytes | None = None
    pin_file: str | None = None

    def text(self) -> str:
        """Return the URI."""
        path: dict[str, str | bytes | None] = {
            "token": self.token,
            "serial": self.serial,
            "object": self.label,
            "id": self.id,
        }
        query = f"module-path={percent_encode(self.module, safe='/')}"
        if self.pin_file is not None:
            query += f"&pin-source=file:{percent_encode(self.pin_file, safe='/')}"
        named = (f"{name}={percent_encode(value, safe='')}" for name, value in path.items() if value is not None)
        return f"{_SCHEME}{';'.join(named)}?{query}"

    def __str__(self) -> str:
        key = f"id {self.id.hex()}" if self.label is None and self.id is not None else self.label
        token = self.serial if self.token is None else self.token
        return f"{key} in token {token}"


def decode_key_uri(text: str, *, path: str) -> KeyUri:
    """Read a URI.

    Args:
        text: of the URI.
        path: where it comes from, for messages.

    Raises:
        ConfigError: it is none, has what is not understood, or names no module, no token or no key.
    """
    if len(text) > MAX_CHARACTERS:
        raise _wrong(path, f"{len(text)} characters", f"at most {MAX_CHARACTERS}")
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise _wrong(path, quote(text), _EXAMPLE)
    named, _, query = text[len(_SCHEME) :].partition("?")
    found = dict(_attributes(named, ";", ("token", "serial", "object", "id", "type"), path))
    asked = dict(_attributes(query, "&", ("module-path", "pin-source"), path))
    if found.pop("type", b"private") != b"private":
        raise _wrong(path, "a type of object that signs nothing", "type=private, or none")
    for name, value in found.items():
        if not 0 < len(value) <= _LIMITS[name]:
            raise _wrong(path, f"{name} of {len(value)} bytes", f"1 to {_LIMITS[name]}")
    texts = {name: _text(found[name], name, path) for name in _TEXTS if name in found}
    if "token" not in texts and "serial" not in texts:
        raise _wrong(path, "no token", f"its label or serial number: {_EXAMPLE}")
    if "object" not in texts and "id" not in found:
        raise _wrong(path, "no key", f"its label or identifier: {_EXAMPLE}")
    if "module-path" not in asked:
        raise _wrong(path, "no module-path", f"the file of the PKCS #11 module: {_EXAMPLE}")
    pin = asked.get("pin-source")
    return KeyUri(
        module=_file(asked["module-path"], "module-path", path),
        token=texts.get("token"),
        serial=texts.get("serial"),
        label=texts.get("object"),
        id=found.get("id"),
        pin_file=None if pin is None else _file(pin.removeprefix(b"file:").removeprefix(b"//"), "pin-source", path),
    )


def _attributes(text: str, separator: str, known: tuple[str, ...], path: str) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for each in text.split(separator) if text else ():
        name, equals, value = each.partition("=")
        if name == "pin-value":
            raise ConfigError(
                f"{path}: found a PIN in the URI, want it in a file that nobody else can read",
                hint="pin-source=file:/FILE in its place, and another PIN: this one was seen",
                path=path,
            )
        if not equals or name not in known:
            raise _wrong(path, quote(each), f"{', '.join(known)} between {separator!r}")
        if name in seen:
            raise _wrong(path, f"{name} twice", "it once")
        seen.add(name)
        yield name, unquote_to_bytes(value)


def _text(data: bytes, name: str, path: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _wrong(path, f"{name} that is no UTF-8", "text") from error
    if not text.isprintable():
        raise _wrong(path, f"{name} with characters that cannot be printed", "text")
    return text


def _file(data: bytes, name: str, path: str) -> str:
    text = _text(data, name, path)
    if not text.startswith("/"):
        raise _wrong(path, f"{name}={quote(text)}", "the absolute path of a file")
    return text


def _wrong(path: str, found: str, want: str) -> ConfigError:
    return ConfigError(f"{path}: cannot use the key's URI: found {found}, want {want}", path=path)
