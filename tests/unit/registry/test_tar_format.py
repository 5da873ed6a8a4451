# SPDX-License-Identifier: Apache-2.0
"""tar: what is written is what the standard library reads, and what is read has one meaning."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.registry.reading import FileReader, PieceReader
from enarx.registry.tar_format import DIRECTORY, FILE, TarEntry, end_of_tar, padding, read_tar_untrusted, tar_header
from tests.unit.registry.layouts import special, tar

PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=90)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(lambda name: name not in {".", ".."})


def read(data, most=100):
    reader = PieceReader(iter([data]))
    return [(entry, reader.read(entry.size)) for entry in read_tar_untrusted(reader, "the archive", most)]


def write(entries):
    data = b""
    for name, contents in entries:
        data += tar_header(name, DIRECTORY if contents is None else FILE, len(contents or b""))
        data += (contents or b"") + bytes(padding(len(contents or b"")))
    return data + end_of_tar()


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=600)), max_size=3))
def test_what_is_written_is_read_as_it_was_here_and_elsewhere(entries):
    data = write(entries)
    want = [(name + "/" if contents is None else name, contents or b"") for name, contents in entries]
    assert [(entry.name, contents) for entry, contents in read(data)] == want
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info, (name, contents) in zip(archive.getmembers(), entries, strict=True):
            assert (info.name, info.isdir(), info.mtime, info.uid) == (name.rstrip("/"), contents is None, 0, 0)
            assert info.isdir() or archive.extractfile(info).read() == contents


@given(st.lists(st.tuples(PARTS, st.none() | st.binary(max_size=600)), max_size=3), st.integers(1, 700))
def test_pieces_and_files_are_read_in_the_same_way(entries, size):
    data = write(entries)
    pieces = PieceReader(data[at : at + size] for at in range(0, len(data), size))
    want = [entry for entry, _ in read(data)]
    assert list(read_tar_untrusted(pieces, "x", 10)) == want
    assert list(read_tar_untrusted(FileReader(io.BytesIO(data), len(data)), "x", 10)) == want


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_others_are_read(form):
    name = "a" * 90 + "/" + "b" * 99
    assert read(tar((name, b"x"), form=form)) == [(TarEntry(name, FILE, 1), b"x")]


def test_names_that_are_not_ascii_are_read():
    assert read(tar(("ä" * 60, b"x"), form=tarfile.PAX_FORMAT))[0][0].name == "ä" * 60


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
    ],
    ids=str,
)
def test_what_is_no_file_is_named(kind, word):
    info = special("x", kind, "/etc/passwd")
    info.size = 512
    assert [entry for entry, _ in read(tar(info))] == [TarEntry("x", word, 0)]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    header = bytearray(tar_header("h", FILE, len(records)))
    header[156:157] = kind
    return sealed(header) + records + bytes(padding(len(records)))


def sealed(header) -> bytes:
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    return bytes(header)


def record(text: bytes) -> bytes:
    """Of 10 to 99 bytes in all."""
    return b"%d " % (len(text) + 4) + text + b"\n"


ENTRY = tar_header("n", FILE, 1) + b"x" + bytes(511) + end_of_tar()


def test_an_extended_header_gives_name_and_size():
    data = pax(record(b"path=other name") + record(b"mtime=1.5")) + ENTRY
    assert read(data) == [(TarEntry("other name", FILE, 1), b"x")]
    header = tar_header("n", FILE, 7) + b"x" + bytes(511) + end_of_tar()
    assert read(pax(record(b"size=000001")) + header) == [(TarEntry("n", FILE, 1), b"x")]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "its end in the middle"),
        (ENTRY[:1000], "its end in the middle"),
        (ENTRY[:1024], "its end in the middle"),
        (b"x" * 512, "octal|checksum"),
        (sealed(bytearray(ENTRY[:257] + b"wrong" + ENTRY[262:512])) + ENTRY[512:], "another format"),
        (ENTRY[:10] + b"y" + ENTRY[11:], "another checksum"),
        (ENTRY + b"x", "bytes behind its end"),
        (ENTRY + bytes(2 << 20), "bytes behind its end"),
        (pax(b"x") + ENTRY, "an extended header without a length"),
        (pax(b"12 path=a\n") + ENTRY, "an extended header with another length"),
        (pax(b"0 path=a\n") + ENTRY, "an extended header with another length"),
        (pax(b"9999999 path=a\n") + ENTRY, "an extended header without a length"),
        (pax(record(b"path=aaa") * 2) + ENTRY, "path twice"),
        (pax(record(b"path=aaa")) * 2 + ENTRY, "two extended headers"),
        (pax(record(b"path=aaa")) + end_of_tar(), "without an entry"),
        (pax(record(b"path=aaa"), b"g") + ENTRY, "a global header with a path"),
        (pax(record(b"size=-1234")) + ENTRY, "a size of '-1234'"),
        (pax(record(b"size=99999999999999")) + ENTRY, "a size of"),
        (pax(record(b"hdrcharset=BINARY")) + ENTRY, "another character set"),
        (pax(record(b"GNU.sparse.major=1")) + ENTRY, "a sparse file"),
        (pax(record(b"path=a\0b")) + ENTRY, "a name with a NUL"),
        (pax(record(b"path=\xff\xff")) + ENTRY, "no UTF-8"),
        (pax(bytes(70000)) + ENTRY, "an extended header of 70000 bytes"),
        (sealed(bytearray(ENTRY[:156] + b"S" + ENTRY[157:512])) + ENTRY[512:], "an entry of type 'S'"),
        (sealed(bytearray(ENTRY[:124] + b"9" * 11 + ENTRY[135:512])), "the number"),
        (sealed(bytearray(ENTRY[:124] + b"\xff" * 12 + ENTRY[136:512])), "an entry of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_two_meanings_or_none_is_refused(data, word):
    with pytest.raises(DecodeError, match=word):
        read(data)


def test_there_is_a_limit_of_entries():
    data = write([(str(number), b"") for number in range(4)])
    assert len(read(data, 4)) == 4
    with pytest.raises(DecodeError, match="more than 3 entries"):
        read(data, 3)


def test_headers_without_entries_count_too():
    with pytest.raises(DecodeError, match="more than 3 entries"):
        read(pax(record(b"comment=x"), b"g") * 4 + ENTRY, 3)


@given(st.binary(max_size=1500))
def test_any_bytes_are_read_or_refused(data):
    with pytest.raises(DecodeError, match="cannot read the archive"):
        read(data)


@given(st.data())
def test_any_changed_byte_is_read_or_refused(data):
    changed = bytearray(write([("a/b", b"contents"), ("d", None)]))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(changed))
    except DecodeError:
        return
    assert len(found) <= 2
