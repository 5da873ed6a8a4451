# SPDX-License-Identifier: Apache-2.0
"""The try-it page in a real browser: Chromium, driven through its DevTools protocol, by what a visitor sees and clicks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time

import httpx2
import pytest
from websockets.sync.client import connect

from tests.integration.test_playground import PlaygroundProcess

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WAIT_S = 60.0
# No sandbox, because tests may run as root; and nothing that a browser does of its own accord on a network.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip
MARKUP = "<img src=x onerror=alert(1)>"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Browser:
    """One page of a browser.

    Args:
        folder: for its profile.
    """

    def __init__(self, folder):
        program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("Chromium is not installed; make slow-tools, as root")
        self.problems = []
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()
        self._child = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "HOME": str(folder)}, start_new_session=True,
        )  # fmt: skip
        try:
            self._socket = self._attach()
            for domain in ("Page", "Runtime", "Log", "DOM"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _attach(self):
        for line in self._child.stderr:
            if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                break
        else:
            pytest.fail("the browser ended without saying where its DevTools are")
        with httpx2.Client(trust_env=False, timeout=WAIT_S) as client:
            (page,) = [each for each in client.get(f"http://{found[1]}/json").json() if each["type"] == "page"]
        return self._stack.enter_context(connect(page["webSocketDebuggerUrl"], max_size=1 << 24, proxy=None))

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            found = json.loads(self._socket.recv(WAIT_S))
            if found.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"}:
                self.problems.append(found["params"])
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector):
        """Return the text that a visitor sees there."""
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def until(self, expression):
        end = time.monotonic() + WAIT_S
        while not self.value(expression):
            assert time.monotonic() < end, f"not so in time: {expression}; the page: {self.text('body')!r}"

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && document.querySelectorAll('#choice option').length > 1")

    def choose(self, name):
        self.value(
            "(() => { const choice = document.querySelector('#choice');"
            f" choice.value = [...choice.options].find((each) => each.text === {json.dumps(name)}).value;"
            " choice.dispatchEvent(new Event('change')); })()"
        )

    def fill(self, selector, text):
        self.value(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    def give_file(self, selector, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def click(self, selector):
        """Press and release the mouse where a visitor would."""
        x, y = self.value(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); found.scrollIntoView();"
            " const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def run(self):
        """Click on Run, and wait for the end."""
        self.value("document.querySelector('#end').textContent = ''")
        self.click("#run")
        self.until("document.querySelector('#end').textContent !== '' && !document.querySelector('#run').disabled")

    def close(self):
        # Debian's command is a shell that waits for the browser.
        os.killpg(self._child.pid, signal.SIGKILL)
        self._stack.close()
        self._child.wait(WAIT_S)
        self._child.stderr.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with PlaygroundProcess(folder / "tmp", "--insecure-accept-emulated", "--timeout", "30s") as page:
        yield page


@pytest.fixture
def browser(service, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(service.url)
        yield browser
        assert browser.problems == []
    finally:
        browser.close()


def test_a_visitor_runs_an_example_and_sees_output_and_verdict(browser):
    assert "Emulated." in browser.text("header")
    browser.choose("shout")
    assert "small letters as large ones" in browser.text("#about")
    browser.fill("#stdin", "said quietly")
    browser.run()
    assert browser.text("#output") == "SAID QUIETLY"
    assert browser.text("#verdict").startswith("Accepted, and EMULATED: nothing protects this Keep from its host")
    assert browser.text("#end").startswith("ended with status 0")
    browser.click("#findings summary")
    assert "passed" in browser.text("#findings tbody")
    assert browser.value("document.querySelectorAll('#findings tbody tr').length") > 20


def test_a_visitor_runs_a_module_of_his_and_stops_it(browser, tmp_path):
    text = MARKUP + "\\n"
    module = tmp_path / "mine.wat"
    module.write_text(
        '(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        f' (memory (export "memory") 1) (data (i32.const 16) "{text}")'
        ' (func (export "_start") (i32.store (i32.const 0) (i32.const 16))'
        f" (i32.store (i32.const 4) (i32.const {len(MARKUP) + 1}))"
        " (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (loop (br 0))))"
    )
    browser.choose("a module of yours")
    browser.give_file("#module", module)
    browser.click("#run")
    # Its markup is text, and the end of it.
    browser.until(f"document.querySelector('#output').innerText.includes({json.dumps(MARKUP)})")
    assert browser.value("document.querySelectorAll('#output img').length") == 0
    assert browser.value("document.querySelector('#run').disabled") is True
    browser.click("#stop")
    browser.until("!document.querySelector('#run').disabled")
    assert "stopped" in browser.text("#end")


def test_a_visitor_is_told_what_is_wrong(browser, tmp_path):
    browser.choose("a module of yours")
    browser.run()
    assert "found no module, want a .wasm or .wat file" in browser.text("#end")
    module = tmp_path / "mine.wasm"
    module.write_bytes(b"\0asm\x01\0\0\0")
    browser.give_file("#module", module)
    browser.fill("#config", '[[dirs]]\nhost = "/etc"\nguest = "/etc"\n')
    browser.run()
    assert "found a directory, want a workload that needs nobody else" in browser.text("#end")
    # The browser's own log has the answer's status, and nothing else.
    assert [problem["entry"]["source"] for problem in browser.problems] == ["network"]
    browser.problems.clear()


def test_a_trap_is_shown_with_who_called_whom(browser):
    browser.choose("trap")
    browser.run()
    assert "look_beyond_its_memory" in browser.text("#end")
    assert browser.text("#end").startswith("ended with status 134")
