# SPDX-License-Identifier: Apache-2.0
"""Fetch encrypted layers from registries for Keeps, so that tenants need not send what is stored somewhere already.

Rules of this file:

- The operator says which registries, and may say which repositories in them. Nothing else is connected to, whatever a tenant asks for;
  where nothing is said, nothing is fetched.
- The host's own login for a registry is used where its user has one (Docker's configuration). What is fetched goes into the Keep of
  whoever asked, which takes nothing but the ciphertext that its release names.
- What arrives is counted against the tenant's quota like an upload, and is no longer than was announced. Whether it is the right
  ciphertext, the Keep finds out.
- Whoever asks is answered when the first bytes are here: until then he can send them himself, and a Keep that was told to expect them
  cannot.
- A registry is waited for in threads of this file's own, which hold up neither each other nor the end of the host. So many at once and
  no more: nobody waits for another tenant's.

Source: docs/protocol.md, "Package and provision"; OCI distribution-spec 1.1, "Pulling blobs".
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from enarx.errors import EnarxError, PlatformError, UsageError
from enarx.wire.oci import Descriptor
from enarx.wire.package_ref import RegistryRef, parse_package_ref

if TYPE_CHECKING:
    from enarx.host.blobs import Blob
    from enarx.serving.logs import Log

__all__ = ["RegistryFetcher", "parse_allowed"]

MAX_AT_ONCE = 8
"""Fetches of all tenants together; others are refused."""
FIRST_S = 15.0
"""For a registry to give the first bytes; whoever asked waits so long before he sends them himself."""

_LAYER = "application/octet-stream"


class _Client(Protocol):
    def pieces_from(self, wanted: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from an offset on."""
        ...


Connect = Callable[[RegistryRef], AbstractContextManager[_Client]]
Result = TypeVar("Result")


def parse_allowed(text: str) -> str:
    """Return what an operator allows, `HOST[:PORT]` or `HOST[:PORT]/REPOSITORY`, in its one form.

    Raises:
        UsageError: it is neither.
    """
    host, slash, repository = text.partition("/")
    ref = parse_package_ref(f"oci://{host}/{repository if slash else 'any'}")
    if not isinstance(ref, RegistryRef) or ref.tag is not None or ref.digest is not None:
        raise UsageError(f"cannot allow the registry: found {text[:100]!r}, want HOST[:PORT] or HOST[:PORT]/REPOSITORY")
    return f"{ref.registry}/{ref.repository}" if slash else ref.registry


def _connect(ref: RegistryRef) -> AbstractContextManager[_Client]:
    # Everything that speaks to registries is loaded when the first of them is asked.
    from enarx.registry.client import RegistryClient

    return RegistryClient(ref.registry, ref.repository)


class RegistryFetcher:
    """Fetches for the Keeps of one host.

    Args:
        allowed: what the operator allows, each as `parse_allowed` returns it: a registry, or a repository and all below it.
        log: where events go.
        connect: to a registry.
        first_s: for the first bytes.
    """

    def __init__(
        self, allowed: Sequence[str], log: Log, *, connect: Connect = _connect, first_s: float = FIRST_S
    ) -> None:
        self._allowed = tuple(allowed)
        self._log = log
        self._connect = connect
        self._first_s = first_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: set[asyncio.Future[Any]] = set()
        """What threads do whose fetch has ended; each has its place until a time limit ends it."""

    def find_untrusted(self, registry: str, repository: str, digest: str) -> RegistryRef:
        """Return where a tenant wants something fetched from.

        Args:
            registry: `HOST[:PORT]`.
            repository: in it.
            digest: SHA-256 in hexadecimal.

        Raises:
            UsageError: that is no place, or one that the operator does not allow.
            PlatformError: there are too many fetches under way.
        """
        ref = parse_package_ref(f"oci://{registry}/{repository}@sha256:{digest}")
        if not isinstance(ref, RegistryRef) or (ref.registry, ref.repository) != (registry, repository):
            raise UsageError("cannot fetch the blob: found no registry and repository, want both")
        place = f"{ref.registry}/{ref.repository}/"
        if not any(place.startswith(f"{each}/") for each in self._allowed):
            raise UsageError(
                "cannot fetch the blob: found a registry that this host's operator does not allow, want another one",
                hint="upload the blob",
            )
        if len(self._tasks) + len(self._left) >= MAX_AT_ONCE:
            raise PlatformError(
                f"cannot fetch the blob: found {MAX_AT_ONCE} fetches under way, want fewer", hint="upload the blob"
            )
        return ref

    async def start(self, blob: Blob, ref: RegistryRef) -> None:
        """Begin to fetch the rest of a blob, which the caller has taken; it is released at the end, however that comes.

        Args:
            blob: announced.
            ref: with its digest; of `find_untrusted`, without a wait since.

        Raises:
            PlatformError: the registry gives nothing of it, or not in time.
        """
        begun = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._fetch(blob, ref, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._first_s):
                await begun.wait()
        if not begun.is_set():
            task.cancel()
        if not begun.is_set() or (task.done() and blob.offset < blob.length):
            raise PlatformError(
                "cannot fetch the blob: found that the registry does not give it, want its first bytes",
                hint="upload the blob",
            )

    async def close(self) -> None:
        """End every fetch; a thread that waits for a registry ends with its own time limit, and nobody waits for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fetch(self, blob: Blob, ref: RegistryRef, begun: asyncio.Event) -> None:
        try:
            async with aclosing(self._pieces(blob, ref, begun)) as pieces:
                await blob.append(pieces)
            if blob.offset < blob.length:
                raise PlatformError("cannot fetch the blob: found its end too early")
        except EnarxError as error:
            # No names: where a tenant keeps packages is not for the log.
            self._log.info("fetch-failed", reason=type(error).__name__)
            blob.fail()
        except Exception as error:  # noqa: BLE001  # one fetch's bug is not every Keep's end
            self._log.bug("bug", error)
            blob.fail()
        finally:
            blob.release()
            begun.set()

    async def _pieces(self, blob: Blob, ref: RegistryRef, begun: asyncio.Event) -> AsyncGenerator[bytes, None]:
        wanted = Descriptor(_LAYER, str(ref.digest), blob.length)
        with await self._in_thread(lambda: self._connect(ref)) as opened:
            pieces = opened.pieces_from(wanted, blob.offset)
            while piece := await self._in_thread(lambda: next(pieces, b"")):
                begun.set()
                yield piece

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        """Call what waits for a registry: in a thread that the host does not wait for when it ends, unlike those of an executor."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        threading.Thread(target=_tell, args=(loop, done, call), name="registry", daemon=True).start()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._left.add(done)
            done.add_done_callback(self._forget)
            raise

    def _forget(self, done: asyncio.Future[Any]) -> None:
        self._left.discard(done)
        # It is asked for by nobody else.
        done.exception()


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Result], call: Callable[[], Result]) -> None:
    result: Result | None = None
    error: Exception | None = None
    try:
        result = call()
    except Exception as caught:  # noqa: BLE001  # whoever waits for it gets it
        error = caught
    with contextlib.suppress(RuntimeError):
        # The loop may have ended, and the host with it.
        loop.call_soon_threadsafe(_set, done, result, error)


def _set(done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
