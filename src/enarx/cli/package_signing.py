# SPDX-License-Identifier: Apache-2.0
"""`enarx package sign|verify`: read files, ask `enarx.registry` to sign a package or to judge its signatures, print what it says."""

from __future__ import annotations

from contextlib import contextmanager

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import EnarxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from enarx.deploy.package_source import FoundPackage
    from enarx.rats import PackageSigner
    from enarx.registry.client import RegistryClient
    from enarx.registry.layout import LayoutFolder
    from enarx.registry.signatures import Signature


def _sign(parsed: Parsed) -> int:
    from enarx.registry.referrers import BUNDLE, attach
    from enarx.registry.signatures import KEYLESS, LOCAL_KEY
    from enarx.wire.dsse import DSSE

    key_path, keyless = parsed.value("key"), parsed.flag("keyless")
    if (key_path is None) != keyless:
        raise UsageError(
            f"cannot sign: found {'both' if keyless else 'neither'} of --key and --keyless, want one of them",
            hint="openssl genpkey -algorithm ed25519 -out KEY makes a key",
        )
    for name in ("identity-token-file", "sigstore-config"):
        if not keyless and parsed.flag(name):
            raise UsageError(f"cannot sign: found --{name} with --key, want it with --keyless")
    if key_path is not None:
        from enarx.crypto.signature_keys import key_id_of, load_signing_key, public_key_of
        from enarx.crypto.x509 import MAX_PEM_BYTES
        from enarx.registry.dsse import sign_with_key
        from enarx.user_files import read_key_file

        pem = read_key_file(key_path, what="the signing key", is_secret=True, max_bytes=MAX_PEM_BYTES)
        key = load_signing_key(pem, path=key_path)
        with _found(parsed.operands[0]) as found:
            sink = _signable(found)
            artifact = attach(sink, found.resolved.descriptor, DSSE, sign_with_key(found.digest, key))
        signer = {"kind": LOCAL_KEY, "key": key_id_of(public_key_of(key))}
    else:
        from enarx.registry.keyless import MAX_TRUST_BYTES, sign_keyless

        token_file, config_file = parsed.value("identity-token-file"), parsed.value("sigstore-config")
        token = None if token_file is None else _text(_read(token_file, MAX_TRUST_BYTES), token_file)
        config = None if config_file is None else _read(config_file, MAX_TRUST_BYTES)
        with _found(parsed.operands[0]) as found:
            sink = _signable(found)
            ui.note("asking sigstore for a certificate and an entry in its log, which names the signer in public")
            made = sign_keyless(found.digest, token=token, config=config)
            artifact = attach(sink, found.resolved.descriptor, BUNDLE, made.bundle)
        signer = {"kind": KEYLESS, "identity": made.identity, "issuer": made.issuer}
    digest = found.digest
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"package": digest, **signer, "artifact": artifact.digest}, indent=2))
    else:
        facts = {"package": digest, **signer, "attached": artifact.digest}
        ui.out("\n".join(ui.printable(f"{name:<10}{value}") for name, value in facts.items()))
    return 0


def _verify(parsed: Parsed) -> int:
    from enarx.cli.clock import read_clock
    from enarx.registry.keyless import MAX_TRUST_BYTES
    from enarx.registry.signatures import require_signed

    signers = _signers(parsed)
    root_path = parsed.value("trust-root")
    if root_path is not None and not any(signer.key is None for signer in signers):
        raise UsageError("cannot verify: found --trust-root without an identity, want it for keyless signatures only")
    root = None if root_path is None else _read(root_path, MAX_TRUST_BYTES)
    at = read_clock("verify the signatures", hint="set this machine's clock")
    with _found(parsed.operands[0]) as found:
        digest = found.digest
        signatures = require_signed(found.source, digest, signers, at=at, repository=found.repository, trust_root=root)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"package": digest, "signatures": [_document(each) for each in signatures]}, indent=2))
    else:
        ui.out("\n".join([f"package   {digest}", *(ui.printable(f"signed    {each.line}") for each in signatures)]))
    return 0


def _document(signature: Signature) -> dict[str, object]:
    """Return a signature with the members of its kind only."""
    from enarx.registry.signatures import LOCAL_KEY

    document: dict[str, object] = {"kind": signature.kind, "signer": signature.signer, "artifact": signature.artifact}
    if signature.kind == LOCAL_KEY:
        return document | {"key": signature.key}
    logged_at = f"{signature.logged_at:%Y-%m-%dT%H:%M:%SZ}" if signature.logged_at else None
    return document | {"identity": signature.identity, "issuer": signature.issuer, "logged_at": logged_at}


def _signers(parsed: Parsed) -> tuple[PackageSigner, ...]:
    """Return who may have signed: the holders of keys, an identity, or those of a policy."""
    from enarx.rats import PackageSigner

    keys, identity, issuer, policy = (
        parsed.all("signer"),
        parsed.value("identity"),
        parsed.value("issuer"),
        parsed.value("policy"),
    )
    if bool(identity) != bool(issuer):
        raise UsageError(
            f"cannot verify: found --{'identity' if identity else 'issuer'} alone, want --identity and --issuer",
            hint="an identity is worth what its issuer's word is",
        )
    if policy is not None:
        if keys or identity:
            raise UsageError("cannot verify: found --policy and another signer, want one or the other")
        from enarx.cli.policy import load_policy

        if not (signers := load_policy(policy).package_signers):
            raise UsageError(f"cannot verify: {policy}: found no [[package.signer]], want one")
        return signers
    given = [PackageSigner(name=path, key=_public_key(path)) for path in keys]
    if identity:
        given.append(PackageSigner(name=identity, identity=identity, issuer=issuer))
    if not given:
        raise UsageError(
            "cannot verify: found no signer, want --signer PUB, --identity with --issuer, or --policy FILE",
            hint="that somebody signed a package says nothing; who it was does",
        )
    return tuple(given)


def _public_key(path: str) -> bytes:
    from enarx.crypto.signature_keys import MAX_PUBLIC_KEY_BYTES, load_public_key

    try:
        return load_public_key(_read(path, MAX_PUBLIC_KEY_BYTES))
    except EnarxError as error:
        raise UsageError(f"cannot verify: {path}: {error}", hint=error.hint) from error


@contextmanager
def _found(text: str) -> Iterator[FoundPackage]:
    """Find a package in whatever has manifests.

    Raises:
        UsageError: there is none, or what is there has no manifest that a signature could name.
    """
    from enarx.deploy.package_source import find_package

    with find_package(text) as found:
        if found is None:
            raise UsageError(
                f"cannot open {text}: found a plain module or folder, or nothing, want an OCI layout or oci://HOST/NAME",
                hint="enarx package build DIR --output LAYOUT makes a layout; what has no manifest cannot be signed",
            )
        yield found


def _signable(found: FoundPackage) -> LayoutFolder | RegistryClient:
    """Return where a signature can be attached to a package that is meant: what a tag leads to is the registry's word.

    Raises:
        VerificationError: the tag led to another package before.
        UsageError, DecodeError: nothing can be attached.
    """
    from enarx.deploy.package_source import require_not_moved

    if not require_not_moved(found):
        ui.note(
            f"{found.ref.text} is {found.digest}, as the registry says: nothing here has published or run it;"
            " a name with @sha256:... signs exactly what is meant"
        )
    return _writable(found)


def _writable(found: FoundPackage) -> LayoutFolder | RegistryClient:
    """Return where a signature can be attached, if that is a package at all.

    Raises:
        UsageError: it is an archive.
        DecodeError: it is no package.
    """
    from enarx.registry.client import RegistryClient
    from enarx.registry.layout import LayoutFolder
    from enarx.registry.opening import find_manifest, require_package

    if not isinstance(found.source, LayoutFolder | RegistryClient):
        raise UsageError(
            f"cannot sign {found.ref.text}: found an archive, which nothing is added to, want an OCI layout or a registry",
            hint="enarx package build DIR --output LAYOUT, or sign it where it was published",
        )
    package, manifest = find_manifest(found.source, found.resolved)
    require_package(manifest, package.descriptor.digest)
    return found.source


def _read(path: str, max_bytes: int) -> bytes:
    """Read a file up to one byte more than it can have, so that whoever decodes it says that it is too large."""
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: found no text, want an identity token") from error


COMMANDS = {
    "package sign": Command(
        "package sign",
        operands=("REF",),
        summary="sign a package, and attach the signature to it",
        description=(
            "Sign the digest of a package's OCI manifest, and attach the signature to the package, in its registry or\n"
            "OCI layout. --key signs with a key of yours, Ed25519 or P-256, in PEM and without a passphrase. --keyless\n"
            "gets a certificate for an identity from sigstore, and has the signature logged there, in public."
        ),
        options=(
            Option("key", "FILE", "sign with this private key"),
            Option("keyless", "", "sign as an identity, with a certificate of sigstore's"),
            Option("identity-token-file", "FILE", "the identity's token, instead of the one that a CI job has"),
            Option("sigstore-config", "FILE", "the client trust configuration of another sigstore instance"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            (
                "enarx package sign oci://registry.example/app:1.0 --key key.pem",
                "by a key of: openssl genpkey -algorithm ed25519 -out key.pem",
            ),
            ("enarx package sign layout --keyless --identity-token-file token", "sign as an identity"),
        ),
        run=_sign,
    ),
    "package verify": Command(
        "package verify",
        operands=("REF",),
        summary="say whether a package is signed by somebody who may",
        description=(
            "Judge the signatures that are attached to a package: is one of them by this key, by this identity as this\n"
            "issuer vouches for it, or by a signer of a policy? Reaches the registry and nothing else."
        ),
        options=(
            Option("signer", "PUB", "the public key of a signer, in PEM; may be repeated", repeat=True),
            Option("identity", "NAME", "the e-mail address or URI of a keyless signer"),
            Option("issuer", "URL", "who vouches for that identity"),
            Option("trust-root", "FILE", "sigstore's trusted_root.json, instead of the shipped one"),
            Option("policy", "FILE", "take the signers from the [[package.signer]] of a policy"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            (
                "enarx package verify oci://registry.example/app:1.0 --signer pub.pem",
                "is it by this key? Its public half: openssl pkey -in key.pem -pubout -out pub.pem",
            ),
            (
                "enarx package verify layout --identity dev@tenant.example --issuer https://issuer.example",
                "is it by this identity?",
            ),
        ),
        run=_verify,
    ),
}
