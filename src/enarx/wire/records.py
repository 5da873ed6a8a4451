# SPDX-License-Identifier: Apache-2.0
"""What an Enarx.toml says, as frozen records: the types that the decoder fills and the runtime reads.

A record is what `@dataclass(frozen=True, slots=True, kw_only=True)` would make, and type checkers see it as one. It is
made by the few lines below instead because every `enarx run` needs these types, and importing `dataclasses` takes longer
than the rest of a start.

Paths in records are as the user wrote them; whoever opens them resolves relative ones against the file's own directory.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT",
    "DEFAULT_MEMORY_BYTES",
    "MAX_INT",
    "MAX_OPEN_FILES",
    "ConnectFile",
    "Dir",
    "EnarxToml",
    "File",
    "Limits",
    "ListenFile",
    "NullFile",
    "Peer",
    "StdioFile",
    "Tls",
    "replace",
]

DEFAULT_MEMORY_BYTES = 1 << 30
"""Of each linear memory of a workload, where nobody says otherwise."""

MAX_INT = (1 << 63) - 1
MAX_OPEN_FILES = 1 << 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    def record(cls: type[T]) -> type[T]:
        """See the branch that runs."""
        return cls
else:

    def record(cls: type) -> type:
        """Make a record of a class that holds annotated fields, defaults and a docstring, and nothing else."""
        fields = tuple(cls.__annotations__)
        return type(
            cls.__name__,
            (_Record,),
            {
                "__doc__": cls.__doc__,
                "__module__": cls.__module__,
                "__qualname__": cls.__qualname__,
                "__slots__": fields,
                "_defaults": {field: vars(cls)[field] for field in fields if field in vars(cls)},
            },
        )


class _Record:
    """A frozen value: compared, hashed and shown by its fields."""

    __slots__: tuple[str, ...] = ()
    _defaults: dict[str, object] = {}  # noqa: RUF012 - typing.ClassVar would cost the import this module avoids

    def __init__(self, **values: object) -> None:
        values = {**self._defaults, **values}
        if values.keys() != set(self.__slots__):
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.__slots__)}, got {', '.join(values)}")
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {field}: {type(self).__name__} is frozen")

    def __delattr__(self, field: str) -> None:
        raise AttributeError(f"cannot delete {field}: {type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self.__slots__)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field) for field in self.__slots__)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__slots__)
        return f"{type(self).__qualname__}({fields})"


def replace(original: T, /, **changes: Any) -> T:
    """Copy a record with some fields changed, as `dataclasses.replace` does for a dataclass."""
    fields = type(original).__slots__  # type: ignore[attr-defined]
    return type(original)(**{field: getattr(original, field) for field in fields} | changes)


@record
class NullFile:
    """A descriptor that reads as empty and swallows what is written."""

    name: str = "null"


@record
class StdioFile:
    """One of the standard streams of the Keep's owner."""

    kind: Literal["stdin", "stdout", "stderr"]
    name: str


@record
class ListenFile:
    """A socket that listens before the guest starts. Port 0 asks the system to pick one."""

    name: str
    prot: Literal["tls", "tcp"] = "tls"
    addr: str = "::"
    port: int


@record
class ConnectFile:
    """A socket that is connected before the guest starts."""

    name: str
    prot: Literal["tls", "tcp"] = "tls"
    host: str
    port: int


File: TypeAlias = "NullFile | StdioFile | ListenFile | ConnectFile"


@record
class Dir:
    """A directory of the host that the guest sees at an absolute path of its own."""

    host: str
    guest: str
    read_only: bool = False


@record
class Limits:
    """What a guest may use. None is a key that was not written: the runtime's own default holds."""

    memory_bytes: int | None = None
    timeout_s: float | None = None
    fuel: int | None = None
    output_bytes: int | None = None
    open_files: int | None = None


@record
class Peer:
    """Who may be at the other end of a TLS connection: a package, and for whom it runs.

    `package` is its SHA-256 in hex; `tenant` the SHA-384 of the tenant's public key in hex, or `any`, which holds for a
    package to which nothing was added.
    """

    package: str
    tenant: str


@record
class Tls:
    """What the sockets with prot "tls" present and whom they believe. All file names are of PEM files.

    Without certificate and private_key the Keep's own certificate is presented; without trust anchors, servers are
    judged by the public roots and clients by the Steward's. With peers, all are judged by the Steward's root alone, and
    have to be one of them.
    """

    certificate: str | None = None
    private_key: str | None = None
    client_auth: Literal["none", "optional", "required"] = "none"
    trust_anchors: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()


STDIO = (
    StdioFile(kind="stdin", name="stdin"),
    StdioFile(kind="stdout", name="stdout"),
    StdioFile(kind="stderr", name="stderr"),
)


@record
class EnarxToml:
    """One Enarx.toml. `files[i]` becomes the guest's descriptor i; `env` keeps the order of the file.

    `allow_connect` is None where the key is absent: then only what `files` connects to may be connected to.
    """

    steward: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[File, ...] = STDIO
    dirs: tuple[Dir, ...] = ()
    limits: Limits = Limits()
    tls: Tls = Tls()
    allow_connect: tuple[str, ...] | None = None


DEFAULT = EnarxToml()
"""What holds when no file is given: standard input, output and error."""
