# SPDX-License-Identifier: Apache-2.0
"""Change foreign bytes so that most of them still pass the checks of magic and length: each format by its own structure.

Rules of this file:

- A mutation is `(data, random, scramble) -> bytes` and never raises. `scramble` changes bytes without knowing what they are: it is
  libFuzzer's own where there is one, which knows what was compared with what.
- Trees (JSON, CBOR, protobuf, records of ours) are changed in one place and written again, so that lengths are right. DER is
  changed in place, and the lengths around the change are made right.
- What is found in bytes and text inside (DER, CBOR, JSON, hex, base64, PEM) is changed by its own structure too.
- The same random numbers make the same changes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import cbor2

Scramble = Callable[[bytes, Random], bytes]
Mutation = Callable[[bytes, Random, Scramble], bytes]

NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 23, 24, 32, 48, 64, 0x7F, 0x80, 0xFF, 0x100, 0x4A0, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**45, -1, -128, -(1 << 64)),
)  # fmt: skip
TEXTS = (
    *("", "a", "A" * 300, "\0", "\n", "é", "\ud800", "\U0001f600", "0", "-1", "1e999", "00" * 16, "ff" * 48, "g" * 64, "=" * 20),
    *("2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "0000-00-00T00:00:00Z", "UpToDate", "SGX", "TDX", "secp384r1", "SHA384"),
    *("-----BEGIN CERTIFICATE-----\n", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "{}", "[]", '{"a":1,"a":2}'),
    *("2.5.29.15", "1.2", "__cmwc_t", "application/eat+jwt", "tag:x,2026:y", "report", "quote", "evidence", "crit", "alg"),
)  # fmt: skip
PLAIN = (None, True, False, 0.5, float("nan"), [], {}, "", b"", [[[[[]]]]], {"a": {"a": {}}}, {"skip": "x"}, [0] * 70)
BYTES = (
    b"",
    b"\0",
    b"\xff" * 8,
    bytes(32),
    bytes(48),
    bytes(64),
    b"0\x00",
    b"\x30\x80\x00\x00",
    b"\xa0",
    b"\xf6",
    b"{}",
)


def scramble(data: bytes, random: Random) -> bytes:
    """Change bytes, knowing nothing."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        how, at = random.randrange(8), random.randrange(len(out) + 1)
        if how < 4 and not out:
            how = 5
        if how == 0:
            out[at - 1] ^= 1 << random.randrange(8)
        elif how == 1:
            out[at - 1] = random.randrange(256)
        elif how in {2, 3}:
            size = random.choice((1, 2, 4, 8))
            number = random.choice(NUMBERS) & ((1 << 8 * size) - 1)
            out[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))[: len(out) - at]
        elif how == 4:
            del out[at : at + random.randrange(1, 40)]
        elif how == 5:
            out[at:at] = random.randbytes(random.randrange(1, 12))
        elif how == 6:
            out[at:at] = out[at : at + random.randrange(1, 60)]
        elif random.random() < 0.5:
            del out[at:]
        else:
            out += bytes(random.randrange(1, 40))
    return bytes(out)


def overwrite(data: bytes, random: Random) -> bytes:
    """Change bytes and keep their number."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))) if out else ():
        at, size = random.randrange(len(out)), random.choice((1, 1, 2, 4, 8))
        how = random.randrange(3)
        if how == 0:
            out[at] ^= 1 << random.randrange(8)
        elif how == 1:
            piece = (random.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, random.choice(("little", "big")))
            out[at : at + size] = piece[: len(out) - at]
        else:
            out[at : at + size] = random.randbytes(min(size, len(out) - at))
    return bytes(out)


# --- DER -------------------------------------------------------------------------------------------------------------


def _elements(data: bytes) -> list[tuple[int, int, int]]:
    """Return start, start of content and end of each element; none where the data is not DER all through."""
    found, at, total = [], 0, len(data)
    while at < total:
        if at + 2 > total:
            return []
        length, begin = data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[begin : begin + size], "big")
            begin += size
        if begin + length > total:
            return []
        found.append((at, begin, begin + length))
        at = begin + length
    return found


def der_length(length: int) -> bytes:
    """Return a length in DER."""
    if length < 0x80:
        return bytes((length,))
    size = (length.bit_length() + 7) // 8
    return bytes((0x80 | size,)) + length.to_bytes(size, "big")


def change_der(data: bytes, random: Random, scramble: Scramble, depth: int = 0) -> bytes:
    """Change one element of DER, or the order or number of elements."""
    elements = _elements(data) if depth < 12 else []
    if not elements:
        return change_bytes(data, random, scramble, depth)
    start, begin, end = random.choice(elements)
    tag = data[start]
    how = random.random()
    inside = data[begin + 1 : end] if tag == 0x03 else data[begin:end]
    is_nested = bool(tag & 0x20) or (tag in {0x03, 0x04} and inside[:1] == b"\x30")
    if inside and how < (0.85 if is_nested else 0.55):
        if is_nested:
            inside = change_der(inside, random, scramble, depth + 1)
        else:
            inside = change_bytes(inside, random, scramble if how < 0.2 else overwrite, depth + 1)
        content = (data[begin : begin + 1] if tag == 0x03 else b"") + inside
        element = bytes((tag,)) + der_length(len(content)) + content
    elif how < 0.9:
        element = b""
        if how < 0.87:
            element = data[start:end] * 2
    elif how < 0.93:
        element = (
            bytes((random.choice((tag ^ 0x20, random.randrange(256), 0x30, 0x05, 0x0C, 0x02)),)) + data[start + 1 : end]
        )
    elif how < 0.96:
        other = random.choice(elements)
        element = data[other[0] : other[1]] + data[other[1] : other[2]]
    elif how < 0.98:
        # The same length in another form, which is BER.
        element = bytes((tag, 0x84)) + (end - begin).to_bytes(4, "big") + data[begin:end]
    else:
        element = bytes((tag,)) + der_length(random.choice((0, 1, end - begin + 1, 0x10000))) + data[begin:end]
    return data[:start] + element + data[end:]


# --- Trees -----------------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, random: Random, scramble: Scramble, depth: int = 0) -> bytes:
    """Change bytes by what they look like."""
    if depth < 8 and len(data) > 3 and random.random() < 0.6:
        first = data[0]
        if first == 0x30 and _elements(data):
            return change_der(data, random, scramble, depth + 1)
        if first >> 5 in {4, 5, 6}:
            try:
                return write_cbor(change(read_cbor(data), random, scramble, depth + 1))
            except Exception:  # noqa: BLE001  # it only looked like CBOR
                return overwrite(data, random)
        if first in b"{[-":
            with contextlib.suppress(UnicodeDecodeError):
                return change_text(data.decode(), random, scramble, depth + 1).encode("utf-8", "surrogatepass")
    how = random.random()
    if how < 0.6:
        return overwrite(data, random)
    return random.choice(BYTES) if how > 0.93 else scramble(data, random)


def change_text(text: str, random: Random, scramble: Scramble, depth: int = 0) -> str:
    """Change text by what it looks like."""
    if depth < 8 and len(text) > 8 and random.random() < 0.75:
        if text[0] in "{[":
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                return write_json(change(json.loads(text), random, scramble, depth + 1)).decode()
        elif text.startswith("-----BEGIN "):
            return _change_pem(text, random, scramble, depth)
        else:
            for read, write in ((bytes.fromhex, bytes.hex), (_from_base64, _to_base64)):
                try:
                    data = read(text)
                except ValueError:
                    continue
                return write(change_bytes(data, random, scramble, depth + 1))
    how, at = random.randrange(6), random.randrange(len(text) + 1)
    if how == 0:
        return random.choice(TEXTS)
    if how == 1:
        return text[:at] + random.choice('09afgZ-_.:/= \n\0é\ud800"{,') + text[at + 1 :]
    if how == 2:
        return text[:at] + text[at + random.randrange(1, 20) :]
    if how == 3:
        return text[:at] + random.choice(TEXTS) + text[at:]
    if how == 4:
        return text[:at] + text[at : at + 40] + text[at:]
    return text[:at] + str(random.randrange(10)) + text[at + 1 :]


def _change_pem(text: str, random: Random, scramble: Scramble, depth: int) -> str:
    blocks = text.split("-----BEGIN ")[1:]
    at = random.randrange(len(blocks))
    if random.random() < 0.25:
        blocks.insert(random.randrange(len(blocks) + 1), blocks[at])
    else:
        label, _, rest = blocks[at].partition("-----")
        body, _, tail = rest.partition("-----END ")
        try:
            data = change_der(base64.b64decode("".join(body.split())), random, scramble, depth + 1)
        except ValueError:
            data = b""
        tail = tail if random.random() < 0.9 else tail.upper()[:-2]
        blocks[at] = f"{label}-----\n{base64.encodebytes(data).decode()}-----END {tail}"
    return "".join(f"-----BEGIN {block}" for block in blocks)


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _change_number(value: int, random: Random) -> int:
    how = random.randrange(4)
    if how == 0:
        return value + random.choice((-1, 1, 255, 256))
    if how == 1:
        return value ^ 1 << random.randrange(max(8, value.bit_length()))
    return random.choice(NUMBERS) if how == 2 else random.getrandbits(max(8, value.bit_length()))


def change(value: Any, random: Random, scramble: Scramble, depth: int = 0) -> Any:
    """Return a tree that differs in one place; what did not change is shared with the old one."""
    kind = type(value)
    if kind in {bytes, bytearray}:
        return change_bytes(bytes(value), random, scramble, depth)
    if kind is str:
        return change_text(value, random, scramble, depth) if random.random() < 0.95 else random.choice(PLAIN)
    if kind is int:
        return _change_number(value, random) if random.random() < 0.93 else random.choice(PLAIN)
    if isinstance(value, cbor2.CBORTag):
        if random.random() < 0.15:
            return cbor2.CBORTag(random.choice((0, 1, 2, 18, 61, 399, 501, 505, 506, 907, 0x63740101)), value.value)
        return cbor2.CBORTag(value.tag, change(value.value, random, scramble, depth + 1))
    if isinstance(value, dict) and value:
        return _change_dict(dict(value), random, scramble, depth)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        at = random.randrange(len(value))
        fields = list(value)
        fields[at] = change(fields[at], random, scramble, depth + 1)
        return value._make(fields)
    if kind in {list, tuple} and value:
        return kind(_change_list(list(value), random, scramble, depth))
    return random.choice((*PLAIN, *NUMBERS[:8], *TEXTS[:4]))


def _change_dict(value: dict[Any, Any], random: Random, scramble: Scramble, depth: int) -> dict[Any, Any]:
    key, how = random.choice(tuple(value)), random.random()
    if how < 0.86:
        value[key] = change(value[key], random, scramble, depth + 1)
    elif how < 0.90:
        del value[key]
    elif how < 0.94:
        name = change(key, random, scramble, 8)
        if type(name) in {int, str, bytes}:
            value[name] = value[key] if how < 0.93 else value.pop(key)
    elif how < 0.97:
        value[key] = value[random.choice(tuple(value))]
    else:
        value[key] = random.choice(PLAIN)
    return value


def _change_list(value: list[Any], random: Random, scramble: Scramble, depth: int) -> list[Any]:
    at, how = random.randrange(len(value)), random.random()
    if how < 0.82:
        value[at] = change(value[at], random, scramble, depth + 1)
    elif how < 0.87:
        del value[at]
    elif how < 0.92:
        value.insert(random.randrange(len(value) + 1), value[at])
    elif how < 0.96:
        value[at] = random.choice(value)
    elif how < 0.98:
        value[at] = random.choice(PLAIN)
    else:
        value = value * random.choice((2, 20))
    return value


def read_cbor(data: bytes) -> Any:
    """Decode CBOR of any form as data, not as what its tags mean."""
    return cbor2.loads(data, semantic_decoders=_AS_TAGS, max_depth=20)


def write_cbor(value: Any) -> bytes:
    """Encode anything that `change` makes."""
    return cbor2.dumps(value)


def _as_tag(tag: int) -> Any:
    return lambda value, _immutable: cbor2.CBORTag(tag, value)


_AS_TAGS = {
    tag: _as_tag(tag)
    for tag in (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
}


def read_json(data: bytes) -> Any:
    """Decode JSON."""
    return json.loads(data)


def write_json(value: Any) -> bytes:
    """Encode anything that `change` makes; lone surrogates are escaped."""
    return json.dumps(value, separators=(",", ":"), default=repr).encode()


class Field(NamedTuple):
    """A field of a protobuf message."""

    number: int
    value: int | bytes | tuple[Field, ...]


def read_protobuf(data: bytes, depth: int = 0) -> tuple[Field, ...]:
    """Decode a message; bytes that look like one are one."""
    fields, at = [], 0
    while at < len(data):
        key, at = _read_varint(data, at)
        if key & 7 == 0:
            number, at = _read_varint(data, at)
            fields.append(Field(key >> 3, number))
            continue
        if key & 7 != 2 or not key >> 3:
            raise ValueError
        size, at = _read_varint(data, at)
        if at + size > len(data):
            raise ValueError
        value: Any = data[at : at + size]
        at += size
        if depth < 3 and value:
            with contextlib.suppress(ValueError, IndexError):
                value = read_protobuf(value, depth + 1)
        fields.append(Field(key >> 3, value))
    return tuple(fields)


def write_protobuf(fields: Sequence[Field]) -> bytes:
    """Encode a message."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value & (1 << 64) - 1)
        else:
            data = bytes(value) if isinstance(value, bytes) else write_protobuf(value)
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- Mutations -------------------------------------------------------------------------------------------------------

_FAILURES = (ValueError, TypeError, LookupError, AttributeError, OverflowError, ArithmeticError, RecursionError)


def by_tree(read: Callable[[bytes], Any], write: Callable[[Any], bytes], *, wild: float = 0.08) -> Mutation:
    """Make a mutation that changes what `read` finds and writes it again; `wild` of the inputs are scrambled instead."""

    def mutate(data: bytes, random: Random, scramble: Scramble) -> bytes:
        if random.random() >= wild:
            try:
                tree = read(data)
                for _ in range(random.choice((1, 1, 2, 3))):
                    tree = change(tree, random, scramble)
                return write(tree)
            except Exception:  # noqa: BLE001  # struct.error, CBOR's and our own: the change cannot be written
                return overwrite(data, random)
        return scramble(data, random)

    return mutate


def by_der(data: bytes, random: Random, scramble: Scramble) -> bytes:
    """Change DER with its lengths; some inputs are scrambled instead."""
    if random.random() < 0.08:
        return scramble(data, random)
    for _ in range(random.choice((1, 1, 2, 3))):
        data = change_der(data, random, scramble)
    return data


def by_text(data: bytes, random: Random, scramble: Scramble) -> bytes:
    """Change a text by what it looks like."""
    if random.random() < 0.08:
        return scramble(data, random)
    return change_text(data.decode("utf-8", "replace"), random, scramble).encode("utf-8", "surrogatepass")


def by_lines(values: Sequence[str]) -> Mutation:
    """Make a mutation of `name = value` lines: other values, other orders, and some scrambled bytes."""

    def mutate(data: bytes, random: Random, scramble: Scramble) -> bytes:
        if random.random() < 0.12:
            return scramble(data, random)
        lines = data.decode("utf-8", "replace").split("\n")
        for _ in range(random.choice((1, 1, 2))):
            at, how = random.randrange(len(lines)), random.random()
            name, equals, value = lines[at].partition(" = ")
            if how < 0.55 and equals:
                others = [line.partition(" = ")[2] for line in lines if " = " in line]
                lines[at] = f"{name} = {random.choice((*values, *others))}"
            elif how < 0.75 and equals:
                lines[at] = f"{name} = {change_text(value, random, scramble, 8)}"
            elif how < 0.83:
                del lines[at]
                lines = lines or [""]
            elif how < 0.9:
                lines.insert(random.randrange(len(lines) + 1), lines[at])
            else:
                lines[at] = change_text(lines[at], random, scramble, 8)
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    return mutate


def by_fields(size: int, starts: Sequence[bytes]) -> Mutation:
    """Make a mutation of a structure of one size that begins in one of several ways; some inputs are scrambled instead."""

    def mutate(data: bytes, random: Random, scramble: Scramble) -> bytes:
        if random.random() < 0.08:
            return scramble(data, random)
        data = overwrite(data[:size].ljust(size, b"\0"), random)
        start = random.choice(starts)
        return start + data[len(start) :]

    return mutate


def one_of(*mutations: Mutation) -> Mutation:
    """Make a mutation that is one of several each time."""
    return lambda data, random, scramble: random.choice(mutations)(data, random, scramble)


def is_der(data: bytes) -> bool:
    """Return whether the data is one element of DER."""
    return data[:1] == b"\x30" and len(_elements(data)) == 1


def is_cbor(data: bytes) -> bool:
    """Return whether the data is one item of CBOR that begins an array, a map or a tag."""
    try:
        value = read_cbor(data)
    except Exception:  # noqa: BLE001  # whatever it is, it is not CBOR
        return False
    return isinstance(value, list | dict | cbor2.CBORTag)


def is_json(data: bytes) -> bool:
    """Return whether the data is an object or an array of JSON."""
    try:
        return isinstance(json.loads(data), dict | list)
    except (ValueError, RecursionError):
        return False


def is_base64_or_hex(data: bytes) -> bool:
    """Return whether the data is text of at least 16 bytes in hex or base64."""
    text = b"".join(data.rstrip(b"\0").split())
    try:
        return len(text) >= 16 and bool(_from_base64(text.decode()))
    except (ValueError, binascii.Error):
        return False
