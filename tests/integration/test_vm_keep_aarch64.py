# SPDX-License-Identifier: Apache-2.0
"""One package runs unchanged in Keeps of both architectures, each judged by a policy that names its image.

On a machine of the one, the Keep of the other is emulated, which takes a quarter of a minute of a processor alone. The images are those of
this version, or `ENARX_TEST_IMAGE` and `ENARX_TEST_IMAGE_AARCH64`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enarx import __version__
from enarx.errors import UsageError
from enarx.host.launchers.swtpm import open_seed
from enarx.image.store import open_image
from enarx.wire.receipt_file import decode_receipt_untrusted
from enarx.wire.release import decode_identity_untrusted
from enarx.wire.session import Receipt, decode_keep_message_untrusted
from tests.integration.test_vm_keep import TPM_POLICY

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]
IMAGES = {
    "aarch64": os.environ.get("ENARX_TEST_IMAGE_AARCH64", f"keep-{__version__}-aarch64"),
    "x86_64": os.environ.get("ENARX_TEST_IMAGE", f"keep-{__version__}-x86_64"),
}
PROGRAMS = ("qemu-system-aarch64", "qemu-system-x86_64", "swtpm", "swtpm_setup")
HELLO = b"Hello, Enarx!\n"
DEPLOY_S = 170.0


@pytest.fixture(scope="module", autouse=True)
def images():
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install qemu-system-arm qemu-system-x86 swtpm swtpm-tools")
    for arch, name in IMAGES.items():
        try:
            assert open_image(name).arch == arch
        except UsageError:
            pytest.skip(f"no image {name}: enarx image build --arch {arch} makes it")


@pytest.fixture
def deploy(tmp_path, guest):
    module = guest("hello")

    def deploy(arch, *, policy_of):
        policy, receipt = tmp_path / f"{arch}.toml", tmp_path / f"{arch}.receipt"
        policy.write_text(TPM_POLICY.format(image=IMAGES[policy_of], key=open_seed().key_sha256))
        done = subprocess.run(
            [
                sys.executable, "-m", "enarx", "deploy", str(module), "--backend", "vm", "--image", IMAGES[arch],
                "--policy", str(policy), "--receipt", str(receipt),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEPLOY_S,
            env={**os.environ, "PYTHONPATH": str(TOP / "src"), "TMPDIR": str(tmp_path)},
            check=False,
        )  # fmt: skip
        return done, receipt

    return deploy


@pytest.mark.timeout(2 * DEPLOY_S)
def test_one_package_runs_unchanged_on_both_architectures(deploy):
    ran = {}
    for arch in IMAGES:
        done, path = deploy(arch, policy_of=arch)
        assert (done.returncode, done.stdout) == (0, HELLO), done.stderr.decode()
        message = decode_keep_message_untrusted(decode_receipt_untrusted(path.read_bytes()).receipt)
        assert isinstance(message, Receipt)
        ran[arch] = decode_identity_untrusted(message.identity)
    assert (ran["aarch64"].package, ran["aarch64"].module) == (ran["x86_64"].package, ran["x86_64"].module)


@pytest.mark.timeout(DEPLOY_S)
def test_a_keep_of_the_other_architecture_is_not_that_of_a_policy(deploy):
    done, receipt = deploy("aarch64", policy_of="x86_64")
    said = done.stderr.decode()
    assert done.returncode == 105, said
    assert f"not as in image {IMAGES['x86_64']}: firmware, kernel" in said
    assert done.stdout == b""
    assert not receipt.exists()
