"""Lists of tags: the upstream's and ours together, and what remains of them when asking fails."""

from __future__ import annotations

import pytest
from twisted.internet.defer import succeed

from appliance import errors
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.registry.pages import tags_page
from appliance.settings import StaleSettings
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.manifests import image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
DOWN = errors.UpstreamUnavailable(HUB, "down")


def stocked() -> ScriptedUpstream:
    upstream = ScriptedUpstream(HUB)
    upstream.add_manifest("app", image(b"x"), OCI_MANIFEST, "b", "a", "Z", "v1.10", "v1.9")
    return upstream


def test_the_list_is_sorted_and_fresh_for_a_while() -> None:
    """ASCII order; asked once a minute; kept over a restart."""
    upstream = stocked()
    cache = Cache(upstream)
    first = result(cache.through.tags(cache.at(HUB, "app")))
    assert first.tags == ["Z", "a", "b", "v1.10", "v1.9"]
    assert str(first.status) == "pullcache; fwd=uri-miss; stored"
    for later in (cache, Cache(upstream, before=cache)):
        assert str(result(later.through.tags(later.at(HUB, "app"))).status) == "pullcache; hit"
    cache.clock.advance(60.0)
    assert result(cache.through.tags(cache.at(HUB, "app"))).status.fwd == "stale"
    assert len(upstream.calls) == 2


def test_tags_held_are_listed_with_the_upstreams() -> None:
    """A tag that was pulled and then deleted upstream is still served, so it is listed."""
    upstream = stocked()
    cache = Cache(upstream)
    result(cache.through.manifest(cache.at(HUB, "app"), "a"))
    del upstream.shelves["app"].tags["a"]
    assert result(cache.through.tags(cache.at(HUB, "app"))).tags == ["Z", "a", "b", "v1.10", "v1.9"]


def test_the_last_list_known_is_given_when_asking_fails() -> None:
    """Marked stale; after a hang, within revalidate_within."""
    upstream = stocked()
    cache = Cache(upstream)
    result(cache.through.tags(cache.at(HUB, "app")))
    cache.clock.advance(100.0)
    upstream.fail_once("tags", DOWN)
    stale = result(cache.through.tags(cache.at(HUB, "app")))
    assert len(stale.tags) == 5 and stale.status.label == "stale" and stale.warning is not None
    upstream.hang("tags")
    waiting = begin(cache.through.tags(cache.at(HUB, "app")))
    cache.clock.advance(2.0)
    assert result(waiting).tags == stale.tags
    upstream.add_manifest("app", image(b"y"), OCI_MANIFEST, "new")
    upstream.hanging[0].answer()
    assert "new" in result(cache.through.tags(cache.at(HUB, "app"))).tags


def test_without_a_list_the_tags_held_are_better_than_nothing() -> None:
    """And nothing at all is an error, never an empty list."""
    upstream = stocked()
    cache = Cache(upstream)
    result(cache.through.manifest(cache.at(HUB, "app"), "a"))
    upstream.fail(DOWN)
    assert result(cache.through.tags(cache.at(HUB, "app"))).tags == ["a"]
    failing(cache.through.tags(cache.at(HUB, "other")), errors.UpstreamUnavailable)
    strict = Cache(upstream, before=cache, serve_stale=StaleSettings(unavailable=False))
    failing(strict.through.tags(strict.at(HUB, "app")), errors.UpstreamUnavailable)


@pytest.mark.parametrize("listed", [True, False])
def test_offline_lists_what_is_known(listed: bool) -> None:
    """The list received last and the tags held; of an unknown repository nothing, as an error."""
    upstream = stocked()
    cache = Cache(upstream)
    result(cache.through.manifest(cache.at(HUB, "app"), "a"))
    if listed:
        result(cache.through.tags(cache.at(HUB, "app")))
    upstream.calls.clear()
    offline = Cache(upstream, offline=True, before=cache)
    offline.clock.advance(1e6)
    assert len(result(offline.through.tags(offline.at(HUB, "app"))).tags) == (5 if listed else 1)
    failing(offline.through.tags(offline.at(HUB, "other")), errors.Offline)
    assert upstream.calls == []


# -- pages of a long list ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [(), ("00042", "00017"), ("00042", "only-here")], ids=["none", "listed", "other"])
def test_a_page_costs_what_it_holds(held: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred of ten thousand tags are cut from one list, made once: it is not sorted or copied for each page."""
    upstream = ScriptedUpstream(HUB)
    listed = [f"{number:05}" for number in range(10_000)]
    monkeypatch.setattr(upstream, "tags", lambda repository: succeed(listed))
    cache = Cache(upstream)
    for tag in held:
        upstream.add_manifest("app", image(b"x"), OCI_MANIFEST, tag)
        result(cache.through.manifest(cache.at(HUB, "app"), tag))
    whole = result(cache.through.tags(cache.at(HUB, "app"))).tags
    found: list[str] = []
    for _ in range(len(whole) // 100 + 1):
        query = {b"n": [b"100"]} | ({b"last": [found[-1].encode()]} if found else {})
        answer = result(cache.through.tags(cache.at(HUB, "app")))
        assert answer.tags is whole
        found += tags_page(answer.tags, query).tags
    assert found == sorted({*listed, *held})


def test_a_tag_that_comes_or_goes_is_in_the_next_page_or_not() -> None:
    """What was merged for the pages before is not shown for longer than it is true."""
    upstream = stocked()
    cache = Cache(upstream, delete_missing=True)
    for tag in ("a", "b"):
        result(cache.through.manifest(cache.at(HUB, "app"), tag))
    del upstream.shelves["app"].tags["a"]
    assert result(cache.through.tags(cache.at(HUB, "app"))).tags == ["Z", "a", "b", "v1.10", "v1.9"]
    cache.clock.advance(61.0)
    upstream.add_manifest("app", image(b"x"), OCI_MANIFEST, "c")
    failing(cache.through.manifest(cache.at(HUB, "app"), "a"), errors.UpstreamMissing)
    result(cache.through.manifest(cache.at(HUB, "app"), "c"))
    assert result(cache.through.tags(cache.at(HUB, "app"))).tags == ["Z", "b", "c", "v1.10", "v1.9"]


def test_whatever_changes_the_names_are_those_of_the_tags() -> None:
    """One goes and another comes before the list is looked at: it is not the one of before."""
    repository = Repository(HUB, "app")
    digest = Digest.of(b"x")
    for tag in ("b", "a"):
        repository.tag(tag, digest, 1.0)
    first = repository.tag_names
    repository.tag("a", Digest.of(b"y"), 2.0)
    assert first == ["a", "b"] and repository.tag_names is first
    repository.untag("a")
    repository.tag("c", digest, 3.0)
    assert repository.tag_names == ["b", "c"]
    repository.untag("b")
    assert repository.tag_names == ["c"]


def test_what_an_upstream_lists_for_every_name_takes_no_file() -> None:
    """A client that makes repositories up, with an upstream that has an empty list of each, does not fill the disk."""
    upstream = ScriptedUpstream(HUB)
    upstream.add_manifest("app", image(b"x"), OCI_MANIFEST, "a")
    upstream.shelves["made/up"].tags.clear()
    cache = Cache(upstream)
    result(cache.through.manifest(cache.at(HUB, "app"), "a"))
    upstream.shelves["app"].tags.clear()
    for _ in range(2):
        assert result(cache.through.tags(cache.at(HUB, "made/up"))).tags == []
        assert result(cache.through.tags(cache.at(HUB, "app"))).tags == ["a"]
    assert result(cache.documents.list((), "_tags.json")) == [(HUB, "app", "_tags.json")]
    assert len(upstream.asked("tags")) == 2
