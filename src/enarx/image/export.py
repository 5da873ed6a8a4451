# SPDX-License-Identifier: Apache-2.0
"""Write an image for clouds as what clouds take: a disk that firmware boots, or the unified kernel image by itself.

    uki     the file, for machines that start one without a disk
    raw     a disk; only what is not zero takes room in the file
    vhd     the same disk, and the footer of a fixed VHD: Azure
    qcow2   the same disk, by `qemu-img`, whose version decides how its pieces lie in the file

A disk is not measured: what firmware loads from it is, and so are its partitions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile

from enarx.errors import PlatformError, UsageError
from enarx.image.disk import DISK_BYTES, make_disk, vhd_footer
from enarx.image.store import Image, verify_image

__all__ = ["FORMATS", "export_image"]

FORMATS = ("raw", "qcow2", "vhd", "uki")
CONVERT_TIMEOUT_S = 300.0
_SUFFIXES = {"uki": "efi"}


def export_image(image: Image, kind: str, path: str | None = None) -> str:
    """Write an image's disk, or its unified kernel image, to a new file.

    Args:
        image: for clouds.
        kind: of `FORMATS`.
        path: of the file; None is the image's name with the format's ending, in this folder.

    Returns:
        The path.

    Raises:
        UsageError: the image is not for clouds, the format is none, or there is such a file already.
        VerificationError: the image is not what it was when it was made.
        PlatformError: it cannot be written, or there is no `qemu-img`.
    """
    if kind not in FORMATS:
        raise UsageError(f"cannot write a disk: format: found {kind[:40]!r}, want one of {', '.join(FORMATS)}")
    if image.uki is None:
        raise UsageError(
            f"cannot write a disk: image {image.name}: found one for launchers of virtual machines, want one for clouds",
            hint="enarx image build --format raw makes one",
        )
    path = path or f"{image.name}.{_SUFFIXES.get(kind, kind)}"
    verify_image(image)
    try:
        with open(image.uki, "rb") as file:
            uki = file.read()
        if kind == "qcow2":
            _convert(uki, image.arch, path)
        else:
            _write_new(path, {0: uki} if kind == "uki" else make_disk(uki, image.arch), kind, uki)
    except OSError as error:
        raise PlatformError(f"cannot write {path}: {error.strerror}") from error
    return path


def _write_new(path: str, pieces: dict[int, bytes], kind: str, uki: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise _exists(path) from error
    try:
        with open(fd, "wb") as file:
            for at, piece in pieces.items():
                file.seek(at)
                file.write(piece)
            if kind != "uki":
                file.truncate(DISK_BYTES)
            if kind == "vhd":
                file.seek(DISK_BYTES)
                file.write(vhd_footer(uki))
    except BaseException:
        # Half a disk is worse than none.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _convert(uki: bytes, arch: str, path: str) -> None:
    """Write a disk as qcow2."""
    program = shutil.which("qemu-img")
    if program is None:
        raise PlatformError(
            "cannot write a disk as qcow2: found no qemu-img on PATH, want it",
            hint="apt install qemu-utils, or --format raw",
        )
    if os.path.lexists(path):
        raise _exists(path)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".", prefix=".enarx-disk-") as folder:
        disk, made = os.path.join(folder, "disk"), os.path.join(folder, "made")
        _write_new(disk, make_disk(uki, arch), "raw", uki)
        # One piece after the other, or they would lie in the file as they happen to be ready.
        command = [program, "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", "-m", "1", disk, made]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                timeout=CONVERT_TIMEOUT_S, env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PlatformError(f"cannot write {path}: qemu-img: found no end in {CONVERT_TIMEOUT_S:g} s") from error
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise PlatformError(
                f"cannot write {path}: qemu-img: found status {done.returncode}, it said: {said[-1][:300]}"
            )
        try:
            # A new name, and not in the place of what somebody made meanwhile.
            os.link(made, path)
        except FileExistsError as error:
            raise _exists(path) from error


def _exists(path: str) -> UsageError:
    return UsageError(
        f"cannot write {path}: found one already, want none", hint="remove it first, or name another with --output"
    )
