"""
Leftovers: what lies in the store beside what is held, how much of it there is, and when it goes.

==================  ===========================================================  ====================================
beginnings          of blobs whose fetch was cut                                 when no upstream can go on with them,
                                                                                 a week later (L{Flights.sweep})
staged              the same of imports that were cut                            the same
documents           that could not be understood, and were set aside             L{KEPT} later
damaged             blobs that were found damaged, and were set aside            L{KEPT} later, unless they are lacking
==================  ===========================================================  ====================================

What an import stored whole and never published is a blob that nothing refers to: the collection takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import Access
from appliance.cache.flights import Flights
from appliance.flow.clock import wall
from appliance.interfaces import IBlobStore, IDocuments
from appliance.oci.digest import Digest

KEPT = 30 * 24 * 3600.0
"""Seconds for which what was set aside is kept, for who wants to look at it."""


@dataclass(frozen=True)
class Amount:
    """So many files, of so many bytes together."""

    count: int = 0
    octets: int = 0

    def plus(self, octets: int) -> Amount:
        """And one more file."""
        return Amount(self.count + 1, self.octets + octets)


@dataclass(frozen=True)
class LeftoverCounts:
    """What there is of each kind, as the module's table has them."""

    beginnings: Amount
    staged: Amount
    documents: Amount
    damaged: Amount


class Leftovers:
    """Counts what is left over, and removes what is old."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        documents: Sequence[IDocuments],
        flights: Flights,
        lacking: Callable[[], Collection[Digest]],
        clock: IReactorTime,
    ) -> None:
        """
        @param documents: all that there are, the repositories' too.
        @param lacking: gives the blobs that were found damaged and are to be fetched again.
        """
        self._store = store
        self._documents = documents
        self._flights = flights
        self._lacking = lacking
        self._clock = clock
        # What was found set aside, when the documents had reported so many.
        self._aside = Amount()
        self._reported = -1

    async def sweep(self, access: Access) -> None:
        """
        Remove what is old, once a day; what the disk refuses is logged.

        @param access: as for L{Flights.sweep}.
        """
        now = wall(self._clock)
        try:
            await self._flights.sweep(access, now)
            await self._look(now - KEPT)
            lacking = self._lacking()
            for each in await self._store.damaged():
                if now - each.since >= KEPT and each.digest not in lacking:
                    await self._store.drop_damaged(each.digest)
                    self._log.info("{digest}: its damaged bytes were thrown away", digest=each.digest)
        except OSError as error:
            self._log.warn("what is left over was not swept: {error}", error=error)

    async def counts(self) -> LeftoverCounts:
        """
        What there is.

        @raise OSError: the disk does not say.
        """
        beginnings = staged = damaged = Amount()
        for digest in self._store.unfinished():
            left = None if self._flights.get(digest) is not None else await self._store.inspect(digest)
            if left is None:
                continue
            if left.origin is not None and left.origin.upstream is None:
                staged = staged.plus(left.size)
            else:
                beginnings = beginnings.plus(left.size)
        for each in await self._store.damaged():
            damaged = damaged.plus(each.size)
        if self._reported != self._reports:
            await self._look(0.0)
        return LeftoverCounts(beginnings, staged, self._aside, damaged)

    @property
    def _reports(self) -> int:
        return sum(len(each.damaged) for each in self._documents)

    async def _look(self, before: float) -> None:
        """Look at all documents that were set aside, and remove those from before C{before}: it takes its time."""
        reported, found = self._reports, Amount()
        for each in self._documents:
            count, octets = await each.sweep(before)
            found = Amount(found.count + count, found.octets + octets)
        self._aside, self._reported = found, reported
