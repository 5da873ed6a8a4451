# SPDX-License-Identifier: Apache-2.0
"""The services of examples/services: each is built by its script, deployed to a Keep of a real host, and used as its users would.

Their users trust a Steward's root, and ask for the package by its digest; whoever is between them and the Keep records everything.
Proofs and signatures are checked here by other code than the services'.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from enarx.errors import VerificationError
from enarx.steward.log import hash_of_leaf, hash_of_node, verify_consistency, verify_inclusion
from tests.between import Between, until
from tests.canary import make_canary, search
from tests.integration.test_deploy import EMULATED, Host
from tests.integration.test_deploy_canary import everything, processes, require_nowhere, titles
from tests.service_examples import (
    EXAMPLES,
    NAME,
    PEER_S,
    SERVICES,
    START_S,
    Users,
    built,
    change,
    deployed,
    digest_of,
    keep_context,
    missing,
    named,
    stewarded,
)

NAMES = ("key-manager", "word-game", "log-service", "gateway", "analytics")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


# --- Building, deploying, connecting ---------------------------------------------------------------------------------------


class Packages(dict):
    """The services that can be built here, by their names; a test of another one is skipped."""

    def __missing__(self, name):
        pytest.skip(missing(name) or f"{name} cannot be built here")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The services on any port that is free."""
    folder = tmp_path_factory.mktemp("services")
    found = Packages()
    for name in NAMES:
        with contextlib.suppress(pytest.skip.Exception):
            path = built(name, folder)
            change(path, "port = 8443", "port = 0")
            token = folder / f"{name}.token"
            found[name] = SimpleNamespace(
                path=path, digest=digest_of(path), token=token.read_text() if token.exists() else None
            )
    return found


@pytest.fixture(scope="module")
def between(enarx):
    with Between(enarx.env) as running:
        yield running


@pytest.fixture(scope="module")
def tenant(between, enarx):
    return Host(url=between.url, enarx=enarx)


@pytest.fixture(scope="module")
def steward(enarx, tenant, guest, packages, tmp_path_factory):
    """A Steward that grants the name to each of the packages, whoever deploys it as it is."""
    grants = [(package.digest, "any", (NAME,)) for package in packages.values()]
    with stewarded(tenant, guest, tmp_path_factory.mktemp("steward"), grants, enarx.env) as running:
        yield running


@contextlib.contextmanager
def used(name, tenant, steward, packages):
    package = packages[name]
    with deployed(tenant, name, package.path, *named(steward)) as port:
        yield Users(port, keep_context(steward, package.digest))


@pytest.fixture(scope="module")
def keys(tenant, steward, packages):
    with used("key-manager", tenant, steward, packages) as users:
        yield users


@pytest.fixture(scope="module")
def game(tenant, steward, packages):
    with used("word-game", tenant, steward, packages) as users:
        yield users


@pytest.fixture(scope="module")
def log(tenant, steward, packages):
    with used("log-service", tenant, steward, packages) as users:
        yield users


@pytest.mark.parametrize("name", NAMES)
def test_whoever_builds_the_source_has_the_same_package(name, tmp_path):
    first = built(name, tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "elsewhere" / "examples")
    (tmp_path / "again").mkdir()
    # Tokens and keys, which are made once.
    for secret in tmp_path.glob(f"{name}.*"):
        shutil.copy(secret, tmp_path / "again")
    again = built(name, tmp_path / "again", source=tmp_path / "elsewhere/examples/services")
    assert digest_of(again) == digest_of(first)


@pytest.mark.parametrize("name", NAMES)
def test_a_built_folder_is_a_package(enarx, name, packages, tmp_path):
    ended = enarx.command("package", "build", packages[name].path, "--output", tmp_path / "made.tar")
    assert ended.status == 0, ended.stderr
    assert packages[name].digest.hex().encode() in ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_service_has_a_policy_that_can_be_used(enarx, name):
    ended = enarx.command("policy", "check", SERVICES / name / "policy.toml")
    assert ended.status == 0, ended.stderr
    assert b"warning" not in ended.stdout


# --- The key manager -----------------------------------------------------------------------------------------------------


@pytest.fixture
def token(packages):
    return packages["key-manager"].token


@pytest.fixture
def make(keys, token):
    """Return a function that makes a key; those it made are deleted in the end."""
    made = []

    def make_one(kind):
        status, key = keys.ask("POST", "/keys", json.dumps({"kind": kind}), token=token)
        assert status == 201, key
        made.append(key["id"])
        return key

    yield make_one
    for each in made:
        keys.ask("DELETE", f"/keys/{each}", token=token)


def sign(keys, key, message, token, *, how="sign"):
    status, answer = keys.ask("POST", f"/keys/{key['id']}/{how}", message, token=token)
    assert status == 200, answer
    return base64.b64decode(answer["signature"], validate=True)


def verify(key, signature, message, algorithm=hashes.SHA256()):  # noqa: B008 - a constant
    public = load_pem_public_key(key["public_key"].encode())
    if key["kind"] == "ed25519":
        assert isinstance(public, ed25519.Ed25519PublicKey)
        public.verify(signature, message)
    else:
        assert isinstance(public.curve, ec.SECP256R1)
        public.verify(signature, message, ec.ECDSA(algorithm))


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_key_of_the_keep_signs_what_it_is_told_and_nothing_else(keys, make, token, kind):
    key, other = make(kind), make(kind)
    assert key["kind"] == kind
    for message in (b"pay 10 to Ann", b"", bytes(64 << 10)):
        signature = sign(keys, key, message, token)
        verify(key, signature, message)
        for wrong in ((key, message + b"0"), (other, message)):
            with pytest.raises(InvalidSignature):
                verify(wrong[0], signature, wrong[1])
    assert keys.ask("GET", f"/keys/{key['id']}", token=token) == (200, key)
    status, listed = keys.ask("GET", "/keys", token=token)
    assert status == 200
    assert listed["keys"] == sorted((key, other), key=lambda each: each["id"])


def test_a_digest_is_signed_as_it_is_by_ecdsa_alone(keys, make, token):
    key = make("p256")
    digest = hashlib.sha256(b"a large file").digest()
    signature = sign(keys, key, digest, token, how="sign-digest")
    verify(key, signature, b"a large file")
    verify(key, signature, digest, utils.Prehashed(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        verify(key, signature, b"another large file")
    for of, wrong in ((key, digest[:-1]), (key, digest + b"0"), (make("ed25519"), digest)):
        status, answer = keys.ask("POST", f"/keys/{of['id']}/sign-digest", wrong, token=token)
        assert (status, "SHA-256" in answer["error"]) == (400, True)


def test_only_the_token_opens_anything(keys, make, token):
    key = make("ed25519")
    one = f"/keys/{key['id']}"
    asked = [("GET", "/keys"), ("GET", one), ("POST", "/keys"), ("POST", f"{one}/sign"), ("DELETE", one), ("GET", "/")]
    digest = hashlib.sha256(token.encode()).hexdigest()
    for (method, path), wrong in itertools.product(asked, (None, token[:-1], token + "0", "0" * 64, digest)):
        status, answer = keys.ask(method, path, b"{}" if method == "POST" else None, token=wrong)
        assert (status, list(answer)) == (401, ["error"]), path
    assert keys.ask("GET", one, token=token) == (200, key)


def test_what_is_too_large_or_is_not_there_is_refused(keys, make, token):
    key = make("p256")
    one = f"/keys/{key['id']}"
    assert keys.ask("POST", f"{one}/sign", bytes((64 << 10) + 1), token=token)[0] == 413
    assert keys.ask("POST", "/keys", b" " * 2000, token=token)[0] == 413
    for wrong in (b"", b"[]", b'{"kind": "rsa"}', b"{}", b'{"kind": 1}', b"\xff"):
        assert keys.ask("POST", "/keys", wrong, token=token)[0] == 400, wrong
    for path in ("/keys/0", "/keys/" + "0" * 32, f"{one}0"):
        assert keys.ask("GET", path, token=token)[0] == 404
        assert keys.ask("POST", f"{path}/sign", b"m", token=token)[0] == 404
    assert keys.ask("PUT", one, b"", token=token)[0] == 405


def test_a_deleted_key_signs_no_more_and_there_is_room_for_64(keys, make, token):
    gone = make("ed25519")
    for _ in range(63):
        make("ed25519")
    status, answer = keys.ask("POST", "/keys", b'{"kind": "p256"}', token=token)
    assert (status, answer) == (507, {"error": "no room for another key: delete one"})
    assert keys.ask("DELETE", f"/keys/{gone['id']}", token=token) == (204, b"")
    assert keys.ask("POST", f"/keys/{gone['id']}/sign", b"m", token=token)[0] == 404
    assert keys.ask("DELETE", f"/keys/{gone['id']}", token=token)[0] == 404
    make("p256")


@pytest.mark.parametrize("digest", ["", "@TOKEN_SHA256@", "00"])
def test_without_the_digest_of_a_token_it_does_not_start(enarx, packages, digest):
    ended = enarx.run(packages["key-manager"].path, "--env", f"TOKEN_SHA256={digest}", timeout_s=START_S)
    assert (ended.status, ended.stdout) == (1, b"")
    assert "TOKEN_SHA256: want the SHA-256 of the callers' token" in ended.stderr


def test_callers_who_say_nothing_stop_nobody_for_long(keys, token):
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            peer = stack.enter_context(socket.create_connection((NAME, keys.port), PEER_S))
            stack.enter_context(keys.context.wrap_socket(peer, server_hostname=NAME)).sendall(b"GET / HTTP")
        assert keys.ask("GET", "/keys", token=token)[0] == 200


def private_keys_in(content, publics):
    """Return those public keys, in DER, whose private key is in some bytes: as they are, or where they hold base64 or hexadecimal."""
    # JSON writes the ends of lines in a PEM as a backslash and a letter.
    text = content.replace(b"\\n", b"")
    forms = {content}
    for run in re.findall(rb"[A-Za-z0-9+/]{32,}", text + b" " + text.translate(bytes.maketrans(b"-_", b"+/"))):
        for at in range(4):
            digits = run[at : len(run) - ((len(run) - at) % 4 == 1)]
            forms.add(base64.b64decode(digits + b"=" * (-len(digits) % 4)))
    for run in re.findall(rb"[0-9A-Fa-f]{64,}", text):
        forms |= {bytes.fromhex(run[at : at + (len(run) - at) // 2 * 2].decode()) for at in range(2)}
    windows = {form[at : at + 32] for form in forms for at in range(len(form) - 31)}
    found = set()
    for window in windows:
        with contextlib.suppress(ValueError):
            found.add(public_of(ec.derive_private_key(int.from_bytes(window, "big"), ec.SECP256R1())))
        found.add(public_of(ed25519.Ed25519PrivateKey.from_private_bytes(window)))
    return found & publics


def public_of(private):
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_private_key_in_an_answer_would_be_found(kind):
    """The control of the test below."""
    private = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else ed25519.Ed25519PrivateKey.generate()
    public = public_of(private)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    raw = private.private_numbers().private_value.to_bytes(32, "big") if kind == "p256" else private.private_bytes_raw()
    for content in (
        json.dumps({"key": pem.decode()}).encode(),
        b"-" + raw + b"-",
        raw.hex().encode(),
        base64.b64encode(raw),
    ):
        assert private_keys_in(content, {public}) == {public}
    assert private_keys_in(json.dumps({"key": public.hex()}).encode(), {public}) == set()


def test_no_answer_has_a_private_key_and_the_host_has_no_token(keys, make, token, between):
    begin = len(keys.told)
    made = [make(kind) for kind in ("p256", "ed25519")]
    for key, method in itertools.product(made, ("GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS")):
        for end in ("", "/", "/private", "/export", "/sign", "/sign-digest", "/../../proc/self/environ"):
            keys.ask(method, f"/keys/{key['id']}{end}", b"" if method == "POST" else None, token=token)
    for path in ("/", "/keys", "/debug/pprof/", "/debug/vars", "/main.wasm"):
        keys.ask("GET", path, token=token)
    publics = {
        load_pem_public_key(key["public_key"].encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in made
    }
    told = set(keys.told[begin:])
    assert any(b"PUBLIC KEY" in each for each in told)
    assert not any(b"PRIVATE" in each for each in told)
    assert not any(private_keys_in(each, publics) for each in told)
    places = everything(between)
    assert any(places.values())
    require_nowhere({"token": token}, places)


def test_a_stranger_cannot_pose_as_the_service(keys, packages, steward):
    """Whoever wants another package, or trusts the public authorities, sends nothing."""
    for context in (keep_context(steward, bytes(32)), ssl.create_default_context()):
        with pytest.raises(ssl.SSLCertVerificationError):
            Users(keys.port, context).ask("GET", "/keys")


@pytest.mark.skipif(shutil.which("curl") is None, reason="install curl")
def test_curl_uses_it_as_the_page_says(keys, steward, token):
    url = f"https://{NAME}:{keys.port}/keys"
    command = ["curl", "-sS", "--noproxy", "*", "--cacert", steward.root, "-H", f"Authorization: Bearer {token}"]
    answer = subprocess.run([*command, url], capture_output=True, timeout=PEER_S, check=True)
    assert "keys" in json.loads(answer.stdout)
    # Without the root, nobody is believed.
    refused = subprocess.run(["curl", "-sS", "--noproxy", "*", url], capture_output=True, timeout=PEER_S, check=False)
    assert (refused.returncode, refused.stdout) == (60, b"")


# --- The word game -------------------------------------------------------------------------------------------------------

WORDS = re.findall(r'"([a-z]{6})"', (SERVICES / "word-game/words.rs").read_text())
GUESSED = re.compile(rb"round (\d+): ([+?.]{6})( guessed! another word is hidden)? *\n")


def hints(guess, word):
    """Say what the service should, by counting."""
    left = Counter(word) - Counter(letter for letter, other in zip(word, guess, strict=True) if letter == other)
    said = ""
    for letter, other in zip(guess, word, strict=True):
        if letter == other:
            said += "+"
        elif left[letter]:
            left[letter] -= 1
            said += "?"
        else:
            said += "."
    return said


def guess(users, word):
    """Guess, as often as it takes until it is allowed; return the round, the hints, and whether that was it."""

    def answered():
        status, body = users.ask("POST", "/guess", f"word={word}")
        assert status in {200, 429}, body
        return (body,) if status == 200 else None

    (body,) = until(answered, "a guess to be allowed")
    assert len(body) == 64
    said = GUESSED.fullmatch(body)
    assert said, body
    return int(said[1]), said[2].decode(), bool(said[3])


def best(candidates):
    """Return the word whose hints tell the candidates apart best."""
    return min(WORDS, key=lambda word: max(Counter(hints(word, each) for each in candidates).values()))


def find(users):
    """Find the hidden word by hints, without guessing it if that can be; return the round, and the candidates that are left."""
    candidates = list(WORDS)
    while len(candidates) > 1:
        word = best(candidates)
        number, said, hit = guess(users, word)
        if hit:
            return number, None
        candidates = [each for each in candidates if hints(word, each) == said]
        assert candidates
    return number, candidates[0]


def test_there_are_256_words():
    assert len(WORDS) == len(set(WORDS)) == 256


def test_the_hidden_word_is_found_by_hints_and_nowhere_else(game, between):
    status, page = game.ask("GET", "/")
    assert (status, b"A word of six letters is hidden" in page) == (200, True)
    found = []
    while len(found) < 2:
        number, word = find(game)
        if word is None:
            continue
        places = {**everything(between), **titles(processes(between))}
        assert any(re.search("/blobs/[0-9a-f]{64}$", name) for name in places)
        require_nowhere({"word": word}, places)
        wrong = next(each for each in WORDS if each != word)
        assert guess(game, wrong) == (number, hints(wrong, word), False)
        assert guess(game, word.upper()) == (number, "++++++", True)
        require_nowhere({"word": word}, everything(between))
        found.append(number)
        # It is another round; the old word is one of 256 again.
        assert guess(game, wrong)[0] in {number + 1, number + 2}
    assert found[1] > found[0]


def test_a_guess_in_plain_text_is_found_by_the_same_search(tenant, packages, between):
    """The control of the test above: here the tenant allowed the host to see and change what passes."""
    options = ("--listen", "web=tcp:0", "--allow-plaintext", "web")
    with (
        deployed(tenant, "word-game", packages["word-game"].path, *options) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PEER_S)) as connection,
    ):
        connection.request("POST", "/guess", "word=qwvxjq")
        assert GUESSED.fullmatch(connection.getresponse().read())
    assert {place.partition(" ")[0] for place, _ in search("qwvxjq", everything(between))} == {"link"}


def test_hints_know_letters_that_are_there_twice():
    """The control of the test's own hints: as players know them."""
    assert hints("rabbit", "rabbit") == "++++++"
    assert hints("puppet", "supper") == ".++++."
    assert hints("bubble", "rabbit") == "..++.."
    assert hints("beaver", "breeze") == "+?..??"


def test_guesses_are_limited_for_everybody_together(game):
    began = time.monotonic()
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: game.ask("POST", "/guess", "word=qqqqqq"), range(120)))
    periods = (time.monotonic() - began) / 4 + 1
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 429}
    assert 0 < statuses[200] <= 20 * periods
    assert statuses[429] or periods > 6, "as slow as it was, nobody was refused rightly"
    assert guess(game, "qqqqqq")[1] == "......"


def test_what_is_no_guess_is_refused_and_not_counted(game):
    for body in (
        "",
        "word=",
        "word=abc",
        "word=abcdefg",
        "word=abc1ef",
        "guess=planet",
        b"word=\xff\xff\xff\xff\xff\xff",
    ):
        status, said = game.ask("POST", "/guess", body)
        assert (status, said) == (400, b"want word= and six letters from a to z\n"), body
    assert game.ask("GET", "/guess")[0] == 405
    assert game.ask("GET", "/word")[0] == 404
    assert game.ask("POST", "/guess", bytes(5000))[0] == 413
    for garbage in (b"\r\n\r\n", b"\xff\xff\r\n\r\n", b"GET\r\n\r\n", b"POST /guess HTTP/1.1\r\n\r\n"):
        with socket.create_connection((NAME, game.port), PEER_S) as peer:
            secure = game.context.wrap_socket(peer, server_hostname=NAME)
            secure.sendall(garbage)
            assert secure.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n"), garbage
            secure.close()


def test_players_who_say_nothing_stop_nobody_for_long(game):
    with contextlib.ExitStack() as stack:
        for _ in range(70):
            peer = stack.enter_context(socket.create_connection((NAME, game.port), PEER_S))
            stack.enter_context(game.context.wrap_socket(peer, server_hostname=NAME)).sendall(b"GET / HTTP")
        assert game.ask("GET", "/")[0] == 200


def test_without_a_steward_the_package_is_judged_by_its_evidence(enarx, tenant, packages):
    package = packages["word-game"]
    with deployed(tenant, "word-game", package.path) as port:

        def connect(*options):
            address = f"{NAME}:{port}"
            return enarx.command("attest", "connect", address, EMULATED, "--offline", "--accept-key-only", *options)

        accepted = connect(f"--package={package.digest.hex()}")
        assert accepted.status == 0, accepted.stderr
        assert connect(f"--package={bytes(32).hex()}").status == 105


def test_a_changed_module_is_another_package_and_gets_no_name(tenant, steward, packages, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(packages["word-game"].path, changed)
    module = (changed / "main.wasm").read_bytes()
    # Another word is never hidden: what a tenant who cheats might do.
    assert module.count(WORDS[0].encode()) == 1
    (changed / "main.wasm").write_bytes(module.replace(WORDS[0].encode(), WORDS[1].encode()))
    assert digest_of(changed) != packages["word-game"].digest
    ended = tenant.deploy("--policy", SERVICES / "word-game/policy.toml", *named(steward), changed)
    assert 104 <= ended.status <= 107
    assert "no grant names this Keep" in ended.stderr


# --- The log -------------------------------------------------------------------------------------------------------------


def root_of(entries):
    """Return the root of RFC 9162, 2.1.1, layer by layer: a node without a neighbour goes up as it is."""
    layer = [hash_of_leaf(entry) for entry in entries] or [hashlib.sha256(b"").digest()]
    while len(layer) > 1:
        pairs = itertools.zip_longest(layer[::2], layer[1::2])
        layer = [left if right is None else hash_of_node(left, right) for left, right in pairs]
    return layer[0]


def included(leaf, index, size, proof, root):
    return is_shown(verify_inclusion, leaf, index, size, proof, root)


def consistent(first, second, proof, first_root, second_root):
    return is_shown(verify_consistency, first, second, first_root, second_root, proof)


def is_shown(verify, *arguments):
    """Say whether the Steward's verifier, which has nothing of the service's, takes a proof."""
    try:
        verify(*arguments)
    except VerificationError:
        return False
    return True


def unwrapped(hashes_in_base64):
    return [base64.b64decode(each, validate=True) for each in hashes_in_base64]


def check_head(public, head):
    """Verify the signature of a head; return its root."""
    said = f"log-service head\n{head['size']}\n{head['root']}\n".encode()
    public.verify(base64.b64decode(head["signature"], validate=True), said)
    return base64.b64decode(head["root"], validate=True)


@pytest.fixture(scope="module")
def public(log):
    status, pem = log.ask("GET", "/key")
    assert status == 200
    found = load_pem_public_key(pem)
    assert isinstance(found, ed25519.Ed25519PublicKey)
    return found


@pytest.fixture(scope="module")
def entries(log, public, packages):
    """What is in the log: entries that were appended, each answer checked; and the root at each size."""
    token = packages["log-service"].token
    canary = make_canary()
    special = {5: b"", 7: canary.encode()}
    assert check_head(public, log.ask("GET", "/head")[1]) == root_of([])
    appended, roots = [], [root_of([])]
    with log.connect() as connection:
        for number in range(21):
            entry = special.get(number, b"entry %d" % number)
            status, answer = log.ask("POST", "/entries", entry, token=token, on=connection)
            assert (status, answer["index"], answer["head"]["size"]) == (201, number, number + 1)
            appended.append(entry)
            root = check_head(public, answer["head"])
            assert root == root_of(appended)
            assert included(hash_of_leaf(entry), number, number + 1, unwrapped(answer["proof"]), root)
            roots.append(root)
    return SimpleNamespace(all=appended, roots=roots, canary=canary)


def proof_of(log, path, connection):
    status, answer = log.ask("GET", f"/proof/{path}", on=connection)
    assert status == 200, answer
    return unwrapped(answer["proof"])


def test_every_entry_is_proven_and_no_other_is(log, entries):
    with log.connect() as connection:
        for size in range(1, len(entries.all) + 1):
            root = entries.roots[size]
            for index in range(size):
                proof = proof_of(log, f"inclusion?index={index}&size={size}", connection)
                leaf = hash_of_leaf(entries.all[index])
                assert included(leaf, index, size, proof, root)
                # Something else was never at this place, nor this at another, nor in another log.
                assert not included(hash_of_leaf(entries.all[index] + b"."), index, size, proof, root)
                assert not included(leaf, (index + 1) % size, size, proof, root) or size == 1
                assert not included(leaf, index, size, proof, entries.roots[size - 1])
        for index, entry in enumerate(entries.all):
            assert log.ask("GET", f"/entries/{index}", on=connection) == (200, entry)


def test_every_head_goes_on_from_those_before(log, entries, public):
    assert check_head(public, log.ask("GET", "/head")[1]) == entries.roots[-1]
    with log.connect() as connection:
        for first, second in itertools.combinations_with_replacement(range(1, len(entries.all) + 1), 2):
            proof = proof_of(log, f"consistency?from={first}&to={second}", connection)
            assert consistent(first, second, proof, entries.roots[first], entries.roots[second])
            if first < second:
                assert not consistent(first, second, proof, entries.roots[first - 1], entries.roots[second])
                assert not consistent(first, second, proof, entries.roots[first], entries.roots[second - 1])


@pytest.mark.parametrize("what", ["changed", "dropped", "swapped"])
def test_an_entry_that_is_changed_or_dropped_is_noticed(log, entries, public, what):
    """Whoever kept a head of 8 entries is shown a log of which one of these is another, with a true proof of the true log."""
    forged = list(entries.all)
    if what == "changed":
        forged[3] += b"!"
    elif what == "dropped":
        del forged[3]
    else:
        forged[3], forged[4] = forged[4], forged[3]
    size = len(forged)
    with log.connect() as connection:
        proof = proof_of(log, f"consistency?from=8&to={size}", connection)
        assert consistent(8, size, proof, entries.roots[8], entries.roots[size])
        assert not consistent(8, size, proof, entries.roots[8], root_of(forged))
        if what != "dropped":
            inclusion = proof_of(log, f"inclusion?index=3&size={size}", connection)
            assert not included(hash_of_leaf(forged[3]), 3, size, inclusion, entries.roots[size])
    # Nor does the key sign what the log is not.
    head = log.ask("GET", "/head")[1]
    with pytest.raises(InvalidSignature):
        check_head(public, {**head, "root": base64.b64encode(root_of(forged)).decode()})
    with pytest.raises(InvalidSignature):
        check_head(public, {**head, "size": head["size"] - 1})


def test_what_is_no_entry_or_no_proof_is_refused_and_leaves_the_log_as_it_was(log, entries, packages):
    token = packages["log-service"].token
    for wrong in (None, token[:-1], token + "0", hashlib.sha256(token.encode()).hexdigest()):
        assert log.ask("POST", "/entries", b"x", token=wrong)[0] == 401
    assert log.ask("POST", "/entries", bytes((16 << 10) + 1), token=token)[0] == 413
    size = len(entries.all)
    for query in (
        "inclusion",
        "inclusion?index=0&size=0",
        f"inclusion?index={size}&size={size}",
        f"inclusion?index=0&size={size + 1}",
        "inclusion?index=-1&size=2",
        "inclusion?index=0x1&size=2",
        "consistency",
        "consistency?from=0&to=2",
        "consistency?from=3&to=2",
        f"consistency?from=1&to={size + 1}",
        f"consistency?from=1&to={10**30}",
    ):
        status, answer = log.ask("GET", f"/proof/{query}")
        assert (status, list(answer)) == (400, ["error"]), query
    assert log.ask("GET", f"/entries/{size}")[0] == 404
    assert log.ask("DELETE", "/entries/0", token=token)[0] == 405
    assert log.ask("PUT", "/entries/0", b"x", token=token)[0] == 405
    assert log.ask("GET", "/head")[1]["size"] == size


def test_the_host_sees_neither_entries_nor_the_token(log, entries, packages, between):
    require_nowhere({"entry": entries.canary, "token": packages["log-service"].token}, everything(between))


def test_another_keep_of_the_package_has_another_log(tenant, steward, packages, entries, public):
    """Whoever is led to it sees a valid certificate, and by the key that it is not the log that he knows."""
    with used("log-service", tenant, steward, packages) as users:
        head = users.ask("GET", "/head")[1]
        assert head["size"] == 0
        assert check_head(load_pem_public_key(users.ask("GET", "/key")[1]), head) == root_of([])
        with pytest.raises(InvalidSignature):
            check_head(public, head)


def test_a_full_log_takes_no_more_and_proves_what_it_has(tenant, steward, packages):
    with used("log-service", tenant, steward, packages) as users, users.connect() as connection:
        token = packages["log-service"].token
        entry = bytes(16 << 10)
        for _ in range((64 << 20) // len(entry)):
            status, answer = users.ask("POST", "/entries", entry, token=token, on=connection)
            assert status == 201, answer
        full = (507, {"error": "the log is full"})
        assert users.ask("POST", "/entries", b"x", token=token, on=connection) == full
        status, head = users.ask("GET", "/head", on=connection)
        assert head == answer["head"]
        proof = proof_of(users, f"inclusion?index=1000&size={head['size']}", connection)
        assert included(hash_of_leaf(entry), 1000, head["size"], proof, base64.b64decode(head["root"]))
