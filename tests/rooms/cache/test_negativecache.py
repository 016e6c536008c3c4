"""What an upstream said it does not have: believed for a while, kept apart by kind, bounded."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.task import Clock

from appliance import errors
from appliance.cache.freshness import MISSING, NegativeCache
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.deferreds import failing, result
from tests.doubles.manifests import image
from tests.doubles.pullthrough import Cache, clock_at
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
ONE = image(b"one")
LAYER = b"one"
TAG = (HUB, "app", "latest")


def gone(unknown: bool = False) -> errors.UpstreamMissing:
    return errors.UpstreamMissing(HUB, "app has no latest", unknown)


def test_a_404_is_believed_for_as_long_as_configured() -> None:
    """Said again in the same words, and marked as remembered; afterwards the upstream is to be asked."""
    clock = clock_at()
    missing = NegativeCache(clock)
    missing.put(TAG, gone(unknown=True), 30.0)
    clock.advance(29.9)
    known = missing.get(TAG)
    assert known is not None and known.until == pytest.approx(clock.seconds() + 0.1)
    assert (str(known.fault), known.fault.repository_unknown, known.fault.remembered) == (
        "docker.io: app has no latest",
        True,
        True,
    )
    clock.advance(0.2)
    assert missing.get(TAG) is None and len(missing) == 0


def test_missing_for_nought_believes_nothing() -> None:
    """missing_for: 0s asks every time."""
    missing = NegativeCache(clock_at())
    missing.put(TAG, gone(), 0.0)
    assert missing.get(TAG) is None


def test_a_clock_that_was_set_back_does_not_make_it_last() -> None:
    """A 404 from the future is not believed."""
    clock = Clock()
    missing = NegativeCache(clock)
    clock.rightNow = 1000.0
    missing.put(TAG, gone(), 30.0)
    clock.rightNow = 10.0
    assert missing.get(TAG) is None


def test_made_up_names_do_not_fill_the_memory() -> None:
    """The oldest is dropped, the newest kept; one that is received again counts as new."""
    missing = NegativeCache(clock_at())
    missing.put(TAG, gone(), 30.0)
    for number in range(MISSING - 1):
        missing.put((HUB, "app", str(number)), gone(), 30.0)
    missing.put(TAG, gone(), 30.0)
    for number in range(100):
        missing.put((HUB, "other", str(number)), gone(), 30.0)
    assert len(missing) == MISSING
    assert missing.get(TAG) is not None and missing.get((HUB, "app", "5")) is None


def test_what_raised_a_404_is_not_kept_with_it() -> None:
    """Ten thousand of them would hold the frames of as many requests."""

    class Frame:
        pass

    missing, seen = NegativeCache(clock_at()), []

    def asks() -> None:
        local = Frame()
        seen.append(weakref.ref(local))
        raise gone()

    try:
        asks()
    except errors.UpstreamMissing as error:
        missing.put(TAG, error, 30.0)
    with pytest.raises(errors.UpstreamMissing):
        missing.check(TAG)
    gc.collect()
    assert seen[0]() is None
    first, second = missing.get(TAG), missing.get(TAG)
    assert first is not None and second is not None and first.fault is not second.fault


# -- in the cache ---------------------------------------------------------------------------------------------------


def empty() -> ScriptedUpstream:
    upstream = ScriptedUpstream(HUB)
    upstream.shelves["app"].blobs = {}
    return upstream


def questions(cache: Cache) -> list[tuple[str, Any]]:
    digest = Digest.of(ONE)
    return [
        ("manifest", lambda: cache.through.manifest(cache.at(HUB, "app"), "latest")),
        ("manifest", lambda: cache.through.manifest(cache.at(HUB, "app"), digest)),
        ("blob", lambda: cache.through.blob(cache.at(HUB, "app"), Digest.of(LAYER))),
        ("blob_size", lambda: cache.through.blob_size(cache.at(HUB, "app"), Digest.of(LAYER))),
        ("tags", lambda: cache.through.tags(cache.at(HUB, "absent"))),
    ]


@pytest.mark.parametrize("which", range(5), ids=["tag", "digest", "blob", "size", "tags"])
def test_a_404_is_repeated_without_asking_until_its_time_is_over(which: int) -> None:
    """A cluster that asks for a misspelt image a hundred times costs the upstream one request in half a minute."""
    upstream = empty()
    cache = Cache(upstream)
    _, ask = questions(cache)[which]
    assert not failing(ask(), errors.UpstreamMissing).remembered
    asked = len(upstream.calls)
    for _ in range(100):
        assert failing(ask(), errors.UpstreamMissing).remembered
    assert len(upstream.calls) == asked
    cache.clock.advance(30.0)
    assert not failing(ask(), errors.UpstreamMissing).remembered
    assert len(upstream.calls) == 2 * asked


def test_asking_for_a_manifest_does_not_hide_the_blob_of_the_same_digest() -> None:
    """No client can make a blob vanish by asking for it in the wrong place, nor a tag by that of another repository."""
    upstream = empty()
    digest = upstream.add_blob("app", LAYER)
    upstream.add_manifest("app", ONE, OCI_MANIFEST, "latest")
    cache = Cache(upstream)
    failing(cache.through.manifest(cache.at(HUB, "app"), digest), errors.UpstreamMissing)
    failing(cache.through.manifest(cache.at(HUB, "other"), "latest"), errors.UpstreamMissing)
    result(cache.through.blob(cache.at(HUB, "app"), digest)).close()
    assert result(cache.through.manifest(cache.at(HUB, "app"), "latest")).data == ONE


def test_what_is_held_is_served_whatever_was_said_of_it_before() -> None:
    """A digest that was missing, and then came with its tag."""
    upstream = empty()
    cache = Cache(upstream)
    failing(cache.through.manifest(cache.at(HUB, "app"), Digest.of(ONE)), errors.UpstreamMissing)
    upstream.add_manifest("app", ONE, OCI_MANIFEST, "latest")
    assert result(cache.through.manifest(cache.at(HUB, "app"), "latest")).data == ONE
    assert result(cache.through.manifest(cache.at(HUB, "app"), Digest.of(ONE))).data == ONE
    upstream.calls.clear()
    upstream.add_blob("app", LAYER)
    result(cache.through.blob(cache.at(HUB, "app"), Digest.of(LAYER))).close()
    del upstream.shelves["app"].blobs[Digest.of(LAYER)]
    result(cache.through.blob(cache.at(HUB, "app"), Digest.of(LAYER))).close()
    assert len(upstream.asked("blob")) == 1


def test_a_blob_of_another_size_is_not_remembered_as_missing() -> None:
    """It was this appliance that said so, not the upstream."""
    hub, other = empty(), ScriptedUpstream("ghcr.io")
    hub.add_blob("app", LAYER)
    other.shelves["app"].blobs[Digest.of(LAYER)] = b"something longer"
    cache = Cache(hub, other)
    result(cache.through.blob(cache.at(HUB, "app"), Digest.of(LAYER))).close()
    for _ in range(2):
        failing(cache.through.blob_size(cache.at("ghcr.io", "app"), Digest.of(LAYER)), errors.UpstreamMissing)
    assert len(other.asked("blob_size")) == 2
