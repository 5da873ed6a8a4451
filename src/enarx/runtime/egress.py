# SPDX-License-Identifier: Apache-2.0
"""The outbound rule: which names a Keep may look up and which peers it may connect to.

Every name lookup and every outbound connection passes here: preopened `connect` entries, components' sockets, outgoing
HTTP. What no pattern allows is refused. Three things hold the file together:

- A host is either an address or a name, decided once and strictly (`_host`). Only four plain decimal numbers are an IPv4
  address; `127.1`, `0x7f.1` and `010.0.0.1`, which other parsers take for addresses, are neither and always refused.
- Names are compared in lower case without the root dot, ASCII only. IPv4 addresses written as IPv6 count as IPv4.
- A name's permission covers its addresses only after an allowed lookup returned them (`Egress.learn`).

It knows nothing of WASI, TLS and files. It is imported during start-up, so it imports only built-in modules.
"""

from __future__ import annotations

import _thread
from _socket import (
    AF_INET,
    AF_INET6,
    SOCK_STREAM,
    gaierror,
    getaddrinfo,
    inet_ntop,
    inet_pton,
)

from enarx.errors import ConfigError, TransportError

__all__ = ["Egress", "as_address", "pattern_for", "resolve"]

MAX_PATTERNS = 1024
MAX_PATTERN_LENGTH = 300
# Addresses of one lookup; RFC 1035 answers of 512 bytes held fewer.
MAX_ADDRESSES = 16
# Addresses a Keep remembers from all its lookups; the oldest are forgotten first.
MAX_LEARNED = 4096
# Lookups under way. One that was given up still waits in the C library, which offers no way to end it.
MAX_LOOKUPS = 16

_ANY_PORT = 0
_FORMS = "HOST:PORT, *.DOMAIN:PORT, ADDRESS/BITS:PORT, [IPV6]:PORT or [IPV6]/BITS:PORT, with * for any host or port"
_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset("0123456789")
_MAPPED = bytes(10) + b"\xff\xff"

_lookups_under_way = 0
_lookups_lock = _thread.allocate_lock()


class Egress:
    """The patterns of `allow_connect`, and the addresses that allowed names turned out to have.

    Args:
        patterns: at most 1024 of `example.com:443`, `*.example.com:443` (any depth below, not `example.com` itself),
            `*:443`, `example.com:*`, `192.0.2.1:80`, `10.0.0.0/8:5432`, `[::1]:80`, `[2001:db8::]/32:443`.

    Raises:
        ConfigError: too many patterns, or one of another form; `key` is `allow_connect`.
    """

    __slots__ = ("_below", "_everything", "_learned", "_names", "_networks")

    def __init__(self, patterns: list[str] | tuple[str, ...]) -> None:
        if len(patterns) > MAX_PATTERNS:
            raise ConfigError(
                f"allow_connect: found {len(patterns)} patterns, want at most {MAX_PATTERNS}", key="allow_connect"
            )
        self._everything: set[int] = set()
        self._names: dict[str, set[int]] = {}
        self._below: dict[str, set[int]] = {}
        # Address length in bytes, number of bits to shift out, value of what remains, port.
        self._networks: list[tuple[int, int, int, int]] = []
        self._learned: dict[bytes, set[int]] = {}
        for pattern in patterns:
            self._add(pattern)

    def permits(self, host: str, port: int) -> bool:
        """Tell whether a connection to this name or address and this port is allowed.

        Args:
            host: a name, or an address with or without brackets; anything else is not allowed.
            port: 1 to 65535.
        """
        ports = self._ports(_host(host))
        return 1 <= port <= 65535 and (port in ports or _ANY_PORT in ports)

    def permits_name(self, host: str) -> bool:
        """Tell whether this name may be looked up: a pattern allows it on some port."""
        return bool(self._ports(_host(host)))

    def learn(self, name: str, addresses: list[str] | tuple[str, ...]) -> None:
        """Allow the addresses an allowed lookup returned, on the ports that are allowed for the name.

        Args:
            name: what was looked up; when no pattern allows it, nothing is learned.
            addresses: its addresses; only the first 16 count, as in `resolve`.
        """
        ports = self._ports(_host(name))
        if not ports:
            return
        for text in addresses[:MAX_ADDRESSES]:
            address = _address(text)
            if address is None:
                continue
            # Taken out and put back, so that the oldest knowledge stands first.
            known = self._learned.pop(address, set())
            self._learned[address] = known | ports
            if len(self._learned) > MAX_LEARNED:
                del self._learned[next(iter(self._learned))]

    def require(self, host: str, port: int) -> None:
        """Return only if the connection is allowed.

        This is for connections that Enarx.toml itself asks for, which makes a refusal a contradiction within one file and
        so a ConfigError. A guest that asks for more than it may is told EACCES; for that, ask `permits`.

        Raises:
            ConfigError: no pattern allows it; `key` is `allow_connect`.
        """
        if not self.permits(host, port):
            wanted = pattern_for(host, port)
            raise ConfigError(
                f"outbound connection refused: {_shown(wanted)}: found no pattern that allows it, want one in allow_connect",
                key="allow_connect",
                hint=f"allow_connect = [{_shown(wanted)}]" if _host(host) is not None else None,
            )

    def _ports(self, host: str | bytes | None) -> set[int]:
        """Collect the ports allowed for a host."""
        if host is None:
            return set()
        ports = set(self._everything)
        if isinstance(host, bytes):
            value = int.from_bytes(host, "big")
            for length, shift, prefix, port in self._networks:
                if length == len(host) and value >> shift == prefix:
                    ports.add(port)
            return ports | self._learned.get(host, set())
        ports |= self._names.get(host, set())
        parent = host
        while "." in parent:
            parent = parent.partition(".")[2]
            ports |= self._below.get(parent, set())
        return ports

    def _add(self, pattern: str) -> None:
        if not pattern.isascii():
            raise _wrong(
                pattern,
                "characters outside ASCII",
                "an ASCII name",
                hint="write each label as DNS carries it, as in xn--bcher-kva.example",
            )
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise _wrong(pattern, f"{len(pattern)} characters", f"at most {MAX_PATTERN_LENGTH}")
        subject, colon, port_text = pattern.rpartition(":")
        # An IPv6 address without brackets would lose its last group to the port.
        if not colon or not subject or (":" in subject and not subject.startswith("[")):
            raise _wrong(pattern, "no host with a port", _FORMS)
        port = _port(pattern, port_text)
        if subject == "*":
            self._everything.add(port)
        elif "/" in subject:
            self._networks.append((*_network(pattern, subject), port))
        elif subject.startswith("*."):
            domain = _host(subject[2:])
            if not isinstance(domain, str):
                raise _wrong(pattern, "no domain after *.", _FORMS)
            self._below.setdefault(domain, set()).add(port)
        else:
            host = _host(subject)
            if host is None:
                raise _wrong(pattern, "neither a name nor an address", _FORMS)
            if isinstance(host, bytes):
                self._networks.append((len(host), 0, int.from_bytes(host, "big"), port))
            else:
                self._names.setdefault(host, set()).add(port)


def pattern_for(host: str, port: int) -> str:
    """Write the pattern that allows exactly this host and port, with brackets where an IPv6 address needs them."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def as_address(host: str) -> str | None:
    """Return an address in its one form, without brackets, or None for a name and for what is neither."""
    parsed = _host(host)
    return str(_endpoint(parsed, 0)[1][0]) if isinstance(parsed, bytes) else None


def resolve(host: str, port: int, *, timeout_s: float) -> list[tuple[int, tuple[str | int, ...]]]:
    """Find the addresses of a host; whether they may be used is `Egress`'s to say.

    An address is its own answer and `localhost`, with every name below it, is 127.0.0.1 and ::1: neither asks a resolver
    (RFC 6761 section 6.3). Everything else goes to the C library, whose answers the host controls.

    Args:
        host: a name, or an address with or without brackets.
        port: 1 to 65535, put into each result.
        timeout_s: how long to wait; a lookup that takes longer goes on in its thread and is forgotten.

    Returns:
        At most 16 pairs of an address family and a socket address, in the order to try them, none twice.

    Raises:
        TransportError: not a host, no such name, no answer in time, or 16 lookups are under way.
    """
    parsed = _host(host)
    if parsed is None:
        raise TransportError(f"name lookup failed: {_shown(host)}: found no name or address, want one")
    if isinstance(parsed, bytes):
        return [_endpoint(parsed, port)]
    if parsed == "localhost" or parsed.endswith(".localhost"):
        return [_endpoint(b"\x7f\0\0\1", port), _endpoint(bytes(15) + b"\1", port)]
    answers = _look_up(parsed, timeout_s)
    endpoints: list[tuple[int, tuple[str | int, ...]]] = []
    for family, _, _, _, where in answers:
        endpoint = (family, (where[0], port, *where[2:]))
        if family in {AF_INET, AF_INET6} and endpoint not in endpoints:
            endpoints.append(endpoint)
    return endpoints[:MAX_ADDRESSES]


def _look_up(name: str, timeout_s: float) -> list[tuple[int, int, int, str, tuple[str | int, ...]]]:
    """Call getaddrinfo in a thread of its own and wait for it no longer than asked."""
    global _lookups_under_way
    outcome: list[list[tuple[int, int, int, str, tuple[str | int, ...]]] | str] = []
    done = _thread.allocate_lock()
    done.acquire()

    def ask() -> None:
        global _lookups_under_way
        try:
            # As bytes, because a str passes through the IDNA codec, which is slow to import and maps characters.
            outcome.append(getaddrinfo(name.encode(), None, 0, SOCK_STREAM))  # type: ignore[arg-type]
        except gaierror as error:
            outcome.append((error.strerror or "unknown").lower())
        except OSError as error:
            outcome.append(str(error).lower())
        finally:
            with _lookups_lock:
                _lookups_under_way -= 1
            done.release()

    with _lookups_lock:
        if _lookups_under_way >= MAX_LOOKUPS:
            raise TransportError(f"name lookup failed: {name}: found {MAX_LOOKUPS} lookups under way, want fewer")
        _lookups_under_way += 1
    try:
        _thread.start_new_thread(ask, ())
    except RuntimeError as error:
        with _lookups_lock:
            _lookups_under_way -= 1
        raise TransportError(f"name lookup failed: {name}: no thread to wait for it") from error
    if not done.acquire(timeout=timeout_s):
        raise TransportError(f"name lookup failed: {name}: found no answer, want one within {timeout_s:g} s")
    answer = outcome[0]
    if isinstance(answer, str):
        raise TransportError(f"name lookup failed: {name}: {answer}")
    return answer


def _endpoint(address: bytes, port: int) -> tuple[int, tuple[str | int, ...]]:
    family = AF_INET if len(address) == 4 else AF_INET6
    return family, (inet_ntop(family, address), port)


def _address(text: str) -> bytes | None:
    """Decode an address: 4 bytes, 16 bytes, or None. inet_pton, unlike inet_aton, takes the strict forms only."""
    if not text.isascii() or "\0" in text:
        return None
    if ":" not in text:
        try:
            return inet_pton(AF_INET, text)
        except OSError:
            return None
    try:
        address = inet_pton(AF_INET6, text)
    except OSError:
        return None
    return address[12:] if address.startswith(_MAPPED) else address


def _host(text: str) -> str | bytes | None:
    """Decide what a host is: a name in its one form, the bytes of an address, or neither (None)."""
    if text.startswith("[") and text.endswith("]"):
        return _address(text[1:-1]) if ":" in text else None
    address = _address(text)
    if address is not None:
        return address
    # Checked before lowering, because the Kelvin sign becomes a plain k.
    if not text.isascii():
        return None
    name = text.lower().removesuffix(".")
    if not name or len(name) > 253:
        return None
    labels = name.split(".")
    for label in labels:
        if not 1 <= len(label) <= 63 or not _LABEL_CHARACTERS.issuperset(label):
            return None
        if label.startswith("-") or label.endswith("-"):
            return None
    # No top-level domain looks like a number, and what does is somebody's way to write an address.
    if _DIGITS.issuperset(labels[-1]) or labels[-1].startswith("0x"):
        return None
    return name


def _port(pattern: str, text: str) -> int:
    if text == "*":
        return _ANY_PORT
    if not text or len(text) > 5 or not _DIGITS.issuperset(text) or not 1 <= int(text) <= 65535:
        raise _wrong(pattern, f"port {_shown(text)}", "1 to 65535 or *")
    return int(text)


def _network(pattern: str, subject: str) -> tuple[int, int, int]:
    """Decode `ADDRESS/BITS`: address length in bytes, bits to shift out, what remains."""
    host_text, _, bits_text = subject.partition("/")
    address = _host(host_text)
    if not isinstance(address, bytes):
        raise _wrong(pattern, "no address before /", _FORMS)
    if host_text.startswith("[") and len(address) == 4:
        raise _wrong(pattern, "an IPv4 network written as IPv6", "the IPv4 form, as in 10.0.0.0/8:443")
    width = 8 * len(address)
    if not bits_text or len(bits_text) > 3 or not _DIGITS.issuperset(bits_text) or int(bits_text) > width:
        raise _wrong(pattern, f"prefix length {_shown(bits_text)}", f"0 to {width}")
    shift = width - int(bits_text)
    value = int.from_bytes(address, "big")
    if value >> shift << shift != value:
        family, (first, *_) = _endpoint((value >> shift << shift).to_bytes(len(address), "big"), 0)
        network = f"{first}/{bits_text}" if family == AF_INET else f"[{first}]/{bits_text}"
        raise _wrong(pattern, "bits beyond the prefix", network)
    return len(address), shift, value >> shift


def _wrong(pattern: str, found: str, want: str, *, hint: str | None = None) -> ConfigError:
    return ConfigError(f"allow_connect: {_shown(pattern)}: found {found}, want {want}", key="allow_connect", hint=hint)


def _shown(text: str) -> str:
    """Quote text of unknown origin for one line of a message."""
    quoted = ascii(text if len(text) <= 80 else text[:77] + "...")
    return '"' + quoted[1:-1] + '"'
