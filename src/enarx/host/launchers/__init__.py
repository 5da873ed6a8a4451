# SPDX-License-Identifier: Apache-2.0
"""What starts Keeps. One module for each backend, and this small interface between them and the rest of the host.

A launcher knows how a Keep of its backend comes into being and how it is ended. It knows nothing of tenants, the API
and what travels on a link. Whatever it started goes on when the host ends, and it can take it over again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

from enarx.errors import EnarxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.measure import LaunchParts

__all__ = ["KeepSpec", "Launched", "Launcher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSpec:
    """The Keep that is wanted.

    Args:
        id: 16 hexadecimal digits.
        memory_bytes: the most that the workload's memory may take.
        package_bytes: the largest package.
        log_bytes: of output that is kept while no tenant is attached.
    """

    id: str
    memory_bytes: int
    package_bytes: int
    log_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A Keep that runs.

    Args:
        pid: the process that ends when the Keep does.
        start_ticks: when it started, in clock ticks since the machine did.
        pidfd: of that process, readable as soon as it has ended; the receiver's to close.
        tpm_key_sha256: of the key that its virtual TPM attests with, 64 hexadecimal digits; None where it has none, or where
            that was known to the host process before.
    """

    pid: int
    start_ticks: int
    pidfd: int
    tpm_key_sha256: str | None = None


class Launcher(Protocol):
    """Starts Keeps of one backend."""

    backend: str

    @property
    def start_timeout_s(self) -> float:
        """Return how long a Keep may take from its start to its first word."""
        ...

    def reserved_bytes(self, memory_bytes: int, package_bytes: int) -> int:
        """Return how much of this machine's memory a Keep may take whose workload and package may take so much."""
        ...

    def start(self, spec: KeepSpec, folder: str) -> Launched:
        """Start a Keep, without waiting for it; its link will be `<folder>/link`.

        Raises:
            PlatformError: it cannot be started.
        """
        ...

    def adopt(self, identifier: str, pid: int, start_ticks: int) -> Launched | None:
        """Take over a Keep that another host process started; None where it has ended."""
        ...

    def connect(self, folder: str) -> socket.socket:
        """Return a stream socket, not blocking, that is connected to the Keep's link.

        Raises:
            OSError: nobody listens there.
        """
        ...

    def stop(self, launched: Launched, *, at_once: bool) -> None:
        """End a Keep, at once or after it has tidied up. That it has ended is seen on its `pidfd`."""
        ...

    def stop_strays(self, identifier: str) -> None:
        """End what was started for a Keep whose process was never recorded."""
        ...

    def explain(self, folder: str) -> EnarxError | None:
        """Say why the Keep of a folder ended; None where it did so by itself or was told to, or nothing is known of it."""
        ...

    def parts(self, folder: str) -> LaunchParts:
        """Say what the machine of a folder was started with; blocking, for a thread.

        Raises:
            PlatformError: it is no machine, or it cannot be told.
            DecodeError: it has no firmware that could be told.
        """
        ...

    def report(self, launched: Launched, request: bytes) -> bytes:
        """Answer what a Keep asks of its platform; blocking, for a thread.

        Raises:
            DecodeError: the request is not one.
            PlatformError: this platform answers on no stream, or not now.
        """
        ...
