# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enarx.errors import UsageError
from enarx.keep.options import BACKENDS, Options, parse_options

GIVEN = {"--backend": "nil", "--memory": "1", "--package-limit": "2", "--log": "262144", "--link-fd": "3"}


def words(**changes):
    given = GIVEN | {"--" + name.replace("_", "-"): value for name, value in changes.items()}
    return [word for pair in given.items() for word in pair if pair[1] is not None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_accepts_every_backend(backend):
    assert parse_options(words(backend=backend)) == Options(backend, 1, 2, 262144, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "auto"},
        {"memory": "0"},
        {"memory": "-1"},
        {"memory": "1e3"},
        {"memory": "9" * 40},
        {"log": "262143"},
        {"link_fd": "2"},
        {"other": "1"},
    ],
)
def test_refuses_other_values(changes):
    with pytest.raises(UsageError):
        parse_options(words(**changes))


@pytest.mark.parametrize("name", list(GIVEN))
def test_wants_each_option_once(name):
    with pytest.raises(UsageError, match=name.removeprefix("--")):
        parse_options([word for pair in GIVEN.items() if pair[0] != name for word in pair])
    with pytest.raises(UsageError, match="once"):
        parse_options([*words(), name, GIVEN[name]])
