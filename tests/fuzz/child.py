# SPDX-License-Identifier: Apache-2.0
"""A child process that answers one JSON line with another, so that what crashes or hangs is not the test."""

from __future__ import annotations

import json
import select
import subprocess
import sys


class Child:
    """The process, started when it is needed and replaced when it is old or dead.

    Args:
        script: what it runs.
        answer_s: how long an answer may take.
        max_lines: after how many it is replaced, or None.
    """

    def __init__(self, script, *, answer_s, max_lines=None):
        self.script = str(script)
        self.answer_s = answer_s
        self.max_lines = max_lines
        self.process = None
        self.lines = 0

    def ask(self, question, about=""):
        """Return the answer; `about` ends the messages of failures."""
        if self.process is None or self.lines == self.max_lines:
            self.stop()
            self.process = subprocess.Popen(
                [sys.executable, self.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.lines = 0
        self.lines += 1
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        if not poll.poll(self.answer_s * 1000):
            self.process.kill()
            self.stop()
            raise AssertionError(f"the process did not answer{about}")
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait(self.answer_s)
            self.stop()
            raise AssertionError(f"the process ended with {status}{about}")
        return json.loads(line)

    def stop(self):
        """End it."""
        process, self.process = self.process, None
        if process is not None:
            process.stdin.close()
            process.wait(self.answer_s)
            process.stdout.close()
