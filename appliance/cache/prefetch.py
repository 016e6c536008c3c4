"""
Prefetching: what refers to an image that a client has pulled is fetched as well, while nobody waits for it.

Signatures, attestations and SBOMs are asked for after the image, maybe by somebody else, when the upstream is gone, or
where there is none. So a manifest that was pulled by tag or digest is a I{subject}: runtimes ask what a tag means and
pull that digest, and of an index the child that they need. What is pulled because it refers to something is only made
whole, and that whatever C{prefetch} says.

What L{Errand} fetches for a subject is asked for as by a client, so that what is held or fresh costs nothing. A subject
is looked at again with the first pull after C{referrers_fresh_for}, since signatures come later than images, and sooner
when its upstream could not say everything. Nothing of this counts as a client's pull, and what fails is no want.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.errand import AGAIN, Errand, Later, Sources
from appliance.errors import DigestInvalid
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.referrer import subject_of

LIMIT = 1000
"""Subjects that wait; what is pulled beyond that is not looked at until it is pulled again."""

AT_ONCE = 4
"""Subjects in work at the same time; each has one question or one blob under way."""

REMEMBERED = 10_000
"""Subjects of which is known when they are to be looked at again; the others are as new."""

Key = tuple[str, str, Digest]
"""Upstream, repository and subject."""


class Prefetch:
    """The prefetching of one appliance: which subjects, and when."""

    _log = Logger()

    def __init__(self, sources: Sources, clock: IReactorTime) -> None:
        self._sources = sources
        self._clock = clock
        self._waiting: dict[Key, None] = {}
        self._working: dict[Key, Deferred[Any]] = {}
        self._done: OrderedDict[Key, tuple[float, float]] = OrderedDict()
        self._beginning: IDelayedCall | None = None
        self._full = False
        self._stopped = False

    def __len__(self) -> int:
        """Subjects that wait or are in work."""
        return len(self._waiting) + len(self._working)

    def pulled(self, upstream: str, name: str, reference: str) -> None:
        """
        A client pulled a manifest by tag or digest, and holds it. Immediate; the work begins when the reactor is back.

        @param name: the repository's full name at the upstream.
        """
        remote = self._sources.remote(upstream, name)
        if self._stopped or remote is None:
            return
        if not (remote.settings.prefetch_referrers or subject_of(reference)):
            return
        Deferred.fromCoroutine(self._consider(upstream, name, reference)).addErrback(
            lambda failure: self._log.failure("a pull was not looked at", failure)
        )

    def stop(self) -> Deferred[None]:
        """Begin nothing more and drop what is under way; fires when that has ended. Flights are not waited for."""
        self._stopped = True
        self._waiting.clear()
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        works = list(self._working.values())
        ended: list[Deferred[None]] = [Deferred() for _ in works]
        for work, done in zip(works, ended, strict=True):
            work.addBoth(done.callback)
            work.cancel()
        return DeferredList(ended).addCallback(lambda _: None)

    async def _consider(self, upstream: str, name: str, reference: str) -> None:
        digest = _meaning(await self._sources.repositories.get(upstream, name), reference)
        if digest is None or self._stopped:
            return
        key = (upstream, name, digest)
        if key in self._waiting or key in self._working or self._is_done(key):
            return
        if len(self._waiting) >= LIMIT:
            self._turn_away()
            return
        self._waiting[key] = None
        self._wake()

    def _turn_away(self) -> None:
        if not self._full:
            self._log.info("{limit} images wait for prefetching; those pulled now are left out", limit=LIMIT)
        self._full = True

    def _is_done(self, key: Key) -> bool:
        since, until = self._done.get(key, (0.0, 0.0))
        return since <= self._clock.seconds() < until

    # -- working ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._waiting and self._beginning is None and not self._stopped:
            self._beginning = self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        self._beginning = None
        # No more in one turn of the reactor, however quickly each ends.
        for key in list(islice(self._waiting, AT_ONCE - len(self._working))):
            del self._waiting[key]
            self._working[key] = Deferred.fromCoroutine(self._work(key))
            self._working[key].addBoth(self._ended, key)
        self._full = self._full and bool(self._waiting)

    async def _work(self, key: Key) -> float:
        """Fetch what goes with one subject; returns after how many seconds to look again."""
        errand = Errand(self._sources, *key)
        try:
            return await errand.run()
        except Later as later:
            return later.seconds
        finally:
            errand.tell()

    def _ended(self, result: float | Failure, key: Key) -> None:
        del self._working[key]
        if isinstance(result, Failure):
            if not result.check(CancelledError):
                self._log.failure("prefetching for {key} failed", result, key="/".join(map(str, key)))
            result = AGAIN
        now = self._clock.seconds()
        self._done[key] = (now, now + max(AGAIN, result))
        self._done.move_to_end(key)
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        self._wake()


def _meaning(repository: Repository, reference: str) -> Digest | None:
    """The manifest that a tag or digest means here, C{None} when none is held."""
    try:
        digest = Digest.parse(reference) if ":" in reference else repository.tags[reference].digest
    except (DigestInvalid, KeyError):
        return None
    return digest if digest in repository.manifests else None
