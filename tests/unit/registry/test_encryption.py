# SPDX-License-Identifier: Apache-2.0
"""Encrypted packages: nothing of the plaintext is left where they are, and nothing that was changed is decrypted."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.channel.hpke import KeptKey
from enarx.channel.ocicrypt import LayerSecret
from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.registry import encryption
from enarx.registry.building import build_package
from enarx.registry.encryption import (
    EncryptingSink,
    LayerKeys,
    encrypt_package,
)
from enarx.registry.layer_options import decode_private_options_untrusted, decode_public_options_untrusted
from enarx.registry.layout import LayoutFolder, make_layout
from enarx.registry.opening import open_package
from enarx.registry.recipients import HPKE_KEYS, DecryptionKeys, Recipients, wrap
from enarx.wire.oci import (
    FILES,
    MANIFEST,
    TITLE,
    TOML,
    WASM,
    WASM_CONFIG,
    Descriptor,
    Manifest,
    decode_manifest_untrusted,
    digest_of,
    encode_manifest,
)
from tests.canary import make_canary, read_all, search

PUBOPTS = "org.opencontainers.image.enc.pubopts"


@pytest.fixture(scope="module")
def key():
    return KeptKey()


@pytest.fixture
def keys(key):
    return LayerKeys(DecryptionKeys(hpke=(key,)))


@pytest.fixture
def recipients(key):
    return Recipients(hpke=(key.public_bytes,))


@pytest.fixture
def canary():
    return make_canary()


def put(layout, data, media_type, **annotations):
    wanted = Descriptor(media_type, digest_of(data), len(data), annotations)
    layout.put_blob(wanted, [data])
    return wanted


@pytest.fixture
def layers(canary):
    return (
        (WASM, b"\0asm" + canary.encode() + bytes(3_000_000), {TITLE: "main.wasm"}),
        (TOML, f'[[files]]\nname = "{canary}"\n'.encode(), {TITLE: "Enarx.toml"}),
        (FILES, canary.encode() * 40, {TITLE: canary, "org.example": canary}),
    )


@pytest.fixture
def plain(tmp_path, layers, canary):
    os.mkdir(tmp_path / "plain")
    layout = make_layout(str(tmp_path / "plain"))
    described = [put(layout, data, kind, **annotations) for kind, data, annotations in layers]
    config = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [each.digest for each in described],
        "component": {"imports": [canary], "exports": []},
    }
    manifest = Manifest(
        put(layout, json.dumps(config).encode(), WASM_CONFIG), tuple(described), {"org.example.author": canary}
    )
    layout.put_manifest(encode_manifest(manifest), MANIFEST, tag="v1")
    return layout


@pytest.fixture
def sealed(plain, tmp_path, recipients):
    os.mkdir(tmp_path / "sealed")
    layout = make_layout(str(tmp_path / "sealed"))
    encrypt_package(plain, plain.resolve("v1"), layout, recipients, tag="v1")
    return layout


def manifest_of(layout):
    return decode_manifest_untrusted(layout.resolve("v1").data)


def opened(keys, layout, layer):
    fd = os.memfd_create("layer")
    try:
        descriptor = keys.open_layer(layer, layout.open_blob(layer), fd)
        return descriptor, os.pread(fd, 1 << 30, 0)
    finally:
        os.close(fd)


def test_opens_what_was_encrypted(sealed, layers, keys):
    manifest = manifest_of(sealed)
    assert [each.media_type for each in manifest.layers] == [f"{kind}+encrypted" for kind, _, _ in layers]
    for layer, (kind, data, named) in zip(manifest.layers, layers, strict=True):
        descriptor, plaintext = opened(keys, sealed, layer)
        assert plaintext == data
        titles = named if named[TITLE] in {"main.wasm", "Enarx.toml"} else {}
        assert descriptor == Descriptor(kind, digest_of(data), len(data), titles)


def test_nothing_of_the_plaintext_is_in_what_is_stored(plain, sealed, canary, layers):
    def places(layout):
        return read_all(os.path.join(at, name) for at, _, names in os.walk(layout.path) for name in names)

    assert search(canary, places(plain)), "the search has to find it where it is"
    assert not search(canary, places(sealed))
    # Nor what tells somebody with a guess that the guess is right.
    for _, data, _ in layers:
        assert not search(sha256(data).hexdigest(), places(sealed))
        assert not search(sha256(data).digest(), places(sealed))


def test_the_config_says_what_runs_it_and_nothing_else(sealed):
    config = manifest_of(sealed).config
    value = json.loads(b"".join(sealed.open_blob(config)))
    assert config.media_type == WASM_CONFIG
    assert value == {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [],
    }
    assert not manifest_of(sealed).annotations


def test_each_layer_and_each_time_has_another_key(plain, sealed, recipients, tmp_path, keys):
    os.mkdir(tmp_path / "again")
    again = make_layout(str(tmp_path / "again"))
    encrypt_package(plain, plain.resolve("v1"), again, recipients, tag="v1")
    secrets = [keys.unwrap(layer)[0] for layout in (sealed, again) for layer in manifest_of(layout).layers]
    assert len({secret.key for secret in secrets}) == len({secret.nonce for secret in secrets}) == 6


def test_an_encrypted_package_is_not_encrypted_again(sealed, recipients, tmp_path):
    os.mkdir(tmp_path / "twice")
    with pytest.raises(UsageError, match="encrypted already"):
        encrypt_package(sealed, sealed.resolve("v1"), make_layout(str(tmp_path / "twice")), recipients, tag=None)
    with pytest.raises(UsageError, match="found none, want at least one"):
        encrypt_package(sealed, sealed.resolve("v1"), sealed, Recipients(), tag=None)


def test_a_layer_that_is_not_what_the_manifest_says_is_not_encrypted(plain, recipients, tmp_path):
    layer = manifest_of(plain).layers[1]
    path = os.path.join(plain.path, "blobs/sha256", layer.digest[7:])
    with open(path, "r+b") as file:
        file.write(b"?")
    os.mkdir(tmp_path / "none")
    with pytest.raises(VerificationError, match="want that one"):
        encrypt_package(plain, plain.resolve("v1"), make_layout(str(tmp_path / "none")), recipients, tag="v1")
    assert not LayoutFolder(str(tmp_path / "none")).index().manifests


def test_others_cannot_open_it(sealed):
    with pytest.raises(VerificationError, match="encrypted for others"):
        opened(LayerKeys(DecryptionKeys(hpke=(KeptKey(),))), sealed, manifest_of(sealed).layers[0])


def test_a_changed_layer_is_not_opened(sealed, keys):
    layer = manifest_of(sealed).layers[1]
    data = bytearray(b"".join(sealed.open_blob(layer)))
    data[3] ^= 1
    fd = os.memfd_create("layer")
    try:
        with pytest.raises(VerificationError, match="another digest"):
            keys.open_layer(layer, [bytes(data)], fd)
        # Also not where whoever stores it has changed the manifest with it.
        os.ftruncate(fd, 0)
        with pytest.raises(VerificationError, match="another HMAC"):
            keys.open_layer(layer._replace(digest=digest_of(bytes(data))), [bytes(data)], fd)
        assert os.pread(fd, 1 << 20, 0) == bytes(data)
    finally:
        os.close(fd)


def test_secrets_of_two_layers_cannot_be_swapped(sealed, keys):
    main, toml, _ = manifest_of(sealed).layers
    with pytest.raises(VerificationError, match=r"another HMAC|bytes of ciphertext"):
        opened(keys, sealed, toml._replace(annotations=main.annotations))


def folder_with(path, **files):
    for name, data in files.items():
        place = path / name.replace("__", "/").replace("_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return str(path)


@pytest.fixture
def parts(tmp_path, recipients):
    """Return a layout, the layers of the tenant's encrypted package, and of a stranger's plain and encrypted one."""
    os.mkdir(tmp_path / "registry")
    layout = make_layout(str(tmp_path / "registry"))
    dirs = b'[[dirs]]\nhost = "data"\nguest = "/data"\n'
    mine = folder_with(tmp_path / "mine", main_wasm=b"\0asm\1\0\0\0", Enarx_toml=dirs, data__secret=b"secret")
    other = b"# another\n" + dirs
    theirs = folder_with(tmp_path / "theirs", main_wasm=b"\0asm\1\0\0\0\0\2\1x", Enarx_toml=other, data__x=b"x")
    build_package(mine, EncryptingSink(layout, recipients), tag="mine")
    build_package(theirs, layout, tag="plain")
    build_package(theirs, EncryptingSink(layout, recipients), tag="theirs")
    return layout, *(decode_manifest_untrusted(layout.resolve(tag).data) for tag in ("mine", "plain", "theirs"))


def put_together(layout, config, *layers):
    layout.put_manifest(encode_manifest(Manifest(config, layers)), MANIFEST, tag="mixed")
    return layout.resolve("mixed")


@pytest.mark.parametrize("whose", ["plain", "theirs"])
@pytest.mark.parametrize(
    "taken",
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)],
    ids=["module", "Enarx.toml", "files", "module and Enarx.toml", "module and files", "Enarx.toml and files"],
)
def test_layers_are_not_opened_beside_those_of_another_package(parts, keys, tmp_path, whose, taken):
    """Who can write to a repository must not get at files with a module of his own, or at a module with another Enarx.toml."""
    layout, mine, plain, theirs = parts
    others = plain if whose == "plain" else theirs
    mixed = [(mine if number in taken else others).layers[number] for number in range(3)]
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(VerificationError, match="encrypted beside others than these"):
        open_package(layout, put_together(layout, mine.config, *mixed), str(into), decrypt=keys)
    assert not list(into.iterdir())


def test_no_layer_is_left_out_moved_or_taken_for_another(parts, keys, tmp_path):
    layout, mine, _, _ = parts
    main, toml, files = mine.layers
    as_module = files._replace(media_type=main.media_type)
    into = tmp_path / "into"
    into.mkdir()
    for layers in ((main,), (main, toml), (main, files, toml), (as_module,), (main, toml, files, files)):
        with pytest.raises(VerificationError, match="encrypted beside others than these"):
            open_package(layout, put_together(layout, mine.config, *layers), str(into), decrypt=keys)
    open_package(layout, put_together(layout, mine.config, main, toml, files), str(into), decrypt=keys)
    assert (into / "data/secret").read_bytes() == b"secret"


def test_layers_of_those_who_say_nothing_of_others_are_opened(keys, monkeypatch, recipients, tmp_path):
    """As other programs encrypt them: each by itself."""
    encode = encryption.encode_private_options
    monkeypatch.setattr(encryption, "encode_private_options", lambda options: encode(options._replace(together=None)))
    out, into = tmp_path / "out", tmp_path / "into"
    out.mkdir()
    into.mkdir()
    app = folder_with(tmp_path / "app", main_wasm=b"\0asm\1\0\0\0", Enarx_toml=b"")
    layout = make_layout(str(out))
    build_package(app, EncryptingSink(layout, recipients), tag="v1")
    assert keys.unwrap(manifest_of(layout).layers[0])
    open_package(layout, layout.resolve("v1"), str(into), decrypt=keys)
    assert (into / "main.wasm").exists()


def private(**change):
    value = {
        "symkey": base64.b64encode(bytes(32)).decode(),
        "digest": digest_of(b""),
        "cipheroptions": {"nonce": base64.b64encode(bytes(16)).decode()},
    }
    return json.dumps({name: each for name, each in (value | change).items() if each is not None}).encode()


def public(**change):
    value = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": base64.b64encode(bytes(32)).decode(), "cipheroptions": {}}
    return json.dumps({name: each for name, each in (value | change).items() if each is not None}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (private(symkey=None), "symkey: found another thing, want 32 bytes in base64"),
        (private(symkey=base64.b64encode(bytes(16)).decode()), "symkey"),
        (private(digest="sha512:" + "0" * 128), "digest"),
        (private(cipheroptions=None), "nonce"),
        (private(cipheroptions=[]), "cipheroptions"),
        (private(cipheroptions={"nonce": "!"}), "nonce"),
        (private(cipheroptions={"nonce": base64.b64encode(bytes(16)).decode(), "enarx.together": "AA=="}), "together"),
        (private(cipheroptions={"nonce": base64.b64encode(bytes(16)).decode(), "enarx.together": None}), "together"),
        (b"[]", "want an object"),
        (b'{"symkey":"","symkey":""}', "a key twice"),
        (b" " * 20000, "size"),
    ],
)
def test_private_options_that_are_not_well_formed_are_refused(data, reason):
    with pytest.raises(DecodeError, match=reason) as caught:
        decode_private_options_untrusted(data)
    assert "AAAAAAAA" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (public(cipher="AES_128"), "want AES_256_CTR_HMAC_SHA256"),
        (public(hmac=None), "hmac"),
        (public(hmac=5), "hmac"),
        (public(cipheroptions={"nonce": "AA=="}), "nonce"),
        (b"7", "want an object"),
    ],
)
def test_public_options_that_are_not_well_formed_are_refused(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_public_options_untrusted(data)


def test_options_are_read_as_other_versions_write_them():
    assert decode_public_options_untrusted(public()) == bytes(32)
    old = public(hmac=None, cipheroptions={"hmac": base64.b64encode(b"h" * 32).decode()})
    assert decode_public_options_untrusted(old) == b"h" * 32
    opened = decode_private_options_untrusted(private(previouslayersdigest=""))
    assert opened.secret.key == bytes(32)
    assert opened.plaintext == sha256().digest()


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda each: (
            st.lists(each)
            | st.dictionaries(st.sampled_from(["symkey", "digest", "cipher", "hmac", "cipheroptions", "nonce"]), each)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_options_are_decoded_or_refused(data):
    for decode in (decode_private_options_untrusted, decode_public_options_untrusted):
        with contextlib.suppress(DecodeError):
            decode(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({HPKE_KEYS: None}, "no wrapped key of a kind that is known here"),
        ({HPKE_KEYS: None, "org.opencontainers.image.enc.keys.pgp": "AA=="}, "PGP|no wrapped key"),
        ({PUBOPTS: None}, "found none, or a longer one"),
        ({PUBOPTS: "!"}, "want base64"),
        ({PUBOPTS: "A" * 40000}, "found none, or a longer one"),
        ({HPKE_KEYS: "!"}, "want values in base64"),
    ],
)
def test_a_layer_without_what_is_needed_is_refused(sealed, keys, change, reason):
    layer = manifest_of(sealed).layers[0]
    annotations = {name: text for name, text in (dict(layer.annotations) | change).items() if text is not None}
    with pytest.raises(DecodeError, match=reason):
        opened(keys, sealed, layer._replace(annotations=annotations))


def test_a_nonce_beside_the_wrapping_is_refused(sealed, keys):
    layer = manifest_of(sealed).layers[0]
    options = json.loads(base64.b64decode(layer.annotations[PUBOPTS]))
    options["cipheroptions"] = {"nonce": base64.b64encode(bytes(16)).decode()}
    changed = dict(layer.annotations) | {PUBOPTS: base64.b64encode(json.dumps(options).encode()).decode()}
    with pytest.raises(DecodeError, match="none: it is beside the key"):
        opened(keys, sealed, layer._replace(annotations=changed))


def test_wrapped_secrets_are_what_ocicrypt_wraps(key, recipients, monkeypatch, plain, tmp_path):
    wrapped = []
    monkeypatch.setattr(encryption, "wrap", lambda secret, to: wrapped.append(secret) or wrap(secret, to))
    os.mkdir(tmp_path / "out")
    encrypt_package(plain, plain.resolve("v1"), make_layout(str(tmp_path / "out")), recipients, tag=None)
    assert [list(json.loads(each)) for each in wrapped] == [["symkey", "digest", "cipheroptions"]] * 3
    assert isinstance(decode_private_options_untrusted(wrapped[0]).secret, LayerSecret)


def test_a_package_is_built_encrypted(tmp_path, keys, recipients, canary):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "main.wasm").write_bytes(b"\0asm\1\0\0\0" + b"\0" + bytes([len(canary) + 2, 1]) + b"x" + canary.encode())
    (folder / "Enarx.toml").write_text(f'args = ["{canary}"]\n')
    os.mkdir(tmp_path / "out")
    out = make_layout(str(tmp_path / "out"))
    build_package(str(folder), EncryptingSink(out, recipients), tag="v1")
    assert [opened(keys, out, layer)[1] for layer in manifest_of(out).layers] == [
        (folder / name).read_bytes() for name in ("main.wasm", "Enarx.toml")
    ]
    assert not search(canary, read_all(os.path.join(at, name) for at, _, names in os.walk(out.path) for name in names))


def test_a_manifest_of_what_was_not_put_there_is_refused(plain, recipients, tmp_path):
    os.mkdir(tmp_path / "out")
    sink = EncryptingSink(make_layout(str(tmp_path / "out")), recipients)
    resolved = plain.resolve("v1")
    with pytest.raises(UsageError, match="a config of Wasm"):
        sink.put_manifest(resolved.data, MANIFEST, tag=None)
    config = manifest_of(plain).config
    sink.put_blob(config, plain.open_blob(config))
    with pytest.raises(UsageError, match="found it nowhere"):
        sink.put_manifest(resolved.data, MANIFEST, tag=None)
