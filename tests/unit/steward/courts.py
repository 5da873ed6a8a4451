# SPDX-License-Identifier: Apache-2.0
"""Rules that can be sent to another process, and what is to be done there."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from functools import partial

from enarx.steward.authority import write_key
from enarx.steward.court import Certifier, Court, Recipe, Rules
from tests.unit.steward.keeps import AT, CONFIGURATION, RESULT_KEY, authority, policy

_PR_GET_DUMPABLE = 3


def make_rules(*, configuration=CONFIGURATION, **policy_lines):
    """Return rules by the policy of all tests, and their recipe."""
    found = policy(**policy_lines)
    recipe = Recipe(
        policy_text=found.text,
        policy_name=found.name,
        accepted_roots=found.accepted_roots,
        configuration=configuration,
        authority=Certifier.of(authority()),
        result_key=write_key(RESULT_KEY),
        original=Certifier.of(authority()),
    )
    return Rules(court=recipe.make(), fetching=None, recipe=recipe)


def certify(request):
    """Return what certifies a Keep."""
    return partial(Court.certify, request=request, now=AT)


def pid_of(_court):
    """Say where this court sits."""
    return os.getpid()


def policy_of(court):
    """Say where it sits, and by which policy it judges."""
    return os.getpid(), court.policy_sha256


def ignored_of(_court):
    """Say whether it can be read by its user, and which signals do not end it."""
    ignored = {number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is signal.SIG_IGN}
    return ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0), ignored


def end(_court):
    """End the process."""
    os._exit(3)


def fail(_court):
    """Have a bug."""
    raise ZeroDivisionError("a bug")


def stop(_court):
    """Answer nothing."""
    os.kill(os.getpid(), signal.SIGSTOP)


def unsendable(_court):
    """Return what cannot be pickled."""
    return threading.Lock()


def unreadable(_court):
    """Return what nobody can make again."""
    return _Unreadable()


class _Unreadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("it cannot be read")
