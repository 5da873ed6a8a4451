# SPDX-License-Identifier: Apache-2.0
"""An image as anybody builds it: its size and contents, the same bytes elsewhere, and what is refused.

The first build fetches what the lock pins. Where a mirror no longer has that, the other tests go on with a new lock, and say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from enarx.image.build import image_inputs
from enarx.image.contents import ARCHITECTURES, MAX_IMAGE_BYTES
from enarx.image.inputs import fetch_inputs
from enarx.image.lock import encode_lock, own_lock_path, read_lock
from enarx.image.newc import read_newc
from enarx.image.tools import tool_inputs, unpack_tools

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt"),
    pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="no image for this architecture"),
]

ARCH = platform.machine()
TOP = Path(__file__).parents[2]
BUILD_S = 600.0


@pytest.fixture(scope="module")
def homes(tmp_path_factory, enarx):
    """The command with a home for this module; of what was made before it has only what was compressed, which takes longest.

    The build elsewhere has not even that, so that two that know nothing of each other are compared.
    """
    home = tmp_path_factory.mktemp("images")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(f"{caches}/enarx/image-compressed", home / "cache/enarx/image-compressed")
    return enarx.with_env(XDG_DATA_HOME=str(home / "data"), XDG_CACHE_HOME=str(home / "cache"))


@pytest.fixture(scope="module")
def lock(homes, tmp_path_factory):
    """The words that name the lock, which are none where the release's own can still be built."""
    found = homes.command("image", "build", "--level", "1", "--name", "first", timeout_s=BUILD_S)
    if found.status == 0:
        return ()
    found.refused(2, "want", "--refresh")
    path = tmp_path_factory.mktemp("lock") / f"{ARCH}.toml"
    made = homes.command("image", "build", "--refresh", "--lock", path, "--level", "1", timeout_s=BUILD_S)
    assert made.status == 0, made.stderr
    warnings.warn(f"the mirror no longer has what the lock pins, built with a new one: {found.stderr}", stacklevel=1)
    return ("--lock", path)


@pytest.fixture(scope="module")
def image(homes, lock):
    """The image of this release, as its folder."""
    made = homes.command("image", "build", *lock, "--json", timeout_s=BUILD_S)
    assert made.status == 0, made.stderr
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def tools(homes, lock):
    os.environ["XDG_CACHE_HOME"], before = homes.env["XDG_CACHE_HOME"], os.environ.get("XDG_CACHE_HOME")
    try:
        pins = read_lock(ARCH, str(lock[1]) if lock else None)
        yield unpack_tools(ARCHITECTURES[ARCH], pins, fetch_inputs(pins, tool_inputs(pins), ARCHITECTURES[ARCH].wheel))
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def entries(image, tools):
    return read_newc(tools.decompress(Path(image["folder"], "initramfs").read_bytes()))


def test_is_small(image):
    assert image["bytes"] < MAX_IMAGE_BYTES


def test_only_the_interpreter_and_its_loader_can_be_started(entries):
    programs = {
        entry.path for entry in entries if stat.S_ISREG(entry.mode) and (entry.mode & 0o111 or entry.data[:2] == b"#!")
    }
    assert programs == {"init", "usr/bin/python3.11", ARCHITECTURES[ARCH].loader}


def test_what_is_compiled_beside_a_module_changes_no_byte_of_it(tools):
    sources = [
        (f"/usr/lib/{name}.py", f'def {name}(self): return "{name}", self.data, ("a", 1)'.encode()) for name in "abc"
    ]
    together = tools.compile(sources)
    assert tools.compile(sources[::-1]) == together[::-1]
    assert [tools.compile([source])[0] for source in sources] == together


def test_has_no_shell_no_network_program_and_no_source(entries):
    names = {Path(entry.path).name for entry in entries}
    assert names.isdisjoint({"sh", "bash", "busybox", "ip", "mount", "modprobe", "libssl.so.3", "ssl.pyc", "_ssl"})
    assert not [entry.path for entry in entries if entry.path.endswith(".py")]
    assert all(
        entry.mode & 0o6022 == 0 for entry in entries if not stat.S_ISLNK(entry.mode) and "dev/" not in entry.path
    )


@pytest.fixture(scope="module")
def tree(entries, tmp_path_factory):
    """The initramfs, unpacked without its devices."""
    root = tmp_path_factory.mktemp("root")
    for entry in entries:
        path = root / entry.path
        if stat.S_ISDIR(entry.mode):
            path.mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry.mode):
            path.symlink_to(os.fsdecode(entry.data))
        elif stat.S_ISREG(entry.mode):
            path.write_bytes(entry.data)
            path.chmod(entry.mode & 0o777)
    return root


def test_every_module_can_be_imported_with_nothing_but_what_is_in_it(tree, entries):
    site = "usr/lib/enarx/"
    paths = [entry.path.removeprefix(site) for entry in entries if entry.path.startswith(site + "enarx/")]
    modules = [
        path.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".") for path in paths if path[-4:] == ".pyc"
    ]
    assert "enarx.keep.boot" in modules
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "for name in sys.argv[2:]: __import__(name)\n"
        # What these import inside functions.
        "import asyncio, certifi, datetime, socket\n"
        "assert asyncio.run(asyncio.to_thread(open(certifi.where()).read))\n"
        "datetime.datetime.strptime('2026', '%Y')\n"
        "socket.getaddrinfo('127.0.0.1', 80), b'a'.decode('utf-8-sig'), b'ab'.decode('utf-16-le')\n"
        "print(*(getattr(m, '__file__', None) or '' for m in list(sys.modules.values())), sep='\\n')\n"
    )
    arch = ARCHITECTURES[ARCH]
    command = [tree / arch.loader, "--library-path", tree / f"usr/lib/{arch.triplet}", tree / "usr/bin/python3.11"]
    done = subprocess.run(
        [*command, "-IS", "-c", program, tree / site, *modules], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tree)) or "<frozen" in path for path in done.stdout.split("\n") if path)


def another_python():
    """Return a Python of another version that has what enarx needs, as `make test` leaves them here, or this one."""
    for version in (14, 13, 12):
        python = TOP / f".venv-3.{version}/bin/python"
        needed = "import cbor2, cryptography, sevsnpmeasure"
        if python.exists() and subprocess.run([python, "-c", needed], check=False, capture_output=True).returncode == 0:
            return python
    return Path(sys.executable)


def elsewhere(tmp_path, homes, lock):
    """Build in another user and mount namespace, from a copy at another path, with all that could matter otherwise."""
    inputs = Path(homes.env["XDG_CACHE_HOME"], "enarx/image-inputs")
    shutil.copytree(TOP / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "src").rglob("*.py"):
        os.utime(path, (0, 0))
    python = another_python()
    script = (
        f"set -e; umask 077; mkdir -p {tmp_path}/cache/enarx/image-inputs /mnt; mount -t tmpfs none /mnt; "
        f"cp -r {tmp_path}/src /mnt/; cp {inputs}/* {tmp_path}/cache/enarx/image-inputs/; "
        f"exec taskset -c {min(os.sched_getaffinity(0))} {python} -c '"
        'import sys; sys.path.insert(0, "/mnt/src"); from enarx.cli import main; sys.exit(main(sys.argv[1:]))'
        f"' image build --fresh --json {' '.join(map(str, lock))}"
    )
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "TZ": "Pacific/Kiritimati",
            "LC_ALL": "tr_TR.UTF-8",
            "PYTHONHASHSEED": "4711",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SOURCE_DATE_EPOCH": "1",
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_S,
    )


def test_a_second_build_elsewhere_makes_the_same_bytes(image, homes, lock, tmp_path):
    probe = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], check=False, capture_output=True
    )
    if probe.returncode:
        pytest.skip(f"no user namespaces: {probe.stderr.decode().strip()}")
    done = elsewhere(tmp_path, homes, lock)
    assert done.returncode == 0, done.stderr
    other = json.loads(done.stdout)
    assert "making: interpreter" in done.stderr
    assert "compressing with zstd -19" in done.stderr
    assert other["digest"] == image["digest"]
    for name in ("manifest.json", "initramfs", "kernel", "cmdline"):
        assert Path(other["folder"], name).read_bytes() == Path(image["folder"], name).read_bytes()


def test_is_verified_and_one_byte_more_or_less_is_named(image, homes):
    assert homes.command("image", "verify", image["name"]).status == 0
    spoilt = shutil.copytree(image["folder"], Path(image["folder"]).with_name("spoilt"))
    os.chmod(spoilt / "initramfs", 0o600)
    data = bytearray((spoilt / "initramfs").read_bytes())
    data[len(data) // 2] ^= 1
    (spoilt / "initramfs").write_bytes(data)
    homes.command("image", "verify", "spoilt").refused(104, "spoilt: initramfs: found SHA-256")
    shutil.rmtree(spoilt)


def test_a_manifest_says_what_is_in_it_and_what_it_was_made_of(image, entries):
    manifest = json.loads(Path(image["folder"], "manifest.json").read_bytes())
    assert [entry["path"] for entry in manifest["files"]] == [entry.path for entry in entries]
    assert manifest["compression"] == "zstd -19"
    assert {entry["name"] for entry in manifest["inputs"]} >= {"libc6", "python3.11-minimal", "wasmtime"}
    assert set(manifest["reference"]) == ({"snp", "tdx", "tpm"} if ARCH == "x86_64" else set())


def test_a_build_that_changes_nothing_is_quick_and_says_nothing_of_compressing(image, homes, lock):
    began = time.monotonic()
    done = homes.command("image", "build", *lock, "--json", timeout_s=BUILD_S)
    assert json.loads(done.stdout) == image
    assert "compressing" not in done.stderr
    assert time.monotonic() - began < 30


def test_a_pin_that_the_mirror_does_not_have_is_named_with_what_to_do(homes, lock, tmp_path):
    text = Path(str(lock[1]) if lock else own_lock_path(ARCH)).read_text()
    pin = read_lock(ARCH, str(lock[1]) if lock else None).deb("libffi8")
    text = text.replace(pin.filename, pin.filename.replace(pin.version, "0.1-1")).replace(pin.sha256, "0" * 64)
    (tmp_path / "old.toml").write_text(text)
    refused = homes.command("image", "build", "--lock", tmp_path / "old.toml", timeout_s=BUILD_S)
    assert refused.status == 2
    last, hint = refused.stderr.splitlines()[-2:]
    assert f"want libffi8 {pin.version} with SHA-256 {'0' * 64}" in last
    assert hint.startswith("hint: `enarx image build --refresh`")


def test_a_new_lock_can_be_built_with(homes, tmp_path):
    path = tmp_path / "new.toml"
    words = ["--refresh", "--lock", path, "--level", "1", "--name", "refreshed", "--json"]
    made = homes.command("image", "build", *words, timeout_s=BUILD_S)
    assert made.status == 0, made.stderr
    assert f"wrote a new lock: {path}" in made.stderr
    assert encode_lock(read_lock(ARCH, str(path))) == path.read_text()


def test_the_other_architectures_image_is_made_by_the_same_code(homes, lock):
    other = next(name for name in ARCHITECTURES if name != ARCH)
    made = homes.command("image", "build", "--arch", other, "--level", "1", "--json", timeout_s=BUILD_S)
    if made.status == 2 and "--refresh" in made.stderr:
        pytest.skip(f"the mirror no longer has what the lock pins: {made.stderr}")
    assert made.status == 0, made.stderr
    manifest = json.loads(Path(json.loads(made.stdout)["folder"], "manifest.json").read_bytes())
    assert len(manifest["inputs"]) == len(image_inputs(ARCHITECTURES[other], read_lock(other)))
    assert ARCHITECTURES[other].loader in {entry["path"] for entry in manifest["files"]}
