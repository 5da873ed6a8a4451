# SPDX-License-Identifier: Apache-2.0
"""Requests to one registry, by the `oras` package within limits of ours.

`oras` knows how to log in (Docker's configuration, credential helpers, Basic and Bearer) and how requests are made; it has no time
limits, tries five times with growing pauses, follows every redirect and believes every length. So its session is one of ours
(`bounded_session`), its login is corrected (`login`), and its repetition is replaced by one that is short.

Nothing is printed and nothing logged: what `oras` would log has answers with tokens in it. Of the environment, `SSL_CERT_FILE` (the
authorities to trust instead of certifi's) and `DOCKER_CONFIG` count.

Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests

from enarx.errors import DecodeError, EnarxError, TransportError, UsageError
from enarx.registry.bounded_session import BoundedSession, Limits, Stalled, is_loopback, origin_of
from enarx.registry.late_import import late_import
from enarx.registry.login import Login

with late_import("jsonschema"):
    import oras.container
    import oras.logger
    import oras.provider

__all__ = ["RegistrySession", "login_wanted"]

_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})

# Its messages have answers of token services in them, and at level WARNING they would be printed.
oras.logger.logger.log_handler = []


class _Provider(oras.provider.Registry):  # type: ignore[misc]
    """The registry of `oras`, with the session and the repetition replaced."""

    def __init__(self, registry: str, *, scheme: str, limits: Limits, wait: Callable[[float], None]) -> None:
        ca_file = os.environ.get("SSL_CERT_FILE") or True
        super().__init__(hostname=registry, insecure=scheme == "http", tls_verify=ca_file)
        self.session = BoundedSession(registry, scheme, limits)
        self.auth = Login()
        self.auth.session = self.session
        self.auth.prefix = scheme
        self.auth._tls_verify = ca_file
        self._limits = limits
        self._wait = wait

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Ask as `oras` does. What changes nothing is asked for again, a few times, where there was no answer.

        Raises:
            UsageError: the registry wants a login that we do not have.
            TransportError: no answer.
        """
        pauses = self._limits.pauses_s if method in {"GET", "HEAD"} else ()
        for pause in (*pauses, None):
            try:
                answer: requests.Response = oras.provider.Registry.do_request.__wrapped__(
                    self, url, method, data, dict(headers or {}), json, stream
                )
            except Stalled:
                raise
            except TransportError:
                if pause is None:
                    raise
            except EnarxError:
                raise
            except ValueError as error:
                raise login_wanted(self.session.registry) from error
            else:
                if pause is None or answer.status_code not in _TRY_AGAIN:
                    return answer
                answer.close()
            self._wait(pause)
        raise AssertionError


def login_wanted(registry: str) -> UsageError:
    """Return what is raised where a registry does not let us in."""
    return UsageError(
        f"cannot use {registry}: found that it wants a login, want access with the credentials at hand",
        hint=f"log in, as with `docker login {registry}` or `skopeo login --compat-auth-file ~/.docker/config.json {registry}`",
    )


class RegistrySession:
    """Asks one repository of one registry.

    Args:
        registry: `HOST[:PORT]`.
        repository: below it.
        limits: of time and tries.
        wait: pauses between tries, in seconds.

    Raises:
        TransportError: a registry on this machine answers neither over HTTP nor over TLS.
    """

    def __init__(
        self,
        registry: str,
        repository: str,
        *,
        limits: Limits | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.registry = registry
        self.limits = limits or Limits()
        self.wait = wait
        scheme = "http" if is_loopback(registry) and _speaks_http(registry, self.limits) else "https"
        self._provider = _Provider(registry, scheme=scheme, limits=self.limits, wait=wait)
        # Not what it makes of a name by itself: it takes a repository that begins with a dotted word for another registry.
        self._container = oras.container.Container("name", registry=registry)
        self._container.registry = registry
        self._container.namespace, _, self._container.repository = repository.rpartition("/")
        self.base = f"{scheme}://{registry}"

    def close(self) -> None:
        """Close every connection."""
        self._provider.session.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Ask below `/v2/REPOSITORY/`, or at a place that the registry named.

        Args:
            method: of HTTP.
            path: `manifests/...`, or a URL of `location_of`.
            headers: besides what is always sent.
            data: bytes, or what yields them and has a length.
            stream: whether the body is left on the connection.
        """
        url = path if "://" in path else f"{self.base}/v2/{self._container.api_prefix}/{path}"
        answer: requests.Response = self._provider.do_request(
            url, method, data=data, headers=dict(headers or {}), stream=stream
        )
        return answer

    def ask_blob(self, digest: str, *, offset: int = 0) -> requests.Response:
        """Ask for a blob from an offset on, leaving its body on the connection."""
        self._provider.headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer: requests.Response = self._provider.get_blob(self._container, digest, stream=True)
        finally:
            self._provider.headers = {}
        return answer

    def location_of(self, answer: requests.Response) -> str:
        """Return where an upload goes on.

        Raises:
            TransportError: the answer does not say, or says what is no URL.
        """
        location: str = self._provider._get_location(answer, self._container)
        try:
            is_url = bool(location) and bool(origin_of(location).host)
        except ValueError:
            is_url = False
        if not is_url:
            raise TransportError(f"cannot write to {self.registry}: found no place for the upload, want a Location")
        return location


def _speaks_http(registry: str, limits: Limits) -> bool:
    """Return whether a registry on this machine answers without TLS; it is told nothing by the question."""
    with contextlib.closing(BoundedSession(registry, "http", limits)) as session:
        try:
            # A server that speaks TLS says so in an answer 400, if it says anything.
            return session.request("GET", f"http://{registry}/v2/").status_code != 400
        except Stalled:
            raise
        except (TransportError, DecodeError):
            return False
