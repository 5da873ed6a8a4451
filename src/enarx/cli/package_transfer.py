# SPDX-License-Identifier: Apache-2.0
"""`enarx package publish|fetch`: bring a package, with its signatures, to a registry or from one."""

from __future__ import annotations

import contextlib

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.progress import show_progress
from enarx.errors import EnarxError, UsageError, VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from enarx.deploy.package_source import FoundPackage
    from enarx.registry.client import RegistryClient
    from enarx.wire.oci import Descriptor
    from enarx.wire.package_ref import RegistryRef

_JSON = Option("json", "", "one JSON document")


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Look for no garbage while modules are loaded, which makes none: it is a sixth of the time that this takes."""
    import gc

    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _publish(parsed: Parsed) -> int:
    with _loading():
        from enarx.deploy.package_source import find_package, require_not_moved
        from enarx.registry.client import RegistryClient
        from enarx.registry.copying import copy_package
        from enarx.wire.package_ref import DEFAULT_TAG, RegistryRef, parse_package_ref

    text, target = parsed.operands[0], parse_package_ref(parsed.operands[1])
    if not isinstance(target, RegistryRef):
        raise UsageError(
            f"cannot publish to {parsed.operands[1]}: found a path, want oci://HOST[:PORT]/REPOSITORY[:TAG]",
            hint="enarx package build writes a package to a folder or a file",
        )
    tag = target.tag or (None if target.digest else DEFAULT_TAG)
    with show_progress() as progress, find_package(text) as found:
        if found is not None:
            require_not_moved(found)
            _require_package(found)
            _require_digest(target.digest, found.digest, text)
        elif target.digest is not None:
            raise UsageError(
                f"cannot publish {text} to {target.text}: found a digest, want a tag: what it will be is not known yet",
                hint="enarx package build makes a package and says its digest",
            )
        with RegistryClient(target.registry, target.repository, progress=progress) as client:
            if found is None:
                stored = _build_into(text, client, tag)
            else:
                stored = copy_package(found.source, found.resolved, client, tag=tag)
    if tag is not None:
        _remember(target._replace(tag=tag), stored.digest)
    _show(parsed, stored, target._replace(tag=tag, digest=stored.digest).text)
    return 0


def _remember(target: RegistryRef, digest: str) -> None:
    """Remember where the tag leads now, so that whoever signs or runs it next gets this one."""
    from enarx.deploy.package_source import remember_published

    try:
        remember_published(target, digest)
    except EnarxError as error:
        # What was to be done is done.
        ui.note(str(error))


def _build_into(path: str, client: RegistryClient, tag: str | None) -> Descriptor:
    """Publish what is no package yet: a module, or a folder with one."""
    from enarx.cli.package import source_date
    from enarx.registry.building import build_package

    return build_package(path, client, tag=tag, created_s=source_date())


def _require_package(found: FoundPackage) -> None:
    """Refuse what is no package, before anything of it is copied."""
    from enarx.registry.opening import find_manifest, require_package

    resolved, manifest = find_manifest(found.source, found.resolved)
    require_package(manifest, resolved.descriptor.digest)


def _require_digest(wanted: str | None, found: str, text: str) -> None:
    if wanted not in {None, found}:
        raise VerificationError(f"cannot publish {text}: found the digest {found}, want {wanted}")


def _fetch(parsed: Parsed) -> int:
    with _loading():
        # What a registry is asked with, loaded here because most that is fetched comes from one.
        import enarx.registry.client  # noqa: F401
        from enarx.deploy.package_source import find_package, require_not_moved

    text, output = parsed.operands[0], parsed.value("output")
    if output is None:
        raise UsageError(
            f"cannot fetch {text}: found no --output, want it: where the package shall be",
            hint="--output app.tar is one file, --output app a folder",
        )
    with show_progress() as progress, find_package(text, progress=progress) as found:
        if found is None:
            raise UsageError(f"cannot fetch {text}: found a plain module or folder, want a package")
        require_not_moved(found)
        _require_package(found)
        stored = _write(found, output)
    _show(parsed, stored, output)
    return 0


def _write(found: FoundPackage, output: str) -> Descriptor:
    """Write a package as an archive or as a layout."""
    from enarx.registry.archive import new_package
    from enarx.registry.copying import copy_package
    from enarx.registry.layout import LayoutFolder, is_layout
    from enarx.wire.package_ref import DEFAULT_TAG

    tag = found.ref.tag or DEFAULT_TAG
    if is_layout(output):
        return copy_package(found.source, found.resolved, LayoutFolder(output), tag=tag)
    with new_package(output) as layout:
        return copy_package(found.source, found.resolved, layout, tag=tag)


def _show(parsed: Parsed, stored: Descriptor, place: str) -> None:
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"package": stored.digest, "place": place}, indent=2))
    else:
        ui.out(ui.printable(f"package   {stored.digest}") + "\n" + ui.printable(f"place     {place}"))


COMMANDS = {
    "package publish": Command(
        "package publish",
        operands=("REF", "TARGET"),
        summary="put a package into a registry",
        description=(
            "Bring a package, with the signatures that are attached to it, to TARGET: oci://HOST[:PORT]/REPOSITORY[:TAG].\n"
            "REF is an OCI layout, an archive of one, a module, a folder with main.wasm, or a package in another registry.\n"
            "The login is the one of `docker login`: Docker's config.json, or a credential helper that it names."
        ),
        options=(_JSON,),
        examples=(
            ("enarx package publish app.tar oci://registry.example/app:1.0", "what `enarx package build` wrote"),
            ("enarx package publish app oci://registry.example/app:1.0", "a folder with main.wasm and Enarx.toml"),
        ),
        run=_publish,
    ),
    "package fetch": Command(
        "package fetch",
        operands=("REF",),
        summary="get a package from a registry",
        description=(
            "Bring a package, with the signatures that are attached to it, into an OCI layout of your own, which everything\n"
            "takes that takes a package. An output whose name ends in .tar is one file, another one a folder."
        ),
        options=(Option("output", "FILE.tar|DIR", "where it is written"), _JSON),
        examples=(
            ("enarx package fetch oci://registry.example/app:1.0 --output app.tar", "as one file"),
            ("enarx package fetch oci://registry.example/app@sha256:... --output app", "exactly this one, as a folder"),
        ),
        run=_fetch,
    ),
}
