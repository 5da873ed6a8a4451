# SPDX-License-Identifier: Apache-2.0
"""The state folder of a Steward: private, made whole or not at all, and used by one process at a time where the log is in it.

::

    steward.toml        who gets which names, for how long; the operator's, read again on SIGHUP
    policy.toml         what evidence must be; the operator's, read again on SIGHUP
    ca.key  ca.pem      the authority: its key, and its certificate with those above it, the root last
    root.pem            the authority's own certificate alone: what Keeps, and whoever asks them, are to trust
    ca.uri              in the place of ca.key where the key is in a token: which one, as a PKCS #11 URI
    ca.csr              instead of the certificates, as long as another authority has not signed it
    result.key          signs attestation results, P-384
    log.key             signs checkpoints of the log, Ed25519
    nonce.key           32 bytes, with which nonces are stamped
    original-ca.key     the authority of the original's protocol, which is off unless steward.toml says otherwise
    original-ca.pem
    steward.sqlite3     the log, unless a database elsewhere has it
    checkpoint          the newest of the log that this Steward saw, written by itself
    lock                held by the process that serves with the log here

Several Stewards with one log elsewhere have copies of one folder: the same keys, policy and configuration. Each has a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from typing import Self

from enarx.errors import PlatformError, UsageError
from enarx.user_files import user_folder, write_whole

__all__ = [
    "CHAIN",
    "CHECKPOINT",
    "CONFIGURATION",
    "DATABASE",
    "KEY",
    "KEY_URI",
    "LOG_KEY",
    "NONCE_KEY",
    "ORIGINAL_CHAIN",
    "ORIGINAL_KEY",
    "POLICY",
    "REQUEST",
    "RESULT_KEY",
    "ROOT",
    "StewardFolder",
    "default_folder",
    "make_folder",
    "require_new",
]

CONFIGURATION = "steward.toml"
POLICY = "policy.toml"
KEY = "ca.key"
CHAIN = "ca.pem"
ROOT = "root.pem"
KEY_URI = "ca.uri"
REQUEST = "ca.csr"
RESULT_KEY = "result.key"
LOG_KEY = "log.key"
NONCE_KEY = "nonce.key"
ORIGINAL_KEY = "original-ca.key"
ORIGINAL_CHAIN = "original-ca.pem"
DATABASE = "steward.sqlite3"
CHECKPOINT = "checkpoint"

MAX_FILE_BYTES = 4 << 20
_SECRETS = frozenset({KEY, RESULT_KEY, LOG_KEY, NONCE_KEY, ORIGINAL_KEY})
_LOCK = "lock"


def default_folder() -> str:
    """Return where a Steward keeps its state when nobody says where: below `$XDG_STATE_HOME`, else `~/.local/state`.

    Raises:
        PlatformError: the user has no such place.
    """
    return user_folder("XDG_STATE_HOME", "steward", purpose="keep the Steward's state")


def require_new(path: str) -> None:
    """Refuse a folder in which a Steward or anything else is already.

    Args:
        path: of the folder.

    Raises:
        UsageError: there is something.
        PlatformError: that cannot be found out.
    """
    path = os.path.abspath(path)
    try:
        is_taken = os.path.lexists(path) and (not os.path.isdir(path) or bool(os.listdir(path)))
    except OSError as error:
        raise PlatformError(f"cannot make the Steward's folder: {path}: {error.strerror}") from error
    if is_taken:
        raise UsageError(
            f"cannot make a Steward: {path}: found something already, want nothing or an empty folder",
            hint="name another folder with --state; a Steward's keys are never written over",
        )


def make_folder(path: str, files: Mapping[str, bytes]) -> None:
    """Make the folder of a new Steward, with all of its files or not at all.

    Args:
        path: of which there is nothing yet, or an empty folder.
        files: by name.

    Raises:
        UsageError: there is something already.
        PlatformError: it cannot be made.
    """
    require_new(path)
    path = os.path.abspath(path)
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        # What a killed process left there was nobody's Steward.
        shutil.rmtree(new, ignore_errors=True)
        os.mkdir(new, 0o700)
        for name, data in files.items():
            write_whole(os.path.join(new, name), data, mode=0o600)
        _sync(new)
        os.rename(new, path)
        _sync(os.path.dirname(path))
    except OSError as error:
        raise PlatformError(f"cannot make the Steward's folder: {path}: {error.strerror}") from error


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class StewardFolder:
    """The folder of a Steward that was made.

    Args:
        path: of the folder.

    Raises:
        UsageError: there is none.
        PlatformError: somebody else could have put it there, or it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._lock: int | None = None
        try:
            status = os.stat(self.path)
        except FileNotFoundError as error:
            raise UsageError(
                f"cannot find the Steward: {path}: found no folder, want the one of enarx steward init",
                hint="enarx steward init --name steward.example.com, or name its folder with --state",
            ) from error
        except OSError as error:
            raise PlatformError(f"cannot use the Steward's folder: {path}: {error.strerror}") from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PlatformError(
                f"cannot use the Steward's folder: {path}: found owner {status.st_uid} and mode"
                f" {status.st_mode & 0o777:04o}, want owner {os.geteuid()} and 0700",
                hint=f"chmod 700 {path}",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process use it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lock(self) -> None:
        """Keep other processes from serving with the log that is here.

        Raises:
            PlatformError: one does already.
        """
        lock: int | None = None
        try:
            lock = os.open(self.file(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if lock is not None:
                os.close(lock)
            raise PlatformError(
                f"cannot serve: {self.path}: found another Steward that serves with the log there, want it to ourselves",
                hint="stop that one; several Stewards need one database: --database-file",
            ) from error
        except OSError as error:
            raise PlatformError(f"cannot use the Steward's folder: {self.path}: {error.strerror}") from error
        self._lock = lock

    def file(self, name: str) -> str:
        """Return the path of a file in it, whether it is there or not."""
        return os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        """Say whether a file is there."""
        return os.path.lexists(self.file(name))

    def read(self, name: str) -> bytes:
        """Return all of a file.

        Args:
            name: of the file; what is secret must be its owner's alone.

        Raises:
            UsageError: it is not there.
            PlatformError: it cannot be read, is too large, or is open to others.
        """
        path = self.file(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UsageError(f"cannot read {path}: found nothing, want the file of enarx steward init") from error
        except OSError as error:
            raise PlatformError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._require_private(name, os.fstat(fd))
            with open(fd, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise PlatformError(f"cannot read {path}: {error.strerror}") from error
        finally:
            os.close(fd)
        if len(data) > MAX_FILE_BYTES:
            raise PlatformError(f"cannot read {path}: found more than {MAX_FILE_BYTES} bytes, want fewer")
        return data

    def _require_private(self, name: str, status: os.stat_result) -> None:
        is_secret = name in _SECRETS
        others = 0o077 if is_secret else 0o022
        if status.st_uid != os.geteuid() or status.st_mode & (0o170000 | others) != 0o100000:
            raise PlatformError(
                f"cannot read {self.file(name)}: found owner {status.st_uid} and mode {status.st_mode & 0o7777:04o}, want"
                f" a file of owner {os.geteuid()} that nobody else can {'read' if is_secret else 'write'}",
                hint=f"chmod 600 {self.file(name)}",
            )

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in the place of one of the same name.

        Raises:
            PlatformError: it cannot be written.
        """
        try:
            write_whole(self.file(name), data)
            _sync(self.path)
        except OSError as error:
            raise PlatformError(f"cannot write {self.file(name)}: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file(name))
