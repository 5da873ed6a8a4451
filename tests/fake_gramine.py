# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for Gramine's programs, which refuse what the real ones refuse, and an image small enough for them.

`gramine-sgx NAME` wants NAME.manifest.sgx and NAME.sig where it is started, compares every trusted file with its digest, and runs
the manifest's program with the manifest's arguments and environment and nothing of the caller's. Standard input and output are
passed on; standard error of the program comes out on standard output, and that of Gramine alone on its own.

The interpreter in the image is this one, in which /dev/attestation is `enarx.testing.attesters.FakeGramine`.

Source: Gramine 1.9 tools/gramine.in, python/gramine-sgx-sign, pal/src/host/linux-sgx/pal_console.c.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from enarx.image.manifest import File

TOP = Path(__file__).parents[1]
MEASUREMENT = bytes(range(32))

SIGNER = f"""#!{sys.executable} -IS
import argparse, tomllib
parser = argparse.ArgumentParser()
for option in ("manifest", "output", "key", "sigfile"):
    parser.add_argument("--" + option, required=True)
given = parser.parse_args()
with open(given.manifest, "rb") as file:
    text = file.read()
tomllib.loads(text.decode())
with open(given.key, "rb") as file:
    assert file.read().startswith(b"-----BEGIN RSA PRIVATE KEY-----")
with open(given.output, "wb") as file:
    file.write(text)
with open(given.sigfile, "wb") as file:
    file.write(bytes(960) + bytes.fromhex("{MEASUREMENT.hex()}") + bytes(816))
"""

RUNNER = f"""#!{sys.executable} -IS
import hashlib, os, sys, tomllib
name = sys.argv[1]
if not os.path.exists(name + ".manifest.sgx"):
    sys.exit("Invalid application path specified (" + name + ".manifest.sgx does not exist).")
if os.path.getsize(name + ".sig") != 1808:
    sys.exit("error: bad signature")
with open(name + ".manifest.sgx", "rb") as file:
    manifest = tomllib.load(file)
trusted = {{each["uri"]: each["sha256"] for each in manifest["sgx"]["trusted_files"]}}
for uri, digest in trusted.items():
    with open(uri.removeprefix("file:"), "rb") as file:
        if hashlib.sha256(file.read()).hexdigest() != digest:
            sys.exit("error: Accessing file " + uri + " is denied: hash mismatch")
if manifest["loader"]["entrypoint"]["uri"] not in trusted:
    sys.exit("error: LibOS is not trusted")
program = manifest["libos"]["entrypoint"]
outside = next(each["uri"] for each in manifest["fs"]["mounts"] if each["path"] == program)
if outside not in trusted:
    sys.exit("error: " + program + " is not trusted")
os.dup2(1, 2)
os.execve(outside.removeprefix("file:"), manifest["loader"]["argv"], manifest["loader"]["env"])
"""

PYTHON = f"""#!{sys.executable} -I
import sys
sys.path.insert(0, {os.fspath(TOP / "src")!r})
assert sys.argv[1:4] == ["-I", "-S", "-c"] and len(sys.argv) == 5
import enarx.attester.system as system

def machine():
    from enarx.testing.attesters import FakeGramine, FakeSystem
    from enarx.testing.dcap import FakeIntel, Platform
    return FakeSystem({{"/dev/attestation": FakeGramine(FakeIntel(), Platform())}})

system.LinuxSystem = machine
exec(sys.argv[4])
"""


def install(folder: Path) -> Path:
    """Make the programs in a folder, and return where they are."""
    programs = folder / "gramine/bin"
    programs.mkdir(parents=True)
    for name, text in (("gramine-sgx", RUNNER), ("gramine-sgx-sign", SIGNER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    libos = folder / "gramine/lib/x86_64-linux-gnu/gramine/libsysdb.so"
    libos.parent.mkdir(parents=True)
    libos.write_bytes(b"library OS")
    return programs


def image(folder: Path, **more: bytes) -> SimpleNamespace:
    """Make an image whose files are below `folder`: an interpreter, a loader, and what is given."""
    contents = {"usr/bin/python3.11": PYTHON.encode(), "usr/lib64/ld-linux-x86-64.so.2": b"loader"}
    contents |= {path.replace("__", "/"): data for path, data in more.items()}
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(0o755)
    files = [
        File(path=path, mode="100755", size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    ]
    files += [
        File(path="lib64", mode="120777", size=9, sha256="00" * 32),
        File(path="init", mode="100755", size=9, sha256="00" * 32),
        File(path="usr/lib/modules/tsm.ko", mode="100644", size=9, sha256="00" * 32),
        File(path="usr/lib", mode="40755", size=0, sha256="00" * 32),
    ]
    return SimpleNamespace(name="fake", folder=str(folder), arch="x86_64", manifest=SimpleNamespace(files=tuple(files)))
