# SPDX-License-Identifier: Apache-2.0
"""Make an image: the same bytes from the same lock and the same enarx, whoever makes it and wherever.

No root, no chroot, no program of the image is run but its interpreter, which compiles. Nothing that this machine has decides
a byte: programs that do come out of the lock (`tools`), and neither clock, locale, umask, user nor paths are looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping

import enarx
from enarx.errors import ConfigError, PlatformError, UsageError, VerificationError
from enarx.image import contents
from enarx.image.contents import Architecture, architecture
from enarx.image.initramfs import Parts, image_inputs, make_parts
from enarx.image.inputs import Progress, fetch_inputs, silent
from enarx.image.lock import Input, Lock, read_lock
from enarx.image.manifest import MANIFEST, Artefact, File, Manifest, encode_manifest
from enarx.image.newc import Entry, read_newc
from enarx.image.process import package_folder
from enarx.image.reference import Machine, reference_values
from enarx.image.store import (
    Image,
    check_name,
    images_folder,
    install_image,
    make_private,
    open_image,
    private_cache,
    verify_image,
)
from enarx.image.tools import Tools, interpreter_version, tool_inputs, unpack_tools

__all__ = ["DEFAULT_LEVEL", "build_image", "default_name", "make_image", "verify_contents"]

DEFAULT_LEVEL = 19
_MAX_KEPT = 8


def default_name(arch: str) -> str:
    """Return what the image of this enarx is called for an architecture."""
    return f"keep-{enarx.__version__}-{arch}"


def build_image(
    arch: str,
    *,
    name: str | None = None,
    lock: Lock | None = None,
    level: int = DEFAULT_LEVEL,
    fresh: bool = False,
    progress: Progress = silent,
) -> Image:
    """Build an image, or find that it is there already, and return it.

    Args:
        arch: `x86_64` or `aarch64`.
        name: what to call it, or None for `default_name`.
        lock: of that architecture, or None for the one that came with enarx.
        level: of compression, 1 to 19; one below the default is for trying things out, and makes another image.
        fresh: whether to make everything again from the inputs, whatever the cache has.
        progress: is told what is done.

    Raises:
        ConfigError: an input is gone, or the lock or enarx itself is not fit for an image.
        DecodeError: an input is not what it should be.
        PlatformError: this machine cannot build it: no apt, no pip, no space, another architecture.
        TransportError: inputs cannot be fetched.
        UsageError: the level or the name is none.
    """
    name = default_name(arch) if name is None else name
    check_name(name)
    made, manifest = make_image(arch, lock=lock, level=level, fresh=fresh, progress=progress)
    try:
        there = open_image(name)
        if there.manifest == manifest:
            verify_image(there)
            shutil.rmtree(made)
            return there
    except (ConfigError, UsageError, VerificationError):
        # There is none, or what is there is damaged: this one takes its place.
        return install_image(made, name)
    return install_image(made, name)


def make_image(
    arch: str, *, lock: Lock | None = None, level: int = DEFAULT_LEVEL, fresh: bool = False, progress: Progress = silent
) -> tuple[str, Manifest]:
    """Make an image's folder without a name; see `build_image`.

    Returns:
        The folder, in the folder of images and hidden there, and the manifest in it.
    """
    target = architecture(arch)
    if not 1 <= level <= DEFAULT_LEVEL:
        raise UsageError(f"cannot build an image: level: found {level}, want 1 to {DEFAULT_LEVEL}")
    lock = read_lock(arch) if lock is None else lock
    files, tools = _prepare(target, lock, progress)
    parts = make_parts(
        target,
        lock,
        files,
        tools,
        package_folder(),
        fresh=fresh,
        progress=lambda what: progress(f"making: {what}", 0, 0),
    )
    initramfs = _compress(parts, tools, level, fresh=fresh, progress=progress)
    if level == DEFAULT_LEVEL and len(initramfs) > contents.MAX_IMAGE_BYTES:
        raise ConfigError(
            f"cannot build an image: initramfs: found {len(initramfs)} bytes, want at most {contents.MAX_IMAGE_BYTES}"
        )
    artefacts = {
        "cmdline": target.command_line.encode(),
        "initramfs": initramfs,
        "kernel": parts.kernel,
        **{f"firmware/{role}.fd": data for role, data in parts.firmware.items()},
    }
    digests = {path: _artefact(data) for path, data in sorted(artefacts.items())}
    manifest = Manifest(
        enarx=enarx.__version__,
        arch=arch,
        compression=f"zstd -{level}",
        command_line=target.command_line,
        artefacts=digests,
        reference=_reference(target, artefacts, digests),
        inputs=tuple(sorted(image_inputs(target, lock), key=lambda entry: (entry.kind, entry.name))),
        files=tuple(map(_file, parts.entries)),
    )
    return _write({**artefacts, MANIFEST: encode_manifest(manifest)}), manifest


def verify_contents(image: Image, *, progress: Progress = silent) -> None:
    """Compare every file of an image, and every entry of its initramfs, with its manifest.

    Args:
        image: which.
        progress: is told what is done.

    Raises:
        VerificationError: something differs; the message names it.
        ConfigError: a file cannot be read, or an input is gone.
        PlatformError: this machine cannot unpack it.
        TransportError: what unpacks it cannot be fetched.
    """
    verify_image(image)
    native = _native()
    lock = read_lock(native.name)
    tools = unpack_tools(native, lock, fetch_inputs(lock, tool_inputs(lock), native.wheel, progress=progress))
    with open(image.initramfs, "rb") as file:
        entries = read_newc(tools.decompress(file.read()))
    found = {entry.path: _file(entry) for entry in entries}
    wanted = {entry.path: entry for entry in image.manifest.files}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise VerificationError(
                f"cannot verify an image: {image.name}: initramfs: {path}: found {found.get(path, 'nothing')},"
                f" want {wanted.get(path, 'nothing')}"
            )


def _native() -> Architecture:
    return architecture(platform.machine())


def _prepare(target: Architecture, lock: Lock, progress: Progress) -> tuple[Mapping[Input, str], Tools]:
    native = _native()
    own = lock if native is target else read_lock(native.name)
    if interpreter_version(own) != interpreter_version(lock):
        raise ConfigError(
            f"cannot build an image for {target.name}: {own.path}: found Python {interpreter_version(own)},"
            f" want {interpreter_version(lock)} as in {lock.path}",
            hint="`enarx image build --refresh` for each architecture",
        )
    files = dict(fetch_inputs(lock, image_inputs(target, lock), target.wheel, progress=progress))
    files |= fetch_inputs(own, tool_inputs(own), native.wheel, progress=progress)
    return files, unpack_tools(native, own, files)


def _compress(parts: Parts, tools: Tools, level: int, *, fresh: bool, progress: Progress) -> bytes:
    """Compress the initramfs, or find what was made of the same before."""
    what = f"compressing with zstd -{level}"
    return _kept(
        "image-compressed",
        parts.initramfs + f"{tools.identity} {level}".encode(),
        lambda: tools.compress(parts.initramfs, level, lambda done, total: progress(what, done, total)),
        fresh=fresh,
    )


def _kept(cache: str, key: bytes, make: Callable[[], bytes], *, fresh: bool) -> bytes:
    """Return what is kept under a key, or make it and keep it; of all that is kept, what was unused for longest goes."""
    folder = private_cache(cache)
    path = os.path.join(folder, hashlib.sha256(key).hexdigest())
    if not fresh:
        try:
            with open(path, "rb") as file:
                head, data = file.read(32), file.read()
            os.utime(path)
        except FileNotFoundError:
            head, data = b"", b""
        if hashlib.sha256(data).digest() == head:
            return data
    data = make()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made:
            made.write(hashlib.sha256(data).digest() + data)
        os.rename(made.name, path)
        kept = sorted((entry.path for entry in os.scandir(folder)), key=os.path.getmtime, reverse=True)
        for old in kept[_MAX_KEPT:]:
            os.unlink(old)
    except OSError as error:
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error
    return data


def _reference(
    target: Architecture, artefacts: Mapping[str, bytes], digests: Mapping[str, Artefact]
) -> dict[str, dict[str, list[str]]]:
    """Measure an image, or find what was measured of the same before."""
    if target.name != "x86_64":
        return {}
    key = "".join(f"{path} {entry.sha256}\n" for path, entry in digests.items()) + _measuring_code()

    def measure() -> bytes:
        machine = Machine(
            name="the image",
            kernel=artefacts["kernel"],
            initramfs=artefacts["initramfs"],
            cmdline=target.command_line,
            firmware={role: artefacts[f"firmware/{role}.fd"] for role in target.firmware},
        )
        return json.dumps(reference_values(machine, memory_sizes=())).encode()

    values: dict[str, dict[str, list[str]]] = json.loads(_kept("image-measured", key.encode(), measure, fresh=False))
    return values


def _measuring_code() -> str:
    """Return a digest of the code that measures."""
    digest = hashlib.sha256()
    for name in ("measure", "measure_firmware", "measure_pe", "reference"):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"), "rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()


def _write(files: Mapping[str, bytes]) -> str:
    folder = make_private(images_folder())
    try:
        made = tempfile.mkdtemp(dir=folder, prefix=".making-")
    except OSError as error:
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error
    try:
        for path, data in files.items():
            place = os.path.join(made, path)
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            with open(place, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error
    return made


def _artefact(data: bytes) -> Artefact:
    return Artefact(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _file(entry: Entry) -> File:
    return File(
        path=entry.path,
        mode=f"{entry.mode:o}",
        size=len(entry.data),
        sha256=hashlib.sha256(entry.data).hexdigest(),
    )
