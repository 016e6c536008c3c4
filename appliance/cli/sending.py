"""
Sending archives to an appliance on another machine: first their head, then what it wants of them, after a cut again.

The archives are opened here with the appliance's own reader, so a compressed one is unpacked here, and what goes over
the wire is what lies in it. Nothing is remembered between two attempts: the appliance says each time what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import SEEK_END
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import FileBodyProducer
from twisted.web.iweb import IResponse

from appliance.api import MAX_SENDING_HEAD, SENDING, SentHead, Wanted
from appliance.bundle.archive import Archive, Item
from appliance.bundle.bundlejson import decode
from appliance.bundle.compression import Stop
from appliance.bundle.contents import BUNDLE, INDEX, MANIFEST, OCI_LAYOUT, SIGNATURE, VOLUME, blob_name
from appliance.bundle.reader import document_of, open_into
from appliance.bundle.receipt import Receipt
from appliance.cli.client import TOO_LARGE, refusal
from appliance.cli.command import Session
from appliance.cli.failures import AnswerCut, CommandFailed, RefusedByAppliance, Unreachable
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES

FIRST_PART = 1024 * 1024
"""Bytes of the first request of some: what a proxy takes that was told nothing; the next ones have more."""

MAX_PART = 32 * 1024 * 1024
"""The most: a proxy may collect it whole before it passes it on."""

TRIES = 10
"""Attempts in a row that bring nothing further before it is given up."""

LONGEST_PAUSE = 30.0
"""Seconds between two attempts; the first is a second after, each next one after twice as long."""

LAST_WORD = 5.0
"""Seconds for which the appliance may still say why it takes no more."""

_DOCUMENTS = frozenset({BUNDLE, SIGNATURE, VOLUME, INDEX, MANIFEST, OCI_LAYOUT})
# What an appliance says that another attempt may change: it stops, or the line was cut or too slow on the way.
_PASSING = frozenset({"stopped", "bundle-not-read", "too-many-sendings", "too-many-connections"})
# How a gzip, a zstd or a plain layer begins.
_MAGIC = 4
# What is looked at to see whether it is JSON, and how large a manifest is that does not say that it is one.
_BEGINNING = 64
_SMALL = 32 * 1024
_PIECE = 1024 * 1024


async def send(session: Session, files: Sequence[Path], choices: dict[str, Any]) -> Receipt:
    """
    Have the appliance import C{files}, one archive or all volumes of a bundle, by sending them.

    @param choices: of L{appliance.api.ImportChoices}.
    @raise BundleError: one cannot be read, or is damaged.
    @raise CommandFailed: the appliance refuses it, or is not reached for too long.
    """
    archives: list[Archive] = []
    try:
        for file in files:
            open_into(archives, file, Stop())
        head = head_of(archives, choices)
        lacking, tries, most, doubled = None, 0, MAX_PART, MAX_PART
        while True:
            attempt = _Attempt(session, archives, most, doubled)
            try:
                return await attempt.run(head)
            except (AnswerCut, Unreachable, RefusedByAppliance) as error:
                too_large = isinstance(error, RefusedByAppliance) and error.code == TOO_LARGE
                if too_large and attempt.part <= FIRST_PART:
                    raise
                if isinstance(error, RefusedByAppliance) and error.code not in _PASSING and not too_large:
                    raise
                if isinstance(error, Unreachable) and lacking is None:
                    raise
                if attempt.part:
                    doubled = max(FIRST_PART, attempt.part // 2)
                    most = doubled if too_large else most
                if attempt.wanted is not None and (lacking is None or attempt.wanted < lacking):
                    lacking, tries = attempt.wanted, 0
                tries += 1
                if tries >= TRIES:
                    raise
                session.screen.note(f"{error}; trying again: what has come is not sent again")
                await session.pause(min(2.0 ** (tries - 1), LONGEST_PAUSE))
    finally:
        for archive in archives:
            archive.close()


def head_of(archives: Sequence[Archive], choices: dict[str, Any]) -> bytes:
    """
    What is sent first: L{appliance.api.SendingOrder} in a line, and the beginnings that it names. Blocking.

    @raise CommandFailed: there are more documents than an appliance takes.
    """
    heads, beginnings = [], bytearray()
    for archive in archives:
        head = SentHead(
            source=archive.source[-1024:],
            entries=[(item.name, item.size) for item in archive.items.values()],
            others=sorted(archive.others),
            beginnings=[],
        )
        listed = _listed_documents(archive)
        for number, item in enumerate(archive.items.values()):
            if beginning := _beginning(archive, item, listed):
                head.beginnings.append((number, len(beginning)))
                beginnings += beginning
                if len(beginnings) > MAX_SENDING_HEAD:
                    break
        heads.append(head)
    whole = msgspec.json.encode({**choices, "archives": heads}) + b"\n" + beginnings
    if len(whole) > MAX_SENDING_HEAD:
        raise CommandFailed(
            "there are more manifests in it than can be sent first; copy it to the appliance's machine and import it"
            " there, or export the images into several bundles"
        )
    return whole


def _listed_documents(archive: Archive) -> set[str] | None:
    """The entries of a bundle's manifests and configurations, C{None} where there is no list. Raises L{BundleError}."""
    if BUNDLE not in archive.items:
        return None
    blobs = decode(document_of(archive), archive.source).blobs
    return {blob_name(Digest.parse(blob.digest)) for blob in blobs if blob.is_document}


def _beginning(archive: Archive, item: Item, listed: set[str] | None) -> bytes:
    """What an import has to read of the entry before it knows what it wants: all, a little, or nothing."""
    if item.name in _DOCUMENTS:
        return archive.whole(item, MAX_SENDING_HEAD)
    if listed is not None:
        is_read = item.name in listed and item.size <= MAX_MANIFEST_BYTES
        return archive.whole(item, MAX_MANIFEST_BYTES) if is_read else b""
    is_docker = INDEX not in archive.items
    beginning = archive.read(item, 0, _BEGINNING)
    if item.size <= MAX_MANIFEST_BYTES and beginning.lstrip().startswith(b"{"):
        data = archive.whole(item, MAX_MANIFEST_BYTES)
        # Manifests and configurations; other documents, such as SBOMs, are not read.
        if is_docker or item.size <= _SMALL or b'"schemaVersion"' in data or b'"rootfs"' in data:
            return data
    return beginning[:_MAGIC] if is_docker else b""


async def follow(
    session: Session, response: IResponse, doing: str, wanted: Callable[[Wanted], None] = lambda _: None
) -> Receipt:
    """
    The receipt; what comes before it is shown as it comes: only storing takes long enough to be measured.

    @param doing: what to call that.
    @param wanted: called with what the appliance asks for.
    @raise RefusedByAppliance: it says why there is none.
    @raise AnswerCut: it does not say.
    """
    meter, begun = session.meter(), False
    try:
        async for line in session.client.lines(response):
            if "receipt" in line:
                return session.client.as_kind(line["receipt"], Receipt)
            if "error" in line:
                raise refusal(line, "the appliance does not say why; see its log")
            if line.get("stage") == "wanted":
                wanted(session.client.as_kind(line, Wanted))
                continue
            if line.get("stage") == "storing" and line.get("total") and not begun:
                begun = True
                meter.begin(doing, line["total"])
            if begun:
                meter.at(line.get("done", 0))
    finally:
        meter.close()
    raise AnswerCut("the appliance ended without a receipt; see its log, then import again: what is held is kept")


class _Attempt:
    """
    One connection's worth of it.

    @ivar wanted: bytes that the appliance asked for, C{None} before it did.
    @ivar part: bytes of the request under way, 0 for none.
    """

    def __init__(self, session: Session, archives: Sequence[Archive], most: int, doubled: int) -> None:
        """
        @param most: bytes of one request.
        @param doubled: up to so many, the next one has twice as many; above, one L{FIRST_PART} more, as TCP does it.
        """
        self._session = session
        self._archives = archives
        self._most = most
        self._doubled = doubled
        self._sending: Deferred[None] | None = None
        self._why: Exception | None = None
        self.wanted: int | None = None
        self.part = 0

    async def run(self, head: bytes) -> Receipt:
        """
        @raise AnswerCut: the connection broke.
        @raise Unreachable: no appliance answers.
        @raise RefusedByAppliance: it says why not.
        """
        response = await self._session.client.open("POST", "imports/sendings", head, SENDING)
        self._following = following = Deferred.fromCoroutine(
            follow(self._session, response, "sending", self._begin)
        )
        try:
            return await following
        except CancelledError:
            if self._why is None:
                raise
            raise self._why from None
        finally:
            if self._sending is not None:
                self._sending.addErrback(lambda _: None).cancel()

    def _begin(self, wanted: Wanted) -> None:
        self.wanted = wanted.bytes
        self._sending = Deferred.fromCoroutine(self._send(wanted))

    async def _send(self, wanted: Wanted) -> None:
        """Send what is wanted, request by request; an error is left to what the appliance says of it, for a while."""
        at, size = 0, FIRST_PART
        source = WantedBytes(self._archives, wanted)
        try:
            while at < wanted.bytes:
                self.part = min(size, self._most, wanted.bytes - at)
                path, parameters = f"imports/sendings/{wanted.sending}", {"at": str(at)}
                body = FileBodyProducer(source.part(self.part))
                await self._session.client.put(path, body, "application/octet-stream", parameters)
                at, self.part = at + self.part, 0
                size += size if size < self._doubled else FIRST_PART
        except CancelledError:
            raise
        except Exception as error:
            self._why = error
            await self._session.pause(LAST_WORD)
            self._following.cancel()


class WantedBytes:
    """What is wanted of some archives, one after the other, in parts that look like files."""

    def __init__(self, archives: Sequence[Archive], wanted: Wanted) -> None:
        self._pieces = self._read_all(archives, wanted)
        self._rest = b""

    def part(self, size: int) -> _WantedPart:
        """The next C{size} bytes."""
        return _WantedPart(self, size)

    def read(self, size: int) -> bytes:
        """At most C{size} of the next bytes, none at the end. Raises L{BundleDamaged}."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _read_all(self, archives: Sequence[Archive], wanted: Wanted) -> Iterator[bytes]:
        for entry in wanted.wanted:
            archive = archives[entry.archive]
            item, start = archive.items[entry.entry], entry.start
            while start < item.size:
                data = archive.read(item, start, _PIECE)
                start += len(data)
                yield data


class _WantedPart:
    """A file as far as C{FileBodyProducer} looks at one."""

    def __init__(self, source: WantedBytes, size: int) -> None:
        self._source = source
        self._size = size
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(min(size, self._size - self._position))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> None:
        """It is asked for its end, and put back to its beginning."""
        self._position = self._size if whence == SEEK_END else offset

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """The archives are closed by who opened them."""
