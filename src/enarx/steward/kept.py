# SPDX-License-Identifier: Apache-2.0
"""The newest checkpoint that a Steward saw, in a file of its own: whoever can write the database alone cannot take the log's tail away.

The signatures in a database from which the newest entries were removed are all good. That there was more is known to whoever kept a later
checkpoint, and this is the Steward's own: read when it starts and when its log is audited, written after it signed another one. Each of
several Stewards with one log has its own.
"""

from __future__ import annotations

import os

from enarx.errors import DecodeError, PlatformError, UsageError, VerificationError
from enarx.steward import folder as files
from enarx.steward.folder import StewardFolder
from enarx.steward.log import Checkpoint, VerifierKey, verify_checkpoint
from enarx.user_files import write_whole

__all__ = ["KeptCheckpoint"]


class KeptCheckpoint:
    """The file.

    Args:
        folder: of the Steward.
    """

    def __init__(self, folder: StewardFolder) -> None:
        self._folder = folder

    def text(self) -> str | None:
        """Return what is kept, which nobody has looked at yet; None where nothing is.

        Raises:
            PlatformError: it cannot be read, or others can write it.
        """
        if not self._folder.has(files.CHECKPOINT):
            return None
        try:
            return self._folder.read(files.CHECKPOINT).decode("utf-8", "replace")
        except UsageError:
            # Gone since.
            return None

    def checkpoint(self, key: VerifierKey) -> Checkpoint | None:
        """Return what is kept, or None where nothing is.

        Args:
            key: of the log.

        Raises:
            VerificationError: it is not of this log.
            PlatformError: it cannot be read, or others can write it.
        """
        text = self.text()
        if text is None:
            return None
        try:
            return verify_checkpoint(text, key)
        except (DecodeError, VerificationError) as error:
            raise VerificationError(
                f"cannot use the kept checkpoint: {self._folder.file(files.CHECKPOINT)}: {error}",
                hint="audit the log with one that you saved: `enarx steward audit --since FILE`; then remove this file",
            ) from error

    def keep(self, text: str) -> None:
        """Keep another one, durably.

        Args:
            text: signed.

        Raises:
            PlatformError: it cannot be written; what was kept before still is.
        """
        path = self._folder.file(files.CHECKPOINT)
        try:
            # With a database elsewhere nothing keeps two processes from having one folder.
            write_whole(path, text.encode(), temporary=f"{path}.{os.getpid()}.new")
        except OSError as error:
            raise PlatformError(f"cannot write {path}: {error.strerror}") from error
