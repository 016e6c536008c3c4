"""
Repair: what the disk has damaged is set aside, and fetched again.

=====================  ==============================================================================================
a blob is looked at    when a scrub found it wrong, it is not as long as a descriptor says, it could not be read while
                       it was sent, or a manifest has other bytes than its digest says
it is damaged          when it is hashed again and has another digest: descriptors may lie, and a cable may be loose
it is set aside        at once: whoever asks for it now gets it from its upstream, and whoever has it open goes on
it is fetched again    from a repository that holds or names it, in the background
it is wanted           by reason L{DAMAGED}, in each such repository, where none of them can be asked, or gives it
=====================  ==============================================================================================

What is still lacking is tried again by the next scrub, at a start, when the configuration is read again, and each day;
and it is mended by whatever brings it: a pull, or an import.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.access import Access, RemoteRepository
from appliance.cache.wants import DAMAGED, Wants
from appliance.errors import NotHeld, PullcacheError
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight, Waiters
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest

FETCHED, WANTED, UNREFERENCED = "fetched", "wanted", "unreferenced"
"""What became of a damaged blob: it is held again; it is lacking; or no repository names it, so nothing is lacking."""

AT_ONCE = 4
"""Damaged blobs that are fetched again at the same time."""

SOUGHT_AT_ONCE = 1000
"""Damaged blobs whose repositories are sought in one walk over all of them."""

PLACES = 16
"""The most repositories that are noted for one blob: a base layer may lie in thousands."""

REMEMBERED = 10_000
"""Blobs that are right although a descriptor says another size, so that they are not hashed for each request."""

Fetch = Callable[[RemoteRepository, Digest, bool], Awaitable[object]]
"""Has a blob, or with C{True} a manifest, fetched into the store again."""


@dataclass
class _Places:
    """The repositories (upstream, name) that name a digest, and in which of them it is a manifest."""

    found: dict[tuple[str, str], bool] = field(default_factory=dict)

    def add(self, place: tuple[str, str], is_manifest: bool) -> None:
        if place in self.found or len(self.found) < PLACES:
            self.found[place] = self.found.get(place, False) or is_manifest


class Repair:
    """Sets aside what is damaged, and has it fetched again."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        wants: Wants,
        access: Access,
        fetch: Fetch,
        forget: Callable[[Digest], None],
    ) -> None:
        """
        @param fetch: as a client's pull does it, but for what a client would wait for.
        @param forget: drops what is in memory of a digest that was set aside.
        """
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._wants = wants
        self._access = access
        self._fetch = fetch
        self._forget = forget
        self._examining: SingleFlight[Digest, bool] = SingleFlight(OSError)
        self._right: LeastRecentlyUsed[Digest, int] = LeastRecentlyUsed(REMEMBERED)
        # What was set aside and is not known to be held again; of that, what is being mended and who waits for it.
        self._lacking: set[Digest] = set()
        # What is damaged and could not be set aside.
        self._stuck: set[Digest] = set()
        self._mending: dict[Digest, Waiters[str]] = {}
        self._sought: dict[Digest, None] = {}
        self._seeking: Deferred[None] | None = None
        self._fetching = DeferredSemaphore(AT_ONCE)
        self._stopped = False

    @property
    def lacking(self) -> list[Digest]:
        """What is damaged and is neither held again nor known to be of no use, sorted."""
        self._lacking = {digest for digest in self._lacking if self._store.size(digest) is None}
        self._stuck = {digest for digest in self._stuck if self._store.size(digest) is not None}
        return sorted(self._lacking | self._stuck)

    async def resume(self) -> None:
        """
        Try again what is lacking, also what earlier processes set aside; fires when that is known, not done.

        @raise OSError: it cannot be found out.
        """
        aside = {each.digest for each in await self._store.damaged()}
        self._lacking |= {digest for digest in aside if self._store.size(digest) is None}
        self.reconsider()

    def reconsider(self) -> None:
        """Try again what is lacking: other upstreams may be asked now, or the same again."""
        for digest in sorted(self._lacking):
            self._mend(digest)

    def suspect(self, digest: Digest) -> None:
        """It may be damaged: have it looked at, in the background."""
        if not self._stopped:
            self.examine(digest, anew=True).addErrback(self._failed, digest)

    def examine(self, digest: Digest, anew: bool = False) -> Deferred[bool]:
        """
        Whether a blob is held and has its digest. A damaged one is set aside, and fetched again in the background.

        Fails with L{OSError} when the disk does not say.

        @param anew: whether it is hashed although it was found right before, with the size that it has.
        """
        size = self._store.size(digest)
        if size is not None and not anew and self._right.get(digest) == size:
            return succeed(True)
        return self._examining.run(digest, lambda: self._examine(digest))

    def mended(self, digest: Digest) -> Deferred[str]:
        """Fires with what became of a damaged blob (L{FETCHED}, L{WANTED}, L{UNREFERENCED}) when that is known."""
        if digest in self._mending:
            return self._mending[digest].wait()
        if self._store.size(digest) is not None and digest not in self._stuck:
            return succeed(FETCHED)
        return succeed(WANTED if digest in self._lacking | self._stuck else UNREFERENCED)

    def stop(self) -> None:
        """Begin nothing any more; flights are cut by their owner."""
        self._stopped = True
        self._sought.clear()
        if self._seeking is not None:
            self._seeking.cancel()

    # -- damage -----------------------------------------------------------------------------------------------------

    async def _examine(self, digest: Digest) -> bool:
        self._right.drop(digest)
        self._stuck.discard(digest)
        try:
            is_right = await self._store.verify(digest)
        except NotHeld:
            return False
        if is_right:
            if (size := self._store.size(digest)) is not None:
                self._right.put(digest, size, 1)
            return True
        try:
            await self._store.set_aside(digest)
        except OSError as error:
            self._stuck.add(digest)
            self._log.error("{digest} is damaged and cannot be set aside: {error}", digest=digest, error=error)
            return False
        self._log.error("{digest} is damaged on disk, and was set aside", digest=digest)
        self._lacking.add(digest)
        self._graph.unlearn(digest)
        self._forget(digest)
        self._mend(digest)
        return False

    def _mend(self, digest: Digest) -> None:
        if digest in self._mending or self._stopped:
            return
        self._mending[digest] = Waiters()
        self._sought[digest] = None
        if self._seeking is None:
            self._seeking = Deferred.fromCoroutine(self._seek())
            self._seeking.addErrback(self._failed, "what is damaged").addBoth(self._sought_all)

    def _sought_all(self, _: object) -> None:
        self._seeking = None
        # Where it cannot be found out whose they are, they are tried again with all that is lacking.
        for digest in list(self._sought):
            del self._sought[digest]
            self._over(WANTED, digest)

    async def _seek(self) -> None:
        """Find the repositories of all that is to be mended, and have it fetched from them."""
        while self._sought:
            batch = {digest: _Places() for digest in islice(self._sought, SOUGHT_AT_ONCE)}
            is_complete = await self._find(batch)
            for digest, places in batch.items():
                if digest not in self._sought:
                    continue
                del self._sought[digest]
                mending = self._fetching.run(self._mended_from, digest, places.found, is_complete)
                mending.addErrback(self._failed, digest).addCallback(self._over, digest)

    def _mended_from(self, digest: Digest, places: dict[tuple[str, str], bool], is_complete: bool) -> Deferred[str]:
        return Deferred.fromCoroutine(self._fetch_again(digest, places, is_complete))

    async def _fetch_again(self, digest: Digest, places: dict[tuple[str, str], bool], is_complete: bool) -> str:
        keys = [(*place, str(digest)) for place in places]
        for place, is_manifest in places.items():
            remote = self._access.permitted(*place)
            if self._store.size(digest) is not None or remote is None or remote.offline or self._stopped:
                continue
            try:
                await self._fetch(remote, digest, is_manifest)
            except (PullcacheError, OSError) as error:
                self._log.warn("{digest} was not fetched again: {error}", digest=digest, error=error)
        if self._store.size(digest) is not None:
            self._lacking.discard(digest)
            self._wants.forget(keys)
            self._log.info("{digest} was damaged and is held again", digest=digest)
            return FETCHED
        if self._stopped:
            # What was cut is tried again by the next process.
            return WANTED
        if not places and is_complete:
            self._lacking.discard(digest)
            self._wants.forget([want.key for want in self._wants.snapshot() if want.is_damaged(digest)])
            return UNREFERENCED
        for upstream, name, reference in keys:
            known = self._wants.get((upstream, name, reference))
            if known is None or known.reason != DAMAGED:
                self._wants.note(upstream, name, reference, None, DAMAGED)
        return WANTED

    def _over(self, outcome: str | None, digest: Digest) -> None:
        self._mending.pop(digest).fire(outcome or WANTED)

    # -- whose it is ------------------------------------------------------------------------------------------------

    async def _find(self, batch: dict[Digest, _Places]) -> bool:
        """
        Add to C{batch} the repositories that hold the digests or have them linked; manifests are read only for those
        that cannot be fetched from these. Whether all that could name one was read.
        """
        is_complete = True
        names = await self._repositories.names()
        for place in names:
            try:
                repository = await self._repositories.read(*place)
            except OSError:
                is_complete = False
                continue
            # Also where all of them are in memory the reactor gets its turn.
            await self._graph.manifests.walked(len(batch))
            for digest, places in batch.items():
                if digest in repository.manifests or digest in repository.blobs:
                    places.add(place, digest in repository.manifests)
        deeper = {str(digest): each for digest, each in batch.items() if not self._can_be_asked(each.found)}
        for place in names if deeper else ():
            try:
                repository = await self._repositories.read(*place)
                unread = set(repository.manifests)
                async for digest, manifest in self._graph.manifests.held(repository):
                    unread.discard(digest)
                    children = {child.digest for child in manifest.manifests}
                    for named in deeper.keys() & {descriptor.digest for descriptor in manifest.descriptors}:
                        deeper[named].add(place, named in children)
                for digest in unread:
                    found = await self._graph.manifests.may_name(digest)
                    is_complete = is_complete and bool(found)
                    for named in deeper.keys() & set(map(str, found)):
                        deeper[named].add(place, False)
            except OSError:
                is_complete = False
        return is_complete

    def _can_be_asked(self, places: Iterable[tuple[str, str]]) -> bool:
        remotes = (self._access.permitted(*place) for place in places)
        return any(remote is not None and not remote.offline for remote in remotes)

    def _failed(self, failure: Failure, what: object) -> None:
        if failure.check(OSError, PullcacheError):
            self._log.warn("{what} could not be looked at: {error}", what=what, error=failure.value)
        elif not failure.check(CancelledError):
            self._log.failure("mending {what}", failure, what=what)
