# SPDX-License-Identifier: Apache-2.0
"""A Steward, a host, Keeps on the emulated platform and their clients, each a process of its own on loopback.

A web service is deployed, gets its certificate, and whoever trusts the Steward's root trusts it; two Keeps require each other; what is
not wanted gets nothing, and is told why where it can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, serialise_certificate_table
from enarx.attester.attested import CERTIFICATE_TABLE, SNP_REPORT, make_endorsement, make_evidence
from enarx.deploy.naming import load_tenant_key, tenant_digest
from enarx.deploy.package import load_package
from enarx.wire import steward as wire
from enarx.wire.keep_certificate import decode_keep_certificate_untrusted
from enarx.wire.release import Steward, decode_identity_untrusted
from tests.attesting import NOW, YESTERDAY
from tests.between import until
from tests.hosting import HostProcess
from tests.integration.peers import connected
from tests.integration.test_deploy import EMULATED, Host
from tests.steward_processes import (
    AMD,
    TOP,
    StewardProcess,
    Visitor,
    found_steward,
    grants_text,
    policy_text,
    problem,
    run_steward,
)

GUIDS = (VCEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID)
PAGE = b"Hello, Enarx!\n"
NAME = "localhost"
"""Of the service too: clients of these tests reach it by this name."""
WAIT_S = 60.0
BEHIND_S, AHEAD_S = -23 * 3600, 25 * 3600
"""How far clocks are apart: a day; less where evidence would not hold yet, and more where certificates would hold still."""
CLOCK = str(TOP / "tests/steward_clock.py")
STATE_FOLDERS = ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


# --- What they share -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(enarx, tmp_path_factory):
    with HostProcess(tmp_path_factory.mktemp("host"), stub=False, env=enarx.env) as running:
        yield Host(url=running.url, enarx=enarx)


@pytest.fixture(scope="module")
def tenant(tmp_path_factory):
    """A tenant with a key of his own."""
    path = tmp_path_factory.mktemp("tenant") / "tenant.pem"
    key, _ = load_tenant_key(str(path))
    return SimpleNamespace(key=path, digest=tenant_digest(key))


@pytest.fixture(scope="module")
def policy(enarx, host, guest, tmp_path_factory):
    """What the operator's policy is when he accepts Keeps of this installation, which has had one."""
    assert host.deploy(guest("hello")).status == 0
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    ended = enarx.command("policy", "init", path, "--image", "process")
    assert ended.status == 0, ended.stderr
    return path.read_text()


def packed(folder, module, example, *, port=0, more=""):
    """Put a package of an example together; return its path and its digest."""
    folder.mkdir()
    (folder / "main.wasm").write_bytes(module.read_bytes())
    text = (TOP / "examples" / example / "Enarx.toml").read_text()
    assert "port = 8443" in text
    (folder / "Enarx.toml").write_text(text.replace("port = 8443", f"port = {port}") + more)
    return folder, digest_of(folder)


def digest_of(folder):
    """Return a package's digest, which does not depend on which Steward there is."""
    return load_package(str(folder), steward=Steward(url=f"https://{NAME}", root=b"")).digest


@pytest.fixture(scope="module")
def web(guest, tmp_path_factory):
    """The example as a package that takes any port."""
    path, digest = packed(tmp_path_factory.mktemp("web") / "app", guest("web-service"), "web-service")
    return SimpleNamespace(path=path, digest=digest)


def serving(state, enarx, *options, **how):
    """Serve with the emulated platform of this user."""
    return StewardProcess(state, EMULATED, "--offline", *options, env=enarx.env, **how)


@pytest.fixture(scope="module")
def steward(enarx, policy, web, tenant, tmp_path_factory):
    """A Steward that knows the service as it is, and with whatever this tenant gives it."""
    grants = ((web.digest, "any", (NAME, "shop.example.com")), (web.digest, tenant.digest, (NAME,)))
    state = found_steward(tmp_path_factory.mktemp("steward") / "state", policy=policy, grants=grants)
    with serving(state, enarx) as running:
        yield running


def named(steward, *, root=None):
    return ("--steward", f"https://{NAME}:{steward.port}", "--steward-root", root or steward.root)


@contextlib.contextmanager
def deployed(host, *arguments, name="web"):
    """Deploy while the block runs; gives the process and the port. An interrupt ends it."""
    with host.start(*arguments) as started:
        port = int(started.until_stderr(rb"port (\d+) is %s\n" % name.encode(), WAIT_S)[1])
        yield SimpleNamespace(started=started, port=port)
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr


@pytest.fixture(scope="module")
def service(host, steward, web):
    """The web service in a Keep, with its certificate."""
    with deployed(host, *named(steward), web.path) as running:
        yield running


def trusting(root):
    return ssl.create_default_context(cafile=str(root))


def presented(port, context):
    """Return the certificate that is shown to a client that trusts."""
    with connected(port, context) as peer:
        return x509.load_der_x509_certificate(peer.getpeercert(binary_form=True))


def get(port, context):
    """Ask for the page."""
    with connected(port, context) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while piece := peer.recv(65536):
            data += piece
    return data


def curl(*arguments):
    found = shutil.which("curl")
    if found is None:
        pytest.skip("curl is not installed")
    import subprocess

    return subprocess.run(
        [found, "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", *map(str, arguments)],
        env={"PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


def log_entries(state):
    """Return how many entries of each kind a log has, as `enarx steward audit` proves it."""
    from collections import Counter

    import sqlalchemy as sa

    from enarx.steward.entries import decode_entry_untrusted
    from enarx.steward.store import Tables

    run_steward("audit", "--state", str(state))
    engine = sa.create_engine(f"sqlite:///{state / 'steward.sqlite3'}")
    try:
        with engine.connect() as connection:
            bodies = connection.execute(sa.select(Tables.entries.c.body)).scalars().all()
    finally:
        engine.dispose()
    return Counter(decode_entry_untrusted(body).kind for body in bodies)


# --- Whoever trusts the Steward trusts the service -----------------------------------------------------------------------


def test_curl_trusts_the_service_by_the_stewards_root_alone(service, steward):
    url = f"https://shop.example.com:{service.port}/"
    there = ("--resolve", f"shop.example.com:{service.port}:127.0.0.1")
    answer = curl("--cacert", steward.root, *there, url)
    assert (answer.returncode, answer.stdout) == (0, PAGE), answer.stderr
    # Nobody else vouches for it, and it is not whoever it likes.
    assert curl(*there, url).returncode == 60
    other = ("--resolve", f"other.example.com:{service.port}:127.0.0.1")
    assert curl("--cacert", steward.root, *other, f"https://other.example.com:{service.port}/").returncode == 60


def test_a_client_finds_out_what_runs_there(service, steward, web):
    assert PAGE in get(service.port, trusting(steward.root))
    leaf = presented(service.port, trusting(steward.root))
    assert "EMULATED platform, protects nothing" in leaf.subject.rfc4514_string().replace("\\", "")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME, "shop.example.com"]
    keep = decode_keep_certificate_untrusted(leaf.public_bytes(Encoding.DER))
    identity = decode_identity_untrusted(keep.identity)
    assert (identity.package, identity.pristine) == (web.digest, True)
    assert keep.result is not None
    assert keep.evidence is None


def test_attest_connect_says_who_it_is(service, steward, web, enarx):
    where = (f"127.0.0.1:{service.port}", "--server-name", NAME, "--steward-root", steward.root)
    ended = enarx.command("attest", "connect", *where, EMULATED, "--package", web.digest.hex())
    assert ended.status == 0, ended.stderr
    said = ended.stdout.decode()
    assert said.startswith("accepted: ")
    assert "EMULATED" in said
    assert f"sha256:{web.digest.hex()}, as it is" in said
    # It is emulated, which nobody accepts by chance; and it is no other package.
    assert enarx.command("attest", "connect", *where).status in {104, 105}
    ended = enarx.command("attest", "connect", *where, EMULATED, "--package", "00" * 32)
    assert ended.status in {104, 105}, ended.stdout


def test_each_certificate_is_in_the_log(service, steward, tmp_path):
    leaf = tmp_path / "leaf.der"
    leaf.write_bytes(presented(service.port, trusting(steward.root)).public_bytes(Encoding.DER))
    out, _ = run_steward("audit", "--state", str(steward.state), "--certificate", str(leaf))
    assert "certificate  entry " in out
    # Of another, which is not.
    leaf.write_bytes(x509.load_pem_x509_certificate(steward.root.read_bytes()).public_bytes(Encoding.DER))
    run_steward("audit", "--state", str(steward.state), "--certificate", str(leaf), status=104)


# --- Two Keeps that require each other -----------------------------------------------------------------------------------


MUTUAL = '\n[tls]\nclient_auth = "required"\n[[tls.peers]]\npackage = "{package}"\ntenant = "{tenant}"\n'


@pytest.fixture(scope="module")
def pair(enarx, host, policy, tenant, guest, free_port_for_all, tmp_path_factory):
    """A service that only one client may call; and a Steward that knows both of them, and a stranger.

    What the service wants is in its package; what the client wants, which is about that package, is said when it is deployed.
    """
    folder = tmp_path_factory.mktemp("pair")
    port, of = free_port_for_all, tenant.digest.hex()
    client, client_digest = packed(folder / "client", guest("web-client"), "web-client", port=port)
    # Another module: with a section more, which nobody reads.
    stranger, _ = packed(folder / "stranger", guest("web-client"), "web-client", port=port)
    with (stranger / "main.wasm").open("ab") as module:
        module.write(b"\0\2\1x")
    stranger_digest = digest_of(stranger)
    more = MUTUAL.format(package=client_digest.hex(), tenant=of)
    server, server_digest = packed(folder / "server", guest("web-service"), "web-service", port=port, more=more)
    digests = (server_digest, client_digest, stranger_digest)
    assert len(set(digests)) == len(digests)
    grants = [(digest, tenant.digest, (NAME,)) for digest in digests]
    state = found_steward(folder / "state", policy=policy, grants=grants)
    with serving(state, enarx) as steward:
        common = (*named(steward), "--tenant-key", tenant.key)
        with deployed(host, *common, server) as service:
            yield SimpleNamespace(
                service=service.started,
                stranger_digest=stranger_digest,
                port=port,
                common=common,
                tenant=of,
                steward=steward,
                server=server_digest,
                client=client,
                stranger=stranger,
            )


@pytest.fixture(scope="module")
def free_port_for_all():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return reserved.getsockname()[1]


def test_a_keep_calls_another_and_each_knows_the_other(host, pair):
    ended = host.deploy(*pair.common, "--peer", f"{pair.server.hex()}:{pair.tenant}", pair.client)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.endswith(PAGE)


def test_a_keep_refuses_a_service_that_is_none_of_its_peers(host, pair):
    ended = host.deploy(*pair.common, "--peer", f"{'5f' * 32}:{pair.tenant}", pair.client)
    assert (ended.status, ended.stdout) == (107, b""), ended.stderr
    assert f"certificate is that of package {pair.server.hex()}" in ended.stderr
    assert "want one of the peers" in ended.stderr


def test_a_service_refuses_a_keep_with_another_module(host, pair):
    """It has a certificate of the same Steward, of the same tenant, and accepts the service; it gets nothing."""
    ended = host.deploy(*pair.common, "--peer", f"{pair.server.hex()}:{pair.tenant}", pair.stranger)
    assert (ended.status, ended.stdout) == (1, b""), ended.stderr
    assert "web-client: " in ended.stderr
    # It is told that it was refused, and the service's own tenant whom it refused and why.
    assert "peer refused with the alert: bad certificate; its own log says why" in ended.stderr
    pair.service.until_stderr(
        rb"enarx: handshake with a client failed: certificate is that of package %s .*, want one of the peers\n"
        % pair.stranger_digest.hex().encode(),
        WAIT_S,
    )
    # The one that is welcome still is.
    ended = host.deploy(*pair.common, "--peer", f"{pair.server.hex()}:{pair.tenant}", pair.client)
    assert ended.stdout.endswith(PAGE), ended.stderr


def test_a_client_without_a_certificate_is_refused(pair):
    context = trusting(pair.steward.root)
    with pytest.raises(ssl.SSLError, match="certificate required"):
        get(pair.port, context)
    pair.service.until_stderr(rb"enarx: handshake with a client failed: found no client certificate, want one", WAIT_S)


def test_a_policy_names_the_steward_and_any_client_that_it_certifies_is_one(
    host, enarx, policy, tenant, guest, free_port, tmp_path
):
    """Nothing in the package says whose certificates clients have to show, and no flag which Steward there is."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    client, client_digest = packed(tmp_path / "client", guest("web-client"), "web-client", port=free_port)
    more = '\n[tls]\nclient_auth = "required"\n'
    server, server_digest = packed(tmp_path / "server", guest("web-service"), "web-service", port=free_port, more=more)
    grants = [(digest, tenant.digest, (NAME,)) for digest in (server_digest, client_digest)]
    with (
        serving(found_steward(mine, policy=policy, grants=grants), enarx) as steward,
        serving(found_steward(other, policy=policy, grants=grants), enarx) as stranger,
    ):
        by_policy = tmp_path / "tenant.toml"
        by_policy.write_text(
            f'{policy}\n[steward]\nurl = "https://{NAME}:{steward.port}"\nroot = "{steward.root.relative_to(tmp_path)}"\n'
        )
        named_by_policy = ("--policy", by_policy, "--tenant-key", tenant.key)
        with deployed(host, *named_by_policy, server) as service:
            peer = ("--peer", f"{server_digest.hex()}:{tenant.digest.hex()}")
            ended = host.deploy(*named_by_policy, *peer, client)
            assert (ended.status, ended.stdout.endswith(PAGE)) == (0, True), ended.stderr
            with pytest.raises(ssl.SSLError, match="certificate required"):
                get(service.port, trusting(steward.root))
            # Its certificate is of another Steward, which nobody here named.
            anchors = tmp_path / "client" / "anchors.pem"
            anchors.write_bytes(steward.root.read_bytes())
            text = (client / "Enarx.toml").read_text()
            (client / "Enarx.toml").write_text(f'{text}\n[tls]\ntrust_anchors = ["anchors.pem"]\n')
            configuration = stranger.state / "steward.toml"
            grant = grants_text((digest_of(client), tenant.digest, (NAME,)))
            configuration.write_text(configuration.read_text() + grant)
            seen = len(stranger.lines)
            stranger.signal(signal.SIGHUP)
            stranger.wait_for("rules-loaded", after=seen)
            ended = host.deploy(*named(stranger), "--tenant-key", tenant.key, client)
            assert (ended.status, ended.stdout) == (1, b""), ended.stderr
            service.started.until_stderr(
                rb"handshake with a client failed: certificate (has no trusted|signature)", WAIT_S
            )
        # A flag does not take the policy's place, and without either there is nobody to judge clients.
        ended = host.deploy(*named_by_policy, *named(stranger), server)
        refused(ended, 102, "--steward: found another Steward than [steward] of")
        refused(
            host.deploy(server),
            102,
            'tls.client_auth: found "required" without tls.trust_anchors and without a Steward',
        )


# --- Who gets nothing ----------------------------------------------------------------------------------------------------


def refused(ended, status, *words):
    """Require that a deployment ended with a status, ran nothing, and says why."""
    assert ended.status == status, ended.stderr
    assert ended.stdout == b""
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr, ended.stderr


def test_a_changed_module_gets_no_certificate_and_runs_nothing(host, steward, web, guest, tmp_path):
    changed, digest = packed(tmp_path / "app", guest("web-service"), "web-service")
    module = (changed / "main.wasm").read_bytes()
    (changed / "main.wasm").write_bytes(module.replace(PAGE[:5], b"Jello"))
    digest = digest_of(changed)
    assert digest != web.digest
    ended = host.deploy(*named(steward), changed)
    refused(ended, 105, "no grant names this", digest.hex())
    assert not [keep for keep in host.listed().values() if keep["host-says"]["state"] == "starting"]


def test_an_argument_of_his_own_gets_no_certificate_for_any_tenant(host, steward, web):
    """Whoever deploys a public package with something given beside it has another key, and no grant."""
    ended = host.deploy(*named(steward), web.path, "--", "an argument")
    refused(ended, 105, "no grant names this", "with arguments or files of its own")


def test_a_package_does_not_choose_its_steward(host, steward, guest, tmp_path):
    asking, _ = packed(tmp_path / "app", guest("web-service"), "web-service")
    toml = asking / "Enarx.toml"
    url = f"https://{NAME}:{steward.port}"
    toml.write_text(f'steward = "{url}"\n{toml.read_text()}')
    before = set(host.listed())
    host.deploy(asking).refused(102, url, "--steward-root")
    other = ("--steward", "https://other.example.com", "--steward-root", steward.root)
    host.deploy(*other, asking).refused(102, url, "https://other.example.com")
    assert set(host.listed()) == before


def test_a_steward_of_another_root_is_not_asked(host, steward, web, enarx, policy, tmp_path):
    state = found_steward(tmp_path / "state", policy=policy)
    ended = host.deploy(*named(steward, root=state / "root.pem"), web.path)
    refused(ended, 107, "Steward", "no trusted issuer")


def test_a_steward_that_is_not_there_is_said(host, steward, web, free_port):
    elsewhere = ("--steward", f"https://{NAME}:{free_port}", "--steward-root", steward.root)
    refused(host.deploy(*elsewhere, web.path), 107, "refused")


def test_emulated_keeps_get_nothing_without_the_flag(host, web, policy, tmp_path, enarx):
    state = found_steward(tmp_path / "state", policy=policy, grants=((web.digest, "any", (NAME,)),))
    with StewardProcess(state, "--offline", env=enarx.env) as strict:
        refused(host.deploy(*named(strict), web.path), 104, "the evidence is not authentic", "[snp.")
        strict.signal(signal.SIGTERM)
        strict.wait()
    assert "certificate" not in log_entries(state)


# --- Renewal and revocation ----------------------------------------------------------------------------------------------


def serials(steward):
    """Return the serial numbers that a Steward has issued, as it says."""
    return [found[1] for line in steward.lines if line and (found := re.search(r" certificate serial=(\w+) ", line))]


def crl_of(steward):
    with steward.client() as client:
        crl = x509.load_der_x509_crl(client.get("/v1/crl").content)
    root = x509.load_pem_x509_certificate(steward.root.read_bytes())
    assert crl.is_signature_valid(root.public_key())
    return {f"{each.serial_number:x}" for each in crl}


def test_what_the_operator_refuses_now_is_revoked_and_not_renewed(host, web, policy, enarx, tmp_path):
    """The Steward's clock is five minutes behind, and a certificate lasts for ten: so it is always time to renew."""
    state = tmp_path / "state"
    behind = (CLOCK, "-300")
    founded = enarx_at(enarx, behind, "steward", "init", "--state", state, "--name", NAME)
    assert founded.returncode == 0, founded.stderr
    (state / "policy.toml").write_text(policy)
    configuration = (state / "steward.toml").read_text().replace('"24h"', '"10m"')
    (state / "steward.toml").write_text(configuration + grants_text((web.digest, "any", (NAME,))))
    with serving(state, enarx, program=behind) as steward, deployed(host, *named(steward), web.path) as running:
        context = trusting(steward.root)
        first = presented(running.port, context).serial_number
        # Who connects later sees a later one.
        until(lambda: presented(running.port, context).serial_number != first, "another certificate", WAIT_S)
        # Another measurement is wanted from now on, as after an update that everybody has to have.
        wanted = re.sub(r"^measurement = .*$", f'measurement = ["{"5f" * 48}"]', policy, flags=re.MULTILINE)
        assert wanted != policy
        (state / "policy.toml").write_text(wanted)
        seen = len(steward.lines)
        steward.signal(signal.SIGHUP)
        steward.wait_for("rules-loaded", after=seen)
        steward.wait_for("reviewed", after=seen)
        issued = serials(steward)
        assert len(issued) > 1
        assert f"{first:x}" in issued
        assert crl_of(steward) == set(issued)
        # The Keep asks again, and is refused. It goes on with what it has, which says of itself until when.
        refusal = steward.wait_for("endpoint=certify status=403", after=seen)
        assert "snp.measurement" in refusal
        assert serials(steward) == issued
        assert f"{presented(running.port, context).serial_number:x}" == issued[-1]
        refused(host.deploy(*named(steward), web.path), 105, "[snp.measurement]")


def enarx_at(enarx, clock, *arguments):
    """Run a command with another clock."""
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, *clock, *map(str, arguments)],
        env={**enarx.env, "PYTHONPATH": str(TOP / "src")}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip


# --- Clocks --------------------------------------------------------------------------------------------------------------


def deploy_at(ahead_s, host, steward, web, enarx, folder):
    """Deploy as a tenant whose clock is wrong."""
    from enarx.deploy.deploying import deploy_package
    from enarx.deploy.host_client import HostClient, parse_address
    from enarx.deploy.naming import load_steward
    from enarx.deploy.policy import find_policy

    url, root = named(steward)[1::2]
    package = load_package(str(web.path), steward=load_steward(url, str(root)))

    async def run():
        async with asyncio.timeout(WAIT_S), HostClient(parse_address(host.url)) as client:
            await deploy_package(
                package,
                host=client,
                policy=lambda: find_policy(None),
                state_root=str(folder / "state"),
                accept_emulated="",
                clock_ns=lambda: time.time_ns() + ahead_s * 10**9,
            )

    asyncio.run(run())


@pytest.fixture
def home(enarx, monkeypatch):
    """The emulated platform of this process is that of the host."""
    for name in STATE_FOLDERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", enarx.env["HOME"])


@pytest.fixture(scope="module")
def aged(enarx, policy, web, tmp_path_factory):
    """A Steward that was founded days ago, so that only its clock can be wrong."""
    state = tmp_path_factory.mktemp("aged") / "state"
    founded = enarx_at(enarx, (CLOCK, str(10 * BEHIND_S)), "steward", "init", "--state", state, "--name", NAME)
    assert founded.returncode == 0, founded.stderr
    (state / "policy.toml").write_text(policy)
    (state / "steward.toml").write_text(
        (state / "steward.toml").read_text() + grants_text((web.digest, "any", (NAME,)))
    )
    return state


@pytest.mark.parametrize("ahead_s", [BEHIND_S, AHEAD_S], ids=["behind", "ahead"])
def test_a_tenant_whose_clock_is_off_by_a_day_is_told_both_times(ahead_s, host, aged, web, enarx, home, tmp_path):
    from enarx.errors import EnarxError

    with serving(aged, enarx) as steward:
        with pytest.raises(EnarxError) as caught:
            deploy_at(ahead_s, host, steward, web, enarx, tmp_path)
        issued = serials(steward)
    require_both_times(str(caught.value), ahead_s)
    assert len(issued) <= 1


@pytest.mark.parametrize("ahead_s", [BEHIND_S, AHEAD_S], ids=["behind", "ahead"])
def test_a_steward_whose_clock_is_off_by_a_day_is_named(ahead_s, host, aged, web, enarx):
    with serving(aged, enarx, program=(CLOCK, str(ahead_s))) as steward:
        ended = host.deploy(*named(steward), web.path)
    assert ended.status in {104, 107}, ended.stderr
    assert ended.stdout == b""
    require_both_times(ended.stderr, ahead_s)


def require_both_times(said, ahead_s):
    """Require that somebody says what he takes for the time, what the other one does, and that this is a matter of clocks."""
    assert "clock" in said
    now = datetime.now(UTC)  # noqa: TID251
    times = [datetime.fromisoformat(each) for each in re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said)]
    for at in (now, now + timedelta(seconds=ahead_s)):
        assert any(abs(each - at) < timedelta(minutes=10) for each in times), (at, said)


# --- Bad input -----------------------------------------------------------------------------------------------------------


JSON = {"content-type": wire.MEDIA_TYPE_JSON}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A Steward that is asked by strangers alone, and at the end has certified nobody."""
    state = found_steward(tmp_path_factory.mktemp("asked") / "state", policy=policy_text())
    with StewardProcess(state, "--offline") as running:
        yield running
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    entries = log_entries(state)
    assert not entries["certificate"]


def post(steward, content, headers=JSON):
    with steward.client() as client:
        return client.post(wire.CERTIFICATES_PATH, content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b"", JSON, (400, "decode")),
        (b"{}", JSON, (400, "decode")),
        (b"[" * 100_000, JSON, (400, "decode")),
        (b"\xff\xfe", JSON, (400, "decode")),
        (bytes(wire.MAX_REQUEST_BYTES + 1), JSON, (413, "too-large")),
        (b"{}", {"content-type": "application/cbor"}, (415, "media-type")),
        (b"{}", {}, (415, "media-type")),
    ],
    ids=["nothing", "empty", "deep", "binary", "huge", "cbor", "untyped"],
)
def test_what_is_no_request_is_refused_with_a_problem(asked, content, headers, expected):
    assert problem(post(asked, content, headers))[:2] == expected


def test_a_huge_body_is_not_read_to_its_end(asked):
    """What says that it is too large before is refused before."""
    with (
        socket.create_connection(("127.0.0.1", asked.port), 30) as plain,
        asked.context().wrap_socket(plain, server_hostname=NAME) as secure,
    ):
        secure.sendall(
            b"POST /v1/certificates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000000\r\n\r\n{"
        )
        # It may read on for a while, but answers before there is more.
        secure.sendall(b" " * (wire.MAX_REQUEST_BYTES + 1))
        assert b" 413 " in secure.recv(100)


def members(request, **changes):
    """Return a request in JSON, with members changed or, where None, left out."""
    value = json.loads(wire.encode_certificate_request(request)) | changes
    return json.dumps({name: each for name, each in value.items() if each is not None}).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"csr": None},
        {"csr": 5},
        {"csr": "%%%"},
        {"csr": ""},
        {"nonce": "00"},
        {"nonce": "zz" * 32},
        {"evidence": []},
        {"endorsements": "x"},
        {"endorsements": ["AA=="] * 9},
        {"more": 1},
    ],
    ids=str,
)
def test_a_member_of_another_type_is_refused_by_its_name(asked, change):
    visitor = Visitor()
    with asked.client() as client:
        answer = client.post(
            wire.CERTIFICATES_PATH,
            content=members(visitor.request(asked.nonce(client), asked.root_digest), **change),
            headers=JSON,
        )
    status, kind, detail = problem(answer)
    assert (status, kind) == (400, "decode")
    assert next(iter(change)) in detail


def test_evidence_of_another_purpose_is_refused_by_the_check(asked):
    """Genuine and acceptable evidence of the same Keep and the same key, that was made for something else."""
    from enarx.channel.transcript import self_signed_report_data
    from enarx.steward.certificates import spki_of

    visitor = Visitor()
    spki = spki_of(visitor.key.public_key())
    for report_data in (self_signed_report_data(spki, visitor.identity), hashlib.sha512(b"receipt").digest()):
        evidence, endorsement = visitor.attest(report_data)
        answer = asked.certify(visitor, evidence=evidence, endorsements=(endorsement,))
        assert problem(answer)[:2] == (403, "not-authentic")
        assert wire.decode_problem_untrusted(answer.content).check == "snp.report_data"


def test_a_keep_that_was_given_another_root_gets_no_certificate(asked):
    """Nonce, key and identity are right: the Keep would judge its peers by a root that somebody else made up."""
    answer = asked.certify(Visitor(), given=bytes(48))
    status, kind, detail = problem(answer)
    assert (status, kind) == (403, "not-authentic")
    assert f"found SHA-384 {bytes(48).hex()}, want {asked.root_digest.hex()}" in detail
    assert wire.decode_problem_untrusted(answer.content).check == "steward.root"
    # Whoever relays may claim what he likes: the evidence says it.
    answer = asked.certify(Visitor(), given=bytes(48), root=asked.root_digest)
    assert problem(answer)[:2] == (403, "not-authentic")
    assert wire.decode_problem_untrusted(answer.content).check == "snp.report_data"


def test_evidence_of_another_key_is_refused_by_the_check(asked):
    answer = asked.certify(Visitor(), csr=Visitor().csr)
    assert problem(answer)[:2] == (403, "not-authentic")
    assert wire.decode_problem_untrusted(answer.content).check == "snp.report_data"


def test_evidence_whose_chain_has_ended_is_refused_by_the_check(asked):
    class Old(Visitor):
        def attest(self, report_data):
            case = AMD.make_case(
                at=YESTERDAY - timedelta(days=30), lifetime=timedelta(days=20), report={"report_data": report_data}
            )
            contents = (*case.certificates, AMD.make_crl(at=YESTERDAY))
            table = serialise_certificate_table(tuple(zip(GUIDS, contents, strict=True)))
            return make_evidence(SNP_REPORT, case.data), make_endorsement(CERTIFICATE_TABLE, table)

    answer = asked.certify(Old())
    status, kind, detail = problem(answer)
    assert (status, kind) == (403, "not-authentic")
    assert wire.decode_problem_untrusted(answer.content).check == "snp.vek.validity"
    assert f"{NOW:%Y-%m-%d}" in detail


def test_a_nonce_that_was_used_is_refused_whatever_became_of_it(asked):
    visitor = Visitor()
    with asked.client() as client:
        nonce = asked.nonce(client)
        for content, expected in (
            (visitor.request(nonce, asked.root_digest, csr=Visitor().csr), (403, "not-authentic")),
            (visitor.request(nonce, asked.root_digest), (409, "replayed-nonce")),
        ):
            body = wire.encode_certificate_request(content)
            assert problem(client.post(wire.CERTIFICATES_PATH, content=body, headers=JSON))[:2] == expected


def test_a_nonce_of_three_minutes_ago_is_refused(asked):
    """Made as the Steward makes them, with its key."""
    from enarx.steward.nonces import make_nonce

    key = (asked.state / "nonce.key").read_bytes()
    then = datetime.now(UTC) - timedelta(minutes=3)  # noqa: TID251
    request = Visitor().request(make_nonce(key, then), asked.root_digest)
    status, kind, detail = problem(post(asked, wire.encode_certificate_request(request)))
    assert (status, kind) == (410, "expired-nonce")
    assert "nonce" in detail
