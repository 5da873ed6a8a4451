# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that judging a package's signatures uses. The rules of `deployment_targets` hold here too."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tests.fuzz.deployment_targets import _JSON
from tests.fuzz.verifier_mutations import is_json
from tests.fuzz.verifier_targets import Target, attribute, make_target

DSSE, KEYLESS = "wire.dsse", "registry.keyless"
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32


@cache
def _sigstore() -> Any:
    """Return an instance that is the same one in each process: seeds are made in another."""
    return attribute("testing.sigstore", "FakeSigstore")(AT, secret=1 << 200)


def envelopes() -> list[bytes]:
    """Return an envelope with one signature, and one with two."""
    encode, make, signature = (attribute(DSSE, name) for name in ("encode_envelope", "Envelope", "EnvelopeSignature"))
    signatures = signature(bytes(64), "sha256:" + "11" * 32), signature(b"s")
    return [encode(make("application/vnd.in-toto+json", statements()[0], signatures[:count])) for count in (1, 2)]


def statements() -> list[bytes]:
    """Return our statement, and one about several artifacts."""
    one = attribute(DSSE, "encode_statement")(DIGEST)
    document = json.loads(one)
    document["subject"] += [{"digest": {"sha512": "00"}}, {"name": "x", "digest": {"sha256": "cd" * 32}}]
    return [one, json.dumps(document).encode()]


def bundles() -> list[bytes]:
    """Return bundles of a person and of a job."""
    names = "dev@tenant.example", "https://code.example/team/app/.ci/release.yml@refs/heads/main"
    return [_sigstore().sign(DIGEST, name, "https://issuer.example", at=AT) for name in names]


def _envelope() -> Callable[[bytes], object]:
    decode, encode = attribute(DSSE, "decode_envelope_untrusted"), attribute(DSSE, "encode_envelope")

    def call(data: bytes) -> object:
        value = decode(data)
        if decode(encode(value)) != value:
            raise AssertionError("what was written is another value")
        return value

    return call


def _bundle() -> Callable[[bytes], object]:
    """Whoever's bundle it is, it is not authentic, or it is of the one package that this instance signed something for."""
    verify, load = attribute(KEYLESS, "verify_bundle"), attribute(KEYLESS, "load_trust_root")
    root = load(_sigstore().trust_root(), name="root.json")
    return lambda data: verify(data, DIGEST, root, at=AT)


_TABLE_OF_TARGETS = (
    make_target("signature envelope", DSSE, "decode_envelope_untrusted", envelopes, _JSON, is_json, 10, make=_envelope, max_bytes=3000),
    make_target("signed statement", DSSE, "decode_statement_untrusted", statements, _JSON, is_json, 10, max_bytes=2000),
    make_target("sigstore bundle", KEYLESS, "verify_bundle", bundles, _JSON, is_json, 1, make=_bundle, errors=("DecodeError", "VerificationError", "AppraisalError"), max_bytes=8000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
