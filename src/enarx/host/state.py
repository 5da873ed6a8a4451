# SPDX-License-Identifier: Apache-2.0
"""The state directory of a host: private, and used by one host at a time.

::

    lock               held by the host that uses the directory
    state.sqlite3      what it remembers
    keeps/<id>/link    the socket on which a Keep waits for its host
    keeps/<id>/console what a Keep process said outside its sessions, which is next to nothing
    keeps/<id>/blobs/  ciphertext that tenants uploaded, by its digest
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator

from enarx.errors import PlatformError
from enarx.runtime.scratch import sweep
from enarx.user_files import user_folder

__all__ = ["StateFolder", "connect_link", "default_state_path", "listen_link"]

LINK_BACKLOG = 4


def default_state_path() -> str:
    """Return where a host keeps its state when nobody says where: below `$XDG_STATE_HOME`, else `~/.local/state`.

    Raises:
        PlatformError: the user has no such place.
    """
    return user_folder("XDG_STATE_HOME", "host", purpose="keep the host's state")


class StateFolder:
    """A state directory, locked.

    Args:
        path: the directory; it is made where there is none.

    Raises:
        PlatformError: it cannot be made, is open to others, or another host uses it.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            os.makedirs(os.path.join(self.path, "keeps"), mode=0o700, exist_ok=True)
            status = os.stat(self.path)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PlatformError(
                    f"cannot use the state directory: {path}: found it writable by others, want it ours alone",
                    hint=f"chmod 700 {path}, or name another with --state",
                )
            os.chmod(self.path, 0o700)
            self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PlatformError(f"cannot use the state directory: {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise PlatformError(
                f"cannot use the state directory: {path}: found another host that uses it, want it to ourselves",
                hint="name another one with --state, or stop that host",
            ) from error

    def close(self) -> None:
        """Let another host use it."""
        os.close(self._lock)

    @property
    def store_path(self) -> str:
        """Return the path of the state file."""
        return os.path.join(self.path, "state.sqlite3")

    def keep(self, identifier: str) -> str:
        """Return the folder of a Keep."""
        return os.path.join(self.path, "keeps", identifier)

    def make_keep(self, identifier: str) -> str:
        """Make the folder of a new Keep and return it.

        Raises:
            PlatformError: it cannot be made.
        """
        folder = self.keep(identifier)
        try:
            os.makedirs(os.path.join(folder, "blobs"), mode=0o700)
        except OSError as error:
            raise PlatformError(f"cannot make the folder of a Keep: {error.strerror}") from error
        return folder

    def remove_keep(self, identifier: str) -> None:
        """Remove what is left of a Keep, in memory too; what is not there need not be removed."""
        shutil.rmtree(self.keep(identifier), ignore_errors=True)
        # A process that was killed could not remove the directories that travelled to it.
        sweep()

    def remove_strangers(self, known: set[str]) -> None:
        """Remove the folders of Keeps that nobody remembers."""
        for name in os.listdir(os.path.join(self.path, "keeps")):
            if name not in known:
                self.remove_keep(name)


def listen_link(folder: str, name: str = "link") -> socket.socket:
    """Make the listening socket of a Keep's link, or of another port of its, in its folder.

    Raises:
        OSError: the folder is not there, or has one.
    """
    with _link_in(folder, name) as (link, path):
        link.bind(path)
        link.listen(LINK_BACKLOG)
        return link


def connect_link(folder: str, name: str = "link") -> socket.socket:
    """Connect to the link of a Keep, or to another port of its, without waiting: a backlog that is full is a Keep that does not answer.

    Raises:
        OSError: nobody listens there.
    """
    with _link_in(folder, name) as (link, path):
        link.setblocking(False)
        link.connect(path)
        return link


@contextlib.contextmanager
def _link_in(folder: str, name: str) -> Iterator[tuple[socket.socket, str]]:
    """Give a new socket, and the path of the link in a folder as long as the block runs; where that fails, the socket is closed."""
    around = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The path of a socket has room for 107 bytes, and the state directory's may be longer.
        yield link, f"/proc/self/fd/{around}/{name}"
    except OSError:
        link.close()
        raise
    finally:
        os.close(around)
