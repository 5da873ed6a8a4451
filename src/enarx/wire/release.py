# SPDX-License-Identifier: Apache-2.0
"""What a tenant entrusts to a Keep, and what the Keep then says of it: release, package, configuration, files, identity.

Rules of this file: as in `enarx.wire.session`, whose message `provision` carries a release and whose `receipt` carries an identity.
What holds it together is that one act: records first, then encoders and decoders, then the parts that they share.

Source: docs/formats/session.cddl.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from enarx.crypto.cbor import encode
from enarx.errors import DecodeError
from enarx.wire.fields import (
    Fields,
    bytes_of,
    choice_of,
    decode_canonical,
    read_bool,
    read_map,
    refusal,
    require_one_of,
    some_of,
    text_of,
    tuple_of,
    uint_of,
)

__all__ = [
    "FILES",
    "MAIN",
    "MAX_FILES_BYTES",
    "MAX_IDENTITY_BYTES",
    "MAX_NAME_BYTES",
    "MAX_PATH_PARTS",
    "MAX_PEM_BYTES",
    "MAX_RELEASE_BYTES",
    "TOML",
    "Blob",
    "Configuration",
    "Content",
    "Directory",
    "Entry",
    "Identity",
    "Layer",
    "ListenOverride",
    "Manifest",
    "PeerOverride",
    "Release",
    "Steward",
    "TravellingFiles",
    "configuration_value",
    "decode_files_untrusted",
    "decode_identity_untrusted",
    "decode_manifest_untrusted",
    "decode_release_untrusted",
    "encode_files",
    "encode_identity",
    "encode_manifest",
    "encode_release",
]

MAX_RELEASE_BYTES = 65536
MAX_FILES_BYTES = 256 << 20
"""Of the blob `files`, which a Keep holds twice for a moment."""
MAX_PATH_PARTS = 64
MAX_NAME_BYTES = 255
"""Of one part of a path."""
MAX_PEM_BYTES = 1 << 20
MAX_IDENTITY_BYTES = 1024
MAX_PEERS = 100

MAIN, TOML, FILES = "main.wasm", "Enarx.toml", "files"
"""Names of blobs."""

_MAX_MANIFEST_BYTES = 4096


class Content(NamedTuple):
    """A file by what is in it.

    Args:
        digest: SHA-256.
        length: bytes.
    """

    digest: bytes
    length: int


class Manifest(NamedTuple):
    """What a package consists of; its digest is the package's."""

    main: Content
    toml: Content | None


class Layer(NamedTuple):
    """What it takes to open a blob that is an encrypted layer as a registry has it (`enarx.channel.ocicrypt`).

    Args:
        nonce: 16 bytes.
        hmac: 32 bytes, of the ciphertext.
    """

    nonce: bytes
    hmac: bytes


class Blob(NamedTuple):
    """An encrypted file that travels outside of the session.

    Args:
        key: 32 bytes, of this blob alone.
        ciphertext: SHA-256, under which the host has it.
        ciphertext_length: bytes.
        plaintext: SHA-256.
        plaintext_length: bytes.
        layer: where it is a layer of a registry; None where the tenant has encrypted it for this Keep.
    """

    key: bytes
    ciphertext: bytes
    ciphertext_length: int
    plaintext: bytes
    plaintext_length: int
    layer: Layer | None = None


class ListenOverride(NamedTuple):
    """A port by the name of its entry in Enarx.toml; `prot` is `tls` or `tcp`."""

    name: str
    prot: str
    port: int


class PeerOverride(NamedTuple):
    """Who may be at the other end of a TLS connection.

    Args:
        package: SHA-256 of the manifest.
        tenant: SHA-384 of the tenant's SubjectPublicKeyInfo; None is any tenant of a package to which nothing was added.
    """

    package: bytes
    tenant: bytes | None


class Configuration(NamedTuple):
    """What is given beyond the package; None everywhere where it runs as it is.

    Args:
        arguments: instead of the package's own.
        environment: beside the package's own, and before them in case of doubt.
        listen: ports.
        limits: by the names of docs/formats/session.cddl.
        files: SHA-256 of the blob `files`.
        peers: instead of the package's own.
    """

    arguments: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] | None = None
    listen: tuple[ListenOverride, ...] | None = None
    limits: Mapping[str, int] | None = None
    files: bytes | None = None
    peers: tuple[PeerOverride, ...] | None = None


class Steward(NamedTuple):
    """Where the Keep asks for its certificate: address, and the root certificate in DER."""

    url: str
    root: bytes


class Release(NamedTuple):
    """All that the tenant entrusts to a Keep.

    Args:
        package: a `Manifest` in CBOR.
        blobs: by name; `main.wasm` always.
        configuration: beyond the package.
        time_ns: the tenant's Unix time when it was made.
        salt: 32 bytes, for the digest of the configuration.
        steward: or None.
    """

    package: bytes
    blobs: Mapping[str, Blob]
    configuration: Configuration
    time_ns: int
    salt: bytes
    steward: Steward | None = None


class Identity(NamedTuple):
    """What a Keep runs and for whom.

    Args:
        package: SHA-256 of the manifest.
        module: SHA-256 of main.wasm.
        configuration: SHA-256 of the salt and the configuration.
        pristine: whether nothing was given beyond the package.
        tenant: SHA-384 of the tenant's SubjectPublicKeyInfo in DER.
    """

    package: bytes
    module: bytes
    configuration: bytes
    pristine: bool
    tenant: bytes


class Entry(NamedTuple):
    """A file or directory that travels.

    Args:
        path: its parts below the directory, each neither empty, `.` nor `..`, without `/` and NUL.
        contents: None for a directory.
    """

    path: tuple[str, ...]
    contents: bytes | None


class Directory(NamedTuple):
    """A directory that travels, and where the workload sees it."""

    guest: str
    read_only: bool
    entries: tuple[Entry, ...]


class TravellingFiles(NamedTuple):
    """The blob `files`.

    Args:
        directories: of `--dir` and `[[dirs]]`.
        tls: PEM files by the paths that Enarx.toml has.
    """

    directories: tuple[Directory, ...]
    tls: Mapping[str, bytes]


def encode_release(release: Release) -> bytes:
    """Return a release in CBOR.

    Raises:
        DecodeError: it is larger than 65536 bytes.
    """
    value: dict[str, Any] = {
        "package": release.package,
        "blobs": {name: _blob_value(blob) for name, blob in release.blobs.items()},
        "configuration": configuration_value(release.configuration),
        "time-ns": release.time_ns,
        "salt": release.salt,
    }
    if release.steward is not None:
        value["steward"] = {"url": release.steward.url, "root": release.steward.root}
    data = encode(value)
    if len(data) > MAX_RELEASE_BYTES:
        raise DecodeError(
            f"cannot encode the release: size: found {len(data)} bytes, want at most {MAX_RELEASE_BYTES}",
            hint="pass fewer or shorter arguments and environment variables; files travel without this limit",
        )
    return data


def decode_release_untrusted(data: bytes) -> Release:
    """Decode a release.

    Raises:
        DecodeError: it is none.
    """
    fields = Fields(decode_canonical(data, MAX_RELEASE_BYTES, "the release"), "release")
    package = fields.bytes("package", 1, _MAX_MANIFEST_BYTES)
    blobs = {
        require_one_of(name, (MAIN, TOML, FILES), "release.blobs"): _blob(value, f"release.blobs.{name}")
        for name, value in fields.map("blobs").items()
    }
    if MAIN not in blobs:
        raise refusal("release.blobs", f"no {MAIN}", "one")
    release = Release(
        package=package,
        blobs=blobs,
        configuration=_configuration(fields.map("configuration")),
        time_ns=fields.uint("time-ns"),
        salt=fields.bytes("salt", 32, 32),
        steward=fields.optional("steward", _steward),
    )
    fields.end()
    return release


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest in CBOR; its SHA-256 is the package's digest."""
    value: dict[str, Any] = {MAIN: list(manifest.main)}
    if manifest.toml is not None:
        value[TOML] = list(manifest.toml)
    return encode(value)


def decode_manifest_untrusted(data: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
        DecodeError: it is none.
    """
    fields = Fields(decode_canonical(data, _MAX_MANIFEST_BYTES, "the manifest"), "manifest")
    manifest = Manifest(main=fields.required(MAIN, _content), toml=fields.optional(TOML, _content))
    fields.end()
    return manifest


def encode_identity(identity: Identity) -> bytes:
    """Return an identity record in CBOR."""
    return encode(identity._asdict())


# One record is in several parts of a request, each of which has to be well formed.
@lru_cache(maxsize=16)
def decode_identity_untrusted(data: bytes) -> Identity:
    """Decode an identity record.

    Raises:
        DecodeError: it is none.
    """
    fields = Fields(decode_canonical(data, MAX_IDENTITY_BYTES, "the identity record"), "identity")
    identity = Identity(
        package=fields.bytes("package", 32, 32),
        module=fields.bytes("module", 32, 32),
        configuration=fields.bytes("configuration", 32, 32),
        pristine=fields.required("pristine", read_bool),
        tenant=fields.bytes("tenant", 48, 48),
    )
    fields.end()
    return identity


def encode_files(files: TravellingFiles) -> bytes:
    """Return directories and PEM files in CBOR."""
    value: dict[str, Any] = {}
    if files.directories:
        value["directories"] = [
            {
                "guest": directory.guest,
                "read-only": directory.read_only,
                "entries": [_entry_value(entry) for entry in directory.entries],
            }
            for directory in files.directories
        ]
    if files.tls:
        value["tls"] = dict(files.tls)
    return encode(value)


def decode_files_untrusted(data: bytes) -> TravellingFiles:
    """Decode directories and PEM files.

    Raises:
        DecodeError: they are none, or a path leads out of its directory.
    """
    fields = Fields(decode_canonical(data, MAX_FILES_BYTES, "the files"), "files")
    files = TravellingFiles(
        directories=fields.optional("directories", some_of(_directory)) or (),
        tls=fields.optional("tls", _pem_files) or {},
    )
    fields.end()
    return files


def configuration_value(configuration: Configuration) -> dict[str, Any]:
    """Return what a configuration is in CBOR, before it is encoded."""
    value: dict[str, Any] = {}
    if configuration.arguments is not None:
        value["arguments"] = list(configuration.arguments)
    if configuration.environment is not None:
        value["environment"] = [list(pair) for pair in configuration.environment]
    if configuration.listen is not None:
        value["listen"] = [list(entry) for entry in configuration.listen]
    if configuration.limits is not None:
        value["limits"] = dict(configuration.limits)
    if configuration.files is not None:
        value["files"] = configuration.files
    if configuration.peers is not None:
        value["peers"] = [
            {name: digest for name, digest in peer._asdict().items() if digest is not None}
            for peer in configuration.peers
        ]
    return value


def _blob_value(blob: Blob) -> dict[str, Any]:
    value: dict[str, Any] = {
        "key": blob.key,
        "ciphertext": blob.ciphertext,
        "ciphertext-length": blob.ciphertext_length,
        "plaintext": blob.plaintext,
        "plaintext-length": blob.plaintext_length,
    }
    return value if blob.layer is None else value | {"layer": blob.layer._asdict()}


def _entry_value(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {"path": list(entry.path)}
    return value if entry.contents is None else value | {"contents": entry.contents}


def _content(value: Any, where: str) -> Content:
    return Content(*tuple_of(bytes_of(32, 32), uint_of())(value, where))


def _blob(value: Any, where: str) -> Blob:
    fields = Fields(value, where)
    blob = Blob(
        key=fields.bytes("key", 32, 32),
        ciphertext=fields.bytes("ciphertext", 32, 32),
        ciphertext_length=fields.uint("ciphertext-length"),
        plaintext=fields.bytes("plaintext", 32, 32),
        plaintext_length=fields.uint("plaintext-length"),
        layer=fields.optional("layer", _layer),
    )
    fields.end()
    return blob


def _layer(value: Any, where: str) -> Layer:
    fields = Fields(value, where)
    layer = Layer(nonce=fields.bytes("nonce", 16, 16), hmac=fields.bytes("hmac", 32, 32))
    fields.end()
    return layer


def _configuration(value: Any) -> Configuration:
    where = "release.configuration"
    fields = Fields(value, where)
    configuration = Configuration(
        arguments=fields.optional("arguments", some_of(text_of(), least=0)),
        environment=fields.optional("environment", some_of(tuple_of(text_of(), text_of()))),
        listen=fields.optional("listen", some_of(_listen)),
        limits=fields.optional("limits", _limit_overrides),
        files=fields.optional("files", bytes_of(32, 32)),
        peers=fields.optional("peers", some_of(_peer, most=MAX_PEERS)),
    )
    fields.end()
    return configuration


def _listen(value: Any, where: str) -> ListenOverride:
    return ListenOverride(*tuple_of(text_of(), choice_of(("tls", "tcp")), uint_of(65535))(value, where))


def _peer(value: Any, where: str) -> PeerOverride:
    fields = Fields(value, where)
    peer = PeerOverride(fields.bytes("package", 32, 32), fields.optional("tenant", bytes_of(48, 48)))
    fields.end()
    return peer


_LIMITS = ("memory-bytes", "timeout-ms", "fuel", "output-bytes", "open-files")


def _limit_overrides(value: Any, where: str) -> dict[str, int]:
    fields = Fields(value, where)
    limits = {name: fields.uint(name) for name in _LIMITS if name in value}
    fields.end()
    return limits


def _steward(value: Any, where: str) -> Steward:
    fields = Fields(value, where)
    steward = Steward(url=fields.text("url", 2048, 1), root=fields.bytes("root", 1, 8192))
    fields.end()
    return steward


def _directory(value: Any, where: str) -> Directory:
    fields = Fields(value, where)
    directory = Directory(
        guest=fields.text("guest"),
        read_only=fields.required("read-only", read_bool),
        entries=fields.required("entries", some_of(_entry, least=0)),
    )
    fields.end()
    return directory


def _entry(value: Any, where: str) -> Entry:
    fields = Fields(value, where)
    entry = Entry(fields.required("path", _path), fields.optional("contents", bytes_of(0, MAX_FILES_BYTES)))
    fields.end()
    return entry


def _path(value: Any, where: str) -> tuple[str, ...]:
    path = some_of(text_of(MAX_NAME_BYTES, 1), most=MAX_PATH_PARTS)(value, where)
    for part in path:
        if part in {".", ".."} or "/" in part or "\0" in part:
            raise refusal(where, repr(part)[:40], "a name")
    return path


def _pem_files(value: Any, where: str) -> dict[str, bytes]:
    files = read_map(value, where)
    if not files:
        raise refusal(where, "nothing", "at least one")
    return {text_of()(name, where): bytes_of(0, MAX_PEM_BYTES)(pem, f"{where}.{name!r}") for name, pem in files.items()}
