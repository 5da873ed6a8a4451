# SPDX-License-Identifier: Apache-2.0
"""Asking a Drawbridge: answers that say no, come slowly, never, elsewhere, or are too large; TLS; and tokens, which nobody hears."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.errors import DecodeError, TransportError, UsageError
from enarx.registry.drawbridge_http import Answer, Asker, require_token
from enarx.steward.certificates import key_usage
from enarx.wire.drawbridge import DIRECTORY, parse_drawbridge_ref
from tests.fake_drawbridge import Body, FakeDrawbridge, body_of
from tests.fake_steward import FakeAuthority

TOKEN = "a-token.that-nobody_hears"
PATH = "/_tag/1.0.0/tree"


@pytest.fixture
def fake():
    with FakeDrawbridge() as running:
        yield running


def ask(fake, *, max_bytes=10_000, written=None, **how):
    asker = Asker(parse_drawbridge_ref(fake.slug), **{"plain_http": True, "stall_s": 5, "document_s": 10} | how)
    return asker.get(PATH, max_bytes=max_bytes, write=(written if written is not None else bytearray()).extend)


def refused(fake, said, *, error=TransportError, **how):
    with pytest.raises(error) as caught:
        ask(fake, **how)
    assert said in str(caught.value), caught.value
    assert TOKEN not in f"{caught.value} {caught.value.hint}"
    return caught.value


def test_a_body_comes_with_what_was_said_of_it(fake):
    written = bytearray()
    body = fake.bodies[PATH]
    answer = ask(fake, written=written)
    assert answer == Answer(DIRECTORY, body.headers["Content-Digest"], len(body.data))
    assert written == body.data
    (headers,) = fake.headers
    assert "authorization" not in headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "enarx"
    assert fake.asked == ["/api/v0.1.0/examples/fib" + PATH]


# --- Answers that say no


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (401, "Bearer token header missing", "--token-file"),
        (404, "Repository does not exist", "is the name right"),
        (405, "Method not allowed", None),
        (500, "Storage backend failure", None),
        (501, "Unsupported API version `0.1.0`", "another version of the API"),
    ],
)
def test_a_refusal_is_shown(fake, status, said, hint):
    fake.bodies[PATH] = Body(status=status, data=said.encode())
    error = refused(fake, f"found status {status}: {said}, want 200")
    assert (hint or "") in (error.hint or "")


def test_what_is_shown_is_short_and_one_line(fake):
    fake.bodies[PATH] = Body(status=500, data=b"a\n\x1b[2J\xff" + b"x" * 100_000)
    error = refused(fake, "found status 500: a")
    assert str(error).isprintable()
    assert len(str(error)) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(fake, status):
    with FakeDrawbridge() as other:
        fake.bodies[PATH] = Body(
            status=status, headers={"Location": f"http://{other.authority}/", "Content-Length": "0"}
        )
        refused(fake, f"found a redirect ({status})", token=TOKEN)
        assert other.asked == []
    assert len(fake.asked) == 1


def test_an_answer_that_is_not_http_is_refused(fake):
    fake.bodies[PATH] = Body(serve=lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"))
    refused(fake, "found no whole answer")


def test_nobody_there_is_said():
    with FakeDrawbridge() as gone:
        pass
    refused(gone, "found no whole answer (ConnectError)")


# --- Too large, cut off, compressed


def test_a_body_over_its_limit_is_cut_off(fake):
    written = bytearray()
    fake.bodies[PATH] = body_of(b"x" * 10_001, DIRECTORY)
    refused(fake, "found 10001 bytes, want at most 10000", written=written)
    assert written == b""

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while not fake.over.is_set():
            handler.wfile.write(b"x" * 4096)

    fake.bodies[PATH] = Body(serve=endless)
    refused(fake, "found more than 10000 bytes", written=written)
    assert len(written) <= 10_000
    fake.bodies[PATH] = body_of(b"x" * 10_000, DIRECTORY)
    assert ask(fake).length == 10_000


def test_a_body_that_is_cut_off_is_none(fake):
    fake.bodies[PATH] = fake.bodies[PATH].having(content_length="9000")
    refused(fake, "found no whole answer")


def test_a_compressed_answer_is_refused(fake):
    fake.bodies[PATH] = fake.bodies[PATH].having(content_encoding="gzip")
    refused(fake, "found a compressed answer", error=DecodeError)


# --- Time


def test_an_answer_that_never_comes_has_an_end(fake):
    fake.bodies[PATH] = Body(serve=lambda _handler: fake.over.wait(20))
    refused(fake, "found no whole answer", stall_s=0.2)
    refused(fake, "found no whole answer in", stall_s=20, document_s=0.2, max_bytes=1)


def test_all_answers_together_have_an_end(fake):
    asker = Asker(parse_drawbridge_ref(fake.slug), plain_http=True, total_s=30)
    asker.get(PATH, max_bytes=10_000, write=lambda _: None)
    asker._began_s -= 30
    with pytest.raises(TransportError, match="found more to ask for after 30 s"):
        asker.get(PATH, max_bytes=10_000, write=lambda _: None)


def test_an_answer_that_drips_has_an_end(fake):
    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        while not fake.over.wait(0.02):
            handler.wfile.write(b"x")

    fake.bodies[PATH] = Body(serve=drip)
    written = bytearray()
    refused(fake, "found no whole answer in", document_s=0.3, max_bytes=10_000, written=written)
    # Nobody writes any more.
    size = len(written)
    assert not fake.over.wait(0.1)
    assert len(written) == size


def test_headers_that_drip_have_an_end(fake):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not fake.over.wait(0.02):
            handler.wfile.write(b"x")

    fake.bodies[PATH] = Body(serve=drip)
    refused(fake, "found no whole answer in", document_s=0.3)


def test_what_whoever_writes_raises_ends_it(fake):
    class FullError(Exception):
        pass

    def write(_piece):
        raise FullError

    asker = Asker(parse_drawbridge_ref(fake.slug), plain_http=True)
    with pytest.raises(FullError):
        asker.get(PATH, max_bytes=10_000, write=write)


# --- TLS


class StrictAuthority(FakeAuthority):
    """With what Python wants of certificates from 3.13 on (RFC 5280 sections 4.2.1.1 to 4.2.1.3)."""

    def _builder(self, subject, public_key, first, last):
        builder = super()._builder(subject, public_key, first, last)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        usage = key_usage(is_authority=subject == self.name)
        return builder.add_extension(issuer, critical=False).add_extension(usage, critical=True)


@pytest.fixture
def tls(tmp_path):
    authority = StrictAuthority(datetime.now(UTC), "authority")  # noqa: DTZ005, TID251, RUF100 - OpenSSL asks the clock
    credential = authority.credential(datetime.now(UTC))  # noqa: DTZ005, TID251, RUF100 - the same
    path, root = tmp_path / "server.pem", tmp_path / "root.pem"
    key = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + credential.chain[0].public_bytes(Encoding.PEM))
    root.write_bytes(authority.root.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with FakeDrawbridge(context=context) as running:
        yield running, root


def test_a_registry_is_who_its_certificate_says(tls):
    fake, root = tls
    assert ask(fake, plain_http=False, ca_file=str(root)).media_type == DIRECTORY
    error = refused(fake, "found no whole answer (ConnectError)", plain_http=False, token=TOKEN)
    assert "--ca-bundle" in error.hint
    # Whoever did not prove who he is was asked for nothing and heard no token.
    assert len(fake.asked) == 1


def test_without_tls_only_this_machine_is_asked(tmp_path):
    for slug in ("store.example/u/r:1.0.0", "10.0.0.1/u/r:1.0.0", "localhost.example/u/r:1.0.0", "[::2]/u/r:1.0.0"):
        with pytest.raises(UsageError, match="want TLS"):
            Asker(parse_drawbridge_ref(slug), plain_http=True)
    for slug in ("localhost/u/r:1.0.0", "LOCALHOST:80/u/r:1.0.0", "127.0.0.9/u/r:1.0.0", "[::1]:80/u/r:1.0.0"):
        Asker(parse_drawbridge_ref(slug), plain_http=True)
    with pytest.raises(UsageError, match="cannot use the authorities"):
        Asker(parse_drawbridge_ref("store.example/u/r:1.0.0"), ca_file=str(tmp_path / "none.pem"))


# --- Tokens


def test_a_token_is_sent_and_never_shown(fake, caplog):
    caplog.set_level(0)
    ask(fake, token=TOKEN)
    assert fake.headers[0]["authorization"] == f"Bearer {TOKEN}"
    fake.bodies[PATH] = Body(status=401, data=f"Invalid token provided: {TOKEN}".encode())
    refused(fake, "Invalid token provided: [token]", token=TOKEN)
    assert TOKEN not in caplog.text
    fake.bodies[PATH] = body_of(b"", TOKEN).having(content_digest=TOKEN)
    assert ask(fake, token=TOKEN) == Answer("[token]", "[token]", 0)


def test_proxies_and_logins_of_the_environment_are_not_used(fake, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert ask(fake).media_type == DIRECTORY


@pytest.mark.parametrize("text", ["", " \n", "two words", "a\nb", "é", "x" * 20_000, "a\r\nX-Evil: 1"])
def test_what_is_no_token_is_refused(text):
    with pytest.raises(UsageError) as caught:
        require_token(text)
    assert not text.strip() or text.strip() not in str(caught.value)


def test_white_space_around_a_token_does_not_count():
    assert require_token(f" {TOKEN}\n") == TOKEN
