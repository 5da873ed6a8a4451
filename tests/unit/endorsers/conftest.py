# SPDX-License-Identifier: Apache-2.0
"""What tests of endorsers share: a clock that tests move, AMD certificates, Intel collateral, the fake of both services."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.snp import VekClaims, serialise_vek_extensions
from enarx.endorsers import Endorsers, Timing
from enarx.testing.dcap import FakeIntel, Platform
from enarx.testing.endorsers import FakeVendors

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CHIP = bytes(range(1, 65))
TURIN_CHIP = bytes(range(1, 9)) + bytes(56)
TCB = bytes([3, 0, 0, 0, 0, 0, 8, 115])
TURIN_TCB = bytes([1, 2, 3, 4, 0, 0, 0, 75])


class Clock:
    """Time that passes when somebody sleeps, or when a test says so."""

    def __init__(self):
        self.now = NOW
        self.seconds = 1000.0
        self.slept = []
        self.timing = Timing(
            now=lambda: self.now, monotonic=lambda: self.seconds, sleep=self.sleep, jitter=lambda: 0.25
        )

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.seconds += seconds

    def pass_by(self, **passed):
        self.now += timedelta(**passed)
        self.seconds += timedelta(**passed).total_seconds()


class Amd:
    """A line's ARK, ASK and ASVK, and what they sign."""

    def __init__(self, line="Milan"):
        self.line = line
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ARK", "SEV", "SEV-VLEK")}
        self.ark = self.issue(f"ARK-{line}", f"ARK-{line}", "ARK", "ARK")
        self.ask = self.issue(f"SEV-{line}", f"ARK-{line}", "SEV", "ARK")
        self.asvk = self.issue(f"SEV-VLEK-{line}", f"ARK-{line}", "SEV-VLEK", "ARK")

    def issue(self, subject, issuer, key, signer, extensions=()):
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
        builder = (
            x509.CertificateBuilder(issuer_name=names[1], subject_name=names[0])
            .public_key(self.keys[key].public_key())
            .serial_number(1)
            .not_valid_before(NOW - timedelta(days=100))
            .not_valid_after(NOW + timedelta(days=2000))
        )
        for oid, value in extensions:
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
        return builder.sign(self.keys[signer], hashes.SHA256()).public_bytes(Encoding.DER)

    def vek(self, chip=CHIP, tcb=TCB, *, product=None, provider=None):
        turin = self.line == "Turin"
        claims = VekClaims(
            kind="VCEK" if provider is None else "VLEK",
            product=product or self.line,
            struct_version=int(turin),
            tcb=tcb,
            has_fmc=turin,
            hwid=None if provider is not None else chip[:8] if turin else chip,
            csp_id=provider,
        )
        signer = "SEV" if provider is None else "SEV-VLEK"
        return self.issue(
            f"SEV-{claims.kind}", f"{signer}-{self.line}", "SEV", signer, serialise_vek_extensions(claims)
        )

    def chain(self, *, vlek=False):
        ders = [self.asvk if vlek else self.ask, self.ark]
        return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)

    def crl(self, *, issued=NOW - timedelta(days=30), until=NOW + timedelta(days=30), line=None):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ARK-{line or self.line}")])
        builder = x509.CertificateRevocationListBuilder(name, issued, until)
        return builder.sign(self.keys["ARK"], hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def amd():
    return Amd()


@pytest.fixture(scope="session")
def turin():
    return Amd("Turin")


@pytest.fixture(scope="session")
def intel():
    return FakeIntel()


@pytest.fixture(scope="session")
def platform():
    return Platform()


@pytest.fixture
def collateral(intel, platform):
    return intel.make_collateral("TDX", platform, since=NOW - timedelta(days=1), until=NOW + timedelta(days=29))


@pytest.fixture
def vendors():
    with FakeVendors() as running:
        yield running


@pytest.fixture
def make(tmp_path, vendors, clock):
    """Make endorsers that ask the fake, with one cache for all of them."""

    def make_endorsers(**changes):
        arguments = {"timing": clock.timing, "amd_url": vendors.url, "intel_url": vendors.url, **changes}
        return Endorsers(str(tmp_path / "cache"), **arguments)

    return make_endorsers
