"""
Collection: what retention takes, and what nothing refers to, is removed while clients are served.

A run looks at every repository (L{appliance.cache.marks}), then at every blob, plans (L{appliance.cache.retention}),
and carries that out (L{appliance.cache.departure}). What was in use at any moment of a run stays, and what a kill
leaves without references the next run takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.departure import Departures, HeldName, gone_with, kept_by, roots_of
from appliance.cache.marks import Marks
from appliance.cache.references import UNDATED, BlobTable, RepositoryRoots, is_pinned, last_use
from appliance.cache.retention import UNREFERENCED, Limits, Plan, Removal, Rules, is_exceeded, plan
from appliance.cache.usage import Usage
from appliance.errors import StoreError
from appliance.flow.clock import wall
from appliance.flow.singleflight import shielded
from appliance.index.graph import Relations
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads, Stored
from appliance.oci.digest import Digest, number_of
from appliance.oci.reference import full_name
from appliance.settings import Settings
from appliance.store.leases import Watch
from appliance.units import size_words

SAVES = 16
"""Repositories that are saved at the same time: each waits for the disk."""

MOST = 100_000
"""Blobs without a reference that one run removes; the next one goes on."""


@dataclass(frozen=True, slots=True)
class CollectedImage:
    """An image that goes: its full name, why (a word of L{appliance.cache.retention}), and the bytes that frees."""

    name: str
    digest: Digest
    why: str
    size: int


@dataclass(frozen=True, slots=True)
class CollectedBlob:
    """A blob that goes with an image, for the same reason, or because nothing refers to it."""

    digest: Digest
    why: str
    size: int


@dataclass(kw_only=True)
class Collected:
    """
    What a run came to, or would come to.

    @ivar started: seconds since the epoch.
    @ivar before: bytes of all blobs before, and C{after}; C{freed}: those of the blobs that went.
    @ivar is_exceeded: whether what stays is more than a limit still.
    @ivar notes: what else there is to know, in words.
    """

    started: float
    dry_run: bool
    images: list[CollectedImage] = field(default_factory=list)
    blobs: list[CollectedBlob] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: int = 0
    after: int = 0
    freed: int = 0
    is_exceeded: bool = False


@dataclass(eq=False)
class _Inventory:
    """
    What one run knows.

    @ivar repositories: those that could be read.
    @ivar table: what they refer to.
    @ivar unreferenced: blobs that nothing refers to, as far as is known.
    @ivar young: numbers of blobs that came a moment ago.
    @ivar held: bytes of all blobs.
    @ivar named: by removal the image, and the digests of the blobs that go with it.
    @ivar roots: of the repositories that something is removed from, by their place in the list.
    @ivar doubts: why nothing may go, in words: something that is not known may refer to it.
    """

    now: float
    watch: Watch
    repositories: list[RepositoryRoots] = field(default_factory=list)
    table: BlobTable = field(default_factory=BlobTable)
    unreferenced: list[Stored] = field(default_factory=list)
    young: set[int] = field(default_factory=set)
    held: int = 0
    named: dict[Removal, tuple[HeldName, list[Digest]]] = field(default_factory=dict)
    roots: dict[int, list[HeldName]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def restore(self, removal: Removal) -> None:
        """It stays."""
        for number in self.repositories[removal.repository].of(removal.root):
            self.table.restore(number)


class Collection:
    """
    One run at a time.

    @ivar is_ready: whether all that is held is known: what was being published when the process ended is now.
    @ivar last: what the last run came to, C{None} before the first; without dry runs, and those that had no reason.
    """

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        marks: Marks,
        departures: Departures,
        usage: Usage,
        settings: Callable[[], Settings],
        clock: IReactorTime,
        threads: IThreads,
        catch_up: Callable[[], None] = lambda: None,
        ended: Callable[[Collected], None] = lambda found: None,
    ) -> None:
        """
        @param settings: gives those in force.
        @param catch_up: has C{usage} note every pull up to now.
        @param ended: is called with what a run came to.
        """
        self._store = store
        self._repositories = repositories
        self._marks = marks
        self._departures = departures
        self._usage = usage
        self._settings = settings
        self._clock = clock
        self._threads = threads
        self._catch_up = catch_up
        self._ended = ended
        self._lock = DeferredLock()
        self.is_ready = False
        self.last: Collected | None = None

    def run(self, dry_run: bool = False, room: int = 0, exceeded_only: bool = False) -> Deferred[Collected]:
        """
        Collect; one run at a time, the next one waits. Cancelling ends the waiting, not the run.

        @param dry_run: find out what would go, and leave it.
        @param exceeded_only: whether there is a reason only when a limit is exceeded; else nothing goes at all.
        @param room: bytes that are to be free on the disk, where that is more than the reserve.
        @return: fails with L{StoreError} before the appliance has started. What the disk does not give, or take, is in
            the notes.
        """
        run = self._lock.run(lambda: Deferred.fromCoroutine(self._run(dry_run, room, exceeded_only)))
        return shielded(run)

    async def _run(self, dry_run: bool, room: int, exceeded_only: bool) -> Collected:
        if not self.is_ready:
            raise StoreError("what is held is not known yet: an import that was cut has to be finished first")
        self._catch_up()
        with self._store.leases.watch() as watch:
            run = _Inventory(wall(self._clock), watch)
            try:
                await self._look(run)
            except OSError as error:
                run.doubts.append(f"what is held cannot be read ({error.strerror or error})")
                run.held = self._store.total()
            found = Collected(started=run.now, dry_run=dry_run, before=run.held, after=run.held)
            planned = await self._plan(run, room, exceeded_only)
            if planned is None:
                return found
            found.notes = [*(f"nothing is removed: {doubt}" for doubt in run.doubts), *planned.notes]
            found.is_exceeded = bool(found.notes)
            removals = await self._name(run, planned, found)
            if not dry_run:
                removals = await self._carry_out(run, removals, found)
            await self._say(run, removals, found)
            if not dry_run:
                swept, notes = await self._departures.sweep([each.digest for each in found.blobs], watch)
                found.blobs = [each for each in found.blobs if each.digest in swept]
                found.notes += notes
        found.freed = sum(blob.size for blob in found.blobs)
        if dry_run:
            found.after = run.held - found.freed
            return found
        found.after = self._store.total()
        said = [] if self.last is None else self.last.notes
        # Without the blobs: there may be a hundred thousand.
        self.last = replace(found, blobs=[])
        self._ended(found)
        if found.blobs or found.images:
            self._log.info(
                "collected {images} images and {blobs} blobs: {freed} bytes are free again",
                images=len(found.images),
                blobs=len(found.blobs),
                freed=found.freed,
            )
        for note in found.notes:
            if note not in said:
                self._log.warn("collection: {note}", note=note)
        return found

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _look(self, run: _Inventory) -> None:
        """What the repositories refer to, what is held, and what of that nothing refers to."""
        run.doubts += await self._departures.settle()
        async for roots in self._marks.all(run.doubts):
            run.repositories.append(roots)
            run.table.refer(roots.blobs)
            run.table.refer(roots.always)
        for _ in run.table.settle():
            await self._marks.turn()
        grace = self._settings().retention.grace
        async for batch in self._store.walk():
            for stored in batch:
                run.held += stored.size
                # A moment far in the future was written by another clock, and says nothing.
                if abs(run.now - stored.modified) < grace:
                    run.young.add(number_of(stored.digest))
                if not run.table.found(stored) and len(run.unreferenced) < MOST:
                    run.unreferenced.append(stored)
            await self._marks.turn()

    async def _read(self, marked: RepositoryRoots, found: Collected) -> tuple[Repository, Relations] | None:
        """A repository as it is now; C{None} where the disk does not give it, which is noted."""
        try:
            repository = await self._repositories.read(marked.upstream, marked.name)
            return repository, await self._marks.relations(repository)
        except OSError as error:
            found.notes.append(f"{marked.upstream}/{marked.name} cannot be read ({error.strerror or error})")
            return None

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _plan(self, run: _Inventory, room: int, exceeded_only: bool) -> Plan | None:
        """What goes; C{None}: no limit is exceeded, and only then it should."""
        leased = frozenset(map(number_of, run.watch.seen))
        unreferenced, run.unreferenced = [] if run.doubts else run.unreferenced, []
        for each in unreferenced:
            if number_of(each.digest) not in run.young and each.digest not in run.watch:
                run.unreferenced.append(each)
            await self._marks.turn()
        for roots in run.repositories:
            await self._marks.turn()
            for root, marks in enumerate(roots.marks):
                if marks & UNDATED:
                    roots.last[root] = run.table.modified(roots.of(root)[0])
        settings = self._settings()
        limits = Limits(
            rules={upstream: self._rules(upstream) for upstream in {each.upstream for each in run.repositories}},
            max_size=settings.retention.max_size or inf,
            held=run.held,
            spare=sum(each.size for each in run.unreferenced),
            lacking=self._lacking(room),
            young=frozenset(run.young),
            leased=leased,
        )
        # Others get their turn meanwhile, if not as often.
        if exceeded_only and not await self._threads.call(is_exceeded, run.repositories, run.table, limits):
            return None
        if run.doubts:
            return Plan()
        return await self._threads.call(plan, run.repositories, run.table, limits, run.now, size_words)

    async def _name(self, run: _Inventory, planned: Plan, found: Collected) -> list[Removal]:
        """
        What is removed, with what each is called and what goes with it. An image stays this time whose repository has
        changed since it was looked at.
        """
        for at, removals in _by_repository(planned.removals).items():
            marked = run.repositories[at]
            read = await self._read(marked, found)
            if read is None:
                continue
            repository, relations = read
            run.roots[at] = roots = await self._marks.roots(repository, relations)
            if marked.stamp.changes != self._repositories.changes(*repository.place):
                continue
            for removal in removals:
                name = roots[removal.root]
                dying = set(removal.blobs)
                blobs = kept_by(repository, relations, name).blobs
                run.named[removal] = name, [each for each in blobs if number_of(each) in dying]
                await self._marks.turn()
        for removal in planned.removals:
            if removal not in run.named:
                run.restore(removal)
        return [removal for removal in planned.removals if removal in run.named]

    def _rules(self, upstream: str) -> Rules:
        said = self._settings().rules_for(upstream)
        return Rules(
            inf if said.keep_for is None else said.keep_for,
            inf if said.keep_last is None else said.keep_last,
            inf if said.max_size is None else said.max_size,
        )

    def _lacking(self, room: int) -> int:
        """Bytes that are to become free on the disk."""
        try:
            reserve = self._settings().retention.reserved(int(self._store.capacity()))
            return max(reserve, room) - int(self._store.free())
        except OSError:
            return 0

    # -- removing ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, run: _Inventory, removals: list[Removal], found: Collected) -> list[Removal]:
        """Remove the images, durably; those that went."""
        gone: set[Removal] = set()
        places = list(_by_repository(removals).values())
        for first in range(0, len(places), SAVES):
            saving = []
            for planned in places[first : first + SAVES]:
                read = await self._read(run.repositories[planned[0].repository], found)
                if read is not None and (went := self._take_out(run, *read, planned)):
                    saving.append((went, Deferred.fromCoroutine(self._departures.save(read[0]))))
            for went, saved in saving:
                marked = run.repositories[went[0].repository]
                try:
                    await saved
                    gone.update(went)
                except OSError as error:
                    why = f"could not be saved ({error.strerror or error}): its blobs stay for now"
                    found.notes.append(f"{marked.upstream}/{marked.name} {why}")
            await self._marks.turn()
        for removal in removals:
            if removal not in gone:
                run.restore(removal)
        return [removal for removal in removals if removal in gone]

    def _take_out(
        self, run: _Inventory, repository: Repository, relations: Relations, planned: list[Removal]
    ) -> list[Removal]:
        """Take images out of a repository, in one turn; those that were not used, pinned or changed meanwhile."""
        self._catch_up()
        at = planned[0].repository
        marked, roots = run.repositories[at], run.roots[at]
        if is_changed := marked.stamp.changes != self._repositories.changes(*repository.place):
            roots = roots_of(repository, relations)
        is_used = is_changed or marked.stamp.uses != self._usage.stamp(*repository.place)
        there, went = set(roots), dict[HeldName, Removal]()
        for removal in planned:
            name, _ = run.named[removal]
            if name not in there or name.digest in run.watch:
                continue
            if is_used and last_use(repository, relations, self._usage, *name) not in (None, marked.last[removal.root]):
                continue
            if is_changed and is_pinned(repository, kept_by(repository, relations, name)):
                continue
            went[name] = removal
        if went:
            gone = gone_with(repository, relations, [root for root in roots if root not in went])
            fresh = {each for each in gone.links if each in run.watch or number_of(each) in run.young}
            self._departures.take_out(repository, replace(gone, links=gone.links - fresh))
        return list(went.values())

    async def _say(self, run: _Inventory, removals: list[Removal], found: Collected) -> None:
        """Put in words what goes."""
        seen: set[Digest] = set()
        for removal in removals:
            (tag, digest), blobs = run.named[removal]
            marked, freed = run.repositories[removal.repository], 0
            for blob in blobs:
                number = number_of(blob)
                size = run.table.size(number)
                is_free = not run.table.count(number) and number not in run.young and blob not in run.watch
                if is_free and size and blob not in seen:
                    seen.add(blob)
                    freed += size
                    found.blobs.append(CollectedBlob(blob, removal.why, size))
            name = full_name(marked.upstream, marked.name, tag or digest)
            found.images.append(CollectedImage(name, digest, removal.why, freed))
            await self._marks.turn()
        for each in run.unreferenced:
            found.blobs.append(CollectedBlob(each.digest, UNREFERENCED, each.size))
            await self._marks.turn()


def _by_repository(removals: list[Removal]) -> dict[int, list[Removal]]:
    found: dict[int, list[Removal]] = {}
    for removal in removals:
        found.setdefault(removal.repository, []).append(removal)
    return found
