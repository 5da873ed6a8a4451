# SPDX-License-Identifier: Apache-2.0
"""Judge evidence of Azure's confidential VMs: hardware evidence that names a virtual TPM's key, and a quote by this key.

    SNP report or TD quote -- report data --> runtime data -- HCLAkPub --> quote -- digest --> PCRs

Rules of this file:

- The hardware's evidence is judged by `snp` or `tdx`, over the same endorsements. What it measures is Microsoft's paravisor,
  which runs above the guest and makes the virtual TPM; what the guest is, the PCRs say. Both are in the findings.
- The caller's challenge is in the quote. The hardware's report data is the runtime data's hash and nothing else.
- The runtime data are decoded after their hash was compared, and whatever they say is a finding and no error.
- A certificate of the attestation key adds nothing to what the hardware says; it is shown, and refused only where it is another
  key's or forged.

Source: Microsoft, "Guest attestation for confidential VMs"; `enarx.abi.hcl`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from enarx.abi.hcl import AK_NAME, HclReport
from enarx.abi.tpm import Attest
from enarx.abi.tpm_bundle import AzureEvidence
from enarx.crypto.certificates import load_certificate_untrusted, name_of
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, Outcome, Skip
from enarx.verifier.grammar import Digests, Flag, Freshness, Grammar, Numbers, Words
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Rule, Setting
from enarx.verifier.registry import judge_of
from enarx.verifier.tpm import (
    LogClaims,
    appraised_bank,
    check_ak_certificate,
    examine_event_logs,
    examine_quotes,
    has_key,
    make_quote_checks,
    pcr_rules,
)
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["JUDGE", "RULES", "AzureClaims"]

_SPEC = "Microsoft, Guest attestation for confidential VMs"
_FRESHNESS = "it binds the virtual TPM's runtime data; the challenge is in the TPM's quote"
_MAX_RUNTIME_BYTES = 8192


def _check(name: str, title: str) -> Check:
    return Check(f"azure.{name}", title, Concern.AUTHENTICITY, _SPEC)


CHECKS = make_quote_checks("azure")
_RUNTIME_BOUND = _check("runtime_data.binding", "the hardware's report in the HCL report binds the runtime data")
_RUNTIME_FORM = _check("runtime_data.form", "the runtime data are JSON with one attestation key")
_TD_QUOTE = _check("td_quote.present", "a TD quote came along with the HCL report of a TDX VM")
_TD_BOUND = _check("td_quote.binding", "the TD quote binds the runtime data")
_SAME_TEE = _check("hcl.tee", "no TD quote came along with the HCL report of an SNP VM")
_QUOTE = _check("quote.present", "a quote by the virtual TPM came along")
_AK_CERTIFICATE = _check("ak_certificate.key", "the certificate that came along is of the attestation key")
_AK_CHAIN = _check("ak_certificate.chain", "a certificate vouches for the attestation key; optional")
_MEASURED = _check("hardware.measures", "what the hardware measured is the paravisor; the guest is in the PCRs")


class AzureClaims(NamedTuple):
    """What the paravisor and its virtual TPM say.

    Args:
        hcl: the HCL report.
        runtime: its runtime data, decoded; empty where they are not well formed.
        attest: the quote, or None.
        bank: that is appraised, or None.
        pcrs: its values by index.
        ak_sha256: of the attestation key's SubjectPublicKeyInfo in DER, or None.
        ak_certificate: `verified`, `incomplete`, `outdated`, `forged` or `absent`.
        ak_chain: the same for people, or None where there is no certificate.
        log: what event logs say that replay.
    """

    hcl: HclReport
    runtime: Mapping[str, Any]
    attest: Attest | None
    bank: str | None
    pcrs: Mapping[int, bytes]
    ak_sha256: bytes | None
    ak_certificate: str
    ak_chain: str | None
    log: LogClaims

    @property
    def user_data(self) -> bytes | None:
        """What the guest asked the paravisor to bind: 64 bytes, or None where it is not well formed."""
        value = self.runtime.get("user-data")
        return bytes.fromhex(value) if isinstance(value, str) and _USER_DATA(value) else None

    def configured(self, key: str) -> Any:
        """Return a value of the VM's configuration, or None where it is not there."""
        configuration = self.runtime.get("vm-configuration")
        return configuration.get(key) if isinstance(configuration, dict) else None

    def flag(self, key: str) -> bool | None:
        """Return a yes or no of the VM's configuration, or None where it is neither."""
        value = self.configured(key)
        return value if isinstance(value, bool) else None

    def named(self) -> Mapping[str, object]:
        """Return the claims by Microsoft's and the TCG's names in snake case."""
        attest = self.attest
        return {
            "hcl_version": self.hcl.version,
            "hcl_report_type": self.hcl.report_type,
            "runtime_data_sha256": hashlib.sha256(self.hcl.runtime_data).digest(),
            "vm_configuration": self.runtime.get("vm-configuration"),
            "user_data": self.user_data,
            "ak_kid": AK_NAME if self.ak_sha256 is not None else None,
            "ak": self.ak_sha256,
            "ak_chain": self.ak_chain,
            "nonce": attest.extra_data if attest is not None else None,
            "pcr_digest": attest.pcr_digest if attest is not None else None,
            "firmware": attest.firmware if attest is not None else None,
            "bank": self.bank,
            "pcrs": {str(index): value for index, value in sorted(self.pcrs.items())},
            "event_log_replays": self.log.replays,
            "secure_boot": self.log.secure_boot,
        }


_USER_DATA = re.compile(r"[0-9A-Fa-f]{128}").fullmatch
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,1366}").fullmatch


def _examine(parsed: AzureEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    hcl, attest = parsed.hcl, parsed.quote.attest if parsed.quote is not None else None
    known = Endorsements(certificates=parsed.certificates) + endorsements
    _examine_binding(hcl, _RUNTIME_BOUND, hcl.report_data, "the HCL report", ledger)
    runtime, spki = _examine_runtime_data(hcl, ledger)
    inner = _examine_hardware(parsed, known, setting, ledger)
    ledger.note(_MEASURED, f"{hcl.tee} evidence of Microsoft's paravisor", _SPEC)
    values: dict[str, dict[int, bytes]] = {}
    if parsed.quote is None:
        ledger.doubt(_QUOTE, expected="a TPM quote", found=None, source="the evidence")
    elif spki is not None:
        values = examine_quotes((parsed.quote,), spki, CHECKS, setting, ledger)
    log = examine_event_logs((*parsed.event_logs, *endorsements.event_logs), values, CHECKS.log, ledger)
    certificates = tuple(dict.fromkeys((*parsed.ak_certificates, *endorsements.certificates)))
    status, chain = _examine_ak_certificate(parsed.ak_certificates, certificates, spki, setting, ledger)
    bank = appraised_bank((attest,)) if attest is not None else None
    claims = AzureClaims(
        hcl,
        runtime,
        attest,
        bank,
        values.get(bank, {}) if bank is not None else {},
        hashlib.sha256(spki).digest() if spki is not None else None,
        status,
        chain,
        log,
    )
    tee = f"azure-{hcl.tee}"
    if inner is None:
        return Examined((Part("azure", claims),), tee)
    parts = tuple(Part(part.section, part.claims, _FRESHNESS) for part in inner.parts)
    return inner._replace(parts=(*parts, Part("azure", claims)), tee=tee)


def _examine_binding(hcl: HclReport, check: Check, report_data: bytes, source: str, ledger: Ledger) -> None:
    wanted = hashlib.new(hcl.hash, hcl.runtime_data).digest().ljust(64, b"\0")
    ledger.require(check, report_data == wanted, expected=wanted, found=report_data, source=source)


def _examine_runtime_data(hcl: HclReport, ledger: Ledger) -> tuple[Mapping[str, Any], bytes | None]:
    """Decode the runtime data; return them and the attestation key that they name, as SubjectPublicKeyInfo in DER."""
    runtime: Mapping[str, Any] = {}
    spki: bytes | None = None
    wanted = f"JSON with one RSA key {AK_NAME}"
    try:
        decoded = load_json_untrusted(hcl.runtime_data, what="runtime data", max_bytes=_MAX_RUNTIME_BYTES)
        if not isinstance(decoded, dict):
            raise DecodeError(f"found {type(decoded).__name__}")
        runtime = decoded
        spki = _load_jwk(runtime.get("keys"))
        found = f"SHA-256 of the key: {hashlib.sha256(spki).hexdigest()}"
    except DecodeError as error:
        found = str(error)
    ledger.require(_RUNTIME_FORM, spki is not None, expected=wanted, found=found, source="the HCL report")
    return runtime, spki


def _load_jwk(keys: object) -> bytes:
    """Return the attestation key of a JSON Web Key set.

    Raises:
        DecodeError: there is not exactly one, or it is no RSA key for signatures.
    """
    named = (
        [key for key in keys if isinstance(key, dict) and key.get("kid") == AK_NAME] if isinstance(keys, list) else []
    )
    if len(named) != 1:
        raise DecodeError(f"found {len(named)} keys {AK_NAME}")
    key = named[0]
    if key.get("kty") != "RSA" or key.get("key_ops", ["sign"]) != ["sign"]:
        raise DecodeError(f"found a key {AK_NAME} of another type or use")
    try:
        numbers = rsa.RSAPublicNumbers(_number(key.get("e")), _number(key.get("n")))
        public = numbers.public_key()
    except ValueError as error:
        raise DecodeError(f"found a key {AK_NAME} that is none: {error}") from error
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _number(value: object) -> int:
    if not isinstance(value, str) or not _BASE64URL(value):
        raise ValueError("no base64url")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
    except binascii.Error as error:
        raise ValueError("no base64url") from error


def _examine_hardware(
    parsed: AzureEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger
) -> Examined | None:
    """Have the hardware's evidence judged; None where there is none."""
    hcl, td_quote = parsed.hcl, parsed.td_quote
    # A log that came for the virtual TPM is none of the RTMRs'.
    certificates_only = Endorsements(
        certificates=endorsements.certificates, crls=endorsements.crls, intel=endorsements.intel
    )
    if parsed.snp_report is not None:
        from enarx.verifier.snp import SnpEvidence

        found = "tdx" if td_quote is not None else "snp"
        ledger.require(_SAME_TEE, found == "snp", expected="snp", found=found, source="the HCL report")
        return judge_of("snp").examine(SnpEvidence(parsed.snp_report), certificates_only, setting, ledger)
    if td_quote is None:
        ledger.doubt(_TD_QUOTE, expected="a TD quote", found=None, source="the evidence")
        return None
    from enarx.verifier.tdx import TdxEvidence

    _examine_binding(hcl, _TD_BOUND, td_quote.report.report_data, "the TD quote", ledger)
    return judge_of("tdx").examine(TdxEvidence(td_quote), certificates_only, setting, ledger)


def _examine_ak_certificate(
    own: tuple[bytes, ...], certificates: tuple[bytes, ...], spki: bytes | None, setting: Setting, ledger: Ledger
) -> tuple[str, str | None]:
    """Record what certificates say about the attestation key; return the status, as a word and for people."""
    leaf = None
    if spki is not None:
        leaf = next((der for der in certificates if has_key(load_certificate_untrusted(der), spki)), None)
        if own and leaf != own[0]:
            ledger.require(
                _AK_CERTIFICATE,
                passed=False,
                expected=hashlib.sha256(spki).digest(),
                found=name_of(load_certificate_untrusted(own[0])),
                source="the certificate that came along",
            )
    if leaf is None:
        ledger.note(_AK_CHAIN, "no certificate", "the hardware names the key")
        return "absent", None
    ledger.require(
        _AK_CERTIFICATE,
        passed=True,
        expected=name_of(load_certificate_untrusted(leaf)),
        found="its key",
        source="the certificate",
    )
    # On their own, because here they inform and do not decide.
    aside = Ledger()
    described = check_ak_certificate(leaf, certificates, setting, aside)
    failed = [finding for finding in aside.findings if finding.outcome is Outcome.FAILED]
    if described.chain is None:
        missing = _missing_issuer(leaf, certificates, setting)
        status, text = ("incomplete", f"incomplete ({missing} not given)") if missing else ("forged", failed[0].line)
    elif failed:
        status, text = "outdated", failed[0].line
    else:
        status, text = "verified", f"complete ({described.chain.anchor})"
    if status == "forged":
        ledger.require(
            _AK_CHAIN, passed=False, expected="signatures of its issuers", found=text, source="the certificate"
        )
    else:
        ledger.note(_AK_CHAIN, text, "the certificate")
    return status, text


def _missing_issuer(leaf: bytes, certificates: tuple[bytes, ...], setting: Setting) -> str | None:
    """Return the name of the first issuer that nobody gave, or None where all are there."""
    known = {each.subject: each for each in map(load_certificate_untrusted, (*certificates, *setting.anchors.tpm))}
    current = load_certificate_untrusted(leaf)
    for _ in range(len(known) + 1):
        if current.issuer == current.subject:
            return None
        issuer = known.get(current.issuer)
        if issuer is None:
            names = current.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
            return str(names[-1].value) if names else current.issuer.rfc4514_string()
        current = issuer
    return None


# The appraisal

_NO_POLICY = Skip("no policy was given")


def _rule(name: str, title: str, read: Callable[[AzureClaims], object], grammar: Grammar, strict: str | None) -> Rule:
    key = f"azure.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, _SPEC), read, grammar, strict, _NO_POLICY)


def _configuration(name: str, key: str, title: str, strict: str) -> Rule:
    return _rule(f"vm_configuration.{name}", title, lambda claims: claims.flag(key), Flag(), strict)


RULES: tuple[Rule, ...] = (
    _rule(
        "nonce",
        "the quote answers the caller's challenge",
        lambda claims: claims.attest.extra_data if claims.attest is not None else None,
        Freshness(None),
        '"from-caller"',
    ),
    _rule(
        "paravisor",
        "the relying party trusts whose paravisor runs above the guest and makes its virtual TPM",
        lambda _: "microsoft",
        Words("microsoft"),
        '["microsoft"]',
    ),
    _rule(
        "hcl_report_type",
        "the hardware is of an accepted kind: 2 is SEV-SNP, 4 is TDX",
        lambda claims: claims.hcl.report_type,
        Numbers(4),
        "[2, 4]",
    ),
    _rule(
        "user_data",
        "the guest had accepted user data bound",
        lambda claims: claims.user_data,
        Digests(64),
        '{ skip = "the challenge is in the quote" }',
    ),
    _rule(
        "vm_id",
        "the VM is an accepted one, by its unique id",
        lambda claims: _text(claims, "vmUniqueId"),
        Words(),
        None,
    ),
    _rule(
        "ak",
        "the attestation key is an accepted one, by the SHA-256 of its SubjectPublicKeyInfo",
        lambda claims: claims.ak_sha256,
        Digests(32),
        None,
    ),
    _rule(
        "ak_certificate",
        "the attestation key's certificate is in an accepted state",
        lambda claims: claims.ak_certificate,
        Words("verified", "incomplete", "outdated", "absent"),
        '{ skip = "the hardware names the key" }',
    ),
    _configuration("secure_boot", "secure-boot", "the VM is configured with Secure Boot", '"required"'),
    _configuration("tpm_enabled", "tpm-enabled", "the VM is configured with a virtual TPM", '"required"'),
    _configuration("tpm_persisted", "tpm-persisted", "the virtual TPM keeps its state", '{ skip = "either is fine" }'),
    _configuration(
        "console_enabled", "console-enabled", "the VM has a console", '{ skip = "Azure enables it everywhere" }'
    ),
    _rule(
        "vm_configuration.root_cert_thumbprint",
        "the VM is configured with an accepted root certificate",
        lambda claims: _text(claims, "root-cert-thumbprint"),
        Words(),
        '{ skip = "it is Azure\'s own" }',
    ),
    *pcr_rules("azure"),
)


def _text(claims: AzureClaims, key: str) -> str | None:
    value = claims.configured(key)
    return value if isinstance(value, str) else None


JUDGE = Judge(section="azure", examine=_examine, rules=RULES)
