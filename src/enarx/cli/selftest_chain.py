# SPDX-License-Identifier: Apache-2.0
"""The chain that `enarx platform selftest` runs for one backend: from the files of an image to a workload's output and its Keep's end.

It is what `enarx deploy` does, taken apart into steps: the same host service, session, verifier and launchers, and nothing of its own
between them. What is its own is the order, the policy and the record.

1. Reference values and command line are computed from files and put on record before anything is started.
2. A host of this run alone starts the Keep; the command line of what runs is read from the kernel and compared with the computed one.
3. The Keep is challenged, its offer judged, the workload released, the receipt judged, the output compared.
4. Whatever failed, everything that was started is ended, and that is looked at too.

The policy is the one that applies where a tenant names none, for SNP and for platforms that play it. For the others it is written from
the image's reference values; a value that nobody can compute from files is left out by name, and what was found there is in the
record.

What holds it together is `_Chain`, one method for each of these; what it rests on is above it, and the comparing below.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

from enarx.cli.attest_text import explain, summarise
from enarx.cli.selftest_report import StepFailedError, Trial
from enarx.crypto.x509 import make_self_signed
from enarx.deploy.attesting import Attested, Judge, Judged, attest, refuse
from enarx.deploy.host_client import HostClient, HostKeep
from enarx.deploy.own_host import private_host
from enarx.deploy.package import load_package
from enarx.deploy.policy import find_policy, make_policy
from enarx.deploy.provisioning import provision
from enarx.deploy.sealing import seal_blobs
from enarx.deploy.session import Conversation, Ended
from enarx.endorsers.emulated_root import emulated_root
from enarx.errors import EnarxError, KeepError, PlatformError, TransportError, UsageError
from enarx.host.launchers import KeepSpec
from enarx.host.launchers.own_process import mark_of
from enarx.host.launchers.qemu import MachineSpec, command_line, this_arch
from enarx.host.launchers.vm import VmLauncher, machine_bytes
from enarx.host.process_facts import children_of, find_marked, has_ended
from enarx.image.store import Image, open_image, verify_image
from enarx.rats import AttestationResult, Endorsements, Evidence, Outcome, Verdict, render
from enarx.verifier import TrustCache, recognise, verify_evidence
from enarx.verifier.policy_write import Reference, references_from_tables, toml_of, write_policy
from enarx.wire.cmw import decode_cmw_untrusted, leaves
from enarx.wire.overrides import Overrides
from enarx.wire.result_json import result_document

if TYPE_CHECKING:
    from enarx.channel.session import Session
    from enarx.deploy.attesting import Fetch
    from enarx.deploy.package import Package
    from enarx.deploy.policy import TenantPolicy
    from enarx.deploy.provisioning import Provisioned
    from enarx.wire.session import Attachment, Offer, Receipt

__all__ = ["KINDS", "Kind", "hello_package", "run_chain", "selftest_policy"]

HELLO = b"hello from a Keep\n"
_HELLO_TEXT = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\12\\00\\00\\00")
  (data (i32.const 16) "hello from a Keep\\n")
  (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
MEMORY_BYTES = 64 << 20
"""Of the workload."""

EVIDENCE_S = 180.0
OUTPUT_S = 120.0
END_S = 30.0
_LEAF_LIFETIME = timedelta(days=2)
_MAX_OUTPUT_BYTES = 1 << 16
_MAX_COMMAND_BYTES = 1 << 16
_MAX_WORDS_BYTES = 1 << 14
_NO_KEEP = "0" * 16
_REGISTERS = {"tdx.rtmr3": "RTMR3", "tpm.pcr15": "PCR 15", "azure.pcr15": "PCR 15"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way in which a machine can have Keeps.

    Args:
        name: for people.
        backend: of `enarx.host.BACKENDS`, or `pef`.
        section: of a policy and of an image's reference values; None where nothing is deployed.
        host_options: that a host needs to have it.
        evidence: what a launcher of `vm` is told.
    """

    name: str
    backend: str
    section: str | None = None
    host_options: Sequence[str] = ()
    evidence: str = ""

    @property
    def is_emulated(self) -> bool:
        """Return whether this host's emulated platform gives its evidence."""
        return self.backend == "nil" or self.evidence == "emulated-snp"

    @property
    def is_machine(self) -> bool:
        """Return whether it is a virtual machine from an image."""
        return self.backend != "nil"


KINDS = (
    Kind(name="snp", backend="snp", section="snp"),
    Kind(name="tdx", backend="tdx", section="tdx"),
    Kind(name="cca", backend="cca", section="cca", host_options=("--experimental",)),
    Kind(name="pef", backend="pef"),
    Kind(name="sgx", backend="sgx", section="sgx"),
    Kind(name="vm (virtual TPM)", backend="vm", section="tpm", evidence="vtpm"),
    Kind(name="vm (emulated SNP)", backend="vm", section="snp", evidence="emulated-snp"),
    Kind(name="nil", backend="nil", section="snp"),
)
"""In the order in which they are tried."""


class _WatchedJudge(Judge):
    """A judge that keeps what it was given, and says when there is something."""

    def __init__(self, policy: TenantPolicy, **options: Any) -> None:
        super().__init__(policy, **options)
        self._loop = asyncio.get_running_loop()
        self.arrived = asyncio.Event()
        self.seen: list[tuple[Offer | Attachment | Receipt, bytes]] = []

    def judge(self, message: Offer | Attachment | Receipt, report_data: bytes, **options: Any) -> Judged:
        """Judge the evidence of a message; see `Judge.judge`."""
        self.seen.append((message, report_data))
        self._loop.call_soon_threadsafe(self.arrived.set)
        return super().judge(message, report_data, **options)


class _Collected:
    """A sink that keeps the beginning of what is written."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
        self.data = {1: b"", 2: b""}

    async def write(self, fd: int, data: bytes) -> None:
        """Take output."""
        self.data[fd] = (self.data[fd] + data)[:_MAX_OUTPUT_BYTES]


def hello_package(folder: str) -> Package:
    """Make the workload, which says hello and ends.

    Args:
        folder: where its file is made.
    """
    from wasmtime import wat2wasm

    path = os.path.join(folder, "hello.wasm")
    with open(path, "wb") as file:
        file.write(wat2wasm(_HELLO_TEXT))
    return load_package(path, overrides=Overrides(limits={"memory-bytes": MEMORY_BYTES}))


def selftest_policy(section: str, values: Mapping[str, Any], key_sha256: str | None) -> tuple[str, tuple[str, ...]]:
    """Write the policy that a self-test judges by, where the default one knows nothing of a TEE.

    Args:
        section: of the TEE.
        values: reference values of the image by key; empty where none are computed.
        key_sha256: of the key that this installation's virtual TPMs attest with, or None.

    Returns:
        TOML, and the keys that it leaves out because no file says what they are.
    """
    references = dict(references_from_tables({section: values}, path="image")[1]) if values else {}
    if key_sha256 is not None:
        references["tpm.ak"] = Reference(toml_of([key_sha256]))
    missing = write_policy([section], references=references, origin="").missing
    left_out = Reference(toml_of({"skip": "no file says what it is; the self-test has what was found"}))
    draft = write_policy(
        [section], references=references | dict.fromkeys(missing, left_out), origin="Made by enarx platform selftest."
    )
    text = draft.text
    if key_sha256 is not None:
        text = text.replace("\nversion = 1\n", f"\nversion = 1\ninsecure_vtpm_aks = {toml_of([key_sha256])}\n", 1)
    return text, missing


async def run_chain(kind: Kind, trial: Trial, *, image_name: str, folder: str, fetch: Fetch | None) -> None:
    """Run the chain of one backend, and put every step on record; raises nothing but what ends the command.

    Args:
        kind: of the backend.
        trial: the record, which has the probes already.
        image_name: of the image that machines are started with.
        folder: for files of this trial; whoever gave it removes it.
        fetch: for missing endorsements, or None where nothing may be fetched.
    """
    chain = _Chain(kind, trial, image_name, folder, fetch)
    try:
        await chain.run()
    except StepFailedError as error:
        trial.skip_rest(f"{error} failed")


class _Chain:
    """One run of it."""

    def __init__(self, kind: Kind, trial: Trial, image_name: str, folder: str, fetch: Fetch | None) -> None:
        self._kind, self._trial, self._image_name, self._fetch = kind, trial, image_name, fetch
        self._folder = folder
        self._planned: tuple[str, ...] = ()
        self._processes: list[int] = []

    async def run(self) -> None:
        """Run it.

        Raises:
            StepFailedError: a step failed.
        """
        trial = self._trial
        if self._kind.section is None:
            self._show_only()
            return
        if self._kind.backend == "sgx":
            await asyncio.to_thread(self._try_enclave)
            return
        policy, package = await asyncio.to_thread(self._prepare)
        options = [*self._kind.host_options, f"--image={self._image_name}"]
        options += [f"--vm-evidence={self._kind.evidence}"] if self._kind.evidence else []
        with tempfile.TemporaryFile() as words:
            try:
                await self._start(policy, package, options, words)
            finally:
                words.seek(0)
                trial.host_said = words.read(_MAX_WORDS_BYTES).decode("utf-8", "replace")

    async def _start(self, policy: TenantPolicy, package: Package, options: Sequence[str], words: IO[bytes]) -> None:
        """Start a host and a Keep, deploy, and end both."""
        trial = self._trial
        async with contextlib.AsyncExitStack() as stack:
            keep: HostKeep | None = None
            host: HostClient | None = None
            try:
                with trial.step("start") as found:
                    private = await stack.enter_async_context(private_host(options=options, words=words))
                    host = await stack.enter_async_context(HostClient(private.address, token=private.token))
                    keep = await host.create_keep(
                        backend=self._kind.backend, memory_bytes=package.memory_bytes, ports=()
                    )
                    found.facts["keep"] = keep.id
                    self._look(keep.id, found)
                await self._deploy(host, keep, policy, package)
            except StepFailedError as error:
                trial.skip_rest(f"{error} failed", but=("teardown",))
                raise
            finally:
                if host is not None and keep is not None:
                    with trial.step("teardown") as found:
                        await self._tear_down(host, keep, stack, found)

    # --- Before anything runs

    def _show_only(self) -> None:
        """Put a command line on record that nobody runs: no image is made for such a machine, and no Keep is deployed there."""
        with self._trial.step("command line") as found:
            found.command = command_line(
                MachineSpec(
                    backend=self._kind.backend,
                    arch=this_arch(),
                    name=_NO_KEEP,
                    accelerator="kvm",
                    memory_bytes=machine_bytes(MEMORY_BYTES),
                    cmdline="",
                    has_firmware=False,
                )
            )
        self._trial.skip_rest("no Keep is deployed there: its guests have no way to give evidence")

    def _try_enclave(self) -> None:
        """Have an enclave with the files of an image attest itself. No Keep runs in one in this version."""
        from enarx.host.launchers.sgx import QUOTE_CODE, SgxLauncher, ask_quote, predict_measurement

        trial = self._trial
        with trial.step("image") as found:
            image = self._open_image()
            verify_image(image)
            found.facts |= {"name": image.name, "digest": image.digest, "arch": image.arch}
        with trial.step("reference values") as found:
            measurement = predict_measurement(image, QUOTE_CODE)
            values = {} if measurement is None else {"mr_enclave": [measurement.hex()]}
            if measurement is None:
                found.facts["mr_enclave"] = "unknown: Gramine or its signer is not on PATH"
            policy = self._write_policy(values, None, found)
        with trial.step("command line") as found:
            found.command = SgxLauncher().command()
        trial.skip("start", "no Keep runs in an enclave in this version; one that asks for a quote is started instead")
        with trial.step("evidence") as found:
            report_data = os.urandom(64)
            evidence = ask_quote(image, report_data, self._folder)
            _put_evidence(evidence, (), report_data, found)
        with trial.step("verdict") as found:
            self._judge_quote(evidence, report_data, policy, found)
        trial.skip_rest("no Keep runs in an enclave in this version")

    def _judge_quote(self, evidence: bytes, report_data: bytes, policy: TenantPolicy, found: Any) -> None:
        recognised = recognise(Evidence(data=evidence))
        at, known = _now(), Endorsements()

        def judge() -> AttestationResult:
            return verify_evidence(
                recognised, at=at, endorsements=known, policy=policy.policy, cache=TrustCache(), report_data=report_data
            )

        result = judge()
        if result.verdict is Verdict.UNDECIDED and self._fetch is not None:
            known = self._fetch(recognised, known, at)
            result = judge()
        _describe(result, recognised.format, found)
        result.require()

    def _prepare(self) -> tuple[TenantPolicy, Package]:
        """Compute everything that there is to compute beforehand."""
        trial, kind = self._trial, self._kind
        image: Image | None = None
        if kind.is_machine:
            with trial.step("image") as found:
                image = self._open_image()
                verify_image(image)
                found.facts |= {"name": image.name, "digest": image.digest, "arch": image.arch}
        else:
            trial.skip("image", f"{kind.backend} has none: its Keep is this installation's package")
        with trial.step("reference values") as found:
            policy = self._predict(image, found)
        with trial.step("command line") as found:
            self._planned = self._command()
            found.command = self._planned
            if not self._planned:
                found.facts["launcher"] = "a process of this Python; what was started is beside the start"
        return policy, hello_package(self._folder)

    def _open_image(self) -> Image:
        try:
            return open_image(self._image_name)
        except UsageError as error:
            raise PlatformError(str(error), hint="enarx image build") from error

    def _predict(self, image: Image | None, found: Any) -> TenantPolicy:
        kind = self._kind
        if kind.section == "snp":
            from enarx.deploy.reference import installed_images

            wanted = "process" if image is None else image.name
            found.facts["reference_values"] = {
                f"snp.measurement of {name}": digest.hex()
                for name, digest in installed_images(emulated=kind.is_emulated).items()
                if name == wanted or name.startswith(f"{wanted} ")
            }
            policy = find_policy(None, emulated=kind.is_emulated)
            found.facts["policy"] = policy.text.decode()
            return policy
        key = None
        if kind.section == "tpm":
            from enarx.host.launchers.swtpm import open_seed

            key = open_seed().key_sha256
            found.facts["vtpm_key_sha256"] = key
        return self._write_policy(self._values(image), key, found)

    def _write_policy(self, values: Mapping[str, list[str]], key: str | None, found: Any) -> TenantPolicy:
        """Write the policy of a TEE that the default one knows nothing of, and put it on record with what it rests on."""
        section = self._kind.section or ""
        text, missing = selftest_policy(section, values, key)
        found.facts |= {
            "reference_values": {f"{section}.{name}": said for name, said in values.items()},
            "not_computed": list(missing),
            "policy": text,
        }
        return make_policy(text.encode(), name="selftest")

    def _values(self, image: Image | None) -> Mapping[str, list[str]]:
        """Return the reference values of a TEE that are computed from files."""
        from enarx.image.reference import open_machine, reference_values

        section = self._kind.section or ""
        values: Mapping[str, Mapping[str, list[str]]] = {}
        if image is not None:
            # Of the one size of memory that is going to be given. Nobody computes anything for some architectures.
            with contextlib.suppress(UsageError):
                values = reference_values(
                    open_machine(image), sections=(section,), memory_sizes=[machine_bytes(MEMORY_BYTES)]
                )
        return values.get(section, {})

    def _command(self) -> tuple[str, ...]:
        spec = KeepSpec(id=_NO_KEEP, memory_bytes=MEMORY_BYTES, package_bytes=MEMORY_BYTES, log_bytes=1 << 20)
        kind = self._kind
        if kind.is_machine:
            return VmLauncher(kind.backend, evidence=kind.evidence or "vtpm", image=self._image_name).command(spec)
        return ()

    # --- What runs

    def _look(self, keep_id: str, found: Any) -> None:
        """Hold on to the processes of a Keep, and compare the command line of QEMU with what was computed."""
        pids = [pid for first in find_marked(mark_of(keep_id).encode()) for pid in (first, *children_of(first))]
        commands = []
        for pid in pids:
            # One that has just ended is not there to be looked at.
            with contextlib.suppress(OSError):
                self._processes.append(os.pidfd_open(pid))
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read(_MAX_COMMAND_BYTES).removesuffix(b"\0").split(b"\0")
                commands.append(tuple(os.fsdecode(word) for word in words))
        found.facts["processes"] = len(commands)
        if not self._planned:
            found.command = commands[0] if commands else ()
            return
        wanted = tuple(word.replace(_NO_KEEP, keep_id) for word in self._planned)
        found.command = next((each for each in commands if each[:1] == wanted[:1]), ())
        if found.command != wanted:
            raise KeepError("cannot recognise what runs: found another command line than was computed, want the same")

    async def _deploy(self, host: HostClient, keep: HostKeep, policy: TenantPolicy, package: Package) -> None:
        trial = self._trial
        judge = _WatchedJudge(
            policy,
            now=_now,
            fetch=self._fetch,
            accept_emulated=(lambda: emulated_root("")) if self._kind.is_emulated else None,
        )
        credential = make_self_signed(at=_now(), lifetime=_LEAF_LIFETIME)
        session: Session | None = None
        attesting: asyncio.Task[Attested] | None = None
        try:
            with trial.step("evidence") as found:
                from enarx.channel.session import Session

                session = await Session.handshake(await host.open_session(keep.id), credential, "tenant")
                attesting = asyncio.create_task(attest(session, judge))
                await self._evidence(attesting, judge, found)
            with trial.step("verdict") as found:
                attested = await _verdict(attesting, found)
            try:
                with trial.step("provision") as found:
                    provisioned = await provision(
                        session,
                        attested,
                        package,
                        seal_blobs(package.plaintexts, package.digests),
                        judge=judge,
                        host=host,
                        keep_id=keep.id,
                        time_ns=time.time_ns(),
                    )
                    _describe(provisioned.judged.result, provisioned.judged.format, found)
                    conversation = Conversation(session)
                    await conversation.accept()
            except StepFailedError as error:
                if isinstance(error.__cause__, EnarxError):
                    await refuse(session, error.__cause__)
                raise
            self._register(provisioned)
            with trial.step("hello") as found:
                await _hear(conversation, found)
        finally:
            if attesting is not None:
                attesting.cancel()
            if session is not None:
                await session.close()

    async def _evidence(self, attesting: asyncio.Task[Attested], judge: _WatchedJudge, found: Any) -> None:
        arrived = asyncio.create_task(judge.arrived.wait())
        done, _ = await asyncio.wait({attesting, arrived}, timeout=EVIDENCE_S, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        if not judge.seen:
            if not done:
                raise TransportError(f"cannot attest the Keep: found no evidence in {EVIDENCE_S:g} s, want it")
            # It failed before there was any.
            await attesting
        offer, report_data = judge.seen[0]
        _put_evidence(offer.evidence, offer.endorsements, report_data, found)

    def _register(self, provisioned: Provisioned) -> None:
        """Say whether the run-time register has the receipt, which the verdict on the receipt rests on."""
        result = provisioned.judged.result
        finding = next((each for each in result.findings if each.check.id in _REGISTERS), None)
        if finding is None:
            self._trial.skip("register", f"{result.tee} has none that a Keep extends")
            return
        with self._trial.step("register") as found:
            found.facts |= {
                "register": _REGISTERS[finding.check.id],
                "found": render(finding.found),
                "expected": render(finding.expected),
            }
            if finding.outcome is not Outcome.PASSED:
                raise KeepError(f"the register was not compared: found {finding.outcome}, want {Outcome.PASSED}")

    # --- Its end

    async def _tear_down(self, host: HostClient, keep: HostKeep, stack: contextlib.AsyncExitStack, found: Any) -> None:
        """End what is left, and look whether anything is."""
        try:
            if any(each.id == keep.id for each in await host.list_keeps()):
                await host.delete_keep(keep.id)
        finally:
            await stack.aclose()
            left = await asyncio.to_thread(_wait_ended, self._processes)
        found.facts["processes_ended"] = len(self._processes)
        if left or find_marked(mark_of(keep.id).encode()):
            raise KeepError(f"cannot end the Keep: found {max(left, 1)} of its processes after {END_S:g} s, want none")


async def _verdict(attesting: asyncio.Task[Attested], found: Any) -> Attested:
    try:
        attested = await attesting
    except EnarxError as error:
        result = getattr(error, "result", None)
        if result is not None:
            _describe(result, f"{result.tee} evidence", found)
        raise
    offer = attested.offer
    found.facts["keep_says"] = f"image {offer.image.name} {offer.image.version}, backend {offer.image.backend}"
    _describe(attested.judged.result, attested.judged.format, found)
    return attested


def _put_evidence(evidence: bytes, endorsements: Sequence[bytes], report_data: bytes, found: Any) -> None:
    """Put evidence on record, with all that it takes to judge it again."""
    found.facts |= {
        "evidence_cmw_base64": base64.b64encode(evidence).decode(),
        "endorsements": [
            # A media type, or the number of a content format.
            {"type": leaf[0], "base64": base64.b64encode(leaf.value).decode()}
            for each in endorsements
            for _, leaf in leaves(decode_cmw_untrusted(each))
        ],
        "report_data": report_data.hex(),
    }


def _describe(result: AttestationResult, format_name: str, found: Any) -> None:
    """Put a verdict with every finding on record."""
    found.facts["result"] = result_document(result, format_name=format_name)
    found.lines += summarise(result, format_name).splitlines()
    found.lines += explain(result, everything=True, colour=False).splitlines()


async def _hear(conversation: Conversation, found: Any) -> None:
    """Wait for the workload's output and end, and compare both."""
    sink = _Collected()
    try:
        async with asyncio.timeout(OUTPUT_S):
            ended = await conversation.converse(None, sink)
    except TimeoutError as error:
        raise KeepError(f"the workload did not end: found nothing in {OUTPUT_S:g} s, want its end") from error
    if not isinstance(ended, Ended):
        raise KeepError("the workload was left: found the session detached, want its end")
    found.facts |= {"output": sink.data[1].decode("utf-8", "replace"), "status": ended.exit.status}
    if sink.data[1] != HELLO or ended.exit.status:
        said = ended.exit.failure.message if ended.exit.failure is not None else sink.data[2][:200]
        raise KeepError(
            f"the workload said something else: found {sink.data[1][:80]!r} and status {ended.exit.status} ({said!r}),"
            f" want {HELLO!r} and 0"
        )


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _wait_ended(pidfds: Sequence[int]) -> int:
    """Wait until processes have ended, close their descriptors, and return how many have not."""
    until = time.monotonic() + END_S
    left = list(pidfds)
    while (left := [fd for fd in left if not has_ended(fd)]) and time.monotonic() < until:
        time.sleep(0.05)
    for fd in pidfds:
        os.close(fd)
    return len(left)
