# SPDX-License-Identifier: Apache-2.0
"""A Keep that proves nothing and runs nothing: it speaks the link, and does what a session tells it in clear text.

Started as the host starts a Keep. A session is a line of JSON, and then: `echo` sends back what comes, `blob` answers with the
SHA-256 and the length of a blob, `outbound` echoes through a connection, `platform` answers a request, `hang` reads nothing,
`break` breaks the link, `stay` does not end when it is asked to and `tidy` does, `exit` ends. What connects to a published port is echoed after the port's name.
"""

import site
import sys

site.main()
sys.path.append(__file__.rsplit("/", 2)[0] + "/src")

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402

from enarx.channel.link import Target, open_link  # noqa: E402
from enarx.errors import TransportError  # noqa: E402


class StubKeep:
    def __init__(self):
        self.link = None
        self.tasks = set()
        self.options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))

    async def run(self):
        listener = socket.socket(fileno=int(self.options["--link-fd"]))
        listener.setblocking(False)
        print("ready", flush=True)
        if self.options["--memory"] == str(111 << 20):
            sys.exit(3)
        if self.options["--memory"] == str(112 << 20):
            await asyncio.Event().wait()
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            try:
                self.link = await open_link(connection, role="keep", accept=self.accept)
            except TransportError:
                continue
            await self.link.wait_closed()

    def accept(self, stream):
        task = asyncio.create_task(self.serve(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, stream):
        try:
            if stream.target.kind == "inbound":
                await stream.write(stream.target.name.encode() + b"\n")
                await self.echo(stream)
                return
            text = b""
            while not text.endswith(b"\n"):
                text += await stream.read(1)
            await self.obey(stream, json.loads(text))
        except TransportError as error:
            print(error, flush=True)
        finally:
            stream.close()

    async def obey(self, stream, command):
        do = command["do"]
        if do == "echo":
            await self.echo(stream)
        elif do == "blob":
            digest, length = hashlib.sha256(), 0
            blob = await self.link.open(Target.blob(bytes.fromhex(command["digest"])))
            while data := await blob.read():
                digest.update(data)
                length += len(data)
                if command.get("tell"):
                    await stream.write(b"%d\n" % length)
            await stream.write(json.dumps([digest.hexdigest(), length]).encode())
            stream.end()
        elif do == "outbound":
            peer = await self.link.open(Target.outbound(command["host"], command["port"]))
            await peer.write(b"hello")
            peer.end()
            try:
                while data := await peer.read():
                    await stream.write(data)
            except TransportError as error:
                await stream.write(str(error).encode())
            stream.end()
        elif do == "platform":
            asked = await self.link.open(Target.platform())
            await asked.write(bytes(64))
            asked.end()
            try:
                while data := await asked.read():
                    await stream.write(data)
            except TransportError as error:
                await stream.write(str(error).encode())
            stream.end()
        elif do == "hang":
            await asyncio.Event().wait()
        elif do == "break":
            self.link.close()
        elif do == "limits":
            import resource

            limits = {
                name: resource.getrlimit(getattr(resource, name))[0]
                for name in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_DATA", "RLIMIT_FSIZE")
            }
            open_files = []
            for fd in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    open_files.append(os.readlink(f"/proc/self/fd/{fd}"))
            facts = {
                "argv": sys.argv,
                "environment": dict(os.environ),
                "cpus": len(os.sched_getaffinity(0)),
                "session": os.getsid(0) == os.getpid(),
                "files": [name for name in open_files if name.startswith("/") and "/dev/" not in name],
                **limits,
            }
            await stream.write(json.dumps(facts).encode())
            stream.end()
        elif do == "stay":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stream.end()
        elif do == "tidy":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 7)
            stream.end()
        elif do == "exit":
            os._exit(command.get("status", 0))

    @staticmethod
    async def echo(stream):
        while data := await stream.read():
            await stream.write(data)
        stream.end()


if __name__ == "__main__":
    asyncio.run(StubKeep().run())
