# SPDX-License-Identifier: Apache-2.0
"""`enarx image build|list|verify`: what a Keep in a virtual machine is started from."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.progress import show_progress
from enarx.errors import ConfigError, UsageError
from enarx.wire.machine import TCP_LINK_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.inputs import Progress
    from enarx.image.lock import Lock
    from enarx.image.store import Image

_JSON = Option("json", "", "one JSON document")


def _build(parsed: Parsed) -> int:
    import platform

    from enarx.image.build import DEFAULT_LEVEL, build_image

    arch = parsed.value("arch") or platform.machine()
    level = _number(parsed.value("level"), DEFAULT_LEVEL)
    form = parsed.value("format")
    if form is None and parsed.flag("output"):
        raise UsageError("cannot build an image: found --output without --format, want both: an image is a folder")
    with show_progress() as progress:
        lock = _lock(parsed, arch, progress)
        image = build_image(
            arch,
            name=parsed.value("name"),
            cloud=form is not None,
            lock=lock,
            level=level,
            fresh=parsed.flag("fresh"),
            progress=progress,
        )
        path = None if form is None else _export(parsed, image, form, progress)
    _show(parsed, image, path)
    if path is not None:
        ui.note(f"wrote {path}; the Keep on it listens on TCP port {TCP_LINK_PORT}")
    if lock is not None:
        ui.note(f"built with the lock {lock.path}, which is not the one of this release")
    return 0


def _export(parsed: Parsed, image: Image, form: str, progress: Progress) -> str:
    from enarx.image.export import export_image

    progress(f"writing {form}", 0, 0)
    return export_image(image, form, parsed.value("output"))


def _lock(parsed: Parsed, arch: str, progress: Progress) -> Lock | None:
    """Return the lock to build with where it is not our own, written first if that is asked for."""
    import os

    from enarx.image.contents import architecture
    from enarx.image.inputs import resolve_lock
    from enarx.image.lock import read_lock, write_lock
    from enarx.image.store import images_folder

    target = architecture(arch)
    path = parsed.value("lock")
    if not parsed.flag("refresh"):
        return None if path is None else read_lock(arch, path)
    path = path or os.path.join(os.path.dirname(images_folder()), "image-locks", f"{arch}.toml")
    lock = resolve_lock(target, path, progress=progress)
    write_lock(lock)
    ui.note(f"wrote a new lock: {path}; `enarx image build --lock {path}` builds with it again")
    return lock


def _list(parsed: Parsed) -> int:
    from enarx.image.store import image_names, images_folder, open_image

    rows = []
    for name in image_names():
        try:
            rows.append(_row(open_image(name)))
        except ConfigError as error:
            ui.note(str(error))
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"root": images_folder(), "images": rows}, indent=2))
        return 0
    for row in rows:
        ui.out(f"{row['name']:<24}  {row['arch']:<8}  {row['bytes']:>10} bytes  sha256:{row['digest']}")
    ui.note(f"{len(rows)} images in {images_folder()}")
    return 0


def _verify(parsed: Parsed) -> int:
    from enarx.image.build import verify_contents
    from enarx.image.store import open_image

    image = open_image(parsed.operands[0])
    with show_progress() as progress:
        verify_contents(image, progress=progress)
        if parsed.flag("rebuild"):
            _compare(image, _lock(parsed, image.arch, progress), progress)
    _show(parsed, image)
    return 0


def _compare(image: Image, lock: Lock | None, progress: Progress) -> None:
    """Make an image again and require that it is the same."""
    import shutil

    from enarx.errors import VerificationError
    from enarx.image.build import make_image
    from enarx.image.manifest import differences

    level = _number(image.manifest.compression.rpartition("-")[2], 0)
    made, manifest = make_image(
        image.arch, cloud=image.uki is not None, lock=lock, level=level, fresh=True, progress=progress
    )
    shutil.rmtree(made)
    different = differences(image.manifest, manifest)
    if different:
        raise VerificationError(
            f"cannot verify an image: {image.name}: found other bytes than this enarx and its lock make:"
            f" {', '.join(different[:5])}",
            hint="another release of enarx or another lock makes another image: --lock names one",
        )


def _show(parsed: Parsed, image: Image, disk: str | None = None) -> None:
    if parsed.flag("json"):
        import json

        ui.out(json.dumps(_row(image) | ({} if disk is None else {"disk": disk}), indent=2))
    else:
        ui.out(f"{image.name}  sha256:{image.digest}")
        ui.note(f"image in {image.folder}")


def _row(image: Image) -> dict[str, object]:
    return {
        "name": image.name,
        "arch": image.arch,
        "digest": image.digest,
        "bytes": image.manifest.artefacts["initramfs"].size,
        "folder": image.folder,
        "enarx": image.manifest.enarx,
    }


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 3:
        raise UsageError(f"cannot build an image: --level: found {text!r:.40}, want a number")
    return int(text)


_LOCK = Option("lock", "FILE", "pins the inputs; otherwise the lock that came with enarx")
_REFRESH = Option("refresh", "", "write a lock of what mirror and index have now, and use it")

COMMANDS = {
    "image build": Command(
        "image build",
        summary="make the image of a Keep in a virtual machine",
        description=(
            "Make kernel, initramfs, command line and firmware of a Keep from inputs that a lock pins by SHA-256: Debian packages\n"
            "through apt's own mirrors and wheels through pip. The same lock and the same enarx make the same bytes anywhere."
        ),
        options=(
            Option("arch", "ARCH", "x86_64 or aarch64; otherwise this machine's", choices=("x86_64", "aarch64")),
            Option("name", "NAME", "what to call it; otherwise keep-VERSION-ARCH, and -cloud with --format"),
            Option(
                "format",
                "FORMAT",
                "make an image for clouds, whose Keep listens on TCP, and write a disk that boots it, or the bare file: uki",
                choices=("raw", "qcow2", "vhd", "uki"),
            ),
            Option("output", "FILE", "where that disk is written; otherwise NAME.FORMAT here, of uki NAME.efi"),
            _LOCK,
            _REFRESH,
            Option("level", "N", "of zstd, 1 to 19; below 19 is faster, larger and another image"),
            Option("fresh", "", "make everything again from the inputs, without what the cache has of it"),
            _JSON,
        ),
        examples=(
            ("enarx image build", "this machine's architecture"),
            ("enarx image build --refresh", "with what Debian and the index have today"),
            ("enarx image build --format vhd --output keep.vhd", "a disk for confidential machines of a cloud"),
        ),
        run=_build,
    ),
    "image list": Command(
        "image list",
        summary="show the images there are",
        description="Show every image with its digest. Images with equal digests are the same to every platform.",
        options=(_JSON,),
        examples=(("enarx image list --json", "the same, for a program"),),
        run=_list,
    ),
    "image verify": Command(
        "image verify",
        operands=("IMAGE",),
        summary="compare an image with its manifest, or with a new build",
        description=(
            "Compare every file of an image, and every file in its initramfs, with its manifest. IMAGE is its name or its digest."
        ),
        options=(Option("rebuild", "", "build it again and compare every byte"), _LOCK, _REFRESH, _JSON),
        examples=(("enarx image verify keep-0.1.0-x86_64 --rebuild", "is it what this enarx makes?"),),
        run=_verify,
    ),
}
