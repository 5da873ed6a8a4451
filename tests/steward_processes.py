# SPDX-License-Identifier: Apache-2.0
"""A Steward process for tests, and Keeps that there are not, who ask it with evidence of a fake AMD."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, serialise_certificate_table
from enarx.attester.attested import CERTIFICATE_TABLE, SNP_REPORT, make_endorsement, make_evidence
from enarx.channel.transcript import identity_report_data
from enarx.testing.snp import FakeAmd
from enarx.wire import steward as wire
from enarx.wire.release import Identity, encode_identity
from enarx.wire.session import Limits, Receipt, without_evidence
from tests.attesting import YESTERDAY, make_policy_text
from tests.hosting import ServiceProcess

TOP = Path(__file__).parent.parent
WAIT_S = 30.0
PACKAGE = bytes(range(32))
TENANT = bytes(range(48))
AMD = FakeAmd()
_GUIDS = (VCEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID)


@dataclass(kw_only=True)
class Visitor:
    """A Keep that asks for certificates.

    Args:
        package: digest of what it says it runs.
        tenant: digest of the key of who deployed it.
        pristine: whether nothing was given beyond the package.
        amd: makes its evidence.
        measurement: in its report.
    """

    package: bytes = PACKAGE
    tenant: bytes = TENANT
    pristine: bool = False
    amd: FakeAmd = AMD
    measurement: bytes = bytes(48)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def identity(self):
        return encode_identity(
            Identity(
                package=self.package,
                module=bytes(32),
                configuration=bytes(32),
                pristine=self.pristine,
                tenant=self.tenant,
            )
        )

    @property
    def receipt(self):
        limits = Limits(memory_bytes=1 << 26, package_bytes=1 << 20, log_bytes=1 << 20)
        return without_evidence(Receipt(identity=self.identity, limits=limits, endorsements=(), evidence=b"none"))

    @property
    def csr(self):
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.key, hashes.SHA256())
        return made.public_bytes(Encoding.DER)

    def attest(self, report_data):
        """Return evidence and an endorsement over what is asked."""
        case = self.amd.make_case(at=YESTERDAY, report={"report_data": report_data, "measurement": self.measurement})
        contents = (*case.certificates, self.amd.make_crl(at=YESTERDAY))
        table = serialise_certificate_table(list(zip(_GUIDS, contents, strict=True)))
        return make_evidence(SNP_REPORT, case.data), make_endorsement(CERTIFICATE_TABLE, table)

    def request(self, nonce, given=bytes(48), **changes):
        """Return a request of a Keep that was given a root, of which this is the digest; right but for what is changed."""
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        report_data = identity_report_data(nonce, hashlib.sha384(spki).digest(), self.identity, given)
        evidence, endorsement = self.attest(report_data)
        made = wire.CertificateRequest(
            csr=self.csr,
            receipt=self.receipt,
            evidence=evidence,
            endorsements=(endorsement,),
            nonce=nonce,
            root=given,
        )
        return made._replace(**changes)


def policy_text(amd=None, **lines):
    """Return a policy that accepts a fake AMD as what it is, emulated."""
    return make_policy_text((amd or AMD).root, **lines)


def grants_text(*grants):
    """Return tables for steward.toml: of each grant the package, the tenant or "any", and DNS names."""
    return "".join(
        f'\n[[grant]]\npackage = "{package.hex()}"\ntenant = "{tenant if tenant == "any" else tenant.hex()}"\n'
        f"dns = [{', '.join(map(repr, names))}]\n".replace("'", '"')
        for package, tenant, names in grants
    )


def found_steward(state, *, policy=None, grants=((PACKAGE, TENANT, ("keep.example.com",)),), name="localhost", more=""):
    """Make a Steward's folder by the command."""
    policy_path = Path(f"{state}.policy")
    policy_path.write_text(policy if policy is not None else policy_text())
    run_steward("init", "--state", str(state), "--name", name, "--policy", str(policy_path))
    configuration = Path(state) / "steward.toml"
    configuration.write_text(configuration.read_text() + more + grants_text(*grants))
    return Path(state)


def run_steward(*arguments, status=0, env=os.environ):
    """Run a command that ends; return what it printed, stdout and stderr."""
    command = [sys.executable, "-m", "enarx", "steward", *arguments]
    environment = {**env, "PYTHONPATH": str(TOP / "src")}
    done = subprocess.run(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr


class StewardProcess(ServiceProcess):
    """A Steward that serves, until the block ends.

    Args:
        state: its folder.
        options: of the command.
        listen: where.
        env: its environment.
        program: what Python runs as `enarx`.
        popen: starts a process.
    """

    def __init__(
        self,
        state,
        *options,
        listen="127.0.0.1:0",
        env=os.environ,
        program=("-m", "enarx"),
        popen=subprocess.Popen,
    ):
        self.state = Path(state)
        command = [sys.executable, *program, "steward", "serve", "--listen", listen, "--state", str(state)]
        super().__init__([*command, *options], env=env, popen=popen)
        try:
            self.url = self.wait_for("Steward listening on ").rpartition(" ")[2]
        except BaseException:
            self.kill()
            raise
        self.port = int(self.url.rpartition(":")[2])
        self.root = self.state / "root.pem"

    @property
    def root_digest(self):
        """What a Keep says that it was given as the root: SHA-384 of the DER of the Steward's own certificate."""
        own = x509.load_pem_x509_certificates(self.root.read_bytes())[0]
        return hashlib.sha384(own.public_bytes(Encoding.DER)).digest()

    def context(self):
        """Return a client that trusts the Steward's root alone, whatever authority is above it."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def client(self):
        """Return an HTTP client that trusts the Steward's root alone; it asks for `localhost`, whatever the address."""
        import httpx2

        url = f"https://localhost:{self.port}" if self.url.startswith("https:") else self.url
        return httpx2.Client(base_url=url, trust_env=False, timeout=WAIT_S, verify=self.context())

    def nonce(self, client):
        answer = client.post(wire.CHALLENGE_PATH)
        assert answer.status_code == 200, answer.text
        return wire.decode_challenge_answer_untrusted(answer.content).nonce

    def certify(self, visitor, *, client=None, **changes):
        """Ask for a certificate; return the answer."""
        if client is None:
            with self.client() as opened:
                return self.certify(visitor, client=opened, **changes)
        request = visitor.request(self.nonce(client), **{"given": self.root_digest} | changes)
        return client.post(
            wire.CERTIFICATES_PATH,
            content=wire.encode_certificate_request(request),
            headers={"content-type": wire.MEDIA_TYPE_JSON},
        )


def problem(answer):
    """Return status, kind and detail of a refusal, which is a problem document."""
    assert answer.headers["content-type"] == wire.MEDIA_TYPE_PROBLEM, answer.text
    found = wire.decode_problem_untrusted(answer.content)
    assert found.status == answer.status_code
    return found.status, found.kind, found.detail
