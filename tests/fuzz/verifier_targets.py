# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes that judging evidence uses: how it is called, what it may raise, where its inputs come from.

What holds it together: one table, `TARGETS`, from which the default suite, the soak run and the report of `docs/fuzzing.md` come.

Rules of this file:

- A target is called with bytes and returns, or raises one of `errors`. Where a parser takes something else (decoded JSON, a map of
  extensions), the target does what its caller does.
- Seeds are those of `verifier_seeds`.
- `passes` says whether an input gets past magic and length; it is asked of a sample, after the fact, and changes nothing.
- Importing this file imports no parser: whoever instruments code does so at a target's first call.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.fuzz import verifier_seeds as seed
from tests.fuzz.verifier_mutations import (
    Mutation,
    by_der,
    by_fields,
    by_lines,
    by_text,
    by_tree,
    change_text,
    is_base64_or_hex,
    is_cbor,
    is_der,
    is_json,
    one_of,
    overwrite,
    read_cbor,
    read_json,
    read_protobuf,
    write_cbor,
    write_json,
    write_protobuf,
)

ROOTS_FILE = "ENARX_FUZZ_ROOTS"


class Target(NamedTuple):
    """A parser.

    Args:
        name: of the target.
        make: returns the call; imports what it needs.
        seeds: returns inputs to begin with.
        mutate: changes inputs.
        passes: whether an input gets past magic and length.
        parts: how many of all inputs of a run, relative to the other targets: more where an input costs less.
        modules: whose lines are counted.
        entries: names of the functions where the parse begins; what they do not reach is not counted.
        errors: classes of `enarx.errors` that may be raised, by name.
        max_bytes: of an input.
    """

    name: str
    make: Callable[[], Callable[[bytes], object]]
    seeds: Callable[[], list[bytes]]
    mutate: Mutation
    passes: Callable[[bytes], bool]
    parts: float
    modules: tuple[str, ...]
    entries: tuple[str, ...]
    errors: tuple[str, ...] = ("DecodeError",)
    max_bytes: int = 8192


def attribute(module: str, name: str) -> Any:
    """Return a member of a module of enarx."""
    import importlib

    return getattr(importlib.import_module(f"enarx.{module}"), name)


# --- Calls that are more than a parser's name ------------------------------------------------------------------------


def _vek() -> Callable[[bytes], object]:
    parse, oids = attribute("abi.snp", "parse_vek_extensions_untrusted"), sorted(attribute("abi.snp", "VEK_OIDS"))

    def call(data: bytes) -> object:
        values, at = {}, 0
        while at + 2 <= len(data):
            values[oids[data[at] % len(oids)]] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]
        return parse(values)

    return call


def _change_vek(data: bytes, random: Any, scramble: Any) -> bytes:
    items, at = [], 0
    while at + 2 <= len(data):
        items.append((data[at], data[at + 2 : at + 2 + data[at + 1]]))
        at += 2 + data[at + 1]
    if not items or random.random() < 0.1:
        return scramble(data, random)
    at, how = random.randrange(len(items)), random.random()
    index, value = items[at]
    if how < 0.5:
        items[at] = (index, overwrite(value, random))
    elif how < 0.65:
        items[at] = (index, random.choice((b"\2\1\x7f", b"\2\2\0\x80", b"\2\1\xff", b"\2\2\0\1", b"\x16\0", b"\x16\4Test", b"\x04\x08" + bytes(8), bytes(8), bytes(64), scramble(value, random)[:255])))  # fmt: skip
    elif how < 0.75:
        del items[at]
    elif how < 0.9:
        items[at] = (random.randrange(32), value)
    else:
        items.insert(at, (random.randrange(32), value))
    return b"".join(bytes((index, len(value))) + value for index, value in items)


def _cbor() -> Callable[[bytes], object]:
    decode, read_tag = attribute("crypto.cbor", "decode_untrusted"), attribute("crypto.cbor", "read_tag_untrusted")
    tags = frozenset({18, 501, 506, 0, 2})

    def call(data: bytes) -> object:
        # Which of the ways to call it: of the data, so that an input is one call.
        kind = len(data) & 3
        if kind == 1:
            data = read_tag(data)[1]
        return decode(data, max_bytes=8192, indefinite=bool(kind & 1), tags=tags if kind & 2 else frozenset())

    return call


def _sign1() -> Callable[[bytes], object]:
    parse = attribute("crypto.cose", "parse_sign1_untrusted")
    return lambda data: parse(data, max_bytes=1 << 16)


def _event_log() -> Callable[[bytes], object]:
    parse, replay = attribute("abi.event_log", "parse_event_log_untrusted"), attribute("abi.event_log", "replay")

    def call(data: bytes) -> object:
        log = parse(data)
        return [replay(log, bank) for bank in log.banks]

    return call


def _corim() -> Callable[[bytes], object]:
    decode = attribute("wire.corim", "decode_corim_untrusted")
    return lambda data: decode(data, profiles=frozenset({"https://example.com/p", "1.3.6.1"}))


def _bundle(parser: str) -> Callable[[], Callable[[bytes], object]]:
    def make() -> Callable[[bytes], object]:
        load, parse = attribute("wire.strict_json", "load_json_untrusted"), attribute("abi.tpm_bundle", parser)
        return lambda data: parse(load(data, what="evidence", max_bytes=1 << 20))

    return make


def _ear_jwt() -> Callable[[bytes], object]:
    verify, keys = attribute("wire.ear", "verify_ear_jwt"), [seed.ed25519_key().public_key()]
    return lambda data: verify(data, keys, at=seed.AT)


def _ear_cwt() -> Callable[[bytes], object]:
    verify, keys = attribute("wire.ear", "verify_ear_cwt"), [seed.ed25519_key().public_key()]
    decode = attribute("wire.ear", "decode_ear_cwt_untrusted")
    return lambda data: (decode(data), verify(data, keys, at=seed.AT))


def _signed_corim() -> Callable[[bytes], object]:
    verify, keys = attribute("wire.corim", "verify_corim"), [seed.ed25519_key().public_key()]
    return lambda data: verify(data, keys, at=seed.AT)


def _change_jwt(data: bytes, random: Any, scramble: Any) -> bytes:
    """Change header or payload and sign what came of it, most of the time."""
    parts = data.split(b".")
    if len(parts) != 3 or random.random() < 0.1:
        return scramble(data, random)
    at = 0 if random.random() < 0.15 else 1
    try:
        text = base64.urlsafe_b64decode(parts[at] + b"=" * (-len(parts[at]) % 4)).decode()
    except ValueError:
        return overwrite(data, random)
    changed = change_text(text, random, scramble).encode("utf-8", "surrogatepass")
    parts[at] = base64.urlsafe_b64encode(changed).rstrip(b"=")
    if random.random() < 0.95:
        signature = seed.ed25519_key().sign(parts[0] + b"." + parts[1])
        parts[2] = base64.urlsafe_b64encode(signature).rstrip(b"=")
    return b".".join(parts)


def again(module: str, decode: str, encode: str) -> Callable[[], Callable[[bytes], object]]:
    """Make a call that reads a value, writes it and reads it again: the same value has to come of it."""

    def make() -> Callable[[bytes], object]:
        read, write = attribute(module, decode), attribute(module, encode)

        def call(data: bytes) -> object:
            value = read(data)
            if read(write(value)) != value:
                raise AssertionError("what was written is another value")
            return value

        return call

    return make


def _sign_again(message: Any) -> bytes:
    """Sign a COSE_Sign1 message that was changed."""
    from enarx.crypto.cbor import encode

    parts = list(message.value)
    if len(parts) == 4 and type(parts[0]) is bytes and type(parts[2]) is bytes:
        signed = b"\x84\x6aSignature1" + encode(parts[0]) + b"\x40" + encode(parts[2])
        parts[3] = seed.ed25519_key().sign(signed)
    return b"\xd2" + write_cbor(parts)


def _certificate() -> Callable[[bytes], object]:
    load = attribute("crypto.certificates", "load_certificate_untrusted")
    module = "crypto.certificates"
    name_of, critical = attribute(module, "name_of"), attribute(module, "unknown_critical_extensions")
    begin, end, is_valid = (
        attribute(module, "not_before_of"),
        attribute(module, "not_after_of"),
        attribute(module, "is_valid_at"),
    )

    def call(data: bytes) -> object:
        # What the chain asks a certificate that was loaded must not fail either.
        found = load(data)
        return name_of(found), critical(found), begin(found), end(found), is_valid(found, seed.AT)

    return call


def _json() -> Callable[[bytes], object]:
    load = attribute("wire.strict_json", "load_json_untrusted")
    return lambda data: load(data, what="text", max_bytes=1 << 16)


def _policy() -> Callable[[bytes], object]:
    decode = attribute("verifier.policy_toml", "decode_policy")
    return lambda data: decode(data, path="policy.toml")


def _recognise() -> Callable[[bytes], object]:
    recognise, evidence = attribute("verifier", "recognise"), attribute("rats", "Evidence")
    return lambda data: recognise(evidence(data=data))


def _read_endorsements() -> Callable[[bytes], object]:
    read = attribute("verifier.endorsement_files", "read_endorsements")

    def call(data: bytes) -> object:
        # Twice, beside what it can be put together with: documents alone are not Intel's collateral.
        collateral = seed.collateral_of("TDX")
        return read([("one", data), ("two", collateral.tcb_info), ("three", collateral.qe_identity)])

    return call


def _verify() -> Callable[[bytes], object]:
    verify, evidence = attribute("verifier", "verify_evidence"), attribute("rats", "Evidence")
    read, cached = attribute("verifier.endorsement_files", "read_endorsements"), attribute("verifier", "TrustCache")()
    error = attribute("errors", "DecodeError")
    anchors = _anchors(attribute("verifier", "pinned_anchors")())

    def call(data: bytes) -> object:
        files, seconds = [], 0
        try:
            data, files, seconds = read_cbor(data)
            at = datetime.fromtimestamp(seconds, UTC)
            files = [file for file in files if type(file) is bytes]
        except Exception:  # noqa: BLE001  # not packed: all of it is the evidence
            at = seed.AT
        if type(data) is not bytes:
            data = b""
        known = None
        try:
            known = read([("file", file) for file in files])
        except error:
            # Intel's documents are put together from several files; what is none of them is left out.
            good = []
            for file in files:
                with suppress(error):
                    read([("file", file)])
                    good.append(("file", file))
            known = read(good)
        return verify(evidence(data=data), at=at, endorsements=known, anchors=anchors, cache=cached)

    return call


def _in_words() -> Callable[[bytes], object]:
    """Judge, and say what came of it in every form: also what a certificate is called may come from an attacker."""
    verify, key = _verify(), seed.ed25519_key()
    summarise, explain = attribute("cli.attest_text", "summarise"), attribute("cli.attest_text", "explain")
    show_claims, page_of = attribute("cli.attest_text", "show_claims"), attribute("cli.attest_html", "result_page")
    document_of, build = attribute("wire.result_json", "result_document"), attribute("wire.ear", "build_ear")
    forms = attribute("wire.ear", "sign_ear_jwt"), attribute("wire.ear", "sign_ear_cwt")

    def call(data: bytes) -> object:
        result = verify(data)
        texts = [summarise(result, "x"), explain(result, everything=True, colour=False), show_claims(result.claims)]
        texts.append(page_of(result, format_name="x", subject="x"))
        for text in texts:
            text.encode()
            if not text.replace("\n", "").isprintable():
                raise AssertionError(f"not printable: {[letter for letter in text if not letter.isprintable()][:5]}")
        json.dumps(document_of(result, format_name="x"), allow_nan=False).encode()
        ear = build(result, issued_at=seed.AT, evidence_sha256=bytes(32), build="x")
        return [sign(ear, key) for sign in forms]

    return call


def _anchors(pinned: Any) -> Any:
    """Return the pinned anchors with those of the test PKI beside them, which made the seeds."""
    from dataclasses import replace

    packed = os.environ.get(ROOTS_FILE)
    if packed:
        with open(packed, "rb") as file:
            roots = file.read()
    amd, intel, aws, tpm, cca, pins = read_cbor(roots if packed else seed.roots_of_tests())
    return replace(
        pinned,
        amd=(*pinned.amd, *amd),
        intel=(*pinned.intel, *intel),
        aws=(*pinned.aws, *aws),
        tpm=(*pinned.tpm, *tpm),
        cca={**pinned.cca, **cca},
        tpm_aks=pinned.tpm_aks | {*pins},
    )


# --- Records of ours -------------------------------------------------------------------------------------------------


def by_record(
    module: str, parser: str, writer: str | None = None, *, tidy: Callable[[Any], Any] | None = None, wild: float = 0.08
) -> Mutation:
    """Make a mutation that parses, changes a field and serialises; `tidy` brings numbers back that would fill the memory."""

    def read(data: bytes) -> Any:
        return attribute(module, parser)(data)

    def write(record: Any) -> bytes:
        record = tidy(record) if tidy is not None else record
        return record.serialise() if writer is None else attribute(module, writer)(record)

    return by_tree(read, write, wild=wild)


def _starts(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(starts)


def _is_quote(data: bytes) -> bool:
    if len(data) < 48 or data[0] not in {3, 4, 5} or data[1] or data[2:4] != b"\2\0":
        return False
    sizes = {0x00: (384,), 0x81: (584, 648)}.get(data[4], ())
    heads = [48 + (6 if data[0] == 5 else 0) + size for size in sizes]
    return any(at + 4 + int.from_bytes(data[at : at + 4], "little") <= len(data) for at in heads if at + 4 <= len(data))


def _is_table(data: bytes) -> bool:
    ends = [at for at in range(0, min(len(data), 65 * 24), 24) if data[at : at + 24] == bytes(24)]
    return bool(ends) and len(data) <= 1 << 20


def _is_jwt(data: bytes) -> bool:
    parts = data.split(b".")
    return len(parts) == 3 and all(len(part) % 4 != 1 for part in parts)


def _is_object(*members: str) -> Callable[[bytes], bool]:
    def passes(data: bytes) -> bool:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and all(member in value for member in members)

    return passes


def _is_protobuf(data: bytes) -> bool:
    try:
        return any(field.number == 2 for field in read_protobuf(data))
    except (ValueError, IndexError):
        return False


def _is_toml(data: bytes) -> bool:
    import tomllib

    try:
        return bool(tomllib.loads(data.decode()))
    except (ValueError, RecursionError):
        return False


def _is_recognised(data: bytes) -> bool:
    """Return whether the format is known and the parser of that format was reached."""
    error = attribute("errors", "DecodeError")
    try:
        _recognise()(data)
    except error as refusal:
        return "format: found none" not in str(refusal) and not str(refusal).endswith("want JSON")
    return True


def _is_packed(data: bytes) -> bool:
    try:
        packed = read_cbor(data)
    except Exception:  # noqa: BLE001  # whatever it is, it is not CBOR
        return False
    return type(packed) is list and type(packed[0]) is bytes and _is_recognised(packed[0])


def _is_endorsement(data: bytes) -> bool:
    start = data.lstrip()[:1]
    return (
        is_der(data)
        or b"-----BEGIN " in data[:64]
        or (start in {b"{", b"["} and is_json(data))
        or is_base64_or_hex(data)
        or _is_table(data)
    )


_CBOR = by_tree(read_cbor, write_cbor)
_JSON = by_tree(read_json, write_json)


def _split(read: Callable[[bytes], Any], size: int = 1184) -> Mutation:
    """Make a mutation of what follows a report, and of the report."""

    def mutate(data: bytes, random: Any, scramble: Any) -> bytes:
        if random.random() < 0.3:
            return overwrite(data[:size], random) + data[size:]
        return data[:size] + _TABLE(data[size:], random, scramble)

    return mutate


_TABLE = by_record("abi.snp", "parse_certificate_table_untrusted", "serialise_certificate_table", wild=0.03)


def _any_structure(data: bytes, random: Any, scramble: Any) -> bytes:
    """Change evidence by what it looks like."""
    first = data[:1]
    if random.random() < 0.06:
        return scramble(data, random)
    if first in {b"{", b"["}:
        return _JSON(data, random, scramble)
    if first == b"\x30":
        return by_der(data, random, scramble)
    if data[:4] == b"HCLA":
        return _HCL(data, random, scramble)
    if first in {b"\x0a", b"\x12"}:
        return _PROTOBUF(data, random, scramble)
    if data[2:4] == b"\2\0" and data[:1] in {b"\3", b"\4", b"\5"}:
        return _QUOTE(data, random, scramble)
    if first and first[0] >> 5 in {4, 5, 6}:
        return _CBOR(data, random, scramble)
    if len(data) > 1184 and data[:1] in {b"\2", b"\3", b"\5"}:
        return _split(bytes)(data, random, scramble)
    if data[:5] == b"-----" or data[:64].isalnum():
        return by_text(data, random, scramble)
    if random.random() < 0.25:
        # A wrapper around it.
        from enarx.wire.cmw import CmwRecord, encode_cmw_cbor

        wrapped = (data.hex().encode(), base64.b64encode(data), json.dumps({"evidence": data.hex()}).encode(), encode_cmw_cbor(CmwRecord("a/b", data or b"x")))  # fmt: skip
        return random.choice(wrapped)
    return overwrite(data, random)


def _change_packed(data: bytes, random: Any, scramble: Any) -> bytes:
    """Change evidence or one of its endorsements, and now and then the time."""
    try:
        evidence, files, seconds = read_cbor(data)
        how = random.random()
        if how < 0.6 or not files:
            evidence = _any_structure(evidence, random, scramble)
        elif how < 0.92:
            at = random.randrange(len(files))
            files[at] = _any_structure(files[at], random, scramble)
        elif how < 0.96:
            files.pop(random.randrange(len(files)))
        else:
            seconds = random.choice((0, 1, 1 << 31, 1_700_000_000, 1_750_000_000, 1_790_000_000, seconds + 86400 * 400))
        return write_cbor([evidence, files, seconds])
    except Exception:  # noqa: BLE001  # not packed any more
        return scramble(data, random)


_QUOTE = by_record("abi.quote", "parse_quote_untrusted")
_HCL = by_record(
    "abi.hcl",
    "parse_hcl_report_untrusted",
    "serialise_hcl_report",
    tidy=lambda report: report._replace(padding=report.padding % 9000),
)
_PROTOBUF = by_tree(read_protobuf, write_protobuf)
_TOML_VALUES = ("true", "false", "0", "255", "-1", "1e400", "nan", '""', '"x"', '{ skip = "x" }', '{ skip = "" }', '{ preset = "amd" }', "[]", "{}", "[[[[[]]]]]", "2026-01-01", "99999999999999999999", '["00"]', "{ min = 1 }", '["UpToDate"]', '"' + "00" * 48 + '"', '["' + "ff" * 32 + '"]')  # fmt: skip


def _sev_crate(data: bytes, random: Any, scramble: Any) -> bytes:
    """Change one entry of such seed.certificates, or what is around them."""
    try:
        entries = list(attribute("abi.snp", "parse_sev_crate_certificates_untrusted")(data))
    except Exception:  # noqa: BLE001  # changed before so that it is none
        return overwrite(data, random)
    if random.random() < 0.3:
        return scramble(data, random) if random.random() < 0.4 else overwrite(data, random)
    at = random.randrange(len(entries))
    if random.random() < 0.3:
        entries.insert(at, entries[random.randrange(len(entries))])
    else:
        entries[at] = (entries[at][0], scramble(entries[at][1], random))
    out = bytearray(len(entries).to_bytes(8, "little"))
    for guid, content in entries:
        out += random.randrange(18).to_bytes(4, "little")
        if guid:
            out += (16).to_bytes(8, "little") + bytes.fromhex(guid.replace("-", ""))
        out += len(content).to_bytes(8, "little") + content
    return bytes(out)


def _overwrite(data: bytes, random: Any, _scramble: Any) -> bytes:
    return overwrite(data, random)


def _scrambled(data: bytes, random: Any, scramble: Any) -> bytes:
    return scramble(data, random)


_CBOR_OR_NOT = one_of(_CBOR, _CBOR, _scrambled)
_JSON_OR_NOT = one_of(*[_JSON] * 9, _scrambled)


# --- What gets past magic and length ---------------------------------------------------------------------------------


def _is_snp_report(data: bytes) -> bool:
    return len(data) == 1184 and data[:4] in _SNP_VERSIONS[:3]


def _is_sev_crate(data: bytes) -> bool:
    return 0 < int.from_bytes(data[:8], "little") <= 64 and len(data) > 20


def _has_components(data: bytes) -> bool:
    return data.count(b"\2\1") >= 4


def _is_public_area(data: bytes) -> bool:
    return not {data[:2], data[2:4]}.isdisjoint({b"\0\1", b"\0\x23"})


def _is_pcr_file(data: bytes) -> bool:
    return 0 < int.from_bytes(data[:4], "little") <= 16 and len(data) >= 136


def _is_event_log(data: bytes) -> bool:
    return len(data) >= 32 and int.from_bytes(data[28:32], "little") <= len(data) - 32


def _is_hcl_report(data: bytes) -> bool:
    return data[:4] == b"HCLA" and len(data) > 1236


def _is_cmw_extension(data: bytes) -> bool:
    return data[:1] in {b"\4", b"\x0c"} and len(data) > 2


def _is_request(data: bytes) -> bool:
    return is_der(data) or b"-----BEGIN" in data


def _is_pem(data: bytes) -> bool:
    return data.count(b"-----BEGIN ") == data.count(b"-----END ") > 0


# --- The table -------------------------------------------------------------------------------------------------------

_SNP_VERSIONS = tuple(number.to_bytes(4, "little") for number in (2, 3, 5, 2, 3, 5, 4, 0xFFFF))
_REPORT = by_fields(1184, _SNP_VERSIONS)


def _tidy_attest(attest: Any) -> Any:
    selections = [each._replace(pcrs=tuple(pcr % 40 for pcr in each.pcrs)) for each in attest.selections]
    return attest._replace(selections=tuple(selections))


def _tidy_pcrs(values: Any) -> Any:
    return {bank: {pcr % 40: digest for pcr, digest in pcrs.items()} for bank, pcrs in values.items()}


_ATTEST = by_record("abi.tpm", "parse_attest_untrusted", "serialise_attest", tidy=_tidy_attest)
_SIGNATURE = by_record("abi.tpm", "parse_signature_untrusted", "serialise_signature")
_PUBLIC = by_record("abi.tpm", "parse_public_untrusted", "serialise_public")
_PCRS = one_of(by_record("abi.tpm", "parse_pcr_file_untrusted", "serialise_pcr_file", tidy=_tidy_pcrs), _overwrite)
_LOG = one_of(by_record("abi.event_log", "parse_event_log_untrusted", "serialise_event_log"), _overwrite)
_SIGNED = by_tree(read_cbor, _sign_again)
_REFUSALS = ("DecodeError", "VerificationError")
_JUDGES = ("snp", "dcap", "sgx", "tdx", "nitro", "cca", "tpm", "azure", "chain", "collateral", "tcb")
_JUDGING = ("verifier", *(f"verifier.{name}" for name in _JUDGES))
_WORDS = ("cli.attest_text", "cli.attest_html", "wire.result_json", "wire.ear")
_SAID = ("explain", "show_claims", "result_page", "result_document", "build_ear", "sign_ear_jwt", "sign_ear_cwt")
_ASKED = (
    "load_certificate_untrusted",
    "name_of",
    "unknown_critical_extensions",
    "not_before_of",
    "not_after_of",
    "is_valid_at",
)


def make_target(
    name: str,
    module: str,
    entry: str,
    seeds: Callable[[], list[bytes]],
    mutate: Mutation,
    passes: Callable[[bytes], bool],
    parts: float,
    *,
    make: Callable[[], Callable[[bytes], object]] | None = None,
    more: tuple[str, ...] = (),
    entries: tuple[str, ...] = (),
    errors: tuple[str, ...] = ("DecodeError",),
    max_bytes: int = 8192,
) -> Target:
    """Make a target of a function of a module of enarx, which is called with the bytes alone if `make` is None."""
    modules = tuple(f"enarx.{each}" for each in (module, *more))
    call = make or (lambda: attribute(module, entry))
    return Target(name, call, seeds, mutate, passes, parts, modules, (entry, *entries), errors, max_bytes)


_TABLE_OF_TARGETS = (
    make_target("snp report", "abi.snp", "parse_report_untrusted", seed.snp_reports, _REPORT, _is_snp_report, 120),
    make_target("snp certificate table", "abi.snp", "parse_certificate_table_untrusted", seed.certificate_tables, _TABLE, _is_table, 40, max_bytes=12000),
    make_target("sev crate certificates", "abi.snp", "parse_sev_crate_certificates_untrusted", seed.sev_crate_tables, _sev_crate, _is_sev_crate, 80),
    make_target("vek extensions", "abi.snp", "parse_vek_extensions_untrusted", seed.vek_extensions, _change_vek, _has_components, 100, make=_vek),
    make_target("quote", "abi.quote", "parse_quote_untrusted", seed.quotes, _QUOTE, _is_quote, 100),
    make_target("pck extension", "abi.pck", "parse_pck_extension_untrusted", seed.pck_extensions, by_der, is_der, 50),
    make_target("tcb info", "verifier.collateral", "parse_tcb_info_untrusted", seed.tcb_infos, _JSON, _is_object("tcbInfo"), 2),
    make_target("qe identity", "verifier.collateral", "parse_qe_identity_untrusted", seed.qe_identities, _JSON, _is_object("enclaveIdentity"), 6, max_bytes=3000),
    make_target("nitro document", "abi.nitro", "parse_document_untrusted", seed.nitro_documents, _CBOR, is_cbor, 12),
    make_target("cca token", "abi.cca", "parse_token_untrusted", seed.cca_tokens, _CBOR, is_cbor, 14, max_bytes=4000),
    make_target("cbor", "crypto.cbor", "decode_untrusted", seed.cbor_items, _CBOR_OR_NOT, is_cbor, 30, make=_cbor, entries=("read_tag_untrusted",), max_bytes=1500),
    make_target("cose message", "crypto.cose", "parse_sign1_untrusted", seed.cose_messages, _CBOR, is_cbor, 12, make=_sign1, max_bytes=5000),
    make_target("cose key", "crypto.cose", "load_key_untrusted", seed.cose_keys, _CBOR, is_cbor, 30, max_bytes=1200),
    make_target("tpm attest", "abi.tpm", "parse_attest_untrusted", seed.tpm_attests, _ATTEST, _starts(b"\xffTCG\x80\x18"), 90, max_bytes=4200),
    make_target("tpm signature", "abi.tpm", "parse_signature_untrusted", seed.tpm_signatures, _SIGNATURE, _starts(b"\0\x14", b"\0\x16", b"\0\x18"), 90, max_bytes=4200),
    make_target("tpm public area", "abi.tpm", "parse_public_untrusted", seed.tpm_publics, _PUBLIC, _is_public_area, 90, max_bytes=4200),
    make_target("tpm pcr file", "abi.tpm", "parse_pcr_file_untrusted", seed.pcr_files, _PCRS, _is_pcr_file, 50, max_bytes=4200),
    make_target("event log", "abi.event_log", "parse_event_log_untrusted", seed.event_logs, _LOG, _is_event_log, 6, make=_event_log, entries=("replay",)),
    make_target("hcl report", "abi.hcl", "parse_hcl_report_untrusted", seed.hcl_reports, _HCL, _is_hcl_report, 90, max_bytes=9000),
    make_target("azure bundle", "abi.tpm_bundle", "parse_azure_bundle_untrusted", seed.azure_bundles, _JSON, is_json, 1.5, make=_bundle("parse_azure_bundle_untrusted"), max_bytes=40000),
    make_target("tpm bundle", "abi.tpm_bundle", "parse_tpm_bundle_untrusted", seed.tpm_bundles, _JSON, is_json, 4, make=_bundle("parse_tpm_bundle_untrusted"), max_bytes=20000),
    make_target("tpm protobuf", "abi.tpm_bundle", "parse_tpm_protobuf_untrusted", seed.tpm_protobufs, _PROTOBUF, _is_protobuf, 1.5, max_bytes=30000),
    make_target("cmw in cbor", "wire.cmw", "decode_cmw_untrusted", seed.cmws_in_cbor, _CBOR, is_cbor, 12, max_bytes=3000),
    make_target("cmw in json", "wire.cmw", "decode_cmw_untrusted", seed.cmws_in_json, _JSON, is_json, 12, max_bytes=3000),
    make_target("cmw extension", "wire.cmw", "decode_cmw_extension_untrusted", seed.cmw_extensions, by_der, _is_cmw_extension, 14, max_bytes=3000),
    make_target("ear as jwt", "wire.ear", "verify_ear_jwt", seed.ear_jwts, _change_jwt, _is_jwt, 3, make=_ear_jwt, errors=_REFUSALS, max_bytes=3000),
    make_target("ear as cwt", "wire.ear", "verify_ear_cwt", seed.ear_cwts, _SIGNED, is_cbor, 3, make=_ear_cwt, entries=("decode_ear_cwt_untrusted",), errors=_REFUSALS, max_bytes=3000),
    make_target("corim", "wire.corim", "decode_corim_untrusted", seed.corims, _CBOR, is_cbor, 10, make=_corim, max_bytes=3000),
    make_target("signed corim", "wire.corim", "verify_corim", seed.signed_corims, _SIGNED, is_cbor, 3, make=_signed_corim, errors=(*_REFUSALS, "EndorsementError"), max_bytes=3000),
    make_target("enarx request", "abi.enarx_csr", "parse_csr_untrusted", seed.enarx_requests, by_der, _is_request, 4, max_bytes=20000),
    make_target("enarx certificate", "abi.enarx_csr", "parse_certificate_untrusted", seed.enarx_certificates, by_der, is_der, 4),
    make_target("pki path", "abi.enarx_csr", "parse_pki_path_untrusted", seed.pki_paths, by_der, is_der, 4),
    make_target("certificate", "crypto.certificates", "load_certificate_untrusted", seed.certificates, by_der, is_der, 10, make=_certificate, entries=_ASKED, max_bytes=3000),
    make_target("crl", "crypto.certificates", "load_crl_untrusted", seed.crls, by_der, is_der, 8, max_bytes=6000),
    make_target("pem chain", "crypto.certificates", "load_pem_chain_untrusted", seed.pem_chains, by_text, _is_pem, 5, max_bytes=10000),
    make_target("json", "wire.strict_json", "load_json_untrusted", seed.json_texts, _JSON_OR_NOT, is_json, 25, make=_json, max_bytes=4000),
    make_target("hex and base64", "verifier.text_encodings", "decode_text", seed.encoded_texts, by_text, is_base64_or_hex, 40, errors=(), max_bytes=4000),
    make_target("policy", "verifier.policy_toml", "decode_policy", seed.policies, by_lines(_TOML_VALUES), _is_toml, 0.4, make=_policy, more=("verifier.grammar",), entries=("decode",), errors=("ConfigError",)),
    make_target("evidence of any kind", "verifier.recognise", "recognise", seed.evidence_of_all_kinds, _any_structure, _is_recognised, 4, make=_recognise, max_bytes=40000),
    make_target("endorsement files", "verifier.endorsement_files", "read_endorsements", seed.endorsement_files, _any_structure, _is_endorsement, 2, make=_read_endorsements, max_bytes=20000),
    make_target("verdict", _JUDGING[0], "verify_evidence", seed.judged, _change_packed, _is_packed, 1.5, make=_verify, more=_JUDGING[1:], entries=("_examine",), max_bytes=100_000),
    make_target("verdict in words", _WORDS[0], "summarise", seed.judged, _change_packed, _is_packed, 0.5, make=_in_words, more=_WORDS[1:], entries=_SAID, max_bytes=100_000),
)  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TABLE_OF_TARGETS}
