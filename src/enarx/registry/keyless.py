# SPDX-License-Identifier: Apache-2.0
"""A package's keyless signature: a sigstore bundle, whose certificate says whom an issuer vouched for, logged while it was valid.

- Verifying reaches no network and reads no cache: the trust root is the one of the installed `sigstore` package, or a given file.
- Authentic and acceptable are two questions. `verify_bundle` says who signed; whether he may is for `enarx.registry.signatures`.
- The certificate lives for minutes. What makes the signature last is the log's signed time, which has to lie within them; without
  it there is no verdict but no.
- `sigstore` is imported here alone, and only by a call: it takes most of a second. Nothing it raises leaves this module.

Source: sigstore client specification ("Verification"); sigstore bundle v0.3; Fulcio, docs/oid-info.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat import asn1

from enarx.crypto.certificates import X509_ERRORS
from enarx.errors import DecodeError, EnarxError, TransportError, UsageError, VerificationError
from enarx.registry.dsse import require_statement
from enarx.registry.referrers import BUNDLE, MAX_BUNDLE_BYTES
from enarx.wire.dsse import encode_statement
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

if TYPE_CHECKING:
    from sigstore.models import Bundle, ClientTrustConfig

__all__ = ["MAX_TRUST_BYTES", "Keyless", "MadeKeyless", "TrustRoot", "load_trust_root", "sign_keyless", "verify_bundle"]

MAX_TRUST_BYTES = 1 << 20
"""Of a trust root, a signing configuration or a token."""
_MAX_ITEMS = 20_000
_MAX_TOKEN_CHARS = 16_384
_BUNDLE_TYPES = (BUNDLE, "application/vnd.dev.sigstore.bundle+json;version=0.3")

# The clocks of a log and of this machine need not agree to the second.
_CLOCK_SKEW = timedelta(minutes=10)

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_PUBLIC_GOOD = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"

logging.getLogger("sigstore").addHandler(logging.NullHandler())


class Keyless(NamedTuple):
    """Who made an authentic keyless signature.

    Args:
        identity: an e-mail address or a URI.
        issuer: the URL of whoever vouched for it.
        logged_at: the log's signed time, or None where a timestamp authority said when.
        log_index: its entry in the log.
    """

    identity: str
    issuer: str
    logged_at: datetime | None
    log_index: int


class MadeKeyless(NamedTuple):
    """A signature that was just made.

    Args:
        bundle: with its log entry.
        identity: whom the certificate names.
        issuer: who vouched for him.
    """

    bundle: bytes
    identity: str
    issuer: str


class TrustRoot(NamedTuple):
    """Whose certificates and logs are believed.

    Args:
        verifier: sigstore's.
        name: where it comes from, for people.
    """

    verifier: Any
    name: str


def load_trust_root(data: bytes | None = None, *, name: str = "") -> TrustRoot:
    """Return a trust root.

    Args:
        data: sigstore's `trusted_root.json`; None is the public instance's, as it was when the installed package was released.
        name: the file as the user named it, for messages.

    Raises:
        DecodeError: it is none.
    """
    from importlib.metadata import version
    from importlib.resources import files

    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot.v1 import TrustedRoot as Document

    if data is None:
        data = files("sigstore._store").joinpath(_PUBLIC_GOOD, "trusted_root.json").read_bytes()
        name = f"the public instance's, as shipped with sigstore {version('sigstore')}"
    load_json_untrusted(data, what="trust root", max_bytes=MAX_TRUST_BYTES, max_items=_MAX_ITEMS)
    try:
        root = TrustedRoot(Document.from_json(data))
        return TrustRoot(Verifier(trusted_root=root), name)
    except Exception as error:
        raise DecodeError(
            f"cannot read the trust root: {name}: found {_one_line(error)}, want a trusted_root.json of sigstore"
        ) from error


def verify_bundle(data: bytes, digest: str, root: TrustRoot, *, at: datetime) -> Keyless:
    """Return who signed a package.

    Args:
        data: a bundle from a stranger.
        digest: of the package's OCI manifest.
        root: whom to believe.
        at: the time now, aware; an entry of a later time is refused.

    Raises:
        DecodeError: it is no bundle v0.3 with a log entry and its proof.
        VerificationError: it is not authentic, or of another package.
        AppraisalError: it is authentic, and says something else than that the package is signed.
    """
    bundle = _decode_bundle_untrusted(data)
    found: list[tuple[str, str]] = []
    try:
        kind, payload = root.verifier.verify_dsse(bundle, _Recorded(found))
    except EnarxError:
        raise
    except Exception as error:
        # sigstore's own errors, and those of what it decodes on the way: each of them is a no.
        raise VerificationError(
            f"the keyless signature is not authentic: found {_one_line(error)}, want one by {root.name or 'the trust root'}",
            hint="--trust-root FILE where it is of another sigstore instance, or newer than the root in use",
        ) from error
    require_statement(kind, payload, digest)
    (identity, issuer), entry = found[0], bundle.log_entry._inner
    # Only with the log's promise is its time signed; sigstore has verified it then.
    seconds = entry.integrated_time if entry.inclusion_promise else None
    logged_at = datetime.fromtimestamp(seconds, UTC) if seconds else None
    if logged_at is not None and logged_at > at + _CLOCK_SKEW:
        raise VerificationError(
            f"the keyless signature is from the future: found {logged_at:%Y-%m-%dT%H:%M:%SZ}, want {at:%Y-%m-%dT%H:%M:%SZ} or before"
        )
    return Keyless(identity, issuer, logged_at, entry.log_index)


def sign_keyless(
    digest: str, *, token: str | None = None, config: bytes | None = None, timeout_s: float = 120
) -> MadeKeyless:
    """Sign a package with a certificate for an identity, and have the signature logged, in public.

    Args:
        digest: of its OCI manifest.
        token: an OpenID Connect token for sigstore; None is that of the machine, where it is a CI job with one.
        config: sigstore's client trust configuration (trust root and addresses) of another instance than the public one.
        timeout_s: for all that is asked of the services, whose clients have no limits of their own.

    Raises:
        UsageError: there is no token, or one that cannot be used.
        DecodeError: the configuration is none.
        TransportError: a service cannot be reached, or refuses.
    """
    from sigstore.dsse import Statement
    from sigstore.oidc import ExpiredIdentity, IdentityToken
    from sigstore.sign import SigningContext

    text = _ambient_token() if token is None else token.strip()
    if not text or len(text) > _MAX_TOKEN_CHARS:
        raise UsageError(
            f"cannot sign without a key: identity token: found {'none' if not text else f'{len(text)} characters'}, want one",
            hint="--identity-token-file FILE, or --key FILE for a key of your own",
        )
    try:
        identity = IdentityToken(text)
    except Exception as error:
        raise UsageError(
            f"cannot sign without a key: identity token: found {_one_line(error)}, want one that is valid now and meant for sigstore",
            hint="get a new one: they live for minutes",
        ) from error
    trust = None if config is None else _decode_client_trust(config)

    def ask() -> MadeKeyless:
        context = SigningContext.from_trust_config(trust or _fetch_client_trust())
        with context.signer(identity) as signer:
            bundle = signer.sign_dsse(Statement(encode_statement(digest)))
        return MadeKeyless(bundle.to_json().encode(), *_signer_of(bundle.signing_certificate))

    try:
        return _in_time(ask, timeout_s)
    except EnarxError:
        raise
    except ExpiredIdentity as error:
        raise UsageError("cannot sign without a key: identity token: found an expired one, want a new one") from error
    except Exception as error:
        raise TransportError(
            f"cannot sign without a key: sigstore's services: found {_one_line(error)}, want a certificate and a log entry",
            hint="the network has to reach the instance; --key FILE signs without one",
        ) from error


class _Recorded:
    """A policy of sigstore's that accepts any signer, and says who it was: whether he may sign is asked when all is verified."""

    def __init__(self, found: list[tuple[str, str]]) -> None:
        self._found = found

    def verify(self, cert: x509.Certificate) -> None:
        """Take the identity and its issuer out of a certificate that has a chain to the root."""
        self._found.append(_signer_of(cert))


def _signer_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Return the one identity of a certificate and who vouched for it.

    Raises:
        VerificationError: it has none, or several.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identities = [
            name.value for name in names if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier)
        ]
        values = {each.oid: each.value for each in certificate.extensions if each.oid in {_ISSUER, _ISSUER_V2}}
        issuers = {
            asn1.decode_der(str, value.value) if oid == _ISSUER_V2 else value.value.decode()
            for oid, value in values.items()
            if isinstance(value, x509.UnrecognizedExtension)
        }
    except (*X509_ERRORS, x509.ExtensionNotFound) as error:
        raise VerificationError(
            f"the keyless signature's certificate names nobody: found {_one_line(error)}, want an identity and its issuer"
        ) from error
    if len(identities) != 1 or len(list(names)) != 1 or len(issuers) != 1:
        raise VerificationError(
            "the keyless signature's certificate: "
            f"found {len(list(names))} names and {len(issuers)} issuers, want one e-mail address or URI and one issuer"
        )
    return identities[0], issuers.pop()


def _decode_bundle_untrusted(data: bytes) -> Bundle:
    """Decode a bundle without believing it.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    from sigstore.models import Bundle

    document = load_json_untrusted(data, what="sigstore bundle", max_bytes=MAX_BUNDLE_BYTES, max_items=_MAX_ITEMS)
    kind = document.get("mediaType") if isinstance(document, dict) else None
    if kind not in _BUNDLE_TYPES:
        raise DecodeError(f"cannot decode the sigstore bundle: mediaType: found {quote(kind)}, want {BUNDLE}")
    if not isinstance(document.get("dsseEnvelope"), dict):
        raise DecodeError("cannot decode the sigstore bundle: dsseEnvelope: found none, want a signed statement")
    try:
        return Bundle.from_json(data)
    except Exception as error:
        raise DecodeError(
            f"cannot decode the sigstore bundle: found {_one_line(error)}, want a certificate, a signature and a log entry with its proof"
        ) from error


def _fetch_client_trust() -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig

    try:
        return ClientTrustConfig.production()
    except Exception as error:
        raise TransportError(
            f"cannot sign without a key: sigstore's trust root: found {_one_line(error)}, want an answer",
            hint="the network has to reach the public instance; --key FILE signs without one",
        ) from error


def _decode_client_trust(config: bytes) -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig

    load_json_untrusted(config, what="sigstore configuration", max_bytes=MAX_TRUST_BYTES, max_items=_MAX_ITEMS)
    try:
        return ClientTrustConfig.from_json(config.decode())
    except Exception as error:
        raise DecodeError(
            f"cannot read the sigstore configuration: found {_one_line(error)}, want a client trust configuration"
        ) from error


def _in_time(ask: Callable[[], MadeKeyless], timeout_s: float) -> MadeKeyless:
    """Call what has no time limit in a thread that nobody waits for any longer than this.

    Raises:
        TransportError: it takes longer.
        Exception: what it raised.
    """
    answers: list[MadeKeyless] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001  # raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, name="sigstore", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not answers:
        raise TransportError(
            f"cannot sign without a key: sigstore's services: found no answer in {timeout_s:g} s, want one",
            hint="try again, or sign with --key FILE",
        )
    return answers[0]


def _ambient_token() -> str:
    from sigstore.oidc import detect_credential

    try:
        return detect_credential() or ""
    except Exception as error:
        raise TransportError(
            f"cannot sign without a key: this machine's identity token: found {_one_line(error)}, want one",
            hint="--identity-token-file FILE",
        ) from error


def _one_line(error: BaseException) -> str:
    """Say what went wrong in foreign code, with its cause, which often says more."""
    parts = [str(each) or type(each).__name__ for each in (error, error.__cause__) if each is not None]
    return " ".join(": ".join(parts).split()).partition(" For further information")[0][:300]
