# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

from enarx.registry.late_import import late_import


def test_a_module_is_loaded_at_its_first_use(tmp_path, monkeypatch):
    (tmp_path / "costly_module.py").write_text("LOADED = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    with late_import("costly_module"):
        import costly_module as module
    assert "costly_module" not in sys.modules
    assert module.LOADED == []
    assert module.LOADED is sys.modules.pop("costly_module").LOADED


def test_what_is_there_stays():
    import json

    with late_import("json"):
        import json as again
    assert again is json
    assert sys.modules["json"] is json


def test_a_registry_session_does_without_jsonschema():
    program = "import sys, enarx.registry.client as c; c; print('jsonschema' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert out.stdout == b"False\n"
