# SPDX-License-Identifier: Apache-2.0
"""What commands that ask a host have in common: which host, who is asking, how vendors are asked, what a Keep is called."""

from __future__ import annotations

import os
import sys

from enarx.cli import ui
from enarx.cli.clock import read_clock
from enarx.cli.options import Option, Parsed
from enarx.errors import EnarxError, UsageError
from enarx.wire.host_api import DEFAULT_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from enarx.deploy.attesting import Fetch
    from enarx.deploy.host_client import HostAddress, HostClient
    from enarx.rats import Endorsements
    from enarx.verifier import Recognised

__all__ = ["ACCESS", "DEFAULT_HOST", "FETCHING", "fetch_for", "host_client", "name_of", "now", "show_findings"]

DEFAULT_HOST = f"http://127.0.0.1:{DEFAULT_PORT}"
"""Where `enarx host serve` listens if nothing else is said."""

_TOKEN = "ENARX_HOST_TOKEN"  # noqa: S105 - the variable's name
_MAX_FILE_BYTES = 8192

ACCESS = (
    Option(
        "token-file",
        "FILE",
        f"the host's token for you, if it is not in ${_TOKEN}; never sent over http:// to elsewhere",
    ),
    Option("host-ca", "FILE", "PEM of the authority to trust for the host's https://, instead of the public ones"),
    Option("client-certificate", "FILE", "PEM of a certificate for a host that asks for one"),
    Option("client-key", "FILE", "PEM of its key, if it is in a file of its own"),
)
FETCHING = (
    Option("offline", "", "fetch nothing from vendors"),
    Option("amd-kds", "URL", "a mirror of AMD's key distribution service", environment="ENARX_AMD_KDS"),
    Option("intel-pcs", "URL", "a mirror of Intel's service: a PCCS", environment="ENARX_INTEL_PCS"),
    Option("proxy", "URL", "the HTTP proxy to fetch through", environment="ENARX_PROXY"),
)


def host_client(parsed: Parsed, address: HostAddress) -> HostClient:
    """Return who asks the host.

    Raises:
        UsageError: a file cannot be read or used, or the token would travel in the clear.
    """
    from enarx.deploy.host_client import HostClient

    return HostClient(
        address,
        token=_token(parsed.value("token-file")),
        ca_file=parsed.value("host-ca"),
        certificate=parsed.value("client-certificate"),
        private_key=parsed.value("client-key"),
    )


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(_TOKEN) or None
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii").strip()
    except OSError as error:
        raise UsageError(f"cannot read the token: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read the token: {path}: found other bytes, want printable ASCII") from error


def fetch_for(parsed: Parsed) -> Fetch | None:
    """Return what fetches missing endorsements; None where nothing may be fetched."""
    if parsed.flag("offline"):
        return None

    def fetch(recognised: Recognised, known: Endorsements, at: datetime) -> Endorsements:
        from enarx.cli.attest import FETCH_TIMEOUT_S
        from enarx.cli.attest_fetch import fetch_missing

        fetched = fetch_missing(parsed, recognised, known, at=at, timeout_s=FETCH_TIMEOUT_S)
        if not fetched.sources:
            fetched.require()
        return fetched.endorsements

    return fetch


def name_of(keep_id: str, *, emulated: bool) -> str:
    """Return what every line calls a Keep; one on an emulated platform by that first."""
    return f"EMULATED Keep {keep_id}" if emulated else f"Keep {keep_id}"


def now() -> datetime:
    """Return the time.

    Raises:
        PlatformError: this machine's clock is not set.
    """
    return read_clock("judge a Keep", hint="set the clock: certificates and revocation lists are judged by it")


def show_findings(error: EnarxError) -> None:
    """Print every finding that a refusal rests on, where the error has any."""
    result = getattr(error, "result", None)
    if result is None:
        return
    from enarx.cli.attest_text import explain, summarise

    colour = ui.wants_colour(sys.stderr)
    ui.tell(summarise(result, f"{result.tee} evidence", colour=colour) + "\n")
    text = explain(result, everything=False, colour=colour)
    if text:
        ui.tell(text + "\n")
