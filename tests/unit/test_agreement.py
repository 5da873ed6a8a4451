# SPDX-License-Identifier: Apache-2.0
"""What is written in two places, because a shared import would cross layers or cost time at every start, is the same in both."""

from __future__ import annotations

import re
from typing import get_args

from enarx import attester, host
from enarx.channel import frames, tls
from enarx.cli import attest, load, run
from enarx.cli import host as host_command
from enarx.host import models, service
from enarx.host.fleet import HostLimits
from enarx.keep import options
from enarx.serving import logs
from enarx.verifier import keep_evidence
from enarx.wire import receipt_file, session


def test_backends():
    assert ("auto", *host.BACKENDS) == run.BACKENDS
    assert get_args(models.Backend) == host.BACKENDS
    assert set(options.BACKENDS) == set(host.BACKENDS)
    assert set(session._BACKENDS) == {*host.BACKENDS, *attester.BACKENDS}


def test_what_a_host_has_if_nothing_is_said():
    command = load("host serve")
    limits = host_command._options(command.parse(["--state", "/s"])).limits
    usual = HostLimits(memory_bytes=limits.memory_bytes)
    assert limits == usual
    said = {option.name: option.summary for option in command.options}
    for name, found in (
        ("max-keeps", f"{usual.keeps}"),
        ("max-disk", f"{usual.disk_bytes >> 30} GiB"),
        ("max-package", f"{usual.package_bytes >> 20} MiB"),
        ("keep-log", f"{usual.log_bytes >> 20} MiB"),
        ("ports", "{}-{}".format(*usual.ports)),
    ):
        assert re.search(rf"\b{found} if not given", said[name]), name


def test_what_a_host_can_be_told():
    choices = {option.name: option.choices for option in load("host serve").options}
    assert choices["drain"] == service.DRAINS
    assert set(choices["log-format"]) == set(logs.FORMS)


def test_sizes():
    assert attest._MAX_RECEIPT_BYTES == receipt_file.MAX_RECEIPT_BYTES
    assert tls._MAX_LEAF_BYTES == receipt_file._MAX_LEAF_BYTES
    assert models.MAX_PORT_NAME_BYTES == frames._MAX_NAME_BYTES


def test_the_checks_that_evidence_is_fresh():
    assert attest._FRESHNESS == keep_evidence.BINDING
