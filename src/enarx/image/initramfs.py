# SPDX-License-Identifier: Apache-2.0
"""Put together what an image consists of: the entries of its initramfs, its kernel and its firmware.

Three layers, each kept in the cache as an archive under the digest of everything it follows from, which includes this
package's own code: enarx's modules; the interpreter, its library and the wheels; kernel, modules and firmware. What a layer
consists of is in `contents`. Layers only hold what belongs into the image; nothing of the machine that builds goes into one.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from enarx.errors import ConfigError, DecodeError, PlatformError
from enarx.image import contents
from enarx.image.closure import Module, find_closure
from enarx.image.contents import Architecture
from enarx.image.elf import is_elf, needed_libraries
from enarx.image.lock import Input, Lock
from enarx.image.newc import Entry, device, directory, file, read_newc, write_newc
from enarx.image.packages import Package, read_deb, read_wheel
from enarx.image.store import private_cache
from enarx.image.tools import Tools

__all__ = ["Parts", "image_inputs", "make_parts", "needed_entries", "read_package", "select_modules"]

_MAX_SOURCE_BYTES = 4 << 20
_MAX_MODULE_BYTES = 16 << 20
_MAX_LAYERS = 12
# In a layer, and not in the image: names that the next layer follows from.
_OUTSIDE = ".outside"
_KERNEL = ".kernel"
_FIRMWARE = ".firmware/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an image consists of.

    Args:
        initramfs: the archive, not compressed.
        entries: what is in it, in its order.
        kernel: the kernel's file.
        firmware: by role.
    """

    initramfs: bytes
    entries: tuple[Entry, ...]
    kernel: bytes
    firmware: Mapping[str, bytes]


def image_inputs(architecture: Architecture, lock: Lock) -> tuple[Input, ...]:
    """Return what an image is made of.

    Raises:
        ConfigError: the lock lacks one.
    """
    debs = (*architecture.guest_packages, *architecture.firmware_packages)
    return (*(lock.deb(name) for name in debs), lock.kernel(), *(lock.wheel(name) for name in contents.WHEELS))


def make_parts(
    architecture: Architecture,
    lock: Lock,
    files: Mapping[Input, str],
    tools: Tools,
    package_folder: str,
    *,
    fresh: bool,
    progress: Callable[[str], None],
) -> Parts:
    """Make everything but the compression.

    Args:
        architecture: of the image.
        lock: of that architecture.
        files: where at least its `image_inputs` are.
        tools: programs to make it with.
        package_folder: the folder of the package `enarx`.
        fresh: whether to make everything again, whatever the cache has.
        progress: is told what is made.

    Raises:
        ConfigError: the lock lacks something, or enarx imports what an image may not hold.
        DecodeError: an input is not what it should be.
        PlatformError: the cache cannot be written.
    """

    def layer(name: str, key: Iterable[str], make: Callable[[], list[Entry]]) -> list[Entry]:
        return _layer([name, architecture.name, tools.identity, *key], make, lambda: progress(name), fresh=fresh)

    modules, data = read_package(package_folder)
    sources = [f"{name} {hashlib.sha256(module.source).hexdigest()}" for name, module in modules.items()]
    sources += [f"{path} {hashlib.sha256(text).hexdigest()}" for path, text in data.items()]
    own = layer("enarx", sources, lambda: _make_enarx(modules, data, tools))
    outside = next(entry.data for entry in own if entry.path == _OUTSIDE).decode().split()
    inputs = image_inputs(architecture, lock)
    kernel_inputs = {lock.kernel(), *(lock.deb(name) for name in architecture.firmware_packages)}
    system_key = [entry.sha256 for entry in inputs if entry not in kernel_inputs] + outside
    system = layer("interpreter", system_key, lambda: _make_system(architecture, lock, files, tools, outside))
    boot_key = [entry.sha256 for entry in inputs if entry in kernel_inputs]
    boot = layer("kernel", boot_key, lambda: _make_boot(architecture, lock, files))
    entries = [entry for entry in (*own, *system, *boot) if not entry.path.startswith(".")]
    entries.append(file("init", contents.INIT, executable=True))
    entries += [directory(name) for name in contents.FOLDERS]
    entries += [device(*numbers) for numbers in contents.DEVICES]
    archive = write_newc(entries)
    return Parts(
        initramfs=archive,
        entries=tuple(read_newc(archive)),
        kernel=next(entry.data for entry in boot if entry.path == _KERNEL),
        firmware={entry.path.removeprefix(_FIRMWARE): entry.data for entry in boot if entry.path.startswith(_FIRMWARE)},
    )


# --- enarx -----------------------------------------------------------------------------------------------------------


def read_package(folder: str) -> tuple[dict[str, Module], dict[str, bytes]]:
    """Read what an image may hold of a package `enarx`, without what Python compiled of it.

    Args:
        folder: the package's.

    Returns:
        Modules by dotted name, and other files by their paths beside the package; both sorted.

    Raises:
        ConfigError: it cannot be read.
    """
    modules: dict[str, Module] = {}
    data: dict[str, bytes] = {}
    try:
        paths = [os.path.join(folder, "__init__.py")]
        for name in contents.ENARX:
            if os.path.isfile(f"{folder}/{name}.py"):
                paths.append(f"{folder}/{name}.py")
            for place, folders, names in os.walk(os.path.join(folder, name)):
                folders[:] = [below for below in folders if below != "__pycache__"]
                paths += [os.path.join(place, name) for name in names]
        for path in sorted(paths):
            with open(path, "rb") as source:
                text = source.read(_MAX_SOURCE_BYTES + 1)
            if len(text) > _MAX_SOURCE_BYTES:
                raise ConfigError(
                    f"cannot build an image: {path}: found more than {_MAX_SOURCE_BYTES} bytes, want fewer"
                )
            place = "enarx/" + os.path.relpath(path, folder)
            if place.endswith(".py"):
                name, is_package = _module_name(place)
                modules[name] = Module(source=text, is_package=is_package)
            else:
                data[place] = text
    except OSError as error:
        raise ConfigError(f"cannot build an image: {folder}: {error.strerror}") from error
    return modules, data


def _module_name(path: str) -> tuple[str, bool]:
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__"), name.endswith(".__init__")


def _module_path(name: str, module: Module) -> str:
    return name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")


def select_modules(modules: Mapping[str, Module]) -> tuple[list[str], list[str]]:
    """Choose what of enarx belongs into an image.

    Args:
        modules: what `read_package` found.

    Returns:
        Names of modules of enarx, and names of others that they import; both sorted.

    Raises:
        ConfigError: they import something of enarx that no image holds.
    """
    closure = find_closure(modules, contents.ROOTS, in_functions=True)
    wrong = sorted(name for name in closure.outside if name.partition(".")[0] == "enarx")
    if wrong:
        raise ConfigError(
            f"cannot build an image: enarx.keep imports {', '.join(wrong)}: want modules of {', '.join(contents.ENARX)} alone"
        )
    return sorted(closure.inside), sorted(closure.outside)


def _make_enarx(modules: Mapping[str, Module], data: Mapping[str, bytes], tools: Tools) -> list[Entry]:
    inside, outside = select_modules(modules)
    sources = [(f"{contents.SITE}/{_module_path(name, modules[name])}", modules[name].source) for name in inside]
    folders = {posixpath.dirname(path) for path, _ in sources}
    files = [file(f"{contents.SITE}/{path}", text) for path, text in data.items()]
    # What lies beside a module belongs to it.
    files = [entry for entry in files if posixpath.dirname(entry.path) in folders]
    return [file(_OUTSIDE, "\n".join(outside).encode()), *files, *_compile(sources, tools)]


def _compile(sources: list[tuple[str, bytes]], tools: Tools) -> list[Entry]:
    sources = sorted(sources)
    compiled = tools.compile([("/" + path, source) for path, source in sources])
    return [file(path + "c", data) for (path, _), data in zip(sources, compiled, strict=True)]


# --- Interpreter, standard library, wheels ---------------------------------------------------------------------------


def _make_system(
    architecture: Architecture, lock: Lock, files: Mapping[Input, str], tools: Tools, outside: list[str]
) -> list[Entry]:
    entries = [
        # The paths that are in the interpreter and in the loader.
        Entry(path=name, mode=0o120777, data=f"usr/{name}".encode())
        for name in sorted({"lib", "bin", architecture.loader.split("/")[1]})
    ]
    packages = {name: read_deb(files[lock.deb(name)], name, _is_wanted) for name in architecture.guest_packages}
    lib = f"usr/lib/{architecture.triplet}"
    libraries = {
        library: file(f"{lib}/{library}", packages[name].read(f"{lib}/{library}"))
        for name, names in contents.LIBRARIES.items()
        for library in names
    }
    entries.append(file(architecture.loader, packages["libc6"].read(architecture.loader), executable=True))
    entries.append(file(contents.PROGRAM, packages["python3.11-minimal"].read(contents.PROGRAM), executable=True))
    sources: list[tuple[str, bytes]] = []
    wanted = set(outside) | set(contents.STDLIB_EXTRA)
    for name, patterns in contents.WHEELS.items():
        for path, data in read_wheel(files[lock.wheel(name)], name, patterns).files.items():
            if path.endswith(".py"):
                sources.append((f"{contents.SITE}/{path}", data))
                found, is_package = _module_name(path)
                closure = find_closure({found: Module(source=data, is_package=is_package)}, [found], in_functions=True)
                wanted |= closure.outside
            else:
                entries.append(file(f"{contents.SITE}/{path}", data))
    library, extensions = _read_stdlib([packages["libpython3.11-minimal"], packages["libpython3.11-stdlib"]])
    closure = find_closure(library, wanted, in_functions=False, without=contents.STDLIB_LEFT_OUT)
    sources += [
        (f"{contents.STDLIB_ROOT}/{_module_path(name, library[name])}", library[name].source) for name in closure.inside
    ]
    entries += [file(*extensions[name]) for name in sorted(closure.outside & extensions.keys())]
    entries += _compile(sources, tools)
    return entries + needed_entries(entries, libraries, posixpath.basename(architecture.loader))


def _is_wanted(path: str) -> bool:
    return path == contents.PROGRAM or path.startswith(("usr/lib", "usr/lib64"))


def _read_stdlib(packages: Iterable[Package]) -> tuple[dict[str, Module], dict[str, tuple[str, bytes]]]:
    """Return the modules of the standard library, and of those that are native the file."""
    modules: dict[str, Module] = {}
    native: dict[str, tuple[str, bytes]] = {}
    root = contents.STDLIB_ROOT + "/"
    for package in packages:
        for path, data in package.files.items():
            if not path.startswith(root):
                continue
            if path.endswith(".py"):
                name, is_package = _module_name(path.removeprefix(root))
                modules[name] = Module(source=data, is_package=is_package)
            elif path.startswith(root + "lib-dynload/") and path.endswith(".so"):
                native[posixpath.basename(path).partition(".")[0]] = (path, data)
    return modules, native


def needed_entries(entries: Iterable[Entry], libraries: Mapping[str, Entry], loader: str) -> list[Entry]:
    """Choose the shared libraries that some files need, and those that these need.

    Args:
        entries: the files.
        libraries: what there is to choose from, by name.
        loader: the dynamic loader's name, which many need and which is there.

    Raises:
        ConfigError: one is needed that is not there to choose.
        DecodeError: a file is not what it should be.
    """
    chosen: dict[str, Entry] = {}
    waiting = [entry for entry in entries if is_elf(entry.data)]
    while waiting:
        entry = waiting.pop()
        for name in needed_libraries(entry.data):
            if name == loader or name in chosen:
                continue
            if name not in libraries:
                raise ConfigError(
                    f"cannot build an image: {entry.path}: found that it needs {name},"
                    f" want one of {', '.join(sorted(libraries))}"
                )
            chosen[name] = libraries[name]
            waiting.append(libraries[name])
    return list(chosen.values())


# --- Kernel and firmware ---------------------------------------------------------------------------------------------


def _make_boot(architecture: Architecture, lock: Lock, files: Mapping[Input, str]) -> list[Entry]:
    suffixes = {f"/kernel/{name}.ko.xz": name for name in architecture.modules}
    kernel = lock.kernel()
    package = read_deb(
        files[kernel], kernel.name, lambda path: path.startswith("boot/vmlinuz") or path.endswith(tuple(suffixes))
    )
    entries = [file(_KERNEL, _only(package, "boot/vmlinuz", ""))]
    for suffix, name in suffixes.items():
        module = lzma.LZMADecompressor().decompress(_only(package, "", suffix), _MAX_MODULE_BYTES)
        entries.append(file(f"usr/lib/modules/{posixpath.basename(name)}.ko", module))
    for role, firmware in architecture.firmware.items():
        path = firmware.path
        data = read_deb(files[lock.deb(firmware.package)], firmware.package, path.__eq__).read(path)
        if firmware.without_secure_boot:
            from enarx.image.secure_boot import remove_secure_boot

            data = remove_secure_boot(data)
        entries.append(file(_FIRMWARE + role, data))
    return entries


def _only(package: Package, prefix: str, suffix: str) -> bytes:
    found = [data for path, data in package.files.items() if path.startswith(prefix) and path.endswith(suffix)]
    if len(found) != 1:
        raise DecodeError(
            f"cannot build an image: {package.name}: found {len(found)} files {prefix}*{suffix}, want one"
        )
    return found[0]


# --- Layers ----------------------------------------------------------------------------------------------------------


def _layer(
    key: Iterable[str], make: Callable[[], list[Entry]], tell: Callable[[], None], *, fresh: bool
) -> list[Entry]:
    folder = private_cache("image-layers")
    digest = hashlib.sha256("\n".join([_recipe(), *key]).encode()).hexdigest()
    path = os.path.join(folder, digest)
    if not fresh:
        with contextlib.suppress(OSError, DecodeError), open(path, "rb") as kept:
            head = kept.read(32)
            archive = kept.read()
            if hashlib.sha256(archive).digest() == head:
                os.utime(path)
                return [entry for entry in read_newc(archive) if entry.mode & 0o170000 != 0o040000]
    tell()
    entries = make()
    archive = write_newc(entries)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made:
            made.write(hashlib.sha256(archive).digest())
            made.write(archive)
        os.rename(made.name, path)
        kept_paths = sorted((entry.path for entry in os.scandir(folder)), key=os.path.getmtime, reverse=True)
        for old in kept_paths[_MAX_LAYERS:]:
            os.unlink(old)
    except OSError as error:
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error
    return entries


def _recipe() -> str:
    """Return a digest of the code that decides what is in an image."""
    digest = hashlib.sha256()
    folder = os.path.dirname(os.path.abspath(__file__))
    for name in ("closure", "contents", "elf", "initramfs", "newc", "packages", "secure_boot"):
        with open(f"{folder}/{name}.py", "rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()
