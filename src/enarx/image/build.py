# SPDX-License-Identifier: Apache-2.0
"""Make an image: the same bytes from the same lock and the same enarx, whoever makes it and wherever.

No root, no chroot, no program of the image is run but its interpreter, which compiles. Nothing that this machine has decides
a byte: programs that do come out of the lock (`tools`), and neither clock, locale, umask, user nor paths are looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from enarx.image.kept import forget_old, keep
from enarx.image.lock import Input, Lock, read_lock
from enarx.image.manifest import MANIFEST, UKI, Artefact, File, Manifest, encode_manifest
from enarx.image.measure_firmware import remembering
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
    verify_image,
)
from enarx.image.tools import Tools, interpreter_version, tool_inputs, unpack_tools
from enarx.image.uki import make_uki

__all__ = ["DEFAULT_LEVEL", "build_image", "default_name", "make_image", "verify_contents"]

DEFAULT_LEVEL = 19
_MAX_KEPT = 8
_MAX_FACTS = 100


def default_name(arch: str, *, cloud: bool = False) -> str:
    """Return what the image of this enarx is called for an architecture, or its image for clouds."""
    return f"keep-{enarx.__version__}-{arch}" + ("-cloud" if cloud else "")


def build_image(
    arch: str,
    *,
    name: str | None = None,
    cloud: bool = False,
    lock: Lock | None = None,
    level: int = DEFAULT_LEVEL,
    fresh: bool = False,
    progress: Progress = silent,
) -> Image:
    """Build an image, or find that it is there already, and return it.

    Args:
        arch: `x86_64` or `aarch64`.
        name: what to call it, or None for `default_name`.
        cloud: whether it is for clouds: the Keep listens on a network, and there is a unified kernel image.
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
    name = default_name(arch, cloud=cloud) if name is None else name
    check_name(name)
    files, manifest = _put_together(arch, cloud=cloud, lock=lock, level=level, fresh=fresh, progress=progress)
    # Where there is none, or what is there is damaged, this one takes its place.
    with contextlib.suppress(ConfigError, UsageError, VerificationError):
        there = open_image(name)
        if there.manifest == manifest:
            verify_image(there)
            return there
    return install_image(_write(files), name)


def make_image(
    arch: str,
    *,
    cloud: bool = False,
    lock: Lock | None = None,
    level: int = DEFAULT_LEVEL,
    fresh: bool = False,
    progress: Progress = silent,
) -> tuple[str, Manifest]:
    """Make an image's folder without a name; see `build_image`.

    Returns:
        The folder, in the folder of images and hidden there, and the manifest in it.
    """
    files, manifest = _put_together(arch, cloud=cloud, lock=lock, level=level, fresh=fresh, progress=progress)
    return _write(files), manifest


def _put_together(
    arch: str, *, cloud: bool, lock: Lock | None, level: int, fresh: bool, progress: Progress
) -> tuple[dict[str, bytes], Manifest]:
    """Make the files of an image, its manifest among them; see `build_image`."""
    target = architecture(arch)
    if not 1 <= level <= DEFAULT_LEVEL:
        raise UsageError(f"cannot build an image: level: found {level}, want 1 to {DEFAULT_LEVEL}")
    lock = read_lock(arch) if lock is None else lock
    files, tools = _prepare(target, lock, progress, cloud=cloud)
    parts = make_parts(
        target,
        lock,
        files,
        tools,
        package_folder(),
        cloud=cloud,
        fresh=fresh,
        progress=lambda what: progress(f"making: {what}", 0, 0),
    )
    entries = tuple(map(_file, parts.entries))
    initramfs = _compress(parts, entries, tools, level, fresh=fresh, progress=progress)
    if level == DEFAULT_LEVEL and len(initramfs) > contents.MAX_IMAGE_BYTES:
        raise ConfigError(
            f"cannot build an image: initramfs: found {len(initramfs)} bytes, want at most {contents.MAX_IMAGE_BYTES}"
        )
    command_line = f"{target.command_line} {contents.CLOUD_COMMAND_LINE}" if cloud else target.command_line
    artefacts = {
        "cmdline": command_line.encode(),
        "initramfs": initramfs,
        "kernel": parts.kernel,
        # Clouds have firmware of their own; ours is to try such an image out.
        **{f"firmware/{role}.fd": data for role, data in parts.firmware.items() if not cloud or role == "vm"},
    }
    if cloud:
        artefacts[UKI] = make_uki(parts.stub, kernel=parts.kernel, initramfs=initramfs, cmdline=command_line)
    digests = {path: _artefact(data) for path, data in sorted(artefacts.items())}
    manifest = Manifest(
        enarx=enarx.__version__,
        arch=arch,
        compression=f"zstd -{level}",
        command_line=command_line,
        artefacts=digests,
        reference=_reference(target, artefacts, digests),
        inputs=tuple(sorted(image_inputs(target, lock, cloud=cloud), key=lambda entry: (entry.kind, entry.name))),
        files=entries,
    )
    return {**artefacts, MANIFEST: encode_manifest(manifest)}, manifest


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


def _prepare(
    target: Architecture, lock: Lock, progress: Progress, *, cloud: bool = False
) -> tuple[Mapping[Input, str], Tools]:
    native = _native()
    own = lock if native is target else read_lock(native.name)
    if target.target is not None and native is not target:
        raise PlatformError(
            f"cannot build an image for {target.name}: found a machine of {native.name}, want {target.name}: its engine compiles there alone",
            hint=f"build it on {target.name} and copy it",
        )
    if interpreter_version(own) != interpreter_version(lock):
        raise ConfigError(
            f"cannot build an image for {target.name}: {own.path}: found Python {interpreter_version(own)},"
            f" want {interpreter_version(lock)} as in {lock.path}",
            hint="`enarx image build --refresh` for each architecture",
        )
    files = _Inputs(
        lambda: fetch_inputs(lock, image_inputs(target, lock, cloud=cloud), target.wheel, progress=progress)
    )
    tools = _Inputs(lambda: fetch_inputs(own, tool_inputs(own), native.wheel, progress=progress))
    return files, unpack_tools(native, own, tools)


class _Inputs(dict[Input, str]):
    """Files of inputs, which are fetched and compared with their digests as soon as one of them is asked for.

    Args:
        fetch: returns all of them.
    """

    def __init__(self, fetch: Callable[[], Mapping[Input, str]]) -> None:
        super().__init__()
        self._fetch = fetch

    def __missing__(self, entry: Input) -> str:
        if self:
            raise KeyError(entry)
        self.update(self._fetch())
        return self[entry]


def _compress(
    parts: Parts, files: tuple[File, ...], tools: Tools, level: int, *, fresh: bool, progress: Progress
) -> bytes:
    """Compress the initramfs, or find what was made of the same before: of the same files in the same order."""
    what = f"compressing with zstd -{level}"
    devices = [entry.device for entry in parts.entries]
    key = f"{_code('newc')} {tools.identity} {level} {[dataclasses.astuple(entry) for entry in files]} {devices}"
    made = keep(
        "image-compressed",
        key.encode(),
        lambda: tools.compress(parts.initramfs, level, lambda done, total: progress(what, done, total)),
        fresh=fresh,
    )
    forget_old("image-compressed", _MAX_KEPT)
    return made


def _reference(
    target: Architecture, artefacts: Mapping[str, bytes], digests: Mapping[str, Artefact]
) -> dict[str, dict[str, list[str]]]:
    """Measure an image, or find what was measured of the same before."""
    code = _code("disk", "measure", "measure_firmware", "measure_pe", "reference")
    key = "".join(f"{path} {entry.sha256}\n" for path, entry in digests.items()) + code

    def measure() -> bytes:
        machine = Machine(
            name="the image",
            kernel=artefacts["kernel"],
            initramfs=artefacts["initramfs"],
            cmdline=artefacts["cmdline"].decode(),
            firmware={
                role: artefacts[path] for role in target.firmware if (path := f"firmware/{role}.fd") in artefacts
            },
            uki=artefacts.get(UKI),
            kernel_sha256=bytes.fromhex(digests["kernel"].sha256),
            initramfs_sha256=bytes.fromhex(digests["initramfs"].sha256),
        )
        # Of what changes with each change of enarx, firmware is no part, and reading it takes longest.
        with remembering(lambda name, find: keep("image-firmware", f"{name} {code}".encode(), find)):
            return json.dumps(reference_values(machine, memory_sizes=())).encode()

    values: dict[str, dict[str, list[str]]] = json.loads(keep("image-measured", key.encode(), measure))
    for cache in ("image-measured", "image-firmware"):
        forget_old(cache, _MAX_FACTS)
    return values


def _code(*names: str) -> str:
    """Return a digest of modules of this package, for what follows from them."""
    digest = hashlib.sha256()
    for name in names:
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
