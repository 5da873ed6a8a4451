# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.registry.content import Resolved
from enarx.registry.referrers import BUNDLE, MAX_ATTACHED, MAX_BUNDLE_BYTES, Attached, attach, attached
from enarx.wire.dsse import DSSE, MAX_ENVELOPE_BYTES
from enarx.wire.oci import EMPTY, MANIFEST, Descriptor, Manifest, decode_manifest_untrusted, digest_of, encode_manifest
from tests.unit.registry.signed import make_package


class Stranger:
    """A source that lists what it is told to, and has what it was given."""

    def __init__(self, subject="sha256:" + "ab" * 32):
        self.subject = Descriptor(MANIFEST, subject, 5)
        self.listed = {}
        self.blobs = {}
        self.asked = 0

    def put(self, data):
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def list_manifest(self, kind=DSSE, **changes):
        layer = Descriptor(kind, self.put(b"data"), 4)
        config = Descriptor(EMPTY, self.put(b"{}"), 2)
        manifest = Manifest(config, (layer,), artifact_type=kind, subject=self.subject)._replace(**changes)
        data = encode_manifest(manifest)
        descriptor = Descriptor(MANIFEST, self.put(data), len(data), artifact_type=kind)
        self.listed.setdefault(kind, []).append(descriptor)
        return descriptor

    def referrers(self, digest, artifact_type=None):
        assert digest == self.subject.digest
        return tuple(self.listed.get(artifact_type, ()))

    def resolve(self, reference):
        self.asked += 1
        if reference not in self.blobs:
            raise UsageError("cannot find it: found none, want one")
        return Resolved(Descriptor(MANIFEST, reference, len(self.blobs[reference])), self.blobs[reference])

    def open_blob(self, wanted):
        yield self.blobs[wanted.digest]


def test_what_is_attached_to_a_layout_is_found_there(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    artifacts = {kind: attach(layout, package, kind, kind.encode()).digest for kind in (BUNDLE, DSSE)}
    found = attached(layout, package.digest)
    assert set(found.signatures) == {Attached(artifacts[kind], kind, kind.encode()) for kind in (BUNDLE, DSSE)}
    assert found.left_out == 0
    assert layout.only_digest() == layout.resolve("v1").descriptor.digest == package.digest


def test_the_artifact_is_an_empty_one_with_one_layer_and_the_package_as_its_subject(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    made = attach(layout, package, BUNDLE, b"bundle")
    manifest = decode_manifest_untrusted(layout.resolve(made.digest).data)
    assert manifest.artifact_type == BUNDLE
    assert manifest.config == Descriptor(EMPTY, digest_of(b"{}"), 2)
    assert manifest.layers == (Descriptor(BUNDLE, digest_of(b"bundle"), 6),)
    assert manifest.subject == Descriptor(MANIFEST, package.digest, package.size)
    assert manifest.annotations == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
    }


def test_the_same_signature_is_attached_once(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    assert attach(layout, package, DSSE, b"x") == attach(layout, package, DSSE, b"x")
    assert len(attached(layout, package.digest).signatures) == 1


def test_nothing_is_attached_to_a_package_without_signatures(tmp_path):
    layout, package = make_package(tmp_path / "layout")
    assert attached(layout, package.digest) == ((), 0)


def test_artifacts_of_other_kinds_are_not_looked_at():
    source = Stranger()
    source.list_manifest(kind="application/spdx+json")
    assert attached(source, source.subject.digest) == ((), 0)
    assert source.asked == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"subject": None}, VerificationError, "subject: found none, want sha256:abab"),
        ({"subject": Descriptor(MANIFEST, "sha256:" + "cd" * 32, 5)}, VerificationError, "subject: found sha256:cdcd"),
        ({"layers": ()}, DecodeError, "layers: found none, want one"),
        ({"layers": (Descriptor(DSSE, "sha256:" + "ab" * 32, 1),) * 2}, DecodeError, "layers: found .*, .*, want one"),
        ({"layers": (Descriptor(BUNDLE, "sha256:" + "ab" * 32, 1),)}, DecodeError, "layers: found .*bundle"),
        (
            {"layers": (Descriptor(DSSE, "sha256:" + "ab" * 32, MAX_ENVELOPE_BYTES + 1),)},
            DecodeError,
            "want at most 65536",
        ),
        ({"layers": (Descriptor(DSSE, digest_of(b"data"), 5),)}, VerificationError, "found 4 bytes, want 5"),
    ],
)
def test_an_artifact_that_is_none_is_a_fault_of_its_own(changes, error, message):
    source = Stranger()
    wrong = source.list_manifest(**changes)
    right = source.list_manifest(annotations={"a": "b"})
    (first, second), left_out = attached(source, source.subject.digest)
    assert second == Attached(right.digest, DSSE, b"data")
    assert left_out == 0
    assert (first.digest, first.data) == (wrong.digest, b"")
    assert isinstance(first.fault, error)
    with pytest.raises(error, match=message):
        raise first.fault


def test_an_artifact_that_is_listed_and_not_there_is_a_fault_of_its_own():
    source = Stranger()
    wrong = source.list_manifest()
    del source.blobs[wrong.digest]
    (found,), _ = attached(source, source.subject.digest)
    assert isinstance(found.fault, DecodeError)
    assert "found none, want one" in str(found.fault)


def test_an_artifact_that_is_no_manifest_is_a_fault_of_its_own():
    source = Stranger()
    data = b"[]"
    source.listed[DSSE] = [Descriptor(MANIFEST, source.put(data), len(data))]
    (found,), _ = attached(source, source.subject.digest)
    assert isinstance(found.fault, DecodeError)


def test_a_bundle_may_be_larger_than_an_envelope_and_has_its_limit():
    source = Stranger()
    source.list_manifest(kind=BUNDLE, layers=(Descriptor(BUNDLE, "sha256:" + "ab" * 32, MAX_BUNDLE_BYTES + 1),))
    (found,), _ = attached(source, source.subject.digest)
    assert "want at most 524288" in str(found.fault)


def test_no_more_than_so_many_are_looked_at():
    source = Stranger()
    for kind in (DSSE, BUNDLE):
        for number in range(MAX_ATTACHED + 3):
            source.list_manifest(kind=kind, annotations={"n": str(number)})
    found = attached(source, source.subject.digest)
    assert (len(found.signatures), found.left_out) == (2 * MAX_ATTACHED, 6)
    assert source.asked == 2 * MAX_ATTACHED


def test_one_that_is_listed_many_times_is_looked_at_once():
    source = Stranger()
    source.list_manifest()
    source.listed[DSSE] *= 500
    assert attached(source, source.subject.digest).left_out == 0
    assert source.asked == 1


def test_a_registry_that_cannot_be_asked_is_not_one_without_signatures():
    source = Stranger()

    def fail(*_):
        raise TransportError("no answer")

    source.list_manifest()
    source.open_blob = fail
    with pytest.raises(TransportError, match="no answer"):
        attached(source, source.subject.digest)
    source.referrers = fail
    with pytest.raises(TransportError, match="no answer"):
        attached(source, source.subject.digest)
