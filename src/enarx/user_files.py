# SPDX-License-Identifier: Apache-2.0
"""What we keep for a user: in which folder it is, and how a file is written whole or not at all.

For whoever stores something, on the tenant's side and on the host's. A Keep stores nothing, and `enarx run`, whose start is counted in
milliseconds, has a cache that finds its place by itself (`enarx.runtime.cache`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator

from enarx.errors import ConfigError, PlatformError, UsageError

__all__ = ["create_file", "make_private", "new_folder", "private_cache", "read_key_file", "user_folder", "write_whole"]

_FOLDER_MODE = 0o755
_BELOW_HOME = {"XDG_DATA_HOME": ".local/share", "XDG_STATE_HOME": ".local/state"}


def user_folder(variable: str, name: str, *, purpose: str) -> str:
    """Return the path of a folder of ours below one that the user has for such things; it need not be there.

    Args:
        variable: `XDG_DATA_HOME` or `XDG_STATE_HOME`, whose value counts where it is an absolute path; else it is below `$HOME`.
        name: of the folder, below `enarx`.
        purpose: what it is needed for, as in `cannot keep the key`.

    Raises:
        PlatformError: the user has no such place.

    Spec: XDG Base Directory Specification 0.8.
    """
    base = os.environ.get(variable, "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            raise PlatformError(
                f"cannot {purpose}: found no home directory, want one",
                hint=f"set HOME, or {variable} to a folder of yours",
            )
        base = f"{home}/{_BELOW_HOME[variable]}"
    return f"{base}/enarx/{name}"


def make_private(path: str) -> str:
    """Make a folder of ours that is closed to others, where there is none, and return its path.

    Raises:
        PlatformError: it cannot be made, or is not ours alone.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise PlatformError(f"cannot use {path}: {error.strerror}, want a folder that can be written") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PlatformError(
            f"cannot use {path}: found mode {status.st_mode & 0o7777:o} of user {status.st_uid},"
            f" want a folder of user {os.geteuid()} alone",
            hint=f"chmod 700 {path}",
        )
    return path


def private_cache(name: str) -> str:
    """Return a folder for what can be made again: below `$XDG_CACHE_HOME/enarx`, else `~/.cache/enarx`.

    Raises:
        PlatformError: it cannot be made, or is not ours alone.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.cache")
    return make_private(os.path.join(base, "enarx", name))


def write_whole(
    path: str, data: bytes, *, mode: int = 0o600, temporary: str | None = None, is_durable: bool = True
) -> None:
    """Write a file whole or not at all, in the place of one of the same name.

    Args:
        path: of the file, in a folder where nobody else can write.
        data: all of it.
        mode: exactly.
        temporary: where it is written first, beside it; None is `path` and `.new`, for files that only one process writes at a time.
            What a killed process left there is removed.
        is_durable: whether it is to be whole after a power failure too.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    temporary = temporary or f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if is_durable:
                # A rename can reach the disk before what was renamed.
                os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def create_file(path: str, data: bytes, *, hint: str) -> None:
    """Write a new file that everybody may read, where a command was asked for one.

    Args:
        path: of which there is nothing yet.
        data: all of it.
        hint: what to do where there is something.

    Raises:
        UsageError: there is one, or it cannot be made.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise UsageError(f"cannot write {path}: found one already, want none", hint=hint) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    with open(fd, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Make a folder that everybody may read, which appears under its name when everything in it is there, and not at all otherwise.

    Args:
        path: of which there is nothing yet, or an empty folder.

    Returns:
        The path of the folder until then, beside its place.

    Raises:
        UsageError: there is something, or it cannot be made.
    """
    folder = os.path.abspath(path)
    try:
        if os.path.lexists(folder) and (not os.path.isdir(folder) or os.path.islink(folder) or os.listdir(folder)):
            raise UsageError(f"cannot write {path}: found one already, want none", hint="name another, or remove it")
        temporary = tempfile.mkdtemp(prefix=f".{os.path.basename(folder)}.", dir=os.path.dirname(folder))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield temporary
        try:
            os.chmod(temporary, _FOLDER_MODE)
            os.rename(temporary, folder)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_key_file(path: str, *, what: str, is_secret: bool, max_bytes: int) -> bytes:
    """Read a file with a key that a user names.

    Args:
        path: of the file; a link is followed.
        what: it is, as in `the tenant's key`.
        is_secret: whether it has to be the user's own and closed to everybody else.
        max_bytes: of the file.

    Raises:
        UsageError: it is not there, cannot be read, is no regular file, or others can read it too.
        ConfigError: it is longer.
    """
    try:
        # A pipe is refused, and not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {what}: {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"cannot read {what}: {path}: found no regular file, want one")
        if is_secret and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            raise UsageError(
                f"cannot use {what}: {path}: found owner {status.st_uid} and mode {status.st_mode & 0o7777:04o}, want a file of"
                f" {os.geteuid()} with 0600",
                hint=f"chmod 600 {path}",
            )
        with open(fd, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise ConfigError(f"cannot use {what}: {path}: found more than {max_bytes} bytes, want a key", path=path)
    return data
