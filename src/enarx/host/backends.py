# SPDX-License-Identifier: Apache-2.0
"""The names of the backends, those this version can launch, and the choice of one.

On the path of every `run`: plain code, no imports but the error tree. What a machine has is asked of `enarx.host.probes`,
and only when the answer can change the choice.
"""

from __future__ import annotations

from enarx.errors import PlatformError, UsageError

__all__ = ["BACKENDS", "LAUNCHABLE", "RUNNABLE", "choose_backend"]

# In the order in which people see them.
BACKENDS = ("snp", "tdx", "cca", "sgx", "vm", "nil")

# What a host of this version has a launcher for without being asked to try.
LAUNCHABLE: tuple[str, ...] = ("snp", "tdx", "vm", "nil")

# What `run` runs in, which starts no Keep: this process.
RUNNABLE: tuple[str, ...] = ("nil",)

# What `auto` tries before nil. vm is not among them: it costs a boot and still has no TEE.
_AUTO_ORDER = ("snp", "tdx", "cca", "sgx")


def choose_backend(requested: str) -> str:
    """Name the backend that a run uses.

    Only `auto` looks at the machine, and only for what a run can be in.

    Args:
        requested: `auto`, or one of `BACKENDS`.

    Returns:
        One of `BACKENDS`; for `auto` the first usable TEE, else `nil`.

    Raises:
        UsageError: no such backend.
        PlatformError: a backend that a run cannot be in.
    """
    if requested == "auto":
        for backend in _AUTO_ORDER:
            if backend in RUNNABLE and _is_usable(backend):
                return backend
        return "nil"
    if requested not in BACKENDS:
        from difflib import get_close_matches

        known = ("auto", *BACKENDS)
        nearest = get_close_matches(requested[:64].lower(), known, 1, 0.5)
        raise UsageError(
            f"backend: found {requested[:64]!r}, want one of {', '.join(known)}",
            hint=f"the nearest is {nearest[0]}" if nearest else "enarx platform info lists them",
        )
    if requested not in RUNNABLE:
        is_launchable = requested in LAUNCHABLE
        raise PlatformError(
            f"backend {requested}: found a backend that run does not have, want {', '.join(RUNNABLE)}",
            hint=f"enarx deploy --backend {requested} starts a Keep of it"
            if is_launchable
            else "enarx platform info says what this machine has",
        )
    return requested


def _is_usable(backend: str) -> bool:
    from enarx.host.probes import report_backend, this_machine

    return report_backend(backend, this_machine()).usable
