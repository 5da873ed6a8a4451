# SPDX-License-Identifier: Apache-2.0
"""Open what a tenant sealed: the release, the blobs that it names, and what they are to be together.

Rules of this file:

- A byte of plaintext is parsed only after the ciphertext's digest, every tag and the plaintext's digest and length were found right.
  A layer as a registry has it is not even decrypted before its digest and its HMAC were.
- Plaintext is in memory files only; the module's is sealed, so that nobody changes it after it was checked.
- Keys are forgotten as soon as they were used.
- Whatever is wrong is said once, by class and without a byte of the tenant's; then the Keep ends.

Source: docs/protocol.md, "Package and provision".
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from enarx.channel.hpke import OneTimeKey
from enarx.channel.segments import Opener, ciphertext_length
from enarx.channel.transcript import configuration_digest, spki_hash
from enarx.errors import KeepError, PlatformError, TransportError, VerificationError
from enarx.keep.workload_start import Start
from enarx.runtime.scratch import Scratch
from enarx.wire.overrides import apply_overrides, require_steward
from enarx.wire.records import DEFAULT_MEMORY_BYTES, Dir, EnarxToml, replace
from enarx.wire.release import (
    FILES,
    MAIN,
    MAX_FILES_BYTES,
    TOML,
    Blob,
    Configuration,
    Content,
    Identity,
    Layer,
    Release,
    TravellingFiles,
    decode_files_untrusted,
    decode_manifest_untrusted,
    decode_release_untrusted,
    encode_identity,
)
from enarx.wire.session import Limits

__all__ = ["Package", "Source", "identify", "make_start", "open_release", "receive_package"]

ARRIVAL_S = 300.0
"""For all blobs."""
PROGRESS_S = 30.0
"""For the next bytes of a blob."""

_READ_BYTES = 1 << 20


class Source(Protocol):
    """Where a ciphertext comes from; a stream of the link is one."""

    async def read(self, max_bytes: int = ...) -> bytes:
        """Wait for bytes; none is the end."""
        ...

    def reset(self, reason: str = ...) -> None:
        """Want no more."""
        ...


class Package(NamedTuple):
    """What was received and found right.

    Args:
        module_fd: main.wasm in a sealed memfd; the caller closes it.
        toml: of the package, with what was given beside it; `dirs` as the package has them.
        announce_files: whether somebody chose its descriptors.
        files: directories and PEM files that travelled.
    """

    module_fd: int
    toml: EnarxToml
    announce_files: bool
    files: TravellingFiles


def open_release(sealed: bytes, key: OneTimeKey, *, info: bytes, limits: Limits) -> Release:
    """Open a release, and judge whether it is one that this Keep can take.

    Args:
        sealed: as received.
        key: used up.
        info: the offer's report data, which names the session that the release is for.
        limits: of this Keep.

    Raises:
        VerificationError: it is sealed to another key or session, or its parts contradict each other.
        DecodeError: it is no release.
        TransportError: the package is too large for this Keep.
        KeepError: it asks for what this Keep has not.
    """
    release = decode_release_untrusted(key.open(sealed, info))
    manifest = decode_manifest_untrusted(release.package)
    wanted = {MAIN: manifest.main, TOML: manifest.toml}
    for name, content in wanted.items():
        blob = release.blobs.get(name)
        if (blob and Content(blob.plaintext, blob.plaintext_length)) != content:
            raise VerificationError(f"release refused: {name}: found another than the package has, want that one")
    files = release.blobs.get(FILES)
    if (files and files.plaintext) != release.configuration.files:
        raise VerificationError("release refused: files: found others than the configuration has, want those")
    if len({blob.key for blob in release.blobs.values()}) != len(release.blobs):
        raise VerificationError("release refused: keys: found one twice, want one for each blob")
    for name, blob in release.blobs.items():
        if blob.layer is not None and name != MAIN:
            raise VerificationError(f"release refused: {name}: found a layer of a registry, want one for {MAIN} alone")
        # The cipher of layers adds nothing.
        wanted_bytes = ciphertext_length(blob.plaintext_length) if blob.layer is None else blob.plaintext_length
        if blob.ciphertext_length != wanted_bytes:
            raise VerificationError(
                f"release refused: {name}: found {blob.ciphertext_length} bytes of ciphertext,"
                f" want {wanted_bytes} for {blob.plaintext_length}"
            )
    total = sum(blob.plaintext_length for blob in release.blobs.values())
    if total > limits.package_bytes:
        raise TransportError(f"package refused: size: found {total} bytes, want at most {limits.package_bytes}")
    if manifest.toml is not None:
        # Not for packages without: a Keep in an emulated machine has better things to do with its first tenth of a second.
        from enarx.wire.enarx_toml import MAX_BYTES

        if manifest.toml.length > MAX_BYTES:
            raise TransportError(f"package refused: {TOML}: found {manifest.toml.length} bytes, want {MAX_BYTES}")
    if files is not None and files.plaintext_length > MAX_FILES_BYTES:
        raise TransportError(f"package refused: files: found {files.plaintext_length} bytes, want {MAX_FILES_BYTES}")
    return release


def identify(release: Release, tenant_leaf: bytes) -> bytes:
    """Return the identity record of what a release makes of a Keep, in CBOR."""
    return encode_identity(
        Identity(
            package=hashlib.sha256(release.package).digest(),
            module=release.blobs[MAIN].plaintext,
            configuration=configuration_digest(release.salt, release.configuration),
            pristine=release.configuration == Configuration(),
            tenant=spki_hash(tenant_leaf),
        )
    )


async def receive_package(
    release: Release,
    *,
    fetch: Callable[[bytes], Awaitable[Source]],
    limits: Limits,
    arrival_s: float = ARRIVAL_S,
    progress_s: float = PROGRESS_S,
) -> Package:
    """Receive every blob of a release, and read the small ones.

    Args:
        release: opened; its keys are no longer needed afterwards.
        fetch: opens the source of a ciphertext by its digest.
        limits: of this Keep.
        arrival_s: for all of them.
        progress_s: for the next bytes.

    Raises:
        VerificationError: a blob is not what the release says.
        TransportError: it did not come, or not in time.
        DecodeError, ConfigError: what is in it is not well formed.
        PlatformError: there is no memory for it.
    """
    fds: dict[str, int] = {}
    try:
        try:
            async with asyncio.timeout(arrival_s):
                for name, blob in release.blobs.items():
                    fds[name] = await _receive(name, blob, await fetch(blob.ciphertext), progress_s)
        except TimeoutError as error:
            raise TransportError(
                f"package refused: found it incomplete after {arrival_s:g} s, want all of it"
            ) from error
        has_steward = release.steward is not None
        toml = await asyncio.to_thread(_read_toml, fds.get(TOML), release.configuration, limits, has_steward)
        files = await asyncio.to_thread(_read_files, fds.get(FILES))
        chosen = TOML in fds or bool(release.configuration.listen)
        return Package(fds.pop(MAIN), toml, chosen, files)
    finally:
        for fd in fds.values():
            os.close(fd)


def make_start(package: Package, scratch: Scratch, *, time_ns: int, monotonic_ns: int) -> Start:
    """Put together what the workload process is told.

    Args:
        package: received.
        scratch: gets the directories that travelled.
        time_ns: the tenant's Unix time, when the release arrived.
        monotonic_ns: CLOCK_MONOTONIC then, which is the same for every process of this machine. From there on it counts: the
            host's wall clock is ignored.

    Raises:
        DecodeError, PlatformError: a directory cannot be unpacked.
    """
    directories = tuple(
        Dir(host=scratch.unpack(directory, number), guest=directory.guest, read_only=directory.read_only)
        for number, directory in enumerate(package.files.directories)
    )
    return Start(
        toml=replace(package.toml, dirs=directories),
        announce_files=package.announce_files,
        tls_files=dict(package.files.tls),
        wall_clock_offset_ns=time_ns - monotonic_ns,
    )


async def _receive(name: str, blob: Blob, source: Source, progress_s: float) -> int:
    """Receive one blob into a sealed memfd."""
    sink = _Sink(name, blob) if blob.layer is None else _LayerSink(name, blob, blob.layer)
    try:
        # One piece is checked in a thread while the next one is on its way.
        checking: asyncio.Future[None] | None = None
        try:
            while data := await _next(name, source, progress_s):
                if checking is not None:
                    await checking
                checking = asyncio.ensure_future(asyncio.to_thread(sink.take, data))
        finally:
            if checking is not None:
                await checking
        await asyncio.to_thread(sink.finish)
    except BaseException:
        source.reset("closed")
        os.close(sink.fd)
        raise
    return sink.fd


async def _next(name: str, source: Source, progress_s: float) -> bytes:
    try:
        async with asyncio.timeout(progress_s):
            return await source.read(_READ_BYTES)
    except TimeoutError as error:
        raise TransportError(
            f"package refused: {name}: found nothing new for {progress_s:g} s, want the rest"
        ) from error
    except TransportError as error:
        raise TransportError(f"package refused: {name}: found it broken off by the host, want the rest") from error


class _Sink:
    """Takes one blob's ciphertext, and has its plaintext when all of it was found right."""

    def __init__(self, name: str, blob: Blob) -> None:
        self._name, self._blob = name, blob
        self._left = blob.ciphertext_length
        self._opener = Opener(blob.key, blob.plaintext_length)
        self._ciphertext, self._plaintext = hashlib.sha256(), hashlib.sha256()
        self.fd = _memory_file(name)

    def take(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise self._wrong("more ciphertext than the release says", "none after it")
        self._ciphertext.update(data)
        self._write(self._opener.update(data))

    def finish(self) -> None:
        if self._left:
            raise self._wrong(f"{self._left} bytes too few of ciphertext", "all of it")
        if self._ciphertext.digest() != self._blob.ciphertext:
            raise self._wrong("ciphertext of another digest", "the release's")
        self._opener.finish()
        if self._plaintext.digest() != self._blob.plaintext:
            raise self._wrong("plaintext of another digest", "the release's")
        if os.fstat(self.fd).st_size != self._blob.plaintext_length:
            raise self._wrong("plaintext of another length", f"{self._blob.plaintext_length} bytes")
        _seal(self.fd)

    def _write(self, data: bytes) -> None:
        self._plaintext.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise PlatformError(f"cannot keep {self._name}: {error.strerror}") from error

    def _wrong(self, found: str, want: str) -> VerificationError:
        return VerificationError(f"package refused: {self._name}: found {found}, want {want}")


class _LayerSink:
    """Takes a layer as a registry has it. Nothing of it is decrypted before all of it came and its digest and HMAC were right."""

    def __init__(self, name: str, blob: Blob, layer: Layer) -> None:
        # Most packages are no layers, and a Keep in an emulated machine has better things to do with its first tenth of a second.
        from enarx.channel.ocicrypt import Expected, LayerOpener, LayerSecret

        self.fd = _memory_file(name)
        expected = Expected(blob.ciphertext, blob.plaintext, layer.hmac, blob.ciphertext_length)
        self._opener = LayerOpener(self.fd, LayerSecret(blob.key, layer.nonce), expected, what=f"layer {name}")

    def take(self, data: bytes) -> None:
        self._opener.take(data)

    def finish(self) -> None:
        self._opener.finish()
        _seal(self.fd)


def _memory_file(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise PlatformError(f"cannot keep {name}: {error.strerror}") from error


def _seal(fd: int) -> None:
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def _read_toml(fd: int | None, configuration: Configuration, limits: Limits, has_steward: bool) -> EnarxToml:
    """Return what holds for the workload. Which Steward it wants does not: the tenant's, or none, is the release's."""
    base = None
    if fd is not None:
        from enarx.wire.enarx_toml import decode_enarx_toml

        base = decode_enarx_toml(_contents(fd), path=TOML)
    toml = apply_overrides(base, configuration)
    require_steward(toml, has_steward=has_steward)
    memory_bytes = toml.limits.memory_bytes
    if memory_bytes is None:
        memory_bytes = min(DEFAULT_MEMORY_BYTES, limits.memory_bytes)
    elif memory_bytes > limits.memory_bytes:
        raise KeepError(
            f"package refused: memory: found {memory_bytes} bytes, want at most the {limits.memory_bytes} of this Keep",
            hint="ask the host for a larger Keep, or set a lower limit with --memory",
        )
    return replace(toml, steward=None, limits=replace(toml.limits, memory_bytes=memory_bytes))


def _read_files(fd: int | None) -> TravellingFiles:
    return TravellingFiles((), {}) if fd is None else decode_files_untrusted(_contents(fd))


def _contents(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
