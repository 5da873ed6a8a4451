# SPDX-License-Identifier: Apache-2.0
"""`enarx deploy`: a workload in a Keep on a host that nobody has to trust; its standard streams are this command's.

What holds the file together: the one way from the options to the workload's status. What the options say is put together first and in
one place each (the package, who has to have signed it, the Steward, the tenant's key), then all of it is deployed, then the workload is
talked to and its end is told.
"""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import ACCESS, FETCHING, fetch_for, host_client, name_of, now, show_findings
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.run import BACKENDS, PACKAGE_OPTIONS, fill_standard_descriptors
from enarx.cli.run import COMMANDS as RUN
from enarx.cli.traps import show_trap
from enarx.cli.workload_options import read_directory, read_overrides
from enarx.errors import EnarxError, TransportError, UsageError
from enarx.host.backends import require_backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from enarx.deploy.attesting import Attested
    from enarx.deploy.deploying import Deployment
    from enarx.deploy.host_client import HostAddress, HostClient, HostKeep
    from enarx.deploy.package import Package
    from enarx.deploy.package_source import Signers
    from enarx.deploy.policy import TenantPolicy
    from enarx.deploy.session import Detached, Ended
    from enarx.rats import PackageSigner
    from enarx.wire.overrides import Overrides
    from enarx.wire.release import Steward

_LOST_S = 3.0
"""For the host to say what became of a Keep whose session broke."""

_LOST_TRIES = 15
_MAX_STATUS = 99
_TRAP_STATUS = 134
_SIGNAL_STATUSES = frozenset({130, 137, 143})
_MACHINE_OPTIONS = ("image", "vm-evidence", "machine")
_WORKLOAD_OPTIONS = ("wasmcfgfile", "env", "dir", "listen", "memory", "timeout", "fuel", "output", "open-files")


def _deploy(parsed: Parsed) -> int:
    import asyncio

    from enarx.deploy.host_client import parse_address

    fill_standard_descriptors()
    require_backend(parsed.value("backend") or "auto")
    now()
    package = _load_package(parsed)
    to = parsed.value("to")
    if to is None and parsed.flag("detach"):
        raise UsageError(
            "cannot deploy: found --detach without --to, want a host: the one of this run ends with it",
            hint="enarx host serve starts one that stays",
        )
    address = None if to is None else parse_address(to)
    if address is not None and _host_options(parsed):
        raise UsageError(
            "cannot deploy: found --image, --vm-evidence, --machine or --experimental with --to, want none: that host has its own"
        )
    tenant_key = _read_tenant_key(parsed, package)
    try:
        return asyncio.run(_run(parsed, package, address, tenant_key))
    except EnarxError as error:
        show_findings(error)
        raise


def _load_package(parsed: Parsed) -> Package:
    """Read the package, from wherever it is. What was opened for it is gone afterwards: all that travels is in memory."""
    from dataclasses import replace

    from enarx.cli.package import open_named
    from enarx.deploy.package import DirectorySource, load_package
    from enarx.wire.release import MAIN

    overrides = _read_overrides(parsed)
    directories = [
        DirectorySource(path=each.host, guest=each.guest, read_only=each.read_only)
        for each in map(read_directory, parsed.all("dir"))
    ]
    steward = _read_steward(parsed)
    with open_named(parsed, require=_read_signers(parsed)) as opened:
        package = load_package(
            opened.path,
            config_path=parsed.value("wasmcfgfile"),
            overrides=overrides,
            directories=directories,
            plaintext=frozenset(parsed.all("allow-plaintext")),
            steward=steward,
        )
    if opened.path == opened.name:
        return package
    stored = opened.stored
    # What the Keep would get from the registry has to be what was read here.
    if stored is not None and stored.blob.plaintext != package.digests[MAIN]:
        stored = None
    return replace(package, path=opened.name, stored=stored)


def _read_signers(parsed: Parsed) -> Signers | None:
    """Return who may sign, where the policy or a flag wants a signature."""
    path, root = parsed.value("policy"), parsed.value("trust-root")
    if path is None and root is None and not parsed.flag("require-signature"):
        return None
    from enarx.deploy.package_signers import find_signers

    named: tuple[PackageSigner, ...] = ()
    if path is not None:
        from enarx.deploy.policy import find_policy

        named = find_policy(path, emulated=parsed.flag("insecure-accept-emulated")).policy.package_signers
    return find_signers(named, is_required=parsed.flag("require-signature"), at=now(), trust_root=root)


def _read_overrides(parsed: Parsed) -> Overrides:
    """Return what the workload options say, and who may be at the other end of its TLS connections."""
    from enarx.wire.peers import ANY_TENANT, parse_peer

    overrides = read_overrides(parsed)
    named = [parse_peer(word, name="--peer") for word in parsed.all("peer")]
    overrides.peers = [
        (bytes.fromhex(peer.package), None if peer.tenant == ANY_TENANT else bytes.fromhex(peer.tenant))
        for peer in named
    ]
    return overrides


def _read_steward(parsed: Parsed) -> Steward | None:
    """Return the Steward that flags or the policy name; where both do, it is one."""
    url, root = parsed.value("steward"), parsed.value("steward-root")
    policy = parsed.value("policy")
    if url is None and root is None and policy is None:
        return None
    if (url is None) != (root is None):
        there, missing = ("--steward", "--steward-root FILE") if root is None else ("--steward-root", "--steward URL")
        raise UsageError(
            f"cannot deploy: found {there} alone, want {missing} with it",
            hint="a Steward is believed for its root, which you have from whoever runs it",
        )
    from enarx.deploy.naming import load_steward
    from enarx.deploy.policy import find_steward

    return find_steward(policy, None if url is None or root is None else load_steward(url, root))


async def _run(
    parsed: Parsed,
    package: Package,
    address: HostAddress | None,
    tenant_key: EllipticCurvePrivateKey | None = None,
) -> int:
    import contextlib

    from enarx.deploy.host_client import HostClient
    from enarx.deploy.own_host import private_host

    async with contextlib.AsyncExitStack() as stack:
        if address is None:
            import tempfile

            private = await stack.enter_async_context(private_host(options=_host_options(parsed)))
            # The host of this run is gone after it, and so is everything that only it could answer to.
            state_root = stack.enter_context(tempfile.TemporaryDirectory(prefix="enarx-deploy-"))
            host = await stack.enter_async_context(HostClient(private.address, token=private.token))
        else:
            from enarx.deploy.folder import default_state_root

            state_root = default_state_root()
            host = await stack.enter_async_context(host_client(parsed, address))
        return await _deploy_to(parsed, package, host, state_root, tenant_key)


def _host_options(parsed: Parsed) -> list[str]:
    """Return what the host of this run is told of the machines that it starts."""
    given = [f"--{name}={value}" for name in _MACHINE_OPTIONS if (value := parsed.value(name)) is not None]
    return given + (["--experimental"] if parsed.flag("experimental") else [])


async def _deploy_to(
    parsed: Parsed,
    package: Package,
    host: HostClient,
    state_root: str,
    tenant_key: EllipticCurvePrivateKey | None = None,
) -> int:
    from enarx.deploy.deploying import deploy_package

    def policy() -> TenantPolicy:
        from enarx.deploy.policy import find_policy

        return find_policy(parsed.value("policy"), emulated=parsed.flag("insecure-accept-emulated"))

    requested = parsed.value("backend") or "auto"
    machine = parsed.value("machine")
    if requested == "auto" and machine is not None:
        requested = machine.partition("=")[0]
    deployment = await deploy_package(
        package,
        host=host,
        policy=policy,
        state_root=state_root,
        backend="nil" if requested == "auto" else requested,
        fetch=fetch_for(parsed),
        accept_emulated=parsed.value("insecure-accept-emulated"),
        tenant_key=tenant_key,
        say=ui.note,
        accepted=lambda attested: _show_accepted(attested, host.address.name),
    )
    receipt = parsed.value("receipt")
    if receipt is not None:
        _copy_receipt(deployment, receipt)
    name = _name(deployment)
    for port in deployment.keep.ports:
        ui.note(f"{name}: the host says that port {port.port} is {port.name}")
    if parsed.flag("detach"):
        await deployment.conversation.end_stdin()
        await deployment.conversation.detach()
        ui.note(f"{name} runs on; enarx keep attach {deployment.keep.id} --on {host.address.url}")
        ui.out(deployment.keep.id)
        return 0
    return await _converse(deployment, package, host)


def _read_tenant_key(parsed: Parsed, package: Package) -> EllipticCurvePrivateKey | None:
    """Return the key that the user named, made where there is none; say by which digests a Steward knows the two."""
    path = parsed.value("tenant-key")
    tenant = "a key of this deployment alone (--tenant-key FILE keeps one)"
    key = None
    if path is not None:
        from enarx.deploy.naming import load_tenant_key, tenant_digest

        key, is_new = load_tenant_key(path)
        if is_new:
            ui.note(f"made the tenant's key {path}; who has it can deploy in your name")
        tenant = f"sha384:{tenant_digest(key).hex()}"
    if path is not None or package.steward is not None:
        ui.note(f"package sha256:{package.digest.hex()}, tenant {tenant}")
    return key


async def _converse(deployment: Deployment, package: Package, host: HostClient) -> int:
    from enarx.deploy.session import Detached
    from enarx.deploy.stdio import Input, Output

    conversation, output = deployment.conversation, Output()
    try:
        with conversation.signals():
            outcome = await conversation.converse(Input(0), output)
    except TransportError as error:
        raise await lost(error, _name(deployment), deployment.keep.id, host) from error
    finally:
        deployment.folder.store_offset(conversation.offset)
        await output.close()
    if isinstance(outcome, Detached):
        return show_detached(outcome, _name(deployment), deployment.keep.id, host)
    deployment.folder.forget_key()
    return show_ended(outcome, package.path)


def _name(deployment: Deployment) -> str:
    return name_of(deployment.keep.id, emulated=deployment.attested.judged.result.emulated)


async def lost(error: TransportError, name: str, keep_id: str, host: HostClient) -> TransportError:
    """Return the error of a session that broke: with what the host says of the Keep's end, or else with the way back."""
    keep = await _ended_keep(host, keep_id)
    if keep is not None:
        reason = keep.reason
        why = f"; the host says that it is {keep.state}{f': {reason.message}' if reason else ''}"
        return TransportError(f"lost {name}: {error}{why}", hint=reason.hint if reason else None)
    return TransportError(
        f"lost {name}: {error}", hint=f"it may run on: enarx keep attach {keep_id} --on {host.address.url}"
    )


async def _ended_keep(host: HostClient, keep_id: str) -> HostKeep | None:
    """Return what a host says of a Keep that has ended; None where it has not, or the host does not answer soon."""
    import asyncio

    try:
        async with asyncio.timeout(_LOST_S):
            # A host sees that a link is closed a moment before it sees that the Keep has ended.
            for _ in range(_LOST_TRIES):
                keep = await host.show_keep(keep_id)
                if keep.state in {"ended", "lost"}:
                    return keep
                await asyncio.sleep(_LOST_S / _LOST_TRIES)
    except (EnarxError, TimeoutError):
        return None
    return None


def show_detached(detached: Detached, name: str, keep_id: str, host: HostClient) -> int:
    """Say that a workload runs on, and return the status."""
    if detached.reason is not None:
        ui.note(f"detached from {name}, because output cannot be written: {detached.reason.strerror}")
    ui.note(f"{name} runs on; enarx keep attach {keep_id} --on {host.address.url}")
    return ui.BROKEN_PIPE_STATUS if isinstance(detached.reason, BrokenPipeError) else 0


def show_ended(ended: Ended, path: str) -> int:
    """Say how a workload ended where there is something to say, and return the status.

    Raises:
        KeepError: a limit was hit, or another class that the Keep names.
    """
    found = ended.exit
    if found.failure is not None:
        from enarx.deploy.attesting import error_class

        raise error_class(found.failure.kind)(found.failure.message, hint=found.failure.hint)
    if found.trap is not None:
        show_trap(path, found.trap)
        status = _TRAP_STATUS
    elif found.status > _MAX_STATUS and not (ended.was_signalled and found.status in _SIGNAL_STATUSES):
        ui.note(
            f"the workload ended with status {found.status}; ending with {_MAX_STATUS}, since what is above is ours"
        )
        status = _MAX_STATUS
    else:
        status = found.status
    if found.hint and status:
        ui.show_hint(found.hint)
    return status


def _show_accepted(attested: Attested, name: str) -> None:
    result, image = attested.judged.result, attested.offer.image
    what = f"Keep on {name}: {attested.judged.format}, image {image.name} {image.version}, policy {result.policy_name}"
    if result.emulated:
        ui.note(f"EMULATED {what}: accepted, because you said so; nothing protects it from its host")
    else:
        ui.note(f"{what}: accepted")


def _copy_receipt(deployment: Deployment, path: str) -> None:
    import os
    import stat

    from enarx.wire.receipt_file import encode_receipt

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            # A file that was there keeps its mode otherwise; a terminal or a pipe is not ours to change.
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.fchmod(fd, 0o600)
            file.write(encode_receipt(deployment.receipt_file))
    except OSError as error:
        # The workload runs; its receipt is in the deployment's folder too.
        ui.note(f"cannot write the receipt: {path}: {error.strerror}")


COMMANDS = {
    "deploy": Command(
        "deploy",
        operands=("PACKAGE",),
        rest="ARG...",
        summary="attest a Keep on a host and run an application in it",
        description=(
            "Run a WebAssembly application in a Keep on a host that need not be trusted. The Keep has to prove what it is; only\n"
            "what your policy accepts is entrusted with anything. PACKAGE is a module, a directory with main.wasm and Enarx.toml,\n"
            "an OCI layout or an archive of one, or oci://HOST/REPOSITORY:TAG (docs/packages.md). Standard streams are the\n"
            "workload's, and so is the status, 0 to 99; 134 is a trap, 130 is Ctrl-C, and from 101 on it is ours (docs/cli.md).\n"
            "Ctrl-C interrupts the workload, again within 5 seconds kills it; closing the terminal leaves it running. Without\n"
            "--to, a host is started here for this one run."
        ),
        options=(
            Option("to", "URL", "the host: https://host[:port], or http:// on this machine or without a token"),
            Option("policy", "FILE", "what to accept; without it, images of this installation on genuine platforms"),
            Option("insecure-accept-emulated", "ROOT-SHA256",
                   "accept an EMULATED platform, which protects nothing: this installation's own, or the one of a root",
                   optional=True),
            Option("detach", "", "leave it running, and print its id"),
            Option("backend", "KEEP", "auto, snp, tdx, cca, sgx, vm or nil; auto is nil in this version",
                   environment="ENARX_BACKEND", choices=BACKENDS),
            Option("image", "NAME", "without --to: the image of a Keep that is a machine; this version's if not given"),
            Option("vm-evidence", "KIND", "without --to: what a Keep of backend vm attests with; vtpm if not given",
                   choices=("vtpm", "emulated-snp")),
            Option("experimental", "", "without --to: also offer backends that nobody has seen start a Keep: cca, sgx"),
            Option("machine", "BACKEND=ADDR:PORT", "without --to: have the Keep on this machine, which runs from an image for clouds"),
            *(option for option in RUN["run"].options if option.name in _WORKLOAD_OPTIONS),
            Option("allow-plaintext", "NAME", "let the host see and change what passes through this socket", repeat=True),
            Option("steward", "URL", "the Steward that certifies the Keep, https://host[:port]; needs --steward-root; [steward] of the policy can say it too"),
            Option("steward-root", "FILE", "its root.pem, one certificate: the Keep believes nobody else to be the Steward"),
            Option("tenant-key", "FILE", "your key, by whose digest a Steward's grants know you; made where there is none"),
            Option("peer", "PACKAGE[:TENANT]",
                   "who may be at the other end of the workload's TLS connections, by digests: instead of [tls] peers; needs a"
                   " Steward, and without TENANT nothing may be given beyond the package", repeat=True),
            Option("require-signature", "", "refuse a package that nobody signed who may, as [[package.signer]] of the policy says"),
            Option("trust-root", "FILE", "sigstore's trusted_root.json for keyless signatures, instead of the shipped one"),
            *(option for option in RUN["run"].options if option.name in PACKAGE_OPTIONS),
            Option("receipt", "FILE", "also write the receipt there; enarx attest verify judges it again"),
            *ACCESS,
            *FETCHING,
        ),
        examples=(
            ("enarx deploy app.wasm --to https://keeps.example", "run it there, if what runs there is what you have here"),
            ("enarx deploy app/ --to https://keeps.example --policy policy.toml --detach", "leave it running"),
            ("enarx deploy oci://registry.example/team/app:1.0 --to https://keeps.example --policy policy.toml",
             "fetch it, if it is what that tag was before and who signed it may"),
            ("enarx deploy hello.wasm --insecure-accept-emulated", "try it all on this machine, without protection"),
        ),
        run=_deploy,
    )
}  # fmt: skip
