"""
Verifying a bundle: what an import into an empty store would say of it, with nothing stored.

The files are opened, read and looked through by what an import does that with; after that every blob is hashed. So what
passes here is taken there, as far as it is the bundle's fault. Needs no appliance, no store, no network and no reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from appliance.bundle.archive import Archive, whole
from appliance.bundle.contents import BUNDLE, MAX_BUNDLE_BYTES, Bundle
from appliance.bundle.importer import open_into, read_offer
from appliance.bundle.intake import check_bytes, in_file_order
from appliance.bundle.minisign import PublicKey
from appliance.bundle.offer import Offer
from appliance.bundle.policy import Policy
from appliance.bundle.survey import Survey, survey
from appliance.bundle.volumeset import is_cut, missing_volumes
from appliance.bundle.wrapping import Stop
from appliance.errors import BundleUnreadable, NotOneBundle
from appliance.flow.threads import InlineThreads
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore


@dataclass(frozen=True)
class Verified:
    """
    A bundle of which everything that was given is right.

    @ivar offer: what it offers, and who signed it.
    @ivar absent: numbers of the volumes of which nothing was given; an import wants those, too.
    """

    bundle: Bundle
    offer: Offer
    absent: tuple[int, ...]


def verify(files: Sequence[Path], keys: Sequence[PublicKey], hashed: Callable[[int, int], None]) -> Verified:
    """
    Read a bundle, all files of it together, and hash every blob. Blocking.

    What an increment builds on is taken for held: C{bundle.requires} says what that is.

    @param keys: one of these must have signed it; none: whoever made it.
    @param hashed: told how many bytes were hashed by now, of how many.
    @raise NotOneBundle: the files are of several bundles.
    @raise BundleUntrusted: none of the keys signed it.
    @raise BundleUnreadable: it is no bundle; other tools' archives carry nothing that could be verified.
    @raise BundleError: as an import into an empty store would raise; missing volumes are told in L{Verified.absent}.
    """
    archives: list[Archive] = []
    try:
        for path in files:
            open_into(archives, path, Stop())
        _check_that_one_bundle_was_given(archives)
        offer = read_offer(archives, None, Policy(tuple(keys)))
        assert offer.bundle is not None, "every archive holds a list of contents"
        absent = missing_volumes(offer.bundle, archives)
        found = _survey(offer, archives)
        if found.lack is not None and (not absent or is_cut(offer.bundle, archives)):
            raise found.lack
        _hash_all(offer, hashed)
        return Verified(offer.bundle, offer, tuple(sorted(absent)))
    finally:
        for archive in archives:
            archive.close()


def _check_that_one_bundle_was_given(archives: Sequence[Archive]) -> None:
    """Raises as L{verify} does."""
    first = b""
    for archive in archives:
        if BUNDLE not in archive.items:
            raise BundleUnreadable(
                f"{archive.source}: there is no {BUNDLE} in it; other archives can be imported, but carry nothing that"
                " could be verified or built on"
            )
        document = whole(archive, archive.items[BUNDLE], MAX_BUNDLE_BYTES)
        first = first or document
        if document != first:
            raise NotOneBundle(
                f"{archives[0].source} and {archive.source} are not of one bundle; verify each by itself"
            )


def _survey(offer: Offer, archives: Sequence[Archive]) -> Survey:
    """What an import would find; its Deferreds have all fired, since nothing here waits."""
    assert offer.bundle is not None
    required = {Digest.parse(each.digest): each.size for each in offer.bundle.requires}
    outcome: list[Survey | Failure] = []
    looking = survey(offer, archives, MemoryBlobStore(), InlineThreads(), required)
    Deferred.fromCoroutine(looking).addBoth(outcome.append)
    [found] = outcome
    if isinstance(found, Failure):
        found.raiseException()
    return found


def _hash_all(offer: Offer, hashed: Callable[[int, int], None]) -> None:
    total = sum(supply.size for supply in offer.supplies.values()) + sum(place.item.size for place in offer.loose)
    done = 0

    def progressed(octets: int) -> None:
        nonlocal done
        done += octets
        hashed(done, total)

    for supply in in_file_order(offer.supplies.values()):
        check_bytes(supply.places, supply.digest, progressed)
    for place in offer.loose:
        check_bytes([place], None, progressed)
