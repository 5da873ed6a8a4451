# SPDX-License-Identifier: Apache-2.0
"""Every public exception of enarx, and the exit status each one ends a command with.

::

    EnarxError
    |- UsageError          2    flags that cannot be combined, a file that is not there
    |- ConfigError         2    Enarx.toml or policy: file, line, key
    |- DecodeError       103    not well formed
    |- VerificationError 104    not authentic: signature, chain, revoked, binding, digest
    |- AppraisalError    105    authentic, refused
    |- EndorsementError  106    cannot decide: missing, stale, unreachable
    |- TransportError    107    peer unreachable, too slow, too large
    |- PlatformError     108    no device, no hypervisor, a port or a file that is not ours to use
    `- KeepError         109    the Keep died, or a time, fuel or output limit was hit

Status 1 is left for bugs in enarx. In `run` and `deploy`, 2 becomes 102 so that it cannot be taken for the workload's.

The message is one line, `what failed: subject: found X, want Y`, without a capital or a full stop; `hint` is the next
step, where there is one. No message holds a secret.
"""

from __future__ import annotations

__all__ = [
    "AppraisalError",
    "ConfigError",
    "DecodeError",
    "EnarxError",
    "EndorsementError",
    "KeepError",
    "PlatformError",
    "TransportError",
    "UsageError",
    "VerificationError",
]


class EnarxError(Exception):
    """The root of everything enarx raises on purpose.

    Args:
        message: one line: what failed, what was found, what was wanted.
        hint: one line: what to do next, or None where there is nothing to suggest.
    """

    status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EnarxError):
    """The command line or the call asks for something that cannot be done."""

    status = 2


class ConfigError(EnarxError):
    """A configuration file is wrong.

    Args:
        message: one line, beginning with the file and line where they are known.
        hint: one line: what to do next.
        path: the file, as the user named it.
        line: 1-based line of the offending key, or None.
        key: dotted path of the offending key (`files[2].port`), or None.
    """

    status = 2

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        path: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.line = line
        self.key = key


class DecodeError(EnarxError):
    """Foreign bytes are not well formed."""

    status = 103


class VerificationError(EnarxError):
    """Foreign bytes are well formed and not authentic."""

    status = 104


class AppraisalError(EnarxError):
    """Evidence is authentic and the policy refuses it."""

    status = 105


class EndorsementError(EnarxError):
    """The question cannot be decided: what would decide it is missing, stale or out of reach."""

    status = 106


class TransportError(EnarxError):
    """A peer cannot be reached, is too slow or sends too much."""

    status = 107


class PlatformError(EnarxError):
    """This machine does not give what was asked of it."""

    status = 108


class KeepError(EnarxError):
    """The Keep ended otherwise than by its workload's own choice."""

    status = 109
