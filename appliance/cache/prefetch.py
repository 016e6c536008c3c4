"""
Prefetching: what belongs to an image that a client has pulled is fetched as well, while no client waits for it.

=============  ================================  ===================================================================
what           begins                            and again
=============  ================================  ===================================================================
the image      L{GRACE} after the last request   after a failure with L{RETRY_DELAYS}, when its upstream may be asked
               for its repository, behind what   again, and after a restart, until it is whole
               clients wait for
its referrers  when the client has its answer    with the first pull after C{referrers_fresh_for}, since signatures
                                                 come later than images
=============  ================================  ===================================================================

The image, because a client asks for no layer that it has: what was pulled would not be there when the upstream is gone.
A client that asks for all of it makes it whole by itself: then nothing is left to fetch, and no upstream is asked.

Its referrers, because signatures, attestations and SBOMs are requested after the image, maybe by another client, when
the upstream is gone, or where there is none. So a manifest that was pulled by tag or digest is a I{subject}: runtimes
ask what a tag means and pull that digest, and of an index the child that they need. What is pulled because it refers to
something is only made whole, and that even where C{prefetch} is off.

What is fetched is requested as by a client, so that what is held or fresh costs nothing. Nothing of this counts as a
client's pull, and what fails is no want.

Which images are not known to be whole yet is kept as C{prefetch.json}::

    {"docker.io/library/nginx": ["sha256:...", ...], ...}
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.prefetchrun import (
    AGAIN,
    NO_ROOM_POLL,
    OUTAGE_POLL,
    ImagePrefetch,
    PrefetchSources,
    ReferrerPrefetch,
    RetryLater,
)
from appliance.errors import DigestInvalid, PullcacheError
from appliance.flow.singleflight import ended
from appliance.index.documents import StateFile
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from appliance.oci.referrer import subject_of
from appliance.settings import IMAGE_NONE

LIMIT = 1000
"""Subjects of a kind that wait; what is pulled beyond that is not looked at until it is pulled again."""

AT_ONCE = 4
"""Subjects of a kind in work at the same time; each has one question or one blob under way."""

REMEMBERED = 10_000
"""Subjects that are remembered as done for a while; the others are as new."""

GRACE = 2.0
"""Seconds without a request for a repository after which its clients are taken to have what they want."""

BUSY = 60.0
"""Seconds after which an image is begun although clients go on requesting its blobs."""

GIVES_WAY = 600.0
"""Seconds for which an image gives way to all that clients wait for."""

RETRY_DELAYS = (5.0, 30.0, 120.0, 600.0, 3600.0, 14400.0, 43200.0)
"""
Seconds before what could not be fetched is tried again, while no blob of the image comes; after the last it is given
up. An upstream that is down, or wants fewer requests, is waited for.
"""

WHOLE_FOR = 3600.0
"""Seconds before an image that was whole, or was given up, is looked at again when it is pulled."""

NAME = "prefetch.json"

_Digest = Annotated[str, msgspec.Meta(pattern="^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]


class Kind(Enum):
    """What of a subject is fetched."""

    IMAGE = "image"
    REFERRERS = "referrers"


class Subject(NamedTuple):
    """Something that was pulled; C{name} is the repository's full name at the upstream."""

    kind: Kind
    upstream: str
    name: str
    digest: Digest

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}@{self.digest}"


@dataclass
class _IncompleteImage:
    """
    An image that is not known to be whole.

    @ivar since: when it was noted, seconds of the clock.
    @ivar attempts: those made since a blob of it came last.
    @ivar is_incomplete: whether it was looked at, and something is missing; C{failed}: what of that comes last.
    """

    since: float
    attempts: int = 0
    is_incomplete: bool = False
    failed: set[Digest] = field(default_factory=set)


class Prefetch:
    """The prefetching of one appliance: which subjects, and when."""

    _log = Logger()

    def __init__(self, sources: PrefetchSources, clock: IReactorTime, documents: IDocuments) -> None:
        """
        @param documents: where what is to be taken up after a restart is kept.
        """
        self._sources = sources
        self._clock = clock
        self._document = StateFile(documents, NAME, dict[str, list[_Digest]], self._take_up)
        self._written = b"{}"
        self._images: dict[Subject, _IncompleteImage] = {}
        self._waiting: dict[Subject, float] = {}
        self._working: dict[Subject, Deferred[Any]] = {}
        self._done: OrderedDict[tuple[Kind, str, str, str], tuple[float, float]] = OrderedDict()
        self._requested: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._beginning: IDelayedCall | None = None
        self._full = False
        self._stopped = False

    @property
    def images(self) -> int:
        """Images that were pulled and are not known to be whole."""
        return len(self._images)

    @property
    def referrers(self) -> int:
        """Subjects whose referrers wait or are in work."""
        return sum(subject.kind is Kind.REFERRERS for subject in (*self._waiting, *self._working))

    def is_fetching(self, upstream: str, name: str, digest: Digest) -> bool:
        """Whether what the manifest C{digest} lacks is on its way. Immediate."""
        image = Subject(Kind.IMAGE, upstream, name, digest)
        return image in self._images and self._sources.remote(upstream, name) is not None

    # -- what clients do --------------------------------------------------------------------------------------------

    def pulled(self, upstream: str, name: str, reference: str, digest: Digest | None = None) -> None:
        """
        A client pulled a manifest by tag or digest, and holds it. Immediate; the work begins when the reactor is back.

        @param name: the repository's full name at the upstream.
        @param digest: of the manifest, C{None} where only a listener's prepared answer knows it.
        """
        remote = self._sources.access.remotes.get(upstream)
        if self._stopped or remote is None:
            return
        prefetch, kinds = remote.settings.prefetch, list[Kind]()
        if prefetch.image != IMAGE_NONE:
            kinds.append(Kind.IMAGE)
        if prefetch.referrers or subject_of(reference) is not None:
            kinds.append(Kind.REFERRERS)
        meant = reference if digest is None else str(digest)
        kinds = [kind for kind in kinds if not self._is_done((kind, upstream, name, meant))]
        if not kinds or self._sources.remote(upstream, name) is None:
            return
        Deferred.fromCoroutine(self._consider(upstream, name, meant, kinds)).addErrback(
            lambda failure: self._log.failure("a pull was not looked at", failure)
        )

    def requested(self, upstream: str, name: str) -> None:
        """A client requested a blob of the repository. Immediate."""
        self._requested[upstream, name] = self._clock.seconds()
        self._requested.move_to_end((upstream, name))
        if len(self._requested) > LIMIT:
            self._requested.popitem(last=False)

    async def _consider(self, upstream: str, name: str, reference: str, kinds: list[Kind]) -> None:
        """Note what a tag or digest means here, as far as it was not looked at lately."""
        repository = await self._sources.repositories.get(upstream, name)
        try:
            digest = Digest.parse(reference) if ":" in reference else repository.tags[reference].digest
        except (DigestInvalid, KeyError):
            return
        if digest not in repository.manifests or self._stopped:
            return
        for kind in kinds:
            done = (kind, upstream, name, str(digest))
            if self._is_done(done):
                # So that the next pull of this reference ends where it begins.
                self._remember((kind, upstream, name, reference), *self._done[done])
            else:
                self._add(Subject(kind, upstream, name, digest))

    def _add(self, subject: Subject) -> None:
        if subject in self._waiting or subject in self._working:
            return
        if sum(each.kind is subject.kind for each in self._waiting) >= LIMIT:
            if not self._full:
                self._log.info("{limit} images wait for prefetching; those pulled now are left out", limit=LIMIT)
            self._full = True
            return
        now = self._clock.seconds()
        if subject.kind is Kind.IMAGE:
            self._images[subject] = _IncompleteImage(now)
            self.requested(subject.upstream, subject.name)
        self._wait(subject, now + (GRACE if subject.kind is Kind.IMAGE else 0.0))

    # -- what a restart takes up ------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the images that were not whole when an earlier process ended."""
        await self._document.load()

    async def flush(self) -> None:
        """Write which images are not whole, if that has changed. One call at a time."""
        data = self._encode()
        if data != self._written and await self._document.write(self._encode):
            self._written = data

    def _take_up(self, kept: dict[str, list[str]]) -> None:
        self._written = msgspec.json.encode(kept)
        for place, digests in kept.items():
            upstream, _, name = place.partition("/")
            for digest in digests:
                self._add(Subject(Kind.IMAGE, upstream, name, Digest.parse(digest)))

    def _encode(self) -> bytes:
        document: dict[str, list[str]] = {}
        for image in self._images:
            document.setdefault(f"{image.upstream}/{image.name}", []).append(str(image.digest))
        return msgspec.json.encode(document)

    def reconsider(self) -> None:
        """The configuration was read again: what waits for its upstream, or is of no interest any more, is seen to."""
        self._done.clear()
        for image in [each for each in self._waiting if each in self._images]:
            self._wait(image, self._clock.seconds())

    def stop(self) -> Deferred[None]:
        """Begin nothing more and drop what is under way; fires when that has ended. Flights are not waited for."""
        self._stopped = True
        self._waiting.clear()
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        works = list(self._working.values())
        ends = [ended(work) for work in works]
        for work in works:
            work.cancel()
        return DeferredList(ends).addCallback(lambda _: None)

    # -- when -------------------------------------------------------------------------------------------------------

    def _wait(self, subject: Subject, due: float) -> None:
        self._waiting[subject] = due
        if self._beginning is None or self._beginning.getTime() > due:
            self._wake()

    def _wake(self) -> None:
        """See to what waits when the next of it is due and there is room for it."""
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        room = {kind: self._room(kind) for kind in Kind}
        due = min((due for subject, due in self._waiting.items() if room[subject.kind]), default=None)
        if due is not None and not self._stopped:
            self._beginning = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._begin)

    def _room(self, kind: Kind) -> int:
        return AT_ONCE - sum(subject.kind is kind for subject in self._working)

    def _begin(self) -> None:
        self._beginning = None
        now = self._clock.seconds()
        # No more in one turn of the reactor, however quickly each ends.
        room = {kind: self._room(kind) for kind in Kind}
        for subject in [subject for subject, due in self._waiting.items() if due <= now]:
            if not room[subject.kind]:
                continue
            seconds = self._held_back(subject, now)
            if seconds is None:
                self._forget(subject)
            elif seconds > 0:
                self._waiting[subject] = now + seconds
            else:
                del self._waiting[subject]
                room[subject.kind] -= 1
                self._working[subject] = Deferred.fromCoroutine(self._work(subject))
                self._working[subject].addBoth(self._ended, subject)
        self._full = self._full and bool(self._waiting)
        self._wake()

    def _held_back(self, subject: Subject, now: float) -> float | None:
        """
        Seconds before a subject may be begun, of an image C{None} when the configuration does not want it any more.
        """
        if self._sources.space.is_short():
            return NO_ROOM_POLL
        image = self._images.get(subject)
        if image is None:
            return 0.0
        remote = self._sources.access.permitted(subject.upstream, subject.name)
        if remote is None or remote.settings.prefetch.image == IMAGE_NONE:
            return None
        # An image that may be whole needs no upstream, most likely.
        if remote.offline or (image.is_incomplete and not remote.registry.availability(subject.name).ask):
            return OUTAGE_POLL
        since = now - self._requested.get((subject.upstream, subject.name), 0.0)
        return GRACE - since if 0 <= since < GRACE and 0 <= now - image.since < BUSY else 0.0

    async def _work(self, subject: Subject) -> float:
        """Fetch what goes with one subject; returns after how many seconds a pull has it looked at again."""
        image = self._images.get(subject)
        if image is None:
            try:
                return max(AGAIN, await ReferrerPrefetch(self._sources, *subject[1:]).run())
            except RetryLater as later:
                return max(AGAIN, later.seconds)
        gives_way = 0 <= self._clock.seconds() - image.since < GIVES_WAY
        missing = ImagePrefetch(self._sources, *subject[1:], gives_way, image.failed)
        try:
            await missing.run()
        finally:
            image.attempts = 0 if missing.fetched else image.attempts
        return WHOLE_FOR

    def _ended(self, result: float | Failure, subject: Subject) -> None:
        del self._working[subject]
        if self._stopped:
            return
        again = self._retry_in(result, subject) if isinstance(result, Failure) else None
        now = self._clock.seconds()
        if again is not None:
            self._waiting[subject] = now + again
        else:
            seconds = result if not isinstance(result, Failure) else WHOLE_FOR if subject in self._images else AGAIN
            self._remember((subject.kind, subject.upstream, subject.name, str(subject.digest)), now, now + seconds)
            self._forget(subject)
        self._wake()

    def _retry_in(self, failure: Failure, subject: Subject) -> float | None:
        """Seconds until what failed is tried again, C{None} when it is not."""
        image = self._images.get(subject)
        if image is not None:
            image.is_incomplete = True
        if image is not None and failure.check(RetryLater):
            return float(failure.value.seconds)  # type: ignore[union-attr]
        if image is not None and failure.check(PullcacheError, OSError):
            if image.attempts < len(RETRY_DELAYS):
                image.attempts += 1
                return RETRY_DELAYS[image.attempts - 1]
            self._log.warn("{image} was not made whole, and is given up: {error}", image=subject, error=failure.value)
        elif not failure.check(CancelledError):
            self._log.failure("prefetching for {subject} failed", failure, subject=subject)
        return None

    def _forget(self, subject: Subject) -> None:
        self._waiting.pop(subject, None)
        self._images.pop(subject, None)

    # -- what is done -----------------------------------------------------------------------------------------------

    def _is_done(self, key: tuple[Kind, str, str, str]) -> bool:
        since, until = self._done.get(key, (0.0, 0.0))
        return since <= self._clock.seconds() < until

    def _remember(self, key: tuple[Kind, str, str, str], since: float, until: float) -> None:
        self._done[key] = (since, until)
        self._done.move_to_end(key)
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
