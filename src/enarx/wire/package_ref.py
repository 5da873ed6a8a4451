# SPDX-License-Identifier: Apache-2.0
"""How a package is named: `oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:HEX]`, or a path on this machine.

A path may say which package of an OCI layout is meant, with `:TAG` or `@sha256:HEX` at its end. Whether a file really has such a name
is for whoever may look: nothing is opened here, so `PathRef.text` gives the text back as it was written.

Source: OCI distribution-spec 1.1, "Pulling manifests" (the grammar of names and tags).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from enarx.errors import UsageError
from enarx.wire.quoting import quote

__all__ = ["SCHEME", "PathRef", "RegistryRef", "is_tag", "parse_package_ref"]

SCHEME = "oci://"
DEFAULT_TAG = "latest"
_MAX_TEXT = 4096
# Of host and repository together: what the specification says registries may refuse.
_MAX_NAME = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?")
_PART = r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WANT = "oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:64 small hex digits]"


class RegistryRef(NamedTuple):
    """A package in a registry.

    Args:
        registry: host name or address, with its port where one is written.
        repository: without slashes at its ends.
        tag: or None.
        digest: `sha256:` and 64 small hex digits, or None. Where there is a tag too, the digest is what counts.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def reference(self) -> str:
        """Return what to ask a registry for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def name(self) -> str:
        """Return `HOST[:PORT]/REPOSITORY` in one spelling: of a host in capitals, of port 443 too."""
        host, colon, port = self.registry.lower().rpartition(":")
        if not colon or not port.isdigit() or host.endswith(":"):
            return f"{self.registry.lower()}/{self.repository}"
        return f"{host}/{self.repository}" if int(port) == 443 else f"{host}:{int(port)}/{self.repository}"

    @property
    def text(self) -> str:
        """Return it as it is written."""
        return f"{SCHEME}{self.registry}/{self.repository}{_ending(self.tag, self.digest)}"


class PathRef(NamedTuple):
    """A package on this machine.

    Args:
        path: without the tag and the digest.
        tag: what was behind the last colon, or None.
        digest: `sha256:` and 64 small hex digits, or None.
    """

    path: str
    tag: str | None
    digest: str | None

    @property
    def text(self) -> str:
        """Return it as it was written: a path too, where a file has such a name."""
        return f"{self.path}{_ending(self.tag, self.digest)}"


def parse_package_ref(text: str) -> RegistryRef | PathRef:
    """Read how a user names a package.

    Raises:
        UsageError: it is none of the two.
    """
    if not text or len(text) > _MAX_TEXT or "\0" in text:
        raise UsageError(f"cannot read the package's name: found {quote(text)}, want {_WANT} or a path")
    if not text.startswith(SCHEME):
        scheme, slashes, _ = text.partition("://")
        if slashes and scheme.isalnum():
            raise UsageError(
                f"cannot read the package's name: {quote(text)}: found {scheme}://, want {SCHEME} or a path",
                hint=f"registries are named {SCHEME}HOST/REPOSITORY:TAG",
            )
        return PathRef(*_split(text))
    host, _, rest = text.removeprefix(SCHEME).partition("/")
    repository, tag, digest = _split(rest)
    found = _HOST.fullmatch(host)
    if found is None or not 0 < int(found[1] or 443) < 1 << 16 or not _is_address(host):
        raise UsageError(f"cannot read the package's name: {quote(text)}: found the host {quote(host)}, want {_WANT}")
    if not _REPOSITORY.fullmatch(repository) or len(host) + 1 + len(repository) > _MAX_NAME:
        raise UsageError(
            f"cannot read the package's name: {quote(text)}: found the repository {quote(repository)}, want {_WANT}",
            hint=f"names are small letters, digits and . _ - between them, host and repository {_MAX_NAME} characters at most",
        )
    return RegistryRef(host, repository, tag, digest)


def is_tag(text: str) -> bool:
    """Return whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


def _is_address(host: str) -> bool:
    """Return whether what is in brackets, if anything, is an address of IPv6."""
    address, bracket, _ = host.removeprefix("[").partition("]")
    if not bracket:
        return True
    import ipaddress

    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _split(text: str) -> tuple[str, str | None, str | None]:
    """Return what is before a tag and a digest at the end, and these; what is neither stays where it is."""
    rest, at, last = text.rpartition("@")
    digest = None
    if at and rest and _DIGEST.fullmatch(last):
        text, digest = rest, last
    rest, colon, last = text.rpartition(":")
    if colon and rest and _TAG.fullmatch(last):
        return rest, last, digest
    return text, None, digest


def _ending(tag: str | None, digest: str | None) -> str:
    return (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
