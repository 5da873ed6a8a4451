# SPDX-License-Identifier: Apache-2.0
"""Which workloads may be at the other end of a TLS connection, by what a Steward certified of them.

The chain was verified before, and ends in the Steward's root and in nothing else: so what the certificate says of its Keep is the
Steward's word. A rule names a package and the tenant for whom it runs, because anybody can deploy somebody else's package with
arguments of his own; `any` tenant will do only for a package to which nothing was added.

A peer on an emulated platform, which anybody can be, is none; but for one whose own certificate of that Steward says the same of
itself: nothing protects that one anyway.
"""

from __future__ import annotations

from enarx.errors import DecodeError, EnarxError, TransportError
from enarx.wire.keep_certificate import decode_keep_certificate_untrusted, is_marked_emulated_untrusted
from enarx.wire.release import decode_identity_untrusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PeerRules"]

_ANY = "any"
_HINT = "[tls] peers of Enarx.toml, or --peer PACKAGE:TENANT when it was deployed, says who may be here"


class PeerRules:
    """The peers that are welcome.

    Args:
        peers: SHA-256 of the package and SHA-384 of the tenant's key, in hex; or `any` for the tenant.
        own: returns the certificate, in DER, that is shown here; None where none of a Steward's is.
    """

    def __init__(self, peers: Sequence[tuple[str, str]], *, own: Callable[[], bytes] | None = None) -> None:
        self._peers = frozenset(peers)
        self._own = own

    def require(self, certificate: bytes) -> None:
        """Return only if a certificate is that of a peer.

        Args:
            certificate: in DER, verified to be of the Steward.

        Raises:
            TransportError: it is another's, which the message names, or none of a Keep.
        """
        try:
            keep = decode_keep_certificate_untrusted(certificate)
            identity = decode_identity_untrusted(keep.identity)
            is_emulated = is_marked_emulated_untrusted(certificate)
        except DecodeError as error:
            raise TransportError("certificate says nothing of a Keep, want that of a peer", hint=_HINT) from error
        if keep.result is None:
            raise TransportError("certificate has no result of a Steward, want that of a peer", hint=_HINT)
        if is_emulated and not self._is_emulated_itself():
            raise TransportError(
                "certificate is that of an EMULATED platform, which protects nothing, want a genuine one",
                hint="a Keep on a genuine platform has no emulated peers; its Steward's policy says who gets such certificates",
            )
        package, tenant = identity.package.hex(), identity.tenant.hex()
        if (package, tenant) in self._peers or (identity.pristine and (package, _ANY) in self._peers):
            return
        given = "as it is" if identity.pristine else "with something given beyond it"
        raise TransportError(
            f"certificate is that of package {package} {given} for tenant {tenant}, want one of the peers", hint=_HINT
        )

    def _is_emulated_itself(self) -> bool:
        try:
            return self._own is not None and is_marked_emulated_untrusted(self._own())
        except EnarxError:
            return False
