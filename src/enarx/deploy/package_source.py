# SPDX-License-Identifier: Apache-2.0
"""From what a user calls a package to a path that can be run or deployed: a registry's, a layout's, an archive's, or a plain one.

Rules of this file:

- A tag is resolved once. What is checked, shown, fetched and opened after that is a digest.
- Whether it may be used is asked before anything but its manifest is fetched: first who signed it, then whether the tag leads where it
  led before. Where it leads is remembered when the package was opened, so that nobody's word on a tag is remembered that would not be
  taken, and no package that is none.
- What is opened is in a folder that nobody else can read, which is removed at the end. One that a killed process left is removed by
  the next that opens a package: whoever uses a folder holds a lock on it.
- A plain module or folder is used where it is. Nobody vouches for it, so it is refused where a signature is wanted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from enarx.errors import AppraisalError, PlatformError, UsageError, VerificationError
from enarx.registry.archive import LayoutArchive, is_archive
from enarx.registry.content import Resolved, Source
from enarx.registry.layout import Layout, LayoutFolder, is_layout
from enarx.registry.opening import ENCRYPTED, find_manifest, layer_kind, open_package
from enarx.wire.oci import WASM
from enarx.wire.package_ref import PathRef, RegistryRef, parse_package_ref
from enarx.wire.release import MAIN, Blob, Layer

if TYPE_CHECKING:
    from enarx.deploy.sealing import StoredBlob
    from enarx.rats.signers import PackageSigner
    from enarx.registry.signatures import Signature
    from enarx.wire.oci import Descriptor

__all__ = [
    "FoundPackage",
    "OpenedPackage",
    "Signers",
    "find_package",
    "open_reference",
    "opened_folder",
    "remember_published",
    "require_not_moved",
]

Progress = Callable[[str, int, int], None]
"""Is told what is done, how much of it, and how much there is; 0 where that is not known."""

_PREFIX = "enarx-package-"
_MAX_SWEPT = 1000


class FoundPackage(NamedTuple):
    """A package that is in a registry, a layout or an archive.

    Args:
        ref: how it was named.
        source: where it is.
        resolved: its manifest or index.
        repository: `HOST/NAME` in a registry, or None.
    """

    ref: RegistryRef | PathRef
    source: Source
    resolved: Resolved
    repository: str | None

    @property
    def digest(self) -> str:
        """Return its digest, as registries name it."""
        return self.resolved.descriptor.digest


class OpenedPackage(NamedTuple):
    """A package that can be run or deployed.

    Args:
        path: of a module, or of a folder.
        name: as the user named it, for messages.
        oci_digest: of its manifest or index; None of a plain module or folder.
        signatures: that were wanted and found.
        was_encrypted: whether a layer of it was; then no copy of what is in it may stay on this machine.
        stored: its module where the registry has it, encrypted; or None.
    """

    path: str
    name: str
    oci_digest: str | None = None
    signatures: tuple[Signature, ...] = ()
    was_encrypted: bool = False
    stored: StoredBlob | None = None

    def remove(self) -> None:
        """Remove the folder that was made for it, for a command that ends without coming back to it."""
        if self.oci_digest is not None:
            shutil.rmtree(self.path, ignore_errors=True)


class Signers(NamedTuple):
    """Who may sign, where a signature is wanted.

    Args:
        signers: everybody whom the policy names.
        at: the time now, aware.
        trust_root: sigstore's `trusted_root.json`, or None for the shipped one.
    """

    signers: tuple[PackageSigner, ...]
    at: datetime
    trust_root: bytes | None = None


def _silent(_: str) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def find_package(text: str, *, progress: Progress | None = None) -> Iterator[FoundPackage | None]:
    """Find a package, and resolve its tag.

    Args:
        text: as a user names it.
        progress: is told of what is fetched.

    Yields:
        what was found, or None for a path that is neither a layout nor an archive, whether it is there or not.

    Raises:
        UsageError: there is none, or more than one.
        DecodeError, VerificationError, TransportError: as `Source.resolve` does.
    """
    ref = parse_package_ref(text)
    if isinstance(ref, RegistryRef):
        # Everything that speaks HTTP is loaded here and not before.
        from enarx.registry.cache import default_cache
        from enarx.registry.client import RegistryClient

        with RegistryClient(ref.registry, ref.repository, progress=progress, cache=default_cache()) as client:
            yield FoundPackage(ref, client, client.resolve(ref.reference), f"{ref.registry}/{ref.repository}")
        return
    if os.path.lexists(text):
        ref = PathRef(text, None, None)
    layout = _layout(ref.path)
    if layout is None:
        if ref.tag is not None or ref.digest is not None:
            _require_layout(ref)
        yield None
        return
    yield FoundPackage(ref, layout, layout.resolve(ref.digest or ref.tag or layout.only_digest()), None)


@contextlib.contextmanager
def open_reference(
    text: str,
    *,
    accept_new_digest: bool = False,
    require: Signers | None = None,
    decryption_keys: Sequence[str] = (),
    say: Callable[[str], object] = _silent,
    progress: Progress | None = None,
) -> Iterator[OpenedPackage]:
    """Give a path to a package, for as long as it is used.

    Args:
        text: as a user names it: `oci://...`, a layout, an archive of one, a module or a folder with main.wasm.
        accept_new_digest: whether a tag may lead to another package than it did last.
        require: who has to have signed it; None is nobody.
        decryption_keys: files with keys, for what is encrypted.
        say: is told what a tag led to.
        progress: is told of what is fetched.

    Raises:
        UsageError, ConfigError, DecodeError, VerificationError, AppraisalError, TransportError, PlatformError: it cannot be found,
            may not be used, or cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        # A workload may run for days: what the package came from is let go before it is used.
        with find_package(text, progress=progress) as found:
            if found is None:
                if require is not None:
                    raise AppraisalError(
                        f"the package is refused: {text}: found a plain module or folder, want a signed package",
                        hint="enarx package build makes a package, enarx package sign signs it",
                    )
                opened = OpenedPackage(text, text)
            else:
                say(f"{text} is {found.digest}")
                signatures = _require_signed(found, require)
                _require_known(found, accept_new=accept_new_digest, remember=False)
                folder = stack.enter_context(opened_folder(found, decryption_keys))
                _require_known(found, accept_new=accept_new_digest, remember=True)
                encrypted = [
                    layer
                    for layer in find_manifest(found.source, found.resolved)[1].layers
                    if layer.media_type.endswith(ENCRYPTED)
                ]
                stored = _stored_module(found, encrypted, decryption_keys)
                opened = OpenedPackage(folder, text, found.digest, signatures, bool(encrypted), stored)
        yield opened


@contextlib.contextmanager
def opened_folder(found: FoundPackage, decryption_keys: Sequence[str] = ()) -> Iterator[str]:
    """Give a folder with a package in it, decrypted, for as long as it is used. Whether it may be used is asked before.

    Args:
        found: by `find_package`.
        decryption_keys: files with keys, for what is encrypted.

    Raises:
        As `open_package` does.
    """
    keys = None
    if decryption_keys:
        from enarx.registry.encryption import LayerKeys

        keys = LayerKeys.load(decryption_keys)
    with _private_folder() as folder:
        open_package(found.source, found.resolved, folder, decrypt=keys)
        yield folder


def _stored_module(
    found: FoundPackage, encrypted: Sequence[Descriptor], decryption_keys: Sequence[str]
) -> StoredBlob | None:
    """Return what a Keep has to know to take the module from the registry itself."""
    layer = next((each for each in encrypted if layer_kind(each) == WASM), None)
    if layer is None or not isinstance(found.ref, RegistryRef):
        return None
    from enarx.deploy.sealing import StoredBlob
    from enarx.registry.encryption import LayerKeys

    secret, expected = LayerKeys.load(decryption_keys).unwrap(layer)
    blob = Blob(
        key=secret.key,
        ciphertext=expected.ciphertext,
        ciphertext_length=expected.length,
        plaintext=expected.plaintext,
        plaintext_length=expected.length,
        layer=Layer(secret.nonce, expected.hmac),
    )
    return StoredBlob(blob=blob, registry=found.ref.registry, repository=found.ref.repository)


def _require_known(found: FoundPackage, *, accept_new: bool, remember: bool) -> None:
    """Refuse a registry's tag that leads to another package than it did last; remember where it leads, if it is to be."""
    if not isinstance(found.ref, RegistryRef) or found.ref.digest is not None:
        return
    from enarx.deploy.known_tags import require_known

    require_known(f"{found.ref.name}:{found.ref.reference}", found.digest, accept_new=accept_new, remember=remember)


def require_not_moved(found: FoundPackage) -> bool:
    """Refuse a registry's tag that leads to another package than it did last, and remember nothing: for who signs or copies.

    Returns:
        whether it is known that this package is meant: it was named by its digest, or is what the tag led to before.

    Raises:
        VerificationError: it is another one.
        ConfigError, PlatformError: what was remembered cannot be read.
    """
    if not isinstance(found.ref, RegistryRef) or found.ref.digest is not None:
        return True
    from enarx.deploy.known_tags import known_digest

    reference = f"{found.ref.name}:{found.ref.reference}"
    before = known_digest(reference)
    if before not in {None, found.digest}:
        raise VerificationError(
            f"the tag was moved: {reference}: found {found.digest}, want {before}, to which it led before",
            hint=f"if the other package is meant, name it by its digest: oci://{found.ref.name}@{found.digest}",
        )
    return before is not None


def remember_published(ref: RegistryRef, digest: str) -> None:
    """Remember where a tag leads that this user has just set.

    Raises:
        ConfigError, PlatformError: it cannot be written down.
    """
    from enarx.deploy.known_tags import require_known

    require_known(f"{ref.name}:{ref.tag}", digest, accept_new=True)


def _require_signed(found: FoundPackage, require: Signers | None) -> tuple[Signature, ...]:
    """Return the signatures of those who may sign, where that is wanted."""
    if require is None:
        return ()
    from enarx.registry.signatures import require_signed

    return require_signed(
        found.source,
        found.digest,
        require.signers,
        at=require.at,
        repository=found.repository,
        trust_root=require.trust_root,
    )


def _layout(path: str) -> Layout | None:
    """Return the layout that a path is, if it is one. A folder with main.wasm is a package as it is, whatever else is in it."""
    if os.path.isdir(path):
        return LayoutFolder(path) if is_layout(path) and not os.path.isfile(os.path.join(path, MAIN)) else None
    return LayoutArchive(path) if is_archive(path) else None


def _require_layout(ref: PathRef) -> None:
    if not os.path.lexists(ref.path):
        raise UsageError(f"cannot open {ref.text}: found no such file, want a package")
    raise UsageError(
        f"cannot open {ref.text}: found that {ref.path} is no OCI layout, want one: nothing else has tags and digests"
    )


# --- Folders ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    """Make a folder for as long as it is used, and remove those that nobody uses any more."""
    try:
        base = tempfile.gettempdir()
        _sweep(base)
        folder, lock = _make_folder(base)
    except OSError as error:
        raise PlatformError(f"cannot open the package: no temporary folder: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_folder(base: str) -> tuple[str, int]:
    """Make a folder and hold it."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_SH)
        # Somebody who sweeps may have come between the two.
        if os.path.isdir(folder):
            return folder, lock
        os.close(lock)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder is this user's: others may have made as many as they like."""
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False


def _sweep(base: str) -> None:
    """Remove our own folders that no process holds."""
    with os.scandir(base) as found:
        names = [each.name for each in found if each.name.startswith(_PREFIX) and _is_ours(each)]
    for name in names[:_MAX_SWEPT]:
        path = os.path.join(base, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            # Somebody else's, or gone.
            continue
        try:
            state = os.fstat(fd)
            if state.st_uid == os.geteuid() and stat.S_IMODE(state.st_mode) == 0o700:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            # It is in use.
            continue
        finally:
            os.close(fd)
