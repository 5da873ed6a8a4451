# SPDX-License-Identifier: Apache-2.0
"""A Keep or the command with single checks removed: the control builds in which attacks succeed. The product has no such switch.

    python builds.py REMOVED[,REMOVED...] keep --backend nil ...      (or `-` for the product as it is)
    python builds.py REMOVED[,REMOVED...] enarx deploy ...
    python builds.py REMOVED[,REMOVED...] workload                    (started by such a Keep)

Each name below is a function that takes one thing away, or lets one thing fall that the protocol does not rest on alone: a leaf
key that somebody else has, an exporter that is the same everywhere, an HPKE key that comes twice, TLS that protects nothing, or
whose two ends have one key. What follows `=` in a name is a path, or a number of seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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


def no_root() -> None:
    """Leave the Steward's root out of what evidence for a certificate is over; a Steward can be built so, too."""
    from enarx.channel import transcript
    from enarx.steward import chambers

    whole = transcript._report_data
    transcript._report_data = lambda purpose, *parts: whole(purpose, *(parts[:3] if purpose == "identity" else parts))
    # Where the Steward judges.
    last = "from enarx.steward.chambers import sit"
    assert last in chambers._PROGRAM
    chambers._PROGRAM = chambers._PROGRAM.replace(
        last, f"import runpy\nrunpy.run_path({__file__!r})['no_root']()\n{last}"
    )


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


def any_answer() -> None:
    """Take an empty Keep's offer for the attachment of the Keep that was provisioned."""
    from enarx.channel.transcript import attach_report_data, offer_report_data
    from enarx.deploy import attaching, attesting
    from enarx.wire.session import Attachment, Offer

    async def attest_again(session, judge, receipt):
        transcript, message = await attesting._challenge(session)
        if isinstance(message, Offer):
            report_data = offer_report_data(transcript, message)
            message = Attachment(0, 0, *message[1:])
        else:
            report_data = attach_report_data(transcript, message, receipt)
        judged = await attesting._judge(session, judge, message, report_data, receipt)
        return attesting.Reattested(attachment=message, judged=judged)

    attaching.attest_again = attest_again


def no_offsets() -> None:
    """Take output wherever it says it begins."""
    from enarx.deploy.session import Conversation

    Conversation._reach = lambda _self, _offset: None


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


def late_attach() -> None:
    """Let an attach that was held back displace those that came since."""
    from enarx.keep.life import Keep

    Keep._attached = property(lambda _self: 0, lambda _self, _arrival: None)


_OF_WORKLOADS: list[str] = []


def _workload_too(build: str) -> None:
    """Have a Keep start workload processes of the same build."""
    from enarx.keep import main

    started = main.Keep.func if isinstance(main.Keep, partial) else main.Keep
    _OF_WORKLOADS.append(build)
    main.Keep = partial(started, command=[sys.executable, __file__, ",".join(_OF_WORKLOADS), "workload"])


def no_hardening() -> None:
    """Stay dumpable, with no limit on core dumps; the workload process too."""
    import os
    import resource

    from enarx.keep import main, workload

    def soft(link_fd):
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.set_inheritable(link_fd, False)

    main.harden = soft
    _workload_too("no-hardening")
    workload.give_up = lambda: None


# --- What a workload process checks of its peers


def any_tenant() -> None:
    """Take a peer's package as it is for whatever tenant it runs."""
    from enarx.runtime import peers

    make, decode = peers.PeerRules.__init__, peers.decode_identity_untrusted
    peers.PeerRules.__init__ = lambda self, rules, **how: make(self, [(package, "any") for package, _ in rules], **how)
    peers.decode_identity_untrusted = lambda record: decode(record)._replace(pristine=True)
    _workload_too("any-tenant")


def any_root() -> None:
    """Take a certificate whatever its chain ends in."""
    from enarx.runtime import tls

    look = tls._look

    def accept(_accepted, store):
        tls._lib.X509_STORE_CTX_set_error(store, 0)
        return look(1, store)

    tls._verify = tls._ffi.callback("int(int, X509_STORE_CTX *)", accept, error=0)
    _workload_too("any-root")


def no_result() -> None:
    """Take a certificate that has no result of a Steward."""
    from enarx.runtime import peers

    whole = peers.decode_keep_certificate_untrusted
    peers.decode_keep_certificate_untrusted = lambda certificate: whole(certificate)._replace(result=b"taken for one")
    _workload_too("no-result")


def _given(see: Callable[[list[str], list[str], bytes], None]) -> None:
    """Have a Keep show the arguments, the environment and the module that it was given."""
    import os

    from enarx.keep import life

    whole = life.make_start

    def make_start(package, *rest, **how):
        start = whole(package, *rest, **how)
        module = os.pread(package.module_fd, os.fstat(package.module_fd).st_size, 0)
        see(list(start.toml.args), ["=".join(pair) for pair in start.toml.env], module)
        return start

    life.make_start = make_start


def loud() -> None:
    """Say on the console what a tenant gives."""
    import os

    from enarx.keep.stdio import Inlet

    def say(arguments, environment, module):
        os.write(1, f"provisioned: {arguments} {environment} {module.hex()}\n".encode())

    write = Inlet.write

    def say_and_write(self, data):
        os.write(1, b"stdin: " + data + b"\n")
        write(self, data)

    _given(say)
    Inlet.write = say_and_write


def titled() -> None:
    """Start something with a tenant's arguments for arguments, in a tenant's environment."""
    from subprocess import DEVNULL, PIPE, Popen

    running = []

    def start(arguments, environment, _module):
        command = [sys.executable, "-I", "-S", "-c", "input()", *arguments]
        running.append(Popen(command, env=dict(pair.split("=", 1) for pair in environment), stdin=PIPE, stdout=DEVNULL))

    _given(start)


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


def time_limits(seconds: str) -> None:
    """Wait for so long where the product waits for a minute or more, or with `inf` for ever."""
    from enarx.deploy import attesting, provisioning
    from enarx.keep import session

    attesting.OFFER_TIMEOUT_S = provisioning.RECEIPT_TIMEOUT_S = session.PROVISION_S = session.ATTACH_S = float(seconds)


class NullTls:
    """In the place of TLS: leaves are said, nothing is proven, hidden or kept whole.

    The leaf has a length before it like a message: all that passes is lengths and what they are of.
    """

    def __init__(self, credential) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        self.own_leaf = credential.chain[0].public_bytes(Encoding.DER)
        self.peer_leaf = b""
        self.exporter = bytes(32)
        self.established = self.ended = False
        self._in = b""
        self._out = len(self.own_leaf).to_bytes(4, "big") + self.own_leaf

    for_tenant = for_keep = classmethod(lambda cls, credential: cls(credential))

    def receive(self, data) -> None:
        self._in += bytes(data)
        length = 4 + int.from_bytes(self._in[:4], "big")
        if not self.established and len(self._in) >= max(4, length):
            self.peer_leaf, self._in = self._in[4:length], self._in[length:]
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


class OneKey(NullTls):
    """In the place of TLS: who has not the key changes, leaves out, repeats and reorders nothing. But both directions have one."""

    _KEY = b"known to tenants and Keeps, and to no host"
    _TAG_BYTES = 32

    def __init__(self, credential) -> None:
        super().__init__(credential)
        self._numbers = {"sent": 0, "received": 0}

    def _tag(self, direction: str, data: bytes) -> bytes:
        number = self._numbers[direction]
        self._numbers[direction] += 1
        return hmac.digest(self._KEY, number.to_bytes(8, "big") + data, "sha256")

    def read(self) -> bytes:
        from enarx.errors import TransportError

        found = b""
        while len(self._in) >= (end := 4 + int.from_bytes(self._in[:4], "big")):
            record, self._in = self._in[4:end], self._in[end:]
            data = record[self._TAG_BYTES :]
            if not hmac.compare_digest(record[: self._TAG_BYTES], self._tag("received", data)):
                raise TransportError("session: found a record that is not the next one")
            found += data
        return found

    def write(self, data) -> None:
        record = self._tag("sent", bytes(data)) + bytes(data)
        self._out += len(record).to_bytes(4, "big") + record


def null_tls() -> None:
    """Put nothing in the place of TLS."""
    from enarx.channel import session

    session.TlsEnd = NullTls


def one_key() -> None:
    """Put something without roles in the place of TLS."""
    from enarx.channel import session

    session.TlsEnd = OneKey


def no_direction() -> None:
    """Take what a tenant says to a workload for what a workload says: bytes are bytes, whoever sent them."""
    from enarx.wire import session

    offset = 0

    def data(_name, fields):
        nonlocal offset
        output = session.Output("stdout", offset, fields.bytes("data", 0, session.MAX_DATA_BYTES))
        offset += len(output.data)
        return output

    session._KEEP["stdin"] = data


BUILDS = {
    function.__name__.replace("_", "-"): function
    for function in (
        any_answer,
        any_attach,
        any_group,
        any_root,
        any_tenant,
        any_version,
        late_attach,
        leaf,
        loud,
        no_direction,
        no_exporter,
        no_hardening,
        no_identity,
        no_info,
        no_keep_leaf,
        no_measurement,
        no_offsets,
        no_purpose,
        no_receipt_hash,
        no_report_data,
        no_result,
        no_root,
        no_signature,
        no_tenant_leaf,
        nonce_only,
        null_tls,
        one_exporter,
        one_hpke_key,
        one_key,
        second_provision,
        show_provision,
        time_limits,
        titled,
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
    if program == "workload":
        from enarx.keep.workload import main as be_a_workload

        be_a_workload()
    from enarx.cli import main as run

    return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
