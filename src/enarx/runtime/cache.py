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
    from collections.abc import Callable

MODULE = "module"
COMPONENT = "component"
_NOTE_BYTES = 256


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


def identity(stat: posix.stat_result) -> str:
    """Return what tells a file as it is from every other, and from what it was or will be."""
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
        self.say = say
        self.before_compiling = before_compiling
        self.root = root
        self.folder = ""
        if root is None:
            say("cache: no home directory, so compiled modules are not kept")
            return
        folder = f"{root}/modules-{capi.ENGINE_VERSION}-{__version__}"
        try:
            require_private(folder)
        except FileNotFoundError:
            from enarx.runtime.cache_keeping import make_folder

            try:
                make_folder(folder)
            except OSError as error:
                say(f"cache: cannot make {folder}: {error.strerror}, so compiled modules are not kept")
                return
            require_private(folder)
        except OSError as error:
            say(f"cache: cannot look at {folder}: {error.strerror}, so compiled modules are not kept")
            return
        self.folder = folder

    def apart(self) -> Cache:
        """Return a cache that keeps nothing: what it compiles cannot be taken away by another run."""
        return Cache(None, lambda _: None, before_compiling=self.before_compiling)

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
            seen = f"{self.folder}/seen/{identity(stat)}"
            if self.folder and remember:
                note = _read_note(seen)
                if note is not None and len(note) == 1 and (found := self.sealed(note[0] + suffix)):
                    return found
            from enarx.runtime.cache_keeping import compile_and_keep

            return compile_and_keep(self, fd, path, fuel=fuel, seen=seen if remember else "")
        finally:
            posix.close(fd)

    def sealed(self, name: str) -> Artefact | None:
        """Return an artefact by its name, if it is as it was written."""
        seal = _read_note(f"{self.folder}/{name}.seal")
        if seal is None or len(seal) != 2:
            return None
        path = f"{self.folder}/{name}.cwasm"
        try:
            stat = posix.lstat(path)
        except OSError:
            return None
        if stat.st_uid != posix.geteuid() or stat.st_mode & 0o170022 != 0o100000 or identity(stat) != seal[1]:
            self.say(f"cache: {path} is not as it was written; compiling again")
            return None
        return Artefact(path, seal[0])

    def discard(self, artefact: Artefact) -> None:
        """Remove an artefact that the engine refused to map."""
        if not artefact.temporary:
            self.say(f"cache: the engine refuses {artefact.path}; compiling again")
            from enarx.runtime.cache_keeping import remove

            remove(artefact.path)
