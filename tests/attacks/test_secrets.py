# SPDX-License-Identifier: Apache-2.0
"""A host that only listens and looks: what it relays, stores and logs, what processes show of themselves, and what they leave when they die.

A canary of its own is in the module, the arguments, the environment and the standard input. The real host service is searched
likewise by `tests/integration/test_deploy_canary.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import select
import signal
from pathlib import Path

import pytest

from tests.attacks.harness import KEEP, TENANT, Host, Keep, chunks, find, honest, run

CANARY = b"the canary that is in no cage"


def make_canaries() -> dict[str, str]:
    return {name: f"canary of {name} {os.urandom(8).hex()}" for name in ("module", "argument", "environment", "stdin")}


def package_with(canaries: dict[str, str], echo: Path, folder: Path) -> tuple[str, ...]:
    """Make a package, and return what deploys it with the canaries but for standard input."""
    folder.mkdir()
    # A custom section: its name is empty, its contents the canary.
    note = b"\0" + canaries["module"].encode()
    (folder / "main.wasm").write_bytes(echo.read_bytes() + bytes([0, len(note)]) + note)
    return str(folder), "--env", f"SECRET={canaries['environment']}", "--", canaries["argument"]


def stored(host: Host) -> dict[str, bytes]:
    """Return what the host has: ciphertext, and what its Keeps wrote."""
    found = {f"ciphertext {digest.hex()}": data for keep in host.keeps.values() for digest, data in keep.blobs.items()}
    return found | {path.name: path.read_bytes() for path in (host.folder / "keeps").rglob("*") if path.is_file()}


def family(pid: int) -> list[int]:
    """Return a process, and those that it started, whichever of its threads did."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError):
            for thread in os.listdir(f"/proc/{each}/task"):
                found += [int(word) for word in read(f"/proc/{each}/task/{thread}/children").split()]
    return found


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def hits(canaries: dict[str, str], places: dict[str, bytes]) -> dict[str, list[str]]:
    """Return where each canary is."""
    return {name: find(canary.encode(), list(places.items())) for name, canary in canaries.items()}


NOWHERE: dict[str, list[str]] = {name: [] for name in ("module", "argument", "environment", "stdin")}


@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        CANARY.hex().encode(),
        *(base64.b64encode(bytes(shift) + CANARY) for shift in range(3)),
        CANARY.decode().encode("utf-16-le"),
        CANARY.decode().encode("utf-16-be"),
    ],
)
def test_a_canary_is_found_in_every_form(form):
    assert find(CANARY, [("here", b"before" + form + b"after")])


# --- What is relayed, stored, logged and shown


def listened(folder: Path, echo: Path, *, keep_build: str = "-", tenant_build: str = "-"):
    """Deploy with canaries everywhere; return where they are of all that the host can see, and the limits on its processes' cores."""
    canaries, places, limits = make_canaries(), {}, set()

    async def scenario(host: Host):
        def look(_speaker: str, _number: int, piece: bytes) -> list[bytes]:
            for keep in host.keeps.values():
                for pid in family(keep.process.pid):
                    for what in ("cmdline", "environ"):
                        places[f"{what} of {pid}"] = places.get(f"{what} of {pid}", b"") + read(f"/proc/{pid}/{what}")
                    with contextlib.suppress(ProcessLookupError):
                        limits.add(resource.prlimit(pid, resource.RLIMIT_CORE))
            return [piece]

        host.sessions = honest(look, chunks)
        command = host.deployment(*package_with(canaries, echo, folder / "package"))
        ended = await host.tenant(*command, build=tenant_build, stdin=canaries["stdin"].encode())
        assert (ended.status, ended.stdout) == (0, canaries["stdin"].encode()), ended.stderr
        for who in (TENANT, KEEP):
            places[f"said by {who}"] = b"".join(data for speaker, data in host.captured if speaker == who)
        places.update(stored(host))

    run(folder, honest(), scenario, keep_build=keep_build)
    return hits(canaries, places), limits


def test_a_host_that_listens_hears_nothing(tmp_path, guest):
    found, limits = listened(tmp_path, guest("echo"))
    assert found == NOWHERE
    # A Keep begins with what it was started with, which is before it knows anything.
    assert (0, 0) in limits


def test_control_a_host_that_listens_hears_stdin_without_tls(tmp_path, guest):
    found, _ = listened(tmp_path, guest("echo"), keep_build="null-tls", tenant_build="null-tls")
    # Both ways, as bytes and nothing else; what was sealed is still secret.
    assert found == NOWHERE | {"stdin": ["said by tenant: raw", "said by keep: raw"]}


def test_control_a_host_finds_what_a_keep_says_and_shows(tmp_path, guest):
    found, _ = listened(tmp_path, guest("echo"), keep_build="loud,titled")
    assert found["module"] == ["console: hex"]
    assert found["stdin"] == ["console: raw"]
    for name, title in (("argument", "cmdline of"), ("environment", "environ of")):
        assert "console: raw" in found[name]
        assert any(place.startswith(title) for place in found[name])


# --- What a process leaves when it dies


def dead(pid: int, number: int) -> None:
    """Send a signal to a process, and wait for its end; it may be somebody else's to reap."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
        assert select.select([pidfd], [], [], 60)[0], f"{pid} lives"
    finally:
        os.close(pidfd)


def cores_in(folders: tuple[Path, ...]) -> set[Path]:
    return {path for folder in folders for path in folder.glob("core*") if path.is_file()}


def aborted(folder: Path, echo: Path, build: str):
    """Deploy with canaries everywhere, and make the workload process and its Keep die of what writes a core, while both run.

    Returns:
        The canaries; the two cores; where canaries are of what the host has; and whether the Keep dumped core, as the system says.
    """
    canaries = make_canaries()

    def taken(keep: Keep) -> bytes:
        """Return a core that was written where a process worked, and remove it: the next one may have its name."""
        found = cores_in((keep.folder, Path("/"))) - strangers
        data = b"".join(path.read_bytes() for path in found)
        for path in found:
            path.unlink()
        return data

    strangers = cores_in((Path("/"),))

    async def scenario(host: Host):
        command = host.deployment(*package_with(canaries, echo, folder / "package"))
        async with host.running(*command) as tenant:
            tenant.stdin.write(canaries["stdin"].encode() + b"\n")
            assert await tenant.stdout.readline() == canaries["stdin"].encode() + b"\n"
            (keep,) = host.keeps.values()
            _, workload = family(keep.process.pid)
            # It shall not end because its workload has.
            os.kill(keep.process.pid, signal.SIGSTOP)
            await asyncio.to_thread(dead, workload, signal.SIGABRT)
            cores = [taken(keep)]
            os.kill(keep.process.pid, signal.SIGABRT)
            os.kill(keep.process.pid, signal.SIGCONT)
            _, status = await asyncio.to_thread(os.waitpid, keep.process.pid, 0)
            keep.process.returncode = -signal.SIGABRT
            cores.append(taken(keep))
            return canaries, cores, hits(canaries, stored(host)), os.WCOREDUMP(status)

    return run(folder, honest(), scenario, keep_build=build)


def test_neither_a_keep_nor_its_workload_process_dumps_core(tmp_path, guest):
    _, cores, found, has_dumped = aborted(tmp_path, guest("echo"), "-")
    assert (cores, has_dumped) == ([b"", b""], False)
    assert found == NOWHERE


def test_control_a_keep_and_its_workload_process_dump_what_they_know(tmp_path, guest):
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine has a limit on core dumps")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    if pattern.startswith(("|", "/")):
        pytest.skip(f"cores are not written where a process works: {pattern}")
    canaries, cores, _, has_dumped = aborted(tmp_path, guest("echo"), "no-hardening")
    assert has_dumped
    # Both hold these while the workload runs. The bytes of the module were let go when it was compiled, and whether their memory
    # has been used again since is chance.
    known = [{name for name, canary in canaries.items() if canary.encode() in core} for core in cores]
    assert all(known_to_one >= {"argument", "environment", "stdin"} for known_to_one in known), known
