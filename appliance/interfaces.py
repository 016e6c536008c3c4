"""
Every seam of the appliance, as zope Interfaces.

A provider has a contract suite in ``tests/contracts/`` that it passes. Deferreds stand at the seams; inside a module
work is ``async def``. Sizes and offsets are bytes, durations seconds; a range is half open, C{start <= x < stop}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface import Attribute, Interface

from appliance.oci.digest import Digest

T = TypeVar("T")

# -- flow -----------------------------------------------------------------------------------------------------------


class IThreads(Interface):
    """A bounded number of threads for blocking work on the disk."""

    def call(function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Run C{function(*args)} off the reactor.

        @return: fires with its result, on the reactor's thread, or fails with what it raised. Cancelling does not stop
            the function; the result is dropped.
        """


class IFileTransport(Interface):
    """A transport that can send part of a file without the bytes passing through this process."""

    def send_file(fd: int, start: int, length: int, sent: Callable[[int], None]) -> None:
        """
        Send C{length} bytes of the open file C{fd} from offset C{start}, after everything written before.

        C{sent(n)} is called each time C{n} more of them have been handed to the network. The caller keeps C{fd} open
        until all are, or until its producer is stopped; it has at most one file range under way and writes nothing
        meanwhile.
        """


# -- store ----------------------------------------------------------------------------------------------------------


class IOpenFile(Interface):
    """A file that readers share: closed when the last one lets go of it."""

    fd = Attribute("the open file descriptor (int); use only with explicit offsets")

    def acquire() -> None:
        """Count one more reader."""

    def release() -> None:
        """Count one reader less; the last one closes the file."""


class IIngest(Interface):
    """
    A blob being received: what is written survives a restart and becomes a blob only when its digest is right.

    The caller waits for each Deferred before the next call.
    """

    digest = Attribute("the L{Digest} the whole must have")
    size = Attribute("bytes received so far (int)")
    origin = Attribute("the L{Origin} noted with the bytes, for a resumption after a restart")
    file = Attribute("L{IOpenFile} on the bytes received so far; stays readable after C{commit} and C{discard}")

    def write(data: list[bytes]) -> Deferred[None]:
        """Append and hash C{data}. Fails with L{OSError} when the disk refuses."""

    def note(origin: Origin) -> Deferred[None]:
        """Remember where the bytes come from, durably enough to resume."""

    def verify() -> bool:
        """Whether what was received has the digest."""

    def commit() -> Deferred[None]:
        """
        Make it a blob: durable when the Deferred fires.

        Fails with L{BlobDamaged} when the digest is wrong; the bytes are gone then.
        """

    def discard() -> Deferred[None]:
        """Throw the bytes away."""

    def close() -> None:
        """Stop here and keep the bytes for a resumption."""


@dataclass(frozen=True)
class Origin:
    """
    Where a blob that is under way comes from.

    @ivar upstream: configured name of the upstream.
    @ivar repository: the repository's name there.
    @ivar size: bytes of the whole, C{None} while unknown.
    @ivar validator: strong entity tag for If-Range (RFC 9110 section 13.1.5), C{None} when the upstream gave none.
    """

    upstream: str
    repository: str
    size: int | None = None
    validator: str | None = None


class IBlobStore(Interface):
    """Immutable bytes by digest; manifests and blobs alike."""

    def size(digest: Digest) -> int | None:
        """The blob's size, C{None} when it is not held. Immediate."""

    def open(digest: Digest) -> IOpenFile:
        """Open a held blob, acquired once for the caller. Raises L{NotHeld}. Immediate."""

    def read(digest: Digest, limit: int) -> Deferred[bytes]:
        """A small blob's bytes. Fails with L{NotHeld}, or L{BlobDamaged} when it is larger than C{limit} bytes."""

    def put(digest: Digest, data: bytes) -> Deferred[None]:
        """
        Store a small blob that is wholly here; durable when the Deferred fires. Storing what is held is no error.

        Fails with L{BlobDamaged} when C{data} does not have C{digest}.
        """

    def ingest(digest: Digest) -> Deferred[IIngest]:
        """Receive a blob: fires with an L{IIngest} that goes on where an earlier one was closed or cut."""

    def unfinished() -> list[Digest]:
        """The blobs that were being received when they were cut."""

    def total() -> int:
        """Bytes of all blobs held."""


# -- index ----------------------------------------------------------------------------------------------------------


class IDocuments(Interface):
    """Small JSON documents by key; a key is a tuple of path components that are safe as file names."""

    def read(key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """Fires with (bytes, version), or C{None} when there is no such document."""

    def write(key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        """
        Replace the document whose version is C{replaces} (0: there is none yet); durable when the Deferred fires,
        with the new version. Fails with L{VersionConflict} when it has another version by now.
        """

    def set_aside(key: tuple[str, ...]) -> Deferred[str]:
        """Move a document that cannot be parsed out of the way; fires with where it went, for the log."""

    def list(prefix: tuple[str, ...], name: str) -> Deferred[list[tuple[str, ...]]]:
        """The keys under C{prefix} whose last component is C{name}, sorted."""


# -- upstream -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestHead:
    """What an upstream says of a manifest without sending it; every field may be missing."""

    digest: Digest | None
    size: int | None
    media_type: str | None


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest as received: C{data} bit for bit, C{content_type} as claimed (may be C{None})."""

    data: bytes
    content_type: str | None


class IBlobResponse(Interface):
    """An upstream's answer to a blob request, its body not yet read."""

    start = Attribute("offset of the first byte of the body in the blob (int): 0 when a range was ignored")
    size = Attribute("bytes of the whole blob as claimed, or None (int | None)")
    validator = Attribute("strong entity tag, or None (str | None)")

    def deliver(consumer: IConsumer) -> Deferred[None]:
        """
        Send the body into C{consumer}, to which a push producer is registered for the time being.

        @return: fires when the body has ended, however it ended without an error of the connection; the caller checks
            length and digest. Fails with L{UpstreamUnavailable} when the line is cut and L{UpstreamTimeout} when
            nothing comes for too long while the producer is not paused.
        """

    def abandon() -> None:
        """Drop the connection; the body is not wanted."""


class IUpstream(Interface):
    """
    One registry that can be asked.

    Every method fails with the subclasses of L{UpstreamError}, or L{Offline} when no packet may leave. Cancelling a
    Deferred drops the request.
    """

    name = Attribute("the configured name (str), as in C{docker.io}")

    def repository(name: str) -> str:
        """The repository's full name there (Docker Hub: C{nginx} is C{library/nginx}). Immediate."""

    def head(repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """Ask for a manifest's digest by tag or digest without fetching it."""

    def manifest(repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """Fetch a manifest whole; the caller verifies its digest."""

    def blob(
        repository: str, digest: Digest, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> Deferred[IBlobResponse]:
        """
        Open a blob from offset C{start} to before C{stop} (C{None}: its end); C{validator} becomes If-Range.
        """

    def blob_size(repository: str, digest: Digest) -> Deferred[int | None]:
        """A blob's size without fetching it, C{None} when the upstream has it and does not say."""

    def tags(repository: str) -> Deferred[list[str]]:
        """All tags of the repository, its pages followed; unsorted as received, invalid ones left out."""


# -- seen from outside ------------------------------------------------------------------------------------------------


class IAccounts(Interface):
    """Told once of every request, however it ended."""

    clock = Attribute("L{IReactorTime} that durations are taken from")

    def answered(
        client: str, method: str, path: str, kind: str, code: int, octets: int, seconds: float, cache: str
    ) -> None:
        """
        A response was sent, or its connection was lost.

        @param kind: what was asked for: C{manifest}, C{blob}, C{tags}, C{ping} or C{other}.
        @param octets: bytes of the body that were sent.
        @param cache: L{appliance.cache.status.CacheStatus.label}, or C{-}.
        """
