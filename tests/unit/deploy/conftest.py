# SPDX-License-Identifier: Apache-2.0
"""One emulated platform for all tests of this folder: making its keys takes seconds."""

from __future__ import annotations

import hashlib

import pytest

from enarx.deploy.policy import TenantPolicy, make_policy
from enarx.deploy.reference import default_policy
from enarx.emulator.installation import Installation, open_installation
from tests.tenants import AT, MEASUREMENT


@pytest.fixture(autouse=True)
def no_images(tmp_path, monkeypatch):
    """No image of whoever runs the tests is in a default policy."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-images"))


@pytest.fixture(scope="package")
def platform(tmp_path_factory) -> Installation:
    return open_installation(str(tmp_path_factory.mktemp("emulated") / "platform"), at=AT)


@pytest.fixture(scope="package")
def root(platform) -> bytes:
    return hashlib.sha256(platform.root).digest()


@pytest.fixture(scope="package")
def policy(root) -> TenantPolicy:
    """A policy that accepts the fake Keep's measurement on this platform."""
    text = default_policy({"test": MEASUREMENT}).text
    return make_policy(text.encode(), name="test", accepted_roots={root})
