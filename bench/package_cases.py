# SPDX-License-Identifier: Apache-2.0
"""The case of packages: one of 100 MB published to a registry and fetched from it, beside `skopeo copy` of the same OCI layout.

The registry is Debian's `docker-registry` on loopback. Each measurement has a package of fresh random bytes, an empty registry, and
empty caches of both sides, so nothing is there already; the two sides take turns in who is first. docs/benchmarks.md says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import installs
from cases import Bench, Case, Row
from timing import BenchError, Command, free_port, run_once, server, tool

from enarx.registry.layout import make_layout
from enarx.wire.oci import MANIFEST, WASM, WASM_CONFIG, Descriptor, Manifest, digest_of, encode_manifest

MODULE_BYTES = 100 << 20
MAX_MB = 100
AT_LEAST = 0.8
"""Of the peer's speed."""

_TAG = "latest"
_LIMIT_S = 300.0
# In a process of its own, because a child's peak is never less than that of the process that made it.
_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def packages(bench: Bench) -> Iterator[Row]:
    """How fast a package goes to a registry and comes back, and what that takes in memory."""
    programs = {name: shutil.which(name) for name in ("docker-registry", "skopeo")}
    if missing := [name for name, path in programs.items() if path is None]:
        raise installs.MissingError(f"there is no {' and no '.join(missing)} (tools/install-slow)")
    place = installs.BUILD / "packages"
    ours: dict[str, list[float]] = {"publish": [], "fetch": []}
    theirs: dict[str, list[float]] = {"publish": [], "fetch": []}
    peaks: list[float] = []
    try:
        for number in range(bench.options.rounds + 1):
            round_ = _Round(bench, place, str(programs["docker-registry"]), str(programs["skopeo"]))
            sides = [round_.enarx, round_.skopeo]
            for publish_s, fetch_s, side in [run() for run in (sides if number % 2 else sides[::-1])]:
                if number:
                    times = ours if side == "ours" else theirs
                    times["publish"].append(publish_s)
                    times["fetch"].append(fetch_s)
            peaks += round_.peaks() if number == bench.options.rounds else []
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for what in ("publish", "fetch"):
        yield Row(
            name=f"{what} a package of 100 MB",
            unit="MB/s",
            ours=[MODULE_BYTES / 1e6 / each for each in ours[what]],
            theirs=[MODULE_BYTES / 1e6 / each for each in theirs[what]],
            peer="skopeo copy",
            at_least=AT_LEAST,
        )
    for what, peak in zip(("publish", "fetch"), peaks, strict=True):
        yield Row(name=f"memory to {what} it", unit="MB", ours=[peak], ours_at_most=MAX_MB)


class _Round:
    """One package, published and fetched once by each side.

    Args:
        bench: our side.
        place: for everything; what was there is removed.
        registry: the registry's program.
        skopeo: the peer's program.
    """

    def __init__(self, bench: Bench, place: Path, registry: str, skopeo: str) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._bench = bench
        self._place = place
        self._registry = registry
        self._skopeo = skopeo
        self._layout = place / "layout"
        self._digest = _make_layout(self._layout)

    def enarx(self) -> tuple[float, float, str]:
        """Return the seconds that `enarx package` takes to publish and to fetch."""
        with self._empty() as (host, env):
            target = f"oci://{host}/app:{_TAG}"
            publish, fetch = self._ours(target)
            published = run_once(Command(argv=publish, env=env, stdout=self._require_digest))
            fetched = run_once(Command(argv=fetch, env=env, stdout=self._require_digest))
            self._require_layout()
        return published.wall_s, fetched.wall_s, "ours"

    def skopeo(self) -> tuple[float, float, str]:
        """Return the seconds that `skopeo copy` takes for the same."""
        with self._empty() as (host, env):
            place = f"docker://{host}/app:{_TAG}"
            copy = [self._skopeo, "copy", "--quiet", "--insecure-policy"]
            layout, fetched = f"oci:{self._layout}:{_TAG}", f"oci:{self._place / 'fetched'}:{_TAG}"
            publish = run_once(Command(argv=[*copy, "--dest-tls-verify=false", layout, place], env=env, stdout=b""))
            fetch = run_once(Command(argv=[*copy, "--src-tls-verify=false", place, fetched], env=env, stdout=b""))
            self._require_layout()
        return publish.wall_s, fetch.wall_s, "theirs"

    def peaks(self) -> list[float]:
        """Return the largest resident set in MB of publishing and of fetching."""
        with self._empty() as (host, env):
            found = []
            for argv in self._ours(f"oci://{host}/app:{_TAG}"):
                words = " ".join(f"{name}={value}" for name, value in env.items()).split(" ")
                out = tool(["env", "-i", *words, sys.executable, "-S", "-c", _PEAK, *argv], limit_s=_LIMIT_S)
                found.append(int(out) / 1000)
        return found

    def _ours(self, target: str) -> tuple[list[str], list[str]]:
        command = [self._bench.enarx.command, "package"]
        output = str(self._place / "fetched")
        return [*command, "publish", f"{self._layout}:{_TAG}", target], [*command, "fetch", target, "--output", output]

    @contextmanager
    def _empty(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the address of an empty registry, and an environment with an empty home."""
        for name in ("home", "registry", "fetched"):
            shutil.rmtree(self._place / name, ignore_errors=True)
        home = self._place / "home"
        home.mkdir()
        port = free_port()
        configuration = self._place / "registry.yml"
        configuration.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(self._place / "registry")}},
                    "http": {"addr": f"127.0.0.1:{port}"},
                }
            )
        )
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "TMPDIR": str(self._place)}
        # What the round before wrote is not to be written to the disk in the middle of this one.
        os.sync()
        with server([self._registry, "serve", str(configuration)], env, port):
            yield f"127.0.0.1:{port}", env

    def _require_digest(self, stdout: bytes) -> None:
        if self._digest.encode() not in stdout:
            raise BenchError(f"packages: printed {stdout[:200]!r}, want {self._digest}")

    def _require_layout(self) -> None:
        """Require that what was fetched is what was published, every byte of it."""
        for blob in (self._layout / "blobs" / "sha256").iterdir():
            fetched = self._place / "fetched" / "blobs" / "sha256" / blob.name
            with fetched.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                    raise BenchError(
                        f"packages: {blob.name}: found another blob fetched, want the one that was published"
                    )


def _make_layout(path: Path) -> str:
    """Make a layout with a package of random bytes, and return its digest."""
    path.mkdir()
    layout = make_layout(str(path))
    data = os.urandom(MODULE_BYTES)
    module = Descriptor(WASM, digest_of(data), len(data))
    layout.put_blob(module, [data])
    text = json.dumps({"architecture": "wasm", "os": "wasip1", "layerDigests": [module.digest]}).encode()
    config = Descriptor(WASM_CONFIG, digest_of(text), len(text))
    layout.put_blob(config, [text])
    return layout.put_manifest(encode_manifest(Manifest(config, (module,))), MANIFEST, tag=_TAG).digest


PACKAGE_CASES: Mapping[str, Case] = {"packages": packages}
