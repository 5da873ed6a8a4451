# SPDX-License-Identifier: Apache-2.0
"""A host that fetches for its Keeps: from registries that its operator allows, within quotas, as the bytes come. Keeps are stubs."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fake_registry import FakeRegistry
from tests.hosting import WAIT_S, HostProcess, create, end_keeps, request, tell

DATA = os.urandom((3 << 20) + 5)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def registry():
    with FakeRegistry() as running:
        running.put(DATA)
        yield running


@pytest.fixture
def host(tmp_path, registry):
    state = tmp_path / "state"
    with HostProcess(state, "--allow-registry", f"{registry.address}/app") as running:
        yield running
    end_keeps(state)


def fetch(host, keep, running, *, digest=DIGEST, **changes):
    body = {"registry": running.address, "repository": "app", "length": len(DATA)} | changes
    return request(host.url, "POST", f"/v1/keeps/{keep}/blobs/{digest}/fetch", body=body)


def refused(answer):
    status, _, body = answer
    return status, body["error"]["class"], body["error"]["message"]


def test_a_blob_is_fetched_whether_the_keep_asks_before_or_after(host, registry):
    keep = create(host.url)[2]["id"]
    with ThreadPoolExecutor(1) as threads:
        before = threads.submit(tell, host.url, keep, {"do": "blob", "digest": DIGEST})
        status, _, body = fetch(host, keep, registry)
        assert (status, body) == (202, {"offset": 0, "length": len(DATA)})
        assert json.loads(before.result(WAIT_S)) == [DIGEST, len(DATA)]
    assert json.loads(tell(host.url, keep, {"do": "blob", "digest": DIGEST})) == [DIGEST, len(DATA)]
    assert len(registry.asked("GET", f"blobs/sha256:{DIGEST}")) == 1


def test_what_the_operator_does_not_allow_is_not_asked(host, registry):
    keep = create(host.url)[2]["id"]
    for change in ({"repository": "other"}, {"registry": "127.0.0.1:1"}, {"registry": "registry.example"}):
        status, kind, message = refused(fetch(host, keep, registry, **change))
        assert (status, kind) == (400, "UsageError")
        assert "operator does not allow" in message
    assert not registry.requests


def test_a_host_without_the_option_fetches_nothing(tmp_path, registry):
    with HostProcess(tmp_path / "state") as plain:
        keep = create(plain.url)[2]["id"]
        assert "operator does not allow" in refused(fetch(plain, keep, registry))[2]
    end_keeps(tmp_path / "state")
    assert not registry.requests


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"length": 1 << 40}, "want at most"),
        ({"length": -1}, "length"),
        ({"repository": "../app"}, ""),
        ({"repository": "app@sha256:" + DIGEST}, ""),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_request_is_refused(host, registry, change, word):
    keep = create(host.url)[2]["id"]
    status, kind, message = refused(fetch(host, keep, registry, **change))
    assert (status, kind) == (400, "UsageError")
    assert word in message
    assert not registry.requests


def test_a_keep_of_nobody_is_fetched_for_by_nobody(host, registry):
    assert refused(fetch(host, "0" * 16, registry))[0] == 404
    assert not registry.requests


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1])
def test_a_keep_hears_of_a_length_that_is_wrong(host, registry, length):
    keep = create(host.url)[2]["id"]
    # Where the registry says so at once, whoever asked is told and can upload it.
    assert refused(fetch(host, keep, registry, length=length))[:2] == (503, "PlatformError")


def test_a_keep_hears_of_what_is_not_there(host, registry):
    keep = create(host.url)[2]["id"]
    assert refused(fetch(host, keep, registry, digest="0" * 64))[:2] == (503, "PlatformError")
    # The stub ends its session where its stream is reset.
    assert tell(host.url, keep, {"do": "blob", "digest": "0" * 64}) == b""


def waiting(registry):
    """Have a registry wait before it answers; return when it does, and what makes it go on."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(_):
        reached.set()
        assert go_on.wait(WAIT_S)
        return False

    registry.behave = wait
    return reached, go_on


def test_one_at_a_time_and_an_upload_can_follow(host, registry):
    keep = create(host.url)[2]["id"]
    reached, go_on = waiting(registry)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(fetch, host, keep, registry)
        assert reached.wait(WAIT_S)
        assert fetch(host, keep, registry)[0] == 423
        headers = {"Upload-Offset": "0", "Upload-Length": str(len(DATA))}
        assert request(host.url, "PATCH", f"/v1/keeps/{keep}/blobs/{DIGEST}", headers=headers, content=DATA)[0] == 423
        go_on.set()
        assert first.result(WAIT_S)[0] == 202
    assert json.loads(tell(host.url, keep, {"do": "blob", "digest": DIGEST})) == [DIGEST, len(DATA)]


def test_an_end_in_the_middle_of_a_fetch_holds_nothing_up(host, registry):
    keep = create(host.url)[2]["id"]
    reached, go_on = waiting(registry)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(fetch, host, keep, registry)
        assert reached.wait(WAIT_S)
        assert request(host.url, "DELETE", f"/v1/keeps/{keep}")[2]["state"] == "ended"
        assert first.result(WAIT_S)[0] == 503
    go_on.set()
    assert request(host.url, "GET", f"/v1/keeps/{keep}")[2]["state"] == "ended"
    assert "bug" not in "".join(host.lines)


def test_a_host_does_not_wait_for_a_silent_registry_when_it_ends(host, registry):
    keep = create(host.url)[2]["id"]
    reached, go_on = waiting(registry)
    try:
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(fetch, host, keep, registry)
            assert reached.wait(WAIT_S)
            assert request(host.url, "DELETE", f"/v1/keeps/{keep}")[2]["state"] == "ended"
            assert first.result(WAIT_S)[0] == 503
        host.child.terminate()
        assert host.child.wait(WAIT_S / 3) == 0
    finally:
        go_on.set()
