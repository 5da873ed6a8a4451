# SPDX-License-Identifier: Apache-2.0
"""Encrypted packages and skopeo: it opens what was encrypted here for an RSA key, and what it encrypts is opened here.

What it cannot do is shown too: it encrypts layers of tar files alone, and it knows nothing of the HPKE kind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enarx.channel.hpke import KeptKey
from enarx.errors import VerificationError
from enarx.registry.encryption import LayerKeys, encrypt_package
from enarx.registry.layout import LayoutFolder, make_layout
from enarx.registry.recipient_keys import read_decryption_keys, read_recipients
from enarx.registry.recipients import DecryptionKeys, Recipients
from enarx.wire.oci import (
    FILES,
    IMAGE_CONFIG,
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
from tests.between import Between, until
from tests.canary import make_canary, read_all, search
from tests.integration.test_deploy import Host
from tests.integration.test_deploy_canary import everything, package_with
from tests.integration.test_package_registry import serving

SKOPEO, REGISTRY = shutil.which("skopeo"), shutil.which("docker-registry")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(SKOPEO is None, reason="skopeo is not installed; tools/install-slow does it"),
]

LAYERS = ((WASM, b"\0asm\1\0\0\0" + bytes(200_000), "main.wasm"), (TOML, b"steward = false\n", "Enarx.toml"))
TAR = (FILES, bytes(10240), "files.tar")


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 3072)


@pytest.fixture
def files(tmp_path, key):
    """Return the paths of the private and the public key."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


@pytest.fixture
def skopeo(tmp_path):
    def run(*words, status=0):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
        ended = subprocess.run(
            [SKOPEO, "--insecure-policy", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode != 0) == (status != 0), ended.stderr
        return ended.stderr

    return run


def layout(path):
    os.mkdir(path)
    return make_layout(str(path))


def make(path, layers, config=WASM_CONFIG):
    made = layout(path)

    def put(kind, data, **annotations):
        wanted = Descriptor(kind, digest_of(data), len(data), annotations)
        made.put_blob(wanted, [data])
        return wanted

    described = tuple(put(kind, data, **{TITLE: title}) for kind, data, title in layers)
    digests = [each.digest for each in described]
    text = json.dumps(
        {
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip1",
            "layerDigests": digests,
            "rootfs": {"type": "layers", "diff_ids": digests},
        }
    )
    made.put_manifest(encode_manifest(Manifest(put(config, text.encode()), described)), MANIFEST, tag="v1")
    return made


def manifest_of(found):
    return decode_manifest_untrusted(found.resolve("v1").data)


def contents(found):
    return [
        (each.media_type, b"".join(found.open_blob(each)), each.annotations.get(TITLE))
        for each in manifest_of(found).layers
    ]


def opened(keys, found):
    plain = []
    for layer in manifest_of(found).layers:
        fd = os.memfd_create("layer")
        try:
            descriptor = keys.open_layer(layer, found.open_blob(layer), fd)
            plain.append((descriptor.media_type, os.pread(fd, 1 << 20, 0)))
        finally:
            os.close(fd)
    return plain


@pytest.mark.parametrize("more", [0, 1], ids=["one RSA key", "RSA keys and an HPKE key"])
def test_skopeo_opens_what_was_encrypted_here(tmp_path, files, skopeo, more):
    private, public = files
    plain = make(tmp_path / "plain", (*LAYERS, TAR))
    recipients = read_recipients([public])
    if more:
        other = rsa.generate_private_key(65537, 2048).public_key()
        recipients = Recipients((KeptKey().public_bytes,), (other, *recipients.rsa))
    encrypt_package(plain, plain.resolve("v1"), layout(tmp_path / "sealed"), recipients, tag="v1")
    skopeo("copy", "--decryption-key", private, f"oci:{tmp_path}/sealed:v1", f"oci:{tmp_path}/opened:v1")
    assert contents(LayoutFolder(str(tmp_path / "opened"))) == [*LAYERS, TAR]


def test_skopeo_carries_what_it_cannot_open_as_it_is(tmp_path, skopeo):
    plain, key = make(tmp_path / "plain", (*LAYERS, TAR)), KeptKey()
    recipients = Recipients(hpke=(key.public_bytes,))
    encrypt_package(plain, plain.resolve("v1"), layout(tmp_path / "sealed"), recipients, tag="v1")
    skopeo("copy", f"oci:{tmp_path}/sealed:v1", f"oci:{tmp_path}/copied:v1")
    copied = LayoutFolder(str(tmp_path / "copied"))
    assert copied.resolve("v1").data == LayoutFolder(str(tmp_path / "sealed")).resolve("v1").data
    keys = LayerKeys(DecryptionKeys(hpke=(key,)))
    assert opened(keys, copied) == [(kind, data) for kind, data, _ in (*LAYERS, TAR)]


def test_another_key_opens_nothing(tmp_path, files, skopeo):
    private, _ = files
    plain = make(tmp_path / "plain", (*LAYERS, TAR))
    recipients = Recipients(rsa=(rsa.generate_private_key(65537, 2048).public_key(),))
    encrypt_package(plain, plain.resolve("v1"), layout(tmp_path / "sealed"), recipients, tag="v1")
    said = skopeo(
        "copy", "--decryption-key", private, f"oci:{tmp_path}/sealed:v1", f"oci:{tmp_path}/opened:v1", status=1
    )
    assert "no suitable key" in said


def test_what_skopeo_encrypted_is_opened_here(tmp_path, files, skopeo):
    private, public = files
    make(tmp_path / "plain", (TAR,))
    skopeo("copy", "--encryption-key", f"jwe:{public}", f"oci:{tmp_path}/plain:v1", f"oci:{tmp_path}/sealed:v1")
    keys = LayerKeys(read_decryption_keys([private]))
    sealed = LayoutFolder(str(tmp_path / "sealed"))
    assert manifest_of(sealed).layers[0].media_type == f"{FILES}+encrypted"
    assert opened(keys, sealed) == [TAR[:2]]


def test_what_skopeo_encrypted_for_several_is_opened_by_each(tmp_path, files, skopeo):
    private, public = files
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "other.pub").write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    make(tmp_path / "plain", (TAR,))
    words = ("--encryption-key", f"jwe:{public}", "--encryption-key", f"jwe:{tmp_path}/other.pub")
    skopeo("copy", *words, f"oci:{tmp_path}/plain:v1", f"oci:{tmp_path}/sealed:v1")
    sealed = LayoutFolder(str(tmp_path / "sealed"))
    for keys in (read_decryption_keys([private]), DecryptionKeys(rsa=(other,))):
        assert opened(LayerKeys(keys), sealed) == [TAR[:2]]


def test_skopeo_encrypts_no_layer_of_wasm(tmp_path, files, skopeo):
    make(tmp_path / "plain", LAYERS)
    said = skopeo(
        "copy",
        "--encryption-key",
        f"jwe:{files[1]}",
        f"oci:{tmp_path}/plain:v1",
        f"oci:{tmp_path}/sealed:v1",
        status=1,
    )
    assert "no counterpart for mediatype" in said


def test_a_layer_that_skopeo_compressed_itself_is_refused(tmp_path, files, skopeo):
    """It says the digest of what it had before that, which is not of what it encrypted."""
    private, public = files
    make(tmp_path / "plain", (TAR,), config=IMAGE_CONFIG)
    skopeo("copy", "--encryption-key", f"jwe:{public}", f"oci:{tmp_path}/plain:v1", f"oci:{tmp_path}/sealed:v1")
    with pytest.raises(VerificationError, match="plaintext of another digest"):
        opened(LayerKeys(read_decryption_keys([private])), LayoutFolder(str(tmp_path / "sealed")))


@pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed; tools/install-slow does it")
def test_a_real_registry_has_ciphertext_that_its_readers_open(enarx, files, skopeo, guest, tmp_path):
    """From one registry: skopeo opens the package with an RSA key, a tenant with his own, and a Keep gets it as it is there."""
    canary = make_canary()
    app = package_with(canary, guest("echo"), tmp_path / "app")
    key = tmp_path / "tenant.key"
    assert enarx.command("package", "recipient", key).status == 0
    with serving(tmp_path) as registry:
        place = f"{registry.address}/team/app:1"
        to = ("--to", f"{key}.pub", "--to", files[1])
        for command in (
            ("package", "encrypt", app, *to, "--output", tmp_path / "app.tar"),
            ("package", "publish", tmp_path / "app.tar", f"oci://{place}"),
        ):
            ended = enarx.command(*command)
            assert ended.status == 0, ended.stderr
        words = (
            "--src-tls-verify=false",
            "--decryption-key",
            files[0],
            f"docker://{place}",
            f"oci:{tmp_path}/opened:v1",
        )
        skopeo("copy", *words)
        opened_by_it = {title: data for _, data, title in contents(LayoutFolder(str(tmp_path / "opened")))}
        assert opened_by_it == {name: (app / name).read_bytes() for name in ("main.wasm", "Enarx.toml")}
        with Between(enarx.env, "--allow-registry", f"{registry.address}/team") as between:
            tenant = Host(url=between.url, enarx=enarx)
            ended = tenant.deploy("--decryption-key", key, f"oci://{place}", stdin=b"hello")
            assert (ended.status, ended.stdout) == (0, b"hello"), ended.stderr
            assert "uploading" not in ended.stderr
            seen = everything(between)
        # The log is written a moment after the answer.
        until(lambda: registry.asked("GET /v2/team/app/blobs/"), "the registry's log")
        stored = read_all(tmp_path.joinpath("storage").rglob("*"))
        assert any(len(data) == (app / "main.wasm").stat().st_size for data in stored.values())
        assert search(canary, {"opened": opened_by_it["main.wasm"]})
        assert not search(canary, {**stored, **seen, "log": b"".join(registry.log)})
