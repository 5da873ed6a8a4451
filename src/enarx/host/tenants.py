# SPDX-License-Identifier: Apache-2.0
"""Who may use the host: the tenants file, and the recognition of a token or a client certificate.

The file holds digests, so that reading it gives nobody access; writing it would, so it must be its owner's alone.
A token is compared by its digest with every tenant's, each in constant time, whether one was found or not.

Without a file there is one tenant, `local`, whom nobody has to recognise; the service allows that on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import Any

from enarx.errors import ConfigError, UsageError
from enarx.host.models import MAX_MEMORY_BYTES
from enarx.wire import parse_size
from enarx.wire.host_api import MAX_TOKEN_BYTES
from enarx.wire.quoting import quote
from enarx.wire.toml_lines import line_finder
from enarx.wire.toml_text import all_of, dotted, parse_toml

__all__ = ["LOCAL", "Tenant", "Tenants", "decode_tenants", "load_tenants", "private_tenants"]

MAX_BYTES = 1_000_000
MAX_TENANTS = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEYS = ("name", "token_sha256", "certificate_sha256", "max_keeps", "max_memory", "max_disk")
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Somebody who may use the host.

    Args:
        name: for logs; letters, digits and `._@-`.
        token_sha256: digest of the token's bytes, or None.
        certificate_sha256: digest of the client certificate's DER, or None.
        max_keeps: how many Keeps at once.
        max_memory_bytes: of all of them together.
        max_disk_bytes: of all uploaded blobs together.
    """

    name: str
    token_sha256: bytes | None = None
    certificate_sha256: bytes | None = None
    max_keeps: int = _UNLIMITED
    max_memory_bytes: int = _UNLIMITED
    max_disk_bytes: int = _UNLIMITED


LOCAL = Tenant(name="local")
"""Whoever can connect to a host on loopback that has no tenants file."""


class Tenants:
    """Everybody who may use the host.

    Args:
        tenants: in the order of the file; None where there is no file.
        operator_token_sha256: digest of the token that shows the operator's pages, or None.
        is_private: whether others on this machine are strangers too, and no operators.
    """

    def __init__(
        self,
        tenants: tuple[Tenant, ...] | None,
        operator_token_sha256: bytes | None = None,
        *,
        is_private: bool = False,
    ) -> None:
        self._tenants = tenants
        self._operator = operator_token_sha256
        self.is_private = is_private

    @property
    def is_open(self) -> bool:
        """Say whether nobody has to be recognised."""
        return self._tenants is None

    @property
    def use_certificates(self) -> bool:
        """Say whether a client certificate can be asked for."""
        return any(tenant.certificate_sha256 for tenant in self._tenants or ())

    def recognise_untrusted(self, token: bytes | None, certificate_sha256: bytes | None) -> Tenant | None:
        """Find who presents a token or a certificate.

        Args:
            token: as it came after `Bearer`, at most 1024 bytes, or None.
            certificate_sha256: of the certificate whose possession TLS proved, or None.

        Returns:
            the tenant, or None for a stranger. A token that is wrong is not made good by a certificate.
        """
        if self._tenants is None:
            return LOCAL
        found = None
        if token is not None:
            presented = hashlib.sha256(token[: MAX_TOKEN_BYTES + 1]).digest()
            for tenant in self._tenants:
                if hmac.compare_digest(presented, tenant.token_sha256 or b""):
                    found = tenant
        elif certificate_sha256 is not None:
            for tenant in self._tenants:
                if hmac.compare_digest(certificate_sha256, tenant.certificate_sha256 or b""):
                    found = tenant
        return found

    def is_operator_untrusted(self, token: bytes | None) -> bool:
        """Say whether a token is the operator's."""
        presented = hashlib.sha256(token[: MAX_TOKEN_BYTES + 1] if token else b"").digest()
        return hmac.compare_digest(presented, self._operator or b"") and bool(token)


def private_tenants(token: bytes) -> Tenants:
    """Return the one tenant of a private host, who is its operator too."""
    digest = hashlib.sha256(token).digest()
    return Tenants((replace(LOCAL, token_sha256=digest),), digest, is_private=True)


def load_tenants(path: str) -> Tenants:
    """Load the tenants file.

    Raises:
        UsageError: it cannot be read, or others can read or write it.
        ConfigError: what it says is wrong.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o077:
                raise UsageError(
                    f"cannot use the tenants file: {path}: found mode {stat.S_IMODE(status.st_mode):04o} of user"
                    f" {status.st_uid}, want a file of ours that others can neither read nor write",
                    hint=f"chmod 600 {path}",
                )
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the tenants file: {path}: {error.strerror}") from error
    return decode_tenants(data, path=path)


def decode_tenants(data: bytes, *, path: str) -> Tenants:
    """Decode a tenants file.

    Args:
        data: TOML with `[[tenants]]` and, optionally, `[operator]`; at most 1,000,000 bytes.
        path: as the user named it, for messages.

    Raises:
        ConfigError: something is wrong with it.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    return _Reader(path, line_finder(text)).read(document)


class _Reader:
    """One reading of a file."""

    def __init__(self, path: str, find_line: Any) -> None:
        self._path = path
        self._find_line = find_line

    def read(self, document: dict[str, Any]) -> Tenants:
        for key in document:
            if key not in {"tenants", "operator"}:
                raise self._wrong((key,), "found a key that is not known, want tenants or operator")
        tables = document.get("tenants")
        if not isinstance(tables, list) or not 1 <= len(tables) <= MAX_TENANTS:
            raise self._wrong(("tenants",), f"found none or too many, want 1 to {MAX_TENANTS} tables [[tenants]]")
        tenants = tuple(self._tenant(table, ("tenants", index)) for index, table in enumerate(tables))
        seen: dict[Any, int] = {}
        for index, tenant in enumerate(tenants):
            for key, value in (
                ("name", tenant.name),
                ("token_sha256", tenant.token_sha256),
                ("certificate_sha256", tenant.certificate_sha256),
            ):
                if value is not None and seen.setdefault((key, value), index) != index:
                    raise self._wrong(("tenants", index, key), "found a value that another tenant has, want its own")
        operator = document.get("operator", {})
        if not isinstance(operator, dict) or operator.keys() - {"token_sha256"}:
            raise self._wrong(("operator",), "found other keys, want token_sha256 only")
        return Tenants(tenants, self._digest(operator, ("operator",), "token_sha256"))

    def _tenant(self, table: Any, where: tuple[str | int, ...]) -> Tenant:
        if not isinstance(table, dict):
            raise self._wrong(where, "found no table, want [[tenants]]")
        for key in table:
            if key not in _KEYS:
                raise self._wrong((*where, key), f"found a key that is not known, want {all_of(_KEYS)}")
        name = table.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self._wrong((*where, "name"), f"found {quote(name)}, want 1 to 64 letters, digits and . _ @ -")
        token = self._digest(table, where, "token_sha256")
        certificate = self._digest(table, where, "certificate_sha256")
        if token is None and certificate is None:
            raise self._wrong(where, "found neither token_sha256 nor certificate_sha256, want one or both")
        keeps = table.get("max_keeps", _UNLIMITED)
        if not isinstance(keeps, int) or isinstance(keeps, bool) or not 0 <= keeps <= _UNLIMITED:
            raise self._wrong((*where, "max_keeps"), f"found {quote(keeps)}, want a number of Keeps")
        return Tenant(
            name=name,
            token_sha256=token,
            certificate_sha256=certificate,
            max_keeps=keeps,
            max_memory_bytes=self._size(table, where, "max_memory"),
            max_disk_bytes=self._size(table, where, "max_disk"),
        )

    def _digest(self, table: dict[str, Any], where: tuple[str | int, ...], key: str) -> bytes | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            # Not shown: somebody may have put the token itself here.
            raise self._wrong((*where, key), "found something else, want 64 hexadecimal digits in lower case")
        return bytes.fromhex(value)

    def _size(self, table: dict[str, Any], where: tuple[str | int, ...], key: str) -> int:
        if key not in table:
            return _UNLIMITED
        try:
            return min(parse_size(table[key]), MAX_MEMORY_BYTES * MAX_TENANTS)
        except ConfigError as error:
            raise self._wrong((*where, key), str(error).partition(": ")[2], error.hint) from error

    def _wrong(self, key: tuple[str | int, ...], message: str, hint: str | None = None) -> ConfigError:
        line = self._find_line(key)
        place = self._path if line is None else f"{self._path}:{line}"
        return ConfigError(
            f"{place}: {dotted(key)}: {message}",
            hint=hint or "docs/host.md describes the file; printf %s TOKEN | sha256sum makes a digest",
            path=self._path,
            line=line,
            key=dotted(key),
        )
