# SPDX-License-Identifier: Apache-2.0
"""A Keep or the command with single checks removed: the control builds in which attacks succeed. The product has no such switch.

    python builds.py REMOVED[,REMOVED...] keep --backend nil ...      (or `-` for the product as it is)
    python builds.py REMOVED[,REMOVED...] enarx deploy ...

Each name below is a function that takes one thing away, or lets one thing fall that the protocol does not rest on alone: a leaf
key that somebody else has, an exporter that is the same everywhere, an HPKE key that comes twice, TLS that protects nothing. What
follows `=` in a name is a path.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

# --- What evidence is over


def _session_without(index: int) -> None:
    from enarx.channel import transcript

    whole = transcript._session
    transcript._session = lambda t: tuple(part for number, part in enumerate(whole(t)) if number != index)


def no_exporter() -> None:
    """Bind evidence to the leaves and the challenge only."""
    _session_without(0)


def no_keep_leaf() -> None:
    """Leave the Keep's leaf out."""
    _session_without(1)


def no_tenant_leaf() -> None:
    """Leave the tenant's leaf out."""
    _session_without(2)


def nonce_only() -> None:
    """Bind evidence to the challenge and the message, as attestation without a channel does."""
    from enarx.channel import transcript

    whole = transcript._session
    transcript._session = lambda t: (whole(t)[3],)


def no_purpose() -> None:
    """Leave the purpose out, in a protocol whose offers have the shape of an identity: three parts."""
    from enarx.channel import transcript
    from enarx.crypto.cbor import encode
    from enarx.deploy import attesting
    from enarx.keep import session
    from enarx.wire.session import without_evidence

    def as_three(t, offer):
        exporter, keep_leaf, tenant_leaf, challenge = transcript._session(t)
        rest = hashlib.sha384(tenant_leaf + challenge + without_evidence(offer)).digest()
        return hashlib.sha512(encode(["enarx-keep/1", exporter, keep_leaf, rest])).digest()

    attesting.offer_report_data = session.offer_report_data = as_three
    transcript._report_data = lambda _purpose, *parts: hashlib.sha512(encode(["enarx-keep/1", *parts])).digest()


def no_receipt_hash() -> None:
    """Leave the receipt out of what an attachment's evidence is over."""
    from enarx.deploy import attesting
    from enarx.keep import session

    whole = session.attach_report_data
    attesting.attach_report_data = session.attach_report_data = lambda t, a, _receipt: whole(t, a, bytes(48))


# --- The tenant's checks


def _verify_with(change: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> None:
    from enarx.deploy import attesting

    whole = attesting.verify_evidence
    attesting.verify_evidence = lambda recognised, **how: whole(recognised, **(how | change(recognised, how)))


def no_report_data() -> None:
    """Take evidence that is over anything."""
    _verify_with(lambda recognised, _how: {"report_data": recognised.parsed.report.report_data})


def no_measurement() -> None:
    """Take evidence of anything that runs."""
    from enarx.rats import Skip

    def lenient(policy):
        return replace(policy, expectations={**policy.expectations, "snp.measurement": Skip("a control build")})

    _verify_with(lambda _recognised, how: {"policy": lenient(how["policy"])})


def no_signature() -> None:
    """Take reports that the platform's key did not sign."""
    from enarx.verifier import snp

    snp._judge_signature = lambda _report, _chain, _ledger: True


def no_identity() -> None:
    """Take a receipt of anything that was provisioned, by anybody."""
    from enarx.deploy import provisioning

    provisioning._require_same = lambda _receipt, _expected: None


# --- The Keep's checks


def any_attach() -> None:
    """Let anybody attach."""
    from enarx.keep import life

    life.leaf_hash = lambda _leaf: b"whoever"


def second_provision() -> None:
    """Stay empty after provisioning."""
    from enarx.keep.life import Keep

    empty = Keep._serve_empty

    async def again(self, stream):
        self._supervisor = None
        await empty(self, stream)

    Keep._serve_attach = again


def no_hardening() -> None:
    """Stay dumpable, with no limit on core dumps."""
    import os
    import resource

    from enarx.keep import main

    def soft(link_fd):
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.set_inheritable(link_fd, False)

    main.harden = soft


# --- Both ends


def no_info() -> None:
    """Seal a release to a key and not to a session."""
    from enarx.channel import hpke
    from enarx.deploy import provisioning

    seal, opens = hpke.seal, hpke.OneTimeKey.open
    provisioning.seal = lambda key, plaintext, _info: seal(key, plaintext, b"")
    hpke.OneTimeKey.open = lambda self, sealed, _info=b"", **_how: opens(self, sealed, b"")


def any_group() -> None:
    """Take another key-exchange group."""
    from OpenSSL import SSL

    from enarx.channel import tls

    make = tls._context

    def context(credential, *, is_client):
        made = make(credential, is_client=is_client)
        tls._lib.SSL_CTX_set1_curves_list(made._context, b"X25519MLKEM768:X25519")
        return made

    tls._context = context
    SSL.Connection.get_group_name = lambda _self: tls.GROUP


def any_version() -> None:
    """Take TLS 1.2."""
    from OpenSSL import SSL

    from enarx.channel import tls

    make = tls._context

    def context(credential, *, is_client):
        made = make(credential, is_client=is_client)
        made.set_min_proto_version(SSL.TLS1_2_VERSION)
        made.set_max_proto_version(SSL.TLS1_3_VERSION)
        tls._lib.SSL_CTX_set1_curves_list(made._context, b"X25519MLKEM768:P-256")
        return made

    tls._context = context
    SSL.Connection.get_group_name = lambda _self: tls.GROUP
    SSL.Connection.get_protocol_version_name = lambda _self: "TLSv1.3"


# --- What may have fallen


def leaf(path: str) -> None:
    """Use a leaf whose key somebody else has."""
    from enarx.crypto import x509

    with open(path, "rb") as file:
        pem = file.read()
    credential = x509.Credential(
        chain=x509.load_certificates(pem, path=path), private_key=x509.load_private_key(pem, path=path)
    )
    x509.make_self_signed = lambda **_: credential


def one_exporter() -> None:
    """Have the same exporter in every connection."""
    from enarx.channel.tls import EXPORTER_BYTES, TlsEnd

    TlsEnd.exporter = property(lambda _self: bytes(EXPORTER_BYTES))


def one_hpke_key() -> None:
    """Make the same HPKE key in every session."""
    from enarx.channel import hpke

    make = hpke.OneTimeKey.__init__
    known = []

    def again(self):
        make(self)
        known.append((self._key, self.public_bytes))
        self._key, self.public_bytes = known[0]

    hpke.OneTimeKey.__init__ = again


def show_provision(path: str) -> None:
    """Let somebody read the provision on its way, as if TLS had kept nothing secret."""
    from enarx.deploy import provisioning

    whole = provisioning.seal

    def seal(key, plaintext, info):
        sealed = whole(key, plaintext, info)
        with open(path + ".new", "wb") as file:
            file.write(sealed)
        import os

        os.rename(path + ".new", path)
        return sealed

    provisioning.seal = seal


def impatient() -> None:
    """Wait for seconds where the product waits for minutes; nothing is taken away."""
    from enarx.deploy import attesting, provisioning
    from enarx.keep import session

    attesting.OFFER_TIMEOUT_S = provisioning.RECEIPT_TIMEOUT_S = session.PROVISION_S = session.ATTACH_S = 5.0


class NullTls:
    """In the place of TLS: leaves are said, nothing is proven, hidden or kept whole."""

    def __init__(self, credential) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        self.own_leaf = credential.chain[0].public_bytes(Encoding.DER)
        self.peer_leaf = b""
        self.exporter = bytes(32)
        self.established = self.ended = False
        self._in = b""
        self._out = len(self.own_leaf).to_bytes(2, "big") + self.own_leaf

    for_tenant = for_keep = classmethod(lambda cls, credential: cls(credential))

    def receive(self, data) -> None:
        self._in += bytes(data)
        length = 2 + int.from_bytes(self._in[:2], "big")
        if not self.established and len(self._in) >= max(2, length):
            self.peer_leaf, self._in = self._in[2:length], self._in[length:]
            self.established = True

    def read(self) -> bytes:
        data, self._in = self._in, b""
        return data

    def write(self, data) -> None:
        self._out += bytes(data)

    def take_output(self) -> bytes:
        data, self._out = self._out, b""
        return data

    def close(self) -> None:
        """Say nothing."""


def null_tls() -> None:
    """Put nothing in the place of TLS."""
    from enarx.channel import session

    session.TlsEnd = NullTls


BUILDS = {
    function.__name__.replace("_", "-"): function
    for function in (
        any_attach,
        any_group,
        any_version,
        impatient,
        leaf,
        no_exporter,
        no_hardening,
        no_identity,
        no_info,
        no_keep_leaf,
        no_measurement,
        no_purpose,
        no_receipt_hash,
        no_report_data,
        no_signature,
        no_tenant_leaf,
        nonce_only,
        null_tls,
        one_exporter,
        one_hpke_key,
        second_provision,
        show_provision,
    )
}


def main(arguments: list[str]) -> int:
    """Remove, and then be the program."""
    removed, program, *rest = arguments
    # Patches of `x509` come first: others take what they find there.
    for build in sorted(removed.split(",") if removed != "-" else [], key=lambda build: not build.startswith("leaf=")):
        name, _, path = build.partition("=")
        BUILDS[name](*([path] if path else []))
    if program == "keep":
        from enarx.keep.main import main as be_a_keep

        be_a_keep(rest)
    from enarx.cli import main as run

    return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
