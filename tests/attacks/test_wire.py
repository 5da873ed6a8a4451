# SPDX-License-Identifier: Apache-2.0
"""A host that changes bytes on their way, leads them elsewhere, speaks TLS of another kind, or just listens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import signal
from pathlib import Path

import pytest
from OpenSSL import SSL

from enarx.channel import tls
from enarx.channel.session import Session
from enarx.errors import EnarxError, TransportError
from enarx.wire.session import Challenge
from tests.attacks.harness import KEEP, TENANT, Ended, Host, Wire, chunks, find, honest, relay, run, says, stranger

CANARY = b"the canary that is in no cage"
DECODE, VERIFICATION, TRANSPORT = 103, 104, 107
HANDSHAKE, CHANGE_CIPHER_SPEC, ALERT = 22, 20, 21


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that says the canary and ends."""
    path = tmp_path / "canary.wat"
    path.write_text(says(CANARY.decode()))
    return path


# --- Bytes changed on their way


def edited(record: bytes) -> list[bytes]:
    return [record[:-1] + bytes([record[-1] ^ 1])]


OPERATIONS = {"edited": edited, "dropped": lambda _: [], "duplicated": lambda record: [record, record]}


def passed(folder: Path, module: Path, tamper) -> tuple[Ended, bytes]:
    folder.mkdir()

    async def scenario(host: Host):
        ended = await host.deploy(module, build="impatient")
        return ended, b"".join(keep.console for keep in host.keeps.values())

    return run(folder, honest(tamper), scenario, keep_build="impatient")


def spoken(folder: Path, module: Path) -> dict[tuple[str, int], bytes]:
    """Return the records that an undisturbed deployment needs: all of a kind that TLS 1.3 means something by, but its last."""
    seen: dict[tuple[str, int], bytes] = {}

    def watch(speaker: str, number: int, record: bytes) -> list[bytes]:
        seen[speaker, number] = record
        return [record]

    ended, _ = passed(folder, module, watch)
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr
    # The tenant's last record says that it has heard of the end.
    last = max(number for speaker, number in seen if speaker == TENANT)
    return {
        place: record for place, record in seen.items() if record[0] != CHANGE_CIPHER_SPEC and place != (TENANT, last)
    }


def require_refused(ended: Ended, console: bytes, where: object, *, at_the_end: bool = False) -> None:
    """Require that a deployment was refused; or, where a last record was hit, that it had come to its end before that."""
    if at_the_end and ended.status == 0:
        assert ended.stdout == CANARY + b"\n", (where, ended)
        return
    assert ended.status in {DECODE, VERIFICATION, TRANSPORT}, (where, ended)
    assert ended.stdout in {b"", CANARY + b"\n"}, (where, ended)
    assert ended.stderr.splitlines()[-1].startswith(("enarx: ", "hint: ")), (where, ended)
    assert b"bug" not in console, (where, console)


def require_all_refused(folder: Path, module: Path, tamper) -> None:
    """Deploy once for each record, which `tamper` changes, and require that each deployment is refused."""
    places = spoken(folder / "honest", module)
    # What a tenant says last (the end of stdin, goodbye) and a Keep (goodbye) is said of a workload that has ended.
    last = {speaker: max(number for who, number in places if who == speaker) for speaker in (TENANT, KEEP)}
    for speaker, number in places:
        ended, console = passed(folder / f"{speaker}{number}", module, tamper(speaker, number))
        require_refused(ended, console, (speaker, number), at_the_end=number == last[speaker])


def one_changed(speaker: str, number: int, operation):
    def tamper(who: str, which: int, record: bytes) -> list[bytes]:
        return operation(record) if (who, which) == (speaker, number) else [record]

    return tamper


def held_back(speaker: str, number: int):
    """Return what sends a record after the next one."""
    kept: list[bytes] = []

    def tamper(who: str, which: int, record: bytes) -> list[bytes]:
        if who == speaker and which == number:
            kept.append(record)
            return []
        if who == speaker and kept:
            return [record, kept.pop()]
        return [record]

    return tamper


def test_refuses_an_offer_and_a_provision_with_a_bit_changed(tmp_path, module):
    needed = spoken(tmp_path / "honest", module)
    # Of what an empty Keep says nothing is longer than its offer. Before it comes the challenge, after it the provision.
    offer = max((place for place in needed if place[0] == KEEP), key=lambda place: len(needed[place]))
    places = list(needed)
    before = [place for place in places[: places.index(offer)] if place[0] == TENANT]
    after = [place for place in places[places.index(offer) :] if place[0] == TENANT]
    for place in (before[-1], offer, after[0]):
        ended, console = passed(tmp_path / f"{place[0]}{place[1]}", module, one_changed(*place, edited))
        require_refused(ended, console, place)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_refuses_every_record_changed(tmp_path, module, operation):
    require_all_refused(tmp_path, module, lambda *place: one_changed(*place, OPERATIONS[operation]))


@pytest.mark.slow
def test_refuses_every_record_out_of_order(tmp_path, module):
    require_all_refused(tmp_path, module, held_back)


@pytest.mark.slow
def test_takes_every_record_late(tmp_path, module):
    async def late(_who: str, _number: int, record: bytes) -> list[bytes]:
        await asyncio.sleep(0.2)
        return [record[:7], record[7:]]

    ended, _ = passed(tmp_path / "late", module, late)
    assert (ended.status, ended.stdout) == (0, CANARY + b"\n"), ended.stderr


def test_control_without_tls_output_is_changed_unnoticed(tmp_path, module):
    def tamper(speaker: str, _number: int, piece: bytes) -> list[bytes]:
        return [piece.replace(b"canary", b"coward") if speaker == KEEP else piece]

    ended = run(
        tmp_path,
        honest(tamper, chunks),
        lambda host: host.deploy(module, build="null-tls"),
        keep_build="null-tls",
    )
    assert (ended.status, ended.stdout) == (0, CANARY.replace(b"canary", b"coward") + b"\n"), ended.stderr


# --- Bytes led elsewhere


def test_refuses_its_own_bytes_reflected(tmp_path, module):
    async def mirror(_host: Host, _name: str, wire: Wire) -> None:
        while data := await wire.read():
            await wire.write(data)

    ended = run(tmp_path, mirror, lambda host: host.deploy(module))
    assert (ended.status, ended.stdout) == (TRANSPORT, b""), ended.stderr


@pytest.mark.parametrize("build", ["-", "null-tls"], ids=["within TLS", "without TLS"])
def test_refuses_its_own_messages_reflected(tmp_path, module, build):
    async def mirror(_host: Host, _name: str, wire: Wire) -> None:
        if build != "-":
            while data := await wire.read():
                await wire.write(data)
            return
        session = await Session.handshake(wire, stranger(), "keep")
        try:
            await session.send(await session.receive(60))
            await session.receive(60)
        except EnarxError:
            return
        finally:
            await session.close()

    ended = run(tmp_path, mirror, lambda host: host.deploy(module, build=build))
    assert (ended.status, ended.stdout) == (DECODE, b""), ended.stderr


def test_refuses_two_tenants_swapped_in_the_middle(tmp_path, module):
    arrived: dict[str, object] = {}
    both = asyncio.Event()

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        stream = arrived[name] = await host.keeps[name].session()
        if len(arrived) == 2:
            both.set()

        async def cross(speaker: str, number: int, record: bytes) -> list[bytes]:
            # From the challenge on, what one tenant says goes to the other one's Keep.
            if speaker == TENANT and number >= 5:
                await both.wait()
                (other,) = (each for each in arrived.values() if each is not stream)
                await other.write(record)
                return []
            return [record]

        await relay(host, wire, stream, cross)

    async def scenario(host: Host):
        return await asyncio.gather(host.deploy(module, name="alice"), host.deploy(module, name="bob"))

    for ended in run(tmp_path, sessions, scenario):
        assert ended.status in {DECODE, TRANSPORT}, ended.stderr
        assert ended.stdout == b""


# --- TLS of another kind


def other_tls(monkeypatch, *, group: bytes = tls.GROUP.encode(), version: int = SSL.TLS1_3_VERSION) -> None:
    """Make TLS ends of the attacker's, here, speak something else."""
    make = tls._context

    def context(credential, *, is_client):
        made = make(credential, is_client=is_client)
        made.set_min_proto_version(version)
        made.set_max_proto_version(version)
        assert tls._lib.SSL_CTX_set1_curves_list(made._context, group) == 1
        return made

    monkeypatch.setattr(tls, "_context", context)
    monkeypatch.setattr(SSL.Connection, "get_group_name", lambda _self: tls.GROUP)
    monkeypatch.setattr(SSL.Connection, "get_protocol_version_name", lambda _self: "TLSv1.3")


OTHERS = {
    "group": ({"group": b"X25519"}, "any-group"),
    "version": ({"group": b"P-256", "version": SSL.TLS1_2_VERSION}, "any-version"),
}


def asked(tmp_path: Path, module: Path, build: str):
    """Deploy to a host that ends TLS itself; return what the tenant said in it."""
    heard: list[object] = []

    async def sessions(_host: Host, _name: str, wire: Wire) -> None:
        try:
            session = await Session.handshake(wire, stranger(), "keep")
            heard.append(await session.receive(20))
            await session.close()
        except EnarxError as error:
            heard.append(error)

    return run(tmp_path, sessions, lambda host: host.deploy(module, build=build)), heard


@pytest.mark.parametrize("what", OTHERS)
def test_a_tenant_refuses_a_downgrade(tmp_path, module, monkeypatch, what):
    how, _ = OTHERS[what]
    other_tls(monkeypatch, **how)
    ended, heard = asked(tmp_path, module, "-")
    assert ended.status == TRANSPORT, ended.stderr
    assert "handshake" in ended.stderr
    assert not any(isinstance(each, Challenge) for each in heard)


@pytest.mark.parametrize("what", OTHERS)
def test_control_a_tenant_takes_a_downgrade(tmp_path, module, monkeypatch, what):
    how, build = OTHERS[what]
    other_tls(monkeypatch, **how)
    _, heard = asked(tmp_path, module, build)
    assert isinstance(heard[0], Challenge)


def greeted(tmp_path: Path, build: str) -> object:
    """Shake hands with a Keep, and return the error or the session."""

    async def scenario(host: Host):
        keep = await host.start_keep()
        try:
            return await Session.handshake(await keep.session(), stranger(), "tenant")
        except EnarxError as error:
            return error

    return run(tmp_path, honest(), scenario, keep_build=build)


@pytest.mark.parametrize("what", OTHERS)
def test_a_keep_refuses_a_downgrade(tmp_path, monkeypatch, what):
    how, _ = OTHERS[what]
    other_tls(monkeypatch, **how)
    assert isinstance(greeted(tmp_path, "-"), TransportError)


@pytest.mark.parametrize("what", OTHERS)
def test_control_a_keep_takes_a_downgrade(tmp_path, monkeypatch, what):
    how, build = OTHERS[what]
    other_tls(monkeypatch, **how)
    assert isinstance(greeted(tmp_path, build), Session)


# --- A host that only listens


def listened(folder: Path, echo: Path, build: str):
    """Deploy with canaries everywhere; return them, all that the host can see, and the limits on core dumps of its processes."""
    canaries = {
        name: f"canary of {name} {os.urandom(8).hex()}" for name in ("module", "argument", "environment", "stdin")
    }
    package = folder / "package"
    package.mkdir()
    # A custom section: its name is empty, its contents the canary.
    note = b"\0" + canaries["module"].encode()
    (package / "main.wasm").write_bytes(echo.read_bytes() + bytes([0, len(note)]) + note)
    places: dict[str, bytes] = {}
    limits: set[tuple[int, int]] = set()

    async def scenario(host: Host):
        def look(_speaker: str, _number: int, piece: bytes) -> list[bytes]:
            for keep in host.keeps.values():
                for pid in _family(keep.process.pid):
                    places.update({path: _read(path) for path in (f"/proc/{pid}/cmdline", f"/proc/{pid}/environ")})
                    with contextlib.suppress(ProcessLookupError):
                        limits.add(resource.prlimit(pid, resource.RLIMIT_CORE))
            return [piece]

        host.sessions = honest(look, chunks)
        environment = ("--env", f"SECRET={canaries['environment']}", "--", canaries["argument"])
        ended = await host.deploy(package, *environment, build=build, stdin=canaries["stdin"].encode())
        assert (ended.status, ended.stdout) == (0, canaries["stdin"].encode()), ended.stderr
        for who in (TENANT, KEEP):
            places[f"said by {who}"] = b"".join(data for speaker, data in host.captured if speaker == who)
        for keep in host.keeps.values():
            places.update({f"ciphertext {digest.hex()}": data for digest, data in keep.blobs.items()})
        places.update({str(file): file.read_bytes() for file in (host.folder / "keeps").rglob("*") if file.is_file()})

    run(folder, honest(), scenario, keep_build=build)
    return canaries, list(places.items()), limits


def _family(pid: int) -> list[int]:
    """Return a process, and those that it started."""
    found = [pid]
    for each in found:
        found += [int(word) for word in _read(f"/proc/{each}/task/{each}/children").split()]
    return found


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


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


def test_a_host_that_listens_hears_nothing(tmp_path, guest):
    canaries, places, limits = listened(tmp_path, guest("echo"), "-")
    assert [hit for canary in canaries.values() for hit in find(canary.encode(), places)] == []
    # A Keep begins with what it was started with, which is before it knows anything.
    assert (0, 0) in limits


def test_control_a_host_that_listens_hears_stdin_without_tls(tmp_path, guest):
    canaries, places, _ = listened(tmp_path, guest("echo"), "null-tls")
    # Both ways, as bytes and nothing else; what was sealed is still secret.
    assert find(canaries["stdin"].encode(), places) == ["said by tenant: raw", "said by keep: raw"]
    for name in ("module", "argument", "environment"):
        assert find(canaries[name].encode(), places) == []


def aborted(folder: Path, build: str) -> bool:
    """Make a Keep dump core, if it does."""

    async def scenario(host: Host):
        keep = await host.start_keep()
        os.kill(keep.process.pid, signal.SIGABRT)
        _, status = await asyncio.to_thread(os.waitpid, keep.process.pid, 0)
        keep.process.returncode = -signal.SIGABRT
        return os.WCOREDUMP(status)

    return run(folder, honest(), scenario, keep_build=build)


def test_a_keep_dumps_no_core(tmp_path):
    assert not aborted(tmp_path, "-")


def test_control_a_keep_dumps_core(tmp_path):
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine has a limit on core dumps")
    assert aborted(tmp_path, "no-hardening")
