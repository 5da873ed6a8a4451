# SPDX-License-Identifier: Apache-2.0
"""Find the device that gives evidence on this machine. Nothing of it is emulated, but where the caller has such a platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from enarx.attester.system import LinuxSystem, exists
from enarx.errors import PlatformError, UsageError

if TYPE_CHECKING:
    from enarx.attester.attested import Attester
    from enarx.attester.system import System

__all__ = ["BACKENDS", "find_attester"]

BACKENDS = ("snp", "tdx", "cca", "sgx", "nitro", "vm")
"""Those that a device can be of, the strongest first that a machine may have several of."""


def _configfs(system: System) -> Attester | None:
    from enarx.attester.configfs import find_configfs

    return find_configfs(system)


def _sev_guest(system: System) -> Attester | None:
    from enarx.attester.sev_guest import find_sev_guest

    return find_sev_guest(system)


def _gramine(system: System) -> Attester | None:
    from enarx.attester.gramine import find_gramine

    return find_gramine(system)


def _nsm(system: System) -> Attester | None:
    from enarx.attester.nsm import find_nsm

    return find_nsm(system)


def _azure(system: System) -> Attester | None:
    from enarx.attester.azure import find_azure

    return find_azure(system)


def _tpm(system: System) -> Attester | None:
    from enarx.attester.tpm import find_tpm

    return find_tpm(system)


_TPM = "/dev/tpmrm0"
# Where this is not there, neither is the device, and to know that nothing of its driver has to be loaded.
_FILES = {
    "/dev/sev-guest": "/dev/sev-guest",
    "/dev/attestation": "/dev/attestation/attestation_type",
    "/dev/nsm": "/dev/nsm",
    "Azure's virtual TPM": _TPM,
}
# A TPM last, after an emulated platform too: a confidential VM of a cloud has one beside its TEE, and it is the provider's.
_SEARCHED: tuple[tuple[str, tuple[str, ...], Callable[[System], Attester | None]], ...] = (
    ("configfs-tsm", ("snp", "tdx", "cca"), _configfs),
    ("/dev/sev-guest", ("snp",), _sev_guest),
    ("/dev/attestation", ("sgx",), _gramine),
    ("/dev/nsm", ("nitro",), _nsm),
    ("Azure's virtual TPM", ("snp",), _azure),
    (_TPM, ("vm",), _tpm),
)


def find_attester(
    root: str = "/",
    *,
    backend: str | None = None,
    system: System | None = None,
    emulated: Attester | None = None,
) -> Attester:
    """Return the attester of this machine.

    Args:
        root: folder that stands for `/`.
        backend: of `BACKENDS`: no other will do; None takes the first that there is.
        system: another machine than this one.
        emulated: the emulated platform, where the host has one; it goes before a TPM, and after every TEE.

    Raises:
        PlatformError: there is none, or it cannot be asked.
        UsageError: a backend that gives no evidence by a device.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(
            f"cannot attest: backend: found {backend}, want one of {', '.join(BACKENDS)}",
            hint="the emulated platform gives evidence to Keeps of a host only" if backend == "nil" else None,
        )
    machine = system if system is not None else LinuxSystem(root)
    tried: list[str] = []
    problem: PlatformError | None = None
    for device, backends, find in _SEARCHED:
        if device == _TPM and emulated is not None:
            return emulated
        if backend is not None and backend not in backends:
            continue
        try:
            there = device not in _FILES or exists(machine, _FILES[device])
            found = find(machine) if there else None
        except PlatformError as error:
            # Another device may still answer; if none does, this is what there is to tell.
            problem = problem or error
            continue
        if found is not None and backend in {None, found.backend}:
            return found
        tried.append(device if found is None else f"{device} (which is {found.backend})")
    if problem is not None:
        raise problem
    raise PlatformError(
        f"cannot attest: {backend or 'this machine'}: found no device, want one of {', '.join(tried)}",
        hint="evidence is given inside a TEE; enarx platform info shows what this machine has",
    )
