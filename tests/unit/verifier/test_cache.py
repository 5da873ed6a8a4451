# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest

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
