"""Over HTTP: when the upstream is gone a client gets all of an image, whatever the first client had of it already."""

from __future__ import annotations

from appliance.cache.prefetch import GRACE
from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.registry.listener import Listener
from appliance.settings import ListenSettings, Settings
from tests.doubles.manifests import CONFIG, image
from tests.rooms.cache.desk import APP, HUB, Desk
from tests.wire.line import Accounts, Line, blob, manifest

LAYERS = [b"layer %d" % number for number in range(5)]
FIVE = image(*LAYERS)


class Counter:
    """A listener in front of a cache that prefetches, and an image of five layers behind it."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.desk.upstream.add_manifest(APP, FIVE, OCI_MANIFEST, "five")
        for each in (CONFIG, *LAYERS):
            self.desk.upstream.add_blob(APP, each)
        settings = Settings(upstreams={HUB: self.desk.cache.remotes[HUB].settings})
        listen = ListenSettings(default_upstream=HUB)
        accounts, audit = Accounts(self.desk.clock), self.desk.cache.audit
        self.listener = Listener(self.desk.through, settings, listen, accounts, audit, self.desk.clock)
        self.line = Line(self.listener)

    def get(self, path: str, method: str = "GET") -> bytes:
        """The body of a 200."""
        answer = self.line.ask(method, path)
        assert answer.status == 200, answer.raw
        return answer.body


def test_all_five_layers_are_there_when_one_was_asked_for() -> None:
    """The next client pulls everything from the store, one request upstream having been made for each blob."""
    counter = Counter()
    assert counter.get(manifest("five")) == FIVE
    assert counter.get(blob(LAYERS[2])) == LAYERS[2]
    counter.desk.turn(GRACE)
    assert len(counter.desk.upstream.asked("blob")) == len([CONFIG, *LAYERS])
    counter.desk.upstream.fail(UpstreamUnavailable(HUB, "gone"))
    assert counter.get(manifest(Digest.of(FIVE))) == FIVE
    assert [counter.get(blob(each)) for each in (CONFIG, *LAYERS)] == [CONFIG, *LAYERS]


def test_looking_at_the_headers_pulls_nothing() -> None:
    """HEAD of the manifest by tag and digest, and of a blob, as often as one likes."""
    counter = Counter()
    for _ in range(3):
        for path in (manifest("five"), manifest(Digest.of(FIVE)), blob(LAYERS[0])):
            counter.get(path, "HEAD")
        counter.desk.turn(GRACE)
    assert counter.desk.upstream.asked("blob") == []


def test_a_client_that_was_answered_from_memory_has_pulled_it() -> None:
    """Its answer was prepared for a client that only looked: the pull is noted with the next flush."""
    counter = Counter()
    counter.get(manifest("five"))
    counter.desk.turn(GRACE)
    counter.get(manifest("five"))
    counter.get(manifest("five"))
    asked = len(counter.desk.upstream.calls)
    for pull in counter.listener.take_pulls():
        counter.desk.through.note_pulls(*pull)
    counter.desk.turn(GRACE)
    assert len(counter.desk.upstream.calls) == asked and counter.desk.holds(*LAYERS) == [True] * 5
