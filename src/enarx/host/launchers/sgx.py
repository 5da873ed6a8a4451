# SPDX-License-Identifier: Apache-2.0
"""Start enclaves by Gramine: what is in them is the image of this version, and their link is their standard input and output.

The files of an enclave are those of an image's initramfs, by the digests of its manifest; so MRENCLAVE follows from the image, from
the files of the Gramine that is there, and from the fixed words below. Sizes are fixed too: an enclave that a host could ask for in
another size would be another enclave.

Gramine knows no sockets of the host's file system, and its network would need a port in what is measured. What it passes on as it is
are standard input and output, so they are the two halves of one socket, whose other end a process beside the enclave has
(`sgx_relay`): it outlives the host and takes one host after the other, as a virtio-serial port does. Standard error of a program in
an enclave comes out on standard output; a program here must not write to it.

    <folder>/link       the socket of the link
    <folder>/console    what Gramine says
    <folder>/ending     why it ended
    <folder>/enclave/   keep.manifest.sgx, keep.sig, and `root`, a link to the unpacked image

No Keep runs in an enclave in this version: Gramine 1.9 has no prctl, memfd_create, seccomp, pidfds and passing of descriptors, which
the workload process of a Keep is held by. A launcher says so before it starts anything. What does run there is a program that asks for
a quote (`QUOTE_CODE`), so that device, driver and verifier can be tried.

Source: Gramine 1.9 Documentation/manifest-syntax.rst, Documentation/devel/features.md, pal/src/host/linux-sgx/pal_console.c, tools/gramine.in.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from enarx import __version__
from enarx.errors import ConfigError, EnarxError, PlatformError, UsageError
from enarx.host.launchers import KeepSpec, Launched
from enarx.host.launchers.gramine import SIGNER, EnclaveSpec, enclave_measurement, make_manifest, sign_manifest
from enarx.host.launchers.own_process import OwnProcess, make_ending, mark_of, move_up, read_ending, watch
from enarx.host.state import listen_link

if TYPE_CHECKING:
    from enarx.image.newc import Entry
    from enarx.image.store import Image

__all__ = [
    "ENCLAVE_BYTES",
    "KEEP_CODE",
    "QUOTE_CODE",
    "Gramine",
    "SgxLauncher",
    "ask_quote",
    "enclave_manifest",
    "find_gramine",
    "predict_measurement",
]

ENCLAVE_BYTES = 4 << 30
MEMORY_BYTES = 2 << 30
"""Of a workload, at most."""

START_TIMEOUT_S = 180.0
"""From the start of an enclave, whose pages are all measured first, to its first word."""

QUOTE_TIMEOUT_S = 180.0
RUNNER = "gramine-sgx"
RELAY_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sgx_relay.py")
LINK_FD, CONSOLE_FD, ENDING_FD = range(3, 6)

_FIND = "import sys;sys.path.append('/usr/lib/enarx');"
KEEP_CODE = _FIND + "from enarx.keep.enclave import main;main()"
QUOTE_CODE = (
    _FIND + "from enarx.attester.gramine import GramineAttester;from enarx.attester.system import LinuxSystem;"
    "sys.stdout.buffer.write(GramineAttester(LinuxSystem()).attest(sys.stdin.buffer.read(64)).evidence)"
)
_KEEP_MODULE = "/usr/lib/enarx/enarx/keep/enclave.pyc"
_NAME = "keep"
_ROOT = "root"
_REPORT_DATA_BYTES = 64
_MAX_QUOTE_BYTES = 1 << 20
_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin"}
_MAX_SAID = 600


class Gramine(NamedTuple):
    """Gramine as it is installed.

    Args:
        runner: path of `gramine-sgx`.
        libos: path of its library OS.
    """

    runner: str
    libos: str


def find_gramine(find_program: Callable[[str], str | None] = shutil.which) -> Gramine:
    """Find Gramine.

    Raises:
        PlatformError: it is not there, or not whole.
    """
    runner = find_program(RUNNER)
    if runner is None:
        raise PlatformError(f"cannot start an enclave: found no {RUNNER} on PATH, want it", hint="install Gramine")
    runner = os.path.realpath(runner)
    prefix = os.path.dirname(os.path.dirname(runner))
    # Where distributions put it: with a folder for each architecture, or without.
    found = sorted(
        path
        for pattern in ("lib/*/gramine", "lib/gramine", "lib64/gramine")
        for path in glob.glob(os.path.join(glob.escape(prefix), pattern, "libsysdb.so"))
    )
    if not found:
        raise PlatformError(f"cannot start an enclave: {prefix}/lib: found no gramine/libsysdb.so, want it")
    return Gramine(runner, found[0])


def enclave_manifest(image: Image, code: str, gramine: Gramine) -> str:
    """Return the manifest of the enclave that runs Python code of ours with the files of an image.

    Raises:
        PlatformError: the image has no interpreter, or Gramine's library OS cannot be read.
        ConfigError: a file's name cannot be in a manifest.
    """
    files = {
        f"/{file.path}": file.sha256
        for file in image.manifest.files
        if file.mode.startswith("100") and file.path.startswith("usr/") and not file.path.endswith(".ko")
    }
    program = next((path for path in files if path.startswith("/usr/bin/python3.")), None)
    if program is None:
        raise PlatformError(f"cannot start an enclave: image {image.name}: found no interpreter, want one")
    try:
        with open(gramine.libos, "rb") as file:
            libos_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PlatformError(f"cannot start an enclave: {gramine.libos}: {error.strerror}") from error
    return make_manifest(
        EnclaveSpec(
            libos=gramine.libos,
            libos_sha256=libos_sha256,
            program=program,
            arguments=("-I", "-S", "-c", code),
            environment=_ENVIRONMENT,
            files=files,
            root=_ROOT,
            # The loader that programs name is outside of /usr by its old name.
            links={path.removeprefix("/usr"): path for path in files if path.startswith("/usr/lib64/ld-")},
            enclave_bytes=ENCLAVE_BYTES,
        )
    )


def predict_measurement(image: Image, code: str = KEEP_CODE) -> bytes | None:
    """Return MRENCLAVE of what this machine's Gramine makes of an image; None where it or its signer is not there.

    Raises:
        PlatformError: the signer fails.
    """
    if shutil.which(SIGNER) is None or shutil.which(RUNNER) is None:
        return None
    return enclave_measurement(enclave_manifest(image, code, find_gramine()))


def ask_quote(image: Image, report_data: bytes, folder: str, *, unpack: Callable[[Image], str] | None = None) -> bytes:
    """Start an enclave that asks for a quote, and return its evidence: CMW in CBOR.

    Args:
        image: whose files are in it.
        report_data: 64 bytes that the quote is over.
        folder: for its files; whoever gave it removes it.
        unpack: returns a folder with an image's files; None unpacks them into the cache.

    Raises:
        PlatformError: Gramine is not there, or the enclave does not start, or gives no evidence in time.
    """
    command, where = _make_enclave(image, QUOTE_CODE, find_gramine(), folder, unpack or _unpack)
    try:
        done = subprocess.run(
            command,
            input=report_data[:_REPORT_DATA_BYTES],
            capture_output=True,
            timeout=QUOTE_TIMEOUT_S,
            check=False,
            cwd=where,
            env=_host_environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PlatformError(f"cannot start an enclave: {RUNNER}: {error}") from error
    if done.returncode or not 0 < len(done.stdout) <= _MAX_QUOTE_BYTES:
        raise PlatformError(
            f"cannot ask an enclave for a quote: found status {done.returncode} and {len(done.stdout)} bytes, want a quote"
            f"{said_last(done.stderr + done.stdout[-_MAX_SAID:])}"
        )
    return done.stdout


def said_last(data: bytes) -> str:
    """Return the end of what was said, on one line and after a semicolon; nothing where nothing was said."""
    text = data.decode("utf-8", "replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"; it said last: {words[-_MAX_SAID:]}" if words else ""


def _make_enclave(
    image: Image, code: str, gramine: Gramine, folder: str, unpack: Callable[[Image], str]
) -> tuple[tuple[str, ...], str]:
    """Make and sign what an enclave is started from; return the command, and where to run it."""
    where = os.path.join(folder, "enclave")
    try:
        os.mkdir(where, 0o700)
        os.symlink(unpack(image), os.path.join(where, _ROOT))
    except OSError as error:
        raise PlatformError(f"cannot make an enclave: {where}: {error.strerror}") from error
    sign_manifest(enclave_manifest(image, code, gramine), os.path.join(where, _NAME))
    return (gramine.runner, _NAME), where


def _unpack(image: Image) -> str:
    """Return a folder with the files of an image, unpacked where that was not done before. Gramine compares their digests."""
    import tempfile

    from enarx.image.store import private_cache

    around = private_cache("enclave-roots")
    root = os.path.join(around, image.manifest.artefacts["initramfs"].sha256)
    if os.path.isdir(root):
        return root
    with tempfile.TemporaryDirectory(prefix=".new-", dir=around) as made:
        whole = os.path.join(made, _ROOT)
        for entry in _entries(image):
            # Links lead where the manifest has the files already, and devices are nothing in an enclave.
            path = os.path.join(whole, entry.path)
            if stat.S_ISDIR(entry.mode):
                os.makedirs(path, exist_ok=True)
            elif stat.S_ISREG(entry.mode):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as file:
                    file.write(entry.data)
        try:
            os.rename(whole, root)
        except OSError as error:
            # Another process was faster, and its files are the same.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
    return root


def _entries(image: Image) -> list[Entry]:
    """Read the file system of an image, with the programs that images are made by."""
    import platform

    from enarx.image.contents import architecture
    from enarx.image.inputs import fetch_inputs
    from enarx.image.lock import read_lock
    from enarx.image.newc import read_newc
    from enarx.image.tools import tool_inputs, unpack_tools

    native = architecture(platform.machine())
    lock = read_lock(native.name)
    tools = unpack_tools(native, lock, fetch_inputs(lock, tool_inputs(lock), native.wheel, progress=lambda *_: None))
    with open(image.initramfs, "rb") as file:
        return read_newc(tools.decompress(file.read()))


def _host_environment() -> dict[str, str]:
    # Of Gramine's own programs; an enclave takes nothing of it.
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


class SgxLauncher(OwnProcess):
    """Starts Keeps that are enclaves.

    Args:
        image: name or digest of the image; None is the one of this version.
        dies_with_host: whether a Keep ends when the host does, however it does.
        find_program: of a name returns a path, or None.
        code: what the interpreter in the enclave runs.
        unpack: returns a folder with an image's files; None unpacks them into the cache.
    """

    backend = "sgx"
    start_timeout_s = START_TIMEOUT_S

    def __init__(
        self,
        *,
        image: str | None = None,
        dies_with_host: bool = False,
        find_program: Callable[[str], str | None] = shutil.which,
        code: str = KEEP_CODE,
        unpack: Callable[[Image], str] | None = None,
    ) -> None:
        self._image = image
        self._dies_with_host = dies_with_host
        self._find_program = find_program
        self._code = code
        self._unpack = unpack or _unpack

    def reserved_bytes(self, memory_bytes: int, package_bytes: int) -> int:
        """Return the size of the enclave, which has its memory from the start."""
        return ENCLAVE_BYTES

    def command(self) -> tuple[str, ...]:
        """Return the command that an enclave would be started by."""
        return (find_gramine(self._find_program).runner, _NAME)

    def open_image(self) -> Image:
        """Return the image that enclaves are made of.

        Raises:
            PlatformError: there is none.
        """
        from enarx.image.store import open_image

        name = self._image or f"keep-{__version__}-x86_64"
        try:
            return open_image(name)
        except (UsageError, ConfigError) as error:
            raise PlatformError(f"cannot start an enclave: {error}", hint="enarx image build") from error

    def start(self, spec: KeepSpec, folder: str) -> Launched:
        """Start an enclave and the process beside it; see `Launcher.start`."""
        if spec.memory_bytes > MEMORY_BYTES:
            raise PlatformError(
                f"cannot start an enclave: memory: found {spec.memory_bytes} bytes, want at most {MEMORY_BYTES}, since its size is measured"
            )
        gramine, image = find_gramine(self._find_program), self.open_image()
        if self._code == KEEP_CODE and not any(f"/{file.path}" == _KEEP_MODULE for file in image.manifest.files):
            raise PlatformError(
                f"cannot start an enclave: image {image.name}: found no Keep for enclaves, want one; this version has none",
                hint="enarx platform selftest --backend sgx tries the rest",
            )
        command, where = _make_enclave(image, self._code, gramine, folder, self._unpack)
        try:
            pid = self._spawn(spec.id, command, where, folder)
            return watch(pid)
        except OSError as error:
            raise PlatformError(f"cannot start an enclave: {error.strerror}") from error

    def _spawn(self, identifier: str, command: tuple[str, ...], where: str, folder: str) -> int:
        made = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        given: list[int] = []
        try:
            given.append(move_up(listen_link(folder).detach()))
            given.append(move_up(os.open(os.path.join(folder, "console"), made | os.O_APPEND, 0o600)))
            given.append(move_up(make_ending(folder)))
            parent = str(os.getpid()) if self._dies_with_host else "-"
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", mark_of(identifier), RELAY_PROGRAM, parent, where, *command],
                _host_environment(),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, given[1], 1),
                    (os.POSIX_SPAWN_DUP2, given[1], 2),
                    *(
                        (os.POSIX_SPAWN_DUP2, fd, number)
                        for fd, number in zip(given, range(LINK_FD, ENDING_FD + 1), strict=True)
                    ),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
            )
        finally:
            for fd in given:
                os.close(fd)

    def explain(self, folder: str) -> EnarxError | None:
        """Say why an enclave ended, where that was an error; see `Launcher.explain`."""
        return read_ending(folder)

    def parts(self, folder: str) -> NoReturn:
        """Refuse: an enclave has no such parts."""
        raise PlatformError("cannot say what the Keep was started with: found an enclave, want a machine")

    def report(self, launched: Launched, request: bytes) -> bytes:
        """Refuse: an enclave has a platform of its own."""
        raise PlatformError("cannot answer for the platform: found an enclave, want a Keep without a TEE")
