"""
From archives into the store: blobs that are not held, hashed while they are written.

Reading and writing overlap: while a piece is hashed and written on one thread, the next is read on another. A blob that
was cut goes on where it stopped; what the store has of it is not read from the archive again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from appliance.bundle.archive import whole
from appliance.bundle.offer import Place, Supply
from appliance.errors import BlobDamaged, BundleDamaged, BundleNotRead, BundleNotStored
from appliance.interfaces import IBlobStore, IIngest, IThreads, Origin
from appliance.oci.digest import Digest

#: One read, and one write.
PIECE = 1024 * 1024
#: Up to so many bytes a blob is stored by one call.
SMALL = 512 * 1024
#: Blobs that are stored at the same time, each with two pieces in memory. One leaves the processors to those who pull
#: meanwhile, and is faster than the media that bundles come on.
AT_ONCE = 1


class Intake:
    """
    One import's way into the store.

    @ivar read_bytes: bytes read from the archives so far.
    """

    def __init__(self, store: IBlobStore, threads: IThreads, progressed: Callable[[str, int], None]) -> None:
        """@param progressed: told the entry and how many bytes of it are now held that were not before."""
        self._store = store
        self._threads = threads
        self._progressed = progressed
        self.read_bytes = 0

    async def take_all(self, supplies: Sequence[Supply]) -> None:
        """
        Store them, in order as far as several at once allow; each is durable on return.

        @raise BundleDamaged: the bytes are not those of the digest; nothing of them is kept.
        @raise BundleNotRead: the medium cannot be read.
        @raise BundleNotStored: the store cannot take them.
        """
        waiting = list(reversed(supplies))
        # Compressed archives are read from one end to the other.
        streamed = any(place.archive.streamed for supply in supplies for place in supply.places)
        await _together([self._work(waiting) for _ in range(1 if streamed else AT_ONCE)])

    async def _work(self, waiting: list[Supply]) -> None:
        while waiting:
            supply = waiting.pop()
            try:
                await self._take(supply)
            except OSError as error:
                raise BundleNotStored(
                    f"{supply}: the store cannot take it: {error.strerror or error}; make room and import again: what"
                    " is stored by now is not read again"
                ) from error

    async def _take(self, supply: Supply) -> None:
        if self._store.size(supply.digest) == supply.size:
            # A client's pull has brought it since the import began.
            self._progressed(str(supply), supply.size)
        elif supply.data is not None or supply.size <= SMALL:
            await self._put(supply)
        else:
            # What an earlier import or a pull left may be wrong, after a power cut too: once more from the beginning.
            while not await self._stream(supply):
                pass

    async def _put(self, supply: Supply) -> None:
        data = supply.data if supply.data is not None else await self._threads.call(_gathered, supply)
        try:
            await self._store.put(supply.digest, data)
        except BlobDamaged:
            raise await self._damaged(supply) from None
        self.read_bytes += 0 if supply.data is not None else supply.size
        self._progressed(str(supply), supply.size)

    async def _stream(self, supply: Supply) -> bool:
        """Receive the blob; C{False} when it is wrong, and gone, and not all of its bytes were those of the archive."""
        ingest = await self._store.ingest(supply.digest)
        try:
            if ingest.size > supply.size:
                await ingest.discard()
                return False
            if ingest.origin is None:
                # So that a start knows whether it is whole.
                await ingest.note(Origin(None, "", supply.size))
            staged = ingest.size
            self._progressed(str(supply), staged)
            await self._copy(supply, ingest)
            return await self._commit(supply, ingest, staged)
        finally:
            ingest.close()

    async def _commit(self, supply: Supply, ingest: IIngest, staged: int) -> bool:
        try:
            await ingest.commit()
        except BlobDamaged:
            self._progressed(str(supply), -supply.size)
            if staged:
                return False
            raise await self._damaged(supply) from None
        return True

    async def _copy(self, supply: Supply, ingest: IIngest) -> None:
        """From where the ingest is to the end; the next read is under way while a piece is written."""
        ahead = self._read(supply, ingest.size)
        try:
            while data := await ahead:
                self.read_bytes += len(data)
                ahead = self._read(supply, ingest.size + len(data))
                await ingest.write([data])
                self._progressed(str(supply), len(data))
        finally:
            # Its result is of no use when the loop was left by an error; awaited or not, it must not go unheard.
            ahead.addErrback(lambda _: None)

    async def _damaged(self, supply: Supply) -> BundleDamaged:
        """The error for a blob that is wrong; of one in parts, that names the wrong part."""
        for place in supply.places:
            if place.sha256 and await self._threads.call(_sha256, place) != place.sha256:
                return _wrong_part(place)
        return BundleDamaged(f"{supply}: its bytes do not have the digest {supply.digest}; copy the archive again")

    def _read(self, supply: Supply, start: int) -> Deferred[bytes]:
        return self._threads.call(_read_at, supply, start)


async def _together(work: Sequence[Coroutine[Deferred[Any], Any, None]]) -> None:
    """Run all to their ends; the first failure ends the others, and is raised when all have ended."""
    failures: list[Failure] = []
    tasks = [Deferred.fromCoroutine(each) for each in work]

    def failed(failure: Failure) -> None:
        failures.append(failure)
        for task in tasks:
            task.cancel()

    for task in tasks:
        task.addErrback(failed)
    await DeferredList(tasks)
    if failures:
        failures[0].raiseException()


def in_file_order(supplies: Iterable[Supply]) -> list[Supply]:
    """Made here first, then as they lie in the files."""
    return sorted(
        supplies,
        key=lambda supply: [(place.archive.source, place.item.start, place.item.name) for place in supply.places[:1]],
    )


def check_bytes(
    places: Sequence[Place], digest: Digest | None, progressed: Callable[[int], None] = lambda _: None
) -> None:
    """
    Read a blob that is not to be stored and compare it with its hashes. Blocking.

    As where it is stored, the digest decides: the hashes of parts tell which volume is wrong, or stand in for a digest.

    @param digest: of what C{places} hold together; C{None} where they are only some parts of a blob.
    @param progressed: told how many more bytes were read.
    @raise BundleDamaged: the bytes are not those of the digest, or of a part.
    @raise BundleNotRead: the medium cannot be read.
    """
    entire = None if digest is None else digest.hasher()
    wrong: list[Place] = []
    for place in places:
        part, start = hashlib.sha256(), 0
        while data := _read_place(place, start):
            start += len(data)
            progressed(len(data))
            if place.sha256:
                part.update(data)
            if entire is not None:
                entire.update(data)
        if place.sha256 and part.hexdigest() != place.sha256:
            wrong.append(place)
    if entire is not None and digest is not None and entire.hexdigest() == digest.encoded:
        return
    if wrong:
        raise _wrong_part(wrong[0])
    if digest is not None:
        raise BundleDamaged(f"{places[0]}: its bytes do not have the digest {digest}; copy the archive again")


def _wrong_part(place: Place) -> BundleDamaged:
    return BundleDamaged(f"{place}: this part is not what was written; copy that volume again")


def _read_at(supply: Supply, start: int) -> bytes:
    """At most L{PIECE} bytes of the blob from offset C{start}; none at its end."""
    for place in supply.places:
        if start < place.item.size:
            return _read_place(place, start)
        start -= place.item.size
    return b""


def _read_place(place: Place, start: int) -> bytes:
    """At most L{PIECE} bytes of the file from offset C{start}; none at its end."""
    try:
        return place.archive.read(place.item, start, PIECE)
    except OSError as error:
        raise BundleNotRead(
            f"{place}: cannot be read: {error.strerror}; clean or copy the medium and import again: what is"
            " stored by now is not read again"
        ) from None


def _gathered(supply: Supply) -> bytes:
    """A small blob's bytes, from all its places."""
    try:
        return b"".join(whole(place.archive, place.item, SMALL) for place in supply.places)
    except OSError as error:
        raise BundleNotRead(f"{supply}: cannot be read: {error.strerror}; copy the archive again") from None


def _sha256(place: Place) -> str:
    hasher, start = hashlib.sha256(), 0
    while data := place.archive.read(place.item, start, PIECE):
        hasher.update(data)
        start += len(data)
    return hasher.hexdigest()
