# SPDX-License-Identifier: Apache-2.0
"""Remember which package a tag of a registry led to, and refuse it when it leads to another.

A registry is not trusted. It cannot send other bytes under a digest; under a tag it can send whatever it likes, an old release with a
known hole in it for one. So the digest that a tag led to first is written down, and a tag that leads elsewhere is refused until the
tenant says that this is meant. Whoever names a digest has said so already, and nothing is looked up.

`$XDG_STATE_HOME/enarx/known-tags/tags.json`, else below `~/.local/state`: an object of `HOST/REPOSITORY:TAG` and `sha256:...`, readable
by its owner alone, written whole, by one process at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from enarx.errors import ConfigError, PlatformError, VerificationError
from enarx.user_files import make_private, user_folder, write_whole
from enarx.wire.oci import is_digest
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["known_digest", "require_known"]

MAX_TAGS = 10_000
MAX_BYTES = 8 << 20
# Of colons and brackets a name has up to a dozen: ports, and addresses of IPv6.
_MAX_ITEMS = 16 * MAX_TAGS
_FILE = "tags.json"


def require_known(
    reference: str, digest: str, *, accept_new: bool = False, remember: bool = True, folder: str | None = None
) -> None:
    """Return if a tag leads where it led before, or was never seen; remember where it leads.

    Args:
        reference: `HOST/REPOSITORY:TAG`, as it is resolved.
        digest: `sha256:...`, to which it leads now.
        accept_new: whether it may lead elsewhere from now on.
        remember: whether it is written down.
        folder: where it is written down; None is the user's own.

    Raises:
        VerificationError: it led to another digest before. What is written down stays.
        ConfigError: what is written down is not what we write.
        PlatformError: it cannot be read or written, or is open to others.
    """
    with _record(folder) as path:
        known = _read(path)
        before = known.get(reference)
        if before == digest:
            return
        if before is not None and not accept_new:
            raise VerificationError(
                f"the tag was moved: {reference}: found {digest}, want {before}, to which it led before",
                hint="if the new package is meant, --accept-new-digest accepts it from now on; an older release would look the same",
            )
        if not remember:
            return
        known.pop(reference, None)
        known[reference] = digest
        # The ones that were written down first go first, where there are more than anybody has.
        kept = list(known.items())[-MAX_TAGS:]
        try:
            write_whole(path, json.dumps(dict(kept), indent=1).encode(), mode=0o600)
        except OSError as error:
            raise PlatformError(f"cannot remember the tag {reference}: {path}: {error.strerror}") from error


def known_digest(reference: str, *, folder: str | None = None) -> str | None:
    """Return to which digest a tag led before, or None.

    Raises:
        ConfigError, PlatformError: as above.
    """
    with _record(folder) as path:
        return _read(path).get(reference)


@contextmanager
def _record(folder: str | None) -> Iterator[str]:
    """Give the path of the record to one process at a time."""
    place = make_private(folder or user_folder("XDG_STATE_HOME", "known-tags", purpose="remember tags"))
    try:
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(f"cannot remember tags: {place}: {error.strerror}") from error
    try:
        # Held for as long as it takes to write a short file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield os.path.join(place, _FILE)
    finally:
        os.close(lock)


def _read(path: str) -> dict[str, str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PlatformError(f"cannot read the known tags: {path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        found = load_json_untrusted(
            file.read(MAX_BYTES + 1), what=f"record of tags {path}", max_bytes=MAX_BYTES, max_items=_MAX_ITEMS
        )
    if type(found) is not dict or not all(type(each) is str and is_digest(each) for each in found.values()):
        raise ConfigError(
            f"{path}: found something else, want tags and digests",
            path=path,
            hint="what is in it decides which packages are refused: look who changed it, and put it right or remove it",
        )
    return found
