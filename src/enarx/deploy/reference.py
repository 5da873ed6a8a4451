# SPDX-License-Identifier: Apache-2.0
"""The policy of a deployment for which none was named: images that are in the tenant's own installation, and nothing else.

Rules of this file:

- Reference values come from the tenant's own files; nothing that a host, a registry or a package says is one.
- What the policy says beyond them is what `enarx policy init` writes: pinned roots, the newest preset of the TCB, no
  debugging, VMPL 0, a current revocation list.
- The policy is made of its text, so that the text that a receipt keeps is the policy that was applied.
- It accepts no emulated platform: whoever does names its root beside the policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from enarx import __version__
from enarx.endorsers.emulated_root import read_emulated_root
from enarx.errors import PlatformError
from enarx.image import PROCESS_IMAGE, measure_process, package_folder
from enarx.rats import AppraisalPolicy, AttestationResult
from enarx.verifier.policy_toml import decode_policy
from enarx.verifier.policy_write import Reference, toml_of, write_policy

__all__ = [
    "IMAGE_TEE",
    "POLICY_NAME",
    "PolicyAndText",
    "default_policy",
    "image_hint",
    "image_references",
    "installed_images",
    "own_emulated_root",
]

POLICY_NAME = "default (images of this installation)"
IMAGE_TEE = "snp"
"""The kind of TEE that there are images for."""

_ZEROS = {"snp.family_id": 16, "snp.image_id": 16, "snp.host_data": 32}


class PolicyAndText(NamedTuple):
    """A policy and what it was decoded from.

    Args:
        policy: to appraise with.
        text: of the policy file, which anyone can decode again.
    """

    policy: AppraisalPolicy
    text: str


def installed_images() -> Mapping[str, bytes]:
    """Return the launch measurement of each image of this installation for SNP, by the image's name.

    Raises:
        PlatformError: the installation cannot be read.
    """
    return {PROCESS_IMAGE: measure_process(package_folder())}


def default_policy(images: Mapping[str, bytes] | None = None) -> PolicyAndText:
    """Return the policy that applies where the tenant names none.

    Args:
        images: measurements by name, at least one; None are `installed_images`.

    Raises:
        PlatformError: the installation cannot be read.
    """
    references = image_references(images if images is not None else installed_images())
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
    references = {key: Reference(toml_of([bytes(size).hex()])) for key, size in _ZEROS.items()}
    return references | {"snp.measurement": Reference(measurements, (f"Installed images: {names}",))}


def own_emulated_root() -> bytes:
    """Return the SHA-256 of the root certificate of this installation's own emulated platform.

    Raises:
        PlatformError: it has none yet, or somebody else could have put it there.
    """
    root = read_emulated_root()
    if root is None:
        raise PlatformError(
            "cannot accept this installation's emulated platform: found none",
            hint="enarx host serve makes one on its machine; name another machine's: --insecure-accept-emulated=ROOT-SHA256",
        )
    return hashlib.sha256(root).digest()


def image_hint(result: AttestationResult) -> str | None:
    """Return what to do about evidence that the default policy refuses for its kind of TEE; None where it is not for that."""
    if result.tee == IMAGE_TEE or not any(finding.check.id == "policy.tee" for finding in result.failures):
        return None
    return (
        f"no image for {result.tee} is in this installation, so nothing says what should run there:"
        " name a policy with --policy; enarx policy init writes one"
    )
