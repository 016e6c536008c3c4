"""
The seams of the appliance, as zope Interfaces; those of upstreams are in C{appliance.upstream.interfaces}.

A provider has a contract suite in ``tests/contracts/`` that it passes. Deferreds stand at the seams; inside a module
work is ``async def``. Sizes and offsets are bytes, durations seconds; a range is half open, C{start <= x < stop}.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
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


class IWallClock(Interface):
    """
    A clock (L{IReactorTime}) whose C{seconds} only count, and that knows the time of day besides.

    Durations, deadlines and all else that ends with this process are in its C{seconds}; C{wall} is for what outlives
    the process, is compared with what does, or is shown to a client or an operator.
    """

    def wall() -> float:
        """Seconds since the epoch, as the machine has them: they may be set, back and forth. Immediate."""


class IFileTransport(Interface):
    """A transport that can send part of a file without the bytes passing through this process."""

    def send_file(
        fd: int, start: int, length: int, sent: Callable[[int], None], failed: Callable[[OSError], None]
    ) -> None:
        """
        Send C{length} bytes of the open file C{fd} from offset C{start}, after everything written before.

        C{sent(n)} is called each time C{n} more of them have been handed to the network. The caller keeps C{fd} open
        until all are, or until its producer is stopped; it has at most one file range under way and writes nothing
        meanwhile. C{failed(error)} is called instead, once, when the file cannot be read or ends too early; then the
        caller aborts the connection, since less was sent than was promised.
        """


# -- store ----------------------------------------------------------------------------------------------------------


class IBlobReader(Interface):
    """
    One reader of the bytes of a blob, or of what has been received of one; L{close} it.

    What is open stays readable when the blob is committed, discarded or deleted.
    """

    size = Attribute("bytes that are there by now (int)")

    def read(start: int, stop: int) -> Deferred[bytes]:
        """
        The bytes from C{start} to before C{stop}; fewer, or none, where there are no more. Fails with L{OSError}.

        A large range is read off the reactor; a small one may be read at once.
        """

    def send(
        start: int,
        stop: int,
        transport: IFileTransport,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> bool:
        """
        Send the bytes from C{start} to before C{stop} to C{transport} without their passing through this process.

        See L{IFileTransport.send_file} for C{sent} and C{failed}, and for how long the reader is to be kept open.

        @return: C{False}, and nothing was done, when they lie in no file of this machine now: then they can be L{read}.
        """

    def prefetch(start: int, stop: int) -> None:
        """These bytes will be wanted soon: get them ready, if that takes time. Immediate; a failure shows later."""

    def close() -> None:
        """The reader is used no more; L{read} fails from now on. Twice is no error."""


class IIngest(Interface):
    """
    A blob being received: what is written becomes a blob only when its digest is right.

    Each has a file of its own, also where several receive the same blob at once. The caller waits for each Deferred
    before the next call; L{note} and L{write_ahead} may overlap with others. What a cancelled call has begun goes on,
    and the next one waits for its end.

    An I{unstored} one only passes the bytes on: it never becomes a blob, and what came is gone when it is closed and
    its readers are. They lie in a file without a name; from where the disk takes no more of them, the latest are in
    memory, and the readers have to keep up with each other.
    """

    digest = Attribute("the L{Digest} the whole must have")
    size = Attribute("bytes received so far (int)")
    origin = Attribute("the L{Origin} noted with the bytes, for a resumption after a restart")
    stored = Attribute("whether it can become a blob (bool)")
    start = Attribute("offset of the first byte that a new reader can have (int): 0 while none was dropped from memory")
    readers = Attribute("how many L{reader}s are open (int)")

    def unstore() -> None:
        """It is stored no more, for instance since the disk refused. What came can be read on. Immediate."""

    def room() -> Deferred[None]:
        """
        Fires when more may be written: at once, but for an unstored one whose readers have left too much in memory. A
        write that does not wait for it is no error.
        """

    def shed() -> int:
        """
        Give up the readers that have stood still since the last call and keep others waiting; how many. Their reads
        fail from now on. Immediate.
        """

    def write(data: list[bytes]) -> Deferred[None]:
        """
        Append and hash C{data}. Fails with L{OSError} when the disk refuses: then none of it was, and it may be written
        again. That of an unstored one does not fail for the disk.
        """

    def write_ahead(offset: int, data: list[bytes]) -> Deferred[None]:
        """
        Put C{data} at C{offset}, at or behind C{size}, without counting or hashing it; a restart may forget it.

        Fails with L{OSError} when the disk refuses. May be called while another call is under way, for bytes that do
        not overlap.
        """

    def absorb(stop: int) -> Deferred[None]:
        """
        Count and hash what was written ahead from C{size} to before C{stop}.

        Fails with L{OSError} when the disk refuses, and with L{ValueError}, nothing absorbed, when some of it was not
        written ahead.
        """

    def note(origin: Origin) -> Deferred[None]:
        """Remember where the bytes come from, durably enough to resume."""

    def reader(start: int = 0) -> IBlobReader:
        """
        A reader of the bytes received so far and of those still to come, from offset C{start} on: of an unstored one,
        what is in front of that may be gone. Raises L{OSError} after the end.
        """

    def verify() -> bool:
        """Whether what was received has the digest."""

    def commit() -> Deferred[None]:
        """
        Make it a blob: durable when the Deferred fires. From then on its file cannot be written to. Where another
        ingest has committed the blob meanwhile, that one stays, unless it has lost its end since: then it is set aside.

        Fails with L{BlobDamaged} when the digest is wrong; the bytes are gone then. Fails with L{OSError} when the disk
        refuses, or it is unstored: then there is no blob.
        """

    def discard() -> Deferred[None]:
        """Throw the bytes away; those that another ingest of the same blob receives are not touched."""

    def close() -> None:
        """Stop here and keep the bytes for a resumption; L{IBlobStore.ingest} says which may resume."""


@dataclass(frozen=True)
class Origin:
    """
    Where a blob that is under way comes from.

    @ivar upstream: configured name of the upstream, C{None} for an archive.
    @ivar repository: the repository's name there, empty for an archive.
    @ivar size: bytes of the whole, C{None} while unknown.
    @ivar validator: strong entity tag for If-Range (RFC 9110 section 13.1.5), C{None} when the upstream gave none.
    """

    upstream: str | None
    repository: str
    size: int | None = None
    validator: str | None = None


@dataclass(frozen=True)
class Unfinished:
    """
    What is left of a blob that was being received.

    @ivar size: bytes of it.
    @ivar origin: where they come from, C{None} when that was not noted or cannot be read.
    @ivar written: when the last of them were, seconds since the epoch.
    """

    size: int
    origin: Origin | None
    written: float


class Stored(NamedTuple):
    """
    A blob that is held.

    @ivar size: bytes.
    @ivar modified: when its last byte came, seconds since the epoch.
    """

    digest: Digest
    size: int
    modified: float


@dataclass(frozen=True)
class SetAside:
    """
    A blob that was found damaged: its bytes lie beside the store's blobs, for who wants to look at them.

    @ivar size: bytes of it, which are not those of the digest.
    @ivar since: when it was set aside, seconds since the epoch.
    """

    digest: Digest
    size: int
    since: float


class IBlobStore(Interface):
    """
    Immutable bytes by digest; manifests and blobs alike.

    What is to be stored, by L{put} or L{ingest}, is refused with L{OSError} (C{ENOSPC}) where less than C{floor} bytes
    of the disk would be left, so that there is room for documents.
    """

    floor = Attribute("bytes of the disk that blobs leave free (int); may be set")

    leases = Attribute(
        "which blobs are in use (L{appliance.store.leases.Leases}): those that are open, are being received or are put"
    )

    def size(digest: Digest) -> int | None:
        """The blob's size, C{None} when it is not held. Immediate."""

    def open(digest: Digest) -> IBlobReader:
        """Open a held blob. Raises L{NotHeld}. Immediate."""

    def read(digest: Digest, limit: int) -> Deferred[bytes]:
        """A small blob's bytes. Fails with L{NotHeld}, or L{BlobDamaged} when it is larger than C{limit} bytes."""

    def read_all(digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        """
        The bytes of several small blobs, for about the price of one.

        What is not held or cannot be read is left out, and what is more than remains of C{limit} bytes for all of them:
        L{read} says which. Where there is a reactor, never fires before it has served others.
        """

    def put(digest: Digest, data: bytes) -> Deferred[None]:
        """
        Store a small blob that is wholly here; durable when the Deferred fires. Storing what is held is no error; a
        file of that name that holds something else is set aside.

        Fails with L{BlobDamaged} when C{data} does not have C{digest}.
        """

    def ingest(digest: Digest, keep: bool = True) -> Deferred[IIngest]:
        """
        Receive a blob: fires with an L{IIngest} that goes on where an earlier one was closed or cut.

        @param keep: C{False} for an unstored one, which begins with nothing. That does not fail for the disk.

        While one is open, another of the same digest begins with nothing, and what it received is gone when it is
        closed. Whichever is committed first becomes the blob; the others' bytes are gone when they are closed.
        Cancelling closes what was being opened.
        """

    def unfinished() -> list[Digest]:
        """The blobs that were being received when they were cut."""

    def inspect(digest: Digest) -> Deferred[Unfinished | None]:
        """What is known of such a blob without reading its bytes, C{None} when there is nothing of it."""

    def is_receiving(digest: Digest) -> bool:
        """Whether such a blob is being received: another ingest of it begins with its first byte."""

    def forget(digest: Digest) -> Deferred[bool]:
        """Throw away what is left of such a blob; C{False}, and nothing is, when it is being received now."""

    def delete(*digests: Digest) -> Deferred[None]:
        """
        Hold some blobs no more: from now on none of them is, and durably when the Deferred fires. What is not held is
        no error. Fails with L{OSError} when the disk refuses; then the rest is gone all the same.

        Damaged bytes that lie aside of one that was held go with it: nothing is lacking then. Who has one open goes on
        reading it, and one that is being received is not touched: it may become the blob again. Leases are not looked
        at: that is the caller's part, in the same turn of the reactor.
        """

    def walk() -> AsyncIterator[list[Stored]]:
        """
        All blobs, in no order, some hundred at a time. What comes or goes meanwhile may be among them or not. Where
        there is a reactor, others are served between two of the lists. Afterwards L{total} is right also where files
        were removed by hand. Raises L{OSError}.
        """

    def verify(digest: Digest, paced: Callable[[int], Awaitable[None]] | None = None) -> Deferred[bool]:
        """
        Read a held blob again, piece by piece; fires with whether it has its digest. What the disk cannot read counts
        as damaged. What was not in memory before is not left there.

        Fails with L{NotHeld}, also when it is deleted before it is opened, and with another L{OSError} than those of a
        damaged disk, such as one about permissions: then nothing is known. Cancelling ends it after the piece in hand.

        @param paced: is given the bytes of each piece that was read, and is waited for before the next one.
        """

    def set_aside(digest: Digest) -> Deferred[bool]:
        """
        Hold a blob no more and keep its bytes as L{damaged}, in place of older ones of that digest; durable when the
        Deferred fires. Fires with whether it was held. Who has it open goes on reading.
        """

    def damaged() -> Deferred[list[SetAside]]:
        """What was set aside, sorted by digest; also what is held again by now."""

    def read_damaged(digest: Digest, limit: int) -> Deferred[bytes]:
        """
        What can be read of the bytes that were set aside, C{limit} of them at most: what a damaged manifest named. None
        where there are none.
        """

    def drop_damaged(digest: Digest) -> Deferred[None]:
        """Keep the bytes that were set aside no more; where there are none it is no error."""

    def total() -> int:
        """Bytes of all blobs held."""

    def free() -> int:
        """
        Bytes of the disk that are free for us. Immediate.

        Raises L{OSError}: C{EROFS} where nothing can be written at all, others where it cannot be found out.
        """

    def capacity() -> int:
        """Bytes of the whole disk. Immediate. Raises L{OSError} where that cannot be found out."""


# -- index ----------------------------------------------------------------------------------------------------------


class IDocuments(Interface):
    """Small JSON documents by key; a key is a tuple of path components that are safe as file names."""

    damaged = Attribute("set aside since the start (list[tuple[str, str]]): the document's key as a path, where it is")
    unreadable = Attribute("documents whose last read failed (dict[str, str]): by key as a path, the reason in words")

    def read(key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """
        Fires with (bytes, version), or C{None} when there is no such document.

        Fails with L{DocumentDamaged} when it is larger than any document, and with L{OSError} when the disk does not
        give it: then it may be whole all the same, and a later read may succeed.
        """

    def write(key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        """
        Replace the document whose version is C{replaces} (0: there is none yet); durable when the Deferred fires,
        with the new version. Fails with L{VersionConflict} when it has another version by now.
        """

    def append(key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        """
        Write C{data} behind what the document has in version C{replaces} (0: there is none yet); durable when the
        Deferred fires, with the new version. Fails with L{VersionConflict} when it has another version by now, or is
        shorter than it was. What a failed call leaves behind the document is cut off by the next; a power cut may
        leave a part of C{data} there.
        """

    def journals(key: tuple[str, ...]) -> Deferred[list[int]]:
        """
        The numbers of the journals beside the document, sorted. They are documents of their own, with the keys
        C{appliance.index.documents.journal_of}.
        """

    def remove(key: tuple[str, ...]) -> Deferred[None]:
        """Remove a document; one that is not there is no error. A power cut may bring it back."""

    def set_aside(key: tuple[str, ...]) -> Deferred[str]:
        """
        Move a document that cannot be parsed out of the way, and note it in C{damaged}; fires with where it went, for
        the log. See C{appliance.index.documents.read_document}.
        """

    def sweep(before: float) -> Deferred[tuple[int, int]]:
        """
        Throw away what was set aside before then, seconds since the epoch by the machine's clock; fires with how many
        others there are, those of earlier processes too, and their bytes.
        """

    def list(prefix: tuple[str, ...], name: str) -> Deferred[list[tuple[str, ...]]]:
        """
        The keys under C{prefix} whose last component is C{name}, sorted. Fails with L{OSError} when a folder cannot be
        read: there may be others.
        """


# -- seen from outside ------------------------------------------------------------------------------------------------


class IAccounts(Interface):
    """Is called once for every request, however it ended."""

    clock = Attribute("L{IReactorTime} that durations are taken from")

    def answered(
        client: str,
        user: str | None,
        method: str,
        path: str,
        kind: str,
        code: int,
        octets: int,
        seconds: float,
        cache: str,
    ) -> None:
        """
        A response was sent, or its connection was lost.

        @param client: the IP address of the client, or C{-}.
        @param user: who is logged in, by the name that was checked, C{None} for an anonymous client.
        @param kind: what was requested: C{manifest}, C{blob}, C{tags}, C{ping} or C{other}.
        @param octets: bytes of the body that were sent.
        @param cache: L{appliance.cache.status.CacheStatus.label}, or C{-}.
        """


class IAudit(Interface):
    """Keeps a line of everything that is changed, or was refused, and by whom; see L{appliance.admin.audit}."""

    file = Attribute("Where they are, an L{appliance.admin.auditfile.AuditFile}; C{None}: nothing is kept.")

    def note(
        action: str,
        what: str,
        outcome: str,
        *,
        user: str | None = None,
        means: str = "",
        address: str = "-",
        rule: str = "",
        why: str = "",
    ) -> None:
        """
        Something was done, was refused, or failed. Immediate: the line is durable soon after, whatever follows.

        No argument may hold a password, a token, or a user name that was not checked.

        @param action: what was asked for, a word: C{pull} C{list} C{login} (those that were refused), C{import}
            C{export} C{pin} C{unpin} C{remove} C{collect} C{scrub} C{reload} C{certificate} C{start} C{stop}...
        @param what: what it was done to, as operators write it: a reference, a file, a name; C{""} for the appliance.
        @param outcome: C{done}, C{refused} or C{failed}.
        @param user: who asked, C{None} for an anonymous client and for the appliance itself.
        @param means: how that is known: L{appliance.cache.access.Client.means}, that of an operator, or C{""} for the
            appliance itself.
        @param address: where they are, C{-} where there is no such thing.
        @param rule: the text of the rule that decided, if one did.
        @param why: the reason, in words.
        """

    def flush() -> Deferred[None]:
        """Fires when what was noted by now is durable, or could not be made so, which is logged."""

    def waiting() -> int:
        """How many lines the disk has not taken, those that were given up included. Immediate."""
