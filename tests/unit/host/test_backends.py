# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from enarx.errors import PlatformError, UsageError
from enarx.host import BACKENDS, LAUNCHABLE, backends, choose_backend, probes
from enarx.host.backends import EXPERIMENTAL, RUNNABLE


def test_auto_is_nil_while_nothing_else_can_be_launched():
    assert choose_backend("auto") == "nil"


def test_a_launchable_backend_is_taken_at_its_name():
    assert choose_backend("nil") == "nil"


def test_every_launchable_backend_is_a_backend_and_nil_is_always_one():
    assert set(LAUNCHABLE) <= set(BACKENDS)
    assert "nil" in LAUNCHABLE
    assert set(LAUNCHABLE) | set(EXPERIMENTAL) == set(BACKENDS)
    assert not set(LAUNCHABLE) & set(EXPERIMENTAL)


@pytest.mark.parametrize(
    ("backend", "says"), [("cca", "--experimental"), ("sgx", "--experimental"), ("pef", "evidence")]
)
def test_why_a_host_does_not_offer_a_backend_can_be_said(backend, says):
    assert says in backends.reservation(backend)


@pytest.mark.parametrize("backend", ["snp", "nil", "kubernetes", ""])
def test_of_others_there_is_nothing_to_say(backend):
    assert backends.reservation(backend) is None


def test_choosing_imports_nothing_that_costs_start_up_time():
    code = (
        "import sys; from enarx.host import choose_backend; choose_backend('auto'); choose_backend('nil');"
        "print([m for m in ('dataclasses', 'typing', 're', 'pathlib', 'subprocess', 'enarx.host.probes', 'difflib')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize(("given", "nearest"), [("snpp", "snp"), ("SGX", "sgx"), ("nill", "nil"), ("aut", "auto")])
def test_refuses_an_unknown_backend_and_names_the_nearest(given, nearest):
    with pytest.raises(UsageError) as caught:
        choose_backend(given)
    assert caught.value.hint == f"the nearest is {nearest}"
    assert all(name in str(caught.value) for name in ("auto", *BACKENDS))


@pytest.mark.parametrize("given", ["", "kubernetes", "\x1b[31m", "x" * 100_000])
def test_refuses_an_unknown_backend_that_is_near_nothing(given):
    with pytest.raises(UsageError) as caught:
        choose_backend(given)
    assert caught.value.hint == "enarx platform info lists them"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_no_keep_is_deployed_into_what_gives_no_evidence():
    for choose in (choose_backend, backends.require_backend):
        with pytest.raises(PlatformError, match="backend pef: found one that no Keep is deployed into") as caught:
            choose("pef")
        assert "no way to give evidence" in caught.value.hint


@pytest.mark.parametrize("given", ["auto", *BACKENDS])
def test_a_keep_can_be_of_every_backend_on_some_machine(given):
    backends.require_backend(given)


@pytest.mark.parametrize("given", [name for name in BACKENDS if name not in RUNNABLE])
def test_refuses_a_backend_that_a_run_cannot_be_in(given):
    with pytest.raises(PlatformError) as caught:
        choose_backend(given)
    assert str(caught.value) == f"backend {given}: found a backend that run does not have, want nil"
    option = "" if given in LAUNCHABLE else " --experimental"
    assert caught.value.hint == f"enarx deploy --backend {given}{option} starts a Keep of it"


def test_auto_takes_the_first_usable_backend_that_a_run_can_be_in(monkeypatch, build, epyc, tdx_host):
    monkeypatch.setattr(backends, "RUNNABLE", ("nil", "tdx", "snp", "vm"))
    monkeypatch.setattr(probes, "this_machine", lambda: build(**epyc))
    assert choose_backend("auto") == "snp"
    monkeypatch.setattr(probes, "this_machine", lambda: build(**tdx_host))
    assert choose_backend("auto") == "tdx"


def test_auto_never_takes_a_backend_that_is_not_certainly_usable(monkeypatch, build, epyc):
    monkeypatch.setattr(backends, "RUNNABLE", ("nil", "snp", "vm"))
    epyc["files"]["/sys/module/kvm_amd/parameters/sev_snp"] = "N\n"
    monkeypatch.setattr(probes, "this_machine", lambda: build(**epyc))
    assert choose_backend("auto") == "nil"
