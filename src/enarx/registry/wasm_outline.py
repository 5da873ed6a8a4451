# SPDX-License-Identifier: Apache-2.0
"""What a WebAssembly binary asks for and offers: its imports and exports, without an engine and without its code.

Only the sections of imports and exports are read, in bounded memory; everything else is passed over by its length. Whether the binary
is valid is for the engine to say.

Source: WebAssembly Core Specification 2.0, section 5.5; component-model, design/mvp/Binary.md.
"""

from __future__ import annotations

from typing import NamedTuple

from enarx.errors import DecodeError
from enarx.registry.reading import PieceReader, Reader

__all__ = ["Outline", "outline_untrusted", "read_outline_untrusted"]

_MODULE = b"\0asm\x01\0\0\0"
_COMPONENT = b"\0asm\x0d\0\x01\0"
_MAX_SECTION = 16 << 20
_MAX_NAMES = 20_000
# With those that are there twice.
_MAX_ENTRIES = 200_000
_MAX_TOTAL_CHARS = 1 << 20
_CORE_IMPORTS, _CORE_EXPORTS = 2, 7
_IMPORTS, _EXPORTS = 10, 11
_INDEX_ENDS = 5


class Outline(NamedTuple):
    """What a binary asks for and offers, in its order, each once.

    Args:
        is_component: or a core module.
        imports: of a component, interfaces with their versions; of a module, `module::name`.
        exports: names.
    """

    is_component: bool
    imports: tuple[str, ...]
    exports: tuple[str, ...]


def read_outline_untrusted(data: bytes) -> Outline:
    """Read the outline of a binary that is held whole. See `outline_untrusted`."""
    return outline_untrusted(PieceReader(iter([data])), "the module")


def outline_untrusted(reader: Reader, what: str) -> Outline:
    """Read the outline of a binary.

    Args:
        reader: at its beginning.
        what: names it in messages.

    Raises:
        DecodeError: it is no WebAssembly binary, or has more names than a package may.
    """
    head = reader.read(8)
    if head not in {_MODULE, _COMPONENT}:
        text = head.lstrip()[:1] in {b"(", b";"}
        raise DecodeError(
            f"cannot read {what}: found {'WebAssembly text' if text else 'no WebAssembly'}, want a WebAssembly binary",
            hint="wat2wasm makes a binary of text" if text else None,
        )
    is_component = head == _COMPONENT
    wanted = (_IMPORTS, _EXPORTS) if is_component else (_CORE_IMPORTS, _CORE_EXPORTS)
    imports: dict[str, None] = {}
    exports: dict[str, None] = {}
    entries = characters = 0
    while kind := reader.read(1):
        size = _section_size(reader, what)
        if kind[0] not in wanted:
            if not reader.skip(size):
                raise _broken(what)
            continue
        if size > _MAX_SECTION:
            raise DecodeError(f"cannot read {what}: found a section of {size} bytes, want at most {_MAX_SECTION}")
        section = reader.read(size)
        if len(section) != size:
            raise _broken(what)
        names = _Section(section, what)
        found = imports if kind[0] == wanted[0] else exports
        count = names.count()
        entries += count
        if entries > _MAX_ENTRIES:
            raise DecodeError(f"cannot read {what}: found {entries} imports and exports, want at most {_MAX_ENTRIES}")
        for _ in range(count):
            name = names.component_entry(kind[0]) if is_component else names.core_entry(kind[0])
            if name not in found:
                characters += len(name)
                if characters > _MAX_TOTAL_CHARS:
                    raise DecodeError(
                        f"cannot read {what}: found names of more than {_MAX_TOTAL_CHARS} characters, want fewer"
                    )
                found[name] = None
        if not names.is_at_end() or len(imports) + len(exports) > _MAX_NAMES:
            raise _broken(what)
    return Outline(is_component, tuple(imports), tuple(exports))


class _Section:
    """Reads the entries of one section."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def count(self) -> int:
        """Return how many entries follow, of at least two bytes each."""
        found = self._uint()
        if found > (len(self._data) - self._at) // 2:
            raise _broken(self._what)
        return found

    def core_entry(self, section: int) -> str:
        name = self._name()
        if section == _CORE_EXPORTS:
            self._byte()
            self._uint()
            return name
        name = f"{name}::{self._name()}"
        kind = self._byte()
        if kind == 0:
            self._uint()
        elif kind == 1:
            self._value_type()
            self._limits()
        elif kind == 2:
            self._limits()
        elif kind == 3:
            self._value_type()
            self._byte()
        elif kind == 4:
            self._byte()
            self._uint()
        else:
            raise _broken(self._what)
        return name

    def component_entry(self, section: int) -> str:
        form = self._byte()
        if form > 2:
            raise _broken(self._what)
        name = self._name()
        if form == 2:
            self._name()
        if section == _EXPORTS:
            # What is exported, by sort and index; then perhaps its type.
            if self._byte() == 0:
                self._byte()
            self._uint()
            if self._byte() == 0:
                return name
        self._description()
        return name

    def _description(self) -> None:
        kind = self._byte()
        if kind == 0:
            if self._byte() != 0x11:
                raise _broken(self._what)
            self._uint()
        elif kind in {1, 4, _INDEX_ENDS}:
            self._uint()
        elif kind == 2:
            if self._byte() == 0:
                self._uint()
            else:
                self._value_type()
        elif kind == 3:
            if self._byte() == 0:
                self._uint()
        else:
            raise _broken(self._what)

    def _value_type(self) -> None:
        # A reference to a heap type has the type behind it; all others are one number.
        if self._byte() in {0x63, 0x64}:
            self._uint()
            return
        self._at -= 1
        self._uint()

    def _limits(self) -> None:
        flags = self._byte()
        self._uint()
        if flags & 1:
            self._uint()
        if flags & 8:
            self._uint()

    def _name(self) -> str:
        size = self._uint()
        data = self._data[self._at : self._at + size]
        self._at += size
        if len(data) != size:
            raise _broken(self._what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"cannot read {self._what}: found a name that is no UTF-8, want one") from error

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise _broken(self._what)
        self._at += 1
        return self._data[self._at - 1]

    def _uint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise _broken(self._what)


def _section_size(reader: Reader, what: str) -> int:
    value = shift = 0
    while byte := reader.read(1):
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value
        if shift > 28:
            break
    raise _broken(what)


def _broken(what: str) -> DecodeError:
    return DecodeError(f"cannot read {what}: found a section that is not well formed, want a WebAssembly binary")
