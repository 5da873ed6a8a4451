# SPDX-License-Identifier: Apache-2.0
"""Says something of two parties' files together, and nothing of a row.

Party a knows of each person a group, party b a value. Each hands its file in and is told, when both have, how many members each
group has and what the sum of their values is; a group with few members is not shown. Then it is over.

A caller sends a line with its token and the size of its file, and the file. An answer is a line with `ok` or `error` and the size of
what follows, and that. TLS is the Keep's affair; descriptor 3 is the socket of Enarx.toml.

No message has anything of a file in it but the number of a line, and that is for the file's owner alone.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import io
import os
import re
import socket

LISTENER = 3
MAX_CALLERS = 100
MAX_LINE_BYTES = 200
MAX_FILE_BYTES = 4 << 20
# Groups of one or two say what their members' values are to whoever is one of them.
LEAST_MEMBERS = 3

HEADERS = {"a": ["id", "group"], "b": ["id", "value"]}
is_id = re.compile(r"[A-Za-z0-9._@+-]{1,64}", re.ASCII).fullmatch
is_group = re.compile(r"[A-Za-z0-9._-][A-Za-z0-9 ._-]{0,63}", re.ASCII).fullmatch
is_number = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII).fullmatch


class RefusedError(Exception):
    """What a caller sent cannot be used. The message is for that caller."""


def parse(party: str, data: bytes, max_value: int) -> dict[str, str]:
    """Return a party's file as group or value by id.

    Raises:
        RefusedError: it is none. The message says where, and never what was found there.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError("want a file in UTF-8") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = {}
    try:
        if next(lines, None) != HEADERS[party]:
            raise RefusedError(f"line 1: want {','.join(HEADERS[party])}")
        for row in lines:
            where = f"line {lines.line_num}"
            if len(row) != len(HEADERS[party]):
                raise RefusedError(f"{where}: want {len(HEADERS[party])} fields")
            key, field = row
            if not is_id(key):
                raise RefusedError(f"{where}: want an id of up to 64 letters, digits and ._@+-")
            if key in rows:
                # Twice in a file, a person would count twice, or be in two groups whose difference he is.
                raise RefusedError(f"{where}: want each id once")
            if party == "a" and not is_group(field):
                raise RefusedError(f"{where}: want a group of up to 64 letters, digits, spaces and ._-")
            if party == "b" and not (is_number(field) and int(field) <= max_value):
                raise RefusedError(f"{where}: want a whole number from 0 to {max_value}")
            rows[key] = field
    except csv.Error:
        raise RefusedError(f"line {lines.line_num}: want fields between commas") from None
    return rows


def aggregate(groups: dict[str, str], values: dict[str, str], min_members: int) -> str:
    """Return the result as CSV: of each group that is large enough, how many of its members have a value, and the sum.

    Nothing says how many rows matched in all, because all less what is shown would be the groups that are not.
    """
    found = {}
    for key, group in groups.items():
        if key in values:
            members, total = found.get(group, (0, 0))
            found[group] = (members + 1, total + int(values[key]))
    shown = sorted((group, *both) for group, both in found.items() if both[0] >= min_members)
    return "group,members,sum\n" + "".join(f"{group},{members},{total}\n" for group, members, total in shown)


def configured() -> tuple[dict[str, str], int, int]:
    """Return what Enarx.toml says: the parties by the digests of their tokens, the least members, the largest value."""
    parties = {os.environ.get(f"{party.upper()}_SHA256", ""): party for party in HEADERS}
    if len(parties) != len(HEADERS) or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in parties):
        raise SystemExit("analytics: A_SHA256, B_SHA256: want the SHA-256 of each party's token, in hex")
    numbers = []
    for name, least in (("MIN_MEMBERS", LEAST_MEMBERS), ("MAX_VALUE", 1)):
        number = os.environ.get(name, "")
        if not is_number(number) or int(number) < least:
            raise SystemExit(f"analytics: {name}: want a number of {least} or more")
        numbers.append(int(number))
    return parties, *numbers


def receive(channel: socket.socket, parties: dict[str, str]) -> tuple[str, bytes]:
    """Return which party calls, and its file.

    Raises:
        RefusedError: it is none, or there is no whole file.
        OSError: the connection broke.
    """
    data = b""
    while b"\n" not in data[: MAX_LINE_BYTES + 1]:
        if len(data) > MAX_LINE_BYTES:
            raise RefusedError("want a line with token and size")
        data += more(channel)
    line, _, rest = data.partition(b"\n")
    token, _, size = line.partition(b" ")
    digest = hashlib.sha256(token).hexdigest()
    party = next((name for known, name in parties.items() if hmac.compare_digest(known, digest)), None)
    if party is None:
        raise RefusedError("want the token of a party")
    if not is_number(size.decode("latin-1")) or int(size) > MAX_FILE_BYTES:
        raise RefusedError(f"want a file of at most {MAX_FILE_BYTES} bytes")
    file = bytearray(rest)
    while len(file) < int(size):
        file += more(channel)
    if len(file) > int(size):
        raise RefusedError("found more than the file, want that alone")
    return party, bytes(file)


def more(channel: socket.socket) -> bytes:
    """Return what comes next.

    Raises:
        RefusedError: nothing does.
    """
    piece = channel.recv(1 << 16)
    if not piece:
        raise RefusedError("found the end of the connection, want the whole file")
    return piece


def answer(channel: socket.socket, word: str, text: str) -> None:
    """Answer a caller and end the connection. Whether he is still there is his affair."""
    data = text.encode()
    with contextlib.suppress(OSError):
        channel.sendall(f"{word} {len(data)}\n".encode() + data)
        channel.shutdown(socket.SHUT_RDWR)


def collect(
    listener: socket.socket, parties: dict[str, str], max_value: int
) -> tuple[dict[str, dict[str, str]], dict[str, socket.socket]]:
    """Return both parties' rows and connections, by party, once both have handed in a file that can be used."""
    rows, channels, callers = {}, {}, []
    for _ in range(MAX_CALLERS):
        channel, _ = listener.accept()
        # This interpreter cannot close what it accepted, so that is not tried: each is kept to the end.
        callers.append(channel)
        try:
            party, data = receive(channel, parties)
            new = parse(party, data, max_value)
        except RefusedError as refused:
            answer(channel, "error", str(refused))
            continue
        except OSError:
            continue
        if party in channels:
            answer(channels[party], "error", "another file of yours has taken the place of this one")
        rows[party], channels[party] = new, channel
        if len(channels) == len(HEADERS):
            return rows, channels
    raise SystemExit(f"analytics: found {MAX_CALLERS} callers and no two files, want both parties'")


def main() -> None:
    """Serve the two parties, once."""
    parties, min_members, max_value = configured()
    # What WASI does not say of the descriptor: any family will do, and without one nothing is accepted.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=LISTENER)
    print("ready", flush=True)
    rows, channels = collect(listener, parties, max_value)
    result = aggregate(rows["a"], rows["b"], min_members)
    for channel in channels.values():
        answer(channel, "ok", result)
    print("done", flush=True)
    # An interpreter that ends by itself closes its sockets, which this one cannot.
    os._exit(0)


if __name__ == "__main__":
    main()
