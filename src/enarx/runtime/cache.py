# SPDX-License-Identifier: Apache-2.0
"""Find the compiled form of a module, compiling it only when its content, the engine or the configuration is new.

Layout, below a private directory of ours (`$XDG_CACHE_HOME/enarx`, else `~/.cache/enarx`)::

    modules-<engine version>-<enarx version>/
        <sha256>[-fuel].cwasm   what the engine serialised, uncompressed, so that it can be mapped
        <sha256>[-fuel].seal    kind, and the size, inode and times of the .cwasm when we wrote it
        seen/<file identity>    the digest of a source file, by device, inode, size, mtime_ns and ctime_ns
    start/                      the command's own code, `enarx.cli.start_image`
    packages/                   what registries sent, `enarx.registry.cache`

A start reads two short files and computes no digest. Compiled code is machine code: what is mapped must be what we
wrote. So every directory and file must be ours and closed to others, and a .cwasm whose inode differs in any way
from its seal is compiled again. A file that was modified in place keeps neither its ctime nor, for that reason, our
trust. Writers use a temporary file and rename, so concurrent runs see whole files or none.
"""

from __future__ import annotations

import posix

from enarx import __version__
from enarx.errors import ConfigError, PlatformError
from enarx.runtime import capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULE = "module"
COMPONENT = "component"
MAX_MODULE_BYTES = 256 << 20
MAX_CACHE_BYTES = 4 << 30
_NOTE_BYTES = 256
# A file this young may be written again within the resolution of its times: its digest is not remembered.
_SETTLED_NS = 50_000_000
# What a run that was killed left half written; whoever still writes it after so long has no use for it either.
_STALE_NS = 3600 * 1_000_000_000


class Artefact:
    """Compiled code ready to be mapped.

    Args:
        path: the file.
        kind: MODULE or COMPONENT.
        temporary: whether it is in memory alone, because there is no cache or no room in it.
    """

    __slots__ = ("kind", "path", "temporary")

    def __init__(self, path: str, kind: str, *, temporary: bool = False) -> None:
        self.path = path
        self.kind = kind
        self.temporary = temporary


def default_root() -> str | None:
    """Return the directory of this user's caches, or None where the user has none that can be named."""
    base = posix.environ.get(b"XDG_CACHE_HOME", b"")
    if not base.startswith(b"/"):
        home = posix.environ.get(b"HOME", b"")
        if not home.startswith(b"/"):
            return None
        base = home + b"/.cache"
    try:
        return base.decode() + "/enarx"
    except UnicodeDecodeError:
        # The engine opens no file of such a name.
        return None


def _identity(stat: posix.stat_result) -> str:
    return f"{stat.st_dev:x}-{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ctime_ns:x}"


def require_private(path: str) -> None:
    """Refuse a directory that is not the user's alone.

    Raises:
        PlatformError: it is not ours, or open to others, or no directory.
    """
    stat = posix.lstat(path)
    if stat.st_uid != posix.geteuid() or stat.st_mode & 0o170077 != 0o040000:
        raise PlatformError(
            f"cannot use the compiled-module cache: {path}: found owner {stat.st_uid} and mode"
            f" {stat.st_mode & 0o7777:04o}, want owner {posix.geteuid()} and mode 0700",
            hint=f"remove {path}, or name another place with XDG_CACHE_HOME",
        )


def _read_note(path: str) -> list[str] | None:
    """Return the words of a short file of ours, or None where there is none that can be trusted."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        stat = posix.fstat(fd)
        if stat.st_uid != posix.geteuid() or stat.st_mode & 0o170022 != 0o100000 or stat.st_size > _NOTE_BYTES:
            return None
        return posix.read(fd, _NOTE_BYTES).decode("ascii", "replace").split()
    finally:
        posix.close(fd)


def _remove(path: str) -> None:
    """Remove an artefact and its seal; another run may have been faster."""
    import contextlib

    for name in (path.removesuffix(".cwasm") + ".seal", path):
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(name)


class Cache:
    """The cache of one user on one machine.

    Args:
        root: the directory above all engine versions, or None for no cache at all.
        say: is told one line for `--verbose` when something is rebuilt or cannot be kept.
        before_compiling: is called when something has to be compiled, which can take long.

    Raises:
        PlatformError: the directory exists and is not ours alone.
    """

    def __init__(
        self, root: str | None, say: Callable[[str], None], *, before_compiling: Callable[[], None] = lambda: None
    ) -> None:
        self._say = say
        self._before_compiling = before_compiling
        self.root = root
        self._dir = ""
        if root is None:
            say("cache: no home directory, so compiled modules are not kept")
            return
        folder = f"{root}/modules-{capi.ENGINE_VERSION}-{__version__}"
        try:
            require_private(folder)
        except FileNotFoundError:
            import os

            try:
                os.makedirs(root, mode=0o700, exist_ok=True)
                for made in (folder, f"{folder}/seen"):
                    try:
                        # And none above it: somebody may clear the cache meanwhile, and that would be made open to others.
                        os.mkdir(made, mode=0o700)
                    except FileExistsError:
                        continue
            except OSError as error:
                say(f"cache: cannot make {folder}: {error.strerror}, so compiled modules are not kept")
                return
            require_private(folder)
        except OSError as error:
            say(f"cache: cannot look at {folder}: {error.strerror}, so compiled modules are not kept")
            return
        self._dir = folder

    def apart(self) -> Cache:
        """Return a cache that keeps nothing: what it compiles cannot be taken away by another run."""
        return Cache(None, lambda _: None, before_compiling=self._before_compiling)

    def find(self, path: str, *, fuel: bool = False, remember: bool = True) -> Artefact:
        """Return the compiled form of a source file, compiling it if that has to be.

        Args:
            path: a `.wasm` core module or component, or a `.wat` text.
            fuel: whether the code counts fuel; such code is another artefact.
            remember: whether an unchanged file's digest may be taken from an earlier run. False inside a TEE, where
                the file system is the host's word.

        Raises:
            ConfigError: no such file, or one that cannot be read.
            DecodeError: the engine does not take it for a module or component.
            PlatformError: the cache is not ours alone.
        """
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"cannot open the module: {path}: {error.strerror}", path=path) from error
        try:
            stat = posix.fstat(fd)
            suffix = "-fuel" if fuel else ""
            seen = f"{self._dir}/seen/{_identity(stat)}"
            if self._dir and remember:
                note = _read_note(seen)
                if note is not None and len(note) == 1 and (found := self._sealed(note[0] + suffix)):
                    return found
            return self._compile(fd, stat, path, suffix, seen if remember else "")
        finally:
            posix.close(fd)

    def _sealed(self, name: str) -> Artefact | None:
        seal = _read_note(f"{self._dir}/{name}.seal")
        if seal is None or len(seal) != 2:
            return None
        path = f"{self._dir}/{name}.cwasm"
        try:
            stat = posix.lstat(path)
        except OSError:
            return None
        if stat.st_uid != posix.geteuid() or stat.st_mode & 0o170022 != 0o100000 or _identity(stat) != seal[1]:
            self._say(f"cache: {path} is not as it was written; compiling again")
            return None
        return Artefact(path, seal[0])

    def discard(self, artefact: Artefact) -> None:
        """Remove an artefact that the engine refused to map."""
        if not artefact.temporary:
            self._say(f"cache: the engine refuses {artefact.path}; compiling again")
            _remove(artefact.path)

    def _compile(self, fd: int, before: posix.stat_result, path: str, suffix: str, seen: str) -> Artefact:
        import time

        from enarx.runtime import compiling

        source = compiling.read_source(fd, path, MAX_MODULE_BYTES)
        digest = compiling.digest(source)
        artefact = self._sealed(digest + suffix) if self._dir else None
        if artefact is None:
            self._before_compiling()
            kind, code = compiling.compile_source(source, path, fuel=bool(suffix))
            artefact = self._store(digest + suffix, kind, code)
        after = posix.fstat(fd)
        settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _SETTLED_NS
        # What comes out of a pipe or a device has no identity.
        regular = after.st_mode & 0o170000 == 0o100000
        if seen and regular and not artefact.temporary and settled and _identity(before) == _identity(after):
            try:
                self._write(seen, digest.encode())
            except OSError as error:
                self._say(f"cache: cannot remember {path}: {error.strerror}")
        return artefact

    def _store(self, name: str, kind: str, code: bytes) -> Artefact:
        if self._dir:
            path = f"{self._dir}/{name}.cwasm"
            try:
                self._prune(len(code))
                self._write(path, code)
                self._seal(name, kind, path)
            except OSError as error:
                self._say(f"cache: cannot keep {path}: {error.strerror}")
            else:
                return Artefact(path, kind)
        import os

        # A file without a name, which is gone with the process however that ends.
        fd = os.memfd_create("enarx")
        with open(fd, "wb", closefd=False) as file:
            file.write(code)
        return Artefact(f"/proc/self/fd/{fd}", kind, temporary=True)

    def _seal(self, name: str, kind: str, path: str) -> None:
        """Seal what is there, and again if another run put the same code there meanwhile: the last seal has to fit."""
        sealed = ""
        while sealed != (found := _identity(posix.lstat(path))):
            self._write(f"{self._dir}/{name}.seal", f"{kind} {found}".encode())
            sealed = found

    def _write(self, path: str, data: bytes) -> None:
        # Not the process's number, which is another container's too when the two share a home.
        temporary = f"{path}.{posix.urandom(8).hex()}.tmp"
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            posix.rename(temporary, path)
        except OSError:
            posix.unlink(temporary)
            raise

    def _prune(self, incoming: int) -> None:
        """Remove the artefacts unused for longest until the next one fits, and what others left half written."""
        import time

        for path, stat in self._files(".tmp"):
            if time.time_ns() - stat.st_mtime_ns > _STALE_NS:
                _remove(path)
        entries = sorted((stat.st_atime_ns, stat.st_size, path) for path, stat in self._files(".cwasm"))
        total = incoming + sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= MAX_CACHE_BYTES:
                return
            self._say(f"cache: removing {path} to make room")
            _remove(path)
            total -= size

    def _files(self, suffix: str) -> Iterator[tuple[str, posix.stat_result]]:
        """Yield path and status of the files with a suffix; another run may be removing them."""
        try:
            names = posix.listdir(self._dir)
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(suffix):
                try:
                    yield f"{self._dir}/{name}", posix.lstat(f"{self._dir}/{name}")
                except FileNotFoundError:
                    continue

    def entries(self) -> list[tuple[str, str, int]]:
        """Return name, kind and size in bytes of every artefact of this engine version, sorted by name."""
        if not self._dir:
            return []
        found = []
        for path, stat in self._files(".cwasm"):
            name = path.rpartition("/")[2].removesuffix(".cwasm")
            artefact = self._sealed(name)
            found.append((name, artefact.kind if artefact else "not sealed", stat.st_size))
        return sorted(found)

    def clear(self) -> int:
        """Remove every compiled module, of every engine version, the start images and what was fetched of packages.

        Returns:
            how many modules there were.

        Raises:
            PlatformError: a directory that is not ours alone, of which nothing is touched; or one that cannot be
                removed, perhaps because a run is filling it.
        """
        import os

        if self.root is None or not os.path.isdir(self.root):
            return 0
        removed = 0
        for version in sorted(posix.listdir(self.root)):
            folder = f"{self.root}/{version}"
            if not version.startswith(("modules-", "start", "packages")) or not os.path.isdir(folder):
                continue
            require_private(folder)
            try:
                for parent, folders, files in os.walk(folder, topdown=False):
                    for name in [*files, *folders]:
                        path = f"{parent}/{name}"
                        if posix.lstat(path).st_mode & 0o170000 == 0o040000:
                            posix.rmdir(path)
                        else:
                            posix.unlink(path)
                            removed += name.endswith(".cwasm")
                posix.rmdir(folder)
            except OSError as error:
                raise PlatformError(f"cannot clear the cache: {error.filename}: {error.strerror}") from error
        return removed
