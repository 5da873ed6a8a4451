# SPDX-License-Identifier: Apache-2.0
"""What the fuzzing of the parsers of a deployment begins with: messages, frames, answers and files, made by whoever makes them.

What holds it together: a function for each kind of bytes. Where a parser is called with more than bytes, a seed is CBOR, and
what is in it is said at the target.

Rules of this file:

- Seeds are what our own encoders, devices of `enarx.testing` and the emulated platform make, not what a decoder accepts.
- Keys are those of one process, but for `KEY` and `CREDENTIAL_KEY`, which a target opens and signs with.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz import verifier_seeds
from tests.fuzz.verifier_mutations import write_cbor

REPORT_DATA = bytes(range(64))
KEY = bytes(range(32))
MLKEM_SEED = bytes(range(64))
HPKE_INFO = b"info"
MEASUREMENT = b"\x42" * 48
KEEP_ID = "0123456789abcdef"
DIGEST = "ab" * 32
CREDENTIAL_KEY = 0x1234567890ABCDEF1234567890ABCDEF
PROVIDERS = ("sev_guest", "tdx_guest", "arm_cca_guest")


# --- Messages and records --------------------------------------------------------------------------------------------


def _limits() -> Any:
    from enarx.wire.session import Limits

    return Limits(1 << 30, 1 << 20, 1 << 16)


@cache
def _evidence() -> tuple[bytes, tuple[bytes, ...]]:
    """Return evidence and endorsements of the emulated platform, as CMW."""
    from enarx.attester.emulated import EmulatedAttester

    attested = EmulatedAttester(lambda _: emulated_answers()[0]).attest(REPORT_DATA)
    return attested.evidence, attested.endorsements


def _identity() -> Any:
    from enarx.wire.release import Identity

    return Identity(b"p" * 32, b"m" * 32, b"c" * 32, pristine=True, tenant=b"t" * 48)


def tenant_messages() -> list[bytes]:
    """Return each message of a tenant, stdin in all of its lengths of lengths."""
    from enarx.wire import session as s

    messages = (
        s.Challenge(bytes(range(32)), ("application/vnd.enarx.sev-snp-report", "application/eat+cwt")),
        *map(s.Refuse, ("decode", "verification", "appraisal", "endorsement", "usage")),
        s.Provision(bytes(1137)),
        *map(s.Attach, (0, 1 << 32, (1 << 64) - 1)),
        *(s.Stdin(bytes(size)) for size in (0, 5, 23, 24, 255, 256, 3000)),
        s.Signal(2),
        s.Signal(15),
        s.Stop(600_000),
        s.Detach(),
    )
    return [s.encode_message(message) for message in messages]


def keep_messages() -> list[bytes]:
    """Return each message of a Keep."""
    from enarx.wire import session as s
    from enarx.wire.release import encode_identity

    evidence, endorsements = _evidence()
    image = s.Image("enarx", "0.1.0", "nil")
    messages = (
        s.Offer(bytes(1216), image, _limits(), endorsements, evidence),
        s.Offer(bytes(1216), image, _limits(), (), b"e"),
        s.Attachment(0, 1 << 40, image, _limits(), (b"a", b"b"), b"e"),
        s.Receipt(encode_identity(_identity()), _limits(), (b"a",), b"e"),
        s.Window(1 << 20),
        *(s.Output("stdout", 7, b"x" * size) for size in (1, 23, 24, 255, 256, 2000)),
        s.Output("stderr", 1 << 40, b"no room\n"),
        s.Stats(1, 2, 3),
        s.Exit(0, None, None, None),
        s.Exit(134, None, "wasm trap: unreachable", "a hint"),
        s.Exit(109, s.ExitFailure(109, "the Keep is full", "a smaller one"), None, None),
        s.Exit(103, s.ExitFailure(103, "no module", None), None, None),
        s.Failure(109, "no room"),
    )
    return [s.encode_message(message) for message in messages]


def conversations() -> list[bytes]:
    """Return `[whether the tenant receives, pieces]` of several messages with their lengths."""
    found = []
    for is_tenant, bodies in ((True, keep_messages()[1:]), (False, tenant_messages())):
        data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
        found += [
            write_cbor([is_tenant, [data]]),
            write_cbor([is_tenant, [data[at : at + 700] for at in range(0, len(data), 700)]]),
            write_cbor([is_tenant, [len(body).to_bytes(4, "big") + body for body in bodies]]),
        ]
    return found


def releases() -> list[bytes]:
    """Return a release with nothing that may be left out, and one with all of it."""
    from enarx.wire import release as r

    blob = r.Blob(KEY, b"c" * 32, 1016, b"p" * 32, 1000)
    given = r.Configuration(
        arguments=("a", "", "ü"),
        environment=(("A", "1"), ("B", "")),
        listen=(r.ListenOverride("web", "tls", 8080),),
        limits={"memory-bytes": 1 << 30, "timeout-ms": 5, "fuel": 1, "output-bytes": 0, "open-files": 3},
        files=b"f" * 32,
        peers=(r.PeerOverride(b"p" * 32, b"t" * 48), r.PeerOverride(b"q" * 32, None)),
    )
    least = r.Release(manifests()[0], {r.MAIN: blob}, r.Configuration(), 1, bytes(32), None)
    steward = r.Steward("https://steward.example", b"root")
    blobs = {r.MAIN: blob._replace(layer=r.Layer(b"n" * 16, b"h" * 32)), r.TOML: blob, r.FILES: blob}
    most = r.Release(manifests()[1], blobs, given, 1 << 60, bytes(32), steward)
    return [r.encode_release(least), r.encode_release(most)]


def manifests() -> list[bytes]:
    """Return manifests without and with an Enarx.toml."""
    from enarx.wire.release import Content, Manifest, encode_manifest

    content = Content(b"d" * 32, 1 << 40)
    return [encode_manifest(Manifest(content, None)), encode_manifest(Manifest(content, content))]


def identities() -> list[bytes]:
    """Return an identity record."""
    from enarx.wire.release import encode_identity

    return [encode_identity(_identity()), encode_identity(_identity()._replace(pristine=False))]


def travelling_files() -> list[bytes]:
    """Return directories and PEM files."""
    from enarx.wire.release import Directory, Entry, TravellingFiles, encode_files

    entries = (Entry(("etc",), None), Entry(("etc", "motd"), b"hello"), Entry(("é",), b""))
    directories = (Directory("/data", True, entries), Directory("/empty", False, ()))
    return [
        encode_files(TravellingFiles(directories, {"c.pem": b"-----BEGIN"})),
        encode_files(TravellingFiles(directories, {})),
        encode_files(TravellingFiles((), {"c.pem": b"", "k.pem": b"k"})),
    ]


# --- Link and channel ------------------------------------------------------------------------------------------------


def link_bytes() -> list[bytes]:
    """Return what both ends of a link say: every frame, every target."""
    from enarx.channel import frames as f

    targets = (
        f.Target.session(),
        f.Target.inbound("web"),
        f.Target.outbound("db.example", 5432),
        f.Target.blob(bytes(32)),
        f.Target.platform(),
    )
    opened = [f.encode_open(number << 7, target) for number, target in enumerate(targets)]
    data = [f.encode_data_header(stream, size) + bytes(size) for stream, size in ((0, 1), (24, 300), (1 << 20, 70))]
    rest = [
        f.encode_credit(3, 1 << 20),
        f.encode_credit((1 << 32) - 1, 1),
        f.encode_end(3),
        f.encode_opened(300),
        *(f.encode_reset(3, reason) for reason in f.RESET_REASONS),
    ]
    hello = [f.encode_hello(role) for role in f.ROLES]
    return [b"".join(frames) for frames in ([*hello, *opened, *data, *rest], opened, data, rest, hello)]


def link_peers() -> list[bytes]:
    """Return what the Keep's end receives after a zero, and the host's after a one: streams of both, from beginning to end."""
    from enarx.channel import frames as f

    def data(stream: int, size: int) -> bytes:
        return f.encode_data_header(stream, size) + bytes(size)

    found = []
    for kind, role, target, own, other in (
        (b"\0", "host", f.Target.session(), 0, 1),
        (b"\1", "keep", f.Target.blob(bytes(32)), 1, 0),
    ):
        theirs = [
            f.encode_open(own, target),
            data(own, 300),
            f.encode_credit(own, 1000),
            f.encode_open(own + 2, target if own else f.Target.inbound("web")),
        ]
        ours = [f.encode_opened(other), f.encode_credit(other, 5), data(other, 20), f.encode_end(other)]
        ends = [f.encode_end(own), f.encode_reset(own + 2, "closed"), f.encode_open(own + 4, target)]
        hello = f.encode_hello(role)
        found += [kind + b"".join([hello, *frames]) for frames in ([], theirs, ours, theirs + ours + ends)]
    return found


def sealed_segments() -> list[bytes]:
    """Return `[length of the plaintext, pieces of its ciphertext]`."""
    from enarx.channel.segments import seal

    found = []
    for size in (0, 1, 500, 65536, 65537):
        sealed = b"".join(seal(KEY, [bytes(size)]))
        found += [
            write_cbor([size, [sealed]]),
            write_cbor([size, [sealed[at : at + 30_000] for at in range(0, len(sealed), 30_000)]]),
        ]
    return found


def hpke_key() -> Any:
    """Return the one key of the target, as the channel has it."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

    mlkem = MLKEM768PrivateKey.from_seed_bytes(MLKEM_SEED)
    x25519 = X25519PrivateKey.from_private_bytes(KEY)
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    return MLKEM768X25519PrivateKey(mlkem, x25519), public


def sealed_secrets() -> list[bytes]:
    """Return what a Keep opens, after a zero, and what a tenant seals to, after a one."""
    from enarx.channel.hpke import seal

    public = hpke_key()[1]
    return [b"\0" + seal(public, text, HPKE_INFO) for text in (b"", b"secret" * 50)] + [b"\1" + public]


@cache
def credential() -> Any:
    """Return a certificate that a peer shows, with the key that every process has."""
    from dataclasses import replace
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from enarx.crypto.x509 import make_self_signed

    key = ec.derive_private_key(CREDENTIAL_KEY, ec.SECP256R1())
    made = make_self_signed(at=verifier_seeds.AT, lifetime=timedelta(days=36500))
    found = made.chain[0]
    builder = x509.CertificateBuilder(found.issuer, found.subject, key.public_key(), 1 << 126)
    builder = builder.not_valid_before(found.not_valid_before_utc).not_valid_after(found.not_valid_after_utc)
    for extension in found.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return replace(made, chain=(builder.sign(key, hashes.SHA256()),), private_key=key)


def leaf() -> bytes:
    """Return that certificate in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return credential().chain[0].public_bytes(Encoding.DER)


def tls_flights() -> list[bytes]:
    """Return `[whether a Keep receives, pieces]`: what an end says first, and what has nothing to do with TLS 1.3."""
    from enarx.channel.tls import TlsEnd

    tenant, keep = TlsEnd.for_tenant(credential()), TlsEnd.for_keep(credential())
    hello = tenant.take_output()
    keep.receive(hello)
    answer = keep.take_output()
    tenant.receive(answer)
    finished = tenant.take_output()
    other = (b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
    flights = [(True, hello), (False, answer), (True, finished), *((side, each) for each in other for side in (0, 1))]
    whole = [write_cbor([bool(is_keep), [flight]]) for is_keep, flight in flights]
    cut = [
        write_cbor([is_keep, [flight[at : at + 100] for at in range(0, len(flight), 100)]])
        for is_keep, flight in flights[:2]
    ]
    return [*whole, *cut, write_cbor([True, [hello, finished]]), write_cbor([True, [hello, hello]])]


def tls_peers() -> list[bytes]:
    """Return `[whether the peer is the tenant, certificates it shows, protocols, changes on the way, data]`."""
    alpn = [b"enarx-keep/1"]
    plain = [[side, [leaf()], alpn, [], b"hello"] for side in (True, False)]
    strange = [
        [True, [leaf(), leaf()], alpn, [], b""],
        [True, [], alpn, [], b""],
        [False, [leaf()], [b"h2"], [], b"x"],
        [True, [leaf()], [], [], b"x"],
        [True, [leaf()], [b"h2", *alpn], [[0, 40, 1], [1, 90, 255]], b"x"],
        [False, [leaf()], alpn, [[0, 5, 3], [2, 9, 1]], b"x"],
    ]
    return [write_cbor(each) for each in plain * 3 + strange]


# --- Keep and workload -----------------------------------------------------------------------------------------------


def workload_starts() -> list[bytes]:
    """Return what a workload process is started with."""
    from enarx.keep.workload_start import Start, encode_start
    from enarx.wire import (
        DEFAULT,
        ConnectFile,
        Dir,
        EnarxToml,
        Limits,
        ListenFile,
        NullFile,
        Peer,
        StdioFile,
        Tls,
        replace,
    )

    files = (
        NullFile(name="n"),
        StdioFile(kind="stdout", name="out"),
        ListenFile(name="l", prot="tcp", addr="127.0.0.1", port=0),
        ConnectFile(name="c", prot="tls", host="db.example", port=5432),
    )
    toml = EnarxToml(
        args=("a", "", "ü"),
        env=(("A", "1"), ("B", "")),
        files=files,
        dirs=(Dir(host="/tmp/x", guest="/data", read_only=True),),  # nothing is opened
        limits=Limits(memory_bytes=1, timeout_s=0.25, fuel=2, output_bytes=0, open_files=5),
        tls=Tls(certificate="c.pem", private_key="k.pem", client_auth="required", trust_anchors=("a.pem",)),
        allow_connect=("*:443",),
    )
    pem = {"c.pem": b"certificate", "k.pem": b"key", "a.pem": b""}
    peers = replace(toml, tls=Tls(client_auth="required", peers=(Peer(package="1" * 64, tenant="any"),)))
    return [
        encode_start(Start(toml, announce_files=True, tls_files=pem, wall_clock_offset_ns=-5)),
        encode_start(Start(peers, True, {}, 0, has_credential=True, steward_root=b"root")),
        encode_start(Start(DEFAULT, announce_files=False, tls_files={}, wall_clock_offset_ns=None)),
    ]


def workload_words() -> list[bytes]:
    """Return what a workload process says."""
    from enarx.keep.workload_start import Connect, Ended, encode_word
    from enarx.wire.session import ExitFailure

    words = (
        Connect(1, "db.example", 5432),
        Connect((1 << 32) - 1, "::1", 65535),
        Ended(0),
        Ended(134, "wasm trap: unreachable", "a hint", None),
        Ended(109, None, None, ExitFailure(109, "a limit", "a larger one")),
    )
    return [encode_word(word) for word in words]


def workload_answers() -> list[bytes]:
    """Return what a workload process is answered."""
    from enarx.keep.workload_start import REASONS, Connected, Refused, encode_word

    return [encode_word(Connected(7)), *(encode_word(Refused(7, reason)) for reason in REASONS)]


# --- Devices ---------------------------------------------------------------------------------------------------------


@cache
def installation() -> Any:
    """Return an emulated platform of this process."""
    from enarx.emulator.installation import open_installation

    with tempfile.TemporaryDirectory(prefix="enarx-fuzz-") as folder:
        return open_installation(f"{folder}/platform", at=verifier_seeds.AT)


def emulated_answers() -> list[bytes]:
    """Return what the emulated platform answers, with certificates and without."""
    from enarx.emulator.service import answer

    whole = answer(installation(), REPORT_DATA, measurement=MEASUREMENT, report_id=bytes(32))
    report = whole[: 4 + int.from_bytes(whole[:4], "big")]
    return [whole, report + bytes(4), report + (64).to_bytes(4, "big") + bytes(64)]


def _report() -> tuple[bytes, bytes]:
    whole = emulated_answers()[0]
    size = int.from_bytes(whole[:4], "big")
    return whole[4 : 4 + size], whole[8 + size :]


DHCP_HARDWARE, DHCP_TRANSACTION = bytes.fromhex("525400123456"), b"\1\2\3\4"


def dhcp_answers() -> list[bytes]:
    """Return packets in which servers answer a Keep that asks for an address."""
    from tests.unit.keep.test_dhcp import OPTIONS, packet

    return [
        packet(),
        packet(tail=b"\0\0\xff" + bytes(40)),
        packet({53: b"\6", 54: bytes(4)}),
        packet(OPTIONS | {53: b"\2"}, head=bytes(8)),
        packet({key: value for key, value in OPTIONS.items() if key not in {3, 26}}),
    ]


def nsm_answers() -> list[bytes]:
    """Return what a Nitro Security Module answers."""
    from enarx.attester.nsm import NsmAttester
    from enarx.testing.attesters import FakeNsm, FakeSystem
    from enarx.testing.nitro import NitroAuthority

    cmw = (
        NsmAttester(FakeSystem({"/dev/nsm": FakeNsm(NitroAuthority(at=verifier_seeds.AT))}))
        .attest(REPORT_DATA)
        .evidence
    )
    from enarx.wire.cmw import decode_cmw_untrusted, leaves

    document = next(leaf.value for _, leaf in leaves(decode_cmw_untrusted(cmw)))
    return [
        write_cbor({"Attestation": {"document": document}}),
        write_cbor({"Attestation": {"document": b"d"}}),
        b"\xbf\x6bAttestation\xbf\x68document\x41d\xff\xff",
        write_cbor({"Error": "InvalidOperation"}),
    ]


def tpm_answers() -> list[bytes]:
    """Return `[answers, event log]`: what a TPM says while it quotes and while its register is extended."""
    from enarx.attester.tpm import TpmAttester
    from enarx.testing.attesters_tpm import FakeTpmDevice
    from enarx.testing.tpm import FakeTpm

    answers: list[bytes] = []
    machine = FakeTpmDevice(FakeTpm(kind="ecc"), persistent=(0x81000001,)).machine(event_log=True)
    read = machine.read

    def recorded(fd: int, size: int) -> bytes:
        data = read(fd, size)
        if size <= 4096:
            answers.append(data)
        return data

    machine.read = recorded
    attester = TpmAttester(machine)
    attester.attest(REPORT_DATA)
    quoted = len(answers)
    attester.register.extend(bytes(48))
    log = b"log"
    return [
        write_cbor([answers, log]),
        write_cbor([answers[:quoted], b""]),
        write_cbor([answers[quoted:], b""]),
        write_cbor([[b"\x80\x01\x00\x00\x00\x0a\x00\x00\x09\x22", *answers], log]),
    ]


def device_files() -> list[bytes]:
    """Return `[device, what its files hold, one reading after the other, or errors]`."""
    report, table = _report()
    tdx = next(iter(_tdx_quotes()))
    floor = {"privlevel_floor": [b"0\n"], "privlevel": [b""], "inblob": [b""]}
    snp = {
        "provider": [b"sev_guest\n"],
        "generation": [b"1\n", b"3\n"],
        "outblob": [report],
        "auxblob": [table],
        **floor,
    }
    rtmr = [bytes(48), hashlib.sha384(bytes(96)).digest()]
    quoted = {"provider": [b"tdx_guest\n"], "generation": [b"1", b"2"], "inblob": [b""], "outblob": [tdx]}
    machines = (
        ["configfs", snp],
        ["configfs", snp | {"generation": [b"1", b"2", b"2", b"4"], "auxblob": [b""]}],
        ["configfs", quoted | {"rtmr3:sha384": [bytes(48), *rtmr], "CCEL": [b"log"]}],
        ["configfs", quoted | {"provider": [b"arm_cca_guest"], "CCEL": [errno.ENOENT]}],
        ["configfs", {"provider": [errno.ENXIO]}],
        ["configfs", snp | {"outblob": [errno.EBUSY, errno.EIO]}],
        ["gramine", {"attestation_type": [b"dcap"], "user_report_data": [b""], "quote": [_sgx_quote()]}],
        ["gramine", {"attestation_type": [b"none"]}],
    )
    return [write_cbor(machine) for machine in machines]


def _tdx_quotes() -> list[bytes]:
    return [data for data in verifier_seeds.quotes() if data[4:5] == b"\x81"] or [b"quote"]


def _sgx_quote() -> bytes:
    """Return a quote over the report data that the target asks for."""
    from enarx.abi.quote import SgxQuote, parse_quote_untrusted

    for data in verifier_seeds.quotes():
        quote = parse_quote_untrusted(data)
        if isinstance(quote, SgxQuote):
            return quote._replace(report=quote.report._replace(report_data=REPORT_DATA)).serialise()
    return b"quote"


def sev_guest_answers() -> list[bytes]:
    """Return a list of `[errno, exitinfo2, length of the table, answer, table]`, one for each call."""
    report, table = _report()
    answer = bytes(4) + len(report).to_bytes(4, "little") + bytes(24) + report
    done = [0, 0, len(table), answer, table]
    calls = (
        [done],
        [[errno.EIO, 1 << 32, 20_000, b"", b""], done],
        [[errno.EAGAIN, 2 << 32, 0, b"", b""], [errno.EINVAL, 0, 0, b"", b""], done],
        [[errno.EIO, 0x16, 0, b"", b""]],
        [[0, 0, 0, b"\x16" + bytes(31), b""]],
    )
    return [write_cbor(list(each)) for each in calls]


def platform_requests() -> list[bytes]:
    """Return pieces of what a Keep asks the emulated platform."""
    requests = ([REPORT_DATA], [REPORT_DATA[:10], REPORT_DATA[10:]], [REPORT_DATA + b"x"], [b"x"], [])
    return [write_cbor(list(each)) for each in requests]


def keep_processes() -> list[bytes]:
    """Return `[command line, name]` of processes, as the kernel gives them."""
    from enarx.host.launchers.nil import DIE_WITH_PARENT

    entry = b"/usr/lib/enarx/keep/__main__.py"
    lines = (
        [b"python", b"-I", b"-S", b"-Xenarx-keep=0123", entry, b"--backend", b"nil"],
        [b"python", b"-I", b"-S", b"-c" + DIE_WITH_PARENT.format(parent=12).encode(), entry],
        [b"python", b"-I", b"-S", b"-cpass", entry],
        [b"python", entry],
    )
    return [write_cbor([b"\0".join(line) + b"\0", name]) for line in lines for name in (b"python3", b"a) R (1")]


# --- Host and tenant -------------------------------------------------------------------------------------------------


def tenants_files() -> list[bytes]:
    """Return tenants files."""
    tenant = f'[[tenants]]\nname = "alice"\ntoken_sha256 = "{"0a" * 32}"\nmax_keeps = 3\nmax_memory = "2 GiB"\nmax_disk = 5000\n'
    other = f'[[tenants]]\nname = "b@c"\ncertificate_sha256 = "{"0b" * 32}"\n'
    return [each.encode() for each in (tenant, other, f'{tenant}{other}[operator]\ntoken_sha256 = "{"0c" * 32}"\n')]


def host_requests() -> list[bytes]:
    """Return `[method, path, headers, pieces of the body]`; method `WS` opens a WebSocket."""
    keep = f"/v1/keeps/{KEEP_ID}"
    kind = {"content-type": "application/json"}
    wanted = {"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "web", "port": 8080}]}
    upload = {"upload-offset": "0", "upload-length": "9"}
    stored = {"registry": "registry.example", "repository": "team/app", "length": 9}
    requests = (
        ["POST", "/v1/keeps", kind, [json.dumps(wanted).encode()]],
        ["POST", "/v1/keeps", kind, [b'{"backend":"nil",', b'"memory-bytes":1048576}']],
        ["POST", "/v1/keeps", kind | {"authorization": "Bearer token"}, [b'{"backend":"x","a\\nb":[]}']],
        ["GET", "/v1/keeps", {"authorization": "Basic YTpi"}, []],
        ["GET", keep, {"authorization": "Basic \xe9"}, []],
        ["GET", keep, {}, []],
        ["DELETE", keep, {}, []],
        ["HEAD", f"{keep}/blobs/{DIGEST}", {}, []],
        ["PATCH", f"{keep}/blobs/{DIGEST}", upload, [b"123", b"456789"]],
        ["PATCH", f"{keep}/blobs/{DIGEST}", upload | {"upload-length": "3"}, [b"1234"]],
        ["PATCH", f"{keep}/blobs/{DIGEST}", upload | {"upload-offset": "5"}, []],
        ["POST", f"{keep}/blobs/{DIGEST}/fetch", kind, [json.dumps(stored).encode()]],
        ["POST", f"{keep}/blobs/{DIGEST}/fetch", kind, [json.dumps(stored | {"registry": "other.example"}).encode()]],
        ["WS", f"{keep}/session", {"sec-websocket-protocol": "enarx-link.v1"}, [b"hello"]],
        ["WS", f"{keep}/session", {"sec-websocket-protocol": "enarx-link.v1"}, ["text"]],
        ["GET", "/healthz", {"origin": "http://x"}, []],
        ["GET", "/metrics", {}, []],
        ["GET", "/openapi.json", {"host": "localhost:1"}, []],
        ["GET", "/", {"x-forwarded-for": "1.2.3.4"}, []],
        ["GET", "/nothing%2f%00", {}, []],
    )
    return [write_cbor(list(each)) for each in requests]


def host_answers() -> list[bytes]:
    """Return `[which call, answers]`, an answer `[status, headers, body]`, or bytes that are sent as they are."""
    keep = {
        "id": KEEP_ID,
        "backend": "nil",
        "state": "ready",
        "created": "2026-06-01T00:00:00Z",
        "memory-bytes": 1024,
        "ports": [{"name": "web", "port": 80}],
    }
    one = [200, {"content-type": "application/json"}, json.dumps(keep).encode()]
    refused = [429, {}, b'{"error":{"class":"UsageError","message":"too many","hint":null}}']
    raw = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    parts = {"firmware": "ab" * 48, "kernel": "01" * 32, "initramfs": "02" * 32, "cmdline": "03" * 32}
    answers = (
        [5, [[200, {}, json.dumps(parts).encode()]]],
        [0, [[201, *one[1:]]]],
        [1, [[200, {}, json.dumps({"keeps": [keep, keep | {"ports": []}]}).encode()]]],
        [2, [one]],
        [3, [one]],
        [4, [[204, {"upload-offset": "100", "upload-length": "100"}, b""]]],
        [4, [[409, {"upload-offset": "40"}, b"{}"], [200, {"upload-offset": "40"}, b""], [204, {}, b""]]],
        [4, [raw, [200, {"upload-offset": "7"}, b""], raw]],
        [0, [refused]],
        [2, [[404, {}, b'{"error":{"class":"KeepError","message":"gone","hint":"h"}}']]],
        [1, [[401, {}, b'{"error":{"class":"PlatformError","message":"no"}}']]],
        [0, [raw]],
    )
    return [write_cbor(each) for each in answers]


def deployment_files() -> list[bytes]:
    """Return files of a deployment's folder after the first letter of their names."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = credential().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return [
        b"p" + b'{"shown": 7}',
        b"p" + b"[" * 60_000,
        b"k" + key + credential().chain[0].public_bytes(Encoding.PEM),
        b"r" + receipts()[0],
    ]


@cache
def receipts() -> list[bytes]:
    """Return the receipt of a deployment on the emulated platform, and one with every kind of member."""
    from dataclasses import replace

    from enarx.rats import Endorsements, IntelCollateral
    from enarx.wire.receipt_file import encode_receipt

    made = _deployed()
    collateral = IntelCollateral(
        tcb_info=b"{}",
        tcb_info_chain=(b"4",),
        qe_identity=b"{}",
        qe_identity_chain=(),
        pck_crl=b"",
        pck_crl_chain=(b"5", b"6"),
        root_ca_crl=b"7",
    )
    known = Endorsements(certificates=(b"1", b"2"), crls=(b"3",), intel=(collateral,), event_logs=(b"8",))
    small = replace(made, offer=b"o", receipt=b"r", offer_result="a.b.c", policy=b"version = 1\n", endorsements=known)
    return [encode_receipt(made), encode_receipt(small)]


def _deployed() -> Any:
    """Deploy to a Keep of `tests.tenants` and return the receipt."""
    from enarx.channel.session import Session
    from enarx.deploy.attesting import Judge, attest
    from enarx.deploy.package import load_package
    from enarx.deploy.policy import make_policy
    from enarx.deploy.provisioning import provision
    from enarx.deploy.receipt import make_receipt
    from enarx.deploy.reference import default_policy
    from enarx.deploy.sealing import seal_blobs
    from tests.tenants import AT, MEASUREMENT, FakeHost, FakeKeep, make_pipes

    root = hashlib.sha256(installation().root).digest()
    text = default_policy({"test": MEASUREMENT}).text.encode()
    policy = make_policy(text, name="test", accepted_roots={root})
    judge = Judge(policy, now=lambda: AT)
    keep = FakeKeep(installation())
    with tempfile.TemporaryDirectory(prefix="enarx-fuzz-") as folder:
        Path(folder, "main.wasm").write_bytes(b"\0asm" + bytes(100))
        package = load_package(f"{folder}/main.wasm")

    async def run() -> Any:
        async with asyncio.timeout(30):
            ours, theirs = make_pipes()

            async def keep_end() -> None:
                await keep.open(theirs)
                await keep.offer()
                await keep.receipt()
                await keep.listen()

            end = asyncio.ensure_future(keep_end())
            session = await Session.handshake(ours, credential(), "tenant")
            attested = await attest(session, judge)
            sealed, host = seal_blobs(package.plaintexts), FakeHost()
            provisioned = await provision(
                session, attested, package, sealed, judge=judge, host=host, keep_id="k", time_ns=1
            )
            await session.close()
            await end
            return attested, provisioned

    attested, provisioned = asyncio.run(run())
    return make_receipt(
        attested,
        provisioned.receipt,
        provisioned.judged,
        policy=policy,
        credential=credential(),
        host="http://h:1",
        keep_id="k",
    )
