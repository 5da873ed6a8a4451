# SPDX-License-Identifier: Apache-2.0
"""`enarx platform selftest`: try every kind of Keep that this machine can have, and write down what happened.

It is made for the first person who has a machine with SNP, TDX, CCA or POWER: what nobody could try elsewhere is in one report, with the
exact command and the exact error where something failed. What is tried is in `selftest_chain`, what is written in `selftest_report`.
"""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import FETCHING, fetch_for
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from enarx.cli.selftest_chain import Kind
    from enarx.cli.selftest_report import Report
    from enarx.host.probes import BackendReport

__all__ = ["COMMANDS"]

_BACKENDS = ("snp", "tdx", "cca", "pef", "sgx", "vm", "nil")
_VERSION_S = 10.0
_MAX_VERSION = 200
_SENDING = """\
To send this report: attach {json} and {text} to an issue of enarx.
They have no key, token or data of yours. They do have: this machine's kernel and programs with their paths and versions, what its
processor says of itself, and evidence, which names the very processor (its chip id) where it is genuine.
"""


def _selftest(parsed: Parsed) -> int:
    import os
    import tempfile

    from enarx import __version__
    from enarx.cli.clock import read_clock
    from enarx.cli.selftest_chain import KINDS
    from enarx.cli.selftest_report import Report
    from enarx.host.launchers.qemu import this_arch
    from enarx.host.probes import report_backend, this_machine

    wanted = _wanted(parsed)
    at = read_clock("judge a Keep", hint="set the clock: certificates and revocation lists are judged by it")
    path = parsed.value("report") or f"enarx-selftest-{at:%Y%m%dT%H%M%SZ}.json"
    report = Report(made_at=f"{at:%Y-%m-%dT%H:%M:%SZ}", enarx=__version__, system=_system())
    keep = _Keeping(report, path)
    keep.begin()
    machine = this_machine()
    fetch = fetch_for(parsed)
    image = parsed.value("image") or f"keep-{__version__}-{this_arch()}"
    probed = {kind.backend: report_backend(kind.backend, machine) for kind in KINDS}
    for kind in KINDS:
        if not wanted or kind.backend in wanted:
            with tempfile.TemporaryDirectory(prefix="enarx-selftest-") as folder:
                _try(kind, probed[kind.backend], keep, image=image, folder=folder, fetch=fetch, forced=bool(wanted))
    if parsed.flag("json"):
        ui.out(keep.document())
    else:
        ui.out(report.text(brief=True))
    ui.note(f"wrote {path} and {os.path.basename(keep.text_path)}, which say how to send them")
    return report.status


def _wanted(parsed: Parsed) -> list[str]:
    wanted = parsed.all("backend")
    for backend in wanted:
        if backend not in _BACKENDS:
            raise UsageError(f"cannot test: --backend: found {backend[:40]!r}, want one of {', '.join(_BACKENDS)}")
    return wanted


def _try(
    kind: Kind, probed: BackendReport, keep: _Keeping, *, image: str, folder: str, fetch: object, forced: bool
) -> None:
    """Try one kind of Keep, where the probes do not say no or where it was asked for by name."""
    import asyncio

    from enarx.cli.selftest_chain import run_chain
    from enarx.cli.selftest_report import StepFailedError, Trial

    trial = Trial(kind.name, kind.backend, changed=keep.write)
    keep.report.trials.append(trial)
    try:
        with trial.step("probes") as found:
            found.facts |= probe_facts(probed)
            found.lines += probe_lines(probed)
    except StepFailedError:
        return
    reason = reason_against(probed)
    if reason is not None and not forced:
        trial.skip_rest(reason)
        return
    ui.note(f"{kind.name}: trying" + (f", although the probes say: {reason}" if reason is not None else ""))
    asyncio.run(run_chain(kind, trial, image_name=image, folder=folder, fetch=fetch))  # type: ignore[arg-type]
    # What the host said is known only now.
    keep.write()
    ui.note(f"{kind.name}: {trial.outcome}" + (f": {trial.why}" if trial.why else ""))


def reason_against(probed: BackendReport) -> str | None:
    """Return why a backend is not tried without being asked for by name; None where it is. What is not known is tried."""
    if probed.present is not False and probed.configured is not False:
        return None
    return f"no {probed.backend}: {probed.why}"


def probe_facts(probed: BackendReport) -> Mapping[str, object]:
    """Return what the probes say of a backend, as values that JSON has."""
    from enarx.cli.platform import datum_document

    return {
        "present": probed.present,
        "configured": probed.configured,
        "usable": probed.usable,
        "why": probed.why,
        "data": [datum_document(datum) for datum in probed.data],
    }


def probe_lines(probed: BackendReport) -> list[str]:
    """Return the same for people."""
    from enarx.cli.platform import datum_lines

    return [line for datum in probed.data for line in datum_lines(datum)]


def _system() -> dict[str, str | None]:
    """Return what is needed to understand the rest: kernel, processor and programs, and nothing that names the machine or its user."""
    import os
    import platform

    from enarx.host.launchers.qemu import MACHINES, this_arch

    name = os.uname()
    kind = MACHINES.get(("vm", this_arch()))
    programs = ("" if kind is None else kind.program, "swtpm", "gramine-sgx")
    return {
        "kernel": f"{name.sysname} {name.release} {name.machine}",
        "processor": _processor(),
        "python": platform.python_version(),
        **{program: _version(program) for program in programs if program},
    }


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        return None


def _version(program: str) -> str | None:
    """Return the first line that a program says of its version; None where it is not there."""
    import shutil
    import subprocess

    found = shutil.which(program)
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not answer: {type(error).__name__}"
    lines = (done.stdout or done.stderr).decode("utf-8", "replace").strip().splitlines()
    return lines[0][:_MAX_VERSION] if lines else f"status {done.returncode}"


class _Keeping:
    """Keeps a report in two files that are ours alone, and writes them anew after every step.

    Args:
        report: of all trials.
        path: of the JSON; the text is beside it.
    """

    def __init__(self, report: Report, path: str) -> None:
        self.report, self._path = report, path
        self.text_path = f"{path.removesuffix('.json')}.txt"

    def begin(self) -> None:
        """Make the files.

        Raises:
            UsageError: there is one, or they cannot be made.
        """
        import os

        for path in (self._path, self.text_path):
            if os.path.lexists(path):
                raise UsageError(
                    f"cannot write {path}: found one already, want none", hint="name another file with --report"
                )
        self.write()

    def write(self) -> None:
        """Write both whole, so that they are there even if this machine stops in the next step.

        Raises:
            UsageError: they cannot be written.
        """
        from enarx.user_files import write_whole

        sending = _SENDING.format(json=self._path, text=self.text_path)
        try:
            write_whole(self._path, self.document().encode())
            write_whole(self.text_path, f"{sending}\n{self.report.text()}".encode(), is_durable=False)
        except OSError as error:
            raise UsageError(f"cannot write {error.filename or self._path}: {error.strerror}") from error

    def document(self) -> str:
        """Return the JSON."""
        import json

        return json.dumps(self.report.document(), indent=1) + "\n"


COMMANDS = {
    "platform selftest": Command(
        "platform selftest",
        summary="try every kind of Keep that this machine can have, and write a report",
        description=(
            "Run the whole chain on this machine for every backend that it has: image, reference values, the Keep's start, its\n"
            "evidence and verdict, a small workload, the run-time register, the Keep's end; each step timed, with the exact\n"
            "command and error where one fails. Backends that the probes say no to are not tried, and the report says why.\n"
            "Two files are written after every step, JSON and text, readable by you alone. The status is 0 if nothing that\n"
            "was tried failed, else that of the first error. Machines need an image: enarx image build."
        ),
        options=(
            Option("report", "FILE", "where the JSON goes, the text beside it; enarx-selftest-TIME.json if not given"),
            Option(
                "backend",
                "KEEP",
                "only this one, whatever the probes say; may be repeated",
                repeat=True,
                choices=_BACKENDS,
            ),
            Option("image", "NAME", "the image of Keeps that are machines, or its digest; this version's if not given"),
            Option("json", "", "print the JSON"),
            *FETCHING,
        ),
        examples=(
            ("enarx platform selftest", "everything that this machine has"),
            ("enarx platform selftest --backend snp --report snp.json", "SNP alone, even where a probe says no"),
        ),
        run=_selftest,
    ),
}
