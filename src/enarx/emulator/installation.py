# SPDX-License-Identifier: Apache-2.0
"""The emulated platform of one installation: its vendor's keys, its chip's secret, and what it hands out, in one private folder.

Layout of the folder, which is the user's alone::

    ark.der, ark.key    the root certificate, and its key; who accepts this platform names the digest of the first
    ask.der, ask.key    who signs the chip's certificate
    chip.secret         of which the chip's number and its signing keys follow
    vcek.der, crl.der   the certificate of the chip's signing key, and the root's revocation list: made again before they end

Rules of this file:

- There is one platform in a folder. It is made in a folder beside and renamed, by whoever has the lock, so that processes that
  start at once see a whole one, the same one, or wait.
- Answering needs no key of the vendor, so opening a platform makes no certificate but when one is about to end.
- The clock is the caller's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    CRL_GUID,
    VCEK_GUID,
    parse_vek_extensions_untrusted,
    serialise_certificate_table,
)
from enarx.crypto.certificates import load_certificate_untrusted, load_crl_untrusted, not_after_of, not_before_of
from enarx.emulator.pki import Authority, Vendor, make_authority, make_crl, make_vendor_key
from enarx.emulator.report import SecurityProcessor, make_tcb
from enarx.errors import DecodeError, PlatformError
from enarx.user_files import write_whole

__all__ = ["PRODUCT", "TCB", "Installation", "open_installation"]

PRODUCT = "Genoa"
TCB = make_tcb(PRODUCT, snp=0x1B)
"""What the newest preset of `enarx.verifier.presets` asks for; a newer one asks for a new number here."""

LOCK_WAIT_S = 30.0
"""How long to wait for another process that makes the platform, which takes one about a second."""

_LOCK_POLL_S = 0.02
_MAX_FILE_BYTES = 16384
_SECRET_BYTES = 48
_PRIVATE, _PUBLIC = 0o600, 0o644
# Clocks of a host and a tenant differ by less.
_LEEWAY = timedelta(days=1)
_ROOT_LEEWAY = timedelta(days=365)
_RENEWAL = timedelta(days=30)
_ARK_NUMBER = 2 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An emulated platform, ready to answer.

    Args:
        root: the ARK certificate in DER.
        processor: the chip.
        signing_key: the VCEK of `TCB`.
        table: the certificate table that goes with each report: VCEK, ASK, ARK and the ARK's revocation list.
        renew_at: aware time from which it should be opened again.
    """

    root: bytes
    processor: SecurityProcessor = field(repr=False)
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    table: bytes = field(repr=False)
    renew_at: datetime


def open_installation(folder: str, *, at: datetime) -> Installation:
    """Open the emulated platform in a folder, making it where there is none, which takes about a second.

    Args:
        folder: what is above it is made too.
        at: the time now, aware.

    Raises:
        PlatformError: the folder or a file in it is not the user's alone, is damaged or cannot be written; the clock is not
            within the platform's time; or another process keeps the lock for more than `LOCK_WAIT_S`.
    """
    try:
        try:
            found = _load(folder, at)
        except FileNotFoundError:
            found = None
        if found is None:
            with _turn(folder):
                if not os.path.lexists(folder):
                    _make(folder, at)
                found = _load(folder, at, renew=True)
    except OSError as error:
        raise PlatformError(
            f"cannot use the emulated platform: {error.filename or folder}: {error.strerror}, want a file of its own",
            hint=f"set XDG_DATA_HOME to a folder of yours, or remove {folder} if it is damaged",
        ) from error
    if found is None:
        raise _refusal(folder, f"certificates that do not hold at {at:%Y-%m-%d}", "a clock within their time")
    return found


def _load(folder: str, at: datetime, *, renew: bool = False) -> Installation | None:
    """Load a platform; where a certificate is missing or about to end, make another, or return None if not to `renew`.

    Raises:
        PlatformError: it is not the user's alone, or damaged.
        FileNotFoundError: there is none, or not all of it.
    """
    _require_ours(folder, os.lstat(folder), 0o040000, 0o077)
    try:
        ark, ask = _load_authority(folder, "ark"), _load_authority(folder, "ask")
        # An ASVK would sign VLEKs, and there are none: this chip is no cloud's.
        vendor = Vendor(line=PRODUCT, ark=ark, ask=ask, asvk=ask)
        secret = _read(folder, "chip.secret", _PRIVATE, _SECRET_BYTES)
        if len(secret) != _SECRET_BYTES:
            raise ValueError(f"chip.secret has {len(secret)} bytes")
        processor = SecurityProcessor(vendor=vendor, secret=secret, product=PRODUCT)
        signing_key = processor.key_for(TCB)
        for authority in (ark, ask):
            certificate = load_certificate_untrusted(authority.certificate)
            if not not_before_of(certificate) <= at <= not_after_of(certificate):
                return None
        vcek = _read_or_none(folder, "vcek.der")
        crl = _read_or_none(folder, "crl.der")
        vcek_end, crl_end = _end_of_vcek(vcek, processor, signing_key, at), _end_of_crl(crl, ark, at)
    except (DecodeError, ValueError, TypeError) as error:
        raise _refusal(folder, str(error), "the files as they were made") from error
    if vcek is None or crl is None or vcek_end is None or crl_end is None:
        if renew:
            _write(folder, "vcek.der", processor.certificate_for(TCB, at=at - _LEEWAY), _PUBLIC)
            _write(folder, "crl.der", make_crl(ark, [], at=at - _LEEWAY), _PUBLIC)
            return _load(folder, at)
        return None
    entries = ((VCEK_GUID, vcek), (ASK_GUID, ask.certificate), (ARK_GUID, ark.certificate), (CRL_GUID, crl))
    return Installation(
        root=ark.certificate,
        processor=processor,
        signing_key=signing_key,
        table=serialise_certificate_table(entries),
        renew_at=min(vcek_end, crl_end),
    )


def _load_authority(folder: str, name: str) -> Authority:
    # Whether an RSA key is one takes 200 ms to find out, and the file is ours.
    key = load_der_private_key(
        _read(folder, f"{name}.key", _PRIVATE, _MAX_FILE_BYTES), None, unsafe_skip_rsa_key_validation=True
    )
    certificate = _read(folder, f"{name}.der", _PUBLIC, _MAX_FILE_BYTES)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{name}.key is of another kind")  # noqa: TRY004  # as what cannot be decoded
    if load_certificate_untrusted(certificate).public_key() != key.public_key():
        raise ValueError(f"{name}.key is not the key of {name}.der")
    return Authority(certificate=certificate, private_key=key)


def _end_of_vcek(
    der: bytes | None, processor: SecurityProcessor, key: ec.EllipticCurvePrivateKey, at: datetime
) -> datetime | None:
    """Return when a VCEK certificate should be replaced; None is now: it has ended, has not begun, or is of another TCB."""
    if der is None:
        return None
    vcek = load_certificate_untrusted(der)
    values = {
        each.oid.dotted_string: each.value.value
        for each in vcek.extensions
        if isinstance(each.value, x509.UnrecognizedExtension)
    }
    if parse_vek_extensions_untrusted(values) != processor.claims_for(TCB) or vcek.public_key() != key.public_key():
        return None
    end = not_after_of(vcek) - _RENEWAL
    return end if not_before_of(vcek) <= at < end else None


def _end_of_crl(der: bytes | None, ark: Authority, at: datetime) -> datetime | None:
    """Return when a revocation list should be replaced; None is now."""
    if der is None:
        return None
    crl = load_crl_untrusted(der)
    if crl.next_update_utc is None or crl.issuer != ark.subject:
        return None
    end = crl.next_update_utc - _RENEWAL
    return end if crl.last_update_utc <= at < end else None


def _make(folder: str, at: datetime) -> None:
    """Make a platform where there is none; the lock is ours."""
    # The two keys are made at once: that leaves Python's lock to others.
    with ThreadPoolExecutor(2) as threads:
        ark_key, ask_key = threads.map(lambda _: make_vendor_key(), range(2))
    begin = at - _ROOT_LEEWAY
    ark = make_authority(
        f"ARK-{PRODUCT}",
        ark_key,
        None,
        serial=_ARK_NUMBER,
        at=begin,
        signs_lists=True,
        path_length=None,
        says_emulated=True,
    )
    ask = make_authority(f"SEV-{PRODUCT}", ask_key, ark, serial=_ARK_NUMBER + 1, at=begin)
    made = f"{folder}.new"
    # Only who has the lock makes one, so whoever made this one is gone.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(made)
    os.mkdir(made, 0o700)
    for name, authority in (("ark", ark), ("ask", ask)):
        key = authority.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        _write(made, f"{name}.key", key, _PRIVATE)
        _write(made, f"{name}.der", authority.certificate, _PUBLIC)
    _write(made, "chip.secret", secrets.token_bytes(_SECRET_BYTES), _PRIVATE)
    os.rename(made, folder)


@contextlib.contextmanager
def _turn(folder: str) -> Iterator[None]:
    """Be the only process that makes or renews the platform in a folder; the kernel ends a turn with its process.

    Raises:
        PlatformError: another one did not finish in `LOCK_WAIT_S`.
    """
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    path = f"{folder}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        _require_ours(path, os.fstat(fd), 0o100000, 0o077)
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _refusal(path, f"another process that has it for {LOCK_WAIT_S:.0f} s", "it free") from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _read_or_none(folder: str, name: str) -> bytes | None:
    try:
        return _read(folder, name, _PUBLIC, _MAX_FILE_BYTES)
    except FileNotFoundError:
        return None


def _read(folder: str, name: str, mode: int, max_bytes: int) -> bytes:
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        _require_ours(path, os.fstat(fd), 0o100000, 0o777 & ~mode)
        data = file.read(max_bytes + 1)
    if not 0 < len(data) <= max_bytes:
        raise ValueError(f"{name} has {len(data)} bytes")
    return data


def _write(folder: str, name: str, data: bytes, mode: int) -> None:
    """Write a file; the lock is ours."""
    write_whole(f"{folder}/{name}", data, mode=mode)


def _require_ours(path: str, status: os.stat_result, kind: int, forbidden: int) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (0o170000 | forbidden) != kind:
        raise _refusal(
            path,
            f"owner {status.st_uid} and mode {status.st_mode & 0o7777:04o}",
            f"owner {os.geteuid()} and nobody else who can use it",
        )


def _refusal(subject: str, found: str, want: str) -> PlatformError:
    return PlatformError(
        f"cannot use the emulated platform: {subject}: found {found}, want {want}",
        hint="remove its folder, and the next host makes another one, with another root",
    )
