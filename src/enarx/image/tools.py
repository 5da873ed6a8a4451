# SPDX-License-Identifier: Apache-2.0
"""The two programs that decide bytes of an image, out of the lock: the image's own interpreter, and the compressor.

They are unpacked below the cache and started by their own dynamic loader with their own C library, so what the machine has
installed does not matter. They have to run on this machine: for an image of another architecture they come from the lock of
this one, and the interpreter has to have the same version there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

from enarx.errors import DecodeError, PlatformError
from enarx.image.contents import LIBRARIES, PROGRAM, STDLIB_ROOT, TOOLS, Architecture
from enarx.image.lock import Input, Lock
from enarx.image.packages import read_deb
from enarx.image.store import private_cache

__all__ = ["Tools", "interpreter_version", "tool_inputs", "unpack_tools"]

_PACKAGES = (*LIBRARIES, *TOOLS, "libpython3.11-minimal", "python3.11-minimal")
_ZSTD = "usr/bin/zstd"
_COMPILE_TIMEOUT_S = 300.0
_CHUNK_BYTES = 1 << 20
_MAX_FOLDERS = 4

# Runs in the image's interpreter. A .pyc has the hash of its source and is never compared with it: there is no source. Each module is
# compiled in a process of its own, because which strings and constants the interpreter has seen before changes the bytes.
_COMPILER = """\
import os, struct, sys
from _imp import source_hash
from importlib._bootstrap_external import _RAW_MAGIC_NUMBER, _code_to_hash_pyc
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
def compiled(name, source):
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return bytes(_code_to_hash_pyc(code, source_hash(_RAW_MAGIC_NUMBER, source), False))
while head := read(8):
    name_size, source_size = struct.unpack("<II", head)
    name, source = read(name_size).decode(), read(source_size)
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(writable, "wb") as out:
                out.write(compiled(name, source))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as made:
        data = made.read()
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
    write(struct.pack("<I", len(data)) + data)
"""


def tool_inputs(lock: Lock) -> tuple[Input, ...]:
    """Return what the programs come from.

    Args:
        lock: of the architecture of this machine.

    Raises:
        ConfigError: it lacks one.
    """
    return tuple(lock.deb(name) for name in _PACKAGES)


def interpreter_version(lock: Lock) -> str:
    """Return the version of the interpreter without that of its packaging: 3.11.2."""
    return lock.deb("python3.11-minimal").version.partition("-")[0]


class Tools:
    """The programs, unpacked.

    Args:
        folder: where they are.
        loader: the file name of the dynamic loader.
        identity: what decides the bytes they make: the digests of what they came from.
    """

    def __init__(self, folder: str, loader: str, identity: str) -> None:
        self.identity = identity
        self._folder = folder
        self._loader = loader

    def _command(self, program: str) -> list[str]:
        lib = os.path.join(self._folder, "lib")
        return [os.path.join(lib, self._loader), "--library-path", lib, os.path.join(self._folder, program)]

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Compile modules, each by itself: what else is compiled, and in which order, changes no byte.

        Args:
            sources: where each will be, with a slash before it, and its text.

        Returns:
            The .pyc of each.

        Raises:
            DecodeError: one is not Python, or the interpreter failed.
        """
        asked = b"".join(
            struct.pack("<II", len(name.encode()), len(source)) + name.encode() + source for name, source in sources
        )
        # Neither the environment nor `site` has a say; sets have the same order every time.
        command = [*self._command(PROGRAM), "-S", "-s", "-P", "-B", "-W", "ignore", "-X", "utf8", "-c", _COMPILER]
        try:
            done = subprocess.run(
                command,
                input=asked,
                capture_output=True,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C"},
                timeout=_COMPILE_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PlatformError(f"cannot build an image: the image's interpreter: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise DecodeError(f"cannot build an image: the image's interpreter: {said[-1] if said else 'it failed'}")
        compiled, at = [], 0
        for _ in sources:
            (size,) = struct.unpack_from("<I", done.stdout, at)
            compiled.append(done.stdout[at + 4 : at + 4 + size])
            at += 4 + size
        return compiled

    def compress(self, data: bytes, level: int, progress: Callable[[int, int], None]) -> bytes:
        """Compress into one zstd frame, with as many processors as there are: their number does not change the bytes.

        Args:
            data: what to compress.
            level: 1 to 19.
            progress: is told how many bytes were taken, and of how many.

        Raises:
            PlatformError: the program failed.
        """
        return self._filter([f"-{level}", "-T0", f"--stream-size={len(data)}", "--quiet", "--stdout"], data, progress)

    def decompress(self, data: bytes) -> bytes:
        """Undo `compress`.

        Raises:
            PlatformError: the program failed, which it does for what is no such frame.
        """
        return self._filter(["--decompress", "--memory=128MB", "--quiet", "--stdout"], data, lambda _, __: None)

    def _filter(self, options: list[str], data: bytes, progress: Callable[[int, int], None]) -> bytes:
        with tempfile.TemporaryFile() as made, tempfile.TemporaryFile() as said:
            try:
                program = subprocess.Popen(
                    [*self._command(_ZSTD), *options], stdin=subprocess.PIPE, stdout=made, stderr=said, env={}
                )
            except OSError as error:
                raise PlatformError(f"cannot build an image: zstd: {error.strerror}") from error
            try:
                if program.stdin:
                    _feed(program.stdin.fileno(), data, progress)
                    program.stdin.close()
                program.wait()
            finally:
                if program.poll() is None:
                    program.kill()
                    program.wait()
            if program.returncode:
                said.seek(0)
                text = said.read(1000).decode("utf-8", "replace").strip()
                raise PlatformError(f"cannot build an image: zstd: {text or program.returncode}")
            made.seek(0)
            return made.read()


def _feed(fd: int, data: bytes, progress: Callable[[int, int], None]) -> None:
    view = memoryview(data)
    for at in range(0, len(data), _CHUNK_BYTES):
        chunk = view[at : at + _CHUNK_BYTES]
        try:
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
        except BrokenPipeError:
            return  # its status says why
        progress(min(at + _CHUNK_BYTES, len(data)), len(data))


def unpack_tools(architecture: Architecture, lock: Lock, files: Mapping[Input, str]) -> Tools:
    """Unpack the programs for this machine, where that was not done before.

    Args:
        architecture: this machine's.
        lock: of that architecture.
        files: where at least its `tool_inputs` are.

    Raises:
        ConfigError: the lock lacks one.
        DecodeError: a package is not what it should be.
        PlatformError: the cache cannot be written.
    """
    inputs = tool_inputs(lock)
    with open(__file__, "rb") as file:
        recipe = hashlib.file_digest(file, "sha256").hexdigest()
    identity = hashlib.sha256("".join([recipe, *(entry.sha256 for entry in inputs)]).encode()).hexdigest()
    parent = private_cache("image-tools")
    folder = os.path.join(parent, identity)
    loader = os.path.basename(architecture.loader)
    if not os.path.isdir(folder):
        made = tempfile.mkdtemp(dir=parent, prefix=".unpacking-")
        try:
            for entry in inputs:
                _unpack(architecture, entry, files[entry], made)
            os.chmod(os.path.join(made, "lib", loader), 0o500)
            os.rename(made, folder)
        except OSError as error:
            if not os.path.isdir(folder):
                raise PlatformError(f"cannot build an image: {parent}: {error.strerror}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        _forget_old(parent, folder)
    return Tools(folder, loader, identity)


def _unpack(architecture: Architecture, entry: Input, path: str, folder: str) -> None:
    libraries = (*LIBRARIES.get(entry.name, ()), *TOOLS.get(entry.name, ()))
    package = read_deb(path, entry.name, lambda _: True)
    wanted = {f"lib/{name}": f"usr/lib/{architecture.triplet}/{name}" for name in libraries}
    if entry.name == "libc6":
        wanted[f"lib/{os.path.basename(architecture.loader)}"] = architecture.loader
    for place in package.files:
        if place in {PROGRAM, _ZSTD} or (place.startswith(f"{STDLIB_ROOT}/") and place.endswith(".py")):
            wanted.setdefault(place, place)
    for place, source in wanted.items():
        target = os.path.join(folder, place)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(package.read(source))


def _forget_old(parent: str, used: str) -> None:
    folders = [entry.path for entry in os.scandir(parent) if entry.path != used and not entry.name.startswith(".")]
    for path in sorted(folders, key=os.path.getmtime, reverse=True)[_MAX_FOLDERS:]:
        shutil.rmtree(path, ignore_errors=True)
