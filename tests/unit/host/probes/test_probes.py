# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enarx.host import BACKENDS, backends
from enarx.host.probes import Datum, KvmAnswer, report_backend, report_platform, this_machine


def flatten(data):
    for datum in data:
        yield datum
        yield from flatten(datum.data)


def find(report, name):
    (datum,) = [datum for datum in flatten(report.data) if datum.name == name]
    return datum


# AMD SEV-SNP


def test_an_epyc_host_lacks_nothing(build, epyc):
    report = report_backend("snp", build(**epyc))
    assert (report.present, report.configured, report.usable, report.why) == (True, True, True, None)
    assert all(datum.passed for datum in flatten(report.data))
    assert find(report, "C-bit position").info == "51"
    assert find(report, "physical address bits given up").info == "5"
    assert find(report, "encrypted guests at once").info == "1006"
    assert find(report, "lowest ASID of a guest without SEV-ES").info == "100"


def test_a_version_without_a_launcher_says_so(build, epyc, monkeypatch):
    monkeypatch.setattr(backends, "LAUNCHABLE", ("nil",))
    report = report_backend("snp", build(**epyc))
    assert (report.usable, report.why) == (False, "this version has no launcher for snp")


def test_a_qemu_that_does_not_know_the_backend_is_too_old(build, epyc):
    report = report_backend("snp", build(**epyc | {"qemu_objects": {"qemu-system-x86_64": frozenset({"sev-guest"})}}))
    assert (report.present, report.configured, report.usable) == (True, False, False)
    assert report.why == "qemu-system-x86_64 knows sev-snp-guest: no"
    assert find(report, "qemu-system-x86_64 knows sev-snp-guest").fix == "install QEMU 9.1 or later"


def test_a_qemu_that_does_not_answer_is_unknown(build, epyc):
    report = report_backend("snp", build(**epyc | {"qemu_objects": {}}))
    assert find(report, "qemu-system-x86_64 knows sev-snp-guest").passed is None
    assert report.usable is False


@pytest.mark.parametrize(
    ("images", "passed", "info"), [((), False, "none"), (("one", "two"), True, "one, two"), (None, None, None)]
)
def test_a_machine_needs_an_image(build, epyc, images, passed, info):
    found = find(report_backend("snp", build(**epyc | {"images": images})), "Keep image")
    assert found.passed is passed
    assert info is None or found.info == info
    assert passed or "enarx image" in found.fix


def test_an_ordinary_user_of_an_epyc_host_learns_the_same_from_the_flags(build, epyc):
    report = report_backend("snp", build(**epyc | {"cpuid": {}, "cpuid_unknown": "permission denied"}))
    assert (report.present, report.configured) == (True, True)


def test_what_neither_flags_nor_cpuid_tell_is_unknown_and_not_usable(build, epyc, parts, monkeypatch):
    monkeypatch.setattr(backends, "LAUNCHABLE", ("nil", "snp"))
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", "AMD EPYC 7543", "svm sme sev sev_es")
    report = report_backend("snp", build(**epyc | {"cpuid": {}, "cpuid_unknown": "/dev/cpu/0/cpuid: denied"}))
    assert (report.present, report.usable) == (None, False)
    unknown = find(report, "SEV-SNP (protected page tables)")
    assert unknown.passed is None
    assert unknown.info == "could not be determined: the kernel does not list it; /dev/cpu/0/cpuid: denied"
    assert report.why == f"{unknown.name}: {unknown.info}"


def test_a_bit_that_kvm_offers_is_a_yes_and_one_it_leaves_out_is_no_answer(build, epyc, parts):
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", "AMD EPYC 7543", "svm sme")
    kvm = dataclasses.replace(parts.working_kvm, cpuid={(0x8000001F, 0): (0b00010, 0, 0, 0)})
    report = report_backend("snp", build(**epyc | {"cpuid": {}, "cpuid_unknown": "denied", "kvm": kvm}))
    assert find(report, "SEV (encrypted guests)").passed is True
    assert find(report, "SEV-ES (encrypted registers)").passed is None


def test_what_the_cpu_itself_says_decides_over_missing_flags(build, epyc, parts):
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", "AMD EPYC 7543", "svm")
    report = report_backend("snp", build(**epyc | {"cpuid": {(0x8000001F, 0): (0b01011, 0, 0, 0)}}))
    assert report.present is False
    assert find(report, "SEV-ES (encrypted registers)").passed is True
    missing = find(report, "SEV-SNP (protected page tables)")
    assert missing.passed is False
    assert "firmware" in missing.fix


def test_a_virtual_machine_is_told_to_look_beneath(build, epyc, parts):
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", "AMD EPYC", "hypervisor")
    report = report_backend("snp", build(**epyc | {"cpuid": {(0x8000001F, 0): (0, 0, 0, 0)}}))
    assert "virtual machine" in find(report, "SME (memory encryption)").fix


@pytest.mark.parametrize(
    ("path", "content", "blamed"),
    [
        ("/sys/module/kvm_amd/parameters/sev_snp", "N\n", "N, want Y"),
        ("/sys/module/kvm_amd/parameters/sev_snp", "", "empty, want Y"),
        ("/sys/module/kvm_amd/parameters/sev_snp", "0", "0, want Y"),
    ],
)
def test_a_switch_that_is_off_is_set_up_and_not_hardware(build, epyc, path, content, blamed):
    epyc["files"][path] = content
    report = report_backend("snp", build(**epyc))
    assert (report.present, report.configured) == (True, False)
    assert find(report, path).info == blamed
    assert find(report, path).fix


def test_the_other_spelling_of_on_is_on(build, epyc):
    epyc["files"]["/sys/module/kvm_amd/parameters/sev_snp"] = "1\n"
    assert report_backend("snp", build(**epyc)).configured is True


def test_a_missing_security_processor_device_is_said_with_its_remedy(build, epyc):
    del epyc["files"]["/dev/sev"]
    report = report_backend("snp", build(**epyc))
    assert (report.present, report.configured) == (True, False)
    assert report.why == "/dev/sev exists: no"
    assert "firmware" in find(report, "/dev/sev exists").fix


def test_a_device_that_is_not_ours_to_open_is_said_with_its_remedy(build, epyc, monkeypatch):
    machine = build(**epyc)
    real_open = os.open

    def refuse_writing(path, flags, *rest):
        if str(path).endswith("/dev/sev") and flags & os.O_WRONLY:
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse_writing)
    report = report_backend("snp", machine)
    assert find(report, "/dev/sev opens for reading").passed is True
    denied = find(report, "/dev/sev opens for writing")
    assert (denied.passed, denied.info) == (False, "permission denied")
    assert "group" in denied.fix


@pytest.mark.parametrize(
    ("memlock_bytes", "passed"), [(None, True), (5 << 20, True), ((5 << 20) - 1, False), (0, False)]
)
def test_the_limit_of_locked_memory_has_a_least_value(build, epyc, memlock_bytes, passed):
    report = report_backend("snp", build(**epyc, memlock_bytes=memlock_bytes))
    assert find(report, "limit of locked memory").passed is passed
    assert report.configured is passed


@pytest.mark.parametrize(("brand", "present"), [("AMD EPYC 7543", True), ("AMD Ryzen 9 7950X", False)])
def test_only_an_epyc_is_present(build, epyc, parts, brand, present):
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", brand, "svm sme sev sev_es sev_snp")
    assert report_backend("snp", build(**epyc)).present is present


# Intel TDX


def test_a_tdx_host_lacks_nothing(build, tdx_host):
    report = report_backend("tdx", build(**tdx_host))
    assert (report.present, report.configured, report.usable, report.why) == (True, True, True, None)
    assert find(report, "this machine is itself a TDX guest").info == "no"


@pytest.mark.parametrize(
    ("release", "passed"),
    [("6.15.9", False), ("6.16.0-rc1", True), ("7.0", True), ("5.19.0", False), ("10.2-x", True), ("custom", None)],
)
def test_the_kernel_version_is_compared_as_numbers(build, tdx_host, release, passed):
    report = report_backend("tdx", build(**tdx_host, release=release))
    assert find(report, "kernel").passed is passed
    assert report.configured is passed


@pytest.mark.parametrize(("release", "present"), [("6.18.0", False), ("6.8.0", False), ("6.7.9", None)])
def test_a_kernel_that_does_not_know_the_flag_cannot_say_no(build, tdx_host, parts, release, present):
    tdx_host["files"]["/proc/cpuinfo"] = parts.cpuinfo("GenuineIntel", "Xeon", "vmx")
    assert report_backend("tdx", build(**tdx_host, release=release)).present is present


def test_a_guest_of_tdx_is_told_apart_from_a_host(build, parts):
    files = {"/proc/cpuinfo": parts.cpuinfo("GenuineIntel", "Xeon", "tdx_guest hypervisor"), "/dev/tdx_guest": ""}
    report = report_backend("tdx", build(files=files))
    assert report.present is False
    assert find(report, "this machine is itself a TDX guest").info == "yes (/dev/tdx_guest)"


# Intel SGX


@pytest.fixture
def quote_service():
    # A Unix socket's path has at most 107 bytes, which pytest's own directories can exceed.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "var/run/aesmd/aesm.socket")
        path.parent.mkdir(parents=True)
        listener.bind(str(path))
        yield directory, listener


def test_an_sgx_host_lacks_nothing_but_a_launcher(build, sgx_host, quote_service, tmp_path):
    directory, listener = quote_service
    listener.listen()
    machine = build(**sgx_host)
    for folder in ("proc", "dev", "usr"):
        Path(directory, folder).symlink_to(tmp_path / folder)
    report = report_backend("sgx", dataclasses.replace(machine, root=Path(directory)))
    assert (report.present, report.configured, report.usable) == (True, True, False)
    assert report.why == "offered only with --experimental, where a machine can have it: nobody has seen a Keep of it"
    told = next(datum for datum in report.data if datum.name == "a Keep runs in an enclave")
    assert told.passed is False
    assert find(report, "enclave memory (EPC)").info == f"{(0x180000000 + 0x1A00000) // 2**20} MiB"
    assert find(report, "largest enclave").info == "2^56 bytes"
    assert find(report, "MISCSELECT").info == "0x00000001"


def test_a_socket_that_nobody_listens_on_is_not_a_service(build, quote_service):
    directory, _ = quote_service
    service = find(report_backend("sgx", build(root=Path(directory))), "a service that signs quotes answers")
    assert service.passed is False
    assert service.info == "/var/run/aesmd/aesm.socket: connection refused"


def test_the_kernel_tells_everybody_how_much_enclave_memory_there_is(build, sgx_host):
    sgx_host["files"] |= {
        "/sys/devices/system/node/node0/x86/sgx_total_bytes": f"{64 << 30}\n",
        "/sys/devices/system/node/node2/x86/sgx_total_bytes": f"{64 << 30}\n",
        "/sys/devices/system/node/node3/x86/sgx_total_bytes": "not a number\n",
    }
    report = report_backend("sgx", build(**sgx_host | {"cpuid": {}, "cpuid_unknown": "denied"}))
    assert find(report, "enclave memory (EPC)").info == f"{128 << 10} MiB"
    assert find(report, "SGX").passed is True
    assert find(report, "SGX1 (enclaves)").passed is None
    assert report.present is None


def test_enclave_memory_of_which_nobody_tells_is_unknown(build, sgx_host):
    report = report_backend("sgx", build(**sgx_host | {"cpuid": {}, "cpuid_unknown": "denied"}))
    assert find(report, "enclave memory (EPC)").passed is None


def test_no_enclave_memory_is_no_sgx(build, sgx_host):
    sgx_host["cpuid"] |= {(0x12, 2): (0, 0, 0, 0), (0x12, 3): (0, 0, 0, 0)}
    report = report_backend("sgx", build(**sgx_host))
    assert find(report, "enclave memory (EPC)").passed is False
    assert report.present is False


# Virtual machines without a TEE


@pytest.mark.parametrize(
    ("own", "other", "package"),
    [("x86_64", "aarch64", "qemu-system-arm"), ("aarch64", "x86_64", "qemu-system-x86")],
)
def test_another_architecture_is_emulated_where_its_qemu_is(build, parts, own, other, package):
    known = {"files": {"/proc/cpuinfo": ""}, "machine": own, "kvm": parts.working_kvm, "images": ("keep",)}
    programs = (f"qemu-system-{own}", "swtpm", "swtpm_setup")
    without = report_backend("vm", build(programs=programs, **known))
    assert find(without, f"images of {other}").passed is False
    assert find(without, f"images of {other}").fix == f"install QEMU ({package})"
    # It is not what makes the backend usable.
    assert without.configured is True
    with_both = report_backend("vm", build(programs=(*programs, f"qemu-system-{other}"), **known))
    assert find(with_both, f"images of {other}").passed is True
    assert find(with_both, f"images of {other}").info.startswith("emulated, experimental: /")


# Arm CCA


def test_an_arm_machine_admits_what_cannot_be_known(build, parts):
    files = {"/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n\n"}
    programs = ("qemu-system-aarch64", "swtpm", "swtpm_setup")
    unknown = "aarch64 has no CPUID"
    known = {"qemu_objects": {"qemu-system-aarch64": frozenset({"rme-guest"})}, "images": ("keep",)}
    machine = build(
        files=files, programs=programs, machine="aarch64", kvm=parts.working_kvm, cpuid_unknown=unknown, **known
    )
    reports = {report.backend: report for report in report_platform(machine).backends}
    assert (reports["cca"].present, reports["cca"].configured, reports["cca"].usable) == (None, None, False)
    assert "could not be determined" in reports["cca"].why
    assert reports["vm"].configured is True
    assert find(reports["vm"], "runs by").info == "KVM"
    for backend in ("snp", "tdx", "sgx"):
        assert reports[backend].present is False
        assert reports[backend].why.startswith("CPU vendor: aarch64, want ")


# POWER's PEF


def test_a_power_machine_with_an_ultravisor_has_it_and_nothing_is_deployed_there(build, parts):
    machine = build(
        files={"/proc/device-tree/ibm,ultravisor/name": "x"},
        programs=("qemu-system-ppc64",),
        machine="ppc64le",
        kvm=parts.working_kvm,
        qemu_objects={"qemu-system-ppc64": frozenset({"pef-guest"})},
        images=("keep",),
    )
    report = report_backend("pef", machine)
    assert (report.present, report.configured, report.usable) == (True, True, False)
    assert report.why == "its guests have no way to give evidence, so no Keep is deployed there"
    assert find(report, "gives evidence").passed is False


def test_no_other_machine_has_pef(build):
    report = report_backend("pef", build())
    assert (report.present, report.usable) == (False, False)
    assert report.why.startswith("CPU architecture: x86_64, want ppc64le")


# Machines without any of it


def test_a_bare_laptop_has_nil_and_is_told_what_to_install(build, parts):
    files = {"/proc/cpuinfo": parts.cpuinfo("GenuineIntel", "13th Gen Intel(R) Core(TM) i7-1370P", "vmx")}
    zeros = dict.fromkeys([(0x7, 0), (0x12, 0), (0x8000001F, 0)], (0, 0, 0, 0))
    machine = build(files=files, cpuid=zeros, cpuid_unknown=None, kvm=parts.working_kvm)
    reports = {report.backend: report for report in report_platform(machine).backends}
    assert [name for name, report in reports.items() if report.usable] == ["nil"]
    assert [name for name, report in reports.items() if report.present] == ["vm", "nil"]
    assert find(reports["vm"], "swtpm on PATH").fix == "install swtpm, the software TPM"


def test_nil_says_what_it_does_not_protect(build):
    report = report_backend("nil", build())
    assert (report.usable, report.why) == (True, None)
    (datum,) = report.data
    assert datum.passed is False
    assert "can read and change the application and its data" in datum.info


def test_a_container_without_kvm_emulates_and_says_so(build, epyc, parts):
    machine = build(**epyc | {"kvm": parts.no_kvm})
    vm = report_backend("vm", machine)
    assert find(vm, "/dev/kvm exists").passed is False
    assert "container" in find(vm, "/dev/kvm exists").fix
    assert find(vm, "KVM API version").passed is None
    assert find(vm, "runs by").info.startswith("TCG emulation")
    snp = report_backend("snp", machine)
    assert (snp.present, snp.configured) == (True, False)


def test_a_kvm_that_hangs_is_not_used(build, epyc):
    stopped = "KVM_CREATE_VM gave no answer within 3 s, so the child process that asked was killed"
    machine = build(**epyc | {"kvm": KvmAnswer(exists=True, opened=True, api_version=12, stopped=stopped)})
    vm = report_backend("vm", machine)
    assert find(vm, "KVM makes a virtual machine").passed is False
    assert find(vm, "KVM makes a virtual machine").info == stopped
    assert find(vm, "runs by").info.startswith("TCG emulation")
    assert report_backend("snp", machine).configured is False


def test_a_kvm_without_a_cpu_extension_is_not_used(build, epyc, parts):
    epyc["files"]["/proc/cpuinfo"] = parts.cpuinfo("AuthenticAMD", "AMD EPYC", "hypervisor")
    vm = report_backend("vm", build(**epyc))
    assert find(vm, "KVM makes a virtual machine").passed is True
    assert find(vm, "CPU virtualization (svm or vmx)").passed is False
    assert find(vm, "runs by").info.startswith("TCG emulation")


def test_a_kvm_that_does_not_open_is_said_with_its_remedy(build):
    report = report_backend("vm", build(kvm=KvmAnswer(exists=True, stopped="open: permission denied")))
    assert find(report, "/dev/kvm opens").info == "open: permission denied"
    assert "group" in find(report, "/dev/kvm opens").fix


def test_a_kvm_of_another_version_is_refused(build, epyc, parts):
    report = report_backend("snp", build(**epyc | {"kvm": dataclasses.replace(parts.working_kvm, api_version=11)}))
    assert find(report, "KVM API version").info == "11, want 12"
    assert report.configured is False


def test_a_vm_needs_every_tool(build):
    programs = ("qemu-system-x86_64", "swtpm", "swtpm_setup")
    machine = build(programs=programs, images=("keep",), tpm_key="ab" * 32)
    report = report_backend("vm", machine)
    assert (report.configured, report.usable, report.why) == (True, True, None)
    assert find(report, "key of virtual TPMs, SHA-256 (insecure_vtpm_aks of a policy)").info == "ab" * 32
    for program in programs:
        found = report_backend("vm", dataclasses.replace(machine, search_path=("/empty",)))
        assert find(found, f"{program} on PATH").passed is False


# What cannot be read


def test_files_that_cannot_be_read_make_unknowns_and_not_noes(build, tmp_path):
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    parameters = tmp_path / "sys/module/kvm_amd/parameters"
    parameters.mkdir(parents=True)
    (parameters / "sev_snp").symlink_to("sev_snp")
    (tmp_path / "dev").mkdir()
    for device in ("sev", "sev-guest", "tdx_guest"):
        (tmp_path / "dev" / device).symlink_to(device)
    machine = build()
    snp = report_backend("snp", machine)
    assert snp.present is None
    for name in ("CPU vendor", "CPU brand", "/dev/sev exists", "/sys/module/kvm_amd/parameters/sev_snp"):
        assert find(snp, name).passed is None
        assert find(snp, name).info.startswith("could not be determined: ")
    tdx = report_backend("tdx", machine)
    assert tdx.present is None
    assert find(tdx, "this machine is itself a TDX guest").passed is None
    assert not any(report.usable for report in report_platform(machine).backends if report.backend != "nil")


# Every machine


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x1b]0;title\x07", "a\u202eb", "\x9b31m", "line\nbreak", "\ud800", "\x00\x7f"]
)
def test_a_name_with_control_characters_loses_them(text):
    datum = Datum(name=text, passed=True, info=text, fix=text)
    assert datum.name.isprintable()
    assert datum.info.isprintable()
    assert datum.fix.isprintable()


def test_a_text_without_end_is_cut():
    assert len(Datum(name="x" * 10_000, passed=True).name) == 400


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cpuinfo=st.binary(max_size=300), release=st.text(max_size=40), parameter=st.binary(max_size=20))
def test_any_text_of_a_kernel_gives_a_report_of_printable_text(build, tmp_path, cpuinfo, release, parameter):
    machine = build(files={"/proc/cpuinfo": "", "/sys/module/kvm_amd/parameters/sev_snp": ""}, release=release)
    (tmp_path / "proc/cpuinfo").write_bytes(b"vendor_id: AuthenticAMD\nmodel name: " + cpuinfo)
    (tmp_path / "sys/module/kvm_amd/parameters/sev_snp").write_bytes(parameter)
    report = report_platform(machine)
    assert report.release.isprintable()
    for backend in report.backends:
        assert (backend.why or "").isprintable()
        for datum in flatten(backend.data):
            assert datum.name.isprintable()
            assert (datum.info or "").isprintable()


def test_every_failure_of_a_bare_machine_says_what_was_found_or_what_to_do(build):
    for backend in report_platform(build()).backends:
        for datum in flatten(backend.data):
            if datum.passed is not True:
                assert datum.info or datum.fix or datum.data, (backend.backend, datum.name)


def test_this_machine_gives_a_report_in_time():
    started = time.monotonic()
    report = report_platform(this_machine())
    assert time.monotonic() - started < 10
    assert tuple(found.backend for found in report.backends if found.backend != "pef") == BACKENDS
    assert report.backends[-1].usable
