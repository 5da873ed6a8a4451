# SPDX-License-Identifier: Apache-2.0
"""The names of the backends, those this version can launch, and the choice of one.

On the path of every `run`: plain code, no imports but the error tree. What a machine has is asked of `enarx.host.probes`,
and only when the answer can change the choice.
"""

from __future__ import annotations

from enarx.errors import PlatformError, UsageError

__all__ = ["BACKENDS", "EXPERIMENTAL", "LAUNCHABLE", "RUNNABLE", "choose_backend", "require_backend", "reservation"]

# In the order in which people see them.
BACKENDS = ("snp", "tdx", "cca", "sgx", "vm", "nil")

# What a host of this version has a launcher for without being asked to try.
LAUNCHABLE: tuple[str, ...] = ("snp", "tdx", "vm", "nil")

# What it has one for only where it is asked to try, because nobody has seen a Keep of it.
EXPERIMENTAL: tuple[str, ...] = ("cca", "sgx")

# What a machine can have, and no Keep is ever deployed into.
_WITHOUT_EVIDENCE = ("pef",)

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
    require_backend(requested)
    if requested not in RUNNABLE:
        option = " --experimental" if requested in EXPERIMENTAL else ""
        raise PlatformError(
            f"backend {requested}: found a backend that run does not have, want {', '.join(RUNNABLE)}",
            hint=f"enarx deploy --backend {requested}{option} starts a Keep of it",
        )
    return requested


def require_backend(requested: str) -> None:
    """Return if a Keep can be of a backend, on some machine.

    Args:
        requested: `auto`, or one of `BACKENDS`.

    Raises:
        UsageError: no such backend.
        PlatformError: one that no Keep is deployed into.
    """
    if requested == "auto" or requested in BACKENDS:
        return
    if requested in _WITHOUT_EVIDENCE:
        raise PlatformError(
            f"backend {requested}: found one that no Keep is deployed into, want one of {', '.join(BACKENDS)}",
            hint=reservation(requested),
        )
    from difflib import get_close_matches

    known = ("auto", *BACKENDS)
    nearest = get_close_matches(requested[:64].lower(), known, 1, 0.5)
    raise UsageError(
        f"backend: found {requested[:64]!r}, want one of {', '.join(known)}",
        hint=f"the nearest is {nearest[0]}" if nearest else "enarx platform info lists them",
    )


def reservation(backend: str) -> str | None:
    """Say why a host does not offer a backend that this version knows; None where there is nothing to say of it.

    Args:
        backend: any name.
    """
    if backend in EXPERIMENTAL:
        return "offered only with --experimental, where a machine can have it: nobody has seen a Keep of it"
    if backend in _WITHOUT_EVIDENCE:
        return "its guests have no way to give evidence, so no Keep is deployed there"
    return None


def _is_usable(backend: str) -> bool:
    from enarx.host.probes import report_backend, this_machine

    return report_backend(backend, this_machine()).usable
