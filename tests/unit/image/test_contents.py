# SPDX-License-Identifier: Apache-2.0
"""What an image may hold: that this checkout's Keep stays inside it, and that nothing else is in the lists."""

from __future__ import annotations

import sys

import pytest

from enarx.errors import ConfigError, PlatformError
from enarx.image import contents
from enarx.image.closure import Module
from enarx.image.contents import ARCHITECTURES, architecture
from enarx.image.initramfs import read_package, select_modules
from enarx.image.process import package_folder

MODULES, DATA = read_package(package_folder())
INSIDE, OUTSIDE = select_modules(MODULES)
# What each wheel is imported as; of wasmtime the library is called, and its modules are for whoever starts another program.
IMPORTED = {"OpenSSL", "cbor2", "certifi", "cryptography", "httptools"}


def test_the_keep_is_in_it():
    assert {"enarx", "enarx.keep.boot", "enarx.keep.workload", "enarx.runtime.component.http"} <= set(INSIDE)


def test_every_root_is_a_module_of_ours():
    assert set(contents.ROOTS) <= set(INSIDE)


def test_every_component_interface_is_a_root():
    from enarx.runtime import component

    assert {f"enarx.runtime.component.{name}" for name in component._MODULES.values()} <= set(contents.ROOTS)


def test_of_enarx_there_is_what_is_listed_and_nothing_of_verifier_host_or_tenant():
    packages = {name.split(".")[1] for name in INSIDE if "." in name}
    assert packages == set(contents.ENARX)
    assert packages.isdisjoint(
        {"cli", "deploy", "emulator", "endorsers", "host", "image", "rats", "testing", "verifier"}
    )


def test_of_others_there_is_the_standard_library_and_the_wheels():
    others = {name.partition(".")[0] for name in OUTSIDE} - sys.stdlib_module_names
    assert others == IMPORTED


def test_nothing_of_ours_wants_what_is_left_out():
    assert contents.STDLIB_LEFT_OUT.isdisjoint(OUTSIDE)


def test_every_wheel_is_a_dependency_of_enarx_or_of_one():
    from importlib.metadata import version

    assert all(version(name) for name in contents.WHEELS)


def test_refuses_an_import_of_what_no_image_holds():
    modules = MODULES | {"enarx.keep.boot": Module(source=b"def f():\n import enarx.verifier.snp", is_package=False)}
    with pytest.raises(
        ConfigError, match=r"enarx.keep imports enarx.verifier, enarx.verifier.snp: want modules of abi"
    ):
        select_modules(modules)


def test_files_beside_modules_are_read_and_what_python_compiled_is_not():
    assert set(DATA) >= {"enarx/runtime/preview1/router.wat"}
    assert not any("__pycache__" in path for path in DATA)
    assert not any(path.endswith((".pyc", ".so")) for path in DATA)


def test_nothing_that_starts_another_program_is_there():
    listed = {*contents.LIBRARIES, *(name for arch in ARCHITECTURES.values() for name in arch.guest_packages)}
    assert listed.isdisjoint({"busybox", "bash", "dash", "coreutils", "util-linux", "systemd"})
    assert contents.INIT.startswith(b"#!/usr/bin/python3.11 -IS\n")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_command_line_is_one_short_line_that_locks_the_kernel_down(arch):
    line = ARCHITECTURES[arch].command_line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 1024
    assert {
        "lockdown=confidentiality", "sysctl.kernel.sysrq=0", "random.trust_bootloader=off", "oops=panic", "panic=-1",
        "efi=noruntime", "init_on_free=1",
    } < set(line.split(" "))  # fmt: skip


def test_only_the_firmware_that_compares_hashes_is_for_snp():
    assert ARCHITECTURES["x86_64"].firmware["snp"].path.endswith("OVMF.amdsev.fd")


def test_firmware_for_arm_is_one_that_knows_a_tpm():
    assert ARCHITECTURES["aarch64"].firmware["vm"].path.endswith("AAVMF_CODE.secboot.fd")


def test_refuses_another_architecture():
    with pytest.raises(PlatformError, match="architecture: found riscv64, want one of x86_64, aarch64"):
        architecture("riscv64")
