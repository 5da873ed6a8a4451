# SPDX-License-Identifier: Apache-2.0
"""What changes the cache of compiled modules: compiling what is not there, keeping it, removing it.

`enarx.runtime.cache` says how it is laid out and what is believed; no start needs this module that finds what it is for.
"""

from __future__ import annotations

import contextlib
import os
import time

from enarx.errors import PlatformError
from enarx.runtime import compiling
from enarx.runtime.cache import Artefact, Cache, identity, require_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MODULE_BYTES = 256 << 20
MAX_CACHE_BYTES = 4 << 30
# A file this young may be written again within the resolution of its times: its digest is not remembered.
_SETTLED_NS = 50_000_000
# What a run that was killed left half written; whoever still writes it after so long has no use for it either.
_STALE_NS = 3600 * 1_000_000_000


def make_folder(folder: str) -> None:
    """Make the directory of an engine version, and those above it."""
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    for made in (folder, f"{folder}/seen"):
        # And none above it: somebody may clear the cache meanwhile, and that would be made open to others.
        with contextlib.suppress(FileExistsError):
            os.mkdir(made, mode=0o700)


def compile_and_keep(cache: Cache, fd: int, path: str, *, fuel: bool, seen: str) -> Artefact:
    """Return the compiled form of a source file of which only the digest can tell whether it is there.

    Args:
        cache: where it is looked for, and kept.
        fd: of the source.
        path: its name.
        fuel: whether the code counts fuel.
        seen: the note of its digest, named by its identity as it was opened; empty where that is not to be remembered.
    """
    source = compiling.read_source(fd, path, MAX_MODULE_BYTES)
    digest = compiling.digest(source)
    name = digest + ("-fuel" if fuel else "")
    artefact = cache.sealed(name) if cache.folder else None
    if artefact is None:
        cache.before_compiling()
        kind, code = compiling.compile_source(source, path, fuel=fuel)
        artefact = _keep(cache, name, kind, code)
    after = os.fstat(fd)
    settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _SETTLED_NS
    # What comes out of a pipe or a device has no identity.
    regular = after.st_mode & 0o170000 == 0o100000
    if regular and not artefact.temporary and settled and seen == f"{cache.folder}/seen/{identity(after)}":
        try:
            _write(seen, digest.encode())
        except OSError as error:
            cache.say(f"cache: cannot remember {path}: {error.strerror}")
    return artefact


def _keep(cache: Cache, name: str, kind: str, code: bytes) -> Artefact:
    if cache.folder:
        path = f"{cache.folder}/{name}.cwasm"
        try:
            _prune(cache, len(code))
            _write(path, code)
            _seal(path, kind)
        except OSError as error:
            cache.say(f"cache: cannot keep {path}: {error.strerror}")
        else:
            return Artefact(path, kind)
    # A file without a name, which is gone with the process however that ends.
    fd = os.memfd_create("enarx")
    with open(fd, "wb", closefd=False) as file:
        file.write(code)
    return Artefact(f"/proc/self/fd/{fd}", kind, temporary=True)


def _seal(path: str, kind: str) -> None:
    """Seal what is there, and again if another run put the same code there meanwhile: the last seal has to fit."""
    sealed = ""
    while sealed != (found := identity(os.lstat(path))):
        _write(path.removesuffix(".cwasm") + ".seal", f"{kind} {found}".encode())
        sealed = found


def _write(path: str, data: bytes) -> None:
    # Not the process's number, which is another container's too when the two share a home.
    temporary = f"{path}.{os.urandom(8).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _prune(cache: Cache, incoming: int) -> None:
    """Remove the artefacts unused for longest until the next one fits, and what others left half written."""
    for path, stat in _files(cache.folder, ".tmp"):
        if time.time_ns() - stat.st_mtime_ns > _STALE_NS:
            remove(path)
    entries = sorted((stat.st_atime_ns, stat.st_size, path) for path, stat in _files(cache.folder, ".cwasm"))
    total = incoming + sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= MAX_CACHE_BYTES:
            return
        cache.say(f"cache: removing {path} to make room")
        remove(path)
        total -= size


def remove(path: str) -> None:
    """Remove an artefact and its seal; another run may have been faster."""
    for name in (path.removesuffix(".cwasm") + ".seal", path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _files(folder: str, suffix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of the files with a suffix; another run may be removing them."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(suffix):
            try:
                yield f"{folder}/{name}", os.lstat(f"{folder}/{name}")
            except FileNotFoundError:
                continue


def list_entries(cache: Cache) -> list[tuple[str, str, int]]:
    """Return name, kind and size in bytes of every artefact of this engine version, sorted by name."""
    if not cache.folder:
        return []
    found = []
    for path, stat in _files(cache.folder, ".cwasm"):
        name = path.rpartition("/")[2].removesuffix(".cwasm")
        artefact = cache.sealed(name)
        found.append((name, artefact.kind if artefact else "not sealed", stat.st_size))
    return sorted(found)


def clear(root: str | None) -> int:
    """Remove every compiled module, of every engine version, the start images and what was fetched of packages.

    Returns:
        how many modules there were.

    Raises:
        PlatformError: a directory that is not ours alone, of which nothing is touched; or one that cannot be
            removed, perhaps because a run is filling it.
    """
    if root is None or not os.path.isdir(root):
        return 0
    removed = 0
    for version in sorted(os.listdir(root)):
        folder = f"{root}/{version}"
        if not version.startswith(("modules-", "start", "packages")) or not os.path.isdir(folder):
            continue
        require_private(folder)
        try:
            for parent, folders, files in os.walk(folder, topdown=False):
                for name in [*files, *folders]:
                    path = f"{parent}/{name}"
                    if os.lstat(path).st_mode & 0o170000 == 0o040000:
                        os.rmdir(path)
                    else:
                        os.unlink(path)
                        removed += name.endswith(".cwasm")
            os.rmdir(folder)
        except OSError as error:
            raise PlatformError(f"cannot clear the cache: {error.filename}: {error.strerror}") from error
    return removed
