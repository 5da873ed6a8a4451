# SPDX-License-Identifier: Apache-2.0
"""What a party runs, on its own machine: hands its file in to the Keep that it wants, and to no other, and prints the result.

    python party.py HOST:PORT ROOT PACKAGE TOKEN FILE [--insecure-accept-emulated]

ROOT is the Steward's root, PACKAGE the digest of the package, TOKEN a file with the party's token, FILE its rows. Nothing is sent
before the Keep was judged: by the Steward's certificate, of this package, to which nothing was added.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enarx.deploy.connecting import KeepPolicy, connect, load_steward_root
from enarx.errors import EnarxError, TransportError

MAX_ANSWER_BYTES = 4 << 20
MAX_LINE_BYTES = 40
WAIT_S = 600.0
"""For the other party."""


def hand_in(host: str, port: int, policy: KeepPolicy, token: bytes, rows: bytes) -> tuple[bool, bytes]:
    """Hand rows in; return whether they were taken, and the result or what is wrong.

    Raises:
        EnarxError: this is not the Keep that is wanted, which was sent nothing; or the connection broke.
    """
    with connect(host, port, policy) as secure:
        secure.settimeout(WAIT_S)
        try:
            secure.sendall(token + b" %d\n" % len(rows) + rows)
            print("party: handed in, to the Keep that was wanted", file=sys.stderr, flush=True)
            with secure.makefile("rb") as answer:
                word, _, size = answer.readline(MAX_LINE_BYTES).strip().partition(b" ")
                if word not in {b"ok", b"error"} or not size.isdigit() or int(size) > MAX_ANSWER_BYTES:
                    raise TransportError(f"{host}: found no answer, want the result")
                text = answer.read(int(size))
        except OSError as error:
            raise TransportError(f"{host}: the connection ended before the result was there") from error
    if len(text) != int(size):
        raise TransportError(f"{host}: found a part of an answer, want all of it")
    return word == b"ok", text


def main(arguments: list[str]) -> int:
    """Run as a program; returns the exit status."""
    emulated = "--insecure-accept-emulated"
    words = [each for each in arguments if each != emulated]
    if len(words) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    address, root, package, token, rows = words
    host, _, port = address.rpartition(":")
    try:
        policy = KeepPolicy(
            steward_root=load_steward_root(root),
            package=bytes.fromhex(package),
            # Else it could be the same program with other limits: the digest does not say.
            pristine=True,
            insecure_accept_emulated="" if emulated in arguments else None,
        )
        taken, text = hand_in(host, int(port), policy, Path(token).read_bytes().strip(), Path(rows).read_bytes())
    except EnarxError as error:
        print(f"party: {error}", file=sys.stderr)
        return error.status
    except (OSError, ValueError) as error:
        print(f"party: {error}", file=sys.stderr)
        return 2
    print(text.decode(), end="" if taken else "\n", file=sys.stdout if taken else sys.stderr)
    return 0 if taken else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
