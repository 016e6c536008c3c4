"""
What an import did, kept as C{receipts/<id>/receipt.json}.

The id begins with the time, so that a list of them is in the order in which they were imported.

An archive that cannot be imported yet is L{Waiting}; that is not kept.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from twisted.logger import Logger

from appliance.errors import NotHeld, VersionConflict
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments

MEDIA_TYPE = "application/vnd.pullcache.receipt.v1+json"
FOLDER = "receipts"
NAME = "receipt.json"

Outcome = Literal["new", "moved", "unchanged", "kept"]


class Change(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    What became of one name.

    @ivar name: in full.
    @ivar tag: C{None} for a manifest that is known by its digest only.
    @ivar previous: what the tag meant before, when that was something else.
    @ivar outcome: C{"kept"}: the tag still means C{previous}, and C{digest} is held all the same.
    @ivar locked: it was kept because the tag is locked here (C{pullcache pin --digest}).
    @ivar rebuilt: the archive had no manifest, so that C{digest} is not the one in the original registry.
    @ivar refers: it is a signature or the like of another.
    @ivar renamed_from: its full name in the archive, when that is another.
    """

    name: str
    upstream: str
    repository: str
    tag: str | None = None
    digest: str
    previous: str | None = None
    outcome: Outcome
    locked: bool = False
    rebuilt: bool = False
    refers: bool = False
    renamed_from: str | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="mediaType", tag=MEDIA_TYPE):
    """
    What an import did, or would do.

    @ivar id: C{""} until it is kept; that of a dry run stays so.
    @ivar bundle: the bundle's id; for another tool's archive a digest of its names and what they mean.
    @ivar format: for people.
    @ivar files: what was imported, as it was named.
    @ivar finished: RFC 3339, UTC.
    @ivar site: stable id of the appliance that imported; C{sender} that of the one that exported.
    @ivar signer: id of the trusted key that signed it.
    @ivar comment: the signature's trusted comment.
    @ivar content_root: to be compared with the sender's.
    @ivar new_blobs: how many blobs were not held, of C{new_bytes} bytes together.
    @ivar read_bytes: of these, bytes that were read from the files: less, when an earlier import was cut.
    @ivar held_blobs: how many were held already, of C{held_bytes} bytes together.
    @ivar missing: digests without which it cannot be published; only a dry run has any.
    @ivar absent: children of indexes that are left out, C{index child platform}.
    @ivar unknown_upstreams: upstreams in it that are not configured here; only a dry run has any, for what is of them
        is not imported. Receipts of earlier versions may name some that were.
    @ivar notes: what else the user should know.
    """

    id: str = ""
    bundle: str
    format: str
    files: list[str]
    finished: str
    dry_run: bool = False
    site: str = ""
    sender: str = ""
    title: str = ""
    created: str = ""
    signer: str | None = None
    comment: str | None = None
    content_root: str = ""
    refs: list[Change] = []
    new_blobs: int = 0
    new_bytes: int = 0
    read_bytes: int = 0
    held_blobs: int = 0
    held_bytes: int = 0
    missing: list[str] = []
    absent: list[str] = []
    unknown_upstreams: list[str] = []
    notes: list[str] = []

    def encode(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self)


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """
    What lies in the inbox and cannot be taken now.

    @ivar kind: the class of the error, C{""} for what no error was raised for; C{reason}: why, in words.
    @ivar since: when that was first found, RFC 3339.
    @ivar next: when it is tried again, RFC 3339; C{None} when that depends on the file.
    """

    files: list[str]
    kind: str
    reason: str
    since: str
    next: str | None = None


class Receipts:
    """The receipts that are kept."""

    _log = Logger()

    def __init__(self, documents: IDocuments) -> None:
        self._documents = documents

    async def named(self, receipt: Receipt) -> Receipt:
        """C{receipt} with an id that no other has."""
        stem = f"{receipt.finished.replace('-', '').replace(':', '')}-{receipt.bundle.partition(':')[2][:12]}"
        number = 1
        while await self._documents.read(_key(name := stem if number == 1 else f"{stem}-{number}")) is not None:
            number += 1
        return msgspec.structs.replace(receipt, id=name)

    async def keep(self, receipt: Receipt) -> None:
        """Write it, durably; one that is there is no error: it says the same."""
        if await self._documents.read(_key(receipt.id)) is None:
            try:
                await self._documents.write(_key(receipt.id), receipt.encode(), 0)
            except VersionConflict:
                self._log.warn("receipt {id} was written meanwhile", id=receipt.id)

    async def amend(self, receipt: Receipt) -> None:
        """Replace the one of that id, where it is kept. Raises L{OSError} and L{VersionConflict}."""
        found = await self._documents.read(_key(receipt.id))
        if found is not None:
            await self._documents.write(_key(receipt.id), receipt.encode(), found[1])

    async def get(self, receipt_id: str) -> Receipt:
        """One receipt. Raises L{NotHeld}."""
        try:
            receipt = await self._read(_key(receipt_id))
        except ValueError:
            receipt = None
        if receipt is None:
            raise NotHeld(f"there is no receipt {receipt_id[:160]!r}; the list of receipts names those there are")
        return receipt

    async def all(self) -> list[Receipt]:
        """Every receipt that can be understood, the oldest first."""
        found = [await self._read(key) for key in await self._documents.list((FOLDER,), NAME)]
        return [receipt for receipt in found if receipt is not None]

    async def _read(self, key: tuple[str, ...]) -> Receipt | None:
        receipt, _ = await read_document(self._documents, key, _DECODER.decode)
        return receipt


_DECODER = msgspec.json.Decoder(Receipt)


def _key(receipt_id: str) -> tuple[str, ...]:
    return (FOLDER, receipt_id, NAME)
