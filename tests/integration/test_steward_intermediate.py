# SPDX-License-Identifier: Apache-2.0
"""A Steward below its operator's own authority: founded by a request, and then all that one with a root of its own does.

Its clock is five minutes behind, and its certificates last for ten: so it is always time to renew them.
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.deploy.naming import load_tenant_key, tenant_digest
from tests.attesting import NOW
from tests.between import until
from tests.hosting import HostProcess
from tests.integration.test_deploy import Host
from tests.integration.test_steward import (
    CLOCK,
    MUTUAL,
    NAME,
    PAGE,
    WAIT_S,
    curl,
    deployed,
    enarx_at,
    free_port_for_all,
    get,
    log_entries,
    named,
    packed,
    presented,
    refused,
    serials,
    serving,
    trusting,
)
from tests.steward_processes import grants_text, run_steward

BEHIND = (CLOCK, "-300")
DAY = timedelta(days=1)

__all__ = ["free_port_for_all"]


@pytest.fixture(scope="module")
def host(enarx, tmp_path_factory):
    with HostProcess(tmp_path_factory.mktemp("host"), stub=False, env=enarx.env) as running:
        yield Host(url=running.url, enarx=enarx)


class OperatorAuthority:
    """What an operator has who signs more than Stewards: a root, and whatever is below it."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Operator of Services")])
        made = self._builder(self._name, self._key.public_key(), 1)
        self._root = made.sign(self._key, hashes.SHA384())
        self.root = folder / "operator.pem"
        self.root.write_bytes(self._root.public_bytes(Encoding.PEM))

    def sign(self, path):
        """Sign a Steward's request; return the path of the chain."""
        request = x509.load_pem_x509_csr(path.read_bytes())
        assert request.is_signature_valid
        signed = self._builder(request.subject, request.public_key(), 0).sign(self._key, hashes.SHA384())
        chain = self._folder / "chain.pem"
        chain.write_bytes(signed.public_bytes(Encoding.PEM) + self._root.public_bytes(Encoding.PEM))
        return chain

    def _builder(self, subject, key, length):
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        ) | {"key_cert_sign": True, "crl_sign": True}  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=length), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


@pytest.fixture(scope="module")
def service(enarx, host, guest, free_port_for_all, tmp_path_factory):
    """A Steward below an operator's root, and a web service that one client may call."""
    folder = tmp_path_factory.mktemp("below")
    operator = OperatorAuthority(folder)
    assert host.deploy(guest("hello")).status == 0
    policy = folder / "policy.toml"
    ended = enarx.command("policy", "init", policy, "--image", "process")
    assert ended.status == 0, ended.stderr
    key, _ = load_tenant_key(str(folder / "tenant.pem"))
    tenant, port = tenant_digest(key), free_port_for_all
    client, client_digest = packed(folder / "client", guest("web-client"), "web-client", port=port)
    mutual = MUTUAL.format(package=client_digest.hex(), tenant=tenant.hex())
    server, server_digest = packed(folder / "server", guest("web-service"), "web-service", port=port, more=mutual)
    open_web, open_digest = packed(folder / "open", guest("web-service"), "web-service")
    # --- What the operator does
    state = folder / "state"
    options = ("--state", state, "--name", NAME, "--policy", policy, "--intermediate")
    founded = enarx_at(enarx, BEHIND, "steward", "init", *options)
    assert founded.returncode == 0, founded.stderr
    assert "have your authority sign" in founded.stderr
    assert not (state / "root.pem").exists()
    early = enarx_at(enarx, BEHIND, "steward", "serve", "--state", state)
    assert (early.returncode, "--chain" in early.stderr) == (2, True), early.stderr
    installed = enarx_at(enarx, BEHIND, "steward", "init", "--state", state, "--chain", operator.sign(state / "ca.csr"))
    assert installed.returncode == 0, installed.stderr
    configuration = (state / "steward.toml").read_text().replace('"24h"', '"10m"')
    grants = [(digest, tenant, (NAME,)) for digest in (server_digest, client_digest, open_digest)]
    (state / "steward.toml").write_text(configuration + grants_text(*grants))
    with serving(state, enarx, program=BEHIND) as steward:
        common = (*named(steward), "--tenant-key", folder / "tenant.pem")
        with deployed(host, *common, server) as mutual_service, deployed(host, *common, open_web) as running:
            yield SimpleNamespace(
                operator=operator,
                steward=steward,
                common=common,
                port=running.port,
                mutual_port=mutual_service.port,
                client=client,
                peer=f"{server_digest.hex()}:{tenant.hex()}",
                path=open_web,
                key=folder / "tenant.pem",
            )


def test_curl_trusts_the_service_by_either_root(service):
    url = f"https://{NAME}:{service.port}/"
    for root in (service.steward.root, service.operator.root):
        answer = curl("--cacert", root, url)
        assert (answer.returncode, answer.stdout) == (0, PAGE), answer.stderr
    assert curl(url).returncode == 60


def test_openssl_trusts_it_by_the_operators_root(service):
    """Which has the whole chain, and no partial ones."""
    assert PAGE in get(service.port, trusting(service.operator.root))


def test_two_keeps_require_each_other(host, service):
    ended = host.deploy(*service.common, "--peer", service.peer, service.client)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.endswith(PAGE)


def test_a_certificate_of_the_operators_is_none_of_the_stewards(host, service):
    """Whoever is below the operator's root, and not below the Steward, is no peer: a Keep believes the Steward alone."""
    ended = host.deploy(*named(service.steward, root=service.operator.root), "--tenant-key", service.key, service.path)
    refused(ended, 104, "the Keep was given another root than this Steward's", "[steward.root]")


def test_it_is_renewed(service, tmp_path):
    context = trusting(service.operator.root)
    first = presented(service.port, context).serial_number
    until(lambda: presented(service.port, context).serial_number != first, "another certificate", WAIT_S)
    newest = presented(service.port, context)
    assert len(serials(service.steward)) > 1
    path = tmp_path / "leaf.der"
    path.write_bytes(newest.public_bytes(Encoding.DER))
    state = str(service.steward.state)
    assert "certificate  entry " in run_steward("audit", "--state", state, "--certificate", str(path))[0]
    assert log_entries(service.steward.state)["certificate"] > 1


def test_attest_connect_judges_by_the_stewards_own(service, enarx):
    where = (f"127.0.0.1:{service.port}", "--server-name", NAME, "--insecure-accept-emulated")
    ended = enarx.command("attest", "connect", *where, "--steward-root", service.steward.root)
    assert (ended.status, ended.stdout.startswith(b"accepted: ")) == (0, True), ended.stdout
    # Whoever names the root above it believes every authority below that.
    ended = enarx.command("attest", "connect", *where, "--steward-root", service.operator.root)
    assert (ended.status, ended.stdout.startswith(b"accepted: ")) == (0, True), ended.stdout


def test_the_stewards_own_port_is_trusted_by_either_root(service):
    whole = service.steward.root.read_bytes() + service.operator.root.read_bytes()
    for root in (service.steward.root, service.operator.root):
        answer = curl("--cacert", root, f"https://{NAME}:{service.steward.port}/v1/ca.pem")
        assert (answer.returncode, answer.stdout) == (0, whole), answer.stderr
