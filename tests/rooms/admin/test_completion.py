"""Fetching what an export lacks and no client pulled."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from appliance.admin.exportplanner import AT_ONCE, Completion
from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import begin, result
from tests.doubles.images import image


def test_what_was_fetched_is_held() -> None:
    """A tag, a manifest and blobs, each requested once; no pull is counted."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    blobs = [Digest.parse(blob.digest) for blob in content.blobs]
    completion = Completion(site.through)
    assert result(completion.fetch(HUB, NGINX, ["1", Digest.parse(content.digest)], blobs)) == []
    assert all(site.store.size(digest) is not None for digest in [Digest.parse(content.digest), *blobs])
    assert len(site.hub.asked("blob")) == len(blobs) and len(site.usage) == 0


def test_blobs_of_an_export_do_not_go_behind_those_of_clients() -> None:
    """An operator waits for the export, as a client does for a pull."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    completion = Completion(site.through)
    assert result(completion.fetch(HUB, NGINX, [], [Digest.parse(content.layers[0].digest)])) == []
    assert [call.background for call in site.hub.asked("blob")] == [False]


def test_it_waits_until_the_blob_is_there() -> None:
    """Begun is not done."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    site.hub.by_hand = True
    layer = Digest.parse(content.layers[0].digest)
    fetching = begin(Completion(site.through).fetch(HUB, NGINX, [], [layer]))
    assert not fetching.called
    site.hub.bodies[0].feed(10**6)
    site.hub.bodies[0].end()
    assert result(fetching) == []


def test_it_waits_until_the_blob_is_in_the_store() -> None:
    """A look for it there right afterwards finds it, however slow the disk."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    digest = Digest.parse(content.layers[0].digest)
    disk: Deferred[None] = Deferred()
    make, site.store.ingest = site.store.ingest, lambda digest: make(digest).addCallback(slow)  # type: ignore

    def slow(ingest: Any) -> Any:
        commit = ingest.commit
        ingest.commit = lambda: disk.addCallback(lambda _: commit())
        return ingest

    fetching = begin(Completion(site.through).fetch(HUB, NGINX, [], [digest]))
    assert not fetching.called and site.store.size(digest) is None
    disk.callback(None)
    assert result(fetching) == [] and site.store.size(digest) is not None


def test_one_that_fails_holds_up_no_other() -> None:
    """And is reported with its reason."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    lost = Digest.of(b"lost")
    wanted = [lost, *(Digest.parse(blob.digest) for blob in content.blobs)]
    [why] = result(Completion(site.through).fetch(HUB, NGINX, [], wanted))
    assert str(lost) in why and f"{HUB}/{NGINX}" in why
    assert all(site.store.size(digest) is not None for digest in wanted[1:])


def test_only_a_few_are_fetched_at_a_time_for_all_exports_together() -> None:
    """Two exports at once do not double it."""
    site, content = Appliance(), image(sizes=(10,) * 10)
    site.offer(content, "1")
    site.hub.hang("blob")
    completion = Completion(site.through)
    blobs = [Digest.parse(blob.digest) for blob in content.blobs]
    fetching = [begin(completion.fetch(HUB, NGINX, [], half)) for half in (blobs[:5], blobs[5:])]
    assert len(site.hub.hanging) == AT_ONCE
    while site.hub.hanging:
        assert len(site.hub.hanging) <= AT_ONCE
        site.hub.hanging.pop(0).answer()
    assert [result(each) for each in fetching] == [[], []]


def test_a_caller_that_gave_up_is_not_waited_for() -> None:
    """Cancelled, it frees its places; the upstream was asked for no more than what was under way."""
    site, content = Appliance(), image(sizes=(10,) * 10)
    site.offer(content, "1")
    site.hub.hang("blob")
    completion = Completion(site.through)
    blobs = [Digest.parse(blob.digest) for blob in content.blobs]
    fetching = begin(completion.fetch(HUB, NGINX, [], blobs))
    fetching.addErrback(lambda failure: None)
    fetching.cancel()
    assert len(site.hub.asked("blob")) == AT_ONCE
    for each in list(site.hub.hanging):
        each.refuse(UpstreamUnavailable(HUB, "x"))
    site.hub.heal()
    assert result(completion.fetch(HUB, NGINX, ["1"], [])) == []
