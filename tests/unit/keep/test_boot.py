# SPDX-License-Identifier: Apache-2.0
"""What of booting can be tried without a machine: what is done with it, the integration tests boot."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from enarx.errors import PlatformError
from enarx.keep import boot

WAIT_S = 20


@pytest.mark.parametrize(
    ("cpuinfo", "devices", "expected"),
    [
        (b"flags\t\t: fpu vme tdx_guest avx\n", [], True),
        (b"flags\t\t: fpu vme avx\n", ["/sys/bus/platform/devices/sev-guest"], True),
        (b"Features\t: fp asimd\n", ["/sys/bus/platform/devices/arm-cca-dev"], True),
        (b"flags\t\t: fpu vme not_tdx_guest tdx_guest_not\n", ["/dev/tpm0"], False),
    ],
)
def test_drivers_of_evidence_are_for_guests_of_a_tee(monkeypatch, cpuinfo, devices, expected):
    monkeypatch.setattr(boot, "open", lambda *_: io.BytesIO(cpuinfo), raising=False)
    monkeypatch.setattr(boot.os.path, "exists", devices.__contains__)
    assert boot._is_in_tee() is expected


def test_a_setting_that_matters_has_to_be_there(monkeypatch):
    def missing(path, *_, **__):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(boot, "open", missing, raising=False)
    boot._set("kernel/yama/ptrace_scope", "3")
    with pytest.raises(PlatformError, match="kernel/modules_disabled: No such file"):
        boot._set("kernel/modules_disabled", "1")


def test_a_mount_that_fails_is_told_of(tmp_path):
    with pytest.raises(PlatformError, match=r"mount .*nowhere"):
        boot._mount("tmpfs", str(tmp_path / "nowhere"), 0, "")


def test_nothing_of_a_session_is_loaded_before_the_workload_process_is_there():
    """What it is forked from knows no key and no evidence, and has no thread."""
    program = (
        "import sys, threading; import enarx.keep.boot\n"
        "secret = ('cryptography', 'OpenSSL', 'ssl', 'asyncio', 'random', 'enarx.attester', 'enarx.channel.session')\n"
        "print([name for name in secret if name in sys.modules], threading.active_count())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert found.stdout == "[] 1\n"
