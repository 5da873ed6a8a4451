# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that a Steward and those who ask it use. The rules of `deployment_targets` hold here too."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz import steward_seeds as seed
from tests.fuzz.deployment_targets import (
    _CBOR,
    _JSON,
    _PACKED,
    _bytes_of,
    _is_packed,
    _pieces_of,
    _there_and_back,
    _unpack,
)
from tests.fuzz.verifier_mutations import (
    by_der,
    by_lines,
    by_text,
    der_length,
    is_cbor,
    is_der,
    is_json,
    overwrite,
    read_cbor,
)
from tests.fuzz.verifier_targets import Target, again, attribute, make_target

_CONFIGURATION_VALUES = (
    *('"s.example"', '"S"', '"1.2.3.4"', '"any"', '"2h"', '"999h"', "5", "true", "[]", '["*.x"]', '["a", "a"]', "{}", '"http://x/"'),
    *(f'"{"ab" * 32}"', f'"{"ab" * 48}"', f'"{"AB" * 32}"', '"\\u0000"', "nan", "1979-05-27", '"é"'),
)  # fmt: skip
STEWARD, SESSION, CERTIFICATE = "wire.steward", "wire.session", "wire.keep_certificate"


def _hashed_receipt() -> Callable[[bytes], object]:
    decode, encode = attribute(SESSION, "decode_without_evidence_untrusted"), attribute(SESSION, "without_evidence")

    def call(data: bytes) -> object:
        receipt = decode(data)
        if encode(receipt) != data:
            raise AssertionError("what was decoded has another encoding")
        return receipt

    return call


def _empty_request() -> Callable[[bytes], object]:
    decode = attribute(STEWARD, "decode_challenge_request_untrusted")

    def call(data: bytes) -> object:
        decode(data)
        return True

    return call


def _presented() -> Callable[[bytes], object]:
    """Judge what a service presents, whoever certified it, and say what came of it."""
    from cryptography import x509

    from enarx.deploy.policy import TenantPolicy
    from enarx.deploy.service_judge import KeepPolicy, ServiceJudge
    from enarx.verifier import baseline_policy

    read = attribute("deploy.presented", "read_presented_untrusted")
    text_of, document_of = attribute("cli.attest_connect", "_text"), attribute("cli.attest_connect", "_document")
    root = x509.load_der_x509_certificate(seed.keep_certificates()[0])
    appraisal = TenantPolicy(policy=baseline_policy("snp"), text=b"", name="x")
    judge = ServiceJudge(KeepPolicy(steward_root=root, package=bytes(32), appraisal=appraisal), now=lambda: seed.AT)

    def call(data: bytes) -> object:
        presented = read([data])
        judged = judge.judge([data], server_name="localhost")
        text = text_of(judged, "localhost:443", everything=True)
        if not text.replace("\n", "").isprintable():
            raise AssertionError("not printable")
        json.dumps(document_of(judged, "localhost:443"), allow_nan=False).encode()
        return presented

    return call


def _nonce() -> Callable[[bytes], object]:
    from tests.unit.steward.keeps import AT

    check, key = attribute("steward.nonces", "check_nonce"), bytes(32)

    def call(data: bytes) -> object:
        check(key, data, AT)
        return True

    return call


def _nonces() -> list[bytes]:
    from datetime import timedelta

    from tests.unit.steward.keeps import AT

    return [
        attribute("steward.nonces", "make_nonce")(bytes(32), AT - timedelta(seconds=age_s)) for age_s in (0, 60, 200)
    ]


def _configuration() -> Callable[[bytes], object]:
    decode = attribute("steward.configuration", "decode_configuration")
    return lambda data: decode(data, path="steward.toml")


def _judged() -> Callable[[bytes], object]:
    """A verdict on a whole request, by a policy that accepts the vendor that the input names: each process has a vendor of its own."""
    from dataclasses import replace

    from tests.unit.steward import keeps

    authority, request_of = keeps.authority(), attribute(STEWARD, "CertificateRequest")
    known = keeps.policy()

    def call(data: bytes) -> object:
        csr, receipt, evidence, endorsements, nonce, root, vendor = _unpack(data, 7)
        parts = map(_bytes_of, (csr, receipt, evidence))
        request = request_of(*parts, tuple(_pieces_of(endorsements)), _bytes_of(nonce), _bytes_of(root))
        policy = replace(known.policy, insecure_emulated_roots=frozenset({_bytes_of(vendor)}))
        granted = keeps.judge(policy=replace(known, policy=policy)).certify(request, now=keeps.AT)
        if granted.identity != keeps.IDENTITY:
            raise AssertionError("another identity than was attested got a certificate")
        return authority.issue(granted.wanted, at=keeps.AT)

    return call


def _is_toml(data: bytes) -> bool:
    return b"name" in data


def _change_extension(data: bytes, random: Random, scramble: Any) -> bytes:
    """Change the CBOR in the octet string, most of the time."""
    start = 2 + (data[1] & 0x7F if data[1:2] > b"\x80" else 0) if len(data) > 1 else 0
    if random.random() < 0.1 or not is_cbor(data[start:]):
        return by_der(data, random, scramble)
    content = _CBOR(data[start:], random, scramble)
    return b"\4" + der_length(len(content)) + content


def _is_extension(data: bytes) -> bool:
    if data[:1] != b"\4" or len(data) < 2:
        return False
    try:
        read_cbor(data[2 + (data[1] & 0x7F if data[1] > 0x80 else 0) :])
    except Exception:  # noqa: BLE001  # whatever it is, it is not CBOR
        return False
    return True


LOG = "steward.log"


def _as_text(parser: str, back: Callable[[Any], str]) -> Callable[[], Callable[[bytes], object]]:
    """What takes text and has one form for each value."""

    def make() -> Callable[[bytes], object]:
        read = attribute(LOG, parser)

        def call(data: bytes) -> object:
            text = data.decode("utf-8", "surrogateescape")
            value = read(text)
            if back(value) != text:
                raise AssertionError("what was decoded has another form")
            return value

        return call

    return make


def _log_entry() -> Callable[[bytes], object]:
    from datetime import UTC, datetime, timedelta

    decode, encode = (
        attribute("steward.entries", "decode_entry_untrusted"),
        attribute("steward.entries", "encode_entry"),
    )

    def call(data: bytes) -> object:
        facts = decode(data)
        rest = {name: value for name, value in facts._asdict().items() if name != "time_ms"}
        if encode(at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=facts.time_ms), **rest) != data:
            raise AssertionError("what was decoded has another encoding")
        return facts

    return call


_TABLE_OF_TARGETS = (
    make_target("steward certificate request", STEWARD, "decode_certificate_request_untrusted", seed.certificate_requests, _JSON, is_json, 10, make=again(STEWARD, "decode_certificate_request_untrusted", "encode_certificate_request"), more=("wire.json_members",)),
    make_target("steward result request", STEWARD, "decode_result_request_untrusted", seed.result_requests, _JSON, is_json, 10, make=again(STEWARD, "decode_result_request_untrusted", "encode_result_request")),
    make_target("steward challenge request", STEWARD, "decode_challenge_request_untrusted", lambda: [b"", b"{}", b" { }\n", b'{"purpose":"identity","keys":[1,2]}'], _JSON, lambda data: not data.strip() or is_json(data), 10, make=_empty_request, max_bytes=1100),
    make_target("steward challenge", STEWARD, "decode_challenge_answer_untrusted", seed.challenge_answers, _JSON, is_json, 10, make=again(STEWARD, "decode_challenge_answer_untrusted", "encode_challenge_answer"), max_bytes=1100),
    make_target("steward certificate answer", STEWARD, "decode_certificate_answer_untrusted", seed.certificate_answers, _JSON, is_json, 10, make=again(STEWARD, "decode_certificate_answer_untrusted", "encode_certificate_answer")),
    make_target("steward problem", STEWARD, "decode_problem_untrusted", seed.problems, _JSON, is_json, 10, make=again(STEWARD, "decode_problem_untrusted", "encode_problem")),
    make_target("hashed receipt", SESSION, "decode_without_evidence_untrusted", seed.hashed_receipts, _CBOR, is_cbor, 20, make=_hashed_receipt, max_bytes=2000),
    make_target("keep extension", CERTIFICATE, "decode_keep_extension_untrusted", seed.keep_extensions, _change_extension, _is_extension, 15, make=_there_and_back(CERTIFICATE, "decode_keep_extension_untrusted", "encode_keep_extension"), max_bytes=4000),
    make_target("keep certificate", CERTIFICATE, "decode_keep_certificate_untrusted", seed.keep_certificates, by_der, is_der, 10, max_bytes=4000),
    make_target("emulated mark", CERTIFICATE, "is_marked_emulated_untrusted", seed.keep_certificates, by_der, is_der, 5, max_bytes=4000),
    make_target("bundle of requests", "abi.enarx_csr", "parse_bundle_untrusted", seed.bundles, by_der, is_der, 20),
    make_target("steward nonce", "steward.nonces", "check_nonce", _nonces, lambda data, random, scramble: random.choice((overwrite, overwrite, scramble))(data, random), lambda data: len(data) == 32, 10, make=_nonce, errors=("VerificationError",), max_bytes=64),
    make_target("steward configuration", "steward.configuration", "decode_configuration", seed.configurations, by_lines(_CONFIGURATION_VALUES), _is_toml, 5, make=_configuration, errors=("ConfigError",), max_bytes=3000),
    make_target("steward verdict", "steward.judging", "certify", seed.judged_requests, _PACKED, _is_packed(7), 2, make=_judged, more=("steward.certificates",), entries=("require_request", "keep_builder"), errors=("DecodeError", "VerificationError", "AppraisalError", "EndorsementError"), max_bytes=16_000),
    make_target("presented certificate", "deploy.presented", "read_presented_untrusted", seed.presented_certificates, by_der, is_der, 3, make=_presented, more=("deploy.service_judge", "cli.attest_connect"), entries=("judge", "_text", "_document"), max_bytes=4000),
    make_target("log note", LOG, "parse_note_untrusted", seed.log_notes, by_text, lambda data: b"\n\n" in data, 20, max_bytes=2000),
    make_target("log checkpoint", LOG, "parse_checkpoint_untrusted", seed.log_checkpoints, by_text, lambda data: data.count(b"\n") == 3, 20, make=_as_text("parse_checkpoint_untrusted", lambda value: value.text()), max_bytes=1000),
    make_target("log key", LOG, "parse_verifier_key_untrusted", seed.log_keys, by_text, lambda data: data.count(b"+") >= 2, 20, make=_as_text("parse_verifier_key_untrusted", lambda value: value.text()), max_bytes=1000),
    make_target("log entry", "steward.entries", "decode_entry_untrusted", seed.log_entries, _CBOR, is_cbor, 20, make=_log_entry, max_bytes=3000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
