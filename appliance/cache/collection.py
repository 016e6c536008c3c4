"""
Collection: what retention takes, and what nothing refers to, is removed while clients are served.

A run looks at every repository, then at every blob, plans (L{appliance.cache.retention}), and carries that out:
references go first and durably, blobs after them. So a kill at any moment leaves blobs without references at worst,
which the next run takes. What was in use at any moment of a run stays (L{appliance.store.leases}).

What is learnt of a repository is kept for the next run as long as neither the repository nor its use changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.references import (
    UNDATED,
    BlobTable,
    RepositoryRoots,
    Root,
    Stamp,
    is_pinned,
    last_use,
    look_at,
    number_of,
    roots_of,
)
from appliance.cache.retention import UNREFERENCED, Limits, Plan, Removal, Rules, is_exceeded, plan
from appliance.cache.usage import Usage
from appliance.errors import PullcacheError, StoreError
from appliance.flow.clock import wall
from appliance.flow.singleflight import shielded
from appliance.index.graph import ManifestGraph, Relations, relations_of
from appliance.index.manifests import HeldManifests
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads, Stored
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import full_name
from appliance.settings import Settings
from appliance.store.leases import Watch
from appliance.units import size_words

SLICE = 0.001
"""Seconds of work before others get their turn."""

BATCH = 128
"""Blobs that are removed in one turn of a thread."""

SAVES = 16
"""Repositories that are saved at the same time: each waits for the disk."""

LARGE = 500
"""Manifests of a repository from which on its roots are looked for on a thread."""

MOST = 100_000
"""Blobs without a reference that one run removes; the next one goes on."""

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class CollectedImage:
    """An image that goes: its full name, why (a word of L{appliance.cache.retention}), and the bytes that frees."""

    name: str
    digest: Digest
    why: str
    size: int


@dataclass(frozen=True)
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
    @ivar before: bytes of all blobs before, and C{after}.
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
    is_exceeded: bool = False

    @property
    def freed(self) -> int:
        """Bytes of the blobs that went."""
        return sum(blob.size for blob in self.blobs)


@dataclass(eq=False)
class _Run:
    """
    What one run knows.

    @ivar repositories: those that could be read.
    @ivar table: what they refer to.
    @ivar unreferenced: blobs that nothing refers to.
    @ivar named: by removal the root's tag and digest, and the digests of the blobs that go with it.
    @ivar roots: of the repositories that something is removed from, by their place in the list.
    @ivar is_blind: whether a repository could not be read, so that nothing is known to be unreferenced.
    @ivar is_unsure: whether a manifest could not be, of which nothing says what it names.
    """

    now: float
    watch: Watch
    repositories: list[RepositoryRoots] = field(default_factory=list)
    table: BlobTable = field(default_factory=BlobTable)
    unreferenced: list[Stored] = field(default_factory=list)
    young: set[int] = field(default_factory=set)
    held: int = 0
    named: dict[Removal, tuple[str | None, Digest, list[Digest]]] = field(default_factory=dict)
    roots: dict[int, list[Root]] = field(default_factory=dict)
    is_blind: bool = False
    is_unsure: bool = False
    notes: list[str] = field(default_factory=list)


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
        graph: ManifestGraph,
        usage: Usage,
        settings: Callable[[], Settings],
        clock: IReactorTime,
        threads: IThreads,
        catch_up: Callable[[], None] = lambda: None,
        forget: Callable[[Repository, Sequence[Digest]], None] = lambda repository, digests: None,
        counted: Callable[[int], None] = lambda octets: None,
    ) -> None:
        """
        @param settings: gives those in force.
        @param catch_up: has C{usage} note every pull up to now.
        @param forget: is called when tags and manifests have left a repository, in the same turn of the reactor.
        @param counted: is called with the bytes that a run freed.
        """
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._usage = usage
        self._settings = settings
        self._clock = clock
        self._threads = threads
        self._catch_up = catch_up
        self._forget = forget
        self._counted = counted
        self._manifests = HeldManifests(store, threads, room=0)
        self._known: dict[tuple[str, str], RepositoryRoots] = {}
        self._generation = 0
        self._patterns: tuple[Settings, list[ReferencePattern]] | None = None
        self._lock = DeferredLock()
        self._turn_began = 0.0
        self.is_ready = False
        self.last: Collected | None = None

    def run(self, dry_run: bool = False, room: int = 0, exceeded_only: bool = False) -> Deferred[Collected]:
        """
        Collect; one run at a time, the next one waits. Cancelling ends the waiting, not the run.

        @param dry_run: find out what would go, and leave it.
        @param exceeded_only: whether there is a reason only when a limit is exceeded; else nothing goes at all.
        @param room: bytes that are to be free on the disk, where that is more than the reserve.
        @return: fails with L{StoreError} before the appliance has started, and with L{OSError} when the pulls so far,
            or the store, cannot be read: then nothing was removed.
        """
        run = self._lock.run(lambda: Deferred.fromCoroutine(self._run(dry_run, room, exceeded_only)))
        return shielded(run)

    async def _run(self, dry_run: bool, room: int, exceeded_only: bool) -> Collected:
        if not self.is_ready:
            raise StoreError("what is held is not known yet: an import that was cut has to be finished first")
        # What is not known to have been pulled would seem to be old.
        await self._usage.load()
        self._turn_began = self._clock.seconds()
        self._catch_up()
        with self._store.leases.watch() as watch:
            run = _Run(wall(self._clock), watch)
            await self._mark(run)
            await self._measure(run)
            found = Collected(started=run.now, dry_run=dry_run, before=run.held, after=run.held)
            planned = await self._plan(run, room, exceeded_only)
            if planned is None:
                return found
            found.notes += [*run.notes, *planned.notes]
            found.is_exceeded = run.is_blind or bool(planned.notes)
            removals = [each for each in planned.removals if each in run.named]
            if not dry_run:
                removals = await self._carry_out(run, removals, found)
            self._say(run, removals, found)
            if not dry_run:
                await self._sweep(run, found)
        found.after = run.held - found.freed if dry_run else self._store.total()
        if not dry_run:
            said = [] if self.last is None else self.last.notes
            self.last = found
            self._counted(found.freed)
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

    async def _mark(self, run: _Run) -> None:
        """What the repositories refer to."""
        places = await self._repositories.names()
        for upstream, name in places:
            try:
                roots = await self._roots(upstream, name, run)
            except OSError as error:
                run.is_blind = True
                run.notes.append(
                    f"{upstream}/{name} cannot be read ({error.strerror or error}): nothing is removed until it can,"
                    " for it may refer to anything"
                )
                continue
            run.repositories.append(roots)
            run.table.refer(roots.blobs)
            run.table.refer(roots.always)
            await self._turn()
        for gone in self._known.keys() - set(places):
            del self._known[gone]
        for _ in run.table.settle():
            await self._turn()

    async def _roots(self, upstream: str, name: str, run: _Run) -> RepositoryRoots:
        """
        The repository's roots, as they are known or else looked at.

        @raise OSError: it cannot be read.
        """
        place = upstream, name
        self._keeps()
        stamp = Stamp(self._repositories.changes(*place), self._usage.stamp(*place), self._generation)
        known = self._known.get(place)
        if known is not None and known.stamp == stamp:
            return known
        repository = await self._repositories.read(upstream, name)
        relations = await relations_of(repository, self._manifests)
        found = RepositoryRoots(upstream, name)
        every = await self._every_root(repository, relations)
        for _ in look_at(found, repository, relations, every, self._usage, self._is_kept(repository)):
            await self._turn()
        found.always.extend(await self._unknown(repository, relations, run))
        found.stamp = stamp
        # What could not be read may be readable the next time.
        if not found.always:
            self._known[place] = found
        return found

    async def _unknown(self, repository: Repository, relations: Relations, run: _Run) -> set[int]:
        """Numbers of what manifests may name that cannot be read."""
        found: set[int] = set()
        for digest, record in repository.manifests.items():
            if digest in relations.names:
                continue
            found.update(map(number_of, repository.blobs))
            try:
                data: bytes = await self._store.read(digest, MAX_MANIFEST_BYTES)
            except (PullcacheError, OSError):
                data = await self._store.read_damaged(digest, MAX_MANIFEST_BYTES)
            named = _DIGEST.findall(data)
            found.update(number_of(Digest.parse(each.decode("ascii"))) for each in named)
            if not record.confirm and not named:
                run.is_unsure = True
                run.notes.append(
                    f"{full_name(*repository.place, digest)} is missing or damaged, and was imported: what nothing"
                    " refers to is not removed until it is mended"
                )
        return found

    async def _measure(self, run: _Run) -> None:
        """What is held, and what of it nothing refers to."""
        grace = self._settings().retention.grace
        async for batch in self._store.walk():
            for stored in batch:
                run.held += stored.size
                if grace and run.now - stored.modified < grace:
                    run.young.add(number_of(stored.digest))
                if not run.table.found(stored) and len(run.unreferenced) < MOST:
                    run.unreferenced.append(stored)
            await self._turn()

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _plan(self, run: _Run, room: int, exceeded_only: bool) -> Plan | None:
        """What goes; C{None}: no limit is exceeded, and only then it should."""
        leased = frozenset(map(number_of, run.watch.seen))
        run.unreferenced = [
            each
            for each in ([] if run.is_blind or run.is_unsure else run.unreferenced)
            if number_of(each.digest) not in run.young and each.digest not in run.watch
        ]
        for roots in run.repositories:
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
        if run.is_blind:
            return Plan()
        planned = await self._threads.call(plan, run.repositories, run.table, limits, run.now, size_words)
        await self._name(run, planned)
        return planned

    async def _name(self, run: _Run, planned: Plan) -> None:
        """What each removal is called, and what goes with it; one of a repository that has changed stays this time."""
        by_repository: dict[int, list[Removal]] = {}
        for removal in planned.removals:
            by_repository.setdefault(removal.repository, []).append(removal)
        for at, removals in by_repository.items():
            roots = run.repositories[at]
            repository = await self._repositories.read(roots.upstream, roots.name)
            relations = await self._relations(repository)
            found = run.roots[at] = await self._every_root(repository, relations)
            is_same = roots.stamp.changes == self._repositories.changes(*repository.place)
            for removal in removals:
                if not is_same or removal.root >= len(found):
                    self._restore(run, removal)
                    continue
                tag, digest = found[removal.root]
                blobs = relations.kept(repository, [] if tag is None else [tag], [digest]).blobs
                dying = set(removal.blobs)
                run.named[removal] = tag, digest, [each for each in blobs if number_of(each) in dying]
                await self._turn()

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

    def _keeps(self) -> tuple[Settings, list[ReferencePattern]]:
        """The settings in force, and all patterns of what is kept."""
        settings = self._settings()
        if self._patterns is None or self._patterns[0] is not settings:
            texts = dict.fromkeys(
                text for upstream in ("", *settings.upstreams) for text in settings.rules_for(upstream).keep
            )
            self._generation += 1
            self._patterns = settings, [ReferencePattern.parse(text, settings.upstream_for) for text in texts]
        return self._patterns

    def _is_kept(self, repository: Repository) -> Callable[[str | None, Digest], bool]:
        patterns, place = self._keeps()[1], "/".join(repository.place)
        return lambda tag, digest: any(pattern.covers(place, tag, str(digest)) for pattern in patterns)

    # -- removing ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, run: _Run, removals: list[Removal], found: Collected) -> list[Removal]:
        """Remove the images, durably; those that went."""
        by_repository: dict[int, list[Removal]] = {}
        for removal in removals:
            by_repository.setdefault(removal.repository, []).append(removal)
        gone: set[Removal] = set()
        places = list(by_repository)
        for first in range(0, len(places), SAVES):
            saving = [await self._take_out(run, by_repository[at], found) for at in places[first : first + SAVES]]
            for went, saved in saving:
                roots = run.repositories[went[0].repository] if went else None
                try:
                    await saved
                    gone.update(went)
                except OSError as error:
                    # Its document may name them still.
                    assert roots is not None
                    why = f"could not be saved ({error.strerror or error}): its blobs stay for now"
                    found.notes.append(f"{roots.upstream}/{roots.name} {why}")
            await self._turn()
        for removal in removals:
            if removal not in gone:
                self._restore(run, removal)
        return [removal for removal in removals if removal in gone]

    async def _take_out(
        self, run: _Run, planned: list[Removal], found: Collected
    ) -> tuple[list[Removal], Deferred[None]]:
        """Take images out of their repository; those that went, and what fires when that is durable."""
        roots = run.repositories[planned[0].repository]
        try:
            repository = await self._repositories.read(roots.upstream, roots.name)
            relations = await self._relations(repository)
        except OSError as error:
            found.notes.append(f"{roots.upstream}/{roots.name} cannot be read ({error.strerror or error})")
            return [], succeed(None)
        went = self._remove(run, repository, relations, planned)
        return went, self._repositories.save(repository) if went else succeed(None)

    def _remove(self, run: _Run, repository: Repository, relations: Relations, planned: list[Removal]) -> list[Removal]:
        """Take images out of a repository, in one turn; those that were not used, pinned or changed meanwhile."""
        self._catch_up()
        at = planned[0].repository
        stamp, roots = run.repositories[at].stamp, run.roots[at]
        if is_changed := stamp.changes != self._repositories.changes(*repository.place):
            roots = roots_of(repository, relations)
        is_used = is_changed or stamp.uses != self._usage.stamp(*repository.place)
        there, went, going = set(roots), list[Removal](), set[Root]()
        for removal in planned:
            tag, digest, _ = run.named[removal]
            if (tag, digest) not in there or digest in run.watch:
                continue
            if is_used:
                last = last_use(repository, relations, self._usage, tag, digest)
                if last not in (None, run.repositories[at].last[removal.root]):
                    continue
            if is_changed and is_pinned(repository, relations.kept(repository, [] if tag is None else [tag], [digest])):
                continue
            went.append(removal)
            going.add((tag, digest))
        if not went:
            return []
        stay = [root for root in roots if root not in going]
        kept = relations.kept(repository, [tag for tag, _ in stay if tag], [digest for tag, digest in stay if not tag])
        for tag in [*(repository.tags.keys() - kept.tags)]:
            repository.untag(tag)
        gone = [*(repository.manifests.keys() - kept.manifests)]
        repository.drop(*gone)
        if all(digest in relations.names for digest in repository.manifests):
            for digest in [*(repository.blobs.keys() - kept.blobs)]:
                if digest not in run.watch and number_of(digest) not in run.young:
                    repository.unlink(digest)
        self._graph.forget(repository, gone)
        self._forget(repository, gone)
        return went

    async def _every_root(self, repository: Repository, relations: Relations) -> list[Root]:
        """As L{roots_of}; of a large repository on a thread, as it is at this moment."""
        if len(repository.manifests) <= LARGE:
            return roots_of(repository, relations)
        return await self._threads.call(roots_of, repository.copy(), relations)

    async def _relations(self, repository: Repository) -> Relations:
        """What its manifests are to each other at this moment: no turn passes behind the last look."""
        while True:
            changes = self._repositories.changes(*repository.place)
            # Not from the graph's memory: that is for what clients ask for.
            relations = await relations_of(repository, self._manifests)
            if self._repositories.changes(*repository.place) == changes:
                return relations

    def _restore(self, run: _Run, removal: Removal) -> None:
        for number in run.repositories[removal.repository].of(removal.root):
            run.table.restore(number)

    def _say(self, run: _Run, removals: list[Removal], found: Collected) -> None:
        """Put in words what goes."""
        seen: set[Digest] = set()
        for removal in removals:
            tag, digest, blobs = run.named[removal]
            roots, freed = run.repositories[removal.repository], 0
            for blob in blobs:
                number = number_of(blob)
                size = run.table.size(number)
                is_free = not run.table.count(number) and number not in run.young and blob not in run.watch
                if is_free and size and blob not in seen:
                    seen.add(blob)
                    freed += size
                    found.blobs.append(CollectedBlob(blob, removal.why, size))
            name = full_name(roots.upstream, roots.name, tag or digest)
            found.images.append(CollectedImage(name, digest, removal.why, freed))
        found.blobs += [CollectedBlob(each.digest, UNREFERENCED, each.size) for each in run.unreferenced]

    async def _sweep(self, run: _Run, found: Collected) -> None:
        """Remove the blobs, but for those that were used since the run began."""
        swept: list[CollectedBlob] = []
        for first in range(0, len(found.blobs), BATCH):
            # In the turn in which they go: nothing finds them from then on.
            batch = [each for each in found.blobs[first : first + BATCH] if each.digest not in run.watch]
            try:
                await self._store.delete(*(each.digest for each in batch))
            except OSError as error:
                found.notes.append(f"some blobs could not be removed: {error.strerror or error}")
            swept += [each for each in batch if self._store.size(each.digest) is None]
        found.blobs = swept

    async def _turn(self) -> None:
        """Let others have their turn, when this one took its time."""
        if self._clock.seconds() - self._turn_began >= SLICE:
            await self._threads.call(lambda: None)
            self._turn_began = self._clock.seconds()
