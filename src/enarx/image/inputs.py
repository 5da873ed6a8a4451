# SPDX-License-Identifier: Apache-2.0
"""Get what an image is made of: Debian packages through apt, wheels through pip, each by its SHA-256.

No host is named here. Debian packages are asked of the mirrors in this machine's own apt sources, through apt's own ways (proxies,
credentials), by their paths: a file with the right digest is the right file whatever answered, so no index is fetched and no signature
needed. A new lock is another matter: it takes what is newest in the suites it needs, from indexes that apt verifies with Debian's
keys. All of it happens in folders of ours, without root: the machine's own apt state is only read.

What was fetched is kept in `$XDG_CACHE_HOME/enarx/image-inputs` under its digest, and compared with it whenever it is used.

What holds it together is what leaves it: files whose digests are known.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.image.contents import STUB, TOOLS, WHEELS, Architecture
from enarx.image.lock import Input, Lock
from enarx.image.store import private_cache

__all__ = ["FETCH_TIMEOUT_S", "Progress", "fetch_inputs", "resolve_lock", "silent"]

FETCH_TIMEOUT_S = 900.0
"""Of everything that is fetched for one image."""

_POLL_S = 0.25
_MAX_TEXT_BYTES = 64 << 20

Progress = Callable[[str, int, int], None]
"""Is told what happens, how many bytes of it are done, and of how many; 0 of 0 where that is unknown."""

_SUITE = "bookworm"
_SUITES = "bookworm bookworm-updates bookworm-backports trixie testing"
_SECURITY = "bookworm-security"
# What a mirror of Debian can be called in a list of sources.
_DEBIAN_SUITES = re.compile(r"(old|oldold)?stable|testing|unstable|sid|bookworm|trixie|forky|duke")
_FROM_TESTING = ("ovmf-*", "qemu-efi-*")
_FROM_TRIXIE = (STUB,)
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT_HELPER = "/usr/lib/apt/apt-helper"

# The tags that a wheel for Debian 12, glibc 2.36, can have.
_PLATFORMS = ("manylinux2014", "manylinux_2_28", "manylinux_2_34")
_INTERPRETER = (
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--abi",
    "abi3",
    "--abi",
    "none",
)


def silent(_: str, __: int, ___: int) -> None:
    """Tell nobody."""


def fetch_inputs(
    lock: Lock, wanted: Iterable[Input], wheel_platform: str, *, progress: Progress = silent
) -> Mapping[Input, str]:
    """Have some inputs of a lock on this machine.

    Args:
        lock: for messages.
        wanted: which.
        wheel_platform: what platform tags of wheels end in, as in `Architecture`.
        progress: is told of what is fetched.

    Returns:
        The file of each; its content is the one that the lock has the digest of.

    Raises:
        ConfigError: a mirror or an index no longer has a file.
        TransportError: none can be reached, or they took too long.
        PlatformError: there is no apt or no pip, or the cache cannot be written.
    """
    wanted = tuple(wanted)
    folder = private_cache("image-inputs")
    found = {entry: os.path.join(folder, entry.sha256) for entry in wanted}
    missing = [entry for entry, path in found.items() if not _is_whole(path, entry)]
    if not missing:
        return found
    total = sum(entry.size for entry in missing)
    deadline = time.monotonic() + FETCH_TIMEOUT_S
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as place:

        def tell() -> None:
            progress("fetching", min(_size_below(place), total), total)

        tell()
        debs = [entry for entry in missing if entry.kind == "deb"]
        wheels = [entry for entry in missing if entry.kind == "wheel"]
        if debs:
            _fetch_debs(lock, debs, place, tell, deadline)
        if wheels:
            _fetch_wheels(lock, wheels, wheel_platform, place, tell, deadline)
        for entry in missing:
            path = os.path.join(place, entry.sha256)
            if not _is_whole(path, entry):
                raise _gone(lock, entry, "another file under its name")
            os.chmod(path, 0o400)
            os.rename(path, found[entry])
    progress("fetching", total, total)
    return found


def _is_whole(path: str, entry: Input) -> bool:
    try:
        with open(path, "rb") as file:
            return (
                os.fstat(file.fileno()).st_size == entry.size
                and hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
            )
    except OSError:
        return False


def _size_below(folder: str) -> int:
    sizes = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # renamed meanwhile
    return sizes


def _gone(lock: Lock, entry: Input, found: str) -> ConfigError:
    return ConfigError(
        f"cannot build an image: {entry.filename}: found {found}, want {entry.name} {entry.version} with SHA-256 {entry.sha256}",
        hint="`enarx image build --refresh` takes what there is now and writes a new lock; its image has other digests",
        path=lock.path,
        key=entry.name,
    )


# --- Debian packages -------------------------------------------------------------------------------------------------


def _fetch_debs(lock: Lock, debs: Sequence[Input], place: str, tell: Callable[[], None], deadline: float) -> None:
    environment = _apt_environment(place, "")
    said = ""
    left = list(debs)
    # A security update is on a mirror of its own.
    for mirror, _ in _mirrors():
        command = [_apt_helper(), "download-file"]
        for entry in left:
            command += [mirror + entry.filename, os.path.join(place, entry.sha256), f"SHA256:{entry.sha256}"]
        _, text = _run(command, environment, deadline, tell)
        said += text
        left = [entry for entry in left if not _is_whole(os.path.join(place, entry.sha256), entry)]
        if not left:
            return
    for entry in left:
        if re.search(rf"{re.escape(entry.filename)}\s+Hash Sum mismatch", said):
            raise _gone(lock, entry, "another file under its name")
    for entry in left:
        if re.search(rf"{re.escape(entry.filename)}\s+(404|410)\b", said):
            raise _gone(lock, entry, "nothing on any of apt's mirrors")
    raise TransportError(
        f"cannot fetch an input of the image: {left[0].filename}: {_last_line(said)}",
        hint="see whether `apt-get update` works on this machine",
    )


def _apt_helper() -> str:
    if not os.path.exists(_APT_HELPER) or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise PlatformError(
            "cannot build an image: apt: found none, want it with a mirror of Debian in its sources",
            hint="build on Debian; an image runs anywhere, and its folder can be copied",
        )
    return _APT_HELPER


def _mirrors() -> list[tuple[str, bool]]:
    """Return the mirrors of Debian that this machine's apt has, each with a slash at its end, and whether it has security updates."""
    _apt_helper()
    command = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
    _, text = _run([*command, "Created-By: Packages"], _environment(), time.monotonic() + 60.0)
    mirrors: dict[str, bool] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "main" and _DEBIAN_SUITES.fullmatch(words[1].partition("-")[0]):
            mirrors.setdefault(words[0].rstrip("/") + "/", words[1].endswith("-security"))
    if not mirrors:
        raise PlatformError(
            "cannot build an image: apt's sources: found no mirror of Debian, want one",
            hint="add one, for any suite: the suites that an image needs are looked for beside it",
        )
    return list(mirrors.items())


def _apt_environment(place: str, architecture: str, sources: str = "", preferences: str = "") -> dict[str, str]:
    """Write a configuration of apt that has nothing of the machine's but how to fetch, and return what makes apt use it."""
    _, acquire = _run(["apt-config", "dump", "--no-empty", "Acquire"], _environment(), time.monotonic() + 60.0)
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        os.makedirs(os.path.join(place, "apt", name), mode=0o700, exist_ok=True)
    apt = os.path.join(place, "apt")
    for name, text in (("etc/debian.sources", sources), ("preferences", preferences), ("status", "")):
        with open(os.path.join(apt, name), "w", encoding="utf-8") as file:
            file.write(text)
    lines = [line for line in acquire.splitlines() if not line.startswith("Acquire::IndexTargets")]
    settings = {
        "APT::Sandbox::User": "",
        # Hooks of the machine are for the machine's own state.
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{apt}/etc",
        "Dir::Etc::preferences": f"{apt}/preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": f"{apt}/state",
        "Dir::State::status": f"{apt}/status",
        "Dir::Cache": f"{apt}/cache",
        "Acquire::Languages": "none",
    }
    if architecture:
        settings["APT::Architecture"] = architecture
        lines.append(f'APT::Architectures {{ "{architecture}"; }};')
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    with open(os.path.join(apt, "apt.conf"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return _environment() | {"APT_CONFIG": f"{apt}/apt.conf"}


# --- Wheels ----------------------------------------------------------------------------------------------------------


def _fetch_wheels(
    lock: Lock, wheels: Sequence[Input], platform: str, place: str, tell: Callable[[], None], deadline: float
) -> None:
    folder = os.path.join(place, "wheels")
    requirements = os.path.join(place, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as file:
        file.writelines(f"{entry.name}=={entry.version} --hash=sha256:{entry.sha256}\n" for entry in wheels)
    status, said = _pip_download(["--require-hashes", "-r", requirements], platform, folder, tell, deadline)
    for entry in wheels:
        path = os.path.join(folder, entry.filename)
        if _is_whole(path, entry):
            os.rename(path, os.path.join(place, entry.sha256))
        elif status and entry.name in said and re.search("No matching distribution|THESE PACKAGES DO NOT MATCH", said):
            raise _gone(lock, entry, "nothing in pip's index")
    if status:
        raise TransportError(
            f"cannot fetch the wheels of an image: {_last_line(said)}", hint="see whether `pip download` works here"
        )


def _pip_download(
    what: Sequence[str], platform: str, folder: str, tell: Callable[[], None], deadline: float
) -> tuple[int, str]:
    command = [
        *_pip(),
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--no-cache-dir",
    ]
    command += ["--only-binary", ":all:", "--dest", folder, *_INTERPRETER]
    command += [word for tag in _PLATFORMS for word in ("--platform", f"{tag}_{platform}")]
    return _run([*command, *what], _environment(), deadline, tell)


def _pip() -> list[str]:
    from importlib.util import find_spec

    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    program = shutil.which("pip3") or shutil.which("pip")
    if program is None:
        raise PlatformError("cannot build an image: pip: found none, want it", hint="install pip beside enarx")
    return [program]


# --- A new lock ------------------------------------------------------------------------------------------------------


def resolve_lock(architecture: Architecture, path: str, *, progress: Progress = silent) -> Lock:
    """Find what there is now for every input of an image, and have the wheels on this machine.

    Debian packages are the newest of Debian 12 with its updates, firmware the newest of testing, the EFI stub of trixie; wheels have the versions
    that this enarx runs with.

    Args:
        architecture: what the image is for.
        path: what the lock will be called.
        progress: is told of the steps.

    Raises:
        TransportError: no mirror or index can be reached.
        PlatformError: there is no apt or no pip.
        ConfigError: a package is nowhere.
    """
    deadline = time.monotonic() + FETCH_TIMEOUT_S
    folder = private_cache("image-inputs")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".resolving-") as place:
        progress("reading the mirror's indexes", 0, 0)
        debs = _resolve_debs(architecture, place, deadline)
        progress("choosing wheels", 0, 0)
        wheels = _resolve_wheels(architecture, place, folder, deadline)
    inputs = sorted((*debs, *wheels), key=lambda entry: (entry.kind, entry.name))
    return Lock(path=path, arch=architecture.name, inputs=tuple(inputs))


def _resolve_debs(architecture: Architecture, place: str, deadline: float) -> list[Input]:
    environment = _apt_environment(
        place,
        architecture.debian,
        "\n".join(
            f"Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nCheck-Valid-Until: no\n"
            + (f"Signed-By: {_KEYRING}\n" if os.path.exists(_KEYRING) else "")
            for mirror, suites in ((mirror, _SECURITY if security else _SUITES) for mirror, security in _mirrors())
        ),
        # Firmware is of testing, the stub of trixie, and nothing else is of either.
        "".join(
            f"Package: *\nPin: release {suite}\nPin-Priority: -1\n\n"
            f"Package: {' '.join(names)}\nPin: release {suite}\nPin-Priority: 990\n\n"
            for suite, names in (("n=trixie", _FROM_TRIXIE), ("a=testing", _FROM_TESTING))
        ),
    )
    status, said = _run(["apt-get", "-q", "update"], environment, deadline)
    if status or "\nErr:" in said:
        raise TransportError(
            f"cannot write a new lock: apt-get update: {_last_line(said)}",
            hint="see whether `apt-get update` works here",
        )
    kernel = _show([architecture.kernel], environment, deadline)[architecture.kernel].get("Depends", "")
    names = [*architecture.guest_packages, *TOOLS, *architecture.firmware_packages, STUB, kernel.partition(" ")[0]]
    found = _show(names, environment, deadline)
    suites = {STUB: "trixie", **dict.fromkeys(architecture.firmware_packages, "testing")}
    return [
        Input(
            kind="deb",
            name=name,
            version=found[name]["Version"],
            suite=suites.get(name, _SUITE),
            filename=found[name]["Filename"],
            size=int(found[name]["Size"]),
            sha256=found[name]["SHA256"],
        )
        for name in names
    ]


def _show(names: Sequence[str], environment: dict[str, str], deadline: float) -> dict[str, dict[str, str]]:
    _, text = _run(["apt-cache", "show", "--no-all-versions", *names], environment, deadline)
    stanzas = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        if fields.keys() >= {"Package", "Version", "Filename", "Size", "SHA256"}:
            stanzas[fields["Package"]] = fields
    for name in names:
        if name not in stanzas:
            raise ConfigError(
                f"cannot write a new lock: {name or 'the kernel'}: found no such package on apt's mirrors, want one",
                hint="this enarx is too old for what the mirror has, or the mirror is not whole",
            )
    return stanzas


def _resolve_wheels(architecture: Architecture, place: str, folder: str, deadline: float) -> list[Input]:
    wanted = {}
    for name in WHEELS:
        try:
            wanted[name] = version(name)
        except PackageNotFoundError:
            raise PlatformError(
                f"cannot write a new lock: {name}: found it not installed, want the version that enarx runs with",
                hint=f"pip install {name}",
            ) from None
    wheels = os.path.join(place, "wheels")
    status, said = _pip_download(
        [f"{name}=={found}" for name, found in wanted.items()], architecture.wheel, wheels, lambda: None, deadline
    )
    if status:
        raise TransportError(
            f"cannot write a new lock: pip: {_last_line(said)}", hint="see whether `pip download` works here"
        )
    inputs = []
    for filename in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, filename)
        name = filename.partition("-")[0].lower().replace("_", "-")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.stat(path).st_size
        inputs.append(
            Input(kind="wheel", name=name, version=wanted[name], suite="", filename=filename, size=size, sha256=digest)
        )
        os.chmod(path, 0o400)
        os.rename(path, os.path.join(folder, digest))
    return inputs


# --- Programs --------------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """Return this process's environment, with messages that can be read by a program."""
    return {name: value for name, value in os.environ.items() if name not in {"LANGUAGE", "APT_CONFIG"}} | {
        "LC_ALL": "C"
    }


def _run(
    command: Sequence[str], environment: Mapping[str, str], deadline: float, tell: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Run a program to its end and return its status and what it printed, without a terminal."""
    with tempfile.TemporaryFile() as said:
        try:
            program = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise PlatformError(f"cannot build an image: {command[0]}: {error.strerror}") from error
        try:
            while not _has_ended(program):
                tell()
                if time.monotonic() > deadline:
                    raise TransportError(
                        f"cannot build an image: {os.path.basename(command[0])}: found no end after"
                        f" {FETCH_TIMEOUT_S:.0f} seconds, want one"
                    )
        finally:
            if program.poll() is None:
                program.kill()
                program.wait()
        said.seek(0)
        return program.returncode, said.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")


def _has_ended(program: subprocess.Popen[bytes]) -> bool:
    try:
        program.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return (errors or lines or ["it said nothing"])[0][:300]
