# SPDX-License-Identifier: Apache-2.0
"""`enarx host serve`: turn flags into the options of `enarx.host.service`, and print where it listens."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import ConfigError, UsageError
from enarx.wire.host_api import DEFAULT_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.host.service import HostOptions

DEFAULT_LISTEN = f"127.0.0.1:{DEFAULT_PORT}"
_MAX_NUMBER = 1_000_000


def _serve(parsed: Parsed) -> int:
    from enarx.host.service import serve
    from enarx.serving.logs import make_log

    options = _options(parsed)
    # A private host's owner has a workload on this terminal and did not ask for a log.
    log = make_log(parsed.value("log-format") or "text", quiet=options.parent_fd is not None)
    return serve(options, log=log, announce=lambda url: ui.note(f"host listening on {url}"))


def _options(parsed: Parsed) -> HostOptions:
    from enarx.host.fetching import parse_allowed
    from enarx.host.fleet import HostLimits
    from enarx.host.launchers.remote import parse_machine
    from enarx.host.service import HostOptions
    from enarx.host.state import default_state_path
    from enarx.keep.options import MAX_BYTES, MIN_LOG_BYTES
    from enarx.wire import parse_size

    def size(name: str, default: int, *, least: int = 1) -> int:
        value = parsed.value(name)
        try:
            found = default if value is None else parse_size(value, name=f"--{name}")
        except ConfigError as error:
            raise UsageError(str(error), hint=error.hint) from error
        if not least <= found <= MAX_BYTES:
            raise _wrong(name, str(value), f"{least} to {MAX_BYTES} bytes")
        return found

    host, port = parse_listen(parsed.value("listen") or DEFAULT_LISTEN, command="host serve")
    state = parsed.value("state") or default_state_path()
    usual = HostLimits(memory_bytes=_memory_bytes())
    ports = parsed.value("ports")
    limits = HostLimits(
        keeps=_number(parsed, "max-keeps", usual.keeps),
        memory_bytes=size("max-memory", usual.memory_bytes),
        disk_bytes=size("max-disk", usual.disk_bytes),
        package_bytes=size("max-package", usual.package_bytes),
        log_bytes=size("keep-log", usual.log_bytes, least=MIN_LOG_BYTES),
        ports=usual.ports if ports is None else _ports(ports),
    )
    return HostOptions(
        host=host,
        port=port,
        state=state,
        limits=limits,
        tenants=parsed.value("tenants"),
        tls_certificate=parsed.value("tls-certificate"),
        tls_key=parsed.value("tls-key"),
        client_ca=parsed.value("client-ca"),
        insecure_http=parsed.flag("insecure-http"),
        outbound=not parsed.flag("no-outbound"),
        outbound_local=True if parsed.flag("outbound-local") else None,
        publish=parsed.value("publish"),
        keep_cpus=None if parsed.value("keep-cpus") is None else _number(parsed, "keep-cpus", 1, least=1),
        drain=parsed.value("drain") or "leave",
        image=parsed.value("image"),
        vm_evidence=parsed.value("vm-evidence") or "vtpm",
        experimental=parsed.flag("experimental"),
        machines=tuple(map(parse_machine, parsed.all("machine"))),
        registries=tuple(map(parse_allowed, parsed.all("allow-registry"))),
        parent_fd=None if parsed.value("parent-fd") is None else _number(parsed, "parent-fd", 3, least=3),
    )


def parse_listen(text: str, *, command: str) -> tuple[str, int]:
    """Return address and port of where a service is to listen.

    Args:
        text: of `--listen`.
        command: whose.

    Raises:
        UsageError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise _wrong("listen", text, "ADDRESS:PORT, such as 127.0.0.1:8470 or [::1]:0", command=command)
    return host, int(port)


def _ports(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in (low, high)):
        raise _wrong("ports", text, "LOW-HIGH, such as 20000-29999")
    if not 1 <= int(low) <= int(high) <= 65_535:
        raise _wrong("ports", text, "LOW-HIGH from 1 to 65535")
    return int(low), int(high)


def _number(parsed: Parsed, name: str, default: int, *, least: int = 0) -> int:
    text = parsed.value(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 7 or not least <= int(text) <= _MAX_NUMBER:
        raise _wrong(name, text, f"a number from {least} to {_MAX_NUMBER}")
    return int(text)


def _memory_bytes() -> int:
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _wrong(name: str, found: str, want: str, *, command: str = "host serve") -> UsageError:
    return UsageError(
        f"cannot run {command}: --{name}: found {found[:64]!r}, want {want}", hint=f"enarx {command} --help"
    )


COMMANDS = {
    "host serve": Command(
        "host serve",
        summary="lend this machine to tenants who need not trust it",
        description=(
            "Serve the HTTP API by which tenants start Keeps here, and relay their sessions, ports and connections without"
            " reading them. Keeps go on when the host is stopped, and the next one takes them over. The operator's page is at"
            " /, metrics at /metrics. Without --tenants only this machine can connect."
        ),
        options=(
            Option("listen", "ADDR:PORT", f"where the API listens; {DEFAULT_LISTEN} if not given, port 0 is any"),
            Option(
                "state",
                "DIR",
                "where what it remembers is kept; one host at a time uses it",
                environment="ENARX_HOST_STATE",
            ),
            Option("tenants", "FILE", "TOML file of who may use the host, and how much; read again on SIGHUP"),
            Option("tls-certificate", "FILE", "PEM certificate of the API, chain included"),
            Option("tls-key", "FILE", "its PEM private key"),
            Option("client-ca", "FILE", "PEM certificates of who signs client certificates"),
            Option("insecure-http", "", "listen beyond this machine without TLS, as behind a proxy that speaks it"),
            Option("max-keeps", "N", "how many Keeps at once; 256 if not given"),
            Option(
                "max-memory",
                "SIZE",
                "memory of all of them together, packages and machines included; this machine's if not given",
            ),
            Option("max-disk", "SIZE", "uploaded blobs of all of them together; 64 GiB if not given"),
            Option("max-package", "SIZE", "largest package; 512 MiB if not given, and half of a Keep's memory"),
            Option("keep-log", "SIZE", "output that a Keep keeps for a tenant who is not there; 1 MiB if not given"),
            Option("keep-cpus", "N", "how many CPUs one Keep may use; all if not given"),
            Option("image", "NAME", "the image of Keeps that are machines, or its digest; this version's if not given"),
            Option(
                "vm-evidence",
                "KIND",
                "what Keeps of backend vm attest with: a virtual TPM, or this host's emulated platform; vtpm if not given",
                choices=("vtpm", "emulated-snp"),
            ),
            Option(
                "experimental",
                "",
                "also offer backends that nobody has seen start a Keep, cca and sgx, and emulate other architectures",
            ),
            Option(
                "machine",
                "BACKEND=ADDR:PORT",
                "have a Keep of that backend on a machine that runs elsewhere, from an image for clouds; may be repeated",
                repeat=True,
            ),
            Option("publish", "ADDR", "address on which workloads' ports are published; the API's if not given"),
            Option("ports", "LOW-HIGH", "which port numbers tenants may ask for; 1024-65535 if not given"),
            Option(
                "allow-registry",
                "HOST[/REPOSITORY]",
                "fetch encrypted packages from there for Keeps, so that tenants need not upload them; may be repeated",
                repeat=True,
            ),
            Option("no-outbound", "", "connect nowhere for Keeps"),
            Option("outbound-local", "", "with --tenants: also connect to addresses that are not public for Keeps"),
            Option(
                "drain",
                "HOW",
                "what SIGTERM does with Keeps: leave them for the next host, wait for their end, or stop them",
                choices=("leave", "wait", "stop"),
            ),
            Option("log-format", "FORM", "of the log on stderr: text or json", choices=("text", "json")),
            Option("parent-fd", "FD", "serve one process: tell it address and token on FD, and end with it"),
        ),
        examples=(
            ("enarx host serve", f"for this machine, on {DEFAULT_LISTEN}"),
            (
                "enarx host serve --listen 0.0.0.0:8470 --tenants tenants.toml --tls-certificate host.pem --tls-key host.key",
                "for tenants elsewhere",
            ),
        ),
        run=_serve,
    ),
}
