# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that finding and opening a package uses. The rules of `deployment_targets` hold here too."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from random import Random

from tests.fuzz.deployment_targets import _JSON
from tests.fuzz.verifier_mutations import Scramble, is_json, overwrite
from tests.fuzz.verifier_targets import Target, again, attribute, make_target

OCI, CONFIG = "wire.oci", "wire.wasm_config"
TAR, OUTLINE = "registry.tar_format", "registry.wasm_outline"
BLOCK = 512
MAGIC = b"\0asm"


def manifests() -> list[bytes]:
    """Return a manifest of ours, and one with all that others may say."""
    from enarx.wire import oci

    config = oci.Descriptor(oci.WASM_CONFIG, oci.digest_of(b"c"), 1)
    layer = oci.Descriptor(oci.WASM, oci.digest_of(b"l"), 5, {oci.TITLE: "main.wasm"}, "application/x")
    most = oci.Manifest(config, (layer, layer), {"a": "b"}, "application/y", layer)
    return [oci.encode_manifest(each) for each in (oci.Manifest(config, (layer,)), most)]


def indexes() -> list[bytes]:
    """Return an index of two manifests."""
    from enarx.wire import oci

    listed = oci.Descriptor(oci.MANIFEST, oci.digest_of(b"m"), 7, {oci.REF_NAME: "1.0"}, "application/x")
    return [oci.encode_index(oci.Index((listed, listed), {"a": "b"}))]


def configurations() -> list[bytes]:
    """Return the configuration of a module, and of a component."""
    from enarx.wire.wasm_config import WasmConfig, encode_wasm_config

    one = WasmConfig(None, "wasip1", ("sha256:x",))
    two = WasmConfig(1 << 30, "wasip2", (), ("wasi:io/poll@0.2.0",), ("wasi:cli/run@0.2.0",))
    return [encode_wasm_config(each) for each in (one, two)]


def archives() -> list[bytes]:
    """Return archives with files, directories and a long name, of each form that is read."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=form) as archive:
            for name, size in (("d/f", 3), ("a" * 80 + "/" + "b" * 90, 600)):
                info = tarfile.TarInfo(name)
                info.size = size
                archive.addfile(info, io.BytesIO(bytes(size)))
            folder = tarfile.TarInfo("d")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        found.append(data.getvalue().rstrip(b"\0") + bytes(3 * BLOCK))
    return [data[: len(data) // BLOCK * BLOCK] for data in found]


def modules() -> list[bytes]:
    """Return a module and a component with every kind of import and export."""
    import wasmtime

    from tests.unit.registry.test_wasm_outline import INSTANCES, RICH

    return [bytes(wasmtime.wat2wasm(text)) for text in (RICH, INSTANCES)]


def _tar(data: bytes, random: Random, scramble: Scramble) -> bytes:
    """Change an archive, and mostly give its headers the checksums that they should have."""
    changed = bytearray(random.choice((overwrite, overwrite, scramble))(data, random))
    if random.random() < 0.9:
        for at in range(0, len(changed) - BLOCK + 1, BLOCK):
            header = changed[at : at + BLOCK]
            if header[257:262] == b"ustar":
                total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
                changed[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(changed)


def _wasm(data: bytes, random: Random, scramble: Scramble) -> bytes:
    changed = random.choice((overwrite, scramble))(data[8:], random)
    return data[:8] + changed if random.random() < 0.9 else scramble(data, random)


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar"


def _entries() -> Callable[[bytes], object]:
    from enarx.registry.reading import FileReader, PieceReader

    read = attribute(TAR, "read_tar_untrusted")

    def call(data: bytes) -> object:
        found = list(read(FileReader(io.BytesIO(data), len(data)), "the archive", 100))
        pieces = PieceReader(data[at : at + 100] for at in range(0, len(data), 100))
        if list(read(pieces, "the archive", 100)) != found:
            raise AssertionError("read in pieces, it is another archive")
        if sum(entry.size for entry in found) > len(data):
            raise AssertionError("more in it than there is")
        return found or True

    return call


def _outline() -> Callable[[bytes], object]:
    from enarx.registry.reading import PieceReader

    whole, piecewise = attribute(OUTLINE, "read_outline_untrusted"), attribute(OUTLINE, "outline_untrusted")

    def call(data: bytes) -> object:
        found = whole(data)
        if piecewise(PieceReader(data[at : at + 7] for at in range(0, len(data), 7)), "x") != found:
            raise AssertionError("read in pieces, it is another module")
        return found

    return call


_TABLE_OF_TARGETS = (
    make_target("oci manifest", OCI, "decode_manifest_untrusted", manifests, _JSON, is_json, 8, make=again(OCI, "decode_manifest_untrusted", "encode_manifest"), max_bytes=3000),
    make_target("oci index", OCI, "decode_index_untrusted", indexes, _JSON, is_json, 8, make=again(OCI, "decode_index_untrusted", "encode_index"), max_bytes=3000),
    make_target("wasm configuration", CONFIG, "decode_wasm_config_untrusted", configurations, _JSON, is_json, 8, make=again(CONFIG, "decode_wasm_config_untrusted", "encode_wasm_config"), max_bytes=2000),
    make_target("tar", TAR, "read_tar_untrusted", archives, _tar, _is_tar, 8, make=_entries, max_bytes=20000),
    make_target("wasm outline", OUTLINE, "outline_untrusted", modules, _wasm, lambda data: data[:4] == MAGIC, 20, make=_outline, entries=("read_outline_untrusted",), max_bytes=4000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
