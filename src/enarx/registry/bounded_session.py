# SPDX-License-Identifier: Apache-2.0
"""A session of `requests` that goes where it may, for as long as it may, and takes as much as it may.

Rules of this file:

- Credentials go to the registry and, while a token is asked for, to the service that it names; to nobody else, wherever a redirect or
  an upload leads.
- Where we speak TLS, no answer makes us speak without. Plain HTTP is for loopback alone.
- A registry at a public address leads to public addresses alone, not into the network that we are in: a host fetches for strangers.
- Nothing is taken from the environment: no proxy, no `.netrc`, no cookies from anywhere.
- No text of the libraries is in an error: they have addresses in them, and those of storage services have signatures in them.

Source: RFC 9110; OCI distribution-spec 1.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLCertVerificationError
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
import urllib3.util

from enarx.errors import ConfigError, DecodeError, TransportError, VerificationError
from enarx.registry.connections import PatientAdapter, bound_body
from enarx.wire.oci import MAX_MANIFEST_BYTES
from enarx.wire.quoting import quote

__all__ = [
    "BROKEN",
    "BoundedSession",
    "Limits",
    "Origin",
    "Stalled",
    "broken",
    "is_loopback",
    "is_public",
    "kind_of_fault",
    "origin_of",
    "pieces_of",
]

BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What is raised where a connection ends, or brings nothing that is HTTP."""

MAX_REDIRECTS = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOO_SLOW = "nothing in time"


class Stalled(TransportError):  # noqa: N818 - it is a TransportError to everybody outside of this package
    """The peer was waited for as long as it is waited for at all."""


class Limits(NamedTuple):
    """How long is waited, and how often something is tried.

    Args:
        connect_s: for a connection, to each address.
        stall_s: for each 64 KiB, and for the whole of a shorter answer.
        pauses_s: before each further try.
        resumes: how often the rest of one blob is asked for.
    """

    connect_s: float = 15.0
    stall_s: float = 60.0
    pauses_s: tuple[float, ...] = (0.3, 1.0)
    resumes: int = 8


class Origin(NamedTuple):
    """Whom a URL leads to."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """Return whom a URL leads to.

    Raises:
        ValueError: it is none, or one that `requests` reads in another way: with a backslash, it goes to another host.
    """
    parts, theirs = urlsplit(url), urllib3.util.parse_url(url)
    if (parts.scheme, parts.hostname, parts.port) != (theirs.scheme, (theirs.host or "").strip("[]"), theirs.port):
        raise ValueError("a URL with two meanings")
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def is_loopback(registry: str) -> bool:
    """Return whether a registry, `HOST[:PORT]`, is on this machine by its name alone."""
    host = urlsplit(f"//{registry}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BoundedSession(requests.Session):
    """A session that goes where it may, for as long as it may, and takes as much as it may.

    Args:
        registry: `HOST[:PORT]`.
        scheme: `http` or `https`.
        limits: of time.
    """

    def __init__(self, registry: str, scheme: str, limits: Limits) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.update({"User-Agent": "enarx", "Accept-Encoding": "identity"})
        # Some registries take a cookie for the sign of a browser.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = PatientAdapter(limits.stall_s, self._require_reachable)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self.registry = registry
        self.limits = limits
        self.origin = origin_of(f"{scheme}://{registry}")
        self.token_origin: Origin | None = None
        """Of the service that is asked for a token just now."""
        self._is_public: bool | None = None
        """Whether the registry was found at an address that everybody can reach; None before it was asked."""

    def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """Ask, and follow redirects of questions without a body.

        Args:
            method: of HTTP.
            url: where.
            args: none.
            options: of `requests`; with `stream`, the body is left to whoever asked, else at most 4 MiB are read.

        Raises:
            TransportError: no answer, in time or at all, or one that leads where we do not go.
            VerificationError: the server's certificate is not to be trusted.
        """
        url = str(url)
        stream = bool(options.pop("stream", False))
        headers = dict(options.pop("headers", None) or {})
        options |= {"allow_redirects": False, "stream": True, "timeout": (self.limits.connect_s, self.limits.stall_s)}
        for _redirect in range(MAX_REDIRECTS + 1):
            origin = self._require_allowed(url)
            if origin not in {self.origin, self.token_origin}:
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            answer = self._ask(method, url, headers=headers, **options)
            if answer.status_code not in _REDIRECTS or method not in {"GET", "HEAD"}:
                break
            location = answer.headers.get("location", "")
            answer.close()
            try:
                url = urljoin(url, location)
            except ValueError:
                url = ""
            options["params"] = None
        else:
            raise TransportError(
                f"cannot ask {self.registry}: found more than {MAX_REDIRECTS} redirects, want an answer"
            )
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":
            answer.close()
            raise TransportError(
                f"cannot ask {self.registry}: found an answer with the encoding {quote(encoding)}, want none"
            )
        if not stream:
            self._read(answer)
        return answer

    def _require_reachable(self, host: str, address: str) -> None:
        """Return only if a place may be asked: what a registry of the world says does not lead into the network that we are in."""
        public = is_public(address)
        if self._is_public is None:
            # It is the registry that is asked first.
            self._is_public = public
        elif self._is_public and not public:
            raise TransportError(
                f"cannot ask {self.registry}: found an answer that leads to {quote(host)} at {address}, want a public address, as"
                " the registry has"
            )

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        # Nothing of the libraries is a cause of what is raised here: their texts have addresses in them, and the address of a
        # storage service has a signature in it that lets in whoever has it.
        try:
            return super().request(method, url, **options)
        except requests.exceptions.SSLError as error:
            if fault := _certificate_fault(error):
                raise VerificationError(
                    f"cannot ask {self.registry}: found a certificate that is not to be trusted ({fault}), want one of this"
                    " name from an authority we know",
                    hint="SSL_CERT_FILE names a PEM file of the authorities to trust instead of the usual ones",
                ) from None
            if any(getattr(each, "reason", None) == "NO_CERTIFICATE_OR_CRL_FOUND" for each in _causes(error)):
                raise ConfigError(
                    "cannot use the authorities to trust: found no certificate, want a PEM file with some",
                    hint="SSL_CERT_FILE names their file",
                ) from None
            raise TransportError(
                f"cannot ask {self.registry}: found no TLS ({kind_of_fault(error)}), want it"
            ) from None
        except OSError as error:
            if isinstance(error, requests.RequestException):
                raise broken(f"ask {self.registry}", error) from None
            raise ConfigError(
                f"cannot use the authorities to trust: {error.strerror or error}", hint="SSL_CERT_FILE names their file"
            ) from error
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise broken(f"ask {self.registry}", error) from None

    def _require_allowed(self, url: str) -> Origin:
        try:
            origin = origin_of(url)
        except ValueError:
            origin = Origin("", "", 0)
        plain_allowed = self.origin.scheme == "http" and is_loopback(
            origin.host if ":" not in origin.host else f"[{origin.host}]"
        )
        if not origin.host or not (origin.scheme == "https" or (origin.scheme == "http" and plain_allowed)):
            raise TransportError(
                f"cannot ask {self.registry}: found an answer that leads to {quote(origin.scheme)} and {quote(origin.host)},"
                " want https and a host"
            )
        return origin

    def _read(self, answer: requests.Response) -> None:
        """Read a short body, so that it is there for whoever asks `requests` for it."""
        raw = answer.raw
        bound_body(raw._original_response, MAX_MANIFEST_BYTES)
        data = bytearray()
        try:
            while piece := raw.read(64 << 10, decode_content=False):
                data += piece
                if len(data) > MAX_MANIFEST_BYTES:
                    raise DecodeError(
                        f"cannot read the answer of {self.registry}: found more than {MAX_MANIFEST_BYTES} bytes, want at most that"
                    )
        except BROKEN as error:
            raise broken(f"read the answer of {self.registry}", error) from None
        finally:
            _leave(raw)
        answer._content = bytes(data)
        answer._content_consumed = True


def is_public(address: str) -> bool:
    """Return whether an address is one that everybody can reach."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast


def broken(what: str, error: BaseException | None) -> TransportError:
    """Return what is raised where a connection did not bring what it should.

    Args:
        what: was done.
        error: one of `BROKEN`, or None where it just ended.
    """
    kind = kind_of_fault(error)
    return (Stalled if kind == _TOO_SLOW else TransportError)(f"cannot {what}: found {kind}, want an answer")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, which the libraries keep in several places."""
    for _ in range(8):
        if error is None:
            return
        yield error
        nested = getattr(error, "reason", None) or next((e for e in error.args if isinstance(e, BaseException)), None)
        error = nested if isinstance(nested, BaseException) else error.__cause__ or error.__context__


def _certificate_fault(error: BaseException) -> str:
    """Return what is wrong with a certificate, or nothing where something else is wrong."""
    return next((str(each.verify_message) for each in _causes(error) if isinstance(each, SSLCertVerificationError)), "")


def kind_of_fault(error: BaseException | None) -> str:
    """Name what happened to a connection; the texts of the libraries have addresses in them."""
    words = ""
    for cause in _causes(error):
        # A connection that was refused counts as a timeout there.
        if isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError) and not isinstance(
            cause, urllib3.exceptions.NewConnectionError
        ):
            return _TOO_SLOW
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        words = words or (str(cause) if type(cause).__module__ == "http.client" else "")
    return words[:100] or "the end of the connection, or no HTTP"


def pieces_of(answer: requests.Response, max_bytes: int, piece_bytes: int) -> Iterator[bytes]:
    """Yield the body of an answer, in pieces that are full but for the last.

    Args:
        answer: of a request with `stream`.
        max_bytes: how much is read at most.
        piece_bytes: how much at once.

    Raises:
        one of `BROKEN`: the connection ended, or was too slow.
    """
    raw = answer.raw
    bound_body(raw._original_response, max_bytes)
    left = max_bytes
    try:
        while left and (piece := raw.read(min(piece_bytes, left), decode_content=False)):
            left -= len(piece)
            yield piece
    finally:
        _leave(raw)


def _leave(raw: Any) -> None:
    """Close a connection on which something may still come; what was read to its end is back in its pool already."""
    if not raw._original_response.isclosed():
        raw.close()
