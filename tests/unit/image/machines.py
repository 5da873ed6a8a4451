# SPDX-License-Identifier: Apache-2.0
"""Machines and installed images made of files that can be measured and not booted."""

from __future__ import annotations

import hashlib

from enarx.image.manifest import Artefact, Manifest, encode_manifest
from enarx.image.reference import Machine
from enarx.image.store import images_folder, open_image
from tests.unit.image.machine_files import make_firmware, make_kernel

FIRMWARE = {
    "vm": make_firmware(b"vm"),
    "snp": make_firmware(b"snp", checks_hashes=True),
    "tdx": make_firmware(b"tdx", tdx=((0xFFFF8000, 0x8000, 0, 0x8000, 1),)),
}
PARTS = {"kernel": make_kernel(), "initramfs": b"initramfs" * 50, "cmdline": "console=ttyS0 quiet"}


def make_machine(**changes):
    return Machine(**({"name": "test", "firmware": FIRMWARE} | PARTS | changes))


def installed(folder, monkeypatch, *, name="keep-test", arch="x86_64", firmware=FIRMWARE, **changes):
    """Put an image into an installation of its own and open it."""
    from pathlib import Path

    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    parts = PARTS | changes
    files = {
        "kernel": parts["kernel"],
        "initramfs": parts["initramfs"],
        "cmdline": parts["cmdline"].encode(),
        **{f"firmware/{role}.fd": data for role, data in firmware.items()},
    }
    place = Path(images_folder()) / name
    (place / "firmware").mkdir(parents=True)
    if "uki" in changes:
        files["uki.efi"] = changes["uki"]
    for path, data in files.items():
        (place / path).write_bytes(data)
    manifest = Manifest(
        enarx="0",
        arch=arch,
        compression="none",
        command_line=parts["cmdline"],
        artefacts={
            path: Artefact(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for path, data in files.items()
        },
        reference={},
        inputs=(),
        files=(),
    )
    (place / "manifest.json").write_bytes(encode_manifest(manifest))
    return open_image(name)
