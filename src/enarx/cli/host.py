# SPDX-License-Identifier: Apache-2.0
"""`enarx host serve`: turn flags into the options of `enarx.host.service`, and print where it listens."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.service_options import ServiceOptions
from enarx.wire.host_api import DEFAULT_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.host.service import HostOptions

DEFAULT_LISTEN = f"127.0.0.1:{DEFAULT_PORT}"


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

    given = ServiceOptions(parsed, "host serve")
    host, port = given.listen(DEFAULT_LISTEN)
    state = parsed.value("state") or default_state_path()
    usual = HostLimits(memory_bytes=_memory_bytes())
    ports = parsed.value("ports")
    limits = HostLimits(
        keeps=given.number("max-keeps", usual.keeps),
        memory_bytes=given.size("max-memory", usual.memory_bytes, most=MAX_BYTES),
        disk_bytes=given.size("max-disk", usual.disk_bytes, most=MAX_BYTES),
        package_bytes=given.size("max-package", usual.package_bytes, most=MAX_BYTES),
        log_bytes=given.size("keep-log", usual.log_bytes, least=MIN_LOG_BYTES, most=MAX_BYTES),
        ports=usual.ports if ports is None else _ports(ports, given),
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
        keep_cpus=None if parsed.value("keep-cpus") is None else given.number("keep-cpus", 1, least=1),
        drain=parsed.value("drain") or "leave",
        image=parsed.value("image"),
        vm_evidence=parsed.value("vm-evidence") or "vtpm",
        experimental=parsed.flag("experimental"),
        machines=tuple(map(parse_machine, parsed.all("machine"))),
        registries=tuple(map(parse_allowed, parsed.all("allow-registry"))),
        parent_fd=None if parsed.value("parent-fd") is None else given.number("parent-fd", 3, least=3),
    )


def _ports(text: str, given: ServiceOptions) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in (low, high)):
        raise given.wrong("ports", text, "LOW-HIGH, such as 20000-29999")
    if not 1 <= int(low) <= int(high) <= 65_535:
        raise given.wrong("ports", text, "LOW-HIGH from 1 to 65535")
    return int(low), int(high)


def _memory_bytes() -> int:
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
