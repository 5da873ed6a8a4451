# SPDX-License-Identifier: Apache-2.0
"""Put together what an image consists of: the entries of its initramfs, its kernel and its firmware.

Layers, each kept in the cache as an archive under the digest of everything it follows from, which includes this package's own code:
enarx's modules; what its engine has compiled before; the interpreter, its library and the wheels; kernel, modules and firmware; and for
clouds drivers of networks and the EFI stub. Below them, what was compiled of each module is kept, and what it imports. What a layer consists of is in
`contents`. Layers hold what belongs into the image, and nothing of the machine that builds.

What holds it together is `make_parts`: the order of the layers, and what each follows from.
"""

from __future__ import annotations

import ast
import hashlib
import lzma
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from enarx.errors import ConfigError, DecodeError
from enarx.image import contents
from enarx.image.closure import Imports, Module, find_closure, find_imports
from enarx.image.contents import Architecture
from enarx.image.elf import is_elf, needed_libraries
from enarx.image.kept import find, forget_old, keep, put
from enarx.image.lock import Input, Lock
from enarx.image.newc import Entry, arrange, device, directory, file, read_newc, write_newc
from enarx.image.overlays import AHEAD, compile_ahead
from enarx.image.packages import Package, read_deb, read_wheel
from enarx.image.tools import Tools

__all__ = ["Parts", "image_inputs", "make_parts", "needed_entries", "read_package", "select_modules"]

_MAX_SOURCE_BYTES = 4 << 20
_MAX_MODULE_BYTES = 16 << 20
_MAX_LAYERS = 12
_MAX_MODULES = 2000
# What decides how the engine compiles.
_COMPILING = ("enarx.runtime.capi ", "enarx.runtime.compiling ", "enarx.runtime.engine ", "enarx/runtime/preview1/")
# In a layer, and not in the image: names that the next layer follows from.
_OUTSIDE = ".outside"
_KERNEL = ".kernel"
_FIRMWARE = ".firmware/"
_STUB = ".stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an image consists of.

    Args:
        initramfs: the archive, not compressed.
        entries: what is in it, in its order.
        kernel: the kernel's file.
        firmware: by role.
        stub: the EFI stub, of an image for clouds; else empty.
    """

    initramfs: bytes
    entries: tuple[Entry, ...]
    kernel: bytes
    firmware: Mapping[str, bytes]
    stub: bytes


def image_inputs(architecture: Architecture, lock: Lock, *, cloud: bool = False) -> tuple[Input, ...]:
    """Return what an image is made of.

    Args:
        architecture: of the image.
        lock: of that architecture.
        cloud: whether it is for clouds.

    Raises:
        ConfigError: the lock lacks one.
    """
    debs = (*architecture.guest_packages, *architecture.firmware_packages, *((contents.STUB,) if cloud else ()))
    return (*(lock.deb(name) for name in debs), lock.kernel(), *(lock.wheel(name) for name in contents.WHEELS))


def make_parts(
    architecture: Architecture,
    lock: Lock,
    files: Mapping[Input, str],
    tools: Tools,
    package_folder: str,
    *,
    cloud: bool,
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
        cloud: whether the image is for clouds.
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
    own = layer("enarx", sources, lambda: _make_enarx(modules, data, tools, fresh=fresh))
    outside = next(entry.data for entry in own if entry.path == _OUTSIDE).decode().split()
    overlays: list[Entry] = []
    target = architecture.target
    if target is not None:
        wheel = lock.wheel("wasmtime")
        overlay_key = [wheel.sha256, target, *(line for line in sources if line.startswith(_COMPILING))]
        overlays = layer("overlays", overlay_key, lambda: _make_overlays(target, files[wheel], data, package_folder))
    inputs = image_inputs(architecture, lock)
    kernel_inputs = {lock.kernel(), *(lock.deb(name) for name in architecture.firmware_packages)}
    system_key = [entry.sha256 for entry in inputs if entry not in kernel_inputs] + outside
    system = layer(
        "interpreter", system_key, lambda: _make_system(architecture, lock, files, tools, outside, fresh=fresh)
    )
    boot_key = [entry.sha256 for entry in inputs if entry in kernel_inputs]
    boot = layer("kernel", boot_key, lambda: _make_boot(architecture, lock, files))
    network: list[Entry] = []
    if cloud:
        network_key = [lock.kernel().sha256, lock.deb(contents.STUB).sha256]
        network = layer("network", network_key, lambda: _make_network(architecture, lock, files))
    entries = [entry for entry in (*own, *overlays, *system, *boot, *network) if not entry.path.startswith(".")]
    entries.append(file("init", contents.INIT, executable=True))
    entries += [directory(name) for name in contents.FOLDERS]
    entries += [device(*numbers) for numbers in contents.DEVICES]
    entries = arrange(entries)
    return Parts(
        initramfs=write_newc(entries),
        entries=tuple(entries),
        kernel=next(entry.data for entry in boot if entry.path == _KERNEL),
        firmware={entry.path.removeprefix(_FIRMWARE): entry.data for entry in boot if entry.path.startswith(_FIRMWARE)},
        stub=next((entry.data for entry in network if entry.path == _STUB), b""),
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


def select_modules(
    modules: Mapping[str, Module], *, read_imports: Callable[[str, Module, bool], Imports] = find_imports
) -> tuple[list[str], list[str]]:
    """Choose what of enarx belongs into an image.

    Args:
        modules: what `read_package` found.
        read_imports: `find_imports`, or what remembers its results.

    Returns:
        Names of modules of enarx, and names of others that they import; both sorted.

    Raises:
        ConfigError: they import something of enarx that no image holds.
    """
    closure = find_closure(modules, contents.ROOTS, in_functions=True, read_imports=read_imports)
    wrong = sorted(name for name in closure.outside if name.partition(".")[0] == "enarx")
    if wrong:
        raise ConfigError(
            f"cannot build an image: enarx.keep imports {', '.join(wrong)}: want modules of {', '.join(contents.ENARX)} alone"
        )
    return sorted(closure.inside), sorted(closure.outside)


def _make_enarx(modules: Mapping[str, Module], data: Mapping[str, bytes], tools: Tools, *, fresh: bool) -> list[Entry]:
    inside, outside = select_modules(modules, read_imports=_kept_imports)
    sources = [(f"{contents.SITE}/{_module_path(name, modules[name])}", modules[name].source) for name in inside]
    folders = {posixpath.dirname(path) for path, _ in sources}
    files = [file(f"{contents.SITE}/{path}", text) for path, text in data.items()]
    # What lies beside a module belongs to it.
    files = [entry for entry in files if posixpath.dirname(entry.path) in folders]
    return [file(_OUTSIDE, "\n".join(outside).encode()), *files, *_compile(sources, tools, fresh=fresh)]


def _kept_imports(name: str, module: Module, in_functions: bool) -> Imports:
    """Return what a module imports, found out once for each text of it."""
    key = f"{_recipe()} {name} {module.is_package} {in_functions} {hashlib.sha256(module.source).hexdigest()}"
    made = keep("image-imports", key.encode(), lambda: repr(find_imports(name, module, in_functions)).encode())
    imports: Imports = ast.literal_eval(made.decode())
    return imports


def _compile(sources: list[tuple[str, bytes]], tools: Tools, *, fresh: bool) -> list[Entry]:
    """Compile modules, each once for each text of it."""
    cache = "image-compiled"
    keys = {path: f"{tools.identity} {path} {hashlib.sha256(text).hexdigest()}".encode() for path, text in sources}
    kept = {path: None if fresh else find(cache, key) for path, key in keys.items()}
    left = [(path, text) for path, text in sources if kept[path] is None]
    made = tools.compile([("/" + path, text) for path, text in left]) if left else []
    for (path, _), data in zip(left, made, strict=True):
        put(cache, keys[path], data)
        kept[path] = data
    return [file(path + "c", data) for path, data in sorted(kept.items()) if data is not None]


def _make_overlays(target: str, wheel: str, data: Mapping[str, bytes], package_folder: str) -> list[Entry]:
    engine = read_wheel(wheel, "wasmtime", contents.WHEELS["wasmtime"])
    made = compile_ahead({path: data[path] for path in AHEAD}, engine, package_folder, target)
    return [file(f"{contents.SITE}/{path}", code) for path, code in made.items()]


# --- Interpreter, standard library, wheels ---------------------------------------------------------------------------


def _make_system(
    architecture: Architecture,
    lock: Lock,
    files: Mapping[Input, str],
    tools: Tools,
    outside: list[str],
    *,
    fresh: bool,
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
    entries += _compile(sources, tools, fresh=fresh)
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
    package, modules = _read_kernel(architecture.modules, lock, files)
    entries = [file(_KERNEL, _only(package, "boot/vmlinuz", "")), *modules]
    for role, firmware in architecture.firmware.items():
        path = firmware.path
        data = read_deb(files[lock.deb(firmware.package)], firmware.package, path.__eq__).read(path)
        if firmware.without_secure_boot:
            from enarx.image.secure_boot import remove_secure_boot

            data = remove_secure_boot(data)
        if firmware.padded:
            data = data.rstrip(b"\0")
        entries.append(file(_FIRMWARE + role, data))
    return entries


def _make_network(architecture: Architecture, lock: Lock, files: Mapping[Input, str]) -> list[Entry]:
    _, modules = _read_kernel(architecture.network_modules, lock, files)
    stub = read_deb(files[lock.deb(contents.STUB)], contents.STUB, architecture.stub.__eq__).read(architecture.stub)
    return [*modules, file(_STUB, stub)]


def _read_kernel(names: Iterable[str], lock: Lock, files: Mapping[Input, str]) -> tuple[Package, list[Entry]]:
    """Read the kernel's package, and modules out of it by what `Architecture` calls them."""
    suffixes = {f"/kernel/{name}.ko.xz": name for name in names}
    kernel = lock.kernel()
    package = read_deb(
        files[kernel], kernel.name, lambda path: path.startswith("boot/vmlinuz") or path.endswith(tuple(suffixes))
    )
    modules = []
    for suffix, name in suffixes.items():
        module = lzma.LZMADecompressor().decompress(_only(package, "", suffix), _MAX_MODULE_BYTES)
        modules.append(file(f"usr/lib/modules/{posixpath.basename(name)}.ko", module))
    return package, modules


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
    cache = "image-layers"
    name = "\n".join([_recipe(), *key]).encode()
    archive = None if fresh else find(cache, name)
    if archive is not None:
        return [entry for entry in read_newc(archive) if entry.mode & 0o170000 != 0o040000]
    tell()
    entries = make()
    put(cache, name, write_newc(entries))
    for each, most in ((cache, _MAX_LAYERS), ("image-compiled", _MAX_MODULES), ("image-imports", _MAX_MODULES)):
        forget_old(each, most)
    return entries


@lru_cache(maxsize=1)
def _recipe() -> str:
    """Return a digest of the code that decides what is in an image."""
    digest = hashlib.sha256()
    folder = os.path.dirname(os.path.abspath(__file__))
    for name in ("closure", "contents", "elf", "initramfs", "newc", "overlays", "packages", "secure_boot"):
        with open(f"{folder}/{name}.py", "rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()
