# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest

from enarx.rats import IntelCollateral
from enarx.verifier import TrustCache


def test_computes_once_for_a_key():
    cache, calls = TrustCache(), []
    for _ in range(3):
        assert cache.remember("k", lambda: calls.append(1) or "value") == "value"
    assert calls == [1]


def test_remembers_what_is_false_or_none():
    cache, calls = TrustCache(), []
    for _ in range(2):
        assert cache.remember("k", lambda: calls.append(1)) is None
    assert calls == [1]


def test_does_not_remember_an_error():
    cache = TrustCache()
    with pytest.raises(ZeroDivisionError):
        cache.remember("k", lambda: 1 // 0)
    assert cache.remember("k", lambda: 2) == 2


def test_forgets_the_oldest_when_full():
    cache = TrustCache(max_entries=2)
    for key in range(3):
        cache.remember(key, lambda: "first")
    assert cache.remember(2, lambda: "second") == "first"
    assert cache.remember(0, lambda: "second") == "second"


def test_any_number_of_threads_share_it():
    cache, wrong = TrustCache(max_entries=8), []

    def work():
        for number in range(4000):
            key = number % 32
            if cache.remember(key, lambda key=key: key) != key:
                wrong.append(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_forgets_the_oldest_when_its_keys_are_too_large_together():
    cache = TrustCache(max_bytes=100)
    for key in ((b"a" * 40, frozenset({b""})), (b"b" * 40,), (b"c" * 40,)):
        cache.remember(key, lambda: "first")
    assert cache.remember((b"c" * 40,), lambda: "second") == "first"
    assert cache.remember((b"b" * 40,), lambda: "second") == "first"
    assert cache.remember((b"a" * 40, frozenset({b""})), lambda: "second") == "second"


def test_does_not_remember_what_is_larger_than_it_may_be_itself():
    cache = TrustCache(max_bytes=100)
    cache.remember(b"small", lambda: "first")
    collateral = IntelCollateral(
        tcb_info=b"t" * 60, tcb_info_chain=(b"c" * 60,), qe_identity=b"", qe_identity_chain=(), pck_crl=b"", pck_crl_chain=(), root_ca_crl=b""
    )  # fmt: skip
    assert cache.remember(("intel", collateral), lambda: 1) == 1
    assert cache.remember(("intel", collateral), lambda: 2) == 2
    assert cache.remember(b"small", lambda: "second") == "first"


def test_what_does_not_hold_now_is_computed_again_and_what_was_known_stays():
    cache = TrustCache()
    assert cache.remember("k", lambda: "first") == "first"
    assert cache.remember("k", lambda: "second", holds=lambda known: known != "first") == "second"
    assert cache.remember("k", lambda: "third", holds=lambda known: known == "first") == "first"
