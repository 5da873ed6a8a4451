# SPDX-License-Identifier: Apache-2.0
"""A key that stays in a token: a hardware security module, or what behaves like one, reached by PKCS #11.

Rules of this file:

- The key never leaves its token: one that is made here is sensitive and cannot be extracted, and nothing here asks for its value.
- What is used is a key on P-384 whose public key is beside it, and a signature of it is verified before anything else is signed.
- All calls of modules are made by one thread, because they are initialised without locks; whoever waits for it waits no longer than
  `TOKEN_TIMEOUT_S`.
- Where a token does not answer as it should, it is opened anew, once for each signature. A PIN that was refused is not shown again by
  this process, nor by any where it would be the last that the token takes before it locks.

Source: PKCS #11 3.1 sections 5.1 (CKR values), 6.3.3 (EC keys) and 6.3.12 (CKM_ECDSA).
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.user_files import read_key_file

if TYPE_CHECKING:
    from enarx.steward.key_uris import KeyUri

__all__ = ["TokenError", "TokenKey", "make_token_key", "open_token_key"]

MAX_PIN_BYTES = 255
TOKEN_TIMEOUT_S = 20.0
"""For a signature, or for opening a token; a process that judges is given a minute for all of it."""

_CURVE = ec.SECP384R1
_TRIAL = ec.ECDSA(hashes.SHA384())

_T = TypeVar("_T")

_caller = ThreadPoolExecutor(1, thread_name_prefix="token")


class TokenError(PlatformError):
    """A token that had a key does not sign with it now. What it says of that is for the operator alone."""


class _PinRefusedError(UsageError):
    """A token does not take the PIN, or would lock after it."""


def _called(uri: KeyUri, work: Callable[[], _T]) -> _T:
    """Do something with a token, in the thread that does all of that."""
    done = _caller.submit(work)
    try:
        return done.result(TOKEN_TIMEOUT_S)
    except TimeoutError as error:
        done.cancel()
        raise PlatformError(
            f"cannot use the key {uri}: {uri.module}: found no answer within {TOKEN_TIMEOUT_S:.0f} s, want one sooner"
        ) from error


class _Opened(NamedTuple):
    """A session that is logged in.

    Args:
        session: of `pkcs11`.
        private: signs.
        public: what verifies that.
    """

    session: Any
    private: Any
    public: ec.EllipticCurvePublicKey


class TokenKey(ec.EllipticCurvePrivateKey):
    """A private key on P-384 that signs in its token; for any number of threads, one after the other.

    Args:
        uri: where it is.
        opened: a session with it.
    """

    def __init__(self, uri: KeyUri, opened: _Opened) -> None:
        self.uri = uri
        self._opened: _Opened | None = opened
        self._public = opened.public
        self._refused: _PinRefusedError | None = None

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-384."""
        return _CURVE()

    @property
    def key_size(self) -> int:
        """In bits."""
        return _CURVE().key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return what verifies its signatures."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign in the token.

        Args:
            data: bytes, which are hashed here.
            signature_algorithm: ECDSA.

        Returns:
            The signature in DER, as X.509 has it.

        Raises:
            TokenError: the token does not sign, nor when it is opened anew.
        """
        digest = _digest(data, signature_algorithm)
        try:
            return _called(self.uri, lambda: self._sign(digest))
        except (UsageError, ConfigError, PlatformError) as error:
            raise TokenError(str(error), hint=error.hint) from error

    def _sign(self, digest: bytes) -> bytes:
        from pkcs11 import PKCS11Error

        if self._opened is not None:
            try:
                return _sign(self._opened, digest)
            except PKCS11Error:
                # A token that was taken away and came back, or a module that lost its connection.
                self._opened = None
        self._opened = self._open_anew()
        with _said(self.uri):
            return _sign(self._opened, digest)

    def _open_anew(self) -> _Opened:
        if self._refused is not None:
            raise self._refused
        with _said(self.uri):
            _module(self.uri).reinitialize()
        try:
            opened = _open(self.uri)
        except _PinRefusedError as error:
            self._refused = error
            raise
        if opened.public != self._public:
            opened.session.close()
            raise ConfigError(f"cannot use the key {self.uri}: found another one than before, want that one")
        return opened

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Refuse: it signs.

        Raises:
            UnsupportedAlgorithm: always.
        """
        _refuse("derive keys")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refuse: it is in its token.

        Raises:
            UnsupportedAlgorithm: always.
        """
        _refuse("leave its token")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002  # its name in cryptography
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Refuse: it is in its token.

        Raises:
            UnsupportedAlgorithm: always.
        """
        _refuse("leave its token")


def _refuse(what: str) -> NoReturn:
    raise UnsupportedAlgorithm(f"a key in a token does not {what}")


@functools.lru_cache(maxsize=8)
def open_token_key(uri: KeyUri) -> TokenKey:
    """Return a key that is in its token, the same one each time in this process.

    Args:
        uri: where it is.

    Raises:
        UsageError: the PIN cannot be read, or is refused.
        ConfigError: the key is none on P-384, or the public key beside it is another's.
        PlatformError: `pkcs11` is not installed, or the module, the token or the key is not there.
    """
    return TokenKey(uri, _called(uri, lambda: _open(uri)))


def make_token_key(uri: KeyUri) -> tuple[TokenKey, bool]:
    """Return the key of a URI, made in the token where there is none, and whether it was made.

    Args:
        uri: where it is, with a label if it is to be made.

    Raises:
        UsageError: the PIN cannot be read, or is refused.
        ConfigError: a key is there and cannot be used, or there is none and the URI has no label for it.
        PlatformError: `pkcs11` is not installed, the module or the token is not there, or it makes none.
    """
    is_new = _called(uri, lambda: _make(uri))
    return open_token_key(uri), is_new


def _make(uri: KeyUri) -> bool:
    """Make a key where there is none, and say so."""
    with _connect(uri, is_writing=True) as session, _said(uri):
        if _has_key(session, uri):
            return False
        _generate(session, uri)
    return True


def _has_key(session: Any, uri: KeyUri) -> bool:
    from pkcs11 import Attribute, ObjectClass

    wanted: dict[Attribute, object] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.label is not None:
        wanted[Attribute.LABEL] = uri.label
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    # To its end: a search that is given up leaves the session searching.
    return bool(list(session.get_objects(wanted)))


def _generate(session: Any, uri: KeyUri) -> None:
    from pkcs11 import Attribute, KeyType, MechanismFlag
    from pkcs11.util.ec import encode_named_curve_parameters

    if uri.label is None:
        raise ConfigError(f"cannot make the key {uri}: found no label in its URI, want one for a new key: object=NAME")
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVE.name)}
    session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
        store=True,
        label=uri.label,
        id=secrets.token_bytes(8) if uri.id is None else uri.id,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )


def _open(uri: KeyUri) -> _Opened:
    """Open a session with the key, and have it sign once."""
    # First, because it says so where `pkcs11` is not installed.
    session = _connect(uri)
    from pkcs11 import ObjectClass

    with ExitStack() as closing, _said(uri):
        closing.enter_context(session)
        private = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=uri.label, id=uri.id)
        # Those of one pair have one identifier, where they have any; others may have the same label.
        beside = {"id": private.id} if private.id else {"label": private.label}
        public = _read_public(session.get_key(object_class=ObjectClass.PUBLIC_KEY, **beside), uri)
        opened = _Opened(session, private, public)
        trial = secrets.token_bytes(_CURVE.key_size // 8)
        try:
            public.verify(_sign(opened, _digest(trial, _TRIAL)), trial, _TRIAL)
        except InvalidSignature as error:
            raise ConfigError(
                f"cannot use the key {uri}: found another one's public key beside it, want its own"
            ) from error
        closing.pop_all()
        return opened


def _connect(uri: KeyUri, *, is_writing: bool = False) -> Any:
    """Return a session, logged in where the token wants that."""
    module = _module(uri)
    from pkcs11 import TokenFlag

    pin = None if uri.pin_file is None else _read_pin(uri.pin_file)
    with _said(uri):
        token = module.get_token(
            token_label=uri.token, token_serial=None if uri.serial is None else uri.serial.encode()
        )
        if pin is None and token.flags & TokenFlag.LOGIN_REQUIRED:
            raise UsageError(
                f"cannot use the key {uri}: found a token that asks for a PIN, want the file that has it",
                hint="add pin-source=file:/FILE to the key's URI",
            )
        if pin is not None and token.flags & (TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED):
            raise _PinRefusedError(
                f"cannot use the key {uri}: found that its token is locked, or will be by one wrong PIN more, want none of it",
                hint=f"log in with a tool of the token's own, and see that {uri.pin_file} has the PIN that it takes",
            )
        return token.open(rw=is_writing, user_pin=pin)


def _module(uri: KeyUri) -> Any:
    try:
        import pkcs11
    except ModuleNotFoundError as error:
        raise PlatformError(
            "cannot use a key in a token: found no module pkcs11, want python-pkcs11",
            hint="pip install 'enarx[pkcs11]'",
        ) from error
    with _said(uri):
        return pkcs11.lib(uri.module)


def _read_pin(path: str) -> str:
    data = read_key_file(path, what="the PIN", is_secret=True, max_bytes=MAX_PIN_BYTES)
    try:
        pin = data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        pin = ""
    if not pin or "\n" in pin:
        raise UsageError(f"cannot read the PIN: {path}: found no line of UTF-8, or several, want the PIN alone")
    return pin


def _read_public(key: Any, uri: KeyUri) -> ec.EllipticCurvePublicKey:
    from pkcs11 import KeyType
    from pkcs11.util.ec import encode_ec_public_key

    if key.key_type is KeyType.EC:
        try:
            public = serialization.load_der_public_key(encode_ec_public_key(key))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            public = None
        if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, _CURVE):
            return public
    raise ConfigError(f"cannot use the key {uri}: found another kind, want one on P-384")


def _digest(data: Any, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
    if not isinstance(algorithm, ec.ECDSA) or not isinstance(algorithm.algorithm, hashes.HashAlgorithm):
        _refuse("sign what was hashed elsewhere")
    hashed = hashes.Hash(algorithm.algorithm)
    hashed.update(data)
    return hashed.finalize()


def _sign(opened: _Opened, digest: bytes) -> bytes:
    from pkcs11 import Mechanism

    signature: bytes = opened.private.sign(digest, mechanism=Mechanism.ECDSA)
    half = len(signature) // 2
    return utils.encode_dss_signature(*(int.from_bytes(each) for each in (signature[:half], signature[half:])))


@contextmanager
def _said(uri: KeyUri) -> Iterator[None]:
    """Say what a module says as an error of ours."""
    import pkcs11

    try:
        yield
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinExpired, pkcs11.PinLocked) as error:
        raise _PinRefusedError(
            f"cannot use the key {uri}: found that its token refuses the PIN ({type(error).__name__}), want the right one",
            hint=f"look at {uri.pin_file}; tokens lock after a few wrong ones",
        ) from error
    except pkcs11.PKCS11Error as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PlatformError(
            f"cannot use the key {uri}: {uri.module}: found {said}, want a token that signs with it",
            hint=f"pkcs11-tool --module {uri.module} --list-slots shows the tokens, --list-objects what is in one",
        ) from error
