"""
Importing archives into the running appliance.

Everything that can be known before bulk data is moved is checked first: signature, format, conflicts, what is missing,
and every manifest. Then what is not held is stored, and at last all references are published at once, or none. What is
stored and not yet published when an import ends early stays staged; the next import of the same archive goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.bundle import foreign, volumeset
from appliance.bundle.archive import Archive, open_archive
from appliance.bundle.contents import BUNDLE
from appliance.bundle.intake import Intake, check_bytes, in_file_order
from appliance.bundle.journal import OnExistingTag
from appliance.bundle.minisign import PublicKey
from appliance.bundle.names import Names, Renames
from appliance.bundle.offer import Offer, Root, check_names
from appliance.bundle.policy import Policy
from appliance.bundle.publication import Publication
from appliance.bundle.receipt import Change, Receipt
from appliance.bundle.survey import Survey, survey
from appliance.bundle.wrapping import Stop
from appliance.errors import (
    BundleError,
    BundleIncomplete,
    BundleNotRead,
    BundleUpstreamUnknown,
    NameInvalid,
    PullcacheError,
)
from appliance.flow.clock import wall
from appliance.index.referrers import ReferrerList, ReferrerLists
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference
from appliance.oci.timestamps import seconds_of, timestamp

#: How many notes of one kind a receipt has.
_SHOWN = 5


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """
    How far an import is.

    @ivar stage: C{"opening"}, C{"checking"}, C{"storing"} or C{"publishing"}.
    @ivar done: bytes stored, of C{total} that were not held.
    @ivar entry: what is being read.
    """

    stage: str
    done: int = 0
    total: int = 0
    entry: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """
    @ivar as_name: the name of the one image in another tool's archive, C{None} for the archive's own names.
    @ivar dry_run: say what would happen, and store nothing.
    @ivar on_existing_tag: what happens to a tag that means something else here.
    @ivar renames: beginnings of names and what they are to be, see L{Renames}.
    @ivar trust: the only keys that are trusted for this import, see L{Policy.only}; none: the configured ones.
    @ivar follow_links: whether the files may be links, as for whoever named them.
    """

    as_name: str | None = None
    dry_run: bool = False
    on_existing_tag: OnExistingTag = "move"
    renames: Mapping[str, str] = field(default_factory=dict)
    trust: tuple[PublicKey, ...] = ()
    follow_links: bool = True


class Importer:
    """Imports into one store; one import at a time, the next waits."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        publication: Publication,
        threads: IThreads,
        policy: Policy,
        names: Names,
        clock: IReactorTime,
        site: str = "",
        lists: ReferrerLists | None = None,
    ) -> None:
        """
        @param site: the stable id of this appliance, for receipts.
        @param lists: told of which manifests a bundle says that it has all that refers to them; C{None}: nobody is.
        """
        self._lists = lists
        self._store = store
        self._publication = publication
        self._threads = threads
        self._policy = policy
        self._names = names
        self._clock = clock
        self._site = site
        self._lock = DeferredLock()

    async def run(
        self, files: Sequence[Path], options: ImportOptions, progress: Callable[[Progress], None] = lambda _: None
    ) -> Receipt:
        """
        Import a bundle, all files of it together, or another tool's archive.

        Cancelling ends it: what was stored stays staged, nothing is published; only the publication itself, once
        begun, runs to its end.

        @return: the receipt, kept; with C{dry_run} not kept.
        @raise BundleError: see its subclasses; nothing was published.
        @raise OSError: the journal of what is to be published cannot be written; nothing was published.
        """
        await self._lock.acquire()
        try:
            return await self._opened(files, options, progress)
        finally:
            self._lock.release()

    async def _opened(
        self, files: Sequence[Path], options: ImportOptions, progress: Callable[[Progress], None]
    ) -> Receipt:
        policy = self._policy.only(options.trust)
        stop = Stop()
        archives: list[Archive] = []
        try:
            for path in files:
                progress(Progress(stage="opening", entry=str(path)))
                await self._threads.call(open_into, archives, path, stop, options.follow_links)
            progress(Progress(stage="checking"))
            offer = await self._threads.call(read_offer, archives, options.as_name, policy)
            offer = await self._threads.call(self._named, offer, options)
            return await self._import(offer, archives, options, progress)
        finally:
            # Whatever a thread is still reading ends soon, and the files are closed after it.
            stop.request()
            for archive in archives:
                self._threads.call(archive.close)

    async def _import(
        self, offer: Offer, archives: Sequence[Archive], options: ImportOptions, progress: Callable[[Progress], None]
    ) -> Receipt:
        unknown = self._names.missing(root.upstream for root in offer.roots)
        if unknown is not None and not options.dry_run:
            raise BundleUpstreamUnknown(f"{offer.source}: {unknown}")
        changes = await self._publication.preview(offer.roots, options.on_existing_tag)
        found = await survey(offer, archives, self._store, self._threads)
        if options.dry_run:
            return self._receipt(offer, found, changes, 0, dry_run=True)
        if found.lack is not None:
            raise found.lack
        read_bytes = await self._store_all(found, progress)
        await self._check_unneeded(offer, found)
        self._check_held(offer, found)
        progress(Progress(stage="publishing", done=found.new_bytes, total=found.new_bytes))
        receipt = await self._publication.publish(
            offer.id,
            found.content,
            options.on_existing_tag,
            wall(self._clock),
            self._receipt(offer, found, [], read_bytes),
        )
        return await self._afterwards(receipt, offer, found, options)

    async def _afterwards(self, receipt: Receipt, offer: Offer, found: Survey, options: ImportOptions) -> Receipt:
        """What is done when everything is published: from then on nothing that fails makes a failure of the import."""
        try:
            notes = await self._note_heard(offer, found, Renames(options.renames))
            if notes:
                receipt = msgspec.structs.replace(receipt, notes=[*receipt.notes, *notes])
                await self._publication.amend(receipt)
        except CancelledError:
            raise
        except Exception as error:
            self._log.failure("{source} is published; what came after that failed", source=offer.source)
            receipt = msgspec.structs.replace(receipt, notes=[*receipt.notes, f"it is published; after that: {error}"])
        return receipt

    async def _note_heard(self, offer: Offer, found: Survey, renames: Renames) -> list[str]:
        """
        Keep what the sender heard of referrers. They are held by now, and say of themselves what they refer to; so what
        is kept is only that there are no others, as of the time of the bundle.

        A bundle speaks for the manifests that it brings, and only of the past: else it could say of any image that it
        has no signatures, for ever.

        @return: what the user should know.
        """
        if offer.bundle is None or self._lists is None or not offer.bundle.referrers_heard:
            return []
        created = offer.bundle.created
        if seconds_of(created) > wall(self._clock):
            return [f"it was made at {created}, a time to come: what it says of referrers is not relied on"]
        heard = ReferrerList((), seconds_of(created))
        inside: dict[tuple[str, str], set[str]] = {}
        for published in found.content:
            place = inside.setdefault((published.root.upstream, published.root.repository), set())
            place.update(manifest.digest for manifest in published.manifests)
        strangers, problems = 0, []
        for entry in offer.bundle.referrers_heard:
            named, subject = Reference.parse(entry.repository), Digest.parse(entry.subject)
            upstream, repository = self._names.meant(named.upstream, named.repository, renames)
            if entry.subject not in inside.get((upstream, repository), ()):
                strangers += 1
                continue
            try:
                known = await self._lists.get(upstream, repository, subject)
                if known is None or known.heard_at < heard.heard_at:
                    await self._lists.save(upstream, repository, subject, heard)
            except (PullcacheError, OSError) as error:
                problems.append(f"that nothing else refers to {subject} could not be noted: {error}")
        if strangers:
            problems.append(f"what it says of referrers of {strangers} manifests that are not in it is left out")
        return problems if len(problems) <= _SHOWN else [*problems[:_SHOWN], f"and {len(problems) - _SHOWN} such notes"]

    async def _store_all(self, found: Survey, progress: Callable[[Progress], None]) -> int:
        done, total = 0, found.new_bytes

        def progressed(entry: str, octets: int) -> None:
            nonlocal done
            done += octets
            progress(Progress(stage="storing", done=done, total=total, entry=entry))

        intake = Intake(self._store, self._threads, progressed)
        await intake.take_all(in_file_order(found.new))
        return intake.read_bytes

    async def _check_unneeded(self, offer: Offer, found: Survey) -> None:
        """What a bundle lists and none of its names needs is not stored, and has to be right all the same."""
        if offer.bundle is None:
            return
        for digest, supply in offer.supplies.items():
            if digest not in found.needed and self._store.size(digest) is None:
                await self._threads.call(check_bytes, supply.places, digest)

    def _check_held(self, offer: Offer, found: Survey) -> None:
        """The store has it all at the moment of publication: what was held an hour ago may have been removed."""
        gone = tuple(str(digest) for digest, size in found.needed.items() if self._store.size(digest) != size)
        if gone:
            raise BundleIncomplete(
                f"{offer.source}: {len(gone)} blobs were removed from the store meanwhile, {gone[0]} among them; import"
                " it again",
                gone,
            )

    def _named(self, offer: Offer, options: ImportOptions) -> Offer:
        """
        The offer with names as they are here. Blocking: there may be a hundred thousand.

        @raise BundleDamaged: that makes one name of two images'.
        @raise BundleError: a name means nothing here.
        """
        roots: dict[tuple[str, Digest], Root] = {}
        try:
            renames = Renames(options.renames)
            for root in offer.roots:
                upstream, repository = self._names.meant(root.upstream, root.repository, renames)
                named = replace(root, upstream=upstream, repository=repository)
                if named.name != root.name:
                    named = replace(named, said=root.name)
                roots.setdefault((named.name, named.digest), named)
        except NameInvalid as error:
            raise BundleError(f"{offer.source}: {error}") from None
        offer.notes += [f"nothing in it is called {prefix}, which was to be renamed" for prefix in renames.unused]
        offer.roots = list(roots.values())
        check_names(offer.source, offer.roots)
        return offer

    def _cautions(self, offer: Offer) -> Iterator[str]:
        """What of it nobody could pull."""
        unknown = self._names.missing(root.upstream for root in offer.roots)
        if unknown is not None:
            yield unknown
        places = sorted({(root.upstream, root.repository) for root in offer.roots})
        denied = [f"{upstream}/{name}" for upstream, name in places if not self._names.permits(upstream, name)]
        if denied:
            more = f" and {len(denied) - 1} more" if len(denied) > 1 else ""
            yield f"{denied[0]}{more} may not be pulled here: allow and deny of the upstream do not let it through"

    def _receipt(
        self, offer: Offer, found: Survey, changes: list[Change], read_bytes: int, dry_run: bool = False
    ) -> Receipt:
        bundle = offer.bundle
        missing = () if found.lack is None else found.lack.missing
        lacking = [size for digest, size in found.needed.items() if str(digest) in missing]
        notes = [*offer.notes, *self._cautions(offer)]
        if dry_run and found.lack is not None:
            notes.append(str(found.lack))
        # Both are RFC 3339 in UTC, to the second at least: they compare as text.
        if bundle is not None and bundle.not_after is not None and bundle.not_after < timestamp(wall(self._clock)):
            notes.append(f"trust material inside has expired at {bundle.not_after}")
        return Receipt(
            bundle=offer.id,
            format=offer.format,
            files=offer.sources,
            finished=timestamp(wall(self._clock)),
            dry_run=dry_run,
            site=self._site,
            sender="" if bundle is None else bundle.site,
            title="" if bundle is None else bundle.title,
            created="" if bundle is None else bundle.created,
            signer=offer.signer,
            comment=offer.comment,
            content_root="" if bundle is None else bundle.content_root,
            refs=changes,
            new_blobs=len(found.new),
            new_bytes=found.new_bytes,
            read_bytes=read_bytes,
            held_blobs=len(found.needed) - len(found.new) - len(lacking),
            held_bytes=sum(found.needed.values()) - found.new_bytes - sum(lacking),
            missing=list(missing),
            absent=list(found.absent),
            unknown_upstreams=sorted(
                {root.upstream for root in offer.roots if self._names.upstream_for(root.upstream) is None}
            ),
            notes=notes,
        )


def open_into(archives: list[Archive], path: Path, stop: Stop, follow_links: bool = True) -> None:
    """
    Open one more archive. Blocking; raises L{BundleError}.

    On a thread: should the import have ended meanwhile, nobody else would close it.
    """
    archive = open_archive(path, stop, follow_links, archives)
    archives.append(archive)
    try:
        stop.check()
    except BaseException:
        archive.close()
        raise


def read_offer(archives: Sequence[Archive], as_name: str | None, policy: Policy) -> Offer:
    """
    What the files offer together, to an import or to whoever verifies them. Blocking; raises L{BundleError}.

    @param as_name: the name of the one image in another tool's archive, C{None} for the archive's own names.
    """
    ours = [BUNDLE in archive.items for archive in archives]
    if not archives:
        raise BundleError("no file was named; name an archive, or all volumes of a bundle")
    try:
        if all(ours):
            if as_name is not None:
                raise BundleError(f"{archives[0].source}: a bundle has names of its own; leave --as away")
            return volumeset.read_bundle(archives, policy)
        if len(archives) > 1:
            stranger = archives[ours.index(False)]
            raise BundleError(f"{stranger.source}: is no volume of a bundle; import another tool's archives one by one")
        return foreign.read_foreign(archives[0], as_name, policy)
    except OSError as error:
        raise BundleNotRead(
            f"{archives[0].source}: cannot be read: {error.strerror}; clean or copy the medium"
        ) from None
