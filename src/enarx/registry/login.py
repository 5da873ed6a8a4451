# SPDX-License-Identifier: Apache-2.0
"""Log in to a registry as `oras` does, when it asks for it and not before.

Rules of this file:

- What is sent are the credentials of Docker's configuration: in it, or of a credential helper that it names. Nothing of them is in a
  message.
- Only the registry's own challenge is answered, not that of a storage service it sent us to.
- A challenge to a request that had a token says that the token does not do, so it is not sent again.

Source: "Token Authentication Specification" of the Distribution project; RFC 7617.
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

import requests

from enarx.errors import ConfigError, DecodeError
from enarx.registry.bounded_session import BoundedSession, origin_of
from enarx.registry.late_import import late_import
from enarx.wire.quoting import quote

with late_import("jsonschema"):
    import oras.auth
    import oras.utils

__all__ = ["Login"]

MAX_CONFIG_BYTES = 1 << 20
MAX_TOKEN_CHARACTERS = 64 << 10
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_S = 60
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


class Login(oras.auth.TokenAuth):  # type: ignore[misc]
    """Logs in as `oras` does, when a registry asks for it and not before."""

    session: BoundedSession

    def __init__(self) -> None:
        super().__init__()
        self._is_basic = False
        self._has_looked = False

    def get_auth_header(self) -> dict[str, str]:
        """Return what is sent with each request, or nothing."""
        if not self.token:
            return {}
        return {"Authorization": f"{'Basic' if self._is_basic else 'Bearer'} {self.token}"}

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """Return the headers of the same request with what an answer 401 asked for, and whether there is such a thing."""
        if origin_of(str(original.url)) != self.session.origin:
            # It was redirected: a storage service has no business with the registry's password.
            return headers, False
        self._look_for_credentials()
        challenge = original.headers.get("Www-Authenticate", "")
        # What was sent with this request, if anything, was not enough.
        self.token = None
        if challenge[:6].lower() == "basic ":
            basic = getattr(self, "_basic_auth", None)
            if not basic or self._is_basic:
                return headers, False
            self.token, self._is_basic = basic, True
            return headers | self.get_auth_header(), True
        self._is_basic = False
        realm = re.search(r'realm="([^"]+)"', challenge)
        if realm is None:
            return headers, False
        try:
            self.session.token_origin = origin_of(realm[1])
            result, changed = super().authenticate_request(original, dict(headers), refresh)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise DecodeError(
                f"cannot log in to {self.session.registry}: found an answer of its token service that has no token, want one"
            ) from error
        finally:
            self.session.token_origin = None
        if changed and not (
            isinstance(self.token, str) and len(self.token) <= MAX_TOKEN_CHARACTERS and _PRINTABLE.fullmatch(self.token)
        ):
            self.token = None
            raise DecodeError(f"cannot log in to {self.session.registry}: found a token that is no token, want one")
        return result, changed

    def _look_for_credentials(self) -> None:
        if not self._has_looked:
            self._has_looked = True
            self._auth_config = docker_config()
            for name in oras.utils.iter_localhosts(self.session.registry):
                if self._load_auth(name):
                    return

    def _get_auth_from_creds_store(self, suffix: object, hostname: str) -> str | None:
        """Ask a credential helper, for a bounded time."""
        import subprocess

        if not isinstance(suffix, str) or not _HELPER.fullmatch(suffix):
            raise ConfigError(f"cannot ask a credential helper: found the name {quote(suffix)}, want a word")
        program = f"docker-credential-{suffix}"
        try:
            done = subprocess.run(
                [program, "get"], input=hostname.encode(), capture_output=True, check=False, timeout=_HELPER_S
            )
        except FileNotFoundError:
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(
                f"cannot ask {program}: found {getattr(error, 'strerror', None) or 'nothing in time'}, want a password",
                hint="see credsStore in Docker's config.json",
            ) from error
        if done.returncode:
            return None
        try:
            answer = json.loads(done.stdout[:MAX_CONFIG_BYTES])
            return base64.b64encode(f"{answer['Username']}:{answer['Secret']}".encode()).decode()
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"cannot use the answer of {program}: found no name and password, want both") from error


def docker_config() -> dict[str, Any]:
    """Return what Docker's configuration says of credentials, in the form that `oras` keeps it in."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = os.path.join(folder, "config.json")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        data = b"{}"
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", path=path) from error
    try:
        found = json.loads(data) if len(data) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        found = None
    parts: dict[str, Any] = {"auths": {}, "credHelpers": {}} | (found if isinstance(found, dict) else {})
    auths: Any = parts["auths"]
    helpers: Any = parts["credHelpers"]
    if (
        not isinstance(found, dict)
        or not isinstance(auths, dict)
        or not isinstance(helpers, dict)
        or not all(isinstance(each, dict) for each in auths.values())
    ):
        # Not a word of it: it has passwords.
        raise ConfigError(f"cannot use {path}: found something else, want Docker's configuration in JSON", path=path)
    return {"auths": auths, "credsStore": parts.get("credsStore"), "credHelpers": helpers}
