# SPDX-License-Identifier: Apache-2.0
"""A module that a Keep gets as a registry has it: an encrypted layer, of which nothing is decrypted before all of it was found right.

Blobs that the tenant has encrypted for this Keep are in `test_life`.
"""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256

import pytest

from enarx.channel import ocicrypt
from enarx.channel.hpke import OneTimeKey, seal
from enarx.channel.ocicrypt import LayerOpener, LayerSealer, LayerSecret
from enarx.errors import TransportError, VerificationError
from enarx.keep.provisioning import open_release, receive_package
from enarx.wire.release import Blob, Layer, encode_release
from enarx.wire.session import Limits
from tests.keeping import seal_package

MODULE = b"\0asm" + bytes(range(256)) * 8000
LIMITS = Limits(memory_bytes=1 << 30, package_bytes=4 << 20, log_bytes=1 << 20)
INFO = bytes(64)


class Pieces:
    """A ciphertext as it arrives."""

    def __init__(self, data, piece=100_000):
        self.left = [data[at : at + piece] for at in range(0, len(data), piece)]
        self.was_reset = False

    async def read(self, max_bytes=1 << 20):
        return self.left.pop(0) if self.left else b""

    def reset(self, reason=""):
        self.was_reset = True


def layered(module=MODULE, **given):
    """Return a release whose module is a layer, and the ciphertext of it."""
    sealed = seal_package(module, **given)
    secret = LayerSecret.make()
    sealer = LayerSealer(secret)
    data = sealer.update(module)
    expected = sealer.finish()
    blob = Blob(
        key=secret.key,
        ciphertext=expected.ciphertext,
        ciphertext_length=len(data),
        plaintext=expected.plaintext,
        plaintext_length=len(module),
        layer=Layer(secret.nonce, expected.hmac),
    )
    blobs = {**sealed.release.blobs, "main.wasm": blob}
    return sealed.release._replace(blobs=blobs), {**sealed.blobs, blob.ciphertext: data}


def opened(release, limits=LIMITS):
    key = OneTimeKey()
    return open_release(seal(key.public_bytes, encode_release(release), INFO), key, info=INFO, limits=limits)


def received(release, blobs, **changes):
    sources = {digest: Pieces(data) for digest, data in blobs.items()}

    async def fetch(digest):
        return sources[digest]

    return asyncio.run(receive_package(release, fetch=fetch, limits=LIMITS, **changes)), sources


def changed(release, **changes):
    blob = release.blobs["main.wasm"]
    return release._replace(blobs={**release.blobs, "main.wasm": blob._replace(**changes)})


def test_a_layer_becomes_the_module(tmp_path):
    release, blobs = layered(toml=b'args = ["a"]\n')
    package, _ = received(opened(release), blobs)
    try:
        assert os.pread(package.module_fd, 1 << 24, 0) == MODULE
        with pytest.raises(PermissionError):
            os.pwrite(package.module_fd, b"x", 0)
        assert package.toml.args == ("a",)
    finally:
        os.close(package.module_fd)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:], "another digest"),
        (lambda data: data[:-1], "bytes of ciphertext"),
        (lambda data: b"", "bytes of ciphertext"),
        (lambda data: data + b"x", "more than"),
    ],
)
def test_a_layer_that_is_not_as_it_was_is_never_decrypted(monkeypatch, damage, word):
    decrypted = []
    monkeypatch.setattr(LayerOpener, "_decrypt", lambda *_: decrypted.append(1))
    release, blobs = layered()
    digest = release.blobs["main.wasm"].ciphertext
    blobs[digest] = damage(blobs[digest])
    with pytest.raises(VerificationError, match=word):
        received(opened(release), blobs)
    assert not decrypted


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"layer": Layer(bytes(16), bytes(32))}, "another HMAC"),
        ({"key": bytes(32)}, "another HMAC"),
    ],
)
def test_a_layer_with_another_hmac_is_never_decrypted(monkeypatch, changes, word):
    decrypted = []
    monkeypatch.setattr(ocicrypt.LayerOpener, "_decrypt", lambda *_: decrypted.append(1))
    release, blobs = layered()
    with pytest.raises(VerificationError, match=word):
        received(opened(changed(release, **changes)), blobs)
    assert not decrypted


def test_a_layer_with_another_nonce_is_no_module():
    release, blobs = layered()
    layer = release.blobs["main.wasm"].layer._replace(nonce=bytes(16))
    with pytest.raises(VerificationError, match="plaintext of another digest"):
        received(opened(changed(release, layer=layer)), blobs)


def test_what_is_left_over_after_a_refusal_is_reset_and_closed():
    release, blobs = layered()
    digest = release.blobs["main.wasm"].ciphertext
    source = Pieces(blobs[digest] + b"more")
    before = set(os.listdir("/proc/self/fd"))

    async def fetch(_):
        return source

    with pytest.raises(VerificationError, match="more than"):
        asyncio.run(receive_package(opened(release), fetch=fetch, limits=LIMITS))
    assert source.was_reset
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_layer_is_as_long_as_its_plaintext():
    release, _ = layered()
    with pytest.raises(VerificationError, match=f"bytes of ciphertext, want {len(MODULE)}"):
        opened(changed(release, ciphertext_length=len(MODULE) + 16))


def test_only_the_module_can_be_a_layer():
    release, _ = layered(toml=b"")
    blob = release.blobs["Enarx.toml"]._replace(layer=Layer(bytes(16), bytes(32)))
    with pytest.raises(VerificationError, match=r"Enarx.toml: found a layer"):
        opened(release._replace(blobs={**release.blobs, "Enarx.toml": blob}))


def test_a_layer_is_no_larger_than_the_keep_has_room_for():
    release, _ = layered()
    with pytest.raises(TransportError, match="size"):
        opened(release, LIMITS._replace(package_bytes=len(MODULE) - 1))


def test_a_layer_is_not_what_the_tenant_encrypts():
    """The other cipher cannot be put in its place by leaving its nonce and HMAC out."""
    release, _ = layered()
    with pytest.raises(VerificationError, match="bytes of ciphertext"):
        opened(changed(release, layer=None))
    assert release.blobs["main.wasm"].plaintext == sha256(MODULE).digest()
