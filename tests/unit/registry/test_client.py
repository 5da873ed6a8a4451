# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import time

import pytest

from enarx.errors import ConfigError, DecodeError, TransportError, UsageError, VerificationError
from enarx.registry import bounded_session, login
from enarx.registry import client as under_test
from enarx.registry.bounded_session import BoundedSession, is_loopback
from enarx.registry.client import Limits, RegistryClient, referrers_tag
from enarx.registry.content import read_blob
from enarx.wire.oci import (
    EMPTY,
    INDEX,
    MANIFEST,
    WASM,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    encode_index,
    encode_manifest,
)
from tests.fake_registry import PASSWORD, TOKEN, USER, FakeRegistry, RawServer

LIMITS = Limits(connect_s=5.0, stall_s=5.0, pauses_s=(0.0, 0.0), resumes=4)
SHORT = Limits(connect_s=0.3, stall_s=0.3, pauses_s=(0.0, 0.0), resumes=2)
BIG = os.urandom(3_000_001)


def descriptor(data: bytes, media_type: str = WASM) -> Descriptor:
    return Descriptor(media_type, digest_of(data), len(data))


def client_of(registry, *, limits: Limits = LIMITS, **options) -> RegistryClient:
    return RegistryClient(registry.address, "app", limits=limits, wait=lambda _: None, **options)


def put_package(client, module: bytes = b"\0asm", **changes) -> Descriptor:
    config, layer = descriptor(b"{}", EMPTY), descriptor(module)
    for each, data in ((config, b"{}"), (layer, module)):
        client.put_blob(each, [data])
    return client.put_manifest(encode_manifest(Manifest(config, (layer,), **changes)), MANIFEST, tag="1.0")


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


# --- As it should be


def test_what_is_put_is_there_and_comes_back(monkeypatch):
    monkeypatch.setattr(under_test, "PART_BYTES", 1_250_000)
    told = []
    with (
        FakeRegistry() as registry,
        RegistryClient(registry.address, "app", limits=LIMITS, progress=lambda *each: told.append(each)) as client,
    ):
        for data in (b"", b"small", BIG):
            wanted = descriptor(data)
            assert not client.has_blob(wanted)
            client.put_blob(wanted, [data[:7], b"", data[7:]])
            assert client.has_blob(wanted)
            assert b"".join(client.open_blob(wanted)) == data
        assert [len(each.body) for each in registry.asked("PATCH")] == [1_250_000, 1_250_000, 500_001]
        stored = put_package(client)
        by_tag, by_digest = client.resolve("1.0"), client.resolve(stored.digest)
        assert by_tag == by_digest
        assert by_tag.descriptor == stored
    assert ("publishing", len(BIG), len(BIG)) in told
    assert ("fetching", len(BIG), len(BIG)) in told
    assert {total for _, _, total in told} == {len(BIG)}


def test_what_is_not_there_is_said_so():
    with FakeRegistry() as registry, client_of(registry) as client:
        with pytest.raises(UsageError, match="found no package of this name"):
            client.resolve("2.0")
        with pytest.raises(UsageError, match="found no such blob"):
            list(client.open_blob(descriptor(b"absent")))


def test_other_bytes_than_announced_are_not_stored():
    with FakeRegistry() as registry, client_of(registry) as client:
        with pytest.raises(VerificationError, match="the registry got other bytes"):
            client.put_blob(descriptor(b"12345"), [b"54321"])
        with pytest.raises(VerificationError, match="found 3 bytes, want 5"):
            client.put_blob(descriptor(b"12345"), [b"123"])
        with pytest.raises(VerificationError, match="found more bytes, want 5"):
            client.put_blob(descriptor(b"12345"), [b"12345", b"6"])
        assert registry.blobs == {}


# --- Referrers


@pytest.mark.parametrize("api", [True, False])
def test_what_refers_to_a_package_is_found_by_the_api_or_by_the_tag(api):
    with FakeRegistry(api=api) as registry, client_of(registry) as client:
        subject = put_package(client)
        assert client.referrers(subject.digest) == ()
        one = put_package(client, b"one", artifact_type="application/x.one", subject=subject)
        other = put_package(client, b"other", subject=subject)
        found = client.referrers(subject.digest)
        assert {each.digest for each in found} == {one.digest, other.digest}
        assert [each.digest for each in client.referrers(subject.digest, "application/x.one")] == [one.digest]
        # What says no type of artifact is of the type of its configuration.
        assert [each.digest for each in client.referrers(subject.digest, EMPTY)] == [other.digest]
        assert (referrers_tag(subject.digest) in registry.manifests) is not api
        client.put_manifest(registry.manifests[one.digest][1], MANIFEST, tag=None)
        assert len(client.referrers(subject.digest)) == 2


def test_a_list_that_others_write_too_is_written_again_until_it_holds():
    with FakeRegistry(api=False) as registry, client_of(registry) as client:
        subject = put_package(client)
        tag, lost = referrers_tag(subject.digest), []

        def behave(handler):
            if handler.command == "PUT" and tag in handler.path and not lost:
                lost.append(True)
                handler.answer(201)
                return True
            return False

        registry.behave = behave
        one = put_package(client, b"one", subject=subject)
        assert [each.digest for each in client.referrers(subject.digest)] == [one.digest]

        def forget(handler):
            if handler.command == "PUT" and tag in handler.path:
                handler.answer(201)
                return True
            return False

        registry.behave = forget
        with pytest.raises(TransportError, match="found that others change the list all the time"):
            put_package(client, b"two", subject=subject)


def test_a_list_of_several_pages_is_read_to_its_end_and_no_further():
    subject = "sha256:" + "0" * 64
    with FakeRegistry() as registry, client_of(registry) as client:

        def behave(handler):
            if "/referrers/" not in handler.path:
                return False
            page = int(handler.path.partition("page=")[2] or 0)
            listed = Index((Descriptor(MANIFEST, digest_of(b"%d" % page), 9, {}, "a/b"),))
            following = {"Link": f'</v2/app/referrers/{subject}?page={page + 1}>; rel="next"'} if page < last else {}
            handler.answer(200, encode_index(listed), Content_Type=INDEX, **following)
            return True

        registry.behave = behave
        last = 2
        assert [each.digest for each in client.referrers(subject)] == [digest_of(b"%d" % page) for page in range(3)]
        last = 10_000
        with pytest.raises(DecodeError, match="more than 20 pages"):
            client.referrers(subject)


@pytest.mark.parametrize("place", ["http://127.0.0.2:1/x", "http://[", "//[::1", "mailto:x", "http://x:99999999/"])
def test_a_list_does_not_go_on_elsewhere(place):
    with FakeRegistry() as registry, client_of(registry) as client:

        def behave(handler):
            if "/referrers/" not in handler.path:
                return False
            handler.answer(200, encode_index(Index(())), Content_Type=INDEX, Link=f'<{place}>; rel="next"')
            return True

        registry.behave = behave
        with pytest.raises(TransportError, match="goes on at another server"):
            client.referrers("sha256:" + "0" * 64)


# --- Login


@pytest.mark.parametrize("login", ["basic", "bearer"])
@pytest.mark.parametrize("kept", ["auth", "helper", "store"])
def test_a_login_is_taken_from_dockers_configuration(login, kept, monkeypatch, tmp_path, capfd):
    with FakeRegistry(login=login) as registry:
        import base64

        folder = tmp_path / "docker"
        folder.mkdir()
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        configuration = {
            "auth": {"auths": {registry.address: {"auth": secret}}},
            "helper": {"credHelpers": {registry.address: "test"}},
            "store": {"auths": {registry.address: {}}, "credsStore": "test"},
        }[kept]
        (folder / "config.json").write_text(json.dumps(configuration))
        helper = tmp_path / "docker-credential-test"
        answer = json.dumps({"Username": USER, "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\nread host\n[ \"$host\" = {registry.address} ] && echo '{answer}'\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with client_of(registry) as client:
            stored = put_package(client, BIG)
            assert client.resolve("1.0").descriptor == stored
            assert b"".join(client.open_blob(descriptor(BIG))) == BIG
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("login", ["basic", "bearer"])
def test_who_is_not_let_in_is_told_to_log_in(login, capfd):
    with FakeRegistry(login=login) as registry, client_of(registry) as client:
        with pytest.raises(UsageError, match="found that it wants a login") as refused:
            client.resolve("1.0")
        assert "docker login" in refused.value.hint
    assert capfd.readouterr() == ("", "")


def _log_in(tmp_path, registry, secret=f"{USER}:{PASSWORD}"):
    import base64

    (tmp_path / "docker").mkdir(exist_ok=True)
    auth = base64.b64encode(secret.encode()).decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))


@pytest.mark.parametrize("login", ["basic", "bearer"])
def test_a_wrong_password_is_not_tried_for_ever(login, tmp_path):
    with FakeRegistry(login=login) as registry, client_of(registry) as client:
        _log_in(tmp_path, registry, "tenant:wrong")
        with pytest.raises(UsageError, match="wants a login"):
            client.resolve("1.0")
        assert len(registry.requests) < 8


def test_a_part_is_sent_again_when_the_login_ran_out(tmp_path):
    with FakeRegistry(login="bearer") as registry, client_of(registry) as client:
        _log_in(tmp_path, registry)
        ran_out = []

        def behave(handler):
            if handler.command == "PATCH" and not ran_out:
                ran_out.append(True)
                handler.answer(
                    401, b"", WWW_Authenticate=f'Bearer realm="{registry.url}/token",service="test",scope="more"'
                )
                return True
            return False

        registry.behave = behave
        client.put_blob(descriptor(BIG), [BIG])
        assert registry.blobs == {digest_of(BIG): BIG}


@pytest.mark.parametrize("text", ["", "[]", '{"auths": []}', '{"auths": {"a": 1}}', "\xff", "[" * 100_000])
def test_a_configuration_that_is_none_is_refused_without_a_word_of_it(text, tmp_path):
    with FakeRegistry(login="basic") as registry, client_of(registry) as client:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError, match="found something else, want Docker's configuration"):
            client.resolve("1.0")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nb"}', b'{"token": ""}', b"\xff", b'"x"', b"[" * 100_000],
)
def test_a_token_that_is_none_is_refused(body, tmp_path, capfd):
    with FakeRegistry(login="bearer") as registry, client_of(registry) as client:
        _log_in(tmp_path, registry)

        def behave(handler):
            if not handler.path.startswith("/token"):
                return False
            handler.answer(200, body)
            return True

        registry.behave = behave
        with pytest.raises((DecodeError, UsageError), match=r"found a token|has no token|wants a login"):
            client.resolve("1.0")
    assert capfd.readouterr() == ("", "")


def test_no_password_goes_where_a_redirect_leads(tmp_path):
    with FakeRegistry(login="bearer") as registry, FakeRegistry() as elsewhere, client_of(registry) as client:
        _log_in(tmp_path, registry)
        put_package(client, BIG)
        elsewhere.put(BIG)
        registry.behave = lambda handler: (
            handler.command == "GET"
            and "/blobs/" in handler.path
            and (handler.answer(307, Location=f"{elsewhere.url}{handler.path}"), True)[1]
        )
        assert b"".join(client.open_blob(descriptor(BIG))) == BIG
        (asked,) = elsewhere.requests
        assert "authorization" not in asked.headers
        assert TOKEN not in str(asked)


def test_no_password_goes_where_an_address_leads_that_is_read_in_two_ways(tmp_path):
    with FakeRegistry(login="basic") as registry, FakeRegistry() as elsewhere, client_of(registry) as client:
        _log_in(tmp_path, registry)
        put_package(client)
        # One reader takes what is before the backslash for the host, another one what is behind it.
        location = f"{elsewhere.url}\\@{registry.address}/v2/app/manifests/1.0"
        registry.behave = lambda handler: (
            "authorization" in str(handler.headers).lower() and (handler.answer(307, Location=location), True)[1]
        )
        with pytest.raises(TransportError, match="leads to"):
            client.resolve("1.0")
        assert elsewhere.requests == []


def test_a_storage_service_that_asks_for_a_login_gets_none(tmp_path):
    with (
        FakeRegistry(login="basic") as registry,
        FakeRegistry(login="basic") as elsewhere,
        client_of(registry) as client,
    ):
        _log_in(tmp_path, registry)
        put_package(client, BIG)
        registry.behave = lambda handler: (
            "/blobs/" in handler.path and (handler.answer(302, Location=f"{elsewhere.url}{handler.path}"), True)[1]
        )
        with pytest.raises(UsageError, match="wants a login"):
            list(client.open_blob(descriptor(BIG)))
        assert not any("authorization" in each.headers for each in elsewhere.requests)


def test_an_upload_that_goes_on_elsewhere_takes_no_password_along(tmp_path):
    with FakeRegistry(login="basic") as registry, FakeRegistry() as elsewhere, client_of(registry) as client:
        _log_in(tmp_path, registry)
        elsewhere.uploads["u"] = b""
        registry.behave = lambda handler: (
            handler.command == "POST"
            and (handler.answer(202, Location=f"{elsewhere.url}/v2/app/upload/u?state=a%2Fb"), True)[1]
        )
        client.put_blob(descriptor(b"data"), [b"data"])
        assert elsewhere.blobs == {digest_of(b"data"): b"data"}
        assert not any("authorization" in each.headers for each in elsewhere.requests)


def test_a_public_registry_does_not_lead_into_our_network(monkeypatch):
    """Whether an address is public is pretended here: what is on loopback stands for both."""
    with FakeRegistry() as registry, FakeRegistry() as inner:
        client = client_of(registry)
        put_package(client)
        registry.behave = lambda handler: (
            handler.command == "GET"
            and "/blobs/" in handler.path
            and (handler.answer(307, Location=f"{inner.url}{handler.path}") or True)
        )
        client._session._provider.session.close()
        client._session._provider.session._is_public = None
        answers = [True]
        monkeypatch.setattr(bounded_session, "is_public", lambda _: bool(answers and answers.pop()))
        with pytest.raises(TransportError, match=r"leads to '127\.0\.0\.1' at 127\.0\.0\.1, want a public address"):
            list(client.open_blob(descriptor(b"\0asm")))
        assert not inner.requests
        # A registry of our own network may.
        client._session._provider.session.close()
        client._session._provider.session._is_public = None
        inner.blobs.update(registry.blobs)
        assert b"".join(client.open_blob(descriptor(b"\0asm"))) == b"\0asm"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
    ],
)
def test_what_everybody_can_reach_is_public(address, expected):
    assert bounded_session.is_public(address) is expected


@pytest.mark.parametrize(
    "location",
    ["http://registry.example/x", "ftp://127.0.0.1/x", "http://10.0.0.1/x", "//registry.example/x", "http://[", ""],
)
def test_a_redirect_does_not_lead_out_of_tls_or_to_nowhere(location):
    with FakeRegistry() as registry, client_of(registry) as client:
        put_package(client)
        registry.behave = lambda handler: (handler.answer(302, Location=location), True)[1]
        with pytest.raises(TransportError, match=r"leads to|redirects|cannot ask"):
            client.resolve("1.0")


def test_a_token_service_without_tls_is_not_asked(tmp_path):
    with FakeRegistry(login="bearer", realm="http://registry.example/token") as registry, client_of(registry) as client:
        _log_in(tmp_path, registry)
        with pytest.raises(TransportError, match=r"leads to 'http' and 'registry\.example', want https"):
            client.resolve("1.0")


def test_only_this_machine_is_asked_without_tls():
    for name in ("localhost", "localhost:5000", "127.0.0.1", "127.8.9.1:80", "[::1]:5000", "[::1]"):
        assert is_loopback(name), name
    for name in (
        "registry.example",
        "localhost.example:5000",
        "128.0.0.1",
        "10.0.0.1:5000",
        "[2001:db8::1]:5000",
        "127.1.example",
    ):
        assert not is_loopback(name), name


# --- As it should not be


@pytest.mark.parametrize("resumable", [True, False])
def test_a_download_that_breaks_goes_on_where_it_broke(resumable):
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.put(BIG)
        cuts = iter([1_000_000, 500_000, 2_200_000 if not resumable else 10])

        def behave(handler):
            cut = next(cuts, None) if "/blobs/" in handler.path else None
            if cut is None or handler.command != "GET":
                return False
            start = int((handler.headers.get("Range") or "bytes=0-")[6:-1]) if resumable else 0
            handler.send_response(206 if start else 200)
            handler.send_header("Content-Range", f"bytes {start}-{len(BIG) - 1}/{len(BIG)}")
            handler.send_header("Content-Length", str(len(BIG) - start))
            handler.end_headers()
            handler.wfile.write(BIG[start : start + cut])
            handler.close_connection = True
            return True

        registry.behave = behave
        assert b"".join(client.open_blob(descriptor(BIG))) == BIG
        asked = [each.headers.get("range") for each in registry.asked("GET", "/blobs/")]
        assert asked[0] is None
        assert asked[1] == "bytes=1000000-"
        assert len(asked) == 4


def test_a_download_that_always_breaks_ends():
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.put(BIG)

        def behave(handler):
            if "/blobs/" not in handler.path:
                return False
            handler.answer(200, BIG[:1000], Content_Length=str(len(BIG)))
            handler.close_connection = True
            return True

        registry.behave = behave
        with pytest.raises(TransportError, match=r"1000 of 3000001 bytes: found .*, want an answer"):
            list(client.open_blob(descriptor(BIG)))
        assert len(registry.asked("GET", "/blobs/")) == 1 + LIMITS.resumes


def _blob_lies():
    other = bytes(BIG)[::-1]
    yield "other bytes", lambda h: h.answer(200, other), VerificationError, "found bytes with the digest"
    yield "announced longer", lambda h: h.answer(200, BIG + b"1"), VerificationError, "found '3000002' bytes announced"
    yield "announced shorter", lambda h: h.answer(200, BIG[:-1]), VerificationError, "found '3000000' bytes announced"
    yield "no length, longer", lambda h: _chunked(h, [BIG, b"x" * 100]), VerificationError, "found more than 3000001"
    yield "no length, shorter", lambda h: _chunked(h, [BIG[:100]]), TransportError, "100 of 3000001 bytes"
    yield "compressed", lambda h: h.answer(200, BIG, Content_Encoding="gzip"), TransportError, "the encoding 'gzip'"
    yield "an error", lambda h: h.refuse(500, "UNKNOWN"), TransportError, "found the answer 500 UNKNOWN"
    yield "garbage", lambda h: h.wfile.write(b"\0" * 1000) and _end(h), TransportError, "want an answer"
    yield "a partial answer", lambda h: h.answer(206, BIG), TransportError, "found the answer 206"


def _chunked(handler, pieces):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def _end(handler):
    handler.close_connection = True


@pytest.mark.parametrize(("answer", "error", "message"), [pytest.param(*each, id=name) for name, *each in _blob_lies()])
def test_a_registry_that_lies_about_a_blob_is_refused(answer, error, message):
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.behave = lambda handler: "/blobs/" in handler.path and (answer(handler), True)[1]
        given = []
        with pytest.raises(error, match=message):
            given.extend(client.open_blob(descriptor(BIG)))
        assert sum(map(len, given)) < len(BIG)


def test_a_blob_without_an_end_is_read_no_further_than_it_should_be():
    sent = []

    def behave(handler):
        if "/blobs/" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(2000):
            handler.wfile.write(bytes(1 << 16))
            sent.append(1 << 16)
        return True

    with FakeRegistry() as registry, client_of(registry) as client:
        registry.behave = behave
        with pytest.raises(VerificationError, match="found more than 3000001 bytes"):
            list(client.open_blob(descriptor(BIG)))
    assert sum(sent) < 50_000_000


def _manifest_lies():
    good = encode_manifest(Manifest(descriptor(b"{}"), ()))
    yield (
        "other bytes",
        digest_of(good),
        lambda h: h.answer(200, good + b" ", Content_Type=MANIFEST),
        VerificationError,
        ("found a manifest with the digest"),
    )
    yield (
        "announced as another",
        "1.0",
        lambda h: h.answer(200, good, Content_Type=MANIFEST, Docker_Content_Digest="sha256:" + "0" * 64),
        VerificationError,
        "want what was announced",
    )
    yield (
        "too large",
        "1.0",
        lambda h: h.answer(200, bytes(5 << 20), Content_Type=MANIFEST),
        DecodeError,
        ("found more than 4194304 bytes"),
    )
    yield "no manifest", "1.0", lambda h: h.answer(200, good, Content_Type="text/html"), DecodeError, "'text/html'"
    yield "an error page", "1.0", lambda h: h.answer(418, b"<html>secret"), TransportError, "found the answer 418 from"
    yield (
        "an odd error",
        "1.0",
        lambda h: h.answer(400, b'{"errors": [{"code": "<b>"}]}'),
        TransportError,
        "answer 400 from",
    )
    yield (
        "too short",
        "1.0",
        lambda h: (h.answer(200, b"{", Content_Length="99"), _end(h)),
        TransportError,
        "want an answer",
    )


@pytest.mark.parametrize(
    ("reference", "answer", "error", "message"), [pytest.param(*each, id=name) for name, *each in _manifest_lies()]
)
def test_a_registry_that_lies_about_a_manifest_is_refused(reference, answer, error, message):
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.behave = lambda handler: "/manifests/" in handler.path and (answer(handler), True)[1]
        with pytest.raises(error, match=message) as refused:
            client.resolve(reference)
        assert "secret" not in str(refused.value)


def test_a_manifest_that_was_stored_as_another_is_refused():
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.behave = lambda handler: (
            handler.command == "PUT"
            and "/manifests/" in handler.path
            and (handler.answer(201, Docker_Content_Digest="sha256:" + "0" * 64), True)[1]
        )
        with pytest.raises(VerificationError, match="found it stored as 'sha256:0000"):
            put_package(client)


def test_what_may_pass_is_tried_again_a_few_times():
    with FakeRegistry() as registry, client_of(registry) as client:
        stored = put_package(client)
        failures = iter([503, 429])

        def behave(handler):
            status = next(failures, None) if handler.command == "GET" else None
            return status is not None and (handler.answer(status), True)[1]

        registry.behave = behave
        assert client.resolve("1.0").descriptor == stored
        registry.behave = lambda handler: (handler.answer(503), True)[1]
        before = len(registry.requests)
        with pytest.raises(TransportError, match="found the answer 503"):
            client.resolve("1.0")
        assert len(registry.requests) - before == 1 + len(LIMITS.pauses_s)


def test_nobody_there_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match=r"cannot ask 127\.0\.0\.1:\d+: found Connection refused"):
        RegistryClient(f"127.0.0.1:{port}", "app", limits=SHORT, wait=lambda _: None).resolve("1.0")


def _drip(piece: bytes):
    def say(peer):
        for _ in itertools.count():
            peer.sendall(piece)
            time.sleep(0.02)

    return say


def _flood(piece: bytes):
    def say(peer):
        while True:
            peer.sendall(piece)

    return say


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(lambda _: None, id="silence"),
        pytest.param(_drip(b"HTTP/1.1 100 Continue\r\n\r\n"), id="dripping interim answers"),
        pytest.param(_drip(b"X"), id="dripping head"),
        pytest.param(_flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), id="endless interim answers"),
        pytest.param(_flood(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000), id="endless headers"),
        pytest.param(lambda peer: (peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), None), id="no body"),
        pytest.param(
            lambda peer: (
                peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                _drip(b"1\r\nx\r\n")(peer),
            ),
            id="dripping body",
        ),
        pytest.param(
            lambda peer: (
                peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
                _flood(b"Trailer: x\r\n" * 1000)(peer),
            ),
            id="endless trailers",
        ),
    ],
)
def test_who_is_slow_silent_or_endless_is_left(say):
    began = time.monotonic()
    with RawServer(say) as server, pytest.raises(TransportError, match="cannot"):
        client_of(server, limits=SHORT).resolve("1.0")
    assert time.monotonic() - began < 10


def test_nothing_is_logged_or_printed(tmp_path, caplog, capfd):
    caplog.set_level(0)
    with FakeRegistry(login="bearer") as registry, client_of(registry) as client:
        _log_in(tmp_path, registry)
        put_package(client)
        client.resolve("1.0")
    assert capfd.readouterr() == ("", "")
    for secret in (PASSWORD, TOKEN):
        assert secret not in caplog.text


def test_a_repository_that_looks_like_a_host_is_asked_where_it_is():
    with FakeRegistry() as registry:
        with (
            RegistryClient(registry.address, "other.example/app", limits=LIMITS) as client,
            pytest.raises(UsageError, match="found no package"),
        ):
            client.resolve("1.0")
        assert registry.asked("GET", "/manifests/")[0].path == "/v2/other.example/app/manifests/1.0"


def test_a_blob_is_read_whole():
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.put(b"text")
        assert read_blob(client, descriptor(b"text"), 4) == b"text"
        assert hashlib.sha256(b"text").hexdigest() in registry.requests[-1].path


def _answers_without_tls(peer):
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_a_registry_here_that_wants_tls_gets_it(monkeypatch):
    """A server that speaks TLS answers 400 to who does not; this one then speaks none, which nobody falls for."""
    with RawServer(_answers_without_tls) as server:
        with pytest.raises(TransportError, match=r"found no TLS|nothing in time"):
            client_of(server, limits=SHORT).resolve("1.0")
        monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
        with pytest.raises(ConfigError, match="cannot use the authorities to trust") as refused:
            client_of(server, limits=SHORT).resolve("1.0")
        assert "SSL_CERT_FILE" in refused.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
        with pytest.raises(ConfigError, match="found no certificate") as refused:
            client_of(server, limits=SHORT).resolve("1.0")
        assert "SSL_CERT_FILE" in refused.value.hint


def test_who_is_elsewhere_is_never_asked_without_tls(monkeypatch):
    asked = []

    def connect(self):
        asked.append((type(self).__name__, self.host))
        raise OSError(111, "Connection refused")

    from urllib3.connection import HTTPConnection, HTTPSConnection

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    monkeypatch.setattr(HTTPSConnection, "connect", connect)
    with pytest.raises(TransportError, match="Connection refused"):
        RegistryClient("registry.example", "app", limits=SHORT, wait=lambda _: None).resolve("1.0")
    assert set(asked) == {("Secure", "registry.example")}


def test_the_address_of_a_storage_service_is_told_nobody():
    """It has a signature in it; `--verbose` prints every cause."""
    with FakeRegistry() as registry, client_of(registry, limits=SHORT) as client:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = f"http://127.0.0.1:{listener.getsockname()[1]}/blob?signature=SECRET"
        registry.behave = lambda handler: handler.path != "/v2/" and (handler.answer(307, Location=nobody), True)[1]
        for ask in (lambda: client.resolve("1.0"), lambda: list(client.open_blob(descriptor(BIG)))):
            with pytest.raises(TransportError) as refused:
                ask()
            error: BaseException | None = refused.value
            while error is not None:
                assert "SECRET" not in str(error)
                error = error.__cause__


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000/x", "http://localhost/x", "http://registry.example/x"])
def test_from_tls_nothing_leads_to_none(url):
    with (
        BoundedSession("127.0.0.1:5000", "https", LIMITS) as session,
        pytest.raises(TransportError, match="want https and a host"),
    ):
        session.request("GET", url)


@pytest.mark.parametrize(
    ("script", "limit_s", "error", "message"),
    [
        ("exec sleep 60", 0.3, ConfigError, "found nothing in time, want a password"),
        ("echo secret", 30.0, ConfigError, "found no name and password"),
        ("echo secret >&2; exit 1", 30.0, UsageError, "wants a login"),
    ],
)
def test_a_credential_helper_that_fails_is_said_so(script, limit_s, error, message, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(login, "_HELPER_S", limit_s)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"credsStore": "test"}))
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with FakeRegistry(login="basic") as registry, client_of(registry) as client:
        with pytest.raises(error, match=message) as refused:
            client.resolve("1.0")
        assert "secret" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["http://[", "http://[::1", "nowhere", "http:", "http://127.0.0.1:99999999/x"])
@pytest.mark.parametrize("size", [1, 2_000_000])
def test_an_upload_goes_on_at_an_address_or_not_at_all(place, size):
    with FakeRegistry() as registry, client_of(registry) as client:
        registry.behave = lambda handler: handler.command == "POST" and (handler.answer(202, Location=place), True)[1]
        with pytest.raises(TransportError, match="want a Location"):
            client.put_blob(descriptor(bytes(size)), [bytes(size)])
