# SPDX-License-Identifier: Apache-2.0
"""A Steward's keys: made when it is founded, and loaded when it serves or is audited.

Source: RFC 8410 for Ed25519 in PKCS #8; RFC 5915 and RFC 5958 for P-384.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import URL

from enarx.crypto.x509 import load_private_key
from enarx.errors import ConfigError, UsageError
from enarx.image.policies import expand_policy
from enarx.steward import folder as files
from enarx.steward.authority import (
    Authority,
    install_chain,
    load_authority_key,
    make_authority,
    make_key,
    make_request,
    write_key,
)
from enarx.steward.configuration import configuration_text
from enarx.steward.folder import StewardFolder, make_folder, require_new
from enarx.steward.key_uris import KeyUri, decode_key_uri
from enarx.steward.log import LogSigner
from enarx.steward.nonces import NONCE_KEY_BYTES
from enarx.steward.token_key import make_token_key, open_token_key
from enarx.verifier.policy_toml import decode_policy

__all__ = ["StewardKeys", "database_url", "found", "install", "load_keys", "load_log_signer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StewardKeys:
    """What a Steward signs with.

    Args:
        authority: of Keeps' certificates.
        original: the authority of the original's protocol.
        result_key: of attestation results, on P-384.
        log_signer: of checkpoints.
        nonce_key: 32 bytes.
    """

    authority: Authority
    original: Authority
    result_key: ec.EllipticCurvePrivateKey = field(repr=False)
    log_signer: LogSigner = field(repr=False)
    nonce_key: bytes = field(repr=False)


def found(
    path: str,
    *,
    name: str,
    at: datetime,
    trust_domain: str | None = None,
    policy: bytes | None = None,
    policy_path: str = files.POLICY,
    is_intermediate: bool = False,
    key_uri: KeyUri | None = None,
) -> bool:
    """Make a Steward: its folder, its keys, and a configuration that grants nothing.

    Args:
        path: of the folder, which must not be there yet, or be empty.
        name: DNS name by which it is reached.
        at: aware.
        trust_domain: of SPIFFE identifiers; None is the name.
        policy: the operator's, or None where there is none yet.
        policy_path: where it comes from, for messages.
        is_intermediate: whether another authority is to sign its own: then there is a request instead of a root.
        key_uri: of the authority's key in a token, made there if there is none; None is a key in a file.

    Returns:
        Whether the authority's key was made, and not one that the token had already.

    Raises:
        UsageError: there is something already, or the token's PIN is not the one.
        ConfigError: a name cannot be one, or the policy is none, or what is in the token is no key for this.
        PlatformError: the folder cannot be made, or the token not be used.
    """
    configuration = configuration_text(name, trust_domain)
    if policy is not None:
        # As it will be read: a policy that cannot be used is found now.
        decode_policy(expand_policy(policy, path=policy_path)[0], path=policy_path)
    # Before a token has a key that belongs to no Steward.
    require_new(path)
    key, is_new = (make_key(), True) if key_uri is None else make_token_key(key_uri)
    original = make_authority(name, at, purpose="original Steward")
    contents = {
        files.CONFIGURATION: configuration.encode(),
        **({files.KEY: write_key(key)} if key_uri is None else {files.KEY_URI: key_uri.text().encode()}),
        files.RESULT_KEY: write_key(make_key()),
        files.LOG_KEY: ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        files.NONCE_KEY: secrets.token_bytes(NONCE_KEY_BYTES),
        files.ORIGINAL_KEY: write_key(original.key),
        files.ORIGINAL_CHAIN: original.chain_pem,
    }
    if is_intermediate:
        contents[files.REQUEST] = make_request(name, key)
    else:
        contents |= _certificates(make_authority(name, at, key=key))
    if policy is not None:
        contents[files.POLICY] = policy
    make_folder(path, contents)
    return is_new


def install(path: str, chain: bytes, *, chain_path: str, at: datetime) -> None:
    """Install what the operator's own authority signed.

    Args:
        path: of the Steward's folder.
        chain: certificates in PEM: the Steward's, each one's issuer, the root last.
        chain_path: where they come from, for messages.
        at: aware.

    Raises:
        UsageError: there is no Steward in the folder.
        ConfigError: the file is no chain in PEM.
        VerificationError: it is not of this Steward's key, no authority's, no chain, or not in force.
        PlatformError: the folder cannot be used.
    """
    with StewardFolder(path) as folder:
        authority = install_chain(_load_key(folder), chain, path=chain_path, at=at)
        for name, pem in _certificates(authority).items():
            folder.write(name, pem)
        folder.remove(files.REQUEST)


def load_keys(folder: StewardFolder, *, name: str, at: datetime) -> StewardKeys:
    """Load all keys, and find out whether they can be used.

    Args:
        folder: of the Steward.
        name: of the Steward, which its log has as well.
        at: aware.

    Raises:
        UsageError: a file is not there; or the operator's own authority has not signed yet.
        ConfigError: a file is not well formed.
        VerificationError: the authority's certificates are not of its key, no chain, or not in force.
        PlatformError: a file cannot be read, or others can read it.
    """
    if not folder.has(files.CHAIN) and folder.has(files.REQUEST):
        raise UsageError(
            f"cannot serve: {folder.file(files.CHAIN)}: found none, want what your authority signed for"
            f" {folder.file(files.REQUEST)}",
            hint=f"enarx steward init --state {folder.path} --chain FILE",
        )
    nonce_key = folder.read(files.NONCE_KEY)
    if len(nonce_key) != NONCE_KEY_BYTES:
        raise ConfigError(
            f"cannot use {folder.file(files.NONCE_KEY)}: found {len(nonce_key)} bytes, want {NONCE_KEY_BYTES}",
            path=folder.file(files.NONCE_KEY),
        )
    return StewardKeys(
        authority=_load_authority(folder, _load_key(folder), files.CHAIN, at),
        original=_load_authority(folder, _read_key(folder, files.ORIGINAL_KEY), files.ORIGINAL_CHAIN, at),
        result_key=_read_key(folder, files.RESULT_KEY),
        log_signer=load_log_signer(folder, name=name),
        nonce_key=nonce_key,
    )


def load_log_signer(folder: StewardFolder, *, name: str) -> LogSigner:
    """Load the key of the log.

    Args:
        folder: of the Steward.
        name: of the Steward, by which its log is known.

    Raises:
        UsageError: the file is not there.
        ConfigError: it is no Ed25519 key.
        PlatformError: it cannot be read, or others can read it.
    """
    path = folder.file(files.LOG_KEY)
    key = load_private_key(folder.read(files.LOG_KEY), path=path)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"cannot use the log's key: {path}: found another kind, want Ed25519", path=path)
    return LogSigner(name, key)


def database_url(folder: StewardFolder) -> str:
    """Return the URL of the log that is in the folder."""
    return URL.create("sqlite", database=folder.file(files.DATABASE)).render_as_string()


def _certificates(authority: Authority) -> dict[str, bytes]:
    """Return the files of an authority's certificates: all of them, and the one to trust, which is its own and none above it."""
    return {files.CHAIN: authority.chain_pem, files.ROOT: authority.certificate.public_bytes(Encoding.PEM)}


def _load_authority(folder: StewardFolder, key: ec.EllipticCurvePrivateKey, chain: str, at: datetime) -> Authority:
    return install_chain(key, folder.read(chain), path=folder.file(chain), at=at)


def _load_key(folder: StewardFolder) -> ec.EllipticCurvePrivateKey:
    """Return the authority's key, which is in a file or in a token."""
    if not folder.has(files.KEY_URI):
        return _read_key(folder, files.KEY)
    path = folder.file(files.KEY_URI)
    if folder.has(files.KEY):
        raise ConfigError(
            f"cannot use the authority's key: {path}: found {files.KEY} beside it, want one of them", path=path
        )
    return open_token_key(decode_key_uri(folder.read(files.KEY_URI).decode("utf-8", "replace").strip(), path=path))


def _read_key(folder: StewardFolder, name: str) -> ec.EllipticCurvePrivateKey:
    return load_authority_key(folder.read(name), path=folder.file(name))
