# SPDX-License-Identifier: Apache-2.0
"""Where an installation's own emulated platform is, and its root certificate, for who accepts what it signs.

The platform itself is the host's (`enarx.emulator.installation`); this file knows the place and reads the one file there that is no
secret. Reading it accepts nothing: that takes a policy with `insecure_emulated_roots`.
"""

from __future__ import annotations

import hashlib
import os

from enarx.errors import PlatformError, UsageError
from enarx.user_files import user_folder

__all__ = ["OWN_ROOT", "default_folder", "emulated_root", "own_emulated_root", "read_emulated_root"]

OWN_ROOT = ""
"""Stands for the root of this installation's own emulated platform."""

_ROOT_FILE = "ark.der"
_MAX_ROOT_BYTES = 16384


def default_folder() -> str:
    """Return the folder of this user's emulated platform: below `$XDG_DATA_HOME`, else `~/.local/share`.

    Raises:
        PlatformError: the user has no such place.
    """
    return user_folder("XDG_DATA_HOME", "emulated-platform", purpose="find the emulated platform")


def read_emulated_root(folder: str | None = None) -> bytes | None:
    """Return the root certificate of an emulated platform.

    Args:
        folder: of the platform; None is `default_folder()`.

    Returns:
        The ARK in DER, or None where no platform was made yet.

    Raises:
        PlatformError: somebody else could have put it there, or it cannot be read.
    """
    path = f"{folder if folder is not None else default_folder()}/{_ROOT_FILE}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlatformError(f"cannot read the emulated platform's root: {path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        for status, kind in ((os.lstat(os.path.dirname(path)), 0o040000), (os.fstat(fd), 0o100000)):
            if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != kind:
                raise PlatformError(
                    f"cannot read the emulated platform's root: {path}: found owner {status.st_uid} and mode"
                    f" {status.st_mode & 0o7777:04o}, want owner {os.geteuid()} and nobody else who can write",
                    hint=f"remove {os.path.dirname(path)}: the next local host makes another platform",
                )
        root = file.read(_MAX_ROOT_BYTES + 1)
    if not 0 < len(root) <= _MAX_ROOT_BYTES:
        raise PlatformError(
            f"cannot read the emulated platform's root: {path}: found {len(root)} bytes or more, want 1 to {_MAX_ROOT_BYTES}"
        )
    return root


def own_emulated_root() -> bytes:
    """Return the SHA-256 of the root certificate of this installation's own emulated platform.

    Raises:
        PlatformError: it has none yet, or somebody else could have put it there.
    """
    root = read_emulated_root()
    if root is None:
        raise PlatformError(
            "cannot accept this installation's emulated platform: found none",
            hint="enarx host serve makes one on its machine; name another machine's: --insecure-accept-emulated=ROOT-SHA256",
        )
    return hashlib.sha256(root).digest()


def emulated_root(text: str) -> bytes:
    """Return the SHA-256 of an emulated platform's root that somebody accepts.

    Args:
        text: in hex, or `OWN_ROOT`. A host makes its platform when a Keep first asks it: the own root is there after an offer.

    Raises:
        UsageError: it is no digest.
        PlatformError: the installation has no emulated platform.
    """
    if text == OWN_ROOT:
        return own_emulated_root()
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError(
            f"cannot accept an emulated platform: found {text[:80]!r}, want the SHA-256 of its root certificate, 64 hex digits",
            hint="without a value, --insecure-accept-emulated accepts this installation's own",
        )
    return digest
