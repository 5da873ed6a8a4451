# SPDX-License-Identifier: Apache-2.0
"""Installed images in a tenant's policy: by default, by name in a file, and in the words of a refusal."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest

from enarx.deploy import attesting
from enarx.deploy.policy import find_policy, make_policy
from enarx.deploy.reference import image_hint, installed_images
from enarx.errors import ConfigError, UsageError, VerificationError
from enarx.image import measure_process, package_folder
from enarx.image.policies import expand_policy, image_values
from enarx.image.reference import emulated_measurements, snp_measurements
from enarx.rats import AttestationResult, Check, Concern, Finding, Outcome
from enarx.verifier.policy_toml import decode_policy
from enarx.verifier.policy_write import Reference, write_policy
from tests.unit.image.machine_files import flipped, make_firmware, make_kernel
from tests.unit.image.machines import FIRMWARE, PARTS, installed, make_machine

AT = datetime(2026, 11, 1, tzinfo=UTC)
PROCESS = measure_process(package_folder()).hex()
(SNP,) = (digest.hex() for digest in snp_measurements(make_machine()).values())
(EMULATED,) = (digest.hex() for digest in emulated_measurements(make_machine()))


@pytest.fixture
def image(tmp_path, monkeypatch):
    return installed(tmp_path / "data", monkeypatch)


def measurements(policy):
    return tomllib.loads(policy.text.decode())["snp"]["measurement"]


def test_the_default_policy_takes_installed_images(image):
    policy = find_policy(None)
    assert measurements(policy) == [PROCESS, SNP]
    assert b'"keep-test"' in policy.text
    assert policy.policy == decode_policy(policy.text, path=policy.name)
    assert policy.policy.tees == {"snp"}


def test_firmware_that_checks_nothing_is_for_emulated_platforms_alone(image):
    policy = find_policy(None, emulated=True)
    assert measurements(policy) == [PROCESS, SNP, EMULATED]
    assert b"keep-test without SNP, for emulated platforms" in policy.text
    assert installed_images().keys() == {"process", "keep-test"}


def test_an_image_for_another_architecture_is_left_out(tmp_path, monkeypatch):
    installed(tmp_path / "data", monkeypatch, arch="aarch64")
    assert measurements(find_policy(None, emulated=True)) == [PROCESS]


def test_an_image_without_snp_firmware_is_left_out(tmp_path, monkeypatch):
    installed(tmp_path / "data", monkeypatch, firmware={"vm": FIRMWARE["vm"]})
    assert measurements(find_policy(None)) == [PROCESS]
    assert measurements(find_policy(None, emulated=True)) == [PROCESS, EMULATED]


def test_a_damaged_image_is_no_reference(image):
    with open(image.kernel, "wb") as file:
        file.write(flipped(PARTS["kernel"], 0x300))
    with pytest.raises(VerificationError, match="kernel: found SHA-256"):
        find_policy(None)


# --- By name -------------------------------------------------------------------------------------------------------------


def policy_file(folder, tee, *keys):
    """Write a complete policy in which an image's name stands for keys."""
    filled = {
        "tdx": {
            "rtmr0": ["11" * 48],
            "rtmr3": ["00" * 48],
            "td_attributes": ["0000001000000000"],
            "xfam": ["e702060000000000"],
        },
        "tpm": {"ak": ["22" * 32], "pcr1": {"skip": "QEMU makes it"}},
    }.get(tee, {})
    from enarx.verifier.policy_write import toml_of

    references = {f"{tee}.{key}": Reference(toml_of(value)) for key, value in filled.items()}
    draft = write_policy([tee], references=references, origin="a test")
    lines = [line for line in draft.text.splitlines() if line.split(" = ")[0].removeprefix("# ") not in keys]
    lines.insert(lines.index(f"[{tee}]") + 1, 'image = "keep-test"')
    path = folder / "p.toml"
    path.write_text("\n".join(lines))
    return str(path)


ZEROS = {
    "snp": ("measurement", "family_id", "image_id", "host_data"),
    "tdx": ("mr_td", "rtmr1", "rtmr2", "mr_config_id", "mr_owner", "mr_owner_config"),
    "tpm": tuple(f"pcr{index}" for index in (0, 2, 3, 4, 5, 6, 7, 8, 9)),
}


@pytest.mark.parametrize("tee", ZEROS)
def test_a_file_can_name_an_image(image, tmp_path, tee):
    policy = find_policy(policy_file(tmp_path, tee, *ZEROS[tee]))
    table = tomllib.loads(policy.text.decode())[tee]
    for key, value in image_values("keep-test", (tee,))[tee].items():
        assert table[key] == value
    assert "image" not in table
    assert policy.images == ("keep-test",)
    # What a receipt keeps can be judged by again without the image.
    assert make_policy(policy.text, name=policy.name).policy == policy.policy


def test_the_digest_of_an_image_is_a_name_too(image, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(f'[snp]\nimage = "{image.digest}"\n')
    text, names = expand_policy(path.read_bytes(), path=str(path))
    assert tomllib.loads(text.decode())["snp"]["measurement"] == [SNP]
    assert names == (image.digest,)


def test_the_process_is_an_image(image):
    text, _ = expand_policy(b'[snp]\nimage = "process"\n', path="p.toml")
    assert tomllib.loads(text.decode())["snp"]["measurement"] == [PROCESS]


@pytest.mark.parametrize(
    ("text", "emulated", "wanted"),
    [
        ('[snp]\nimage = "keep-test"\n', False, [SNP]),
        ('[snp]\nimage = "keep-test"\n', True, [SNP, EMULATED]),
        (f'insecure_emulated_roots = ["{"ab" * 32}"]\n[snp]\nimage = "keep-test"\n', False, [SNP, EMULATED]),
    ],
)
def test_an_emulated_platform_is_accepted_as_always_by_its_root(image, text, emulated, wanted):
    expanded, _ = expand_policy(text.encode(), path="p.toml", emulated=emulated)
    assert tomllib.loads(expanded.decode())["snp"]["measurement"] == wanted


def test_refuses_an_image_that_is_not_installed(image, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('[snp]\nimage = "keep-tast"\n')
    with pytest.raises(UsageError, match="keep-tast: found no such image"):
        find_policy(str(path))


def test_refuses_an_image_that_says_nothing_of_a_tee(image):
    with pytest.raises(
        ConfigError, match=r"sgx\.image: found an image that says nothing, want one with values for \[sgx\]"
    ):
        expand_policy(b'[sgx]\nimage = "keep-test"\n', path="p.toml")


def test_refuses_what_image_and_file_both_say(image, tmp_path):
    with pytest.raises(ConfigError, match=r"snp\.host_data: found it beside an image that says it"):
        find_policy(policy_file(tmp_path, "snp", "measurement", "family_id", "image_id"))


# --- Refusals --------------------------------------------------------------------------------------------------------------


def refused(tee, **found):
    """Return a verdict that refuses registers."""
    findings = tuple(
        Finding(Check(f"{tee}.{key}", "test", Concern.APPRAISAL, ""), Outcome.FAILED, None, value, "the policy")
        for key, value in found.items()
    )
    return AttestationResult(tee=tee, subject=None, findings=findings, at=AT, policy_name="p.toml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": make_kernel(b"other!")}, "kernel"),
        ({"initramfs": b"another"}, "command line or initramfs"),
        ({"firmware": FIRMWARE | {"vm": make_firmware(b"xx")}}, "firmware"),
    ],
)
def test_a_refusal_names_the_part_that_is_another(image, tmp_path, change, words):
    policy = find_policy(policy_file(tmp_path, "tpm", *ZEROS["tpm"]))
    wanted, other = image_values("keep-test", ("tpm",))["tpm"], make_machine(**change)
    from enarx.image.reference import reference_values

    found = reference_values(other, sections=("tpm",), memory_sizes=())["tpm"]
    differing = {key: bytes.fromhex(found[key][0]) for key in found if found[key][0] not in wanted[key]}
    hint = attesting._next_step(refused("tpm", **differing), "vm", policy)
    assert hint == f"not as in image keep-test: {words}"


def test_a_refusal_of_the_default_policy_names_it_too(image):
    result = refused("snp", measurement=b"x" * 48)
    wanted = "not as in image keep-test: firmware, kernel, initramfs or command line"
    assert attesting._next_step(result, "snp", find_policy(None)) == image_hint(result) == wanted


def test_a_refusal_for_something_else_names_no_part(image, tmp_path):
    policy = find_policy(policy_file(tmp_path, "snp", *ZEROS["snp"]))
    hint = attesting._next_step(refused("snp", vmpl=3), "snp", policy)
    assert "p.toml says what is accepted" in hint


def test_a_refusal_stands_when_the_image_is_gone(image, tmp_path, monkeypatch):
    policy = find_policy(policy_file(tmp_path, "snp", *ZEROS["snp"]))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    hint = attesting._next_step(refused("snp", measurement=b"x" * 48), "snp", policy)
    assert "says what is accepted" in hint
