# SPDX-License-Identifier: Apache-2.0
"""wasi:filesystem 0.2: the workload's directories and the files in them.

Rules of this file:

- Every path goes through `beneath`, which leaves it to the kernel that no path leaves its directory.
- A read-only directory makes everything below it read-only, for every operation that changes anything: `_Open.mutable`
  is inherited and asked before.
- Every open descriptor is counted against the limit, the preopened ones too.
- What the kernel refuses becomes WASI's error code; any other exception is a bug and comes out as one.

What holds it together: `_Open` is a descriptor with its users (one descriptor resource, any number of streams);
everything below it is one WASI function each, in WIT order.

Source: WIT package wasi:filesystem@0.2.12.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

import errno
import os
import stat

from enarx.errors import ConfigError
from enarx.runtime.component.beneath import O_PATH, UTIME_NOW, UTIME_OMIT, Entry, open_beneath, set_times
from enarx.runtime.component.binding import Borrow, Interface, Kind, Own
from enarx.runtime.component.clocks import DATETIME, SECOND_NS
from enarx.runtime.component.io import (
    CHUNK,
    ERROR,
    INPUT_STREAM,
    OUTPUT_STREAM,
    POLLIN,
    POLLOUT,
    Closed,
    InputStream,
    IoError,
    OutputStream,
    WouldBlock,
)
from enarx.runtime.component.values import (
    U64,
    Bool,
    Bytes,
    Enum,
    Err,
    Flags,
    ListOf,
    Option,
    Record,
    Result,
    String,
    Tuple,
    Variant,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from enarx.runtime.component.binding import Account, Keep
    from enarx.runtime.component.io import Interest
    from enarx.runtime.component.values import Codec
    from enarx.runtime.workload import Directory

MAX_OFFSET = (1 << 63) - 1

TYPE = Enum(
    "unknown",
    "block-device",
    "character-device",
    "directory",
    "fifo",
    "symbolic-link",
    "regular-file",
    "socket",
)
DESCRIPTOR_FLAGS = Flags(
    "read",
    "write",
    "file-integrity-sync",
    "data-integrity-sync",
    "requested-write-sync",
    "mutate-directory",
)
PATH_FLAGS = Flags("symlink-follow")
OPEN_FLAGS = Flags("create", "directory", "exclusive", "truncate")
STAT = Record(
    ("type", TYPE),
    ("link-count", U64),
    ("size", U64),
    ("data-access-timestamp", Option(DATETIME)),
    ("data-modification-timestamp", Option(DATETIME)),
    ("status-change-timestamp", Option(DATETIME)),
)
NEW_TIMESTAMP = Variant(("no-change", None), ("now", None), ("timestamp", DATETIME))
DIRECTORY_ENTRY = Record(("type", TYPE), ("name", String))
ADVICE = Enum("normal", "sequential", "random", "will-need", "dont-need", "no-reuse")
METADATA_HASH = Record(("lower", U64), ("upper", U64))

_CODES = {
    errno.EACCES: "access",
    errno.EAGAIN: "would-block",
    errno.EALREADY: "already",
    errno.EBADF: "bad-descriptor",
    errno.EBUSY: "busy",
    errno.EDEADLK: "deadlock",
    errno.EDQUOT: "quota",
    errno.EEXIST: "exist",
    errno.EFBIG: "file-too-large",
    errno.EILSEQ: "illegal-byte-sequence",
    errno.EINPROGRESS: "in-progress",
    errno.EINTR: "interrupted",
    errno.EINVAL: "invalid",
    errno.EIO: "io",
    errno.EISDIR: "is-directory",
    errno.ELOOP: "loop",
    errno.EMLINK: "too-many-links",
    errno.EMSGSIZE: "message-size",
    errno.ENAMETOOLONG: "name-too-long",
    errno.ENODEV: "no-device",
    errno.ENOENT: "no-entry",
    errno.ENOLCK: "no-lock",
    errno.ENOMEM: "insufficient-memory",
    errno.ENOSPC: "insufficient-space",
    errno.ENOTDIR: "not-directory",
    errno.ENOTEMPTY: "not-empty",
    errno.ENOTRECOVERABLE: "not-recoverable",
    errno.ENOTSUP: "unsupported",
    errno.ENOTTY: "no-tty",
    errno.ENXIO: "no-such-device",
    errno.EOVERFLOW: "overflow",
    errno.EPERM: "not-permitted",
    errno.EPIPE: "pipe",
    errno.EROFS: "read-only",
    errno.ESPIPE: "invalid-seek",
    errno.ETXTBSY: "text-file-busy",
    errno.EXDEV: "cross-device",
}
ERROR_CODE = Enum(*_CODES.values())

_TYPES = {
    stat.S_IFBLK: "block-device",
    stat.S_IFCHR: "character-device",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "fifo",
    stat.S_IFLNK: "symbolic-link",
    stat.S_IFREG: "regular-file",
    stat.S_IFSOCK: "socket",
}
_ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "random": os.POSIX_FADV_RANDOM,
    "will-need": os.POSIX_FADV_WILLNEED,
    "dont-need": os.POSIX_FADV_DONTNEED,
    "no-reuse": os.POSIX_FADV_NOREUSE,
}

types_interface = Interface(
    "wasi:filesystem/types",
    uses={"error": ERROR, "input-stream": INPUT_STREAM, "output-stream": OUTPUT_STREAM},
)
DESCRIPTOR: Kind = types_interface.resource("descriptor")
DIRECTORY_ENTRY_STREAM: Kind = types_interface.resource("directory-entry-stream")
preopens_interface = Interface("wasi:filesystem/preopens", uses={"descriptor": DESCRIPTOR})

INTERFACES = (types_interface, preopens_interface)

# Makes hashes of one run useless to learn device and inode numbers from.
_SECRET = os.urandom(16)


def _code(error: OSError) -> str:
    # Descriptors used up: no code says so, and this one at least says that it is a limit.
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "quota"
    return _CODES.get(error.errno or errno.EIO, "io")


class _Open:
    """A host descriptor that is closed with its last user.

    Args:
        fd: open; this object's from now on, and counted already.
        account: where it is counted.
        flags: WASI's descriptor flags.
        mutable: whether what it is, or what is below it, may be changed.
    """

    __slots__ = ("_account", "_users", "fd", "flags", "mutable", "status")

    def __init__(self, fd: int, account: Account, flags: frozenset[str], *, mutable: bool) -> None:
        self.fd = fd
        self.flags = flags
        self.mutable = mutable
        self.status = os.fstat(fd)
        self._account = account
        self._users = 1

    def share(self) -> _Open:
        """Count one more user."""
        self._users += 1
        return self

    def drop(self) -> None:
        """Count one user less."""
        self._users -= 1
        if not self._users:
            os.close(self.fd)
            self._account.close_file()

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_positional(self) -> bool:
        """Whether bytes have offsets; pipes and terminals have none."""
        return stat.S_ISREG(self.status.st_mode) or stat.S_ISBLK(self.status.st_mode)

    def require_file(self) -> int:
        """Return the descriptor of what is no directory.

        Raises:
            Err: it is one.
        """
        if self.is_directory:
            raise Err("bad-descriptor")
        return self.fd

    def require_directory(self) -> int:
        """Return the descriptor of a directory.

        Raises:
            Err: it is none.
        """
        if not self.is_directory:
            raise Err("not-directory")
        return self.fd

    def require_mutable(self) -> None:
        """Raise unless it may be changed.

        Raises:
            Err: it may not.
        """
        if not self.mutable:
            raise Err("not-permitted")


def _path(path: str) -> bytes:
    if "\0" in path:
        raise Err("invalid")
    return path.encode()


def _follow(path_flags: frozenset[str]) -> int:
    return 0 if "symlink-follow" in path_flags else os.O_NOFOLLOW


def _offset(value: int) -> int:
    if value > MAX_OFFSET:
        raise Err("invalid")
    return value


# --- Streams ---------------------------------------------------------------------------------------------------------


class FileInput(InputStream):
    """A file read from an offset on."""

    __slots__ = ("_offset", "_open")

    def __init__(self, opened: _Open, offset: int) -> None:
        self._open = opened.share()
        self._offset = offset

    def read_some(self, size: int) -> bytes:
        try:
            if self._open.is_positional:
                data = os.pread(self._open.fd, size, min(self._offset, MAX_OFFSET))
            else:
                data = os.read(self._open.fd, size)
        except BlockingIOError:
            raise WouldBlock from None
        if not data:
            raise Closed
        self._offset += len(data)
        return data

    def poll_interest(self) -> Interest | None:
        return None if self._open.is_positional else (self._open.fd, POLLIN, None)

    def drop(self) -> None:
        """Let go of the file."""
        self._open.drop()


class FileOutput(OutputStream):
    """A file written from an offset on, or at its end where the offset is None."""

    __slots__ = ("_offset", "_open")

    def __init__(self, opened: _Open, offset: int | None) -> None:
        super().__init__()
        self._open = opened.share()
        self._offset = offset

    def write_some(self, data: memoryview | bytes) -> int:
        fd = self._open.fd
        try:
            if not self._open.is_positional:
                return os.write(fd, data)
            if self._offset is None:
                return os.pwritev(fd, [data], 0, os.RWF_APPEND)
            size = os.pwrite(fd, data, min(self._offset, MAX_OFFSET))
        except BlockingIOError:
            raise WouldBlock from None
        except BrokenPipeError:
            raise Closed from None
        self._offset += size
        return size

    def write_interest(self) -> Interest | None:
        return (self._open.fd, POLLOUT, None)

    def finish(self) -> None:
        """Let go of the file."""
        self._open.drop()


class DirectoryEntries:
    """The resource directory-entry-stream: entries as the kernel lists them, each when it is asked for.

    Args:
        opened: the directory; a descriptor of its own is opened, so that two listings do not share a position.
        account: where that is counted.
    """

    __slots__ = ("_account", "_entries", "_fd")

    def __init__(self, opened: _Open, account: Account) -> None:
        if not account.open_file():
            raise Err("quota")
        self._account = account
        try:
            # It stays open beside the copy that scandir makes: an entry of unknown type is looked at through it.
            self._fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened.fd)
            try:
                self._entries = os.scandir(self._fd)
            except BaseException:
                os.close(self._fd)
                raise
        except BaseException:
            account.close_file()
            raise

    def next(self) -> tuple[str, str] | None:
        """Return type and name of the next entry, or None at the end.

        Raises:
            Err: its name is not UTF-8; the one after it can be read.
            OSError: what the kernel says.
        """
        entry = next(self._entries, None)
        if entry is None:
            return None
        try:
            name = os.fsencode(entry.name).decode()
        except UnicodeDecodeError:
            raise Err("illegal-byte-sequence") from None
        if entry.is_symlink():
            return "symbolic-link", name
        if entry.is_dir(follow_symlinks=False):
            return "directory", name
        if entry.is_file(follow_symlinks=False):
            return "regular-file", name
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:
            return "unknown", name
        return _TYPES.get(stat.S_IFMT(mode), "unknown"), name

    def drop(self) -> None:
        """Close the listing."""
        self._entries.close()
        os.close(self._fd)
        self._account.close_file()


# --- Descriptors -----------------------------------------------------------------------------------------------------

_SELF = Borrow(DESCRIPTOR)


def _method(name: str, params: tuple[Codec, ...], result: Codec | None) -> Callable[..., Any]:
    """Declare a method of `descriptor` whose OSErrors become error codes."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except OSError as error:
                raise Err(_code(error)) from error

        types_interface.func(f"[method]descriptor.{name}", (_SELF, *params), Result(result, ERROR_CODE))(call)
        return call

    return declare


@_method("read-via-stream", (U64,), Own(INPUT_STREAM))
def _read_via_stream(_keep: Keep, opened: _Open, offset: int) -> InputStream:
    opened.require_file()
    if "read" not in opened.flags:
        raise Err("bad-descriptor")
    return FileInput(opened, offset)


@_method("write-via-stream", (U64,), Own(OUTPUT_STREAM))
def _write_via_stream(_keep: Keep, opened: _Open, offset: int) -> OutputStream:
    opened.require_file()
    if "write" not in opened.flags:
        raise Err("bad-descriptor")
    return FileOutput(opened, offset)


@_method("append-via-stream", (), Own(OUTPUT_STREAM))
def _append_via_stream(_keep: Keep, opened: _Open) -> OutputStream:
    opened.require_file()
    if "write" not in opened.flags:
        raise Err("bad-descriptor")
    return FileOutput(opened, None)


@_method("advise", (U64, U64, ADVICE), None)
def _advise(_keep: Keep, opened: _Open, offset: int, length: int, advice: str) -> None:
    os.posix_fadvise(opened.require_file(), _offset(offset), _offset(length), _ADVICE[advice])


@_method("sync-data", (), None)
def _sync_data(_keep: Keep, opened: _Open) -> None:
    os.fdatasync(opened.fd)


@_method("get-flags", (), DESCRIPTOR_FLAGS)
def _get_flags(_keep: Keep, opened: _Open) -> frozenset[str]:
    return opened.flags


@_method("get-type", (), TYPE)
def _get_type(_keep: Keep, opened: _Open) -> str:
    return _TYPES.get(stat.S_IFMT(opened.status.st_mode), "unknown")


@_method("set-size", (U64,), None)
def _set_size(_keep: Keep, opened: _Open, size: int) -> None:
    os.ftruncate(opened.require_file(), _offset(size))


@_method("set-times", (NEW_TIMESTAMP, NEW_TIMESTAMP), None)
def _set_times(_keep: Keep, opened: _Open, accessed: tuple[str, Any], modified: tuple[str, Any]) -> None:
    opened.require_mutable()
    set_times(opened.fd, _timespec(accessed), _timespec(modified))


def _timespec(timestamp: tuple[str, Any]) -> tuple[int, int]:
    case, datetime = timestamp
    if case == "no-change":
        return 0, UTIME_OMIT
    if case == "now":
        return 0, UTIME_NOW
    seconds, nanoseconds = datetime
    # The nanoseconds must not be one of the two above.
    if nanoseconds >= SECOND_NS:
        raise Err("invalid")
    if seconds > MAX_OFFSET:
        raise Err("overflow")
    return seconds, nanoseconds


@_method("read", (U64, U64), Tuple(Bytes, Bool))
def _read(_keep: Keep, opened: _Open, length: int, offset: int) -> tuple[bytes, bool]:
    data = os.pread(opened.require_file(), min(length, CHUNK), _offset(offset))
    return data, not data and length > 0


@_method("write", (Bytes, U64), U64)
def _write(_keep: Keep, opened: _Open, data: bytes, offset: int) -> int:
    return os.pwrite(opened.require_file(), data, _offset(offset))


@_method("read-directory", (), Own(DIRECTORY_ENTRY_STREAM))
def _read_directory(keep: Keep, opened: _Open) -> DirectoryEntries:
    opened.require_directory()
    return DirectoryEntries(opened, keep.account)


@_method("sync", (), None)
def _sync(_keep: Keep, opened: _Open) -> None:
    os.fsync(opened.fd)


@_method("create-directory-at", (String,), None)
def _create_directory_at(_keep: Keep, opened: _Open, path: str) -> None:
    opened.require_mutable()
    with Entry(opened.require_directory(), _path(path)) as entry:
        os.mkdir(entry.name, dir_fd=entry.fd)


@_method("stat", (), STAT)
def _stat(_keep: Keep, opened: _Open) -> tuple[Any, ...]:
    return _describe(os.fstat(opened.fd))


@_method("stat-at", (PATH_FLAGS, String), STAT)
def _stat_at(_keep: Keep, opened: _Open, path_flags: frozenset[str], path: str) -> tuple[Any, ...]:
    return _describe(_status_at(opened, path_flags, path))


def _status_at(opened: _Open, path_flags: frozenset[str], path: str) -> os.stat_result:
    fd = open_beneath(opened.require_directory(), _path(path), O_PATH | _follow(path_flags))
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _describe(status: os.stat_result) -> tuple[Any, ...]:
    return (
        _TYPES.get(stat.S_IFMT(status.st_mode), "unknown"),
        status.st_nlink,
        status.st_size,
        _datetime(status.st_atime_ns),
        _datetime(status.st_mtime_ns),
        _datetime(status.st_ctime_ns),
    )


def _datetime(time_ns: int) -> tuple[int, int] | None:
    # WASI's seconds are unsigned; what is older than 1970 has no such time.
    return divmod(time_ns, SECOND_NS) if time_ns >= 0 else None


@_method("set-times-at", (PATH_FLAGS, String, NEW_TIMESTAMP, NEW_TIMESTAMP), None)
def _set_times_at(
    _keep: Keep,
    opened: _Open,
    path_flags: frozenset[str],
    path: str,
    accessed: tuple[str, Any],
    modified: tuple[str, Any],
) -> None:
    opened.require_mutable()
    times = _timespec(accessed), _timespec(modified)
    fd = open_beneath(opened.require_directory(), _path(path), O_PATH | _follow(path_flags))
    try:
        set_times(fd, *times)
    finally:
        os.close(fd)


@_method("link-at", (PATH_FLAGS, String, _SELF, String), None)
def _link_at(
    _keep: Keep, opened: _Open, path_flags: frozenset[str], old_path: str, new_opened: _Open, new_path: str
) -> None:
    # From a read-only directory too: through the new name the file could be changed.
    opened.require_mutable()
    new_opened.require_mutable()
    if path_flags:
        raise Err("invalid")
    if old_path.endswith("/"):
        # The kernel would follow a link there, and a directory has one name.
        raise Err("not-permitted")
    with (
        Entry(opened.require_directory(), _path(old_path)) as old,
        Entry(new_opened.require_directory(), _path(new_path)) as new,
    ):
        os.link(old.name, new.name, src_dir_fd=old.fd, dst_dir_fd=new.fd, follow_symlinks=False)


@_method("open-at", (PATH_FLAGS, String, OPEN_FLAGS, DESCRIPTOR_FLAGS), Own(DESCRIPTOR))
def _open_at(
    keep: Keep,
    opened: _Open,
    path_flags: frozenset[str],
    path: str,
    open_flags: frozenset[str],
    flags: frozenset[str],
) -> _Open:
    directory = opened.require_directory()
    if open_flags & {"create", "truncate"} or flags & {"write", "mutate-directory"}:
        opened.require_mutable()
    if {"create", "directory"} <= open_flags:
        raise Err("invalid")
    if not keep.account.open_file():
        raise Err("quota")
    try:
        # Non-blocking, because opening a named pipe waits for its other end.
        fd = open_beneath(
            directory,
            _path(path),
            _open_bits(open_flags, flags) | _follow(path_flags) | os.O_NONBLOCK | os.O_NOCTTY,
            0o666 if "create" in open_flags else 0,
        )
    except BaseException:
        keep.account.close_file()
        raise
    child = _Open(fd, keep.account, flags - {"mutate-directory"}, mutable=opened.mutable)
    if child.is_directory:
        child.flags = opened.flags
    return child


def _open_bits(open_flags: frozenset[str], flags: frozenset[str]) -> int:
    bits = os.O_RDONLY
    if "write" in flags:
        bits = os.O_RDWR if "read" in flags else os.O_WRONLY
    for wanted, name, bit in (
        (open_flags, "create", os.O_CREAT),
        (open_flags, "directory", os.O_DIRECTORY),
        (open_flags, "exclusive", os.O_EXCL),
        (open_flags, "truncate", os.O_TRUNC),
        (flags, "file-integrity-sync", os.O_SYNC),
        (flags, "data-integrity-sync", os.O_DSYNC),
        (flags, "requested-write-sync", os.O_RSYNC),
    ):
        if name in wanted:
            bits |= bit
    return bits


@_method("readlink-at", (String,), String)
def _readlink_at(_keep: Keep, opened: _Open, path: str) -> str:
    fd = open_beneath(opened.require_directory(), _path(path), O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            raise Err("invalid")
        target = os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)
    if target.startswith(b"/"):
        # It tells of the host's paths, and could not be followed.
        raise Err("not-permitted")
    try:
        return target.decode()
    except UnicodeDecodeError:
        raise Err("illegal-byte-sequence") from None


@_method("remove-directory-at", (String,), None)
def _remove_directory_at(_keep: Keep, opened: _Open, path: str) -> None:
    opened.require_mutable()
    with Entry(opened.require_directory(), _path(path)) as entry:
        os.rmdir(entry.name, dir_fd=entry.fd)


@_method("rename-at", (String, _SELF, String), None)
def _rename_at(_keep: Keep, opened: _Open, old_path: str, new_opened: _Open, new_path: str) -> None:
    opened.require_mutable()
    new_opened.require_mutable()
    with (
        Entry(opened.require_directory(), _path(old_path)) as old,
        Entry(new_opened.require_directory(), _path(new_path)) as new,
    ):
        os.rename(old.name, new.name, src_dir_fd=old.fd, dst_dir_fd=new.fd)


@_method("symlink-at", (String, String), None)
def _symlink_at(_keep: Keep, opened: _Open, target: str, path: str) -> None:
    opened.require_mutable()
    if target.startswith("/"):
        raise Err("not-permitted")
    with Entry(opened.require_directory(), _path(path)) as entry:
        os.symlink(_path(target), entry.name, dir_fd=entry.fd)


@_method("unlink-file-at", (String,), None)
def _unlink_file_at(_keep: Keep, opened: _Open, path: str) -> None:
    opened.require_mutable()
    with Entry(opened.require_directory(), _path(path)) as entry:
        os.unlink(entry.name, dir_fd=entry.fd)


@types_interface.func("[method]descriptor.is-same-object", (_SELF, _SELF), Bool)
def _is_same_object(_keep: Keep, opened: _Open, other: _Open) -> bool:
    return os.path.samestat(opened.status, other.status)


@_method("metadata-hash", (), METADATA_HASH)
def _metadata_hash(_keep: Keep, opened: _Open) -> tuple[int, int]:
    return _hash(opened.status)


@_method("metadata-hash-at", (PATH_FLAGS, String), METADATA_HASH)
def _metadata_hash_at(_keep: Keep, opened: _Open, path_flags: frozenset[str], path: str) -> tuple[int, int]:
    return _hash(_status_at(opened, path_flags, path))


def _hash(status: os.stat_result) -> tuple[int, int]:
    from hashlib import blake2b

    # Which object it is and nothing that changes while it is: C libraries make this the inode number.
    identity = status.st_dev.to_bytes(8, "little") + status.st_ino.to_bytes(8, "little")
    digest = blake2b(identity, digest_size=16, key=_SECRET).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@types_interface.func(
    "[method]directory-entry-stream.read-directory-entry",
    (Borrow(DIRECTORY_ENTRY_STREAM),),
    Result(Option(DIRECTORY_ENTRY), ERROR_CODE),
)
def _read_directory_entry(_keep: Keep, entries: DirectoryEntries) -> tuple[str, str] | None:
    try:
        return entries.next()
    except OSError as error:
        raise Err(_code(error)) from error


@types_interface.func("filesystem-error-code", (Borrow(ERROR),), Option(ERROR_CODE))
def _filesystem_error_code(_keep: Keep, error: IoError) -> str | None:
    return _code(error.cause) if isinstance(error.cause, OSError) else None


# --- Preopens --------------------------------------------------------------------------------------------------------


def open_directory(directory: Directory) -> int:
    """Open a directory of the workload; the caller closes the descriptor.

    Raises:
        ConfigError: it is none, or may not be read.
    """
    try:
        return os.open(directory.host, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot open the directory: {directory.host}: found no directory that can be read",
            hint="--dir takes HOST::GUEST",
        ) from error


@preopens_interface.func("get-directories", (), ListOf(Tuple(Own(DESCRIPTOR), String)))
def _get_directories(keep: Keep) -> list[tuple[_Open, str]]:
    directories: list[tuple[_Open, str]] = []
    for directory in keep.workload.dirs:
        if not keep.account.open_file():
            # There is no error to return; what does not fit is not given.
            break
        try:
            fd = open_directory(directory)
        except ConfigError:
            keep.account.close_file()
            raise
        mutable = not directory.read_only
        flags = frozenset({"read", "mutate-directory"} if mutable else {"read"})
        directories.append((_Open(fd, keep.account, flags, mutable=mutable), directory.guest))
    return directories
