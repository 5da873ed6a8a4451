# SPDX-License-Identifier: Apache-2.0
"""The analytics of examples/services: two parties hand their files in to a Keep, and learn what the groups have in common, and no row.

The parties are processes that run the example's own `party.py`; whoever is between them and the Keep records everything. What they
are told is compared with what a few lines here find in both files. What cannot be used is refused by the program in the Keep once,
and by the same source on this machine in all its kinds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest

from enarx.deploy.naming import load_tenant_key, tenant_digest
from tests.canary import make_canary, search
from tests.integration.test_deploy import EMULATED
from tests.integration.test_deploy_canary import everything, processes, require_nowhere, titles
from tests.service_examples import (
    EXAMPLES,
    NAME,
    PEER_S,
    SERVICES,
    START_S,
    built,
    change,
    digest_of,
    keep_context,
    named,
    world,
)
from tests.steward_processes import TOP

FOLDER = SERVICES / "analytics"
LEAST = 5
LARGEST = 100_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def load(name):
    """Load a program of the example, without running it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


analytics = load("analytics")


def csv_of(party, rows):
    lines = [",".join(analytics.HEADERS[party]), *(f"{key},{field}" for key, field in rows.items())]
    return "\n".join(lines).encode() + b"\n"


def recomputed(groups, values, least=LEAST):
    """Return what the parties should be told, by lists and without the example's code."""
    members = defaultdict(list)
    for key in groups.keys() & values.keys():
        members[groups[key]].append(values[key])
    lines = [f"{group},{len(each)},{sum(each)}\n" for group, each in members.items() if len(each) >= least]
    return "group,members,sum\n" + "".join(sorted(lines))


@pytest.fixture(scope="module")
def rows():
    """Files of both, of people some of whom only one of them knows. All ids are secrets, and the small group's name too."""
    chosen = random.Random(3)
    ids = [make_canary() for _ in range(60)]
    secret_group = make_canary()
    groups = {key: chosen.choice(("north", "south", "east wing")) for key in ids[:50]}
    for key in ids[10:14]:
        groups[key] = secret_group
    return SimpleNamespace(
        groups=groups,
        values={key: chosen.randrange(LARGEST + 1) for key in ids[10:]},
        secrets={**{f"id {at}": key for at, key in enumerate(ids)}, "group": secret_group},
    )


# --- In a Keep -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analytics")
    path = built("analytics", folder)
    change(path, "port = 8443", "port = 0")
    tokens = {party: folder / f"analytics.{party}.token" for party in "ab"}
    return SimpleNamespace(path=path, digest=digest_of(path), tokens=tokens)


def test_a_party_builds_the_same_package_by_the_digest_of_the_others_token(package, tmp_path):
    for party, token in package.tokens.items():
        (tmp_path / f"analytics.{party}.sha256").write_text(hashlib.sha256(token.read_bytes()).hexdigest() + "  -\n")
    shutil.copy(package.tokens["a"], tmp_path)
    path = built("analytics", tmp_path)
    change(path, "port = 8443", "port = 0")
    assert digest_of(path) == package.digest
    assert not (tmp_path / "analytics.b.token").exists()


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("tenant") / "tenant.pem"
    return SimpleNamespace(path=path, digest=tenant_digest(load_tenant_key(str(path))[0]))


@pytest.fixture(scope="module")
def small(guest, tmp_path_factory):
    """Another package, which starts at once: a party does not get as far as to see what it does."""
    path = tmp_path_factory.mktemp("small") / "web-service"
    path.mkdir()
    shutil.copy(guest("web-service"), path / "main.wasm")
    shutil.copy(EXAMPLES / "web-service/Enarx.toml", path)
    change(path, "port = 8443", "port = 0")
    return SimpleNamespace(path=path, digest=digest_of(path))


@pytest.fixture(scope="module")
def around(enarx, guest, package, small, key, tmp_path_factory):
    """A host, and a Steward that grants the name to the package as it is, and to one tenant for another whatever he adds to it."""
    grants = [(package.digest, "any", (NAME,)), (small.digest, key.digest, (NAME,))]
    with world(enarx, guest, tmp_path_factory.mktemp("around"), grants) as running:
        yield running


@contextlib.contextmanager
def started(around, package, *options, says=b"^ready\n"):
    """Deploy a package; gives what runs, and its port."""
    command = ("--policy", FOLDER / "policy.toml", *named(around.steward), *options, package.path)
    with around.tenant.start(*command) as running:
        port = int(running.until_stderr(rb"port (\d+) is web\n", START_S)[1])
        running.until_stdout(says, START_S)
        yield running, port


class Parties:
    """The two parties, each of which runs `party.py` with a file of its own."""

    def __init__(self, folder, steward, port, package):
        self.folder, self.package = folder, package
        self.common = [f"{NAME}:{port}", steward.root]

    def start(self, party, content, *, package=None, token=None):
        """Let a party hand a file in; return its process."""
        path = self.folder / f"{party}.csv"
        path.write_bytes(content)
        digest = self.package.digest if package is None else package
        words = [*self.common, digest.hex(), token or self.package.tokens[party], path, EMULATED]
        return subprocess.Popen(
            [sys.executable, FOLDER / "party.py", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(TOP / "src")},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def end(process):
    """Return the status of a party's process, and what it printed."""
    stdout, stderr = process.communicate(timeout=PEER_S)
    return process.returncode, stdout, stderr


def garbage(port, context, token):
    """Say what is no file, on connections of their own; return the answers."""
    said = {
        "no line": b"x" * 300,
        "no size": token + b"\n",
        "another size": token + b" 1e3\n",
        "too large": token + b" %d\n" % (analytics.MAX_FILE_BYTES + 1),
        "more": token + b" 9\nid,group\nx",
        "less": token + b" 10\nid,group\n",
    }
    answers = {}
    for name, words in said.items():
        with (
            socket.create_connection((NAME, port), PEER_S) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as peer,
        ):
            peer.sendall(words)
            if name == "less":
                continue
            with peer.makefile("rb") as answer:
                answers[name] = answer.read().decode()
    return answers


@pytest.fixture(scope="module")
def used(around, package, rows, tmp_path_factory):
    """What happened in one Keep: to whom is no party, to parties with what cannot be used, and to both with their files."""
    folder = tmp_path_factory.mktemp("parties")
    with started(around, package) as (running, port):
        parties = Parties(folder, around.steward, port, package)
        stranger = folder / "stranger.token"
        stranger.write_text(make_canary())
        good = {"a": csv_of("a", rows.groups), "b": csv_of("b", rows.values)}
        told = SimpleNamespace(
            other_package=end(parties.start("a", good["a"], package=bytes(32))),
            stranger=end(parties.start("a", good["a"], token=stranger)),
            twice=end(parties.start("a", good["a"] + good["a"].splitlines()[3] + b"\n")),
            garbage=garbage(port, keep_context(around.steward, package.digest), package.tokens["a"].read_bytes()),
        )
        first = parties.start("a", csv_of("a", {"somebody": "north"}))
        assert "handed in" in first.stderr.readline()
        second = parties.start("a", good["a"])
        told.replaced = end(first)
        third = parties.start("b", good["b"])
        told.results = {"a": end(second), "b": end(third)}
        told.places = {**everything(around.between), **titles(processes(around.between))}
        told.workload = running.end()
    return told


def test_both_parties_learn_the_same_of_the_groups(used, rows):
    status, result, _ = used.results["a"]
    assert (status, result) == (0, recomputed(rows.groups, rows.values))
    assert used.results["b"][:2] == (0, result)
    assert result.count("\n") == 4


def test_a_group_of_few_is_not_shown_and_neither_is_a_row(used, rows):
    result = used.results["a"][1]
    # There is such a group, and one member more would show it.
    assert recomputed(rows.groups, rows.values, LEAST - 1).count("\n") == 5
    require_nowhere(rows.secrets, {"result": result.encode()})


def test_the_tenant_learns_that_it_is_over_and_the_host_nothing(used, rows, package):
    assert (used.workload.status, used.workload.stdout) == (0, b"ready\ndone\n")
    require_nowhere(rows.secrets, {"stdout": used.workload.stdout, "stderr": used.workload.stderr.encode()})
    tokens = {party: package.tokens[party].read_text() for party in "ab"}
    # Of those whom one party knows, and both, and the small group; the package is large, so not of all.
    some = {name: rows.secrets[name] for name in ("id 0", "id 12", "id 30", "id 59", "group")}
    require_nowhere({**some, **tokens}, used.places)
    assert any(name.startswith("link") and len(data) > 1000 for name, data in used.places.items())


def test_a_row_in_plain_text_is_found_by_the_same_search(rows):
    """The control of the test above."""
    content = csv_of("a", rows.groups)
    assert {place for place, _ in search(rows.secrets["id 3"], {"link": content})} == {"link"}


def test_a_party_sends_nothing_to_another_package(used):
    status, stdout, stderr = used.other_package
    assert (status, stdout) == (105, "")
    assert "service.package failed" in stderr
    assert "handed in" not in stderr


def test_a_party_sends_nothing_where_something_was_added_to_the_package(around, small, package, key, rows, tmp_path):
    """As by a tenant who wants to see groups of three, and gets the name because the Steward's operator trusts him."""
    options = ("--tenant-key", key.path, "--env", "MIN_MEMBERS=3")
    with started(around, small, *options, says=b"") as (running, port):
        parties = Parties(tmp_path, around.steward, port, package)
        status, stdout, stderr = end(parties.start("b", csv_of("b", rows.values), package=small.digest))
        assert running.end(by=signal.SIGINT).status == 130
    assert (status, stdout) == (105, "")
    assert "service.pristine failed" in stderr
    assert "handed in" not in stderr


def test_who_is_no_party_is_refused(used):
    assert used.stranger[:2] == (1, "")
    assert used.stranger[2].endswith("want the token of a party\n")


def test_what_is_no_file_is_refused_and_stops_nobody(used, rows):
    status, stdout, stderr = used.twice
    assert (status, stdout) == (1, "")
    assert stderr.endswith("line 52: want each id once\n")
    require_nowhere(rows.secrets, {"stderr": stderr.encode()})
    words = {
        "no line": "want a line with token and size",
        "no size": "want a file of at most 4194304 bytes",
        "another size": "want a file of at most 4194304 bytes",
        "too large": "want a file of at most 4194304 bytes",
        "more": "found more than the file, want that alone",
    }
    assert used.garbage == {name: f"error {len(text)}\n{text}" for name, text in words.items()}


def test_a_second_file_takes_the_place_of_the_first(used):
    assert used.replaced[:2] == (1, "")
    assert used.replaced[2].endswith("another file of yours has taken the place of this one\n")


# --- By the source -------------------------------------------------------------------------------------------------------

CANARY = make_canary()


@pytest.mark.parametrize(
    ("party", "content", "words"),
    [
        ("a", b"", "line 1: want id,group"),
        ("a", b"\xef\xbb\xbfid,group\n", "line 1: want id,group"),
        ("a", b"id,value\n", "line 1: want id,group"),
        ("a", b"%s,group\n" % CANARY.encode(), "line 1: want id,group"),
        ("a", b"id,group\n\n", "line 2: want 2 fields"),
        ("a", b"id,group\n%s\n" % CANARY.encode(), "line 2: want 2 fields"),
        ("a", b"id,group\nx,y,%s\n" % CANARY.encode(), "line 2: want 2 fields"),
        ("a", b"id,group\nx,y\n,%s\n" % CANARY.encode(), "line 3: want an id of"),
        ("a", b"id,group\n%s!,y\n" % CANARY.encode(), "line 2: want an id of"),
        ("a", b"id,group\n%s,y\n" % (CANARY.encode() * 3), "line 2: want an id of"),
        ("a", b"id,group\nx,\n", "line 2: want a group of"),
        ("a", b"id,group\nx,=%s\n" % CANARY.encode(), "line 2: want a group of"),
        ("a", b'id,group\nx,"a,b"\n', "line 2: want a group of"),
        ("a", b'id,group\nx,"a\nb"\n', "line 3: want a group of"),
        ("a", b'id,group\nx,"%s\n' % CANARY.encode(), "line 2: want fields between commas"),
        ("a", b'id,group\nx,"%s"z\n' % CANARY.encode(), "line 2: want fields between commas"),
        ("a", b"id,group\n\xff%s,y\n" % CANARY.encode(), "want a file in UTF-8"),
        ("a", b"id,group\nx\0%s,y\n" % CANARY.encode(), "line 2: want "),
        ("a", "id,group\n\N{ARABIC-INDIC DIGIT ONE},y\n".encode(), "line 2: want an id of"),
        ("b", b"id,value\nx,1\n%s,2\n%s,2\n" % (CANARY.encode(), CANARY.encode()), "line 4: want each id once"),
        ("b", b"id,value\nx,%s\n" % CANARY.encode(), "line 2: want a whole number from 0 to 100000"),
        *(
            ("b", b"id,value\nx,%s\n" % number, "line 2: want a whole number from 0 to 100000")
            for number in (b"-1", b"100001", b"1e2", b"01", b"1.0", b" 1", b"", b"+1", b"1_0", b"9" * 5000, b"\xd9\xa1")
        ),
    ],
)
def test_a_file_is_refused_without_saying_what_is_in_it(party, content, words):
    with pytest.raises(analytics.RefusedError) as refused:
        analytics.parse(party, content, LARGEST)
    assert str(refused.value).startswith(words)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n"])
def test_a_file_may_have_what_spreadsheets_write(end_of_line):
    content = end_of_line.join(("id,group", '"ann@example.com","north 1"', "b.b+c,-")).encode()
    assert analytics.parse("a", content, LARGEST) == {"ann@example.com": "north 1", "b.b+c": "-"}
    assert analytics.parse("b", f"id,value{end_of_line}x,0{end_of_line}y,100000".encode(), LARGEST) == {
        "x": "0",
        "y": "100000",
    }
    assert analytics.parse("b", b"id,value\n", LARGEST) == {}


@pytest.mark.parametrize("members", [0, 4, 5, 6])
def test_a_group_is_shown_from_the_least_members_on(members):
    groups = {f"p{at}": "few" for at in range(20)} | {f"q{at}": "many" for at in range(20)}
    values = {f"p{at}": "7" for at in range(members)} | {f"q{at}": "1" for at in range(20)} | {"r": "5"}
    shown = f"few,{members},{members * 7}\n" if members >= LEAST else ""
    assert analytics.aggregate(groups, values, LEAST) == f"group,members,sum\n{shown}many,20,20\n"


@pytest.fixture
def configuration(monkeypatch):
    digests = {"A_SHA256": "0a" * 32, "B_SHA256": "0b" * 32}
    for name, value in {**digests, "MIN_MEMBERS": "5", "MAX_VALUE": "100"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_it_is_configured_by_variables(configuration):
    assert analytics.configured() == ({"0a" * 32: "a", "0b" * 32: "b"}, 5, 100)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("A_SHA256", "", "want the SHA-256 of each party's token"),
        ("A_SHA256", "0b" * 32, "want the SHA-256 of each party's token"),
        ("B_SHA256", "@B_SHA256@", "want the SHA-256 of each party's token"),
        ("MIN_MEMBERS", "2", "MIN_MEMBERS: want a number of 3 or more"),
        ("MIN_MEMBERS", "", "MIN_MEMBERS: want a number of 3 or more"),
        ("MAX_VALUE", "many", "MAX_VALUE: want a number of 1 or more"),
    ],
)
def test_without_its_configuration_it_does_not_begin(configuration, name, value, words):
    configuration.setenv(name, value)
    with pytest.raises(SystemExit, match=words):
        analytics.configured()
