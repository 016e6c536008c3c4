"""
From archives into the store: blobs that are not held, hashed while they are written.

Reading and writing overlap: while a piece is hashed and written on one thread, the next is read on another. A blob that
was cut goes on where it stopped; what the store has of it is not read from the archive again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NoReturn

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from appliance.bundle.archivecontents import BlobFile, BlobSource, wrong_bytes
from appliance.errors import BlobDamaged, BundleDamaged, BundleNotRead, BundleNotStored
from appliance.interfaces import IBlobStore, IIngest, IThreads, Origin
from appliance.oci.digest import Digest

#: One read, and one write.
PIECE = 1024 * 1024
#: Up to so many bytes a blob is stored by one call.
SMALL = 512 * 1024


class BlobIngest:
    """
    One import's way into the store.

    One blob at a time, with two pieces in memory: that leaves the processors to clients that pull meanwhile, and is
    faster than the media that bundles come on.

    @ivar read_bytes: bytes read from the archives so far.
    """

    def __init__(self, store: IBlobStore, threads: IThreads, progressed: Callable[[str, int], None]) -> None:
        """@param progressed: called with the entry and how many bytes of it are now held that were not before."""
        self._store = store
        self._threads = threads
        self._progressed = progressed
        self.read_bytes = 0

    async def store_all(self, blobs: Sequence[BlobSource], unneeded: Collection[Digest] = ()) -> None:
        """
        Store them in order; each is durable on return.

        @param unneeded: those that are only to be right, and are not stored.
        @raise BundleDamaged: the bytes are not those of the digest; nothing of them is kept.
        @raise BundleNotRead: the medium cannot be read.
        @raise BundleNotStored: the store cannot take them.
        """
        await self._expect(blobs, unneeded)
        for blob in blobs:
            try:
                if blob.digest in unneeded:
                    await self._check(blob)
                elif self._store.size(blob.digest) == blob.size:
                    # A client's pull has brought it since the import began.
                    self._progressed(str(blob), blob.size)
                elif blob.data is not None or blob.size <= SMALL:
                    await self._put(blob)
                else:
                    # What an earlier import or a pull left may be wrong, after a power cut too: then once more from
                    # the beginning.
                    while not await self._stream(blob):
                        pass
            except OSError as error:
                raise BundleNotStored(
                    f"{blob}: the store cannot take it: {error.strerror or error}; make room and import again: what"
                    " is stored by now is not read again"
                ) from error

    async def _expect(self, blobs: Iterable[BlobSource], unneeded: Collection[Digest]) -> None:
        """Tell the archives what will be read, and in which order."""
        for blob in blobs:
            # Of a file on a disk there is nothing to prepare.
            if all(file.archive.can_go_back for file in blob.files):
                continue
            staged = None
            if blob.size > SMALL and blob.digest not in unneeded and not self._store.is_receiving(blob.digest):
                staged = await self._store.inspect(blob.digest)
            start = 0 if staged is None else staged.size
            for file in blob.files:
                if start < file.item.size:
                    file.archive.expect(file.item, start)
                start = max(0, start - file.item.size)

    async def _check(self, blob: BlobSource) -> None:
        """Hash a blob that is not stored."""
        hasher, start = blob.digest.hasher(), 0
        while data := await self._read(blob, start):
            start += len(data)
            self.read_bytes += len(data)
            await self._threads.call(hasher.update, data)
        if hasher.hexdigest() != blob.digest.encoded:
            await self._refuse(blob)

    async def _put(self, blob: BlobSource) -> None:
        """Store a small blob by one call."""
        data = blob.data
        if data is None:
            pieces: list[bytes] = []
            while (start := sum(map(len, pieces))) < blob.size:
                pieces.append(await self._read(blob, start))
            data = b"".join(pieces)
        try:
            await self._store.put(blob.digest, data)
        except BlobDamaged:
            await self._refuse(blob)
        self.read_bytes += 0 if blob.data is not None else blob.size
        self._progressed(str(blob), blob.size)

    async def _stream(self, blob: BlobSource) -> bool:
        """Receive the blob; C{False} when it is wrong, and gone, and not all of its bytes were those of the archive."""
        ingest = await self._store.ingest(blob.digest)
        try:
            if ingest.size > blob.size:
                await ingest.discard()
                return False
            if ingest.origin is None:
                # So that a start knows whether it is whole.
                await ingest.note(Origin(None, "", blob.size))
            staged = ingest.size
            self._progressed(str(blob), staged)
            await self._copy(blob, ingest)
            try:
                await ingest.commit()
            except BlobDamaged:
                self._progressed(str(blob), -blob.size)
                if staged:
                    return False
                await self._refuse(blob)
            return True
        finally:
            ingest.close()

    async def _copy(self, blob: BlobSource, ingest: IIngest) -> None:
        """From where the ingest is to the end; the next read is under way while a piece is written."""
        ahead = self._read(blob, ingest.size)
        try:
            while data := await ahead:
                self.read_bytes += len(data)
                ahead = self._read(blob, ingest.size + len(data))
                await ingest.write([data])
                self._progressed(str(blob), len(data))
        finally:
            # Of no use when the loop was left by an error; its own error then must not be logged as unhandled.
            ahead.addErrback(lambda _: None)

    def _read(self, blob: BlobSource, start: int) -> Deferred[bytes]:
        """
        At most L{PIECE} bytes of the blob from offset C{start}; none at its end. Fails with L{BundleNotRead} where the
        medium cannot be read.
        """
        for file in blob.files:
            if start < file.item.size:

                def failed(failure: Failure, file: BlobFile = file) -> NoReturn:
                    if isinstance(failure.value, OSError):
                        raise _not_read(file, failure.value) from None
                    failure.raiseException()

                return file.archive.fetch(self._threads, file.item, start, PIECE).addErrback(failed)
            start -= file.item.size
        return succeed(b"")

    async def _refuse(self, blob: BlobSource) -> NoReturn:
        """Raise what is wrong with a blob; of one in parts, that names the wrong part."""
        for file in blob.files:
            if file.sha256 and file.archive.can_go_back:
                await self._threads.call(check_bytes, [file], None)
        raise wrong_bytes(blob, blob.digest) from None


def in_file_order(blobs: Iterable[BlobSource]) -> list[BlobSource]:
    """Made here first, then as they lie in the files."""
    return sorted(
        blobs,
        key=lambda blob: [(file.archive.source, file.item.start, file.item.name) for file in blob.files[:1]],
    )


def check_bytes(
    files: Sequence[BlobFile], digest: Digest | None, progressed: Callable[[int], None] = lambda _: None
) -> None:
    """
    Read a blob that is not to be stored and compare it with its hashes. Blocking.

    As where it is stored, the digest decides: the hashes of parts tell which volume is wrong, or stand in for a digest.

    @param digest: of what C{files} hold together; C{None} where they are only some parts of a blob.
    @param progressed: called with how many more bytes were read.
    @raise BundleDamaged: the bytes are not those of the digest, or of a part.
    @raise BundleNotRead: the medium cannot be read.
    """
    entire = None if digest is None else digest.hasher()
    wrong: list[BlobFile] = []
    for file in files:
        part, start = hashlib.sha256(), 0
        while data := _read_place(file, start):
            start += len(data)
            progressed(len(data))
            if file.sha256:
                part.update(data)
            if entire is not None:
                entire.update(data)
        if file.sha256 and part.hexdigest() != file.sha256:
            wrong.append(file)
    if entire is not None and digest is not None and entire.hexdigest() == digest.encoded:
        return
    if wrong:
        raise BundleDamaged(f"{wrong[0]}: this part is not what was written; copy that volume again")
    if digest is not None:
        raise wrong_bytes(files[0], digest)


def _read_place(file: BlobFile, start: int) -> bytes:
    """At most L{PIECE} bytes of the file from offset C{start}; none at its end."""
    try:
        return file.archive.read(file.item, start, PIECE)
    except OSError as error:
        raise _not_read(file, error) from None


def _not_read(file: BlobFile, error: OSError) -> BundleNotRead:
    return BundleNotRead(
        f"{file}: cannot be read: {error.strerror}; clean or copy the medium and import again: what is stored by now is"
        " not read again"
    )
