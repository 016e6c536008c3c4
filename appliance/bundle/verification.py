"""
Verifying a bundle: what an import into an empty store would say of it, with nothing stored.

The files are opened, read and planned with the code of an import, over an empty store in memory; after that every blob
is hashed. So what passes here is taken there, as far as it is the bundle's fault. Needs no appliance, no network and no
reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from appliance.bundle.archive import Archive
from appliance.bundle.archivecontents import ArchiveContents
from appliance.bundle.blobingest import check_bytes, in_file_order
from appliance.bundle.compression import Stop
from appliance.bundle.contents import Bundle
from appliance.bundle.importplan import ImportPlan, plan_import
from appliance.bundle.minisign import PublicKey, TrustPolicy
from appliance.bundle.reader import document_of, is_cut, missing_volumes, open_into, read_contents
from appliance.errors import NotOneBundle
from appliance.flow.disk import InlineThreads
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore


@dataclass(frozen=True)
class Verified:
    """
    A bundle of which everything that was given is right.

    @ivar contents: what it holds, and who signed it.
    @ivar absent: numbers of the volumes of which nothing was given; an import wants those, too.
    """

    bundle: Bundle
    contents: ArchiveContents
    absent: tuple[int, ...]


def verify(files: Sequence[Path], keys: Sequence[PublicKey], hashed: Callable[[int, int], None]) -> Verified:
    """
    Read a bundle, all files of it together, and hash every blob. Blocking.

    What an increment builds on is taken for held: C{bundle.requires} says what that is.

    @param keys: one of these must have signed it; with none no signature is checked.
    @param hashed: called with how many bytes were hashed by now, and of how many.
    @raise NotOneBundle: the files are of several bundles.
    @raise BundleUntrusted: none of the keys signed it.
    @raise BundleUnreadable: it is no bundle; other tools' archives carry nothing that could be verified.
    @raise BundleError: as an import into an empty store would raise; missing volumes are in L{Verified.absent}.
    """
    archives: list[Archive] = []
    try:
        for path in files:
            open_into(archives, path, Stop())
        # Also of one archive alone: one without a list of contents is refused here.
        first = document_of(archives[0]) if archives else b""
        for archive in archives[1:]:
            if document_of(archive) != first:
                both = f"{archives[0].source} and {archive.source}"
                raise NotOneBundle(f"{both} are not of one bundle; verify each by itself")
        contents = read_contents(archives, None, TrustPolicy(tuple(keys)))
        assert contents.bundle is not None, "every archive holds a list of contents"
        absent = missing_volumes(contents.bundle, archives)
        required = {Digest.parse(each.digest): each.size for each in contents.bundle.requires}
        plan = _result(plan_import(contents, archives, MemoryBlobStore(), InlineThreads(), required))
        if plan.incomplete is not None and (not absent or is_cut(contents.bundle, archives)):
            raise plan.incomplete

        total = sum(blob.size for blob in contents.blobs.values()) + sum(file.item.size for file in contents.loose)
        done = 0

        def progressed(octets: int) -> None:
            nonlocal done
            done += octets
            hashed(done, total)

        for blob in in_file_order(contents.blobs.values()):
            check_bytes(blob.files, blob.digest, progressed)
        for file in contents.loose:
            check_bytes([file], None, progressed)
        return Verified(contents.bundle, contents, tuple(sorted(absent)))
    finally:
        for archive in archives:
            archive.close()


def _result(work: Coroutine[Any, Any, ImportPlan]) -> ImportPlan:
    """What C{work} returns or raises; over a store in memory and inline threads it never waits."""
    outcome: list[ImportPlan | Failure] = []
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    [found] = outcome
    if isinstance(found, Failure):
        found.raiseException()
    return found
