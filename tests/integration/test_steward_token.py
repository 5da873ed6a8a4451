# SPDX-License-Identifier: Apache-2.0
"""A Steward whose authority's key is in a token: SoftHSM's, which is reached as a hardware security module is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from enarx.wire import steward as wire
from tests.between import until
from tests.integration.test_steward_intermediate import OperatorAuthority
from tests.steward_processes import (
    PACKAGE,
    TENANT,
    StewardProcess,
    Visitor,
    grants_text,
    policy_text,
    problem,
    run_steward,
)

pytestmark = pytest.mark.slow

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "8153-9027"
LOOK = """
import sys
import pkcs11
from pkcs11 import Attribute, ObjectClass
with pkcs11.lib(sys.argv[1]).get_token(token_label="steward").open(user_pin=sys.argv[2]) as session:
    for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
        print(key.label, *(bool(key[each]) for each in (
            Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.NEVER_EXTRACTABLE, Attribute.DERIVE, Attribute.LOCAL)))
"""


@pytest.fixture
def token(tmp_path):
    """Return a token that is initialised and empty, and how it is named."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM: tools/install-slow installs it")
    objects, pin = tmp_path / "tokens", tmp_path / "pin"
    objects.mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {objects}\nlog.level = ERROR\n")
    env = {**os.environ, "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")}
    made = ["softhsm2-util", "--init-token", "--free", "--label", "steward", "--so-pin", "40000000", "--pin", PIN]
    subprocess.run(made, env=env, check=True, capture_output=True)
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    uri = f"pkcs11:token=steward;object=ca?module-path={MODULE}&pin-source=file:{pin}"
    return SimpleNamespace(env=env, uri=uri, pin=pin, objects=objects)


def found(tmp_path, token, *more, status=0):
    """Make a Steward with the key in the token; return its folder and what was said."""
    (tmp_path / "policy.toml").write_text(policy_text())
    state = tmp_path / "state"
    options = ("--state", str(state), "--name", "localhost", "--policy", str(tmp_path / "policy.toml"))
    _, said = run_steward("init", *options, "--key", token.uri, *more, status=status, env=token.env)
    if status == 0:
        with (state / "steward.toml").open("a") as configuration:
            configuration.write(grants_text((PACKAGE, TENANT, ("keep.example.com",))))
    return state, said


def keys_in(token):
    """Return what is in the token, as another process sees it: a module is no business of this one."""
    import sys

    looked = subprocess.run(
        [sys.executable, "-c", LOOK, str(MODULE), PIN], env=token.env, check=True, capture_output=True, text=True
    )
    return looked.stdout.splitlines()


def require_certified(steward, roots):
    """Have a Keep certified by the first of these."""
    answer = steward.certify(Visitor())
    assert answer.status_code == 201, answer.text
    leaf, *_ = map(x509.load_der_x509_certificate, wire.decode_certificate_answer_untrusted(answer.content).chain)
    leaf.verify_directly_issued_by(roots[0])
    return leaf


def test_certifies_with_a_key_that_stays_in_the_token(tmp_path, token):
    state, said = found(tmp_path, token)
    assert "made the authority's key ca in token steward" in said
    # Sensitive, and nobody could extract it at any time; it signs and does nothing else; it was made there.
    assert keys_in(token) == ["ca True False True False True"]
    assert not (state / "ca.key").exists()
    assert (state / "ca.uri").read_text() == token.uri
    assert all(PIN.encode() not in path.read_bytes() for path in state.iterdir())
    roots = x509.load_pem_x509_certificates((state / "root.pem").read_bytes())
    with StewardProcess(state, "--offline", env=token.env) as steward:
        # Which process judges it is not ours to say; each of them has a session.
        leaves = [require_certified(steward, roots) for _ in range(8)]
        with steward.client() as client:
            crl = x509.load_der_x509_crl(client.get("/v1/crl").content)
        assert crl.is_signature_valid(roots[0].public_key())
        for pid in (steward.child.pid, *children(steward.child.pid)):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert PIN.encode() not in command
    assert len({leaf.serial_number for leaf in leaves}) == 8
    out, _ = run_steward("audit", "--state", str(state), env=token.env)
    assert "\nentries " in out


def test_below_another_authority_it_signs_the_request(tmp_path, token):
    operator = OperatorAuthority(tmp_path)
    state, _ = found(tmp_path, token, "--intermediate")
    chain = operator.sign(state / "ca.csr")
    run_steward("init", "--state", str(state), "--chain", str(chain), env=token.env)
    roots = x509.load_pem_x509_certificates((state / "ca.pem").read_bytes())
    with StewardProcess(state, "--offline", env=token.env) as steward:
        require_certified(steward, roots)


def test_a_key_that_is_there_is_used_and_a_folder_that_is_there_is_not(tmp_path, token):
    state, _ = found(tmp_path, token)
    _, said = found(tmp_path, token, status=2)
    assert "found something already" in said
    first = (state / "root.pem").read_bytes()
    state.rename(tmp_path / "before")
    state, said = found(tmp_path, token)
    assert "found, and uses, the authority's key ca in token steward" in said
    assert len(keys_in(token)) == 1
    second = (state / "root.pem").read_bytes()
    assert public(first) == public(second)


def test_a_pin_that_is_wrong_ends_it_and_names_the_file(tmp_path, token):
    state, _ = found(tmp_path, token)
    token.pin.write_text("0000-0000\n")
    _, said = run_steward("serve", "--state", str(state), "--listen", "127.0.0.1:0", status=2, env=token.env)
    assert "refuses the PIN (PinIncorrect)" in said
    assert str(token.pin) in said
    assert "0000" not in said


def test_a_token_that_is_gone_ends_it_before_it_serves(tmp_path, token):
    state, _ = found(tmp_path, token)
    token.objects.rename(tmp_path / "elsewhere")
    token.objects.mkdir()
    _, said = run_steward("serve", "--state", str(state), "--listen", "127.0.0.1:0", status=108, env=token.env)
    assert "NoSuchToken" in said
    assert "Traceback" not in said


def test_what_judges_is_replaced_with_its_session(tmp_path, token):
    state, _ = found(tmp_path, token)
    roots = x509.load_pem_x509_certificates((state / "root.pem").read_bytes())
    with StewardProcess(state, "--offline", env=token.env) as steward:
        require_certified(steward, roots)
        before = children(steward.child.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: (
                len(children(steward.child.pid)) == len(before) and not set(before) & set(children(steward.child.pid))
            ),
            "judges",
        )
        require_certified(steward, roots)


def test_a_key_that_was_removed_issues_nothing_and_says_so(tmp_path, token):
    state, _ = found(tmp_path, token)
    with StewardProcess(state, "--offline", env=token.env) as steward:
        # While it serves: judges have it open, and a new one has not.
        for path in token.objects.rglob("*.object"):
            path.unlink()
        replaced(steward)
        status, kind, detail = problem(steward.certify(Visitor()))
        assert (status, kind) == (503, "unavailable"), detail
        # Its operator is told where it is, and nobody else.
        assert "the authority's key out of reach" in detail
        said = steward.wait_for("token-failed")
        assert "ca in token steward" in said
        assert "NoSuchToken" in said


def test_a_key_in_a_file_beside_it_is_refused(tmp_path, token):
    state, _ = found(tmp_path, token)
    (state / "ca.key").write_bytes((state / "original-ca.key").read_bytes())
    (state / "ca.key").chmod(0o600)
    _, said = run_steward("serve", "--state", str(state), status=2, env=token.env)
    assert "found ca.key beside it, want one of them" in said


def public(pem):
    (certificate,) = x509.load_pem_x509_certificates(pem)
    assert certificate.not_valid_after_utc > datetime.now(UTC)  # noqa: TID251
    return certificate.public_key()


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def replaced(steward):
    """Kill the processes that judge, and wait for others."""
    before = children(steward.child.pid)
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def are_others():
        now = children(steward.child.pid)
        return len(now) == len(before) and not set(now) & set(before)

    until(are_others, "other processes that judge")
