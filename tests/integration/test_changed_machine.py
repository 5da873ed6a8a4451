# SPDX-License-Identifier: Apache-2.0
"""A machine of which one byte is another is refused by `enarx deploy`, which says in which part; one that is as predicted is accepted.

Predictions are written to files by programs that have ended before the first QEMU starts: `enarx image measure` for a virtual TPM, and
`sev-snp-measure` for the emulated platform. Host and launcher have the honest image in all of these tests. What is
changed is changed between the launcher and QEMU, by a program in QEMU's place on PATH that hands on other files or words: so whoever says
"changed" has looked at the machine that runs, and not at what was meant to be started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from enarx.host.launchers.qemu import FIRMWARE_FD, INITRAMFS_FD, KERNEL_FD
from enarx.host.launchers.swtpm import open_seed
from tests.integration.test_measured_boot import another_firmware, changed_at
from tests.integration.test_vm_keep import TPM_POLICY
from tests.integration.test_vm_keep import module as hello  # noqa: F401 - a fixture
from tests.machines import BOOT_S, NAME, require_image

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]
KINDS = ("vtpm", "emulated-snp")
FDS = {"firmware": FIRMWARE_FD, "kernel": KERNEL_FD, "initramfs": INITRAMFS_FD}
PARTS = ("firmware", "kernel", "initramfs", "command line")


@pytest.fixture(scope="module")
def image():
    return require_image()


@pytest.fixture(scope="module")
def everybody():
    """A folder that QEMU may read and write in, whoever it is."""
    with tempfile.TemporaryDirectory(prefix="enarx-changed-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def ask(*command, path=None):
    environment = {**os.environ, "PYTHONPATH": str(TOP / "src")}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_S + 60,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def predictions(image, tmp_path_factory):
    """Return the files of what either kind of evidence is going to say, written before any machine is started."""
    folder = tmp_path_factory.mktemp("predictions")
    files = {kind: folder / kind for kind in KINDS}
    measured = ask(sys.executable, "-m", "enarx", "image", "measure", "--image", NAME, "--json")
    assert measured.returncode == 0, measured.stderr.decode()
    files["vtpm"].write_bytes(measured.stdout)
    # The program as it is installed, which knows nothing of enarx.
    digest = ask(
        sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp", "--vcpus", "1", "--vcpu-type", "EPYC-v4",
        "--ovmf", image.firmware["vm"], "--kernel", image.kernel, "--initrd", image.initramfs, "--append", image.cmdline,
    )  # fmt: skip
    assert digest.returncode == 0, digest.stderr.decode()
    files["emulated-snp"].write_bytes(digest.stdout)
    for file in files.values():
        file.chmod(0o400)
    return files


@pytest.fixture(scope="module")
def changed(image, everybody):
    """Return the parts of the image with one byte changed, which boot like the others.

    The kernel's byte is in code that EFI does not run. The initramfs's is the flag in its head that says that a checksum follows. Of
    the firmware it is one letter of a message, in what its volumes are unpacked to.
    """
    firmware, kernel, initramfs = (
        Path(path).read_bytes() for path in (image.firmware["vm"], image.kernel, image.initramfs)
    )
    assert initramfs[4] & 4
    made = {
        "firmware": another_firmware(firmware),
        "kernel": changed_at(kernel, 0x2000),
        "initramfs": initramfs[:4] + bytes([initramfs[4] ^ 4]) + initramfs[5:],
    }
    files = {}
    for part, data in made.items():
        files[part] = everybody / part
        files[part].write_bytes(data)
        files[part].chmod(0o444)
    return files


def put_before_qemu(folder, part, changed, image):
    """Make a program in QEMU's name that starts it with one part changed, and says that it did."""
    real = shutil.which("qemu-system-x86_64")
    script = [
        "#!/bin/sh",
        'case " $* " in *" -kernel "*) ;; *) exec ' + real + ' "$@" ;; esac',
        f': > "{folder}/started"',
    ]
    if part in FDS:
        script.append(f'exec {FDS[part]}< "{changed[part]}"')
    if part == "command line":
        assert "panic=-1" in image.cmdline
        script += [
            "for word do",
            "shift",
            'case $word in *panic=-1*) word="${word%%panic=-1*}panic=-2${word#*panic=-1}" ;; esac',
        ]
        script += ['set -- "$@" "$word"', "done"]
    program = folder / "qemu-system-x86_64"
    program.write_text("\n".join([*script, f'exec {real} "$@"', ""]))
    program.chmod(0o755)


def deploy(kind, part, *, image, changed, everybody, module, tmp_path):
    """Deploy with a part changed, and return how that went and the file that QEMU's start made."""
    folder = everybody / f"{kind}-{part.replace(' ', '-')}"
    folder.mkdir()
    folder.chmod(0o777)
    put_before_qemu(folder, part, changed, image)
    policy = tmp_path / "policy.toml"
    if kind == "vtpm":
        policy.write_text(TPM_POLICY.format(image=NAME, key=open_seed().key_sha256))
    else:
        policy.write_text(snp_policy())
    accept = ["--insecure-accept-emulated"] if kind == "emulated-snp" else []
    done = ask(
        sys.executable, "-m", "enarx", "deploy", str(module), "--backend", "vm", "--image", NAME, "--vm-evidence", kind,
        "--policy", str(policy), "--receipt", str(tmp_path / "receipt"), *accept, path=folder,
    )  # fmt: skip
    return done, folder / "started"


def snp_policy():
    """Return what `enarx policy init` writes, with the image's name in place of what it says."""
    from enarx.verifier.policy_write import write_policy

    said = ("measurement", "family_id", "image_id", "host_data")
    lines = write_policy(["snp"], references={}, origin="a test").text.splitlines()
    lines = [line for line in lines if line.split(" = ")[0].removeprefix("# ") not in said]
    lines.insert(lines.index("[snp]") + 1, f'image = "{NAME}"')
    return "\n".join(lines)


def claims_of(receipt):
    """Return what the evidence of the offer said, which is in the receipt."""
    verified = ask(sys.executable, "-m", "enarx", "attest", "verify", str(receipt), "--json")
    document = json.loads(verified.stdout)
    assert document["verdict"] == document["offer"]["verdict"] == "accepted"
    return document["offer"]["claims"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_says_what_was_predicted(kind, predictions, image, changed, everybody, hello, tmp_path):  # noqa: F811
    done, started = deploy(
        kind, "nothing", image=image, changed=changed, everybody=everybody, module=hello, tmp_path=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, b"hello from a machine\n"), done.stderr.decode()
    assert predictions[kind].stat().st_mtime_ns < started.stat().st_mtime_ns
    claims = claims_of(tmp_path / "receipt")
    if kind == "emulated-snp":
        assert claims["measurement"] == predictions[kind].read_text().strip()
        return
    predicted = json.loads(predictions[kind].read_bytes())["reference_values"]["tpm"]
    assert predicted.keys() == {f"pcr{index}" for index in (0, 2, 3, 4, 5, 6, 7, 8, 9)}
    for key, values in predicted.items():
        assert claims["pcrs"][int(key.removeprefix("pcr"))] in values, key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_one_changed_byte_is_refused_and_its_part_named(kind, part, image, changed, everybody, hello, tmp_path):  # noqa: F811
    done, started = deploy(
        kind, part, image=image, changed=changed, everybody=everybody, module=hello, tmp_path=tmp_path
    )
    said = done.stderr.decode()
    assert started.exists()
    assert done.returncode == 105, said
    assert f"hint: not as in image {NAME}: {part}\n" in said
    assert done.stdout == b""
    assert not (tmp_path / "receipt").exists()
