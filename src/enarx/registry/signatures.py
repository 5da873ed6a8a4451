# SPDX-License-Identifier: Apache-2.0
"""Whether a package is signed by somebody who may.

- One signature of one signer who may sign is enough; others beside it, false ones too, change nothing, because whoever may write
  to a repository can attach anything.
- Without one the answer is no. It is a `VerificationError` where a signature claims a signer who did not make it, or is not
  authentic at all; else an `AppraisalError`: nothing is attached, or it is somebody else's.
- A registry that cannot be asked is neither (`TransportError`).
- What counts is the OCI manifest's digest, which the caller took from bytes he has hashed.

The two kinds stay apart: a key never vouches for an identity, nor an identity for a key, and a `Signature` says which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from enarx.crypto.signature_keys import key_id_of
from enarx.errors import AppraisalError, DecodeError, EnarxError, VerificationError
from enarx.rats.signers import PackageSigner
from enarx.registry.content import Source
from enarx.registry.dsse import verify_envelope
from enarx.registry.referrers import BUNDLE, Attached, attached
from enarx.wire.quoting import quote

if TYPE_CHECKING:
    from enarx.registry.keyless import TrustRoot

__all__ = ["KEYLESS", "LOCAL_KEY", "Judged", "Signature", "judge_signatures", "require_signed"]

LOCAL_KEY = "local key"
KEYLESS = "keyless"

_MAX_TOLD = 5


class Signature(NamedTuple):
    """An authentic signature of a package by somebody who may sign it.

    Args:
        kind: `LOCAL_KEY` or `KEYLESS`.
        signer: the policy's name for him.
        key: of a local key: `sha256:` and the digest of its SubjectPublicKeyInfo; else None.
        identity: of a keyless one: an e-mail address or URI; else None.
        issuer: who vouched for the identity; else None.
        logged_at: when the log entered it; None of a local key, which has no time.
        artifact: the digest of the manifest that holds it.
    """

    kind: str
    signer: str
    key: str | None
    identity: str | None
    issuer: str | None
    logged_at: datetime | None
    artifact: str

    @property
    def line(self) -> str:
        """Say it in words that fit the one kind only."""
        if self.kind == LOCAL_KEY:
            return f"local key {self.key} ({self.signer}): no log, no time"
        when = f"logged {self.logged_at:%Y-%m-%dT%H:%M:%SZ}" if self.logged_at else "timestamped, and logged"
        return f"keyless: {self.identity}, vouched for by {self.issuer} ({self.signer}): {when}"


class Judged(NamedTuple):
    """What came of all that is attached to a package.

    Args:
        accepted: signatures by those who may sign.
        refused: of each other one, its artifact's digest and why.
        left_out: how many more are attached, which nobody looked at.
    """

    accepted: tuple[Signature, ...]
    refused: tuple[tuple[str, EnarxError], ...]
    left_out: int


def require_signed(
    source: Source,
    digest: str,
    signers: Iterable[PackageSigner],
    *,
    at: datetime,
    repository: str | None = None,
    trust_root: bytes | None = None,
) -> tuple[Signature, ...]:
    """Return the signatures of a package by those who may sign it, at least one.

    Args:
        source: where the package is.
        digest: of its OCI manifest, of bytes that were hashed.
        signers: everybody whom the policy names.
        at: the time now, aware.
        repository: `host/name` of the registry it comes from; None is no registry, for which no signer of some repositories counts.
        trust_root: sigstore's `trusted_root.json`, for keyless signatures; None is the shipped one.

    Raises:
        AppraisalError: no signature of theirs is attached, or nobody may sign.
        VerificationError: none is, and one that is attached is false.
        TransportError: what is attached cannot be read.
        DecodeError: the list of it, or the trust root, is not well formed.
    """
    may = tuple(signer for signer in signers if signer.may_sign_for(repository))
    if not may:
        raise AppraisalError(
            f"the package is refused: signer: found nobody who may sign for {repository or 'packages that are in no registry'}, "
            "want one",
            hint="[[package.signer]] in the policy says who may sign, and for which repository",
        )
    judged = judge_signatures(source, digest, may, at=at, trust_root=trust_root)
    if judged.accepted:
        return judged.accepted
    raise _refusal(digest, judged, may)


def judge_signatures(
    source: Source, digest: str, signers: Sequence[PackageSigner], *, at: datetime, trust_root: bytes | None = None
) -> Judged:
    """Look at each signature of a package.

    Args:
        source: as for `require_signed`, like the others.
        digest: of the OCI manifest.
        signers: who may sign this package.
        at: the time now.
        trust_root: for keyless signatures.

    Raises:
        TransportError: what is attached cannot be read.
        DecodeError: the list of it, or the trust root, is not well formed.
    """
    found = attached(source, digest)
    judge = _Judge(digest, signers, at, trust_root)
    accepted: list[Signature] = []
    refused: list[tuple[str, EnarxError]] = []
    for each in found.signatures:
        try:
            accepted.append(judge.judge(each))
        except (DecodeError, VerificationError, AppraisalError) as error:
            refused.append((each.digest, error))
    return Judged(tuple(accepted), tuple(refused), found.left_out)


class _Judge:
    """Judges signatures of one package; the trust root is loaded for the first keyless one."""

    def __init__(self, digest: str, signers: Sequence[PackageSigner], at: datetime, trust_root: bytes | None) -> None:
        self._digest = digest
        self._at = at
        self._root: TrustRoot | None = None
        self._keys = {signer.key: signer for signer in reversed(signers) if signer.key is not None}
        self._identities = {
            (signer.identity, signer.issuer): signer for signer in reversed(signers) if signer.key is None
        }
        if self._identities:
            # Even if nothing keyless is attached: a root that cannot be read is told, not passed over.
            from enarx.registry.keyless import load_trust_root

            self._root = load_trust_root(trust_root, name="the given trust root")

    def judge(self, each: Attached) -> Signature:
        """Return an accepted signature.

        Raises:
            DecodeError: it is not well formed.
            VerificationError: it is false.
            AppraisalError: it is by somebody who may not sign.
        """
        if each.fault is not None:
            raise each.fault
        return self._judge_keyless(each) if each.media_type == BUNDLE else self._judge_key(each)

    def _judge_key(self, each: Attached) -> Signature:
        if not self._keys:
            raise AppraisalError("the signature is of a local key: found no such key among the signers, want one")
        key = verify_envelope(each.data, self._digest, tuple(self._keys))
        return Signature(LOCAL_KEY, self._keys[key].name, key_id_of(key), None, None, None, each.digest)

    def _judge_keyless(self, each: Attached) -> Signature:
        if self._root is None:
            raise AppraisalError("the signature is keyless: found no identity among the signers, want one")
        from enarx.registry.keyless import verify_bundle

        made = verify_bundle(each.data, self._digest, self._root, at=self._at)
        signer = self._identities.get((made.identity, made.issuer))
        if signer is None:
            wanted = " or ".join(f"{identity} of {issuer}" for identity, issuer in list(self._identities)[:_MAX_TOLD])
            raise AppraisalError(
                f"the keyless signature is somebody else's: found {quote(made.identity)} of {quote(made.issuer)}, want {wanted}"
            )
        return Signature(KEYLESS, signer.name, None, made.identity, made.issuer, made.logged_at, each.digest)


def _refusal(digest: str, judged: Judged, signers: Sequence[PackageSigner]) -> EnarxError:
    """Return what a package without an accepted signature is refused with."""
    want = "a signature by " + " or ".join(signer.name for signer in signers[:_MAX_TOLD])
    if not judged.refused:
        return AppraisalError(
            f"the package is not signed: {digest}: found no signature attached, want {want}",
            hint="enarx package sign REF --key FILE attaches one",
        )
    told = "; ".join(str(error) for _, error in judged.refused[:_MAX_TOLD])
    more = len(judged.refused) - _MAX_TOLD + judged.left_out if len(judged.refused) > _MAX_TOLD else judged.left_out
    if more:
        told += f"; and {more} more"
    if any(isinstance(error, VerificationError) for _, error in judged.refused):
        return VerificationError(f"the package's signature is false: {digest}: {told}; want {want}")
    return AppraisalError(f"the package is not signed by anybody who may: {digest}: {told}; want {want}")
