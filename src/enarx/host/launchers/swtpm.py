# SPDX-License-Identifier: Apache-2.0
"""Virtual TPMs by swtpm: what they begin with, the key that they attest with, and the command that runs one.

A TPM's attestation key comes from its seed. There is one seed for each installation, made once and kept in a folder beside the
emulated platform's; each Keep's TPM begins with a copy of that state. So the key is known before there is a Keep, and a policy can
pin its digest. Whoever owns this machine has the seed, and a quote is worth no more than that.

The key is asked for as a Keep asks for it, by `enarx.attester.tpm`, from a TPM that runs for this alone.

Source: swtpm(8), and its control channel in include/swtpm/tpm_ioctl.h.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from enarx.endorsers.emulated_root import default_folder
from enarx.errors import DecodeError, PlatformError
from enarx.host.launchers.guard import TPM_FOLDER_FD
from enarx.host.launchers.qemu import TPM_FD

__all__ = ["TpmSeed", "copy_state", "open_seed", "read_key_digest", "seed_folder", "swtpm_command"]

TIMEOUT_S = 20.0
"""For each of the two programs that make a seed."""

_STATE_FILE = "tpm2-00.permall"
_KEY_FILE = "ak.sha256"
_MAX_STATE_BYTES = 1 << 20
_CMD_INIT, _CMD_SET_DATAFD = 0x02, 0x10
# TPM2_Startup(TPM_SU_CLEAR), which is the firmware's to send where there is one.
_STARTUP = struct.pack(">HIIH", 0x8001, 12, 0x144, 0)


class TpmSeed(NamedTuple):
    """What this installation's virtual TPMs begin with.

    Args:
        folder: that holds it.
        key_sha256: of the attestation key's SubjectPublicKeyInfo in DER, 64 hexadecimal digits.
    """

    folder: str
    key_sha256: str


def seed_folder() -> str:
    """Return where the seed of this user is.

    Raises:
        PlatformError: the user has no such place.
    """
    return os.path.join(os.path.dirname(default_folder()), "vtpm")


def read_key_digest(folder: str | None = None) -> str | None:
    """Return the digest of the attestation key, or None where there is no seed yet.

    Raises:
        PlatformError: it cannot be read.
    """
    path = os.path.join(folder if folder is not None else seed_folder(), _KEY_FILE)
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(65).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"cannot read the virtual TPM's key: {path}: {error}") from error
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise PlatformError(
            f"cannot read the virtual TPM's key: {path}: found no digest, want one",
            hint=f"remove {os.path.dirname(path)}: the next Keep makes another, with another key",
        )
    return text


def open_seed(folder: str | None = None) -> TpmSeed:
    """Return the seed, made if there is none, which takes about a second.

    Raises:
        PlatformError: it cannot be made or read.
    """
    folder = folder if folder is not None else seed_folder()
    known = read_key_digest(folder)
    if known is not None:
        return TpmSeed(folder, known)
    setup, swtpm = _program("swtpm_setup", "swtpm-tools"), _program("swtpm", "swtpm")
    around = os.path.dirname(folder)
    try:
        os.makedirs(around, mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".vtpm-", dir=around) as made:
            state = os.path.join(made, "vtpm")
            os.mkdir(state, 0o700)
            _set_up(setup, state)
            digest = _ask_key(swtpm, state)
            with open(os.path.join(state, _KEY_FILE), "w", encoding="ascii") as file:
                file.write(digest + "\n")
            try:
                os.rename(state, folder)
            except OSError as error:
                # Another process was faster, and its seed is the one.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
    except OSError as error:
        raise PlatformError(f"cannot make a virtual TPM: {folder}: {error.strerror}") from error
    digest = read_key_digest(folder) or ""
    if not digest:
        raise PlatformError(
            f"cannot make a virtual TPM: {folder}: found a folder without a key, want none", hint=f"remove {folder}"
        )
    return TpmSeed(folder, digest)


def copy_state(seed: TpmSeed, folder: str, *, user: int | None) -> None:
    """Make the folder of a Keep's TPM, and put the seed's state in it.

    Args:
        seed: what it begins with.
        folder: to be made.
        user: whose it is; None is ours.

    Raises:
        OSError: it cannot be made.
    """
    with open(os.path.join(seed.folder, _STATE_FILE), "rb") as file:
        state = file.read(_MAX_STATE_BYTES)
    os.mkdir(folder, 0o700)
    path = os.path.join(folder, _STATE_FILE)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(state)
    if user is not None:
        for owned in (path, folder):
            os.chown(owned, user, user)


def swtpm_command(program: str) -> tuple[str, ...]:
    """Return the command that runs a Keep's TPM; it ends when QEMU does.

    Args:
        program: path of swtpm.
    """
    return (
        program, "socket", "--tpm2", "--tpmstate", f"dir=/proc/self/fd/{TPM_FOLDER_FD},mode=0600",
        "--ctrl", f"type=unixio,clientfd={TPM_FD}", "--terminate",
    )  # fmt: skip


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PlatformError(
            f"cannot start a virtual TPM: found no {name} on PATH, want it", hint=f"apt install {package}"
        )
    return os.path.abspath(found)


def _set_up(program: str, folder: str) -> None:
    """Make the state of a new TPM, with the one bank of PCRs that is read."""
    command = [program, "--tpm2", "--tpmstate", folder, "--pcr-banks", "sha256"]
    command += ["--runas", "root"] if os.geteuid() == 0 else []
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S,
            check=False, env={"PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise PlatformError(f"cannot make a virtual TPM: swtpm_setup: found no end in {TIMEOUT_S:g} s") from error
    if done.returncode:
        said = done.stdout[-300:].decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "nothing")
        raise PlatformError(f"cannot make a virtual TPM: swtpm_setup: found status {done.returncode}, it said: {last}")


def _ask_key(program: str, folder: str) -> str:
    """Run a TPM, and return the digest of the key that it attests with."""
    # Not for those who only read the digest.
    from hashlib import sha256

    from enarx.abi.tpm import parse_public_untrusted
    from enarx.attester.tpm import TpmAttester
    from enarx.verifier.tpm import spki_of
    from enarx.wire.cmw import CmwRecord, decode_cmw_untrusted

    with _running(program, folder) as data:
        evidence = TpmAttester(_SocketSystem(data)).attest(bytes(64)).evidence
    record = decode_cmw_untrusted(evidence)
    if not isinstance(record, CmwRecord):
        raise DecodeError("cannot make a virtual TPM: found other evidence, want a quote")
    public = bytes.fromhex(json.loads(record.value)["ak_public"])
    return sha256(spki_of(parse_public_untrusted(public))).hexdigest()


@contextmanager
def _running(program: str, folder: str) -> Iterator[socket.socket]:
    """Run a TPM that is started up, and give a socket that takes commands."""
    control, theirs = socket.socketpair()
    data, their_data = socket.socketpair()
    with control, data, theirs, their_data:
        child = subprocess.Popen(
            [program, "socket", "--tpm2", "--tpmstate", f"dir={folder},mode=0600", "--ctrl",
             f"type=unixio,clientfd={theirs.fileno()}", "--terminate"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
        )  # fmt: skip
        try:
            theirs.close()
            control.settimeout(TIMEOUT_S)
            data.settimeout(TIMEOUT_S)
            _control(control, struct.pack(">I", _CMD_SET_DATAFD), their_data.fileno())
            their_data.close()
            _control(control, struct.pack(">II", _CMD_INIT, 0))
            data.sendall(_STARTUP)
            if data.recv(10)[6:] != bytes(4):
                raise PlatformError("cannot make a virtual TPM: swtpm: found that it does not start up, want it to")
            yield data
        except TimeoutError as error:
            raise PlatformError(f"cannot make a virtual TPM: swtpm: found no answer in {TIMEOUT_S:g} s") from error
        finally:
            child.kill()
            child.wait()


def _control(control: socket.socket, message: bytes, fd: int | None = None) -> None:
    if fd is None:
        control.sendall(message)
    else:
        socket.send_fds(control, [message], [fd])
    answer = control.recv(4)
    if answer != bytes(4):
        raise PlatformError(f"cannot make a virtual TPM: swtpm: found answer {answer.hex() or 'none'}, want success")


class _SocketSystem:
    """A machine whose one device is a TPM at the end of a socket."""

    def __init__(self, data: socket.socket) -> None:
        self._data = data

    def open(self, path: str, flags: int) -> int:
        if path != "/dev/tpmrm0":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._data.fileno()

    def close(self, fd: int) -> None:
        """Leave it open: the socket is closed by who made it."""

    def read(self, fd: int, size: int) -> bytes:
        return self._data.recv(size)

    def write(self, fd: int, data: bytes) -> int:
        return self._data.send(data)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def mkdir(self, path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def rmdir(self, path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
