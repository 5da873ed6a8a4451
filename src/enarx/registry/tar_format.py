# SPDX-License-Identifier: Apache-2.0
"""tar, as far as packages need it: read strictly, written the same bytes every time.

Rules of this file:

- An archive has one meaning here or is refused: names and sizes come from one place each, there is nothing behind the end that is
  not empty, and what is neither a file, a directory nor a link has no entry. Whoever reads decides what to do with links; nothing
  is followed here.
- Nothing is held but one header and one extended header of at most 64 KiB.
- What is written has no owner, no time and no more modes than two; names longer than ustar's travel in an extended header.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format" (long names).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enarx.errors import DecodeError
from enarx.registry.reading import Reader
from enarx.wire.quoting import quote

__all__ = ["BLOCK", "DIRECTORY", "FILE", "TarEntry", "end_of_tar", "padding", "read_tar_untrusted", "tar_header"]

BLOCK = 512
FILE, DIRECTORY = "file", "directory"
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"5": DIRECTORY,
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
}
_MAX_EXTENDED = 1 << 16
_MAX_BEHIND = 1 << 20
_MAX_SIZE = 1 << 40
# What an extended header may say without changing which bytes are where.
_CHANGES_MEANING = ("path", "size", "linkpath", "hdrcharset")


class TarEntry(NamedTuple):
    """One entry.

    Args:
        name: as it is written.
        kind: `FILE`, `DIRECTORY`, or in words what else it is.
        size: bytes of the contents.
    """

    name: str
    kind: str
    size: int


def read_tar_untrusted(reader: Reader, what: str, max_entries: int) -> Iterator[TarEntry]:
    """Read the entries of an archive.

    While an entry is looked at, its contents are what the reader gives next: the caller may read up to `size` bytes of them.

    Args:
        reader: at the beginning.
        what: names the archive in messages.
        max_entries: how many there may be.

    Raises:
        DecodeError: it is no archive, or one that two programs could read in two ways.
    """
    count = 0
    extended: dict[str, str] = {}
    while True:
        header = _read(reader, BLOCK, what)
        if not any(header):
            if extended:
                raise _refusal(what, "an extended header without an entry", "an entry")
            break
        name, kind, size = _parse(header, what)
        count += 1
        if count > max_entries:
            raise _refusal(what, f"more than {max_entries} entries", "at most that")
        if kind in {b"x", b"g", b"L"}:
            if size > _MAX_EXTENDED:
                raise _refusal(what, f"an extended header of {size} bytes", f"at most {_MAX_EXTENDED}")
            contents = _read(reader, size, what)
            _pass(reader, padding(size), what)
            found = {"path": _text(contents.rstrip(b"\0"), what)} if kind == b"L" else _records(contents, what)
            if kind == b"g":
                if any(key in found for key in _CHANGES_MEANING):
                    raise _refusal(what, "a global header with a path or a size", "none")
            elif extended:
                raise _refusal(what, "two extended headers for one entry", "one")
            else:
                # An empty one is one too.
                extended = found | {"": ""}
            continue
        if kind not in _KINDS:
            raise _refusal(what, f"an entry of type {quote(kind.decode('latin-1'))}", "files and directories")
        name = extended.get("path", name)
        if "size" in extended:
            size = _number(extended["size"], what)
        extended = {}
        if _KINDS[kind] != FILE:
            size = 0
        end = reader.position + size + padding(size)
        yield TarEntry(name, _KINDS[kind], size)
        _pass(reader, end - reader.position, what)
    behind = 0
    while piece := reader.read(BLOCK):
        behind += len(piece)
        if any(piece) or behind > _MAX_BEHIND:
            raise _refusal(what, "bytes behind its end", "none")


def tar_header(name: str, kind: str, size: int = 0) -> bytes:
    """Return the header of an entry, with an extended one before it where its name needs one.

    Args:
        name: its path, without a slash at its end.
        kind: `FILE` or `DIRECTORY`.
        size: of the contents, below 8 GiB.
    """
    written = f"{name}/" if kind == DIRECTORY else name
    encoded = written.encode()
    if len(encoded) <= 100 and written.isascii():
        return _header(encoded, b"5" if kind == DIRECTORY else b"0", size)
    record = b" path=" + encoded + b"\n"
    # The length counts its own digits.
    length = len(record) + 1
    while len(str(length)) + len(record) != length:
        length += 1
    extended = str(length).encode() + record
    short = "".join(letter if letter.isascii() else "_" for letter in written)[:100].encode()
    return (
        _header(b"././@PaxHeader", b"x", len(extended))
        + extended
        + bytes(padding(len(extended)))
        + _header(short, b"5" if kind == DIRECTORY else b"0", size)
    )


def padding(size: int) -> int:
    """Return how many zero bytes follow contents of a size."""
    return -size % BLOCK


def end_of_tar() -> bytes:
    """Return what is behind the last entry."""
    return bytes(2 * BLOCK)


def _header(name: bytes, kind: bytes, size: int) -> bytes:
    mode = b"0000755\0" if kind == b"5" else b"0000644\0"
    head = name.ljust(100, b"\0") + mode + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0
    tail = kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    return head + b"%06o\0 " % sum(head + b" " * 8 + tail) + tail


def _parse(header: bytes, what: str) -> tuple[str, bytes, int]:
    """Return name, type and size of a header."""
    checksum = _octal(header[148:156], what)
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _refusal(what, "a header with another checksum", "a tar archive")
    if header[257:262] != b"ustar":
        raise _refusal(what, "a header of another format", "ustar, pax or GNU tar")
    name = _text(header[:100].partition(b"\0")[0], what)
    # GNU tar has other things where ustar has the beginning of the name.
    prefix = b"" if header[257:265] == b"ustar  \0" else header[345:500].partition(b"\0")[0]
    if prefix:
        name = f"{_text(prefix, what)}/{name}"
    return name, header[156:157], _octal(header[124:136], what)


def _octal(field: bytes, what: str) -> int:
    if field[0] & 0x80:
        size = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    else:
        digits = field.strip(b" \0")
        if not digits or not all(0x30 <= digit <= 0x37 for digit in digits):
            raise _refusal(what, f"the number {quote(field.decode('latin-1'))}", "octal digits")
        size = int(digits, 8)
    if size > _MAX_SIZE:
        raise _refusal(what, f"an entry of {quote(size)} bytes", f"at most {_MAX_SIZE}")
    return size


def _records(data: bytes, what: str) -> dict[str, str]:
    """Return what an extended header says of paths and sizes; times, owners and comments are passed over."""
    found: dict[str, str] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > 6:
            raise _refusal(what, "an extended header without a length", "one")
        length = int(digits)
        if length > len(data):
            raise _refusal(what, "an extended header with another length", "a whole record")
        record, data = data[len(digits) + 1 : length], data[length:]
        key, equals, value = record.partition(b"=")
        if not equals or length <= len(digits) + 1 or not value.endswith(b"\n"):
            raise _refusal(what, "an extended header with another length", "a whole record")
        name = key.decode("latin-1")
        if name.startswith("GNU.sparse"):
            raise _refusal(what, "a sparse file", "files and directories")
        if name in _CHANGES_MEANING:
            if name in found:
                raise _refusal(what, f"{name} twice in an extended header", "once")
            found[name] = _text(value[:-1], what)
    if "hdrcharset" in found:
        raise _refusal(what, "names in another character set", "UTF-8")
    return found


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 13 or int(text) > _MAX_SIZE:
        raise _refusal(what, f"a size of {quote(text)}", f"a number of at most {_MAX_SIZE}")
    return int(text)


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _refusal(what, "a name that is no UTF-8", "one") from error
    if "\0" in text:
        raise _refusal(what, "a name with a NUL", "none")
    return text


def _read(reader: Reader, size: int, what: str) -> bytes:
    data = reader.read(size)
    if len(data) != size:
        raise _refusal(what, "its end in the middle of an entry", "a whole archive")
    return data


def _pass(reader: Reader, size: int, what: str) -> None:
    if size and not reader.skip(size):
        raise _refusal(what, "its end in the middle of an entry", "a whole archive")


def _refusal(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot read {what}: found {found}, want {want}")
