"""
An upstream in memory, driven by a script: what it holds, what it refuses, when it answers, and how its bodies come.

It answers at once unless set to hang; bodies come whole unless they are fed by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import Offline, RangeIgnored, UpstreamError, UpstreamMissing, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import (
    Availability,
    Condition,
    FetchedManifest,
    IBlobResponse,
    IUpstream,
    ManifestHead,
    Referrers,
)

T = TypeVar("T")

PIECE = 64 * 1024


@dataclass(frozen=True)
class Call:
    """
    One question as it was asked.

    @ivar verb: the method of L{IUpstream}.
    @ivar subject: tag or digest as text, C{""} for a list of tags.
    """

    verb: str
    repository: str
    subject: str = ""
    start: int = 0
    stop: int | None = None
    validator: str | None = None
    background: bool = False


@dataclass
class Shelf:
    """What one repository holds: manifests with the Content-Type they are sent with, tags, blobs."""

    manifests: dict[Digest, tuple[bytes, str | None]] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)


@dataclass
class Hanging:
    """A question that was not answered yet; L{answer} gives what is true by then."""

    call: Call
    asked: Deferred[Any]
    say: Callable[[], Any]
    cancelled: bool = False

    def answer(self) -> None:
        """Answer now, with what the upstream holds now."""
        try:
            said = self.say()
        except UpstreamError as error:
            self.asked.errback(error)
        else:
            self.asked.callback(said)

    def refuse(self, error: Exception) -> None:
        """Answer with a failure."""
        self.asked.errback(error)


@implementer(IBlobResponse, IPushProducer)
class ScriptedBody:
    """
    An answer to a blob request, fed by the test or whole at once.

    @ivar paused: whether the consumer asked for a pause; what is fed meanwhile waits.
    @ivar dropped: whether the connection was dropped: abandoned, stopped or cancelled.
    @ivar is_awaited: whether it was said that a client waits for it.
    """

    def __init__(self, upstream: str, data: bytes, start: int, size: int | None, validator: str | None) -> None:
        self.start = start
        self.stop: int | None = start + len(data)
        self.size = size
        self.validator = validator
        self.paused = False
        self.dropped = False
        self.is_awaited = False
        self.by_hand = False
        self._upstream = upstream
        self._rest = data
        self._waiting: list[bytes] = []
        self._ending: list[Failure | None] = []
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBlobResponse.deliver}."""
        self._consumer = consumer
        done: Deferred[None] = Deferred(self._cancelled)
        self._done = done
        consumer.registerProducer(self, True)
        if not self.by_hand:
            self._waiting = [self._rest[at : at + PIECE] for at in range(0, len(self._rest), PIECE)]
            self._ending.append(None)
        self._flow()
        return done

    def awaited(self) -> None:
        """See L{IBlobResponse.awaited}."""
        self.is_awaited = True

    def abandon(self) -> None:
        """See L{IBlobResponse.abandon}."""
        if self._done is None:
            self.dropped = True

    def feed(self, octets: int | bytes) -> None:
        """Send the next C{octets} bytes of the blob, or just these bytes."""
        if isinstance(octets, int):
            data, self._rest = self._rest[:octets], self._rest[octets:]
        else:
            data = octets
        self._waiting.append(data)
        self._flow()

    def end(self) -> None:
        """The body ends here, in good order."""
        self._ending.append(None)
        self._flow()

    def complete(self) -> None:
        """Send the rest, and end."""
        self.feed(len(self._rest))
        self.end()

    def cut(self, error: UpstreamError | None = None) -> None:
        """The line is cut here."""
        self._ending.append(Failure(error or UpstreamUnavailable(self._upstream, "the line was cut")))
        self._flow()

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self.paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self.paused = False
        self._flow()

    def stopProducing(self) -> None:
        """See L{IPushProducer}: the connection is dropped, as the real one does it."""
        self._drop(Failure(UpstreamUnavailable(self._upstream, "the body was dropped")))

    def _flow(self) -> None:
        while self._waiting and not self.paused and self._done is not None:
            assert self._consumer is not None
            self._consumer.write(self._waiting.pop(0))
        if self._ending and not self._waiting and not self.paused:
            self._finish(self._ending[0])

    def _cancelled(self, done: Deferred[None]) -> None:
        # The Deferred fails by itself with CancelledError.
        self.dropped = True
        self._done = None
        if self._consumer is not None:
            self._consumer.unregisterProducer()

    def _drop(self, reason: Failure) -> None:
        if self._done is not None:
            self.dropped = True
            self._finish(reason)

    def _finish(self, result: Failure | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        assert self._consumer is not None
        self._consumer.unregisterProducer()
        done.callback(result)


def _not_asked(name: str) -> Offline:
    return Offline(f"{name} is not asked any more")


@implementer(IUpstream)
class ScriptedUpstream:
    """
    @ivar calls: every question, in order.
    @ivar bodies: every answer to a blob request, in order.
    @ivar hanging: questions not answered yet.
    @ivar by_hand: whether bodies wait for L{ScriptedBody.feed}.
    @ivar tells_digest: whether HEAD tells a digest.
    @ivar tells_size: whether blobs come with their size.
    @ivar ranges: whether a range is granted; else the whole comes.
    @ivar validator: what blobs come with.
    @ivar availabilities: what L{availability} says, by repository; of C{"*"} for all others.
    @ivar waited: the repositories that L{overdue} was said of.
    @ivar awaiting: the blobs that L{awaited} was said of.
    @ivar conditions: what L{condition} says.
    @ivar listed: what L{referrers} says, by repository and subject; nothing refers to any other subject of a repository
        that holds something.
    @ivar stopped: whether it will not be asked again.
    @ivar disconnected: whether it was cut off: no request gets an answer any more.
    """

    def __init__(self, name: str = "docker.io", library: bool = False) -> None:
        self.name = name
        self.shelves: dict[str, Shelf] = defaultdict(Shelf)
        self.calls: list[Call] = []
        self.bodies: list[ScriptedBody] = []
        self.hanging: list[Hanging] = []
        self.by_hand = False
        self.tells_digest = True
        self.tells_size = True
        self.ranges = True
        self.validator: str | None = None
        self.availabilities: dict[str, Availability] = {}
        self.waited: list[str] = []
        self.awaiting: list[Digest] = []
        self.conditions = Condition()
        self.listed: dict[tuple[str, Digest], Referrers] = {}
        self.stopped = self.disconnected = False
        self._library = library
        self._failing: dict[str, UpstreamError] = {}
        self._failing_once: dict[str, list[Exception]] = defaultdict(list)
        self._silent: set[str] = set()

    # -- what it holds ----------------------------------------------------------------------------------------------

    def add_manifest(self, repository: str, data: bytes, content_type: str | None, *tags: str) -> Digest:
        """Hold a manifest, and let the tags mean it."""
        digest = Digest.of(data)
        self.shelves[repository].manifests[digest] = (data, content_type)
        self.shelves[repository].tags.update(dict.fromkeys(tags, digest))
        return digest

    def add_blob(self, repository: str, data: bytes) -> Digest:
        """Hold a blob."""
        digest = Digest.of(data)
        self.shelves[repository].blobs[digest] = data
        return digest

    def add_referrers(self, repository: str, subject: Digest, *descriptors: bytes, cut: bool = False) -> None:
        """Say from now on that these refer to C{subject}, and nothing else."""
        self.listed[repository, subject] = Referrers(descriptors, cut)

    # -- how it behaves ---------------------------------------------------------------------------------------------

    def fail(self, error: UpstreamError, *verbs: str) -> None:
        """Answer these questions, or all, with C{error} from now on."""
        self._failing.update(dict.fromkeys(verbs or ("*",), error))

    def fail_once(self, verb: str, *errors: Exception) -> None:
        """Answer the next questions of that kind with these errors, one after the other."""
        self._failing_once[verb].extend(errors)

    def heal(self) -> None:
        """Answer again."""
        self._failing.clear()
        self._failing_once.clear()
        self._silent.clear()

    def hang(self, *verbs: str) -> None:
        """Answer these questions, or none at all, only when the test says so."""
        self._silent.update(verbs or ("*",))

    def asked(self, *verbs: str) -> list[Call]:
        """What was asked, of these kinds or at all."""
        return [call for call in self.calls if not verbs or call.verb in verbs]

    # -- IUpstream --------------------------------------------------------------------------------------------------

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return f"library/{name}" if self._library and "/" not in name else name

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""

        def say() -> ManifestHead:
            digest, data, media_type = self._manifest(repository, reference)
            if not self.tells_digest:
                return ManifestHead(None, None, None)
            return ManifestHead(digest, len(data), media_type)

        return self._answer(Call("head", repository, str(reference)), say)

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}."""

        def say() -> FetchedManifest:
            _, data, media_type = self._manifest(repository, reference)
            return FetchedManifest(data, media_type)

        return self._answer(Call("manifest", repository, str(reference)), say)

    def availability(self, repository: str) -> Availability:
        """See L{IUpstream.availability}."""
        return self.availabilities.get(repository, self.availabilities.get("*", Availability()))

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}."""
        self.waited.append(repository)

    def awaited(self, repository: str, digest: Digest) -> None:
        """See L{IUpstream.awaited}."""
        self.awaiting.append(digest)

    def condition(self) -> Condition:
        """See L{IUpstream.condition}."""
        return self.conditions

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        self.stopped = True

    def disconnect(self) -> None:
        """See L{IUpstream.disconnect}."""
        self.stopped = self.disconnected = True
        for hanging in self.hanging:
            if not hanging.asked.called:
                hanging.refuse(_not_asked(self.name))
        for body in self.bodies:
            body.stopProducing()

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """See L{IUpstream.blob}."""

        def say() -> IBlobResponse:
            data = self._blob(repository, digest)
            if start and start >= len(data) and self.ranges:
                raise RangeIgnored(self.name, f"{digest}: no bytes from {start} on")
            granted = self.ranges and (validator is None or validator == self.validator)
            part, first = (data[start:stop], start) if granted else (data, 0)
            size = len(data) if self.tells_size else None
            body = ScriptedBody(self.name, part, first, size, self.validator)
            body.by_hand = self.by_hand
            self.bodies.append(body)
            return body

        return self._answer(Call("blob", repository, str(digest), start, stop, validator, background), say)

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""

        def say() -> int | None:
            size = len(self._blob(repository, digest))
            return size if self.tells_size else None

        return self._answer(Call("blob_size", repository, str(digest)), say)

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}; in the reverse of their order, since nothing is promised."""

        def say() -> list[str]:
            return sorted(self._shelf(repository).tags, reverse=True)

        return self._answer(Call("tags", repository), say)

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """See L{IUpstream.referrers}; nothing refers to what no list was given for, in any repository."""

        def say() -> Referrers:
            return self.listed.get((repository, subject), Referrers(()))

        return self._answer(Call("referrers", repository, str(subject)), say)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _answer(self, call: Call, say: Callable[[], T]) -> Deferred[T]:
        if self.disconnected:
            return fail(_not_asked(self.name))
        self.calls.append(call)
        if self._failing_once[call.verb]:
            return fail(self._failing_once[call.verb].pop(0))
        if call.verb in self._silent or "*" in self._silent:
            return self._hang(call, say)
        error = self._failing.get(call.verb, self._failing.get("*"))
        if error is not None:
            return fail(error)
        try:
            return succeed(say())
        except UpstreamError as missing:
            return fail(missing)

    def _hang(self, call: Call, say: Callable[[], T]) -> Deferred[T]:
        asked: Deferred[T] = Deferred(lambda _: setattr(hanging, "cancelled", True))
        hanging = Hanging(call, asked, say)
        self.hanging.append(hanging)
        return asked

    def _shelf(self, repository: str) -> Shelf:
        if repository not in self.shelves:
            raise UpstreamMissing(self.name, f"no repository {repository}", repository_unknown=True)
        return self.shelves[repository]

    def _manifest(self, repository: str, reference: str | Digest) -> tuple[Digest, bytes, str | None]:
        shelf = self._shelf(repository)
        digest = shelf.tags.get(reference) if isinstance(reference, str) else reference
        if digest is None or digest not in shelf.manifests:
            raise UpstreamMissing(self.name, f"{repository} has no {reference}")
        return digest, *shelf.manifests[digest]

    def _blob(self, repository: str, digest: Digest) -> bytes:
        blobs = self._shelf(repository).blobs
        if digest not in blobs:
            raise UpstreamMissing(self.name, f"{repository} has no {digest}")
        return blobs[digest]
