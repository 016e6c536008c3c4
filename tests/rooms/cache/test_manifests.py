"""Manifests: which upstream is asked for what, when a tag is stale, and what is served when asking fails."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from appliance import errors
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.mediatypes import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from appliance.settings import StaleSettings
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.manifests import image, index
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

ONE, TWO = image(b"one"), image(b"two")
HUB = "docker.io"


def stocked() -> ScriptedUpstream:
    upstream = ScriptedUpstream(HUB)
    upstream.add_manifest("app", ONE, OCI_MANIFEST, "latest")
    return upstream


def verbs(upstream: ScriptedUpstream) -> list[str]:
    found = [call.verb for call in upstream.calls]
    upstream.calls.clear()
    return found


def ask(cache: Cache, reference: str | Digest = "latest", name: str = "app") -> Any:
    return result(cache.through.manifest(cache.at(HUB, name), reference))


def warm(upstream: ScriptedUpstream, **more: Any) -> Cache:
    """The tag was pulled, and is stale by now."""
    cache = Cache(upstream, **more)
    ask(cache)
    upstream.calls.clear()
    cache.clock.advance(100.0)
    return cache


def test_a_cold_tag_is_resolved_by_head_and_fetched_by_digest() -> None:
    """Registries count GETs: one, for the digest."""
    upstream = stocked()
    answer = ask(Cache(upstream))
    assert [(call.verb, call.subject) for call in upstream.calls] == [
        ("head", "latest"),
        ("manifest", str(Digest.of(ONE))),
    ]
    assert (answer.data, answer.media_type, str(answer.status)) == (
        ONE,
        OCI_MANIFEST,
        "pullcache; fwd=uri-miss; stored",
    )


def test_a_fresh_tag_is_served_without_asking_and_a_stale_one_by_head_alone() -> None:
    """fresh_for is a minute; afterwards one HEAD tells that nothing moved, for another minute."""
    upstream = stocked()
    cache = Cache(upstream)
    ask(cache), verbs(upstream)
    cache.clock.advance(59.0)
    assert str(ask(cache).status) == "pullcache; hit" and verbs(upstream) == []
    cache.clock.advance(1.0)
    assert str(ask(cache).status) == "pullcache; fwd=stale; fwd-status=304" and verbs(upstream) == ["head"]
    cache.clock.advance(59.0)
    assert str(ask(cache).status) == "pullcache; hit" and verbs(upstream) == []


def test_a_tag_that_moved_to_a_manifest_held_is_not_fetched_again() -> None:
    """Back and forth: only HEADs."""
    upstream = stocked()
    cache = warm(upstream)
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "latest")
    moved = ask(cache)
    assert moved.data == TWO and str(moved.status) == "pullcache; fwd=stale; fwd-status=200; stored"
    assert verbs(upstream) == ["head", "manifest"]
    upstream.shelves["app"].tags["latest"] = Digest.of(ONE)
    cache.clock.advance(100.0)
    back = ask(cache)
    assert back.data == ONE and str(back.status) == "pullcache; fwd=stale; fwd-status=200"
    assert verbs(upstream) == ["head"]


def test_the_content_of_the_empty_descriptor_is_held_unasked() -> None:
    """A signature is whole, and can be carried to another site, although no client asks for its empty config."""
    upstream = ScriptedUpstream(HUB)
    signature = image(b"{}", b"signed")
    upstream.add_manifest("app", signature, OCI_MANIFEST, "sha256-00.sig")
    cache = Cache(upstream)
    ask(cache, "sha256-00.sig")
    assert cache.store.size(Digest.of(b"{}")) == 2
    assert "blob" not in verbs(upstream)


def test_a_restart_remembers_tags_and_manifests() -> None:
    """What was pulled is served when nothing is there any more."""
    upstream = stocked()
    cache = warm(upstream)
    again = Cache(upstream, before=cache)
    upstream.fail(errors.UpstreamUnavailable(HUB, "down"))
    assert ask(again).data == ONE
    assert ask(again, Digest.of(ONE)).data == ONE


def test_a_head_that_tells_no_digest_is_followed_by_a_get_of_the_tag() -> None:
    """The digest is computed from what came."""
    upstream = stocked()
    upstream.tells_digest = False
    cache = Cache(upstream)
    assert ask(cache).digest == Digest.of(ONE)
    assert [(call.verb, call.subject) for call in upstream.calls] == [("head", "latest"), ("manifest", "latest")]
    cache.clock.advance(100.0)
    assert str(ask(cache).status) == "pullcache; fwd=stale; fwd-status=304"


def test_concurrent_checks_are_one() -> None:
    """Ten clients ask for a cold tag: one HEAD, one GET; the one that began may leave."""
    upstream = stocked()
    upstream.hang("head")
    cache = Cache(upstream)
    asked = [begin(cache.through.manifest(cache.at(HUB, "app"), "latest")) for _ in range(10)]
    asked[0].cancel()
    failing(asked[0], CancelledError)
    upstream.hanging[0].answer()
    answers = [result(each) for each in asked[1:]]
    assert verbs(upstream) == ["head", "manifest"]
    assert {str(answer.status) for answer in answers} == {"pullcache; fwd=uri-miss; collapsed"}


def test_a_hanging_upstream_holds_up_no_client_that_can_be_served() -> None:
    """After revalidate_within the cached manifest comes, marked stale; later comers wait for nothing at all."""
    upstream = stocked()
    cache = warm(upstream)
    upstream.hang("head")
    waiting = begin(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    cache.clock.advance(1.9)
    assert not waiting.called
    cache.clock.advance(0.2)
    answer = result(waiting)
    assert answer.data == ONE and str(answer.status) == "pullcache; hit; detail=stale-unavailable"
    assert answer.warning is not None and answer.warning.startswith("stale: ") and answer.fresh_until == 0.0
    assert ask(cache).data == ONE
    assert verbs(upstream) == ["head"] and not upstream.hanging[0].cancelled


def test_the_check_goes_on_and_its_word_is_used_later() -> None:
    """The upstream answers after ten seconds, with a new digest: the next client gets that, without asking."""
    upstream = stocked()
    cache = warm(upstream)
    upstream.hang("head")
    waiting = begin(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    cache.clock.advance(10.0)
    assert result(waiting).data == ONE
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "latest")
    upstream.hanging[0].answer()
    verbs(upstream)
    answer = ask(cache)
    assert answer.data == TWO and str(answer.status) == "pullcache; hit"
    assert verbs(upstream) == []


TROUBLE = [
    (errors.UpstreamMissing(HUB, "x"), "missing"),
    (errors.UpstreamDenied(HUB, "x"), "denied"),
    (errors.UpstreamRateLimited(HUB, "x", 5.0), "rate_limited"),
    (errors.UpstreamUnavailable(HUB, "x"), "unavailable"),
    (errors.UpstreamTimeout(HUB, "x"), "unavailable"),
    (errors.UpstreamInvalid(HUB, "x"), "unavailable"),
    (errors.UpstreamRefused(HUB, "x"), "unavailable"),
]


@pytest.mark.parametrize(("error", "kind"), TROUBLE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("verb", ["head", "manifest"])
def test_whatever_the_upstream_does_what_is_cached_is_served(verb: str, error: errors.UpstreamError, kind: str) -> None:
    """Marked stale with the reason, whether HEAD fails or the GET after it."""
    upstream = stocked()
    cache = warm(upstream)
    upstream.add_manifest("app", TWO, OCI_MANIFEST, "latest")
    upstream.fail(error, verb)
    answer = ask(cache)
    expected = "unavailable" if (verb, kind) == ("manifest", "missing") else kind
    assert (answer.data, str(answer.status)) == (ONE, f"pullcache; hit; detail=stale-{expected}")
    assert answer.warning is not None and answer.warning.startswith("stale: ")


@pytest.mark.parametrize(("error", "kind"), TROUBLE, ids=lambda each: type(each).__name__)
def test_with_its_switch_off_a_failure_is_reported(error: errors.UpstreamError, kind: str) -> None:
    """serve_stale: {...: false}."""
    upstream = stocked()
    cache = warm(upstream, serve_stale=StaleSettings(**{kind: False}))
    upstream.fail(error)
    assert failing(cache.through.manifest(cache.at(HUB, "app"), "latest")) is error


@pytest.mark.parametrize(("error", "kind"), TROUBLE, ids=lambda each: type(each).__name__)
def test_with_nothing_cached_the_failure_is_reported(error: errors.UpstreamError, kind: str) -> None:
    """It is the upstream's fault and said to be, by tag and by digest."""
    upstream = stocked()
    upstream.fail(error)
    for reference in ("latest", Digest.of(ONE)):
        cache = Cache(upstream)
        assert failing(cache.through.manifest(cache.at(HUB, "app"), reference)) is error


def test_max_stale_bounds_how_old_an_answer_may_be() -> None:
    """An hour after it went stale it is not served any more."""
    upstream = stocked()
    cache = warm(upstream, max_stale=3600.0)
    upstream.fail(errors.UpstreamUnavailable(HUB, "down"))
    assert ask(cache).data == ONE
    cache.clock.advance(3700.0)
    failing(cache.through.manifest(cache.at(HUB, "app"), "latest"), errors.UpstreamUnavailable)


def test_a_digest_once_held_is_never_asked_for() -> None:
    """However old, whatever the upstream does."""
    upstream = stocked()
    cache = Cache(upstream)
    assert ask(cache, Digest.of(ONE)).data == ONE
    assert verbs(upstream) == ["manifest"]
    cache.clock.advance(1e8)
    answer = ask(cache, Digest.of(ONE))
    assert (str(answer.status), answer.fresh_until, verbs(upstream)) == ("pullcache; hit", None, [])


def test_a_digest_is_asked_for_in_each_repository() -> None:
    """Knowing the digest of a private manifest that another client pulled is no permission to read it."""
    upstream = stocked()
    cache = Cache(upstream)
    ask(cache, Digest.of(ONE)), verbs(upstream)
    failing(cache.through.manifest(cache.at(HUB, "other"), Digest.of(ONE)), errors.UpstreamMissing)
    assert verbs(upstream) == ["manifest"]
    upstream.add_manifest("other", ONE, OCI_MANIFEST)
    cache.clock.advance(30.0)
    assert ask(cache, Digest.of(ONE), "other").data == ONE
    assert verbs(upstream) == ["manifest"]


def test_a_child_that_is_held_elsewhere_is_served_when_its_upstream_has_it() -> None:
    """That an index names it is no answer of the upstream: one HEAD is, and the manifest is not fetched again."""
    upstream = stocked()
    whole = index(ONE)
    upstream.add_manifest("multi", whole, OCI_INDEX, "latest")
    cache = Cache(upstream)
    ask(cache), ask(cache, name="multi"), verbs(upstream)
    failing(cache.through.manifest(cache.at(HUB, "multi"), Digest.of(ONE)), errors.UpstreamMissing)
    assert verbs(upstream) == ["head"]
    cache.clock.advance(30.0)
    upstream.add_manifest("multi", ONE, OCI_MANIFEST)
    for each in (cache, cache, Cache(upstream, before=cache)):
        assert ask(each, Digest.of(ONE), "multi").data == ONE
    assert verbs(upstream) == ["head"]


def test_a_child_whose_upstream_tells_no_digest_is_fetched() -> None:
    """A HEAD without a digest is no answer either."""
    upstream = stocked()
    upstream.add_manifest("multi", index(ONE), OCI_INDEX, "latest")
    upstream.add_manifest("multi", ONE, OCI_MANIFEST)
    upstream.tells_digest = False
    cache = Cache(upstream)
    ask(cache), ask(cache, name="multi"), verbs(upstream)
    assert ask(cache, Digest.of(ONE), "multi").data == ONE
    assert verbs(upstream) == ["head", "manifest"]


def test_an_index_stays_whole_when_one_platform_is_pulled() -> None:
    """Its bytes, and so its digest, do not change."""
    upstream = stocked()
    whole = index(ONE, TWO)
    upstream.add_manifest("multi", whole, OCI_INDEX, "latest")
    upstream.add_manifest("multi", ONE, OCI_MANIFEST)
    cache = Cache(upstream)
    ask(cache, name="multi"), ask(cache, Digest.of(ONE), "multi")
    again = ask(Cache(upstream, before=cache), name="multi")
    assert (again.data, again.media_type) == (whole, OCI_INDEX)


UNTYPED = ONE.replace(b'"mediaType": "' + OCI_MANIFEST.encode() + b'",', b"", 1)


def test_the_media_type_of_a_digest_never_changes() -> None:
    """The first one it came with stays, whatever the upstream says later."""
    upstream = ScriptedUpstream(HUB)
    digest = upstream.add_manifest("app", UNTYPED, DOCKER_MANIFEST, "latest")
    upstream.tells_digest = False
    cache = Cache(upstream)
    assert ask(cache).media_type == DOCKER_MANIFEST
    upstream.shelves["app"].manifests[digest] = (UNTYPED, OCI_MANIFEST)
    cache.clock.advance(100.0)
    assert ask(cache).media_type == DOCKER_MANIFEST
    assert ask(Cache(upstream, before=cache), digest).media_type == DOCKER_MANIFEST


BAD = [
    (b"<html>no</html>", "text/html"),
    (b"\x1f\x8b\x08\x00gzip", OCI_MANIFEST),
    (ONE[:-20], OCI_MANIFEST),
    (b'{"schemaVersion": 2, "manifests": [], "layers": []}', OCI_MANIFEST),
    (b'{"schemaVersion": 1, "fsLayers": []}', None),
    (b" " * (5 * 1024 * 1024), OCI_MANIFEST),
    (b"", OCI_MANIFEST),
]


@pytest.mark.parametrize(("data", "content_type"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("tells_digest", [True, False])
def test_what_is_no_manifest_is_neither_stored_nor_served(
    data: bytes, content_type: str | None, tells_digest: bool
) -> None:
    """HTML, gzip, half a document, two documents in one, schema 1, too large: a clear error and no trace."""
    upstream = ScriptedUpstream(HUB)
    upstream.tells_digest = tells_digest
    upstream.add_manifest("app", data, content_type, "latest")
    cache = Cache(upstream)
    failing(cache.through.manifest(cache.at(HUB, "app"), "latest"), errors.UpstreamInvalid)
    failing(cache.through.manifest(cache.at(HUB, "app"), Digest.of(data)), errors.UpstreamInvalid)
    repository = result(cache.repositories.get(HUB, "app"))
    assert (repository.tags, repository.manifests, cache.store.total()) == ({}, {}, 0)


@pytest.mark.parametrize("reference", ["latest", Digest.of(ONE)], ids=str)
def test_a_manifest_of_another_digest_is_refused(reference: str | Digest) -> None:
    """The upstream names one digest and sends another document."""
    upstream = stocked()
    upstream.shelves["app"].manifests[Digest.of(ONE)] = (TWO, OCI_MANIFEST)
    cache = Cache(upstream)
    failing(cache.through.manifest(cache.at(HUB, "app"), reference), errors.UpstreamInvalid)
    assert cache.store.total() == 0


def test_an_offline_appliance_never_asks() -> None:
    """Held: served, however old. Not held: Offline. The upstream is not called once."""
    upstream = stocked()
    offline = Cache(upstream, offline=True, before=warm(upstream))
    offline.clock.advance(1e8)
    assert ask(offline).data == ONE and ask(offline, Digest.of(ONE)).data == ONE
    for reference in ("other", Digest.of(TWO)):
        failing(offline.through.manifest(offline.at(HUB, "app"), reference), errors.Offline)
    assert verbs(upstream) == []


def test_only_what_is_allowed_and_configured_is_looked_at() -> None:
    """Neither asked for nor served, although it is held."""
    upstream = stocked()
    cache = warm(upstream)
    closed = Cache(upstream, before=cache, deny=("app",))
    with pytest.raises(errors.NotPermitted):
        closed.at(HUB, "app")
    with pytest.raises(errors.UpstreamUnknown):
        cache.at("evil.example", "app")
    assert verbs(upstream) == []


def test_what_a_manifest_names_is_in_use_while_it_is_noted() -> None:
    """A collection that has looked at the repository before removes none of it; afterwards nothing is in use."""
    cache = Cache(stocked())
    named = [descriptor.parsed() for descriptor in parse_manifest(ONE, None).descriptors]
    with cache.store.leases.watch() as watch:
        ask(cache)
    assert named and all(digest in watch for digest in (Digest.of(ONE), *named))
    assert len(cache.store.leases) == 0
