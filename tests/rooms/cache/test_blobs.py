"""Blobs: who may read what, who is asked for it, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance import errors
from appliance.cache.blobs import BlobAnswer
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.deferreds import begin, failing, result, step
from tests.doubles.manifests import CONFIG, image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.cache.blobpulls import HUB, LAYER, LAYER_DIGEST, OTHER, stocked


def content(answer: BlobAnswer) -> bytes:
    """What may be read of an answer now; the answer is closed."""
    data = result(answer.reader.read(0, answer.size if answer.growth is None else answer.growth.available))
    answer.close()
    return data


def pulled(upstream: ScriptedUpstream, **more: Any) -> Cache:
    """A cache that knows the image's manifest, and has been asked nothing since."""
    cache = Cache(upstream, **more)
    for repository in upstream.shelves:
        result(cache.through.manifest(cache.at(upstream.name, repository), "latest"))
    upstream.calls.clear()
    return cache


# -- HEAD ------------------------------------------------------------------------------------------------------------


def test_the_size_of_a_cold_blob_is_known_from_its_manifest() -> None:
    """HEAD before GET: no upstream is asked."""
    upstream = stocked()
    cache = pulled(upstream)
    said = result(cache.through.blob_size(cache.at(HUB, "app"), LAYER_DIGEST))
    assert (said.size, str(said.status)) == (len(LAYER), "pullcache; hit; detail=descriptor")
    assert upstream.calls == []


def test_the_size_is_known_after_a_restart_too() -> None:
    """The manifests are read again when first needed."""
    upstream = stocked()
    cache = Cache(upstream, before=pulled(upstream))
    assert result(cache.through.blob_size(cache.at(HUB, "app"), LAYER_DIGEST)).size == len(LAYER)
    assert upstream.calls == []


def test_a_blob_that_no_manifest_names_is_asked_for() -> None:
    """Once; then the repository is known to have it."""
    upstream = stocked()
    cache = Cache(upstream)
    assert result(cache.through.blob_size(cache.at(HUB, "app"), LAYER_DIGEST)).size == len(LAYER)
    assert [call.verb for call in upstream.calls] == ["blob_size"]
    assert str(result(cache.through.blob_size(cache.at(HUB, "app"), LAYER_DIGEST)).status).startswith("pullcache; hit")
    assert len(upstream.calls) == 1


def test_an_upstream_that_tells_no_size_gives_an_error_and_no_guess() -> None:
    """HEAD needs a length."""
    upstream = stocked()
    upstream.tells_size = False
    again = Cache(upstream)
    assert isinstance(failing(again.through.blob_size(again.at(HUB, "app"), LAYER_DIGEST)), errors.UpstreamError)


# -- GET -------------------------------------------------------------------------------------------------------------


def test_a_cold_blob_comes_as_it_is_stored_and_then_from_the_store() -> None:
    """One GET upstream, ever; none after a restart."""
    upstream = stocked()
    cache = pulled(upstream)
    first = result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    assert str(first.status) == "pullcache; fwd=uri-miss; stored"
    first.close()
    for later in (cache, Cache(upstream, before=cache)):
        second = result(later.through.blob(later.at(HUB, "app"), LAYER_DIGEST))
        assert str(second.status) == "pullcache; hit"
        assert content(second) == LAYER
    assert [call.verb for call in upstream.calls] == ["blob"]


def test_a_pull_after_a_restart_looks_into_no_other_manifest() -> None:
    """The first client of a repository with ten thousand imported images waits for none of the others."""
    cache = Cache(ScriptedUpstream(HUB), offline=True)
    repository = result(cache.repositories.get(HUB, "app"))
    for number in range(40):
        layer = b"layer %d" % number
        for data in (layer, manifest := image(layer)):
            result(cache.store.put(Digest.of(data), data))
        repository.hold(Digest.of(manifest), OCI_MANIFEST, len(manifest))
        repository.tag(f"v{number}", Digest.of(manifest), 1.0, "bundle")
    read: list[Digest] = []
    real = cache.store.read_all
    cache.store.read_all = lambda digests, limit: (read.extend(digests), real(digests, limit))[1]
    result(cache.through.manifest(cache.at(HUB, "app"), "v7"))
    assert content(result(cache.through.blob(cache.at(HUB, "app"), Digest.of(b"layer 7")))) == b"layer 7"
    assert read == []
    assert content(result(cache.through.blob(cache.at(HUB, "app"), Digest.of(b"layer 8")))) == b"layer 8"
    assert len(read) > 30, "what was not pulled since is still known"


def test_clients_of_one_cold_blob_share_its_flight() -> None:
    """Twenty clients at different moments: one GET."""
    upstream = stocked()
    upstream.by_hand = True
    cache = pulled(upstream)
    answers = [result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)) for _ in range(10)]
    upstream.bodies[0].feed(1000)
    answers += [result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)) for _ in range(10)]
    assert {str(answer.status) for answer in answers[1:]} == {"pullcache; fwd=uri-miss; collapsed"}
    upstream.bodies[0].complete()
    assert [content(answer) for answer in answers] == [LAYER] * 20
    assert len(upstream.asked("blob")) == 1


def test_clients_of_a_cold_blob_that_no_manifest_names_share_its_flight() -> None:
    """The second one needs no question of its own: the flight it joins is the question."""
    upstream = stocked()
    upstream.by_hand = True
    upstream.hang("blob")
    cache = Cache(upstream)
    first = begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    second = begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    upstream.hanging[0].answer()
    for each in (first, second):
        result(each).close()
    assert [call.verb for call in upstream.calls] == ["blob"]
    upstream.bodies[0].complete()


def test_the_first_client_leaves_before_the_upstream_answers() -> None:
    """Its leaving cancels nothing for the second one."""
    upstream = stocked()
    upstream.hang("blob")
    cache = pulled(upstream)
    first = begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    second = begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    first.cancel()
    failing(first, CancelledError)
    upstream.hanging[0].answer()
    answer = result(second)
    assert content(answer) == LAYER
    assert len(upstream.asked("blob")) == 1


def test_nothing_is_stored_under_a_digest_that_the_bytes_do_not_have() -> None:
    """The upstream sends something else of the right size: it is never served."""
    upstream = stocked()
    upstream.shelves["app"].blobs[LAYER_DIGEST] = b"x" * len(LAYER)
    cache = pulled(upstream)
    upstream.by_hand = True
    answer = result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    upstream.bodies[-1].complete()
    assert answer.growth.failure is not None and answer.growth.available < len(LAYER)
    answer.close()
    assert cache.store.size(LAYER_DIGEST) is None


# -- whose blob ------------------------------------------------------------------------------------------------------


def test_a_blob_held_for_one_repository_is_not_served_under_another() -> None:
    """Knowing a digest is no permission: the other repository's upstream is asked, and says no."""
    upstream = stocked()
    cache = pulled(upstream)
    result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)).close()
    upstream.shelves["private"]
    for question in (cache.through.blob, cache.through.blob_size):
        assert isinstance(failing(question(cache.at(HUB, "private"), LAYER_DIGEST)), errors.UpstreamMissing)
    assert len(upstream.asked("blob")) == 1


def test_a_blob_that_two_repositories_have_is_fetched_once() -> None:
    """The second repository's upstream is asked once whether it is there, and said so: that is remembered."""
    upstream = stocked(HUB, "one", "two")
    cache = pulled(upstream)
    for name in ("one", "two", "two"):
        assert content(result(cache.through.blob(cache.at(HUB, name), LAYER_DIGEST))) == LAYER
    assert [call.verb for call in upstream.calls] == ["blob", "blob_size"]


def test_a_second_repository_without_a_manifest_is_asked_for_and_not_fetched_again() -> None:
    """One question for the size; the bytes are those held."""
    upstream = stocked()
    cache = pulled(upstream)
    upstream.add_blob("other", LAYER)
    result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)).close()
    answer = result(cache.through.blob(cache.at(HUB, "other"), LAYER_DIGEST))
    assert content(answer) == LAYER
    assert str(answer.status) == "pullcache; fwd=uri-miss"
    again = result(cache.through.blob(cache.at(HUB, "other"), LAYER_DIGEST))
    assert content(again) == LAYER and str(again.status) == "pullcache; hit"
    assert [call.verb for call in upstream.calls] == ["blob", "blob_size"]


def test_a_flight_for_another_repository_is_joined_only_when_this_one_has_the_blob() -> None:
    """While it comes for one repository, the other's upstream is asked first."""
    hub, other = stocked(HUB), ScriptedUpstream(OTHER)
    hub.by_hand = True
    cache = Cache(hub, other)
    result(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)).close()
    failing(cache.through.blob(cache.at(OTHER, "thing"), LAYER_DIGEST), errors.UpstreamMissing)
    other.add_blob("thing", LAYER)
    cache.clock.advance(30.0)
    joined = result(cache.through.blob(cache.at(OTHER, "thing"), LAYER_DIGEST))
    assert joined.status.collapsed
    joined.close()
    assert [call.verb for call in other.calls] == ["blob_size", "blob_size"]
    hub.bodies[0].complete()


def test_when_the_other_upstream_fails_ours_is_asked() -> None:
    """Two registries have the blob; the one whose flight was joined refuses, so the client's own is tried."""
    hub, other = stocked(HUB), stocked(OTHER)
    cache = Cache(hub, other)
    for name in (HUB, OTHER):
        result(cache.through.manifest(cache.at(name, "app"), "latest"))
    hub.hang("blob")
    first = begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
    second = begin(cache.through.blob(cache.at(OTHER, "app"), LAYER_DIGEST))
    third = begin(cache.through.blob(cache.at(OTHER, "app"), LAYER_DIGEST))
    hub.hanging[0].refuse(errors.UpstreamDenied(HUB, "no"))
    failing(first, errors.UpstreamDenied)
    for joined in (second, third):
        answer = result(joined)
        assert answer.size == len(LAYER)
        answer.close()
    assert len(other.asked("blob")) == 1
    assert cache.store.size(LAYER_DIGEST) == len(LAYER)


@pytest.mark.parametrize("question", ["blob", "blob_size"])
def test_an_offline_appliance_serves_what_it_has_and_asks_no_upstream(question: str) -> None:
    """Held for this repository: served. Not held, or held for another one: not."""
    upstream = stocked()
    online = pulled(upstream)
    result(online.through.blob(online.at(HUB, "app"), LAYER_DIGEST)).close()
    upstream.calls.clear()
    offline = Cache(upstream, offline=True, before=online)
    ask = getattr(offline.through, question)
    answer = result(ask(offline.at(HUB, "app"), LAYER_DIGEST))
    assert answer.size == len(LAYER)
    if question == "blob":
        answer.close()
    for name, digest in (("other", LAYER_DIGEST), ("app", Digest.of(CONFIG)), ("app", Digest.of(b"unknown"))):
        assert isinstance(failing(ask(offline.at(HUB, name), digest)), errors.Offline)
    assert upstream.calls == []


# -- to have it held -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False])
def test_what_was_fetched_is_held(background: bool) -> None:
    """Once, and behind what a client waits for where that is wanted."""
    upstream = stocked()
    cache = pulled(upstream)
    for _ in range(2):
        result(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, background))
    assert cache.store.size(LAYER_DIGEST) == len(LAYER)
    assert [call.background for call in upstream.calls] == [background]


@pytest.mark.parametrize("first", ["background", "fetched", "pulled"])
@pytest.mark.parametrize("second", ["background", "fetched", "pulled"])
def test_a_flight_is_background_work_only_while_no_client_waits_for_it(first: str, second: str) -> None:
    """The blob is asked for once, in whatever order they come; from the next request on, it counts who waits."""
    upstream = stocked()
    cache = pulled(upstream)
    upstream.by_hand = True

    def ask(how: str) -> Deferred[Any]:
        if how == "pulled":
            return begin(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST))
        return begin(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, how == "background"))

    asking = [ask(how) for how in (first, second)]
    upstream.bodies[0].feed(1000)
    upstream.bodies[0].cut()
    step(cache.clock, 5.0)
    upstream.bodies[1].complete()
    kept = [content(answer) for each in asking if (answer := result(each)) is not None]
    assert kept == [LAYER] * (first, second).count("pulled")
    behind = [first == "background", first == second == "background"]
    assert [(call.start, call.background) for call in upstream.calls] == list(zip((0, 1000), behind, strict=True))


@pytest.mark.parametrize("background", [True, False])
def test_what_cannot_be_fetched_says_why(background: bool) -> None:
    """Failed, missing, offline; a 404 is believed for a while."""
    upstream = stocked()
    cache = pulled(upstream)
    upstream.fail(errors.UpstreamUnavailable(HUB, "x"))
    failing(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, background), errors.UpstreamUnavailable)
    upstream.fail(errors.UpstreamMissing(HUB, "x"))
    upstream.calls.clear()
    for _ in range(2):
        failing(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, background), errors.UpstreamMissing)
    assert len(upstream.calls) == 1
    offline = Cache(upstream, before=cache, offline=True)
    failing(offline.blobs.fetch(offline.at(HUB, "app"), LAYER_DIGEST, background), errors.Offline)


@pytest.mark.parametrize("background", [True, False])
def test_who_fetches_is_not_failed_by_anothers_upstream(background: bool) -> None:
    """The flight was another repository's; ours is asked then."""
    upstream, other = stocked(), stocked(OTHER)
    cache = Cache(upstream, other)
    for name in (HUB, OTHER):
        result(cache.through.manifest(cache.at(name, "app"), "latest"))
    other.hang("blob")
    begin(cache.through.blob(cache.at(OTHER, "app"), LAYER_DIGEST)).addErrback(lambda _: None)
    fetching = begin(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, background))
    other.hanging[0].refuse(errors.UpstreamUnavailable(OTHER, "x"))
    result(fetching)
    assert [call.background for call in upstream.asked("blob")] == [background]


def test_a_blob_that_no_manifest_names_is_noted_when_it_was_fetched() -> None:
    """It is served afterwards without asking, after a restart too."""
    upstream = stocked()
    cache = Cache(upstream)
    result(cache.blobs.fetch(cache.at(HUB, "app"), LAYER_DIGEST, background=True))
    upstream.calls.clear()
    later = Cache(upstream, before=cache)
    assert content(result(later.through.blob(later.at(HUB, "app"), LAYER_DIGEST))) == LAYER
    assert upstream.calls == []
