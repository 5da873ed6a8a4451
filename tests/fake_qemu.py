# SPDX-License-Identifier: Apache-2.0
"""A QEMU that has no machine, and a swtpm that has no TPM: they take their descriptors, speak QMP, and do what the kernel's file says.

The first word of that file: `boot` says the ready line and echoes what comes over the link; `silent` never says it; `hang` stops
itself after it; `refuse` ends with status 1 and a message; `off` and `panic` end by themselves; `told` ends as by a signal;
`state` is a machine in state internal-error; `noise` says what is no QMP; `flood` fills the console.
"""

import json
import os
import select
import signal
import socket
import sys

LINK, KERNEL, QMP, CONSOLE, TPM = 3, 5, 8, 9, 10


class FakeQemu:
    def __init__(self):
        with open(f"/proc/self/fd/{KERNEL}", encoding="ascii") as file:
            self.does = file.read().strip()
        self.qmp = socket.socket(fileno=QMP)
        self.console = socket.socket(fileno=CONSOLE)
        self.link = socket.socket(fileno=LINK)
        self.state = "running"

    def say(self, **message):
        self.qmp.sendall(json.dumps(message).encode() + b"\r\n")

    def end(self, reason, status=0):
        self.say(event="SHUTDOWN", data={"guest": reason.startswith("guest"), "reason": reason})
        sys.exit(status)

    def run(self):
        if self.does == "refuse":
            sys.stderr.write("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory\n")
            sys.exit(1)
        if self.does == "noise":
            self.qmp.sendall(b"[]\n")
        self.say(QMP={"version": {}, "capabilities": []})
        self.console.sendall(b"BdsDxe: starting Boot0002\r\n")
        if self.does == "off-early":
            self.console.sendall(b"Kernel panic - not syncing: No working init found\r\n")
            self.end("guest-reset")
        if self.does == "flood":
            self.console.sendall(b"x" * (1 << 20))
        if self.does not in {"silent", "noise"}:
            self.console.sendall(b"enarx keep: re")
            self.console.sendall(b"ady\r\n")
        if self.does == "off":
            self.end("guest-shutdown")
        if self.does == "panic":
            self.console.sendall(b"Kernel panic - not syncing: Fatal exception\r\n")
            self.end("guest-reset")
        if self.does == "told":
            self.end("host-signal")
        if self.does == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.does == "state":
            self.state = "internal-error"
            self.say(event="STOP")
        peers = [self.qmp, self.link]
        while True:
            for ready in select.select(peers, [], [])[0]:
                if ready is self.link:
                    peers.append(self.link.accept()[0])
                elif ready is self.qmp:
                    self.answer()
                elif data := ready.recv(65536):
                    ready.sendall(data)
                else:
                    peers.remove(ready)

    def answer(self):
        for line in self.qmp.recv(65536).splitlines():
            command = json.loads(line)["execute"]
            if command == "quit":
                self.say(**{"return": {}})
                self.end("host-qmp-quit")
            status = {"status": self.state, "running": self.state == "running"}
            self.say(**{"return": status if command == "query-status" else {}})


def be_tpm():
    """End when QEMU does, like swtpm with --terminate."""
    socket.socket(fileno=TPM).recv(1)


if __name__ == "__main__":
    be_tpm() if sys.argv[1] == "socket" else FakeQemu().run()
