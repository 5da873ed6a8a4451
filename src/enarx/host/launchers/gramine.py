# SPDX-License-Identifier: Apache-2.0
"""What an SGX enclave of Gramine is for a Keep: its manifest, and its measurement where Gramine's signer is there.

The manifest is the whole of what the enclave believes. Arguments and environment are written in it; nothing of them comes from the
host. Every file that it reads is named with its SHA-256, and none is let in unseen. It names no debug enclave.

Nothing here starts an enclave (`sgx`), and nothing is read but what is given.

Source: Gramine 1.9 Documentation/manifest-syntax.rst; Intel SDM volume 3D, table 38-19 (SIGSTRUCT).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from enarx.errors import ConfigError, PlatformError

__all__ = ["EnclaveSpec", "enclave_measurement", "make_manifest", "sign_manifest"]

SIGNER = "gramine-sgx-sign"
SIGN_TIMEOUT_S = 300.0
_SIGSTRUCT_BYTES = 1808
_ENCLAVE_HASH = slice(960, 992)
_MAX_FILES = 4096
_ROOT = re.compile(r"[a-z]{1,32}")
_PATH = re.compile(r"/[\x20-\x21\x23-\x5b\x5d-\x7e]{0,1023}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSpec:
    """An enclave that is wanted.

    Args:
        libos: path of Gramine's library OS.
        libos_sha256: of that file, in hex.
        program: path of the program, the first of its arguments too.
        arguments: the others.
        environment: all of it.
        files: SHA-256 in hex, by the path that each file has inside.
        root: folder outside that stands for `/` inside, relative to where the enclave is started; empty is `/` itself.
        links: files of `files` by further paths that they have inside.
        enclave_bytes: size of the enclave, a power of two.
        threads: that it can have.
    """

    libos: str
    libos_sha256: str
    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    files: Mapping[str, str]
    enclave_bytes: int
    root: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    threads: int = 64


def make_manifest(spec: EnclaveSpec) -> str:
    """Return the manifest of an enclave, as TOML; equal enclaves have equal ones.

    Raises:
        ConfigError: a path, a digest or a size that cannot be in one, or a program whose digest is not given.
    """
    if spec.enclave_bytes < 1 << 20 or spec.enclave_bytes & (spec.enclave_bytes - 1):
        raise _refusal("enclave size", spec.enclave_bytes, "a power of two from 1 MiB")
    if not 1 <= len(spec.files) <= _MAX_FILES:
        raise _refusal("files", len(spec.files), f"1 to {_MAX_FILES}")
    if spec.root and not _ROOT.fullmatch(spec.root):
        raise _refusal("root", spec.root[:64], "a plain name, or none")
    for path, digest in {**spec.files, spec.libos: spec.libos_sha256}.items():
        if not _PATH.fullmatch(path) or "/../" in f"{path}/":
            raise _refusal("file", path[:64], "an absolute path of plain characters")
        if not _DIGEST.fullmatch(digest):
            raise _refusal(path, digest[:70], "SHA-256 in hex")
    for path, target in spec.links.items():
        if not _PATH.fullmatch(path) or "/../" in f"{path}/" or path in spec.files or target not in spec.files:
            raise _refusal("link", f"{path[:64]} to {target[:64]}", "another path of one of the files")
    if spec.program not in spec.files:
        raise _refusal("files", f"none of {spec.program}", "its digest")
    inside = {path: f"file:{spec.root}{path}" for path in spec.files}
    mounts = inside | {path: inside[target] for path, target in spec.links.items()}
    trusted = {inside[path]: digest for path, digest in spec.files.items()}
    trusted["file:" + spec.libos] = spec.libos_sha256
    lines = [
        f"loader.entrypoint.uri = {_text('file:' + spec.libos)}",
        f"libos.entrypoint = {_text(spec.program)}",
        f"loader.argv = [{', '.join(_text(word) for word in (spec.program, *spec.arguments))}]",
        'loader.log_level = "error"',
        *(f"loader.env.{_key(name)} = {_text(value)}" for name, value in sorted(spec.environment.items())),
        "sys.enable_sigterm_injection = false",
        'fs.root.type = "tmpfs"',
        "fs.mounts = [",
        *(f"  {{ path = {_text(path)}, uri = {_text(uri)} }}," for path, uri in sorted(mounts.items())),
        '  { type = "tmpfs", path = "/tmp" },',
        "]",
        f"sgx.enclave_size = {_text(str(spec.enclave_bytes))}",
        f"sgx.max_threads = {spec.threads}",
        "sgx.debug = false",
        "sgx.edmm_enable = false",
        'sgx.remote_attestation = "dcap"',
        "sgx.isvprodid = 0",
        "sgx.isvsvn = 0",
        "sgx.trusted_files = [",
        *(f"  {{ uri = {_text(uri)}, sha256 = {_text(digest)} }}," for uri, digest in sorted(trusted.items())),
        "]",
    ]
    return "\n".join(lines) + "\n"


def enclave_measurement(manifest: str) -> bytes | None:
    """Return MRENCLAVE of a manifest, computed by Gramine's signer with a key that is thrown away; None without a signer.

    Returns:
        32 bytes, which do not depend on the key.

    Raises:
        PlatformError: the signer fails.
    """
    if shutil.which(SIGNER) is None:
        return None
    with tempfile.TemporaryDirectory(prefix="enarx-sgx-") as folder:
        return sign_manifest(manifest, os.path.join(folder, "keep"))


def sign_manifest(manifest: str, path: str) -> bytes:
    """Write what an enclave is started from, `PATH.manifest.sgx` and `PATH.sig`, signed with a key that is thrown away.

    Returns:
        MRENCLAVE, 32 bytes.

    Raises:
        PlatformError: there is no signer, or it fails.
    """
    signer = shutil.which(SIGNER)
    if signer is None:
        raise PlatformError(f"cannot sign an enclave: found no {SIGNER} on PATH, want it", hint="install Gramine")
    key = f"{path}.key"
    command = [signer, "--manifest", f"{path}.manifest", "--output", f"{path}.manifest.sgx"]
    command += ["--key", key, "--sigfile", f"{path}.sig"]
    try:
        with open(f"{path}.manifest", "w", encoding="ascii") as file:
            file.write(manifest)
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as secret:
            secret.write(_throwaway_key())
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SIGN_TIMEOUT_S,
                check=True,
                cwd=os.path.dirname(path),
            )
        finally:
            os.unlink(key)
        with open(f"{path}.sig", "rb") as signed:
            signature = signed.read(_SIGSTRUCT_BYTES + 1)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PlatformError(
            f"cannot sign an enclave: {SIGNER}: found status {error.returncode}, want 0: {said[-1][:500] if said else 'no word'}"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise PlatformError(f"cannot sign an enclave: {SIGNER}: {error}") from error
    if len(signature) != _SIGSTRUCT_BYTES:
        raise PlatformError(
            f"cannot sign an enclave: {SIGNER}: found {len(signature)} bytes, want a SIGSTRUCT of {_SIGSTRUCT_BYTES}"
        )
    return signature[_ENCLAVE_HASH]


def _throwaway_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    # SGX takes RSA with 3072 bits and exponent 3 only.
    key = generate_private_key(public_exponent=3, key_size=3072)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _text(value: str) -> str:
    """Return a TOML string; what would have to be escaped is refused, so that nobody has to read escapes."""
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise _refusal("text", value[:64], "plain characters")
    return f'"{value}"'


def _key(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        raise _refusal("environment", name[:64], "a name of letters, digits and _")
    return name


def _refusal(what: str, found: object, want: str) -> ConfigError:
    return ConfigError(f"cannot make a Gramine manifest: {what}: found {found}, want {want}")
