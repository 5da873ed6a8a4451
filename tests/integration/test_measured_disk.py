# SPDX-License-Identifier: Apache-2.0
"""A disk with a unified kernel image measures what was predicted of its file; what a host adds to it shows.

The machine is that of test_measured_boot, without `-kernel`. Its firmware's log has SHA-384 digests too: put into registers as a TD
puts them, they give the predicted RTMR1 and RTMR2.
"""

from __future__ import annotations

import hashlib
import re
import subprocess

import pytest

from enarx.abi.event_log import EV_NO_ACTION, parse_event_log_untrusted
from enarx.image.contents import ARCHITECTURES, STUB
from enarx.image.disk import DISK_BYTES, make_disk
from enarx.image.inputs import fetch_inputs
from enarx.image.lock import read_lock
from enarx.image.measure import uki_pcrs, uki_registers
from enarx.image.packages import read_deb
from enarx.image.uki import make_uki
from tests.integration.test_measured_boot import BOOT_TIMEOUT_S, machine_words, parts, virtual_tpm, write_parts

pytestmark = pytest.mark.slow
__all__ = ["parts"]

TARGET = ARCHITECTURES["x86_64"]
EV_SEPARATOR = 4
WORDS = "io.systemd.stub.kernel-cmdline-extra=loglevel=3"


@pytest.fixture(scope="module")
def uki(parts):
    lock = read_lock("x86_64")
    entry = lock.deb(STUB)
    package = fetch_inputs(lock, [entry], TARGET.wheel)[entry]
    stub = read_deb(package, STUB, TARGET.stub.__eq__).read(TARGET.stub)
    return make_uki(stub, kernel=parts["kernel"], initramfs=parts["initramfs"], cmdline=parts["cmdline"])


def boot(folder, parts, uki, *more):
    """Start the machine from a disk, and return its PCRs and its firmware's log."""
    write_parts(folder, parts)
    disk = folder / "disk"
    with disk.open("wb") as file:
        for at, piece in make_disk(uki, "x86_64").items():
            file.seek(at)
            file.write(piece)
        file.truncate(DISK_BYTES)
    words = machine_words(folder, parts)
    for option in ("-kernel", "-initrd", "-append"):
        at = words.index(option)
        del words[at : at + 2]
    words += ["-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk", *more]
    with virtual_tpm(folder):
        subprocess.run(words, check=True, timeout=BOOT_TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
    said = (folder / "console").read_text(errors="replace").replace("\r", "")
    assert "DONE" in said, said[-2000:]
    pcrs = {int(index): bytes.fromhex(value) for index, value in re.findall(r"PCR (\d+) ([0-9a-f]{64})\n", said)}
    return pcrs, bytes.fromhex(re.search(r"LOG ([0-9a-f]+)\n", said)[1])


def as_in_a_td(log):
    """Return RTMR1 and RTMR2 of the events in a log: the former has PCR 2 to 6, and one separator, the latter those above 7."""
    registers = [bytes(48), bytes(48)]
    for event in parse_event_log_untrusted(log).events:
        if event.type == EV_NO_ACTION or event.register in {0, 1, 7}:
            continue
        if event.type == EV_SEPARATOR and event.register != 4:
            continue
        which = event.register >= 8
        registers[which] = hashlib.sha384(registers[which] + event.digests["sha384"]).digest()
    return registers


def test_a_boot_from_the_disk_measures_what_was_predicted(parts, uki, tmp_path):
    predicted = uki_pcrs(firmware=parts["firmware"], uki=uki, from_disk=True)
    registers = uki_registers(uki)
    pcrs, log = boot(tmp_path, parts, uki)
    assert {index: pcrs[index].hex() for index in predicted} == {i: value.hex() for i, value in predicted.items()}
    assert sorted(predicted) == [0, 4, 7, 9, 11, 12, 13]
    rtmr1, rtmr2 = as_in_a_td(log)
    assert rtmr1 in registers["tdx.rtmr1"]
    assert [rtmr2] == registers["tdx.rtmr2"]


def test_words_that_a_host_adds_to_the_command_line_show(parts, uki, tmp_path):
    predicted = uki_pcrs(firmware=parts["firmware"], uki=uki, from_disk=True)
    pcrs, log = boot(tmp_path, parts, uki, "-smbios", f"type=11,value={WORDS}")
    assert {index for index in predicted if pcrs[index] != predicted[index]} == {9, 12}
    assert [as_in_a_td(log)[1]] != uki_registers(uki)["tdx.rtmr2"]
