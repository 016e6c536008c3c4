"""
Importing archives into the running appliance.

Everything that can be known before bulk data is moved is checked first: signature, format, conflicts, what is missing,
and every manifest. Then what is not held is stored, and at last all references are published at once, or none. What is
stored and not yet published when an import ends early stays staged; the next import of the same archive goes on there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import msgspec
from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.bundle.archive import Archive
from appliance.bundle.archivecontents import ArchiveContents, NamedManifest, check_names
from appliance.bundle.blobingest import BlobIngest, in_file_order
from appliance.bundle.compression import Stop
from appliance.bundle.importplan import ImportPlan, plan_import
from appliance.bundle.minisign import PublicKey, TrustPolicy
from appliance.bundle.names import Names, Renames
from appliance.bundle.publication import OnExistingTag, Publication, notes_of
from appliance.bundle.reader import missing_volumes, open_into, read_contents
from appliance.bundle.receipt import Change, Receipt
from appliance.bundle.sentarchive import SentArchive
from appliance.bundle.tarpassage import TarPassage
from appliance.errors import (
    BundleError,
    BundleIncomplete,
    BundleUpstreamUnknown,
    NameInvalid,
    PullcacheError,
)
from appliance.flow.clock import wall
from appliance.index.lists import ReferrerList, ReferrerLists
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference
from appliance.oci.timestamps import seconds_of, timestamp
from appliance.store.leases import Lease

#: How many notes of one kind a receipt has.
_SHOWN = 5


class ImportProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
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
    @ivar trust: the only keys that are trusted for this import, see L{TrustPolicy.only}; none: the configured ones.
    @ivar follow_links: whether the files may be links, as where a user named them.
    """

    as_name: str | None = None
    dry_run: bool = False
    on_existing_tag: OnExistingTag = "move"
    renames: Mapping[str, str] = field(default_factory=dict)
    trust: tuple[PublicKey, ...] = ()
    follow_links: bool = True


class Importer:
    """Imports into one store; of files, one import at a time, the next waits."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        publication: Publication,
        threads: IThreads,
        policy: TrustPolicy,
        names: Names,
        clock: IReactorTime,
        site: str = "",
        lists: ReferrerLists | None = None,
        room: Callable[[int], Awaitable[object]] | None = None,
    ) -> None:
        """
        @param room: has so many bytes of room made in the store, as far as that can be done; C{None}: what does not fit
            is refused.
        @param site: the stable id of this appliance, for receipts.
        @param lists: where it is noted that a bundle has all referrers of a manifest; C{None}: it is not noted.
        """
        self._lists = lists
        self._room = room
        self._store = store
        self._publication = publication
        self._threads = threads
        self._policy = policy
        self._names = names
        self._clock = clock
        self._site = site
        self._lock = DeferredLock()

    async def run(
        self, files: Sequence[Path], options: ImportOptions, progress: Callable[[ImportProgress], None] = lambda _: None
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
        stop = Stop()
        archives: list[Archive] = []
        try:
            for path in files:
                progress(ImportProgress(stage="opening", entry=str(path)))
                await self._threads.call(open_into, archives, path, stop, options.follow_links)
            return await self.run_opened(archives, options, progress)
        finally:
            # Whatever a thread is still reading ends soon, and the files are closed after it.
            stop.request()
            for archive in archives:
                self._threads.call(archive.close)
            self._lock.release()

    async def run_opened(
        self,
        archives: Sequence[Archive],
        options: ImportOptions,
        progress: Callable[[ImportProgress], None] = lambda _: None,
        brought: Mapping[Digest, int] = MappingProxyType({}),
    ) -> Receipt:
        """
        As L{run}, of archives that are open already; several imports at a time, as many as the caller lets in.

        @param brought: sizes of what the archives have brought already.
        """
        policy = self._policy.only(options.trust)
        progress(ImportProgress(stage="checking"))
        contents = await self._threads.call(read_contents, archives, options.as_name, policy)
        contents = await self._threads.call(self._named_as_here, contents, options)
        with self._store.leases.take(()) as lease:
            return await self._import(contents, archives, lease, options, progress, brought)

    async def run_passing(
        self, passage: TarPassage, options: ImportOptions, progress: Callable[[ImportProgress], None] = lambda _: None
    ) -> Receipt:
        """
        As L{run}, of an archive that passes by once.

        Of a volume of a bundle that is not whole with it, what came is stored all the same: with the last one it is.
        Another tool's archive is stored as it passes, before it is known which images it holds.
        """
        if await passage.begin():
            try:
                return await self.run_opened([passage.archive], options, progress)
            except BundleIncomplete as error:
                advice = "" if options.dry_run else await self._keep_volume(passage.archive, options)
                raise BundleIncomplete(f"{error}{advice}", error.missing) from None
        self._policy.only(options.trust).refuse_foreign(passage.archive.source, "an archive of another tool")
        brought: dict[Digest, int] = {}
        ingest = BlobIngest(self._store, self._threads, lambda entry, octets: None)
        with self._store.leases.take(()) as lease:
            async for blob in passage.blobs():
                if options.dry_run:
                    continue
                lease.add(blob.digest)
                if self._store.size(blob.digest) is None:
                    if self._room is not None:
                        await self._room(blob.size)
                    brought[blob.digest] = blob.size
                await ingest.store_all([blob])
            return await self.run_opened([passage.archive], options, progress, brought)

    async def _keep_volume(self, archive: SentArchive, options: ImportOptions) -> str:
        """Store the blobs of one volume, if others are to follow; what to tell the user."""
        contents = await self._threads.call(read_contents, [archive], None, self._policy.only(options.trust))
        if contents.bundle is None or not missing_volumes(contents.bundle, [archive]):
            return ""
        if contents.loose:
            return "; a blob in it goes on in another volume, so send all of them together, with pullcache import"
        new = [blob for digest, blob in contents.blobs.items() if self._store.size(digest) is None]
        if self._room is not None:
            await self._room(sum(blob.size for blob in new))
        await BlobIngest(self._store, self._threads, lambda entry, octets: None).store_all(in_file_order(new))
        return "; this one is kept for some hours: send the others"

    def _named_as_here(self, contents: ArchiveContents, options: ImportOptions) -> ArchiveContents:
        """
        The contents with the names that this appliance uses. Blocking: there may be a hundred thousand.

        @raise BundleDamaged: that makes one name of two images'.
        @raise BundleError: a name means nothing here.
        """
        roots: dict[tuple[str, Digest], NamedManifest] = {}
        try:
            renames = Renames(options.renames)
            for root in contents.roots:
                upstream, repository = self._names.meant(root.upstream, root.repository, renames)
                named = replace(root, upstream=upstream, repository=repository)
                if named.name != root.name:
                    named = replace(named, original_name=root.name)
                roots.setdefault((named.name, named.digest), named)
        except NameInvalid as error:
            raise BundleError(f"{contents.source}: {error}") from None
        contents.notes += [f"nothing in it is called {prefix}, which was to be renamed" for prefix in renames.unused]
        contents.roots = list(roots.values())
        check_names(contents.source, contents.roots)
        return contents

    async def _import(
        self,
        contents: ArchiveContents,
        archives: Sequence[Archive],
        lease: Lease,
        options: ImportOptions,
        progress: Callable[[ImportProgress], None],
        brought: Mapping[Digest, int],
    ) -> Receipt:
        """Plan, store and publish; C{lease} is taken of all that is needed."""
        unknown = self._names.missing(root.upstream for root in contents.roots)
        if unknown is not None and not options.dry_run:
            raise BundleUpstreamUnknown(f"{contents.source}: {unknown}")
        changes = await self._publication.preview(contents.roots, options.on_existing_tag)
        plan = await plan_import(contents, archives, self._store, self._threads, lease=lease)
        if options.dry_run:
            receipt = self._receipt(contents, plan, changes, 0, brought, dry_run=True)
            return msgspec.structs.replace(receipt, notes=[*receipt.notes, *notes_of(changes)])
        if plan.incomplete is not None:
            raise plan.incomplete
        if self._room is not None:
            await self._room(plan.new_bytes)

        done = 0

        def progressed(entry: str, octets: int) -> None:
            nonlocal done
            done += octets
            progress(ImportProgress(stage="storing", done=done, total=plan.new_bytes, entry=entry))

        # What a bundle lists and none of its names needs is not stored, and has to be right all the same.
        unneeded = {
            digest: blob
            for digest, blob in (contents.blobs.items() if contents.bundle is not None else ())
            if digest not in plan.needed and self._store.size(digest) is None
        }
        ingest = BlobIngest(self._store, self._threads, progressed)
        await ingest.store_all(in_file_order([*plan.new, *unneeded.values()]), unneeded)
        # The store has it all at the moment of publication: what was held an hour ago may have been removed.
        gone = tuple(str(digest) for digest, size in plan.needed.items() if self._store.size(digest) != size)
        if gone:
            raise BundleIncomplete(
                f"{contents.source}: {len(gone)} blobs were removed from the store meanwhile, {gone[0]} among them;"
                " import it again",
                gone,
            )

        progress(ImportProgress(stage="publishing", done=plan.new_bytes, total=plan.new_bytes))
        receipt = await self._publication.publish(
            contents.id,
            plan.content,
            options.on_existing_tag,
            wall(self._clock),
            self._receipt(contents, plan, [], ingest.read_bytes, brought),
        )
        # From here on the import has succeeded, whatever fails.
        try:
            notes = await self._note_known_referrers(contents, plan, Renames(options.renames))
            if notes:
                receipt = msgspec.structs.replace(receipt, notes=[*receipt.notes, *notes])
                await self._publication.amend(receipt)
        except CancelledError:
            raise
        except Exception as error:
            self._log.failure("{source} is published; what came after that failed", source=contents.source)
            receipt = msgspec.structs.replace(receipt, notes=[*receipt.notes, f"it is published; after that: {error}"])
        return receipt

    async def _note_known_referrers(self, contents: ArchiveContents, plan: ImportPlan, renames: Renames) -> list[str]:
        """
        Keep what the sender's upstream listed as referrers. They are held by now, and say of themselves what they refer
        to; so what is kept is only that there are no others, as of the time of the bundle.

        A bundle speaks for the manifests that it brings, and only of the past: else it could say of any image that it
        has no signatures, for ever.

        @return: what the user should know.
        """
        if contents.bundle is None or self._lists is None or not contents.bundle.referrers_heard:
            return []
        created = contents.bundle.created
        if seconds_of(created) > wall(self._clock):
            return [f"it was made at {created}, a time to come: what it says of referrers is not relied on"]
        listed = ReferrerList((), seconds_of(created))
        inside: dict[tuple[str, str], set[str]] = {}
        for published in plan.content:
            manifests = inside.setdefault((published.root.upstream, published.root.repository), set())
            manifests.update(manifest.digest for manifest in published.manifests)
        outside, problems = 0, []
        for entry in contents.bundle.referrers_heard:
            named, subject = Reference.parse(entry.repository), Digest.parse(entry.subject)
            upstream, repository = self._names.meant(named.upstream, named.repository, renames)
            if entry.subject not in inside.get((upstream, repository), ()):
                outside += 1
                continue
            try:
                known = await self._lists.get(upstream, repository, subject)
                if known is None or known.received_at < listed.received_at:
                    await self._lists.save(upstream, repository, subject, listed)
            except (PullcacheError, OSError) as error:
                problems.append(f"that nothing else refers to {subject} could not be noted: {error}")
        if outside:
            problems.append(f"what it says of referrers of {outside} manifests that are not in it is left out")
        return problems if len(problems) <= _SHOWN else [*problems[:_SHOWN], f"and {len(problems) - _SHOWN} such notes"]

    def _receipt(
        self,
        contents: ArchiveContents,
        plan: ImportPlan,
        changes: list[Change],
        read_bytes: int,
        brought: Mapping[Digest, int],
        dry_run: bool = False,
    ) -> Receipt:
        bundle = contents.bundle
        before = [brought[digest] for digest in plan.needed if digest in brought]
        new_blobs, new_bytes = len(plan.new) + len(before), plan.new_bytes + sum(before)
        missing = () if plan.incomplete is None else plan.incomplete.missing
        lacking = [size for digest, size in plan.needed.items() if str(digest) in missing]
        notes = list(contents.notes)
        # What of it no client could pull.
        if (unknown := self._names.missing(root.upstream for root in contents.roots)) is not None:
            notes.append(unknown)
        places = sorted({(root.upstream, root.repository) for root in contents.roots})
        denied = [f"{upstream}/{name}" for upstream, name in places if not self._names.permits(upstream, name)]
        if denied:
            more = f" and {len(denied) - 1} more" if len(denied) > 1 else ""
            notes.append(
                f"{denied[0]}{more} may not be pulled here: allow and deny of the upstream do not let it through"
            )
        if dry_run and plan.incomplete is not None:
            notes.append(str(plan.incomplete))
        # Both are RFC 3339 in UTC, to the second at least: they compare as text.
        if bundle is not None and bundle.not_after is not None and bundle.not_after < timestamp(wall(self._clock)):
            notes.append(f"trust material inside has expired at {bundle.not_after}")
        return Receipt(
            bundle=contents.id,
            format=contents.format,
            files=contents.files,
            finished=timestamp(wall(self._clock)),
            dry_run=dry_run,
            site=self._site,
            sender="" if bundle is None else bundle.site,
            title="" if bundle is None else bundle.title,
            created="" if bundle is None else bundle.created,
            signer=contents.signer,
            comment=contents.comment,
            content_root="" if bundle is None else bundle.content_root,
            refs=changes,
            new_blobs=new_blobs,
            new_bytes=new_bytes,
            read_bytes=read_bytes + sum(before),
            held_blobs=len(plan.needed) - new_blobs - len(lacking),
            held_bytes=sum(plan.needed.values()) - new_bytes - sum(lacking),
            missing=list(missing),
            absent=list(plan.absent),
            unknown_upstreams=sorted(
                {root.upstream for root in contents.roots if self._names.upstream_for(root.upstream) is None}
            ),
            notes=notes,
        )
