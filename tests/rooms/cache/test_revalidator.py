"""Who waits for an upstream, and for how long: by what is expected of it, what is cached, and what may be served."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance import errors
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.settings import StaleSettings
from appliance.upstream.interfaces import Availability
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.manifests import image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
ONE, TWO = image(b"one"), image(b"two")
DOWN = errors.UpstreamUnavailable(HUB, "refused since noon")
LIMITED = errors.UpstreamRateLimited(HUB, "too many", 60.0)
KINDS = ["tag", "tags"]


def warm(**more: Any) -> tuple[ScriptedUpstream, Cache]:
    """A tag and the list of tags were pulled, and are stale by now."""
    upstream = ScriptedUpstream(HUB)
    upstream.add_manifest("app", ONE, OCI_MANIFEST, "latest")
    cache = Cache(upstream, **more)
    result(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    result(cache.through.tags(cache.at(HUB, "app")))
    upstream.calls.clear()
    cache.clock.advance(100.0)
    return upstream, cache


def ask(cache: Cache, kind: str) -> Deferred[Any]:
    if kind == "tag":
        return begin(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    return begin(cache.through.tags(cache.at(HUB, "app")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "told"), [(DOWN, "unavailable"), (LIMITED, "rate_limited")])
def test_an_upstream_that_is_down_is_not_asked_and_no_client_waits(
    kind: str, fault: errors.UpstreamError, told: str
) -> None:
    """A thousand pulls of what is cached: no question, no wait, the fault as the reason."""
    upstream, cache = warm()
    upstream.availabilities["app"] = Availability(ask=False, wait=False, fault=fault)
    for _ in range(3):
        answer = result(ask(cache, kind))
        assert str(answer.status) == f"pullcache; hit; detail=stale-{told}"
        assert answer.warning == f"stale: {fault}"
    assert upstream.calls == [] and upstream.waited == []


def test_such_an_answer_may_be_repeated_until_the_next_probe() -> None:
    """Not longer than max_stale allows, and not at all when the upstream may be back at any moment."""
    upstream, cache = warm(max_stale=41.0)
    now = cache.clock.seconds()
    for until, repeated in ((None, 0.0), (now + 0.5, now + 0.5), (now + 5.0, now + 1.0)):
        upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=DOWN, until=until)
        assert result(ask(cache, "tag")).fresh_until == repeated


@pytest.mark.parametrize("kind", KINDS)
def test_a_suspect_upstream_is_asked_once_and_no_client_waits(kind: str) -> None:
    """What is cached comes at once, marked with the reason; the answer that comes later serves those who ask then."""
    upstream, cache = warm()
    upstream.availabilities["app"] = Availability(ask=True, wait=False, fault=DOWN)
    upstream.hang()
    for _ in range(3):
        answer = result(ask(cache, kind))
        assert (answer.status.label, answer.warning) == ("stale", f"stale: {DOWN}")
    assert len(upstream.calls) == 1 and upstream.waited == []
    upstream.hanging[0].answer()
    assert str(result(ask(cache, kind)).status) == "pullcache; hit"


@pytest.mark.parametrize("kind", KINDS)
def test_a_suspect_upstream_that_answers_at_once_is_believed(kind: str) -> None:
    """There is nothing to wait for then."""
    upstream, cache = warm()
    upstream.availabilities["app"] = Availability(ask=True, wait=False, fault=DOWN)
    assert result(ask(cache, kind)).status.fwd == "stale"


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_waited_in_vain_says_so(kind: str) -> None:
    """After revalidate_within, so that others need not wait as well; not when the answer came in time."""
    upstream, cache = warm()
    result(ask(cache, kind))
    assert upstream.waited == []
    cache.clock.advance(100.0)
    upstream.hang()
    waiting = ask(cache, kind)
    cache.clock.advance(1.9)
    assert upstream.waited == [] and not waiting.called
    cache.clock.advance(0.1)
    answer = result(waiting)
    assert answer.status.label == "stale" and "no answer within 2 s" in answer.warning
    assert upstream.waited == ["app"]


@pytest.mark.parametrize(
    "availability", [Availability(ask=False, wait=False, fault=DOWN), Availability(wait=False, fault=DOWN)]
)
def test_what_is_not_cached_is_asked_for_whatever_is_expected(availability: Availability) -> None:
    """The upstream itself says at once that it is down; the cache does not presume it."""
    upstream, cache = warm()
    upstream.availabilities["*"] = availability
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "new")
    assert result(cache.through.manifest(cache.at(HUB, "app"), "new")).data == TWO
    upstream.fail(DOWN)
    assert failing(cache.through.manifest(cache.at(HUB, "other"), "new")) is DOWN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more", [{"serve_stale": StaleSettings(unavailable=False)}, {"max_stale": 10.0}], ids=["switched off", "too old"]
)
@pytest.mark.parametrize(
    "availability", [Availability(), Availability(wait=False, fault=DOWN), Availability(False, False, DOWN)]
)
def test_what_may_not_be_served_does_not_shorten_the_wait(kind: str, more: Any, availability: Availability) -> None:
    """An upstream that answers after three seconds still answers: an error after two would help no client."""
    upstream, cache = warm(**more)
    upstream.availabilities["*"] = availability
    upstream.hang()
    waiting = ask(cache, kind)
    cache.clock.advance(3.0)
    assert not waiting.called
    upstream.hanging[0].answer()
    assert result(waiting).status.fwd == "stale"
    cache.clock.advance(100.0)
    waiting = ask(cache, kind)
    upstream.hanging[1].refuse(DOWN)
    assert failing(waiting) is DOWN


def test_with_unavailable_off_another_failure_still_serves_what_is_cached() -> None:
    """Each class has its own switch, also after a long wait."""
    upstream, cache = warm(serve_stale=StaleSettings(unavailable=False))
    upstream.fail(errors.UpstreamDenied(HUB, "no"))
    assert str(result(ask(cache, "tag")).status) == "pullcache; hit; detail=stale-denied"


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_takes_no_news_does_not_stop_what_it_has(
    kind: str, monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]
) -> None:
    """The upstream's answer cannot be stored: what is held is served, with that for a reason."""
    upstream, cache = warm()
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "latest")

    async def full(*_: Any) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(cache.documents, "write", lambda *each: Deferred.fromCoroutine(full()))
    answer = result(ask(cache, kind))
    assert answer.status.label == "stale" and "cannot be stored: Bad file descriptor" in answer.warning
    noted = len(logged_errors)
    assert noted
    logged_errors.clear()
    upstream.add_manifest("app", image(b"three"), OCI_MANIFEST, "latest")
    upstream.hang()
    waiting = ask(cache, kind)
    cache.clock.advance(10.0)
    assert "no answer within" in result(waiting).warning
    while upstream.hanging:
        upstream.hanging.pop(0).answer()
    # As often, also where no client waits for it any more.
    assert len(logged_errors) == noted
    logged_errors.clear()


# -- gone upstream --------------------------------------------------------------------------------------------------


def test_a_404_of_a_cached_tag_is_believed_for_a_while() -> None:
    """Served stale at once, without a request, and repeatable for that long; then the upstream is asked again."""
    upstream, cache = warm()
    del upstream.shelves["app"].tags["latest"]
    first, second = result(ask(cache, "tag")), result(ask(cache, "tag"))
    assert str(first.status) == str(second.status) == "pullcache; hit; detail=stale-missing"
    assert (first.fresh_until, second.fresh_until) == (0.0, cache.clock.seconds() + 30.0)
    assert len(upstream.calls) == 1
    cache.clock.advance(30.0)
    upstream.shelves["app"].tags["latest"] = Digest.of(ONE)
    assert str(result(ask(cache, "tag")).status) == "pullcache; fwd=stale; fwd-status=304"


def test_with_missing_off_a_404_is_reported_and_nothing_is_deleted() -> None:
    """When it comes back, nothing has to be fetched."""
    upstream, cache = warm(serve_stale=StaleSettings(missing=False))
    del upstream.shelves["app"].tags["latest"]
    assert [failing(ask(cache, "tag")).remembered for _ in range(2)] == [False, True]
    assert "latest" in result(cache.repositories.get(HUB, "app")).tags
    cache.clock.advance(30.0)
    upstream.shelves["app"].tags["latest"] = Digest.of(ONE)
    assert str(result(ask(cache, "tag")).status) == "pullcache; fwd=stale; fwd-status=304"


def test_missing_delete_forgets_a_tag_that_is_gone_for_all_who_ask() -> None:
    """missing: delete. 404 for all who waited, durable; the manifest stays for who knows its digest."""
    upstream, cache = warm(delete_missing=True)
    del upstream.shelves["app"].tags["latest"]
    upstream.hang("head")
    waiting = [ask(cache, "tag") for _ in range(3)]
    upstream.hanging[0].answer()
    for each in waiting:
        failing(each, errors.UpstreamMissing)
    assert failing(ask(cache, "tag"), errors.UpstreamMissing).remembered
    for later in (cache, Cache(upstream, before=cache)):
        assert "latest" not in result(later.repositories.get(HUB, "app")).tags
        assert result(later.through.manifest(later.at(HUB, "app"), Digest.of(ONE))).data == ONE


@pytest.mark.parametrize(
    "error",
    [errors.UpstreamDenied(HUB, "x"), LIMITED, DOWN, errors.UpstreamInvalid(HUB, "x")],
    ids=lambda each: type(each).__name__,
)
def test_missing_delete_takes_nothing_but_a_404_for_one(error: errors.UpstreamError) -> None:
    """An expired password must not empty the appliance."""
    upstream, cache = warm(delete_missing=True)
    upstream.fail(error)
    assert result(ask(cache, "tag")).data == ONE
    upstream.heal()
    assert str(result(ask(cache, "tag")).status) == "pullcache; fwd=stale; fwd-status=304"


def test_missing_delete_leaves_a_tag_whose_manifest_alone_is_missing() -> None:
    """The upstream names a digest and does not have it: that is its fault, not the tag's end."""
    upstream, cache = warm(delete_missing=True)
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "latest")
    upstream.fail_once("manifest", errors.UpstreamMissing(HUB, "x"))
    assert str(result(ask(cache, "tag")).status) == "pullcache; hit; detail=stale-unavailable"


def test_missing_delete_never_takes_what_a_bundle_brought() -> None:
    """The upstream never gave it, so it cannot take it away: served stale."""
    upstream, cache = warm(delete_missing=True)
    repository = result(cache.repositories.get(HUB, "app"))
    repository.tag("latest", Digest.of(ONE), 0.0, "bundle-1")
    del upstream.shelves["app"].tags["latest"]
    assert str(result(ask(cache, "tag")).status) == "pullcache; hit; detail=stale-missing"
    assert repository.tags["latest"].pinned == "bundle-1"


# -- never asked ----------------------------------------------------------------------------------------------------


def test_without_fresh_for_what_is_held_is_never_asked_for() -> None:
    """revalidate: never. What is not held is pulled through as ever."""
    upstream, cache = warm(fresh_for=None)
    cache.clock.advance(1e9)
    for kind in KINDS:
        assert str(result(ask(cache, kind)).status) == "pullcache; hit"
    assert result(ask(cache, "tag")).fresh_until is None and upstream.calls == []
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "new")
    assert result(cache.through.manifest(cache.at(HUB, "app"), "new")).data == TWO


def test_an_offline_answer_may_be_repeated_for_a_minute() -> None:
    """Then it is looked up again."""
    upstream, cache = warm()
    offline = Cache(upstream, offline=True, before=cache)
    answer = result(ask(offline, "tag"))
    assert (str(answer.status), answer.fresh_until) == ("pullcache; hit", cache.clock.seconds() + 60.0)
