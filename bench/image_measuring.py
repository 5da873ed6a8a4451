# SPDX-License-Identifier: Apache-2.0
"""The case of measuring an image: what our values cost beside one launch digest by sev-snp-measure.

Both sides run in the benchmark's own process, from files that are in the page cache, in turns. Ours also has the registers of a TD and
of a vTPM; what is in the firmware's volumes is known from the first round, as it is to whoever measures several images with one firmware.
docs/benchmarks.md says why the case is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from cases import Bench, Row
from installs import MissingError
from timing import BenchError

from enarx import __version__
from enarx.errors import EnarxError
from enarx.image.measure import launch_cmdline
from enarx.image.reference import open_machine, reference_values
from enarx.image.store import Image, open_image

VCPU_TYPE = "EPYC-v4"
SNP_ACTIVE = 1
MIB = 1 << 20


def measure(bench: Bench) -> Iterator[Row]:
    """A launch digest, and all registers, against the launch digest of sev-snp-measure."""
    image = _image()
    digest = _by_sev_snp_measure(image)
    if reference_values(open_machine(image), sections=("snp",))["snp"]["measurement"] != [digest.hex()]:
        raise BenchError(f"measure {image.name}: found another launch digest than sev-snp-measure, want the same")
    sides: dict[str, Callable[[], object]] = {
        "an image's SNP digest": lambda: reference_values(open_machine(image, roles=("snp",)), sections=("snp",)),
        "all of an image's registers": lambda: reference_values(open_machine(image), memory_sizes=()),
        "sev-snp-measure": lambda: _by_sev_snp_measure(image),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(bench.options.short_rounds):
        for name, side in sides.items():
            before = time.perf_counter()
            side()
            times[name].append((time.perf_counter() - before) * 1000)
    theirs = times.pop("sev-snp-measure")
    megabytes = sum(artefact.size for artefact in image.manifest.artefacts.values()) / MIB
    for name, ours in times.items():
        note = f"{image.name}, {megabytes:.0f} MiB; files are read and compared with the manifest too"
        yield Row(
            name=f"measure {name}", unit="ms", ours=ours, theirs=theirs, peer="sev-snp-measure", at_most=3.0, note=note
        )


def _image() -> Image:
    try:
        return open_image(f"keep-{__version__}-x86_64")
    except EnarxError as error:
        raise MissingError(str(error)) from error


def _by_sev_snp_measure(image: Image) -> bytes:
    from sevsnpmeasure.guest import calc_launch_digest
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vcpu_types import CPU_SIGS

    files = (image.firmware["snp"], image.kernel, image.initramfs, launch_cmdline(image.cmdline, "snp"))
    digest: bytes = calc_launch_digest(SevMode.SEV_SNP, 1, CPU_SIGS[VCPU_TYPE], *files, SNP_ACTIVE)
    return digest


MEASURING_CASES = {"measure": measure}
