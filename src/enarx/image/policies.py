# SPDX-License-Identifier: Apache-2.0
"""What policies say of images: the values of installed images, put in place of their names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from enarx.image.process import PROCESS_IMAGE, measure_process, package_folder
from enarx.verifier.policy_images import expand_images, named_images
from enarx.verifier.registry import SECTIONS

if TYPE_CHECKING:
    from enarx.verifier.policy_images import ImageValues

__all__ = ["IMAGE_TEE", "PROCESS_ZEROS", "expand_policy", "image_values"]

IMAGE_TEE = "snp"
"""The kind of TEE that there are images for."""

PROCESS_ZEROS = {"snp.family_id": 16, "snp.image_id": 16, "snp.host_data": 32}
"""What is zero in evidence of a Keep that is a process, and its length in bytes."""


def image_values(name: str, sections: Iterable[str], *, emulated: bool = False) -> ImageValues:
    """Return what an image of this installation says, by section and key of a policy.

    Args:
        name: `process`, or an installed image's name or digest.
        sections: that are wanted.
        emulated: whether values are wanted too that only an emulated platform vouches for.

    Raises:
        UsageError: there is no such image, or nothing is computed for its architecture.
        PlatformError: the installation cannot be read.
        VerificationError: the image is not what it was when it was made.
    """
    if name == PROCESS_IMAGE:
        zeros = {key.partition(".")[2]: [bytes(size).hex()] for key, size in PROCESS_ZEROS.items()}
        return {IMAGE_TEE: {"measurement": [measure_process(package_folder()).hex()], **zeros}}
    from enarx.image.reference import emulated_measurements, open_machine, reference_values
    from enarx.image.store import open_image

    machine = open_machine(open_image(name))
    values = reference_values(machine, sections=tuple(sections))
    if emulated and IMAGE_TEE in values:
        values[IMAGE_TEE]["measurement"] += [digest.hex() for digest in emulated_measurements(machine)]
    return values


def expand_policy(text: bytes, *, path: str, emulated: bool = False) -> tuple[bytes, tuple[str, ...]]:
    """Put the values of installed images in place of their names.

    Args:
        text: of a policy file.
        path: its name.
        emulated: whether an emulated platform is accepted beside it; a file that accepts emulated roots by itself means the same.

    Returns:
        the text that says everything by itself, and the images that were named.

    Raises:
        UsageError: an image is not installed.
        ConfigError: the file is no TOML, or an image cannot be put in.
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    names = named_images(text, path=path)
    if not names:
        return text, ()
    document = tomllib.loads(text.decode())
    emulated = emulated or bool(document.get("insecure_emulated_roots"))
    sections = [section for section in SECTIONS if section in document]
    values = {name: image_values(name, sections, emulated=emulated) for name in names}
    return expand_images(text, values, path=path), names
