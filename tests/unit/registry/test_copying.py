# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.registry.cache import BlobCache
from enarx.registry.client import Limits, RegistryClient
from enarx.registry.content import Resolved
from enarx.registry.copying import copy_package
from enarx.registry.layout import make_layout
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
from tests.fake_registry import FakeRegistry

MODULE = os.urandom(2_000_000)
LIMITS = Limits(connect_s=5.0, stall_s=5.0, pauses_s=(0.0,), resumes=1)


def descriptor(data: bytes, media_type: str = WASM) -> Descriptor:
    return Descriptor(media_type, digest_of(data), len(data))


def put(sink, *modules: bytes, tag: str | None = None, **changes) -> Descriptor:
    config = descriptor(b"{}", EMPTY)
    for data in (b"{}", *modules):
        sink.put_blob(descriptor(data), [data])
    layers = tuple(descriptor(data) for data in modules)
    return sink.put_manifest(encode_manifest(Manifest(config, layers, **changes)), MANIFEST, tag=tag)


def client_of(registry, **options) -> RegistryClient:
    return RegistryClient(registry.address, "app", limits=LIMITS, wait=lambda _: None, **options)


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "layout").mkdir()
    return make_layout(str(tmp_path / "layout"))


@pytest.fixture
def copied(tmp_path):
    (tmp_path / "copied").mkdir()
    return make_layout(str(tmp_path / "copied"))


@pytest.mark.parametrize("api", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_a_package_goes_to_a_registry_and_comes_back_with_its_signatures(layout, copied, api, cached, tmp_path):
    subject = put(layout, MODULE, MODULE, tag="1")
    signature = put(layout, b"signature", subject=subject, artifact_type="application/x.signature")
    second = put(layout, b"of the signature", subject=signature)
    (tmp_path / "cache").mkdir()
    cache = BlobCache(str(tmp_path / "cache")) if cached else None
    with FakeRegistry(api=api) as registry, client_of(registry, cache=cache) as client:
        assert copy_package(layout, layout.resolve("1"), client, tag="2").digest == subject.digest
        assert [each.digest for each in client.referrers(subject.digest)] == [signature.digest]
        # What is there is not sent again.
        before = len(registry.asked("POST"))
        copy_package(layout, layout.resolve("1"), client, tag="3")
        assert len(registry.asked("POST")) == before
        assert copy_package(client, client.resolve("2"), copied, tag="1").digest == subject.digest
    assert [each.digest for each in copied.referrers(subject.digest)] == [signature.digest]
    assert [each.digest for each in copied.referrers(signature.digest)] == [second.digest]
    for name in os.listdir(f"{layout.path}/blobs/sha256"):
        with (
            open(f"{layout.path}/blobs/sha256/{name}", "rb") as one,
            open(f"{copied.path}/blobs/sha256/{name}", "rb") as other,
        ):
            assert one.read() == other.read()


def test_the_blobs_are_there_before_the_manifest(layout):
    subject = put(layout, MODULE, tag="1")
    with FakeRegistry() as registry, client_of(registry) as client:
        seen = []
        registry.behave = lambda handler: (
            handler.command == "PUT" and "/manifests/" in handler.path and bool(seen.append(set(registry.blobs)))
        )
        copy_package(layout, layout.resolve("1"), client, tag="1")
    assert seen == [{digest_of(MODULE), digest_of(b"{}")}]
    assert subject.digest in registry.manifests


def test_an_index_comes_with_what_it_lists(layout):
    one, other = put(layout, b"one"), put(layout, b"other")
    index = layout.put_manifest(encode_index(Index((one, other))), INDEX, tag="1")
    with FakeRegistry() as registry, client_of(registry) as client:
        assert copy_package(layout, layout.resolve("1"), client, tag="1") == index
        assert {index.digest, one.digest, other.digest, "1"} == set(registry.manifests)


def test_indexes_do_not_lead_down_for_ever(layout):
    found = put(layout, b"one")
    for _ in range(5):
        found = layout.put_manifest(encode_index(Index((found,))), INDEX, tag="1")
    with (
        FakeRegistry() as registry,
        client_of(registry) as client,
        pytest.raises(DecodeError, match="found an index of 1 in 3 others"),
    ):
        copy_package(layout, layout.resolve("1"), client, tag="1")


def test_a_list_with_what_is_gone_or_is_of_another_does_no_harm(layout, copied):
    subject, other = put(layout, b"module", tag="1"), put(layout, b"other")
    of_other = put(layout, b"signature", subject=other)
    with FakeRegistry(api=False) as registry, client_of(registry) as client:
        copy_package(layout, layout.resolve("1"), client, tag="1")
        copy_package(layout, layout.resolve(of_other.digest), client, tag=None)
        listed = Index((of_other, Descriptor(MANIFEST, "sha256:" + "0" * 64, 5)))
        registry.manifests[subject.digest.replace(":", "-")] = (INDEX, encode_index(listed))
        copy_package(client, client.resolve("1"), copied, tag="1")
    assert copied.referrers(subject.digest) == ()


def test_a_blob_that_did_not_come_is_asked_for_once_more(layout):
    put(layout, MODULE, tag="1")
    with FakeRegistry() as registry, client_of(registry) as client:
        failures = iter([503])

        def behave(handler):
            status = next(failures, None) if handler.command == "PATCH" else None
            return status is not None and (handler.answer(status), True)[1]

        registry.behave = behave
        copy_package(layout, layout.resolve("1"), client, tag="1")
        assert registry.blobs[digest_of(MODULE)] == MODULE
        registry.blobs.clear()
        registry.behave = lambda handler: handler.command == "PATCH" and (handler.answer(503), True)[1]
        with pytest.raises(TransportError, match="found the answer 503"):
            copy_package(layout, layout.resolve("1"), client, tag="2")
        assert "2" not in registry.manifests


def test_a_manifest_that_is_another_is_not_copied(layout, copied):
    put(layout, b"module", tag="1")
    resolved = layout.resolve("1")
    with pytest.raises(VerificationError, match="found a manifest with another digest"):
        copy_package(layout, Resolved(resolved.descriptor, resolved.data + b" "), copied, tag="1")


def test_a_package_that_is_not_whole_is_not_copied(layout, copied):
    put(layout, b"module", tag="1")
    with FakeRegistry() as registry, client_of(registry) as client:
        copy_package(layout, layout.resolve("1"), client, tag="1")
        del registry.blobs[digest_of(b"module")]
        with pytest.raises(UsageError, match="found no such blob"):
            copy_package(client, client.resolve("1"), copied, tag="1")
    assert copied.index().manifests == ()


def test_what_others_attach_does_not_fill_the_disk(layout, copied, monkeypatch):
    monkeypatch.setattr("enarx.registry.copying.MAX_REFERRING_BYTES", 3_000_000)
    package = put(layout, MODULE, tag="1.0")
    large = put(layout, os.urandom(3_000_000), subject=package, artifact_type="application/x.large")
    small = put(layout, b"signature", subject=package, artifact_type="application/x.small")
    copy_package(layout, layout.resolve("1.0"), copied, tag="1.0")
    assert [each.digest for each in copied.referrers(package.digest)] == [small.digest]
    assert not copied.has_blob(large)


def test_a_package_without_an_end_is_refused(layout, copied, monkeypatch):
    monkeypatch.setattr("enarx.registry.copying.MAX_BYTES", 2_000_001)
    put(layout, MODULE, tag="1.0")
    with pytest.raises(DecodeError, match="found more than 2000001 bytes"):
        copy_package(layout, layout.resolve("1.0"), copied, tag="1.0")


def test_what_is_attached_and_cannot_be_read_is_left_behind(layout, copied):
    package = put(layout, MODULE, tag="1.0")
    signature = put(layout, b"signature", subject=package, artifact_type="application/x.small")
    with FakeRegistry(api=False) as registry, client_of(registry) as client:
        copy_package(layout, layout.resolve("1.0"), client, tag="1.0")
        strange = encode_manifest(
            Manifest(descriptor(b"{}", EMPTY), (descriptor(b"{}", EMPTY),) * 101, {}, "application/x.y", package)
        )
        listed = Descriptor(MANIFEST, digest_of(strange), len(strange), {}, "application/x.y")
        registry.manifests[listed.digest] = (MANIFEST, strange)
        index = encode_index(Index((listed, signature)))
        registry.manifests[package.digest.replace(":", "-")] = (INDEX, index)
        copy_package(client, client.resolve("1.0"), copied, tag="1.0")
    assert [each.digest for each in copied.referrers(package.digest)] == [signature.digest]
