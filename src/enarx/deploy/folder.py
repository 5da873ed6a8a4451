# SPDX-License-Identifier: Apache-2.0
"""The tenant's folder of one deployment: its key, its receipt, and where it was deployed.

`$XDG_STATE_HOME/enarx/keeps/<host>/<id>/`, 0700, its files 0600. The key is the only one that the Keep answers to: who loses it
loses control of the Keep, and who copies it has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.crypto.x509 import MAX_PEM_BYTES, Credential, load_certificates, load_private_key, require_match
from enarx.deploy.host_client import require_id
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.user_files import user_folder, write_whole
from enarx.wire.receipt_file import MAX_RECEIPT_BYTES, ReceiptFile, decode_receipt_untrusted, encode_receipt
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["DeploymentFolder", "default_state_root"]

_KEY, _RECEIPT, _PLACE = "key.pem", "receipt.json", "place.json"
_MAX_PLACE_BYTES = 1 << 16


def default_state_root() -> str:
    """Return where deployments are kept: below `$XDG_STATE_HOME`, else `~/.local/state`.

    Raises:
        PlatformError: the user has no such place.
    """
    return user_folder("XDG_STATE_HOME", "keeps", purpose="keep the deployment's key")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFolder:
    """One deployment's files.

    Args:
        path: of the folder.
    """

    path: str

    @classmethod
    def of(cls, root: str, host_name: str, keep_id: str) -> DeploymentFolder:
        """Return the folder of a Keep, there or not.

        Args:
            root: `default_state_root()`, or another.
            host_name: `host:port`.
            keep_id: the host's name for the Keep.
        """
        return cls(path=os.path.join(root, host_name.replace("/", "_"), require_id(keep_id)))

    def exists(self) -> bool:
        """Return whether the tenant deployed this Keep from here."""
        return os.path.exists(os.path.join(self.path, _KEY))

    def create(self, credential: Credential) -> None:
        """Make the folder and store the key in it.

        Raises:
            PlatformError: there is one already, or it cannot be made.
        """
        key = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            # Exclusive: a host that gives the same name again must not make this tenant overwrite the key of another Keep.
            os.mkdir(self.path, 0o700)
        except FileExistsError as error:
            raise PlatformError(
                f"cannot keep the deployment's key: {self.path}: found a deployment of that name, want none",
                hint="the host named two Keeps alike; if the older one is gone, remove the folder",
            ) from error
        except OSError as error:
            raise _failed(self.path, error) from error
        self._write(_KEY, key + credential.chain[0].public_bytes(Encoding.PEM))

    def store_receipt(self, receipt: ReceiptFile) -> None:
        """Store the receipt.

        Raises:
            PlatformError: it cannot be written.
        """
        self._write(_RECEIPT, encode_receipt(receipt))

    def load_receipt(self) -> ReceiptFile:
        """Return the receipt.

        Raises:
            UsageError: there is none.
            DecodeError: it is none.
        """
        return decode_receipt_untrusted(self._read(_RECEIPT, MAX_RECEIPT_BYTES))

    def load_credential(self) -> Credential:
        """Return the deployment key and its certificate.

        Raises:
            UsageError: there is none.
            ConfigError: the file is not what was written.
        """
        path = os.path.join(self.path, _KEY)
        pem = self._read(_KEY, MAX_PEM_BYTES)
        chain = load_certificates(pem, path=path)
        key = load_private_key(pem, path=path)
        require_match(chain[0], key, path=path)
        return Credential(chain=chain, private_key=key)

    def store_offset(self, offset: int) -> None:
        """Remember how much of the workload's output was shown."""
        self._write(_PLACE, json.dumps({"shown": offset}).encode())

    def load_offset(self) -> int:
        """Return how much of the workload's output was shown; 0 where nobody knows."""
        try:
            data = self._read(_PLACE, _MAX_PLACE_BYTES)
            value = load_json_untrusted(data, what="place", max_bytes=_MAX_PLACE_BYTES)["shown"]
        except (UsageError, DecodeError, KeyError, TypeError):
            # Only what is shown twice depends on it.
            return 0
        return value if type(value) is int and value >= 0 else 0

    def forget_key(self) -> None:
        """Remove the key of a Keep that is gone; the receipt stays."""
        for name in (_KEY, _PLACE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, name))

    def remove(self) -> None:
        """Remove everything: the Keep was never provisioned."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        """Write a file at once or not at all."""
        path = os.path.join(self.path, name)
        try:
            write_whole(path, data)
        except OSError as error:
            raise _failed(path, error) from error

    def _read(self, name: str, max_bytes: int) -> bytes:
        path = os.path.join(self.path, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                    raise PlatformError(
                        f"cannot use {path}: found owner {status.st_uid} and mode {status.st_mode & 0o7777:04o}, want owner"
                        f" {os.geteuid()} and 0600"
                    )
                return file.read(max_bytes + 1)
        except FileNotFoundError as error:
            raise UsageError(
                f"cannot reach the Keep: {path}: found no such file, want what was stored when it was deployed",
                hint="only who deployed a Keep can attach to it; enarx keep stop --kill asks the host to end it",
            ) from error
        except OSError as error:
            raise _failed(path, error) from error


def _failed(path: str, error: OSError) -> PlatformError:
    return PlatformError(
        f"cannot keep the deployment's files: {path}: {error.strerror}", hint="XDG_STATE_HOME names another place"
    )
