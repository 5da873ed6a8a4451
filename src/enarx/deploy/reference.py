# SPDX-License-Identifier: Apache-2.0
"""The policy of a deployment for which none was named: images that are in the tenant's own installation, and nothing else.

Rules of this file:

- Reference values come from the tenant's own files; nothing that a host, a registry or a package says is one.
- What the policy says beyond them is what `enarx policy init` writes: pinned roots, the newest preset of the TCB, no
  debugging, VMPL 0, a current revocation list.
- The policy is made of its text, so that the text that a receipt keeps is the policy that was applied.
- It accepts no emulated platform: whoever does names its root beside the policy. What such a platform says of a machine without SNP is
  in the policy only then, because that machine's firmware does not check what it boots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from enarx import __version__
from enarx.errors import EnarxError
from enarx.image import PROCESS_IMAGE, measure_process, package_folder
from enarx.image.policies import IMAGE_TEE, PROCESS_ZEROS
from enarx.rats import AppraisalPolicy, AttestationResult, Verdict
from enarx.verifier.policy_toml import decode_policy
from enarx.verifier.policy_write import Reference, toml_of, write_policy

if TYPE_CHECKING:
    from enarx.image.measure import LaunchParts
    from enarx.image.store import Image

__all__ = [
    "POLICY_NAME",
    "PolicyAndText",
    "default_policy",
    "image_hint",
    "image_references",
    "installed_images",
    "launch_hint",
]

POLICY_NAME = "default (images of this installation)"
EMULATED = "{} without SNP, for emulated platforms"
"""What the policy calls an image's machine whose firmware does not check what it boots."""


class PolicyAndText(NamedTuple):
    """A policy and what it was decoded from.

    Args:
        policy: to appraise with.
        text: of the policy file, which anyone can decode again.
    """

    policy: AppraisalPolicy
    text: str


def installed_images(*, emulated: bool = False) -> Mapping[str, bytes]:
    """Return the launch measurement of each image of this installation for SNP, by the image's name.

    Args:
        emulated: whether those are wanted too that only an emulated platform vouches for.

    Raises:
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    measurements = {PROCESS_IMAGE: measure_process(package_folder())}
    for image in _virtual_machines():
        # They take a moment, and most installations have none.
        from enarx.image.reference import emulated_measurements, open_machine, snp_measurements

        machine = open_machine(image, roles=("snp", "vm") if emulated else ("snp",))
        if "snp" in machine.firmware:
            measurements |= _named(image.name, snp_measurements(machine).values())
        if emulated:
            measurements |= _named(EMULATED.format(image.name), emulated_measurements(machine))
    return measurements


def _named(name: str, digests: Iterable[bytes]) -> dict[str, bytes]:
    """Give each shape of a machine a name of its own."""
    return {name if not index else f"{name} ({index + 1})": digest for index, digest in enumerate(digests)}


def _virtual_machines() -> Sequence[Image]:
    """List the images that launch measurements can be computed for."""
    from enarx.image.store import list_images

    return [image for image in list_images() if image.arch == "x86_64"]


def default_policy(images: Mapping[str, bytes] | None = None, *, emulated: bool = False) -> PolicyAndText:
    """Return the policy that applies where the tenant names none.

    Args:
        images: measurements by name, at least one; None are `installed_images`.
        emulated: as for `installed_images`.

    Raises:
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    references = image_references(images if images is not None else installed_images(emulated=emulated))
    draft = write_policy(
        [IMAGE_TEE], references=references, origin="Made by enarx deploy, because no policy was named."
    )
    return PolicyAndText(decode_policy(draft.text.encode(), path=POLICY_NAME), draft.text)


def image_references(images: Mapping[str, bytes]) -> dict[str, Reference]:
    """Return what a policy says of evidence from these images, by key.

    Args:
        images: measurements by name, at least one.
    """
    names = ", ".join(
        toml_of(name) + (f", enarx {__version__} itself" if name == PROCESS_IMAGE else "") for name in images
    )
    measurements = toml_of([measurement.hex() for measurement in images.values()])
    references = {key: Reference(toml_of([bytes(size).hex()])) for key, size in PROCESS_ZEROS.items()}
    return references | {"snp.measurement": Reference(measurements, (f"Installed images: {names}",))}


def image_hint(
    result: AttestationResult, images: Sequence[str] | None = None, event_logs: Iterable[bytes] = ()
) -> str | None:
    """Return what to do about evidence that a policy of images refuses: which part of the machine is another.

    Args:
        result: the verdict.
        images: that the policy names; None are all of this installation, as the default policy has them.
        event_logs: that came with the evidence.

    Returns:
        one line, or None where the refusal is for something else.
    """
    if images is None and result.tee != IMAGE_TEE and any(f.check.id == "policy.tee" for f in result.failures):
        return (
            f"no image for {result.tee} is in this installation, so nothing says what should run there:"
            " name a policy with --policy; enarx policy init writes one"
        )
    if result.verdict is not Verdict.REFUSED:
        return None
    try:
        lines = [line for name in _machines_of(images) if (line := _difference(name, result, event_logs))]
    except EnarxError:
        # What is explained stands without its explanation.
        return None
    return "; ".join(lines) or None


def _difference(name: str, result: AttestationResult, event_logs: Iterable[bytes]) -> str | None:
    """Say which part of a machine is not that of an image."""
    from enarx.image.reference import open_machine, which_part_changed
    from enarx.image.store import open_image

    found = {finding.check.id: finding.found for finding in result.failures}
    parts = which_part_changed(open_machine(open_image(name)), found, event_logs=event_logs)
    return f"not as in image {name}: {', '.join(parts)}" if parts else None


def launch_hint(result: AttestationResult, images: Sequence[str] | None, said: LaunchParts) -> str | None:
    """Return which part of an SNP machine is another, by what its host says that it started.

    Args:
        result: the verdict.
        images: as for `image_hint`.
        said: by the host.

    Returns:
        one line of the images that come closest, empty where no part is another; None where the host's word proves nothing.
    """
    from enarx.image.reference import open_machine, parts_of_launch
    from enarx.image.store import open_image

    digests = [f.found for f in result.failures if f.check.id == "snp.measurement" and isinstance(f.found, bytes)]
    proven: dict[str, tuple[str, ...]] = {}
    try:
        for name in _machines_of(images) if digests else ():
            machine = open_machine(open_image(name), roles=("snp", "vm"))
            parts = parts_of_launch(machine, digests[0], said, emulated=result.emulated)
            if parts is not None:
                proven[name] = parts
    except EnarxError:
        return None
    fewest = min(map(len, proven.values()), default=0)
    lines = (f"not as in image {name}: {', '.join(parts)}" for name, parts in proven.items() if len(parts) == fewest)
    return None if not proven else "; ".join(lines) if fewest else ""


def _machines_of(images: Sequence[str] | None) -> Sequence[str]:
    """List the images among names that are machines; None are all that are installed."""
    if images is None:
        return [image.name for image in _virtual_machines()]
    return [name for name in images if name != PROCESS_IMAGE]
