# SPDX-License-Identifier: Apache-2.0
"""Machines that nobody has to own: a tree of small files, and the numbers a kernel would have given."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from enarx.host.probes import KvmAnswer, Machine

WORKING_KVM = KvmAnswer(exists=True, opened=True, api_version=12, created_vm=True)
NO_KVM = KvmAnswer(exists=False, stopped="not there")
CPUID_DENIED = "/dev/cpu/0/cpuid: permission denied"


def cpuinfo(vendor, brand, flags):
    block = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: {brand}\nflags\t\t: {flags}\n"
    return block + "\n" + block.replace(flags, "of the second processor")


@pytest.fixture
def build(tmp_path) -> Callable[..., Machine]:
    """Make a machine: `files` by path, `programs` on its PATH, and any field of `Machine`."""

    def build(*, files=None, programs=(), **fields):
        for path, content in (files or {}).items():
            target = tmp_path / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        for program in programs:
            target = tmp_path / "usr/bin" / program
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("")
            target.chmod(0o755)
        defaults = {
            "root": tmp_path,
            "sysname": "Linux",
            "release": "6.18.1-generic",
            "machine": "x86_64",
            "search_path": ("/usr/local/bin", "/usr/bin"),
            "memlock_bytes": 8 << 20,
            "cpuid": {},
            "cpuid_unknown": CPUID_DENIED,
            "kvm": NO_KVM,
        }
        return Machine(**(defaults | fields))

    return build


QEMU = {
    "programs": ("qemu-system-x86_64",),
    "qemu_objects": {"qemu-system-x86_64": frozenset({"sev-guest", "sev-snp-guest", "tdx-guest"})},
    "images": ("keep",),
}


@pytest.fixture
def epyc() -> dict:
    """The parts of an EPYC host with SEV-SNP switched on, for `build`."""
    return {
        "files": {
            "/proc/cpuinfo": cpuinfo("AuthenticAMD", "AMD EPYC 9354 32-Core Processor", "svm sme sev sev_es sev_snp"),
            "/dev/sev": "",
            "/sys/module/kvm_amd/parameters/sev_snp": "Y\n",
        },
        "cpuid": {(0x8000001F, 0): (0x1F, 51 | 5 << 6, 1006, 100)},
        "cpuid_unknown": None,
        "kvm": WORKING_KVM,
        **QEMU,
    }


@pytest.fixture
def tdx_host() -> dict:
    """The parts of a Xeon host with TDX switched on, as an ordinary user sees it, for `build`."""
    return {
        "files": {
            "/proc/cpuinfo": cpuinfo("GenuineIntel", "INTEL(R) XEON(R) PLATINUM 8568Y+", "vmx tdx_host_platform"),
            "/sys/module/kvm_intel/parameters/tdx": "Y\n",
        },
        "kvm": WORKING_KVM,
        **QEMU,
    }


@pytest.fixture
def sgx_host() -> dict:
    """The parts of a Xeon host with SGX switched on, but for the socket of its quote service, for `build`."""
    return {
        "files": {
            "/proc/cpuinfo": cpuinfo("GenuineIntel", "Intel(R) Xeon(R) Gold 6338", "vmx sgx sgx_lc"),
            "/dev/sgx_enclave": "",
            "/dev/sgx_provision": "",
        },
        "programs": ("gramine-sgx", "gramine-sgx-sign"),
        "images": ("keep",),
        "cpuid": {
            (0x7, 0): (0, 1 << 2, 1 << 30, 0),
            (0x12, 0): (0x3, 0x1, 0, 0x381F),
            (0x12, 2): (0x00200001, 0x1, 0x80000001, 0x1),
            (0x12, 3): (0x00200001, 0x1, 0x01A00001, 0x0),
            (0x12, 4): (0, 0, 0xFFFFF000, 0),
        },
        "cpuid_unknown": None,
        "kvm": WORKING_KVM,
    }


@pytest.fixture
def parts() -> SimpleNamespace:
    """What tests change a machine with."""
    return SimpleNamespace(cpuinfo=cpuinfo, working_kvm=WORKING_KVM, no_kvm=NO_KVM)
