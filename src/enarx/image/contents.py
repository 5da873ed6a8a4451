# SPDX-License-Identifier: Apache-2.0
"""What a Keep's image consists of, by name: the one place to look at for what runs beside a workload, and to change it.

Everything is listed or follows from what is: of enarx the modules that the guest's two programs can import (`closure`), of
the standard library the modules that those and the wheels import, of the wheels the files that match the patterns here, of the
distribution's libraries those named here that something needs. A module of enarx outside `ENARX`, or a library that is needed and
not named, stops a build.
What is not here is not in an image: no shell, no other program than the interpreter, no ssl. Drivers of networks are in images for
clouds alone, whose command line says that the Keep listens on one; they differ from others in that and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enarx.errors import PlatformError
from enarx.wire.machine import LINK_WORD, TCP_LINK_PORT

__all__ = [
    "ARCHITECTURES",
    "CLOUD_COMMAND_LINE",
    "DEVICES",
    "ENARX",
    "FOLDERS",
    "INIT",
    "LIBRARIES",
    "MAX_IMAGE_BYTES",
    "PROGRAM",
    "PYTHON",
    "ROOTS",
    "SITE",
    "STDLIB_EXTRA",
    "STDLIB_LEFT_OUT",
    "STDLIB_ROOT",
    "STUB",
    "TOOLS",
    "WHEELS",
    "Architecture",
    "Firmware",
    "architecture",
]

MAX_IMAGE_BYTES = 20_000_000
"""An initramfs at the highest level of compression is smaller."""

PYTHON = "python3.11"
PROGRAM = f"usr/bin/{PYTHON}"
STDLIB_ROOT = f"usr/lib/{PYTHON}"
SITE = "usr/lib/enarx"

# Isolated and without `site`: nothing but the two folders has a say in what is imported.
INIT = f"""\
#!/{PROGRAM} -IS
import sys

sys.path.append("/{SITE}")
from enarx.keep.boot import main

main()
""".encode()

FOLDERS = ("proc", "run", "sys", "tmp")
# Path, major, minor, permissions: what the kernel opens for its first process, before that has mounted anything.
DEVICES = (("dev/console", 5, 1, 0o600), ("dev/null", 1, 3, 0o666))

# --- enarx -----------------------------------------------------------------------------------------------------------

ROOTS = (
    "enarx.keep.boot",
    "enarx.keep.workload",
    # Imported by their names, for the interfaces that a component wants.
    "enarx.runtime.component.cli",
    "enarx.runtime.component.clocks",
    "enarx.runtime.component.filesystem",
    "enarx.runtime.component.http",
    "enarx.runtime.component.io",
    "enarx.runtime.component.random",
    "enarx.runtime.component.sockets",
)
"""Modules that the guest starts with; whatever they can import is in the image."""

ENARX = ("abi", "attester", "channel", "crypto", "errors", "keep", "runtime", "wire")
"""Packages and modules of enarx that an image may hold; one that imports another does not become an image."""

# --- Wheels ----------------------------------------------------------------------------------------------------------

WHEELS: Mapping[str, tuple[str, ...]] = {
    "cbor2": ("cbor2/__init__.py", "cbor2/_cbor2.*.so"),
    "certifi": ("certifi/__init__.py", "certifi/core.py", "certifi/cacert.pem"),
    "cffi": ("_cffi_backend.*.so",),
    "cryptography": ("cryptography/*.py", "cryptography/hazmat/bindings/_rust.abi3.so"),
    "httptools": ("httptools/*.py", "httptools/parser/*.so"),
    "pyopenssl": ("OpenSSL/*.py",),
    "typing-extensions": ("typing_extensions.py",),
    "wasmtime": ("wasmtime/*.py", "wasmtime/linux-*/_libwasmtime.so"),
}
"""Files of each wheel, by patterns in which `*` matches `/` too."""

# --- Standard library ------------------------------------------------------------------------------------------------

STDLIB_LEFT_OUT = frozenset({
    # Its modules do without each of these, and nothing of ours asks for them.
    "_bz2", "_crypt", "_dbm", "_hashlib", "_lzma", "_multiprocessing", "_posixshmem", "_ssl", "_uuid", "bz2", "lzma",
    "multiprocessing", "ssl",
    # Of other systems.
    "asyncio.windows_events", "asyncio.windows_utils", "ctypes.wintypes", "nturl2path",
    # To be read by people.
    "doctest", "pdb", "pydoc", "unittest",
})  # fmt: skip

STDLIB_EXTRA = (
    # The interpreter imports these by itself: at its start, for a codec's name, to show where an error was.
    "_collections_abc",
    "abc",
    "codecs",
    "encodings",
    "encodings.aliases",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_16_le",
    "encodings.utf_8",
    "encodings.utf_8_sig",
    "io",
    "linecache",
    "os",
    "stat",
    "tokenize",
    "traceback",
    # Others import these inside functions that are called here: `asyncio.to_thread`, `strptime`, `certifi.where`.
    "_strptime",
    "concurrent.futures.thread",
    "importlib.readers",
)

# --- Debian packages -------------------------------------------------------------------------------------------------

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "libc6": ("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"),
    "libexpat1": ("libexpat.so.1",),
    "libffi8": ("libffi.so.8",),
    "libgcc-s1": ("libgcc_s.so.1",),
    "zlib1g": ("libz.so.1",),
}
"""Shared libraries that an image may hold, by package; the dynamic loader comes with the C library's."""

TOOLS: Mapping[str, tuple[str, ...]] = {
    "liblz4-1": ("liblz4.so.1",),
    "liblzma5": ("liblzma.so.5",),
    "libstdc++6": ("libstdc++.so.6",),
    "libzstd1": ("libzstd.so.1",),
    "zstd": (),
}
"""What a build runs beside the image's own interpreter: a compressor of another version gives other bytes."""

_PYTHON_PACKAGES = ("libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """One file of firmware.

    Args:
        package: the Debian package it comes from.
        path: in that package.
        without_secure_boot: whether the keys in its variables are taken out, because it starts our kernel by direct boot.
        padded: whether zeros follow it up to the size of a flash chip, which an image does without.
    """

    package: str
    path: str
    without_secure_boot: bool = False
    padded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What differs between architectures.

    Args:
        name: as the kernel says it.
        debian: as Debian says it.
        triplet: the name of its library folder.
        loader: path of the dynamic loader in the image.
        wheel: what its wheels' platform tags end in.
        kernel: the Debian package that depends on the newest kernel of its series.
        modules: of that kernel, below `kernel/` and without `.ko`, in the order in which they can be loaded.
        network_modules: likewise, of the network devices that clouds have.
        stub: path of the EFI stub of unified kernel images, in the package `STUB`.
        firmware: by role.
        command_line: of the kernel.
        target: the engine's name for it, where its images are built on machines of the same; None is an image whose Keeps compile for themselves what
            every module needs.
    """

    name: str
    debian: str
    triplet: str
    loader: str
    wheel: str
    kernel: str
    modules: tuple[str, ...]
    network_modules: tuple[str, ...]
    stub: str
    firmware: Mapping[str, Firmware]
    command_line: str
    target: str | None = None

    @property
    def guest_packages(self) -> tuple[str, ...]:
        """Return the packages whose files go into the initramfs, without the kernel's."""
        return (*LIBRARIES, *_PYTHON_PACKAGES)

    @property
    def firmware_packages(self) -> tuple[str, ...]:
        """Return the packages of firmware."""
        return tuple(sorted({firmware.package for firmware in self.firmware.values()}))


# Drivers that are built into Debian's kernel, for devices that a Keep never has.
_NOT_STARTED = (
    "acpi_ec_sys_init",
    "atkbd_init",
    "dmi_sysfs_init",
    "efifb_driver_init",
    "i8042_init",
    "load_uefi_certs",
    "nvme_init",
    "virtio_fs_init",
    "xenfb_init",
)
# What each word is for: docs/image.md.
_COMMAND_LINE = (
    "quiet lockdown=confidentiality sysctl.kernel.sysrq=0 random.trust_bootloader=off oops=panic panic=-1 efi=noruntime"
    f" init_on_free=1 initcall_blacklist={','.join(_NOT_STARTED)}"
)

STUB = "systemd-boot-efi"
"""The Debian package of EFI stubs. Its series is 257: later stubs may hand the kernel a secret that nobody can predict."""

CLOUD_COMMAND_LINE = f"ipv6.disable=1 {LINK_WORD}tcp:{TCP_LINK_PORT}"
"""What images for clouds have at the end of their command line."""

# virtio-net with what it needs, of most; Amazon's, Google's, Microsoft's.
_NETWORK_MODULES = (
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/net/ethernet/amazon/ena/ena",
    "drivers/net/ethernet/google/gve/gve",
    "drivers/hv/hv_vmbus",
    "drivers/net/hyperv/hv_netvsc",
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "x86_64": Architecture(
        name="x86_64",
        debian="amd64",
        triplet="x86_64-linux-gnu",
        loader="usr/lib64/ld-linux-x86-64.so.2",
        wheel="x86_64",
        kernel="linux-image-6.12-cloud-amd64",
        modules=(
            "fs/configfs/configfs",
            "drivers/virt/coco/tsm",
            "drivers/virt/coco/sev-guest/sev-guest",
            "drivers/virt/coco/tdx-guest/tdx-guest",
        ),
        network_modules=_NETWORK_MODULES,
        stub="usr/lib/systemd/boot/efi/linuxx64.efi.stub",
        firmware={
            "vm": Firmware(package="ovmf-generic", path="usr/share/ovmf/OVMF.fd"),
            # The only one that compares kernel, initramfs and command line with the hashes that were measured.
            "snp": Firmware(package="ovmf-amdsev", path="usr/share/ovmf/OVMF.amdsev.fd"),
            "tdx": Firmware(
                package="ovmf-inteltdx", path="usr/share/ovmf/OVMF.inteltdx.ms.fd", without_secure_boot=True
            ),
        },
        command_line=f"console=ttyS0 {_COMMAND_LINE}",
        target="x86_64-unknown-linux-gnu",
    ),
    "aarch64": Architecture(
        name="aarch64",
        debian="arm64",
        triplet="aarch64-linux-gnu",
        loader="usr/lib/ld-linux-aarch64.so.1",
        wheel="aarch64",
        kernel="linux-image-6.12-cloud-arm64",
        # QEMU's vTPM is another device there. This kernel has no driver for CCA's reports yet.
        modules=("drivers/char/tpm/tpm_tis_core", "drivers/char/tpm/tpm_tis"),
        network_modules=_NETWORK_MODULES,
        stub="usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
        # The others of that package know no TPM, and measure nothing. Without keys this one asks for no signature.
        firmware={
            "vm": Firmware(package="qemu-efi-aarch64", path="usr/share/AAVMF/AAVMF_CODE.secboot.fd", padded=True)
        },
        command_line=f"console=ttyAMA0 {_COMMAND_LINE}",
    ),
}


def architecture(name: str) -> Architecture:
    """Return an architecture by its name.

    Raises:
        PlatformError: there is no image for it.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise PlatformError(
            f"cannot build an image: architecture: found {name}, want one of {', '.join(ARCHITECTURES)}",
            hint="name one of them with --arch",
        ) from None
