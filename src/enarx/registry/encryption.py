# SPDX-License-Identifier: Apache-2.0
"""Encrypted packages: layers as ocicrypt has them, whose secrets are wrapped for recipients (`enarx.registry.recipients`).

What an encrypted package shows to a registry: how many layers it has, of which kind and length, for how many recipients, and the
architecture. Its config is a new one that says nothing else, because digests of plaintext, imports and exports tell which module it is
to whoever has a guess. Titles are left where they are the same in every package; all other annotations are left out.

What is encrypted is not thereby from anybody: who has the public key of a recipient can make another package for it. Signatures and
digests say whose a package is, and hold for its ciphertext. But layers that were encrypted here are opened with those they were
encrypted with and with no others, so that nobody else's package gets what is in them.

The secret of a layer is in annotations, from strangers: read within limits, and believed in part only. The nonce has to be beside the
key, under the wrapping; the digest of the plaintext too, and it has to be that of what was encrypted. (`skopeo` puts there the digest
from before its own compression, where it compresses: such a layer is refused.)

Ciphertext may be anywhere; plaintext is only where the caller wants it.

Source: ocicrypt 1.1 (`encryption.go`, `blockcipher`, `spec`); CNCF TAG Runtime, Wasm OCI Artifact layout.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from enarx.channel.ocicrypt import Expected, LayerOpener, LayerSealer, LayerSecret
from enarx.errors import DecodeError, PlatformError, UsageError, VerificationError
from enarx.registry.building import FILES_TITLE
from enarx.registry.content import PIECE_BYTES, Resolved, Sink, Source, checked, read_blob
from enarx.registry.layer_options import (
    MAX_OPTIONS_BYTES,
    Opened,
    decode_private_options_untrusted,
    decode_public_options_untrusted,
    encode_private_options,
    encode_public_options,
    together_digest,
)
from enarx.registry.opening import ENCRYPTED
from enarx.registry.recipient_keys import read_decryption_keys
from enarx.registry.recipients import DecryptionKeys, Recipients, has_wrapped_keys, unwrap, wrap
from enarx.wire.oci import (
    MANIFEST,
    TITLE,
    WASM_CONFIG,
    Descriptor,
    Manifest,
    decode_manifest_untrusted,
    digest_of,
    encode_manifest,
)
from enarx.wire.release import MAIN, TOML
from enarx.wire.wasm_config import (
    COMPONENT_OS,
    MAX_CONFIG_BYTES,
    MODULE_OS,
    WasmConfig,
    decode_wasm_config_untrusted,
    encode_wasm_config,
)

__all__ = [
    "ENCRYPTED",
    "EncryptingSink",
    "LayerKeys",
    "encrypt_package",
    "is_encrypted",
]

_PREFIX = "org.opencontainers.image.enc."
_PUBLIC_OPTIONS = _PREFIX + "pubopts"
_SPOOL_BYTES = 8 << 20
_TITLES = frozenset((MAIN, TOML, FILES_TITLE))


def is_encrypted(layer: Descriptor) -> bool:
    """Return whether a layer has to be decrypted first."""
    return layer.media_type.endswith(ENCRYPTED)


class LayerKeys:
    """The keys of somebody who opens packages.

    Args:
        keys: tried one after the other.
    """

    def __init__(self, keys: DecryptionKeys) -> None:
        self._keys = keys

    @classmethod
    def load(cls, paths: Sequence[str]) -> LayerKeys:
        """Read them from files.

        Raises:
            UsageError: a file cannot be read, or others can read it too.
            ConfigError: it has no such key in it.
        """
        return cls(read_decryption_keys(paths))

    def unwrap(self, layer: Descriptor) -> tuple[LayerSecret, Expected]:
        """Return a layer's secret, and what the layer has to be.

        Args:
            layer: with an encrypted media type.

        Raises:
            DecodeError: its annotations are not well formed.
            VerificationError: it is encrypted for others.
        """
        what = _name(layer)
        if not has_wrapped_keys(layer.annotations):
            raise DecodeError(
                f"cannot decrypt the {what}: found no wrapped key of a kind that is known here, want one",
                hint="HPKE of `enarx package recipient` and JWE with RSA-OAEP can be opened, PGP, PKCS#7 and PKCS#11 cannot",
            )
        hmac = decode_public_options_untrusted(_public_options(layer, what))
        options = self._options(layer, what)
        expected = Expected(bytes.fromhex(layer.digest[7:]), options.plaintext, hmac, layer.size)
        return options.secret, expected

    def require_together(self, layers: Sequence[Descriptor], name: str) -> None:
        """Return only if no layer was encrypted to be in another package, as far as who encrypted them has said so.

        Args:
            layers: all of a package, encrypted or not.
            name: of the package, for messages.

        Raises:
            DecodeError: the annotations of a layer are not well formed.
            VerificationError: a layer is encrypted for others, or belongs beside other layers.
        """
        plain, wanted = [], set()
        for layer in layers:
            if not is_encrypted(layer):
                plain.append(layer)
                continue
            options = self._options(layer, _name(layer))
            kind = layer.media_type.removesuffix(ENCRYPTED)
            plain.append(layer._replace(media_type=kind, digest="sha256:" + options.plaintext.hex()))
            wanted.add(options.together)
        if wanted - {None, together_digest(plain)}:
            raise VerificationError(
                f"cannot open {name}: found layers that were encrypted beside others than these, want those of one package",
                hint="it was put together of parts of other packages; do not use it, and ask whoever publishes it",
            )

    def _options(self, layer: Descriptor, what: str) -> Opened:
        return decode_private_options_untrusted(unwrap(layer.annotations, self._keys, what=what))

    def open_layer(self, layer: Descriptor, pieces: Iterable[bytes], fd: int) -> Descriptor:
        """Decrypt a layer into a file.

        Args:
            layer: with an encrypted media type.
            pieces: the ciphertext, from anybody.
            fd: of an empty file that nobody else can read or write; afterwards it is the plaintext, and after an error it is nothing
                that anybody should look at.

        Returns:
            The descriptor of the plaintext: with the media type, the annotations and the digest that it has.

        Raises:
            DecodeError: the annotations are not well formed.
            VerificationError: it is encrypted for others, or was changed.
            PlatformError: the file cannot be written.
        """
        secret, expected = self.unwrap(layer)
        opener = LayerOpener(fd, secret, expected, what=_name(layer))
        for piece in pieces:
            opener.take(piece)
        opener.finish()
        return Descriptor(
            media_type=layer.media_type.removesuffix(ENCRYPTED),
            digest="sha256:" + expected.plaintext.hex(),
            size=layer.size,
            annotations={name: text for name, text in layer.annotations.items() if not name.startswith(_PREFIX)},
        )


def encrypt_package(
    source: Source, resolved: Resolved, sink: Sink, recipients: Recipients, *, tag: str | None
) -> Descriptor:
    """Write a package again, with its layers encrypted.

    Args:
        source: where the package is.
        resolved: its manifest.
        sink: gets ciphertext only.
        recipients: who can open it.
        tag: for the new manifest, or None.

    Returns:
        The descriptor of the new manifest. It is another one each time, because keys are.

    Raises:
        UsageError: a layer is encrypted already, or there is no recipient.
        DecodeError: it is no package, or too large.
        VerificationError: a layer is not what the manifest says.
        TransportError: it cannot be read or written.
        PlatformError: there is no place for the ciphertext.
    """
    encrypting = EncryptingSink(sink, recipients)
    manifest = decode_manifest_untrusted(resolved.data)
    for layer in manifest.layers:
        encrypting.put_blob(layer, source.open_blob(layer))
    config = read_blob(source, manifest.config, MAX_CONFIG_BYTES)
    return encrypting.put(manifest.layers, config, tag=tag)


class EncryptingSink:
    """A sink that gives another one ciphertext only: what is put together in it is encrypted from the beginning.

    Args:
        sink: gets the ciphertext.
        recipients: who can open it.

    Raises:
        UsageError: there is no recipient.
    """

    def __init__(self, sink: Sink, recipients: Recipients) -> None:
        if not recipients.hpke and not recipients.rsa:
            raise UsageError("cannot encrypt the package: recipients: found none, want at least one")
        self._sink, self._recipients = sink, recipients
        self._configs: dict[str, bytes] = {}
        self._sealed: dict[str, _Sealed] = {}

    def has_blob(self, wanted: Descriptor) -> bool:
        """Return whether a blob is there already: never, each time it has another key."""
        return False

    def put_blob(self, wanted: Descriptor, pieces: Iterable[bytes]) -> None:
        """Encrypt a layer, or keep a config for the manifest that has it. See `Sink.put_blob`.

        Raises:
            UsageError: the layer is encrypted already.
            PlatformError: there is no place for the ciphertext.
        """
        if is_encrypted(wanted):
            raise UsageError(
                f"cannot encrypt the package: {_name(wanted)}: found it encrypted already, want plaintext",
                hint="encrypt the package it was made of, for all recipients at once",
            )
        if wanted.media_type != WASM_CONFIG:
            self._sealed[wanted.digest] = self._seal(wanted, pieces)
        elif wanted.size <= MAX_CONFIG_BYTES:
            self._configs[wanted.digest] = b"".join(checked(pieces, wanted))

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        """Store the manifest of what was put here before. See `Sink.put_manifest`.

        Raises:
            UsageError: a layer or its config was not put here.
        """
        manifest = decode_manifest_untrusted(data)
        if media_type != MANIFEST or manifest.config.digest not in self._configs:
            raise UsageError("cannot encrypt the package: found no manifest with a config of Wasm, want one")
        return self.put(manifest.layers, self._configs[manifest.config.digest], tag=tag)

    def put(self, layers: Iterable[Descriptor], config: bytes, *, tag: str | None) -> Descriptor:
        """Store the manifest of layers that were put here before, with a config that says nothing about them.

        Args:
            layers: in their order, as they are without encryption.
            config: of any artifact.
            tag: for the manifest, or None.
        """
        layers = tuple(layers)
        blank = encode_wasm_config(WasmConfig(0, _system(config), ()))
        described = Descriptor(WASM_CONFIG, digest_of(blank), len(blank))
        self._sink.put_blob(described, (blank,))
        together = together_digest(layers)
        manifest = Manifest(described, tuple(self._described(layer, together) for layer in layers))
        return self._sink.put_manifest(encode_manifest(manifest), MANIFEST, tag=tag)

    def _described(self, layer: Descriptor, together: bytes) -> Descriptor:
        sealed = self._sealed.get(layer.digest)
        if sealed is None:
            raise UsageError(f"cannot encrypt the package: {_name(layer)}: found it nowhere, want it put here first")
        title = layer.annotations.get(TITLE)
        named = {TITLE: title} if title in _TITLES else {}
        return Descriptor(
            media_type=layer.media_type + ENCRYPTED,
            digest="sha256:" + sealed.expected.ciphertext.hex(),
            size=sealed.expected.length,
            annotations=_annotations(sealed, together, self._recipients) | named,
        )

    def _seal(self, layer: Descriptor, pieces: Iterable[bytes]) -> _Sealed:
        """Encrypt one layer: once, and into a file, because its digest comes last and a key is for one plaintext."""
        secret = LayerSecret.make()
        sealer = LayerSealer(secret)
        try:
            with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
                for piece in checked(pieces, layer):
                    spool.write(sealer.update(piece))
                expected = sealer.finish()
                digest = "sha256:" + expected.ciphertext.hex()
                self._sink.put_blob(Descriptor(layer.media_type + ENCRYPTED, digest, expected.length), _pieces(spool))
        except OSError as error:
            raise PlatformError(f"cannot keep the ciphertext of {_name(layer)}: {error.strerror}") from error
        return _Sealed(secret, expected)


class _Sealed(NamedTuple):
    """A layer that was encrypted; for whom, and beside which others, its annotations say in the end."""

    secret: LayerSecret
    expected: Expected


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        yield piece


def _annotations(sealed: _Sealed, together: bytes, recipients: Recipients) -> dict[str, str]:
    private = encode_private_options(Opened(sealed.secret, sealed.expected.plaintext, together))
    public = encode_public_options(sealed.expected.hmac)
    return wrap(private, recipients) | {_PUBLIC_OPTIONS: base64.b64encode(public).decode()}


def _system(config: bytes) -> str:
    """Return which WASI a package says it is for; of other configs it is not known, and not important."""
    try:
        found = decode_wasm_config_untrusted(config).os
    except DecodeError:
        return MODULE_OS
    return COMPONENT_OS if found == COMPONENT_OS else MODULE_OS


def _public_options(layer: Descriptor, what: str) -> bytes:
    text = layer.annotations.get(_PUBLIC_OPTIONS)
    if text is None or len(text) > 2 * MAX_OPTIONS_BYTES:
        raise DecodeError(f"cannot decrypt the {what}: {_PUBLIC_OPTIONS}: found none, or a longer one, want one")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"cannot decrypt the {what}: {_PUBLIC_OPTIONS}: found another text, want base64") from error


def _name(layer: Descriptor) -> str:
    return f"layer {layer.media_type}"
