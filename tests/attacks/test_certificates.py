# SPDX-License-Identifier: Apache-2.0
"""Certificates: whoever is no peer poses as one, and a stranger brings the Steward's nonce to a Keep that trusts a root of his own.

The Steward is the genuine command, and so is every tenant; the host connects Keeps with whom it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.crypto.x509 import Credential, make_self_signed
from enarx.deploy.naming import load_tenant_key, tenant_digest
from enarx.deploy.package import load_package
from enarx.wire import steward as wire
from enarx.wire.cmw import CMW_EXTENSION_OID, CmwRecord, encode_cmw_cbor
from enarx.wire.keep_certificate import KeepCertificate, encode_keep_extension
from enarx.wire.release import Steward
from tests.attacks.harness import BUILDER, Host, honest, run
from tests.fake_steward import FakeAuthority, FakeSteward, identity_of
from tests.steward_processes import TOP, StewardProcess, found_steward, problem

NAME, PORT = "localhost", 8443
"""Of the service, as its clients know it; where that is, the host decides."""
PAGE, FALSE_PAGE = b"Hello, Enarx!\n", b"what somebody else made up\n"
EMULATED = "--insecure-accept-emulated"
MUTUAL = '\n[tls]\nclient_auth = "required"\n[[tls.peers]]\npackage = "{package}"\ntenant = "{tenant}"\n'


def now() -> datetime:
    return datetime.now(UTC)  # noqa: DTZ005, TID251, RUF100 - certificates are judged by genuine processes


def packed(folder: Path, module: Path, example: str, more: str = "") -> tuple[Path, bytes]:
    """Put a package of an example together; return it and its digest."""
    folder.mkdir()
    shutil.copy(module, folder / "main.wasm")
    (folder / "Enarx.toml").write_text((TOP / "examples" / example / "Enarx.toml").read_text() + more)
    return folder, load_package(str(folder), steward=Steward(url=f"https://{NAME}", root=b"")).digest


class Scene:
    """A service that wants one client of one tenant, that client, and the Steward that knows both; public packages, so for anybody."""

    def __init__(self, folder: Path, guest) -> None:
        self.folder = folder
        self.tenant_key, self.stranger_key = folder / "tenant.pem", folder / "stranger.pem"
        self.tenant, self.stranger = (
            tenant_digest(load_tenant_key(str(path))[0]) for path in (self.tenant_key, self.stranger_key)
        )
        self.client, self.client_digest = packed(folder / "client", guest("web-client"), "web-client")
        more = MUTUAL.format(package=self.client_digest.hex(), tenant=self.tenant.hex())
        self.service, self.service_digest = packed(folder / "service", guest("web-service"), "web-service", more)

    @contextlib.asynccontextmanager
    async def steward(self, host: Host, build: str):
        """Found a Steward that accepts this machine's Keeps, and serve."""
        path = self.folder / "policy.toml"
        made = await host.tenant("policy", "init", str(path), "--image", "process")
        assert made.status == 0, made.stderr
        grants = "".join(
            f'\n[[grant]]\npackage = "{package.hex()}"\ntenant = {tenant}\ndns = ["{NAME}"]\n'
            for package, tenant in (
                (self.service_digest, '"any"'),
                (self.client_digest, f'"{self.tenant.hex()}"'),
            )
        )
        state = await asyncio.to_thread(
            found_steward, self.folder / "state", policy=path.read_text(), grants=(), more=grants
        )
        program = (str(BUILDER), build, "enarx")
        steward = await asyncio.to_thread(
            StewardProcess, state, EMULATED, "--offline", env=host.environment, program=program
        )
        try:
            host.routes[NAME, steward.port] = steward.port
            yield steward
        finally:
            await asyncio.to_thread(steward.kill)

    async def serve(self, host: Host, key: Path, port: int, root: Path):
        """Deploy the service, which goes on; return how that ended and which Keep it is."""
        before = set(host.keeps)
        named = ("--tenant-key", str(key), "--steward", f"https://{NAME}:{port}", "--steward-root", str(root))
        ended = await host.deploy(self.service, *named, "--detach", name=key.stem)
        (keep,) = set(host.keeps) - before
        return ended, keep

    async def call(self, host: Host, steward: StewardProcess):
        """Have the tenant's client call the tenant's service, and nobody else."""
        named = ("--steward", f"https://{NAME}:{steward.port}", "--steward-root", str(steward.root))
        peer = f"{self.service_digest.hex()}:{self.tenant.hex()}"
        return await host.deploy(self.client, *named, "--tenant-key", str(self.tenant_key), "--peer", peer)


@pytest.fixture
def scene(tmp_path, guest) -> Scene:
    return Scene(tmp_path, guest)


# --- Who is no peer


def context_of(folder: Path, credential: Credential, *, server: bool, root: Path | None = None) -> ssl.SSLContext:
    """Return TLS for somebody with a credential, who trusts a root or anybody."""
    path = folder / "shown.pem"
    key = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + b"".join(each.public_bytes(Encoding.PEM) for each in credential.chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if root is not None:
        context.load_verify_locations(root)
    context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def impostor(context: ssl.SSLContext):
    """Answer whoever connects with a page; gives the port. It ends with the block."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(30)
                with context.wrap_socket(connection, server_side=True) as peer:
                    peer.recv(4096)
                    peer.sendall(FALSE_PAGE)
                    peer.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def another_root(identity: bytes) -> Credential:
    """Return what somebody else's Steward certified: the very words of the right one."""
    return FakeAuthority(now()).credential(now(), identity=identity)


def self_signed(identity: bytes, result: bytes | None) -> Credential:
    evidence = None if result is not None else encode_cmw_cbor(CmwRecord("application/x", b"evidence"))
    value = encode_keep_extension(KeepCertificate(identity, result, evidence))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_EXTENSION_OID), value)
    return make_self_signed(at=now(), extension=extension)


SHOWN = {
    # Who it is, and what has to be removed for him to be believed.
    "another-root": (another_root, "any-root"),
    "self-signed": (lambda identity: self_signed(identity, b"a result that nobody gave"), "any-root"),
    "self-signed-evidence": (lambda identity: self_signed(identity, None), "any-root,no-result"),
}

IMPOSTORS = [pytest.param(who, marks=() if who == "another-root" else pytest.mark.slow) for who in SHOWN]


def met(scene: Scene, who: str, keep_build: str):
    """Have the client's Keep meet somebody in the place of the service; return how its deployment ended."""

    async def scenario(host: Host):
        async with scene.steward(host, "-") as steward:
            if who in {"service", "other-tenant"}:
                key = scene.tenant_key if who == "service" else scene.stranger_key
                ended, keep = await scene.serve(host, key, steward.port, steward.root)
                assert ended.status == 0, ended.stderr
                host.routes[NAME, PORT] = (keep, "web")
                return await scene.call(host, steward)
            make, _ = SHOWN[who]
            credential = make(identity_of(scene.service_digest, scene.tenant))
            with impostor(context_of(scene.folder, credential, server=True)) as port:
                host.routes[NAME, PORT] = port
                return await scene.call(host, steward)

    return run(scene.folder, honest(), scenario, keep_build=keep_build)


def test_a_keep_takes_the_peer_that_it_was_told(scene):
    ended = met(scene, "service", "-")
    assert ended.status == 0, ended.stderr
    assert ended.stdout.endswith(PAGE)


def test_refuses_another_tenants_keep_with_the_same_package(scene):
    ended = met(scene, "other-tenant", "-")
    assert (ended.status, ended.stdout) == (107, b""), ended.stderr
    assert f"package {scene.service_digest.hex()} as it is for tenant {scene.stranger.hex()}" in ended.stderr


def test_control_another_tenants_keep_is_taken_for_the_peer(scene):
    ended = met(scene, "other-tenant", "any-tenant")
    assert ended.status == 0, ended.stderr
    assert ended.stdout.endswith(PAGE)


@pytest.mark.parametrize(
    ("who", "build", "said"),
    [
        ("another-root", "-", "certificate has no trusted issuer"),
        pytest.param("self-signed", "-", "certificate has no trusted issuer", marks=pytest.mark.slow),
        pytest.param("self-signed-evidence", "-", "certificate has no trusted issuer", marks=pytest.mark.slow),
        # Either is enough.
        pytest.param("self-signed-evidence", "no-result", "certificate has no trusted issuer", marks=pytest.mark.slow),
        ("self-signed-evidence", "any-root", "certificate has no result of a Steward"),
    ],
)
def test_refuses_a_certificate_that_the_steward_did_not_give(scene, who, build, said):
    ended = met(scene, who, build)
    assert (ended.status, ended.stdout) == (107, b""), ended.stderr
    assert said in ended.stderr


@pytest.mark.parametrize("who", IMPOSTORS)
def test_control_a_certificate_that_the_steward_did_not_give_is_believed(scene, who):
    ended = met(scene, who, SHOWN[who][1])
    assert (ended.status, ended.stdout) == (0, FALSE_PAGE), ended.stderr


def called(scene: Scene, who: str, keep_build: str) -> bytes:
    """Have somebody call the service in the place of its client; return what he was answered."""

    async def scenario(host: Host):
        async with scene.steward(host, "-") as steward:
            ended, keep = await scene.serve(host, scene.tenant_key, steward.port, steward.root)
            assert ended.status == 0, ended.stderr
            credential = SHOWN[who][0](identity_of(scene.client_digest, scene.tenant, pristine=False))
            context = context_of(scene.folder, credential, server=False, root=steward.root)
            connection = await host.reach((keep, "web"))
            try:
                return await asyncio.to_thread(ask, connection, context)
            except (OSError, ssl.SSLError):
                return b""

    return run(scene.folder, honest(), scenario, keep_build=keep_build)


@pytest.mark.parametrize("who", IMPOSTORS)
def test_a_service_refuses_a_client_whose_certificate_the_steward_did_not_give(scene, who):
    assert called(scene, who, "-") == b""


@pytest.mark.parametrize("who", IMPOSTORS)
def test_control_a_service_answers_a_client_whose_certificate_the_steward_did_not_give(scene, who):
    assert called(scene, who, SHOWN[who][1]).endswith(PAGE)


# --- A root of a stranger's


class Between(FakeSteward):
    """A stranger's Steward, which passes the real one's nonces on and brings it what is over them.

    Attributes:
        refusals: of the real one: status, kind and detail.
    """

    def __init__(self, folder: Path, real: StewardProcess) -> None:
        super().__init__(folder, authority=FakeAuthority(now(), "stranger", below=1))
        self.real = real
        self.refusals: list[tuple[int, str, str]] = []
        self.change = self._nonce_of_the_real_one
        # What the real one gives out ends in the stranger's root, too.
        self.bridge = self.authority.vouch(x509.load_pem_x509_certificate(real.root.read_bytes()))

    def _nonce_of_the_real_one(self, answer):
        if not isinstance(answer, wire.ChallengeAnswer):
            return answer
        with self.real.client() as client:
            return answer._replace(nonce=self.real.nonce(client))

    def certify(self, request, **_):
        """Ask the real Steward, as if the Keep had been given its root."""
        mine = wire.encode_certificate_request(request._replace(root=self.real.root_digest))
        with self.real.client() as client:
            answer = client.post(wire.CERTIFICATES_PATH, content=mine, headers={"content-type": wire.MEDIA_TYPE_JSON})
        if answer.status_code != 201:
            self.refusals.append(problem(answer))
            return wire.decode_problem_untrusted(answer.content)
        found = wire.decode_certificate_answer_untrusted(answer.content)
        return found._replace(chain=(found.chain[0], self.bridge.public_bytes(Encoding.DER), self.authority.root_der))


def asked_by_a_stranger(scene: Scene, build: str):
    """Have a stranger deploy the public service with a root of his own, whose nonces are the real Steward's.

    Returns:
        How the deployment ended, what the real Steward refused, and what clients that trust it got of the service, when a
        stranger's client was its peer: None where nothing was deployed.
    """

    async def scenario(host: Host):
        async with scene.steward(host, build) as steward:
            with Between(scene.folder, steward) as between:
                host.routes[NAME, between.port] = between.port
                root = scene.folder / "root.pem"
                root.write_bytes(between.authority.root.public_bytes(Encoding.PEM))
                ended, keep = await scene.serve(host, scene.stranger_key, between.port, root)
                if ended.status != 0:
                    return ended, between.refusals, None
                made_up = between.authority.credential(now(), identity=identity_of(scene.client_digest, scene.tenant))
                context = context_of(scene.folder, made_up, server=False, root=steward.root)
                connection = await host.reach((keep, "web"))
                return ended, between.refusals, await asyncio.to_thread(ask, connection, context)

    return run(scene.folder, honest(), scenario, keep_build=build)


def ask(connection: socket.socket, context: ssl.SSLContext) -> bytes:
    connection.settimeout(30)
    with connection, context.wrap_socket(connection, server_hostname=NAME) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while piece := peer.recv(65536):
            data += piece
    return data


def test_refuses_a_certificate_for_a_keep_that_trusts_a_strangers_root(scene):
    ended, refusals, page = asked_by_a_stranger(scene, "-")
    assert page is None
    assert ended.status == 104, ended.stderr
    ((status, kind, detail),) = refusals
    assert (status, kind) == (403, "not-authentic"), detail
    assert "report_data" in detail


def test_control_a_strangers_keep_shows_the_stewards_certificate_to_peers_that_he_made_up(scene):
    ended, refusals, page = asked_by_a_stranger(scene, "no-root")
    assert ended.status == 0, ended.stderr
    assert refusals == []
    # A client that trusts the Steward alone believes that it talks to the service as the service's author meant it.
    assert page.endswith(PAGE)
