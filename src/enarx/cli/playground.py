# SPDX-License-Identifier: Apache-2.0
"""`enarx playground serve`: turn flags into the options of `enarx.playground.service`, and print where it listens."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import ACCESS, FETCHING, fetch_for, host_client, now
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.run import BACKENDS
from enarx.cli.service_options import ServiceOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.deploy import TenantPolicy
    from enarx.playground.modules import JobLimits
    from enarx.playground.service import PlaygroundOptions

DEFAULT_LISTEN = "127.0.0.1:8480"
_MAX_TIMEOUT_S = 600
_MAX_BYTES = 1 << 32


def _serve(parsed: Parsed) -> int:
    from enarx.playground.service import serve
    from enarx.serving.logs import make_log

    log = make_log(parsed.value("log-format") or "text")
    return serve(_options(parsed), log=log, announce=lambda url: ui.note(f"playground on {url}"))


def _options(parsed: Parsed) -> PlaygroundOptions:
    from functools import partial

    from enarx.deploy.host_client import parse_address
    from enarx.host.backends import require_backend
    from enarx.playground.service import PlaygroundOptions

    given = ServiceOptions(parsed, "playground serve")
    host, port = given.listen(DEFAULT_LISTEN)
    now()
    backend = parsed.value("backend") or "auto"
    require_backend(backend)
    to = parsed.value("to")
    address = None if to is None else parse_address(to)
    if address is not None:
        # What is wrong with its files is said now.
        host_client(parsed, address)

    def policy() -> TenantPolicy:
        from enarx.deploy.policy import find_policy

        return find_policy(parsed.value("policy"), emulated=parsed.flag("insecure-accept-emulated"))

    return PlaygroundOptions(
        host=host,
        port=port,
        policy=policy,
        tls_certificate=parsed.value("tls-certificate"),
        tls_key=parsed.value("tls-key"),
        insecure_http=parsed.flag("insecure-http"),
        connect=None if address is None else partial(host_client, parsed, address),
        backend="nil" if backend == "auto" else backend,
        fetch=fetch_for(parsed),
        accept_emulated=parsed.value("insecure-accept-emulated"),
        examples=parsed.value("examples"),
        limits=_limits(parsed, given),
        at_once=given.number("max-jobs", 2, least=1),
        an_hour=given.number("jobs-an-hour", 60, least=1),
        visitor_header=parsed.value("visitor-header"),
    )


def _limits(parsed: Parsed, given: ServiceOptions) -> JobLimits:
    from enarx.playground.modules import JobLimits
    from enarx.wire import parse_duration

    usual = JobLimits()
    text = parsed.value("timeout")
    timeout_s = usual.timeout_s if text is None else parse_duration(text, name="--timeout")
    if timeout_s > _MAX_TIMEOUT_S:
        raise given.wrong("timeout", str(text), f"at most {_MAX_TIMEOUT_S}s")
    return JobLimits(
        memory_bytes=given.size("memory", usual.memory_bytes, most=_MAX_BYTES),
        timeout_s=timeout_s,
        output_bytes=given.size("output", usual.output_bytes, most=_MAX_BYTES),
        module_bytes=given.size("max-module", usual.module_bytes, most=_MAX_BYTES),
    )


COMMANDS = {
    "playground serve": Command(
        "playground serve",
        summary="a page on which visitors try modules in Keeps",
        description=(
            "Serve a page on which visitors choose an example or send a module of theirs, and see it run in a Keep: its verdict,\n"
            "its output, its end. This service is the tenant: it sees what visitors send, and keeps nothing of it. A job has small\n"
            "limits and no network, and each visitor has one at a time. Without --to, a host is started here."
        ),
        options=(
            Option("listen", "ADDR:PORT", f"where the page is; {DEFAULT_LISTEN} if not given, port 0 is any"),
            Option("tls-certificate", "FILE", "PEM certificate of the page, chain included"),
            Option("tls-key", "FILE", "its PEM private key"),
            Option("insecure-http", "", "listen beyond this machine without TLS, as behind a proxy that speaks it"),
            Option("visitor-header", "NAME",
                   "the header in which a proxy in front says who visits, such as X-Forwarded-User of one that signs people in; without it a visitor is a network address"),
            Option("examples", "DIR", "more examples: a folder of packages, such as build/languages/packages"),
            Option("to", "URL", "the host: https://host[:port], or http:// on this machine or without a token"),
            Option("policy", "FILE", "what to accept; without it, images of this installation on genuine platforms"),
            Option("insecure-accept-emulated", "ROOT-SHA256",
                   "accept an EMULATED platform, which protects nothing: this installation's own, or the one of a root",
                   optional=True),
            Option("backend", "KEEP", "auto, snp, tdx, cca, sgx, vm or nil; auto is nil in this version",
                   environment="ENARX_BACKEND", choices=BACKENDS),
            Option("max-jobs", "N", "how many jobs at once; 2 if not given"),
            Option("jobs-an-hour", "N", "how many jobs one visitor may start in an hour; 60 if not given"),
            Option("memory", "SIZE", "that a job may use; 256 MiB if not given"),
            Option("timeout", "TIME", "that a job may run; 10s if not given"),
            Option("output", "SIZE", "that a job may write; 64 KiB if not given"),
            Option("max-module", "SIZE", "largest module that a visitor may send; 8 MiB if not given"),
            *ACCESS,
            *FETCHING,
            Option("log-format", "FORM", "of the log on stderr: text or json", choices=("text", "json")),
        ),
        examples=(
            ("enarx playground serve --insecure-accept-emulated", f"on this machine alone, http://{DEFAULT_LISTEN}"),
            ("enarx playground serve --to https://keeps.example --policy policy.toml --tls-certificate page.pem --tls-key page.key"
             " --listen 0.0.0.0:443", "for everybody, in Keeps of a machine elsewhere"),
        ),
        run=_serve,
    ),
}  # fmt: skip
