# SPDX-License-Identifier: Apache-2.0
"""Whether a workload shows a certificate of the Keep's at all: asked at every start, so it imports nothing else."""

from __future__ import annotations

import os

from enarx.wire.records import ConnectFile, EnarxToml, ListenFile

__all__ = ["needs_certificate"]

_CORE = b"\0asm\x01\0\0\0"


def needs_certificate(toml: EnarxToml, module_fd: int) -> bool:
    """Return whether a workload has TLS sockets that show the Keep's own certificate.

    Args:
        toml: what holds.
        module_fd: main.wasm; a core module connects only where `files` says so.
    """
    if toml.tls.certificate is not None:
        return False
    if any(isinstance(file, ListenFile | ConnectFile) and file.prot == "tls" for file in toml.files):
        return True
    # HTTP of a component goes wherever it may connect to.
    may_connect = bool(toml.allow_connect) or any(isinstance(file, ConnectFile) for file in toml.files)
    return may_connect and os.pread(module_fd, len(_CORE), 0) != _CORE
