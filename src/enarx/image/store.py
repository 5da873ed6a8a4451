# SPDX-License-Identifier: Apache-2.0
"""Where images are, and what an image is to everybody who uses one.

An image is a folder `$XDG_DATA_HOME/enarx/images/<name>/`::

    kernel          what the virtual machine starts
    initramfs       its only file system: newc, zstd
    cmdline         the kernel's command line, one line without an end
    firmware/       one file for each role: vm.fd, snp.fd, tdx.fd
    uki.efi         of an image for clouds: kernel, initramfs and command line in one file that firmware starts from a disk
    manifest.json   what all of it consists of (`manifest`)

A folder appears whole, by a rename, and is not changed afterwards. Its digest is of what is measured, whatever its name::

    sha256sum cmdline firmware/* initramfs kernel uki.efi | sha256sum

Knows nothing of how an image is made.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from enarx.errors import ConfigError, PlatformError, UsageError, VerificationError
from enarx.image.manifest import MANIFEST, MAX_MANIFEST_BYTES, UKI, Artefact, Manifest, decode_manifest
from enarx.user_files import make_private, private_cache, user_folder

__all__ = [
    "Image",
    "check_name",
    "image_names",
    "images_folder",
    "install_image",
    "list_images",
    "make_private",
    "open_image",
    "private_cache",
    "verify_image",
]

_MAX_CMDLINE_BYTES = 2048
_MAX_IMAGES = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image.

    Args:
        name: its folder's name.
        folder: its folder's path.
        arch: `x86_64` or `aarch64`.
        kernel: path of the kernel.
        initramfs: path of the file system.
        cmdline: the command line that every backend's begins with.
        firmware: paths by role.
        manifest: what it consists of.
    """

    name: str
    folder: str
    arch: str
    kernel: str
    initramfs: str
    cmdline: str
    firmware: Mapping[str, str]
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Return the digest of what is measured, 64 hex digits: equal images have equal ones."""
        return self.manifest.digest

    @property
    def uki(self) -> str | None:
        """Return the path of the unified kernel image; None unless this is an image for clouds."""
        return os.path.join(self.folder, UKI) if UKI in self.manifest.artefacts else None


def images_folder() -> str:
    """Return the folder that images are in; it need not be there."""
    return user_folder("XDG_DATA_HOME", "images", purpose="find a folder for images")


def image_names() -> tuple[str, ...]:
    """Return the names of all images, sorted.

    Raises:
        PlatformError: the folder cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(images_folder()) if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise PlatformError(f"cannot list images: {images_folder()}: {error.strerror}") from error
    if len(names) > _MAX_IMAGES:
        raise PlatformError(f"cannot list images: {images_folder()}: found {len(names)}, want at most {_MAX_IMAGES}")
    return tuple(sorted(names))


def list_images() -> tuple[Image, ...]:
    """Return all images that can be opened, by name.

    Raises:
        PlatformError: the folder cannot be read.
    """
    images = []
    for name in image_names():
        try:
            images.append(_open(name))
        except ConfigError:
            continue  # whoever names it is told what is wrong with it
    return tuple(images)


def open_image(name_or_digest: str) -> Image:
    """Open an image: what is there, without comparing digests (`verify_image` does).

    Args:
        name_or_digest: its name, or the 64 hex digits of its digest, after `sha256:` or not.

    Raises:
        UsageError: there is none.
        ConfigError: its folder is not whole.
        PlatformError: the folder of images cannot be read.
    """
    wanted = _DIGEST.fullmatch(name_or_digest)
    if wanted:
        for image in list_images():
            if image.digest == wanted[1]:
                return image
    elif _NAME.fullmatch(name_or_digest) and os.path.isdir(os.path.join(images_folder(), name_or_digest)):
        return _open(name_or_digest)
    names = ", ".join(image_names()) or "none"
    raise UsageError(
        f"cannot open an image: {name_or_digest}: found no such image in {images_folder()}, want one of: {names}",
        hint="`enarx image build` makes one, `enarx image list` shows all",
    )


def _open(name: str) -> Image:
    folder = os.path.join(images_folder(), name)
    manifest = decode_manifest(
        _read(os.path.join(folder, MANIFEST), MAX_MANIFEST_BYTES), os.path.join(folder, MANIFEST)
    )
    cmdline = _read(os.path.join(folder, "cmdline"), _MAX_CMDLINE_BYTES)
    # It is handed to a program as it is, and it was ours when it was written.
    if not cmdline.isascii() or not cmdline.decode().isprintable():
        raise ConfigError(f"cannot open an image: {folder}/cmdline: found what is no line of ASCII", path=folder)
    firmware = {}
    for path in manifest.artefacts:
        if not os.path.isfile(os.path.join(folder, path)):
            raise ConfigError(f"cannot open an image: {folder}/{path}: found no file, want one", path=folder)
        if path.startswith("firmware/"):
            firmware[path.removeprefix("firmware/").removesuffix(".fd")] = os.path.join(folder, path)
    return Image(
        name=name,
        folder=folder,
        arch=manifest.arch,
        kernel=os.path.join(folder, "kernel"),
        initramfs=os.path.join(folder, "initramfs"),
        cmdline=cmdline.decode(),
        firmware=firmware,
        manifest=manifest,
    )


def _read(path: str, max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot open an image: {path}: {error.strerror}", path=path) from error
    if len(data) > max_bytes:
        raise ConfigError(f"cannot open an image: {path}: found more than {max_bytes} bytes, want fewer", path=path)
    return data


def verify_image(image: Image) -> None:
    """Compare every file of an image that is measured with its manifest.

    Raises:
        VerificationError: one has another digest; the message names it.
        ConfigError: one cannot be read.
    """
    for path, wanted in image.manifest.artefacts.items():
        try:
            with open(os.path.join(image.folder, path), "rb") as file:
                found = Artefact(
                    sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=os.fstat(file.fileno()).st_size
                )
        except OSError as error:
            raise ConfigError(f"cannot verify an image: {image.folder}/{path}: {error.strerror}") from error
        if found != wanted:
            raise VerificationError(
                f"cannot verify an image: {image.name}: {path}: found SHA-256 {found.sha256} and {found.size} bytes,"
                f" want {wanted.sha256} and {wanted.size}",
                hint=f"`enarx image build --name {image.name}` makes it again",
            )


def install_image(made: str, name: str) -> Image:
    """Give a folder that holds a whole image its name, in place of what has it.

    Args:
        made: a folder in the folder of images, whose name begins with a dot; it is gone afterwards.
        name: for the image.

    Raises:
        UsageError: it is no name for an image.
        PlatformError: it cannot be written.
    """
    check_name(name)
    folder = os.path.join(images_folder(), name)
    old = f"{made}.old"
    try:
        for path, folders, files in os.walk(made):
            for file in files:
                # A launcher whose virtual machine is another user opens them for it.
                os.chmod(os.path.join(path, file), 0o444)
            for below in folders:
                os.chmod(os.path.join(path, below), 0o700)
        os.chmod(made, 0o700)
        if os.path.lexists(folder):
            os.rename(folder, old)
        os.rename(made, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise PlatformError(f"cannot write an image: {folder}: {error.strerror}") from error
    return _open(name)


def check_name(name: str) -> None:
    """Say whether an image can have a name.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name) or _DIGEST.fullmatch(name):
        raise UsageError(
            f"cannot name an image: found {name!r:.120}, want letters, digits and `.`, `_`, `+`, `-`, at most 100"
        )
