# SPDX-License-Identifier: Apache-2.0
"""`enarx attest verify --cpak`: the key of a CCA platform is the caller's to know."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from enarx.cli import main
from enarx.testing.cca import CcaPlatform


def jwk_of(platform):
    (spki,) = platform.anchors.cca.values()
    numbers = load_der_public_key(spki).public_numbers()
    size = (numbers.curve.key_size + 7) // 8

    def text(number):
        return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()

    return {"kty": "EC", "crv": f"P-{numbers.curve.key_size}", "x": text(numbers.x), "y": text(numbers.y)}


@pytest.fixture
def token(tmp_path):
    platform = CcaPlatform()
    path = tmp_path / "token.cbor"
    path.write_bytes(platform.token())
    return platform, str(path)


def judge(token, tmp_path, keys):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    return main(["attest", "verify", token, "--offline", "--cpak", str(path)])


def test_a_token_is_accepted_under_its_platforms_key(token, tmp_path):
    platform, path = token
    assert judge(path, tmp_path, jwk_of(platform)) == 0
    (owner,) = platform.anchors.cca
    assert judge(path, tmp_path, [{"instance-id": owner.hex(), "pkey": jwk_of(platform)}]) == 0


def test_a_token_is_not_authentic_under_another_key(token, tmp_path, capfd):
    assert judge(token[1], tmp_path, jwk_of(CcaPlatform())) == 104
    assert "cca.platform.signature" in capfd.readouterr().out


def test_a_token_of_a_platform_that_is_not_listed_is_undecided(token, tmp_path, capfd):
    platform, path = token
    assert judge(path, tmp_path, [{"instance-id": "01" + "00" * 32, "pkey": jwk_of(platform)}]) == 106
    assert "--cpak" in capfd.readouterr().err


def test_without_a_key_the_next_step_is_named(token, capfd):
    assert main(["attest", "verify", token[1], "--offline"]) == 106
    assert "hint: pass the platform's key with --cpak" in capfd.readouterr().err


def test_a_file_that_is_no_key_is_said(token, tmp_path, capfd):
    assert judge(token[1], tmp_path, {"kty": "oct"}) == 103
    assert "cannot decode the CPAK" in capfd.readouterr().err


def test_a_key_for_other_evidence_is_a_usage_error(tmp_path, capfd):
    from enarx.testing.snp import FakeAmd

    path = tmp_path / "report.bin"
    path.write_bytes(FakeAmd().make_case().data)
    assert judge(str(path), tmp_path, {}) == 2
    assert "want a CCA token" in capfd.readouterr().err
