"""A cache that prefetches, before an upstream with an image; nothing happens but by a call or a step of the clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import LogEvent

from appliance.cache import prefetch, prefetchrun
from appliance.cache.access import RemoteRepository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.settings import PrefetchSettings
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, descriptor, image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
APP = "app"
IMAGE = image(b"app")
SUBJECT = Digest.of(IMAGE)


def about(manifest: bytes, text: bytes) -> bytes:
    """A signature or the like of C{manifest}; its one layer is C{text}."""
    return image(text, subject=descriptor(OCI_MANIFEST, manifest))


class Desk:
    """An upstream with an image, and a cache that prefetches."""

    def __init__(self, before: Desk | None = None, **settings: Any) -> None:
        """
        @param before: the process before this one, whose upstream and store it goes on with.
        """
        self.upstream = ScriptedUpstream(HUB) if before is None else before.upstream
        wanted = {"prefetch": PrefetchSettings(), **settings}
        self.cache = cache = Cache(self.upstream, before=None if before is None else before.cache, **wanted)
        self.clock, self.state, self.fetched = cache.clock, cache.state, cache.metrics.fetched
        services = cache.services
        self.wants, self.usage, self.prefetch = services.wants, services.usage, services.prefetch
        self.through = services.cache
        if before is None:
            self.offer(IMAGE, b"app", "latest")

    def at(self, upstream: str, name: str) -> RemoteRepository:
        """A repository, when it may be read."""
        return self.through.access.open(upstream, name)

    def offer(self, manifest: bytes, text: bytes, *tags: str, media_type: str = OCI_MANIFEST) -> None:
        """The upstream has this, and its layer C{text}."""
        self.upstream.add_manifest(APP, manifest, media_type, *tags)
        for blob in (CONFIG, text):
            self.upstream.add_blob(APP, blob)

    def refer(self, subject: bytes, *texts: bytes) -> list[bytes]:
        """From now on these refer to C{subject}, and nothing else."""
        made = [about(subject, text) for text in texts]
        for manifest, text in zip(made, texts, strict=True):
            self.offer(manifest, text)
        listed = [json.dumps(descriptor(OCI_MANIFEST, each)).encode() for each in made]
        self.upstream.add_referrers(APP, Digest.of(subject), *listed)
        return made

    def pull(self, reference: str | Digest = "latest", after: float = 0.0) -> None:
        """As a client, so many seconds from now, and what happens at once then."""
        self.clock.advance(after)
        result(self.through.manifest(self.at(HUB, APP), reference, pulled=True))
        self.turn()

    def turn(self, seconds: float = 0.0, turns: int = 3) -> None:
        """Let the reactor do what is due."""
        self.clock.pump([seconds, *[0.0] * turns])

    def holds(self, *data: bytes) -> list[bool]:
        return [self.cache.store.size(Digest.of(each)) is not None for each in data]

    def asked(self, *verbs: str) -> list[str]:
        """The subjects of questions, which are forgotten."""
        found = [call.subject for call in self.upstream.asked(*verbs)]
        self.upstream.calls.clear()
        return found


def digests(*data: bytes) -> list[str]:
    return [str(Digest.of(each)) for each in data]


def lines(logged: list[LogEvent]) -> list[LogEvent]:
    """What prefetching said."""
    return [
        event
        for event in logged
        if event["log_namespace"].startswith(tuple(each.__name__ for each in (prefetch, prefetchrun)))
    ]
