# SPDX-License-Identifier: Apache-2.0
"""A firmware's variables: keys go, Secure Boot is off, nothing else moves; and any bytes are read or refused."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.image.secure_boot import remove_secure_boot

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44").bytes_le
ADDED, DELETED = 0x3F, 0x3D
STORE_BYTES = 1024


def variable(name, data=b"data", *, state=ADDED, vendor=GLOBAL, attributes=7):
    text = name.encode("utf-16-le") + bytes(2)
    header = struct.pack("<HBxIQ16sIII16s", 0x55AA, state, attributes, 0, bytes(16), 0, len(text), len(data), vendor)
    made = header + text + data
    return made + b"\xff" * (-len(made) % 4)


def firmware(*variables, size=STORE_BYTES, before=2048, state=0xFE):
    store = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    volume = bytes(16) + UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
    volume += struct.pack("<Q4sIH", 4096, b"_FVH", 0, 72) + bytes(22)
    contents = store + struct.pack("<IBB6x", size, 0x5A, state) + b"".join(variables)
    return b"code" * (before // 4) + volume + contents.ljust(size, b"\xff") + b"after"


OFF = variable("SecureBootEnable", b"\0", vendor=ENABLE, attributes=3)


def test_keys_go_and_secure_boot_is_off():
    keys = [variable(name) for name in ("PK", "KEK", "db", "dbx")]
    assert remove_secure_boot(firmware(*keys)) == firmware(OFF)


def test_other_variables_stay_sorted_by_name():
    others = variable("Lang", b"eng\0"), variable("BootOrder", b"\1\0\3")
    assert remove_secure_boot(firmware(variable("db"), *others)) == firmware(others[1], others[0], OFF)


def test_what_was_deleted_or_on_goes():
    given = firmware(variable("Lang", state=DELETED), variable("SecureBootEnable", b"\1", vendor=ENABLE))
    assert remove_secure_boot(given) == firmware(OFF)


def test_a_second_time_changes_nothing():
    once = remove_secure_boot(firmware(variable("PK"), variable("Lang")))
    assert remove_secure_boot(once) == once


VIRT_FW_VARS = Path(sys.executable).with_name("virt-fw-vars")


@pytest.mark.skipif(not VIRT_FW_VARS.exists(), reason="no virt-fw-vars")
def test_is_what_virt_fw_vars_makes_of_it(tmp_path):
    keys = [variable(name, b"") for name in ("dbx", "PK", "KEK", "db")]
    given = firmware(*keys[:2], variable("Lang"), *keys[2:])
    (tmp_path / "in.fd").write_bytes(given)
    command = [VIRT_FW_VARS, "-i", tmp_path / "in.fd", "-o", tmp_path / "out.fd", "--set-false", "SecureBootEnable"]
    for name in ("PK", "KEK", "db", "dbx"):
        command += ["-d", name]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out.fd").read_bytes() == remove_secure_boot(given)


@pytest.mark.parametrize(
    ("given_firmware", "found"),
    [
        (b"", "no volume of variables"),
        (b"code" * 4096, "no volume of variables"),
        (firmware(state=0xFF), "another store"),
        (firmware(size=STORE_BYTES)[:3000], "another store"),
        (firmware(variable("Lang", bytes(2000))[:100]), "a variable of"),
        (firmware(variable("L" * 440)), "room for"),
    ],
)
def test_refuses(given_firmware, found):
    with pytest.raises(DecodeError, match=f"cannot take Secure Boot out of a firmware: .*found {found}"):
        remove_secure_boot(given_firmware)


GOOD = firmware(variable("PK"), variable("Lang"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(2048, len(GOOD)), st.binary(min_size=1, max_size=40))
def test_keeps_the_length_of_whatever_it_reads(place, data):
    given_firmware = GOOD[:place] + data + GOOD[place + len(data) :]
    try:
        made = remove_secure_boot(given_firmware)
    except DecodeError:
        return
    assert len(made) == len(given_firmware)
