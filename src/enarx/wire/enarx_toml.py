# SPDX-License-Identifier: Apache-2.0
"""Decode Enarx.toml, the file that says what a workload is given: arguments, environment, descriptors, limits.

The keys and their meaning are the original's, so a file written for it works here; `limits`, `dirs`, `tls` and
`allow_connect` are additions. `docs/enarx-toml.md` is the reference for users. Whatever is not understood is refused,
because a misspelt `steward` that is ignored means a workload without one.

Knows the notation and what can be judged from the text alone. Does not know whether a file, a directory or a host
exists, nor how any of it is served. Text comes from strangers too (a package, a registry): any bytes give a value or a
ConfigError, in bounded time. Values of `args` and `env` may be secrets and are in no message.

What holds the file together: one `_read_...` for each part of the document, in the order of the reference, and `_Table`,
through which all of them read, so that types, unknown keys and the places of errors are treated in one way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar, cast

from enarx.errors import ConfigError
from enarx.wire.endpoints import MAX_PORT, split_host_port
from enarx.wire.peers import is_package_digest, is_tenant
from enarx.wire.quoting import kind_of, quote
from enarx.wire.records import (
    MAX_INT,
    MAX_OPEN_FILES,
    STDIO,
    ConnectFile,
    Dir,
    EnarxToml,
    File,
    Limits,
    ListenFile,
    NullFile,
    Peer,
    StdioFile,
    Tls,
)
from enarx.wire.toml_lines import KeyPath, find_line
from enarx.wire.toml_text import all_of, dotted, one_of, parse_toml
from enarx.wire.units import parse_duration, parse_size

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_PEERS", "decode_enarx_toml"]

MAX_BYTES = 1_000_000  # the original's limit
MAX_PEERS = 100
MAX_FILES = 500  # the guest's descriptors from 512 on are for the connections it accepts
_MAX_SHOWN_KEY = 40

_TOP_KEYS = ("steward", "args", "env", "files", "dirs", "limits", "tls", "allow_connect")
_FILE_KEYS = {
    "null": ("kind", "name"),
    "stdin": ("kind", "name"),
    "stdout": ("kind", "name"),
    "stderr": ("kind", "name"),
    "listen": ("kind", "name", "prot", "addr", "port"),
    "connect": ("kind", "name", "prot", "host", "port"),
}
_DEFAULT_PORTS = {"tls": 443, "tcp": 80}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_IN_HOST = re.compile(r"[\x00-\x20\x7f-\xa0/@\[\]\\]")

_Measure = TypeVar("_Measure", int, float)


def decode_enarx_toml(data: bytes, *, path: str) -> EnarxToml:
    """Decode an Enarx.toml.

    Args:
        data: the content of the file, UTF-8, at most 1,000,000 bytes.
        path: the file as the user named it, for messages only.

    Returns:
        everything the file says, with defaults where it says nothing.

    Raises:
        ConfigError: the file is too large, not UTF-8, not TOML, or says something that cannot be; `path`, and where they
            are known `line` and `key`, say where. Nothing else, for any input.
    """
    text, document = parse_toml(data, path=path, max_bytes=MAX_BYTES)
    try:
        return _read_document(_Table(document, ()))
    except _WrongValueError as error:
        at = find_line(text, error.path)
        key = dotted(error.path)
        raise ConfigError(
            f"{path if at is None else f'{path}:{at}'}: {key}: {error}",
            hint=error.hint,
            path=path,
            line=at,
            key=key,
        ) from error


def _read_document(top: _Table) -> EnarxToml:
    top.refuse_unknown_keys(_TOP_KEYS)
    return EnarxToml(
        steward=_read_steward(top),
        args=top.texts("args") or (),
        env=_read_env(top.table("env")),
        files=_read_files(top),
        dirs=_read_dirs(top.tables("dirs") or []),
        limits=_read_limits(top.table("limits")),
        tls=_read_tls(top.table("tls")),
        allow_connect=_read_allow_connect(top),
    )


def _read_steward(top: _Table) -> str | None:
    url = top.text("steward")
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        # Not shown: what stands before the @ is a password.
        top.refuse("steward", "found a user name or password in it, want an https:// URL without")
    if not separator or scheme.lower() != "https":
        top.refuse("steward", f"found {quote(url)}, want an https:// URL", hint="a Steward is never asked in the clear")
    if authority.startswith(":") or not authority or re.search(r"[\x00-\x20\x7f-\xa0\\]", url):
        top.refuse("steward", f"found {quote(url)}, want an https:// URL with a host and without spaces")
    return url


def _read_env(env: _Table) -> tuple[tuple[str, str], ...]:
    for name in env.values:
        if not name or "=" in name or "\0" in name:
            env.refuse(name, f"found the name {quote(name)}, want one that is not empty and has no '=' and no NUL")
    return tuple((name, env.required_text(name)) for name in env.values)


def _read_files(top: _Table) -> tuple[File, ...]:
    tables = top.tables("files")
    if tables is None:
        return STDIO
    if len(tables) > MAX_FILES:
        top.refuse("files", f"found {len(tables)} entries, want at most {MAX_FILES}")
    files = tuple(_read_file(table) for table in tables)
    # A guest finds a socket by its name in FD_NAMES, so a name written for a socket is written once. Names that nobody
    # wrote repeat in files of the original (two connections to one host); such guests count descriptors instead.
    entries_of = Counter(file.name for file in files)
    for table, file in zip(tables, files, strict=True):
        if isinstance(file, ListenFile | ConnectFile) and "name" in table.values and entries_of[file.name] > 1:
            table.refuse("name", f"found {quote(file.name)} more than once, want a name of its own for every socket")
    return files


def _read_file(table: _Table) -> File:
    kind = table.choice("kind", tuple(_FILE_KEYS))
    if kind is None:
        table.refuse("kind", f"found nothing, want {one_of(_FILE_KEYS)}")
    _refuse_keys_of_other_kinds(table, kind)
    name = _read_name(table)
    if kind == "null":
        return NullFile(name=name or kind)
    if kind in {"stdin", "stdout", "stderr"}:
        return StdioFile(kind=cast('Literal["stdin", "stdout", "stderr"]', kind), name=name or kind)
    prot = cast('Literal["tls", "tcp"]', table.choice("prot", tuple(_DEFAULT_PORTS)) or "tls")
    if kind == "listen":
        if name is None:
            table.refuse("name", "found nothing, want the name that the guest looks for in FD_NAMES")
        # Port 0 lets the system choose, which is what a test of a service needs.
        port = table.integer("port", 0, MAX_PORT)
        return ListenFile(
            name=name,
            prot=prot,
            addr=_read_host(table, "addr") or "::",
            port=_DEFAULT_PORTS[prot] if port is None else port,
        )
    host = _read_host(table, "host")
    if host is None:
        table.refuse("host", "found nothing, want the host to connect to")
    if name is None and ":" in host:
        table.refuse("name", f"found nothing, and the host {quote(host)} cannot be the name, want one without ':'")
    return ConnectFile(
        name=name or host,
        prot=prot,
        host=host,
        port=table.integer("port", 1, MAX_PORT) or _DEFAULT_PORTS[prot],
    )


def _refuse_keys_of_other_kinds(table: _Table, kind: str) -> None:
    """Refuse keys that `kind` does not have, saying whose they are where they are known at all."""
    for key in table.values:
        owners = [owner for owner, keys in _FILE_KEYS.items() if key in keys]
        if owners and kind not in owners:
            table.refuse(key, f"found on an entry of kind {kind}, want it on kind {one_of(owners)} only")
    table.refuse_unknown_keys(_FILE_KEYS[kind])


def _read_name(table: _Table) -> str | None:
    name = table.text("name")
    if name is not None and (not name or ":" in name or _CONTROL.search(name)):
        # FD_NAMES joins the names with colons.
        table.refuse("name", f"found {quote(name)}, want text without ':' and control characters that is not empty")
    return name


def _read_host(table: _Table, key: str) -> str | None:
    host = table.text(key)
    # One colon is a port; none is a name or an IPv4 address, more are an IPv6 address.
    if host is not None and (not host or host.count(":") == 1 or _NOT_IN_HOST.search(host)):
        table.refuse(
            key,
            f"found {quote(host)}, want a host name or an IP address alone",
            hint="the port has a key of its own, and an IPv6 address stands without brackets",
        )
    return host


def _read_dirs(tables: list[_Table]) -> tuple[Dir, ...]:
    dirs = tuple(_read_dir(table) for table in tables)
    entries_of = Counter(entry.guest for entry in dirs)
    for table, entry in zip(tables, dirs, strict=True):
        if entries_of[entry.guest] > 1:
            table.refuse("guest", f"found {quote(entry.guest)} more than once, want every guest path once")
    return dirs


def _read_dir(table: _Table) -> Dir:
    table.refuse_unknown_keys(("host", "guest", "read_only"))
    host = table.required_text("host")
    if not host:
        table.refuse("host", "found an empty path, want a directory of this machine")
    guest = table.required_text("guest")
    # Two spellings of one path would escape the comparison of guest paths, so there is one spelling.
    parts = guest.split("/")[1:]
    if not guest.startswith("/") or (guest != "/" and any(part in {"", ".", ".."} for part in parts)):
        table.refuse(
            "guest",
            f"found {quote(guest)}, want an absolute path without '.', '..', empty parts and a slash at the end",
        )
    return Dir(host=host, guest=guest, read_only=table.boolean("read_only") or False)


def _read_limits(table: _Table) -> Limits:
    table.refuse_unknown_keys(("memory", "timeout", "fuel", "output", "open_files"))
    return Limits(
        memory_bytes=table.size("memory"),
        timeout_s=table.duration("timeout"),
        fuel=table.integer("fuel", 1, MAX_INT),
        output_bytes=table.size("output"),
        open_files=table.integer("open_files", 1, MAX_OPEN_FILES),
    )


def _read_tls(table: _Table) -> Tls:
    """Read what holds for TLS. By what clients are judged where the file does not say it, `require_steward` finds out: by a Steward's root."""
    table.refuse_unknown_keys(("certificate", "private_key", "client_auth", "trust_anchors", "peers"))
    certificate, private_key = table.text("certificate"), table.text("private_key")
    anchors = table.texts("trust_anchors")
    for key, file in (("certificate", certificate), ("private_key", private_key)):
        if file == "":
            table.refuse(key, "found an empty path, want a PEM file")
    if (certificate is None) != (private_key is None):
        there, missing = ("certificate", "private_key") if private_key is None else ("private_key", "certificate")
        table.refuse(there, f"found without tls.{missing}, want both or neither")
    if anchors is not None and ("" in anchors or not anchors):
        table.refuse(
            "trust_anchors",
            "found an empty list or path, want PEM files",
            hint="for the public roots, leave trust_anchors out",
        )
    peers = _read_peers(table)
    if peers:
        _refuse_beside_peers(table)
    client_auth = table.choice("client_auth", ("none", "optional", "required")) or "none"
    return Tls(
        certificate=certificate,
        private_key=private_key,
        client_auth=cast('Literal["none", "optional", "required"]', client_auth),
        trust_anchors=anchors or (),
        peers=peers,
    )


def _read_peers(table: _Table) -> tuple[Peer, ...]:
    tables = table.tables("peers")
    if tables is None:
        return ()
    if not 0 < len(tables) <= MAX_PEERS:
        table.refuse(
            "peers",
            f"found {len(tables)} entries, want 1 to {MAX_PEERS}",
            hint="to judge peers by their certificates alone, leave peers out",
        )
    return tuple(_read_peer(each) for each in tables)


def _read_peer(table: _Table) -> Peer:
    table.refuse_unknown_keys(("package", "tenant"))
    package, tenant = table.required_text("package"), table.required_text("tenant")
    if not is_package_digest(package):
        table.refuse("package", f"found {quote(package)}, want a SHA-256 in 64 small hex digits")
    if not is_tenant(tenant):
        table.refuse(
            "tenant",
            f'found {quote(tenant)}, want a SHA-384 in 96 small hex digits, or "any"',
            hint="enarx keep show says the digests of a Keep; any tenant will do only where nothing is given beyond the package",
        )
    return Peer(package=package, tenant=tenant)


def _refuse_beside_peers(table: _Table) -> None:
    """Refuse what would be ignored: peers are judged by the Steward's root, and by what it certified, alone."""
    for key in ("certificate", "private_key", "trust_anchors"):
        if key in table.values:
            table.refuse(key, "found together with tls.peers, want one of them: peers are certified by a Steward")
    if table.values.get("client_auth") not in {None, "required"}:
        table.refuse("client_auth", 'found together with tls.peers, want "required": who shows nothing is no peer')


def _read_allow_connect(top: _Table) -> tuple[str, ...] | None:
    entries = top.texts("allow_connect")
    for index, entry in enumerate(entries or ()):
        path = ("allow_connect", index)
        try:
            split_host_port(entry, name=dotted(path))
        except ConfigError as error:
            raise _WrongValueError.from_notation(error, path) from error
    return entries


class _WrongValueError(Exception):
    """What is wrong with the value at `path`, before the line is known."""

    def __init__(self, path: KeyPath, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.path = path
        self.hint = hint

    @classmethod
    def from_notation(cls, error: ConfigError, path: KeyPath) -> _WrongValueError:
        """Take over what a parser of sizes, durations or endpoints says about the value at `path`."""
        return cls(path, str(error).removeprefix(dotted(path) + ": "), hint=error.hint)


class _Table:
    """One table of the document, which knows its own path and refuses values of the wrong type.

    A reader returns None where its key is not written. No message shows a value of the wrong type, only its kind:
    it may be a secret that lost its quotes.
    """

    def __init__(self, values: dict[str, Any], path: KeyPath) -> None:
        self.values = values
        self.path = path

    def refuse(self, key: str, problem: str, *, hint: str | None = None) -> NoReturn:
        raise _WrongValueError((*self.path, key), problem, hint=hint)

    def refuse_unknown_keys(self, known: tuple[str, ...]) -> None:
        for key in self.values:
            if key in known:
                continue
            from difflib import get_close_matches

            nearest = get_close_matches(key[:_MAX_SHOWN_KEY].lower(), known, n=1)
            want = nearest[0] if nearest else one_of(known)
            hint = f"the keys here are {all_of(known)}" if nearest else None
            if self.path and key in _TOP_KEYS:
                hint = f"{key} belongs above the first [table] of the file"
            self.refuse(key, f"found an unknown key, want {want}", hint=hint)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return None if value is None else _text(value, (*self.path, key))

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.refuse(key, "found nothing, want a string")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        values = self._typed(key, list, "an array of strings")
        if values is None:
            return None
        return tuple(_text(value, (*self.path, key, index)) for index, value in enumerate(values))

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(key)
        if value is not None and value not in choices:
            self.refuse(key, f"found {quote(value)}, want {one_of(choices)}")
        return value

    def boolean(self, key: str) -> bool | None:
        return cast("bool | None", self._typed(key, bool, "true or false"))

    def integer(self, key: str, least: int, most: int) -> int | None:
        value = self._typed(key, int, f"an integer from {least} to {most}")
        if value is not None and not least <= value <= most:
            self.refuse(key, f"found {quote(value)}, want {least} to {most}")
        return cast("int | None", value)

    def size(self, key: str) -> int | None:
        return self._measure(key, parse_size)

    def duration(self, key: str) -> float | None:
        return self._measure(key, parse_duration)

    def _measure(self, key: str, parse: Callable[..., _Measure]) -> _Measure | None:
        if key not in self.values:
            return None
        path = (*self.path, key)
        try:
            return parse(self.values[key], name=dotted(path))
        except ConfigError as error:
            raise _WrongValueError.from_notation(error, path) from error

    def table(self, key: str) -> _Table:
        """Open a table; one that is not written is empty."""
        return _Table(self._typed(key, dict, f"a table, [{key}]") or {}, (*self.path, key))

    def tables(self, key: str) -> list[_Table] | None:
        values = self._typed(key, list, f"an array of tables, [[{key}]]")
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise _WrongValueError((*self.path, key, index), f"found {kind_of(value)}, want a table")
        return [_Table(value, (*self.path, key, index)) for index, value in enumerate(values)]

    def _typed(self, key: str, wanted: type, name: str) -> Any:
        value = self.values.get(key)
        # Not isinstance: in Python, true is an integer too.
        if value is not None and type(value) is not wanted:
            self.refuse(key, f"found {kind_of(value)}, want {name}")
        return value


def _text(value: object, path: KeyPath) -> str:
    """Take a string that can be an argument, a variable or a path of the system: one without NUL."""
    if not isinstance(value, str):
        hint = "write it in quotes" if isinstance(value, int | float) else None
        raise _WrongValueError(path, f"found {kind_of(value)}, want a string", hint=hint)
    if "\0" in value:
        raise _WrongValueError(path, f"found a NUL character at position {value.index(chr(0))}, want text without")
    return value
