# SPDX-License-Identifier: Apache-2.0
"""`enarx image measure`: from an image or from files, as text, JSON, TOML and CoRIM, and what it refuses."""

from __future__ import annotations

import json
import tomllib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enarx import __version__, cli
from enarx.image.measure import snp_launch_digest, uki_pcrs, vtpm_pcrs
from enarx.image.reference import reference_values
from enarx.wire.corim import decode_corim_untrusted
from tests.unit.image.machine_files import VERSION, make_firmware, make_kernel, make_pe
from tests.unit.image.machines import FIRMWARE, PARTS, installed, make_machine


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "image measure", "enarx.cli.image_measure")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for name in ("kernel", "initramfs"):
        (tmp_path / name).write_bytes(PARTS[name])
    for role, data in FIRMWARE.items():
        (tmp_path / f"{role}.fd").write_bytes(data)
    return tmp_path


@pytest.fixture
def image(here, monkeypatch):
    return installed(here / "data", monkeypatch, name=f"keep-{__version__}-x86_64")


def run(capfd, *argv):
    status = cli.main(["image", "measure", *argv])
    out, err = capfd.readouterr()
    return status, out, err


def files(*roles):
    given = ["--kernel", "kernel", "--initramfs", "initramfs", "--cmdline", PARTS["cmdline"]]
    return [*given, *(word for role in roles for word in ("--firmware", f"{role}={role}.fd"))]


def test_measures_the_image_of_this_version(image, capfd):
    status, out, err = run(capfd, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["image"] == image.name
    assert document["command_line"] == PARTS["cmdline"]
    assert document["reference_values"] == reference_values(make_machine())
    assert document["not_computed"].keys() == {"tdx.rtmr0", "tpm.pcr1"}
    assert run(capfd, "--json", "--image", image.digest)[1] == out


def test_a_qemu_that_is_named_gives_rtmr0_and_the_words_that_it_is_unproven(image, capfd, monkeypatch):
    from enarx.cli import image_shape

    asked = []
    monkeypatch.setattr(image_shape, "td_rtmr0", lambda *given: asked.append(given[1:]) or ["ab" * 48, "cd" * 48])
    document = json.loads(run(capfd, "--json", "--qemu", "q", "--memory", "512MiB", "--memory", "1GiB")[1])
    assert asked == [("q", [512 << 20, 1 << 30], 46)]
    assert document["reference_values"]["tdx"]["rtmr0"] == ["ab" * 48, "cd" * 48]
    assert document["not_computed"].keys() == {"tpm.pcr1"}
    assert document["unproven"].keys() == {"tdx.rtmr0"}
    for form in ("--toml", "--verbose"):
        assert "no TD has been compared with it" in run(capfd, form, "--qemu", "q")[1]
        assert "rtmr0 is not computed" not in run(capfd, form, "--qemu", "q", "--physical-bits", "48")[1]
    assert asked[-1] == ("q", [], 48)


def test_rtmr0_needs_firmware_and_a_width_that_can_be(here, image, capfd):
    status, _, err = run(capfd, *files("vm"), "--qemu", "q")
    assert (status, "found no firmware for tdx" in err) == (2, True)
    for bits in ("30", "53", "x", "4" * 10):
        status, _, err = run(capfd, "--qemu", "q", "--physical-bits", bits)
        assert (status, "want 36 to 52" in err) == (2, True)
    status, _, err = run(capfd, "--qemu", "no-such-qemu")
    assert (status, "cannot ask QEMU: no-such-qemu" in err) == (108, True)


def test_files_give_the_same_as_their_image(image, capfd):
    _, out, _ = run(capfd, "--toml")
    _, from_files, _ = run(capfd, "--toml", *files("vm", "snp", "tdx"))
    assert tomllib.loads(from_files) == tomllib.loads(out) == reference_values(make_machine())
    assert "# rtmr0 is not computed" in out


def test_text_is_for_people(image, capfd):
    status, out, _ = run(capfd)
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == f"{image.name}: {PARTS['cmdline']}"
    assert [line for line in lines if line and not line.startswith(" ")][1:] == ["snp", "tdx", "tpm"]
    assert "and 73 more (older QEMU, by memory)" in out
    assert "rtmr0            not computed" in out


def test_shapes_and_memory_are_options(capfd):
    argv = [
        *files("snp", "vm"),
        "--json",
        "--vcpus",
        "1-2",
        "--vcpus",
        "4",
        "--vcpu-type",
        "EPYC-Milan",
        "--memory",
        "512 MiB",
    ]
    values = json.loads(run(capfd, *argv)[1])["reference_values"]
    parts = {"firmware": FIRMWARE["snp"], **PARTS, "cmdline": f"{PARTS['cmdline']} acpi=off"}
    wanted = [snp_launch_digest(**parts, vcpus=count, vcpu_type="EPYC-Milan").hex() for count in (1, 2, 4)]
    assert values["snp"]["measurement"] == wanted
    old = vtpm_pcrs(firmware=FIRMWARE["vm"], **PARTS, patched_for=512 << 20)
    assert values["tpm"]["pcr4"][1:] == [old[4].hex()]


def test_a_policy_can_begin_with_the_document(image, here, capfd):
    (here / "image.json").write_text(run(capfd, "--json")[1])
    assert cli.main(["policy", "init", "p.toml", "--from-image", "image.json"]) == 0
    table = tomllib.loads((here / "p.toml").read_text())
    assert table["snp"]["measurement"] == reference_values(make_machine())["snp"]["measurement"]


def key_files(here, key):
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (here / "key.pem").write_bytes(private)
    (here / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_signed_corim_is_what_a_policy_can_begin_with(image, here, capfd):
    key_files(here, ec.generate_private_key(ec.SECP256R1()))
    argv = ("--corim", "keep.corim", "--key", "key.pem", "--signer", "ACME", "--until", "2100-01-01T00:00:00Z")
    status, out, err = run(capfd, *argv)
    assert (status, out) == (0, "")
    assert err == f"enarx: wrote keep.corim, reference values of {image.name} for snp, tdx, tpm\n"
    assert cli.main(["policy", "init", "p.toml", "--corim", "keep.corim", "--corim-key", "public.pem"]) == 0
    text = (here / "p.toml").read_text()
    assert "signed by 'ACME'" in text
    assert tomllib.loads(text)["tpm"]["pcr9"] == reference_values(make_machine())["tpm"]["pcr9"]


def test_unsigned_corim_says_so(image, here, capfd):
    status, _, err = run(capfd, "--corim", "keep.corim")
    assert status == 0
    assert "nobody signs it" in err
    assert decode_corim_untrusted((here / "keep.corim").read_bytes()).id == f"enarx-image-{image.digest}"


def test_unified_kernel_images(here, capfd):
    uki = make_pe({".cmdline": b"quiet", ".linux": make_kernel()}, header_bytes=0x1000)
    (here / "uki").write_bytes(uki)
    for flags, from_disk in (((), True), (("--by-kernel-option",), False)):
        values = json.loads(run(capfd, "--uki", "uki", "--firmware", "vm=vm.fd", "--json", *flags)[1])[
            "reference_values"
        ]
        wanted = uki_pcrs(firmware=FIRMWARE["vm"], uki=uki, from_disk=from_disk)
        assert values == {"tpm": {f"pcr{number}": [value.hex()] for number, value in wanted.items()}}


def test_a_version_that_is_not_found_can_be_given(here, capfd):
    (here / "vm.fd").write_bytes(make_firmware(b"vm", version="unknown"))
    assert run(capfd, *files("vm"))[0] == 103
    status, out, _ = run(capfd, *files("vm"), "--firmware-version", VERSION, "--json", "--memory", "1GiB")
    assert status == 0
    assert "pcr0" in json.loads(out)["reference_values"]["tpm"]


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        ((), 2, "found no such image"),
        (("--image", "other"), 2, "other: found no such image"),
        (("--json", "--toml"), 2, "found --json and --toml, want one"),
        (("--key", "key.pem"), 2, "found --key without --corim"),
        (("--kernel", "kernel"), 2, "found --kernel without --initramfs"),
        (("--image", "x", "--kernel", "kernel"), 2, "found --image and --kernel"),
        ((*files(), "--firmware", "vm.fd"), 2, "want one ROLE=FILE"),
        ((*files(), "--firmware", "sgx=vm.fd"), 2, "want one ROLE=FILE"),
        ((*files("vm", "vm"),), 2, "want one ROLE=FILE"),
        ((*files(), "--firmware", "vm=gone.fd"), 2, "gone.fd: No such file"),
        ((*files("snp"), "--vcpus", "0"), 2, "--vcpus: found 0"),
        ((*files("snp"), "--vcpus", "4-1"), 2, "--vcpus: found 4-1"),
        ((*files("snp"), "--vcpus", "x"), 2, "--vcpus: found x"),
        ((*files("snp"), "--vcpus", "2000"), 2, "--vcpus: found 2000"),
        ((*files("snp"), "--vcpu-type", "max"), 2, "vcpu type: found 'max'"),
        ((*files("vm"), "--memory", "much"), 2, "--memory: found"),
        (("--kernel", "vm.fd", "--initramfs", "initramfs", "--firmware", "tdx=tdx.fd"), 103, "no PE header"),
        (("--uki", "kernel", "--firmware", "tdx=tdx.fd"), 2, "--uki without firmware for vm"),
        (("--uki", "kernel", "--firmware", "vm=vm.fd"), 103, "no section .linux"),
        ((*files(), "--firmware", "snp=vm.fd"), 103, "code that checks a kernel"),
        ((*files("vm"), "--corim", "kernel"), 2, "cannot write kernel: found one already"),
        ((*files("vm"), "--corim", "x", "--key", "kernel"), 2, "kernel: found"),
    ],
)
def test_refuses(capfd, argv, status, words):
    found, out, err = run(capfd, *argv)
    assert (found, out) == (status, ""), err
    assert words in err
    assert len(err.splitlines()) <= 2


def test_refuses_a_key_that_cannot_sign_it(image, here, capfd):
    key_files(here, rsa.generate_private_key(65537, 2048))
    status, _, err = run(capfd, "--corim", "keep.corim", "--key", "key.pem")
    assert status in {2, 103}
    assert "want one" in err
    assert not (here / "keep.corim").exists()


def test_a_policy_of_a_file_that_names_an_image_can_be_checked(image, here, capfd):
    assert cli.main(["policy", "init", "p.toml", "--image", image.name]) == 0
    text = (here / "p.toml").read_text()
    said = ("measurement", "family_id", "image_id", "host_data")
    lines = [line for line in text.splitlines() if line.partition(" = ")[0] not in said]
    lines.insert(lines.index("[snp]") + 1, f'image = "{image.name}"')
    lines[-1] = "misspelt = 1"
    (here / "p.toml").write_text("\n".join(lines))
    capfd.readouterr()
    assert cli.main(["policy", "check", "p.toml"]) == 2
    out, err = capfd.readouterr()
    # The line is that of the file that somebody wrote.
    assert f"p.toml:{len(lines)}: " in out + err
    (here / "p.toml").write_text("\n".join(lines[:-1]) + "\n" + text.splitlines()[-1] + "\n")
    assert cli.main(["policy", "check", "p.toml"]) == 0
