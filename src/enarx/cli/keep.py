# SPDX-License-Identifier: Apache-2.0
"""`enarx keep list|show|logs|attach|stop`: Keeps on a host, seen by the tenant who deployed them.

Every fact has its source beside it: `host says`, which is worth what the host is worth, or `attested`.
"""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import ACCESS, DEFAULT_HOST, FETCHING, fetch_for, host_client, name_of, now, show_findings
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import ConfigError, EnarxError, TransportError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from enarx.deploy.attaching import AttachedKeep
    from enarx.deploy.folder import DeploymentFolder
    from enarx.deploy.host_client import HostClient, HostKeep
    from enarx.deploy.receipt import AttestedFacts

_GRACE_MS = 10_000


def _ask(parsed: Parsed, use: Callable[[Parsed, HostClient], Awaitable[int]]) -> int:
    """Run a command that asks a host."""
    import asyncio

    from enarx.deploy.host_client import parse_address

    address = parse_address(parsed.value("on") or DEFAULT_HOST)

    async def run() -> int:
        async with host_client(parsed, address) as host:
            return await use(parsed, host)

    try:
        return asyncio.run(run())
    except EnarxError as error:
        show_findings(error)
        raise


def _folder(host: HostClient, keep_id: str) -> DeploymentFolder:
    from enarx.deploy.folder import DeploymentFolder, default_state_root

    return DeploymentFolder.of(default_state_root(), host.address.name, keep_id)


async def _attach_to(parsed: Parsed, host: HostClient, keep_id: str) -> AttachedKeep:
    from enarx.deploy.attaching import attach

    now()
    attached = await attach(host, keep_id, _folder(host, keep_id), now=now, fetch=fetch_for(parsed), say=ui.note)
    weak = "; nothing protects it from its host" if attached.emulated else ""
    name = name_of(keep_id, emulated=attached.emulated)
    ui.note(f"{name} on {host.address.name}: it is the one of the receipt{weak}")
    return attached


# --- list and show -----------------------------------------------------------------------------------------------------


async def _list(parsed: Parsed, host: HostClient) -> int:
    keeps = await host.list_keeps()
    known = [(keep, _stored_facts(host, keep.id)) for keep in keeps]
    if parsed.flag("json"):
        _show_json([_document(keep, facts) for keep, facts in known])
        return 0
    if not known:
        ui.note(f"the host {host.address.name} says that you have no Keep there")
    for keep, facts in known:
        _show_lines(_lines(keep, facts, "when it was deployed"))
    return 0


async def _show(parsed: Parsed, host: HostClient) -> int:
    keep_id = parsed.operands[0]
    keep = await host.show_keep(keep_id)
    facts, when = _stored_facts(host, keep_id), "when it was deployed"
    attested = None
    if facts is not None and _folder(host, keep_id).exists() and keep.state in {"starting", "ready"}:
        # It takes nobody's session away: what was not asked to attach is only looked at.
        attached = await _attach_to(parsed, host, keep_id)
        attested = attached.attested
        await attached.conversation.leave()
        when = f"now, {_time(attested.judged.result.at)}"
    if parsed.flag("json"):
        document = _document(keep, facts)
        if attested is not None:
            document["attested"]["at"] = _time(attested.judged.result.at)
            document["attested"]["log-start"] = attested.attachment.log_start
            document["attested"]["log-end"] = attested.attachment.log_end
        _show_json(document)
        return 0
    lines = _lines(keep, facts, when)
    if attested is not None:
        lines.append(
            f"  attested   log: bytes {attested.attachment.log_start} to {attested.attachment.log_end} of its output"
        )
    _show_lines(lines)
    return 0


def _show_json(document: object) -> None:
    import json

    ui.out(json.dumps(document, indent=2))


def _stored_facts(host: HostClient, keep_id: str) -> AttestedFacts | None:
    """Return what the receipt says that this tenant has of a Keep; None where it was not deployed from here."""
    folder = _folder(host, keep_id)
    try:
        receipt = folder.load_receipt()
    except UsageError:
        return None
    from enarx.deploy.receipt import attested_facts

    return attested_facts(receipt)


def _lines(keep: HostKeep, facts: AttestedFacts | None, when: str) -> list[str]:
    ports = " ".join(f"{port.name}={port.port}" for port in keep.ports) or "no ports"
    lines = [
        name_of(keep.id, emulated=facts is not None and facts.emulated),
        f"  host says  {keep.state}, backend {keep.backend}, {keep.memory_bytes} bytes of memory, {ports}, created {keep.created}",
    ]
    if keep.reason is not None:
        lines.append(f"  host says  why it ended: {keep.reason.message}")
    if keep.vtpm_key_sha256 is not None:
        lines.append(
            f"  host says  its virtual TPM's key is sha256:{keep.vtpm_key_sha256} (insecure_vtpm_aks of a policy)"
        )
    if facts is None:
        return [*lines, "  attested   nothing: it was not deployed from here"]
    emulated = "EMULATED " if facts.emulated else ""
    pristine = "as it is" if facts.identity.pristine else "with something given beyond it"
    return [
        *lines,
        f"  attested   {emulated}{facts.backend} Keep, image {facts.image}, {when}",
        f"  attested   runs package sha256:{facts.identity.package.hex()} {pristine}",
        f"  attested   for tenant sha384:{facts.identity.tenant.hex()}",
        f"  attested   policy {facts.policy_name}, verdict {facts.status}, {_time(facts.at)}",
    ]


def _show_lines(lines: list[str]) -> None:
    """Print facts; whoever they come from, they move no cursor."""
    ui.out("\n".join(map(ui.printable, lines)))


def _document(keep: HostKeep, facts: AttestedFacts | None) -> dict[str, dict[str, object]]:
    said: dict[str, object] = {
        "id": keep.id,
        "backend": keep.backend,
        "state": keep.state,
        "created": keep.created,
        "memory-bytes": keep.memory_bytes,
        "ports": [{"name": port.name, "port": port.port} for port in keep.ports],
    }
    if keep.vtpm_key_sha256 is not None:
        said["vtpm-key-sha256"] = keep.vtpm_key_sha256
    if keep.reason is not None:
        said["reason"] = {"class": keep.reason.kind, "message": keep.reason.message, "hint": keep.reason.hint}
    if facts is None:
        return {"host-says": said, "attested": {}}
    return {
        "host-says": said,
        "attested": {
            "at": _time(facts.at),
            "emulated": facts.emulated,
            "status": facts.status,
            "backend": facts.backend,
            "image": facts.image,
            "policy": facts.policy_name,
            "package": facts.identity.package.hex(),
            "module": facts.identity.module.hex(),
            "configuration": facts.identity.configuration.hex(),
            "pristine": facts.identity.pristine,
            "tenant": facts.identity.tenant.hex(),
            "memory-bytes": facts.limits.memory_bytes,
        },
    }


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


# --- logs, attach and stop ---------------------------------------------------------------------------------------------


async def _logs(parsed: Parsed, host: HostClient) -> int:
    from enarx.deploy.stdio import Output

    keep_id = parsed.operands[0]
    attached = await _attach_to(parsed, host, keep_id)
    attachment, conversation = attached.attested.attachment, attached.conversation
    if attachment.log_start:
        name = name_of(keep_id, emulated=attached.emulated)
        ui.note(f"{name}: the log begins at byte {attachment.log_start} of the output; what came before is gone")
    await conversation.attach(attachment.log_start)
    output = Output()
    try:
        with conversation.signals(only_leave=True):
            until = None if parsed.flag("follow") else attachment.log_end
            # Whoever attaches is told how it ended, whoever read along.
            await conversation.converse(None, output, until=until, keeps_end=True)
    finally:
        await output.close()
    return 0


async def _attach(parsed: Parsed, host: HostClient) -> int:
    from enarx.cli.deploy import lost, show_detached, show_ended
    from enarx.deploy.session import Detached
    from enarx.deploy.stdio import Input, Output

    keep_id = parsed.operands[0]
    attached = await _attach_to(parsed, host, keep_id)
    attachment, conversation, folder = attached.attested.attachment, attached.conversation, _folder(host, keep_id)
    name = name_of(keep_id, emulated=attached.emulated)
    offset = min(max(folder.load_offset(), attachment.log_start), attachment.log_end)
    if offset > folder.load_offset():
        ui.note(f"{name}: {offset - folder.load_offset()} bytes of output are gone from the log")
    await conversation.attach(offset)
    output = Output()
    try:
        with conversation.signals():
            outcome = await conversation.converse(Input(0), output)
    except TransportError as error:
        raise await lost(error, name, keep_id, host) from error
    finally:
        folder.store_offset(conversation.offset)
        await output.close()
    if isinstance(outcome, Detached):
        return show_detached(outcome, name, keep_id, host)
    folder.forget_key()
    return show_ended(outcome, name)


async def _stop(parsed: Parsed, host: HostClient) -> int:
    keep_id = parsed.operands[0]
    grace = parsed.value("grace")
    if parsed.flag("kill"):
        if grace is not None:
            raise UsageError("cannot stop the Keep: found --grace and --kill, want one of them")
        await host.delete_keep(keep_id)
        facts = _stored_facts(host, keep_id)
        _folder(host, keep_id).forget_key()
        name = name_of(keep_id, emulated=facts is not None and facts.emulated)
        ui.note(f"the host says that {name} is gone; only its word says so")
        return 0
    grace_ms = _GRACE_MS if grace is None else _grace_ms(grace)
    from enarx.deploy.session import Quiet

    attached = await _attach_to(parsed, host, keep_id)
    await attached.conversation.attach(attached.attested.attachment.log_end)
    ended = await attached.conversation.stop(grace_ms, Quiet())
    _folder(host, keep_id).forget_key()
    name = name_of(keep_id, emulated=attached.emulated)
    ui.note(f"{name} is gone; its workload ended with status {ended.exit.status}")
    return 0


def _grace_ms(text: str) -> int:
    from enarx.wire.session import MAX_GRACE_MS
    from enarx.wire.units import parse_duration

    try:
        grace_ms = 0 if text in {"0", "0s"} else round(parse_duration(text, name="--grace") * 1000)
    except ConfigError as error:
        error.hint = "--grace 0 kills at once"
        raise
    if grace_ms > MAX_GRACE_MS:
        raise UsageError(f"cannot stop the Keep: --grace: found {text}, want at most {MAX_GRACE_MS // 1000}s")
    return grace_ms


_ON = Option("on", "URL", f"the host; {DEFAULT_HOST} if nothing is said")
_JSON = Option("json", "", "one JSON document")

COMMANDS = {
    "keep list": Command(
        "keep list",
        summary="list your Keeps on a host",
        description=(
            "List your Keeps on a host. What the host says of them is its word; what is attested was judged when they were\n"
            "deployed from here, and is in their receipts."
        ),
        options=(_ON, _JSON, *ACCESS),
        examples=(("enarx keep list --on https://keeps.example", "what there is, and who says so"),),
        run=lambda parsed: _ask(parsed, _list),
    ),
    "keep show": Command(
        "keep show",
        operands=("KEEP",),
        summary="show one Keep, attested anew",
        description=(
            "Show one Keep. Where it was deployed from here, it is challenged again and judged under the policy of its\n"
            "deployment; whoever is attached stays attached."
        ),
        options=(_ON, _JSON, *ACCESS, *FETCHING),
        examples=(("enarx keep show 4f2a7c1e09b35d68 --on https://keeps.example", "what it is now"),),
        run=lambda parsed: _ask(parsed, _show),
    ),
    "keep logs": Command(
        "keep logs",
        operands=("KEEP",),
        summary="print what a workload wrote",
        description=(
            "Print the end of what a workload wrote, which its Keep remembers, after the Keep was judged again. Whoever is\n"
            "attached is displaced."
        ),
        options=(Option("follow", "", "go on until the workload ends; Ctrl-C leaves"), _ON, *ACCESS, *FETCHING),
        examples=(("enarx keep logs 4f2a7c1e09b35d68 --follow", "on this machine's host"),),
        run=lambda parsed: _ask(parsed, _logs),
    ),
    "keep attach": Command(
        "keep attach",
        operands=("KEEP",),
        summary="connect to a workload that runs on",
        description=(
            "Connect standard streams to a workload that runs on, after its Keep was judged again and found to be the one of the\n"
            "receipt. Output goes on where it was left. The status is the workload's, as for enarx deploy. A second attach\n"
            "displaces the first."
        ),
        options=(_ON, *ACCESS, *FETCHING),
        examples=(("enarx keep attach 4f2a7c1e09b35d68 --on https://keeps.example", "from another terminal"),),
        run=lambda parsed: _ask(parsed, _attach),
    ),
    "keep stop": Command(
        "keep stop",
        operands=("KEEP",),
        summary="end a workload and its Keep",
        description=(
            "End a workload with TERM, after a time with KILL, and its Keep. The Keep is judged again first, and it obeys the\n"
            "deployment's key alone. --kill asks the host instead, which needs no key and proves nothing."
        ),
        options=(
            Option("grace", "DURATION", "the time between TERM and KILL; 10s if nothing is said"),
            Option("kill", "", "have the host end it"),
            _ON,
            *ACCESS,
            *FETCHING,
        ),
        examples=(
            ("enarx keep stop 4f2a7c1e09b35d68 --grace 1m", "let it finish"),
            ("enarx keep stop 4f2a7c1e09b35d68 --kill", "where the key is lost"),
        ),
        run=lambda parsed: _ask(parsed, _stop),
    ),
}
