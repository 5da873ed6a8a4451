# SPDX-License-Identifier: Apache-2.0
"""Packages with signatures, for tests: a layout with one package, keys, a sigstore instance and a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enarx.registry.layout import make_layout
from enarx.testing.sigstore import FakeSigstore
from enarx.wire.oci import MANIFEST, WASM, WASM_CONFIG, Descriptor, Manifest, digest_of, encode_manifest

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
IDENTITY, ISSUER = "dev@tenant.example", "https://issuer.example"
MODULE = b"\0asm\1\0\0\0"


def make_package(folder):
    """Return a layout with one package, tagged `v1`, and the descriptor of its manifest."""
    folder.mkdir()
    layout = make_layout(str(folder))
    config = json.dumps({"architecture": "wasm", "os": "wasip1"}).encode()
    parts = [Descriptor(kind, digest_of(data), len(data)) for kind, data in ((WASM_CONFIG, config), (WASM, MODULE))]
    for wanted, data in zip(parts, (config, MODULE), strict=True):
        layout.put_blob(wanted, [data])
    return layout, layout.put_manifest(encode_manifest(Manifest(parts[0], (parts[1],))), MANIFEST, tag="v1")


def key(name="tenant", kind="ed25519"):
    """Return a private key, the same one for the same name."""
    return _key(name, kind)


@cache
def _key(name, kind):
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def private_pem(private):
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(private):
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sigstore(name="one"):
    """Return a sigstore instance, the same one for the same name."""
    return _sigstore(name)


@cache
def _sigstore(_):
    return FakeSigstore(AT)
