"""
One repository does not read another's: a manifest can name any digest, and its writer gets nothing by it.

A team's image came through GHCR; another user writes manifests into a repository of Docker Hub that name its digests.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from appliance import errors
from appliance.interfaces import Origin
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.settings import MatchSettings, RuleSettings
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, image, index
from tests.wire.line import GHCR, HUB, Answer, Line, Shop, blob, manifest, request

SMALL, LARGE = b"a small secret", b"a large secret " * 300_000
SECRET = image(SMALL, LARGE)
THEFT = image(SMALL, LARGE, note="not theirs")
LIST = index(SECRET, THEFT)
THEIRS, MINE = "team/secret", "mine/app"


def shop(*pulled: bytes) -> Shop:
    """The team's image is at GHCR, of which these blobs were pulled; the other's manifests were pulled from the Hub."""
    made = Shop()
    made.ghcr.add_manifest(THEIRS, SECRET, OCI_MANIFEST, "latest")
    for data in (SMALL, LARGE, CONFIG):
        made.ghcr.add_blob(THEIRS, data)
    made.hub.add_manifest(MINE, THEFT, OCI_MANIFEST, "latest")
    made.hub.add_manifest(MINE, LIST, OCI_INDEX, "list")
    for path in (manifest("latest", f"ghcr.io/{THEIRS}"), manifest("latest", MINE), manifest("list", MINE)):
        assert made.get(path).status == 200
    for data in pulled:
        assert made.get(blob(data, f"ghcr.io/{THEIRS}")).body == data
    forget(made)
    return made


def forget(made: Shop) -> None:
    made.hub.calls.clear()
    made.ghcr.calls.clear()


def asked(made: Shop) -> list[str]:
    """What was asked of any upstream since."""
    return [call.verb for call in (*made.hub.calls, *made.ghcr.calls)]


def is_kept_secret(answer: Answer) -> bool:
    return answer.status == 404 and b"secret " not in answer.body and answer["Content-Range"] is None


RANGES: list[list[tuple[str, str]]] = [
    [],
    [("Range", "bytes=0-9")],
    [("Range", "bytes=-9")],
    [("Range", "bytes=0-1,5-9")],
]


@pytest.mark.parametrize("fields", RANGES, ids=["whole", "range", "end", "ranges"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("secret", [SMALL, LARGE], ids=["small", "large"])
def test_a_layer_that_another_repository_holds_is_no_ones_who_names_it(
    secret: bytes, method: str, fields: list[tuple[str, str]]
) -> None:
    """Its own upstream is asked, once, and has no such thing; who may read it goes on reading it, from memory too."""
    made = shop(SMALL, LARGE)
    for _ in range(3):
        assert is_kept_secret(made.ask(method, blob(secret, MINE), fields))
        assert made.get(blob(secret, f"ghcr.io/{THEIRS}")).body == secret
    assert asked(made) == ["blob_size"]
    assert is_kept_secret(Shop(before=made).ask(method, blob(secret, MINE), fields))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_that_another_repository_holds_is_no_ones_who_lists_it(method: str) -> None:
    """An index names it: one HEAD, a 404, and nothing of what is beneath it."""
    made = shop(SMALL, LARGE)
    for _ in range(2):
        answer = made.ask(method, manifest(Digest.of(SECRET), MINE))
        assert answer.status == 404 and answer["ETag"] is None
    assert asked(made) == ["head"]
    for data in (SMALL, LARGE, CONFIG):
        assert is_kept_secret(made.get(blob(data, MINE)))


def test_a_manifest_put_there_as_a_blob_is_no_better_than_one_put_there_as_such() -> None:
    """A user who can write a blob can write one that is a manifest and names what is not theirs."""
    made = shop(SMALL)
    trick = image(SMALL, note="as a blob")
    made.hub.add_blob(MINE, trick)
    assert made.get(blob(trick, MINE)).body == trick
    assert made.get(manifest(Digest.of(trick), MINE)).status == 200
    assert is_kept_secret(made.get(blob(SMALL, MINE)))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_layer_on_its_way_to_another_repository_is_not_joined(method: str) -> None:
    """While it comes, and when it was cut: neither its beginning nor a word on it."""
    made = shop()
    made.ghcr.by_hand = True
    line = Line(made.listener)
    line.send(request("GET", blob(LARGE, f"ghcr.io/{THEIRS}")))
    made.ghcr.bodies[0].feed(1_000_000)
    answers = [made.ask("GET", blob(LARGE, MINE), fields) for fields in RANGES]
    assert all(map(is_kept_secret, answers))
    assert [call.verb for call in made.hub.calls] == ["blob_size"]
    made.clock.advance(30.0)
    result(made.cache.flights.stop())
    assert is_kept_secret(made.get(blob(LARGE, MINE)))
    line.lose()


def test_a_layer_that_came_whole_and_was_cut_before_it_was_stored_is_not_handed_over() -> None:
    """It needs no byte more of an upstream, and one is asked all the same."""
    made = shop()
    ingest = result(made.cache.store.ingest(Digest.of(LARGE)))
    result(ingest.write([LARGE]))
    ingest.close()
    assert is_kept_secret(made.get(blob(LARGE, MINE)))
    assert [call.verb for call in made.hub.calls] == ["blob_size"]
    assert made.get(blob(LARGE, f"ghcr.io/{THEIRS}")).body == LARGE


def test_what_was_received_whole_before_a_kill_is_its_repositorys() -> None:
    """It becomes a blob at start, and where it came from is known: there it is served without its upstream."""
    made = shop()
    ingest = result(made.cache.store.ingest(Digest.of(LARGE)))
    result(ingest.write([LARGE]))
    result(ingest.note(Origin(GHCR, THEIRS, len(LARGE))))
    ingest.close()
    again = Shop(before=made)
    result(again.cache.flights.resume(again.cache.access))
    made.ghcr.fail(errors.UpstreamUnavailable(GHCR, "gone"))
    for each in (again, Shop(before=again)):
        assert each.get(blob(LARGE, f"ghcr.io/{THEIRS}")).body == LARGE
        assert is_kept_secret(each.get(blob(LARGE, MINE)))
    assert [call.verb for call in made.ghcr.calls] == []


TROUBLE: list[tuple[errors.UpstreamError, int]] = [
    (errors.UpstreamUnavailable(HUB, "down"), 502),
    (errors.UpstreamTimeout(HUB, "silent"), 504),
    (errors.UpstreamRateLimited(HUB, "fewer", 7.0), 429),
    (errors.UpstreamDenied(HUB, "no"), 404),
]


@pytest.mark.parametrize(("error", "status"), TROUBLE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("path", [blob(SMALL, MINE), manifest(Digest.of(SECRET), MINE)], ids=["blob", "manifest"])
def test_an_upstream_that_cannot_say_is_reported_as_such(error: errors.UpstreamError, status: int, path: str) -> None:
    """An honest error, not the bytes; the next one asks again."""
    made = shop(SMALL)
    made.hub.fail(error)
    for method in ("GET", "HEAD"):
        answer = made.ask(method, path)
        assert answer.status == status and SMALL not in answer.body
    made.hub.heal()
    assert made.get(path).status == 404


# -- what is shared rightly -----------------------------------------------------------------------------------------


def stocked(made: Shop, name: str) -> None:
    """The Hub has the image there as well."""
    made.hub.add_manifest(name, SECRET, OCI_MANIFEST, "latest")
    for data in (SMALL, LARGE, CONFIG):
        made.hub.add_blob(name, data)


@pytest.mark.parametrize("first", ["HEAD", "GET"])
def test_what_its_upstream_has_too_costs_one_question_each_and_no_byte(first: str) -> None:
    """However often it is pulled, whatever is restarted, and when the upstream is gone."""
    made = shop(SMALL, LARGE, CONFIG)
    stocked(made, MINE)
    assert made.get(manifest(Digest.of(SECRET), MINE)).body == SECRET
    for data in (SMALL, LARGE, CONFIG):
        assert made.ask(first, blob(data, MINE))["Cache-Status"] == "pullcache; fwd=uri-miss"
        assert made.get(blob(data, MINE))["Cache-Status"] == "pullcache; hit"
    assert asked(made) == ["head", "blob_size", "blob_size", "blob_size"]
    again = Shop(before=made)
    again.hub.fail(errors.UpstreamUnavailable(HUB, "gone"))
    assert again.get(manifest(Digest.of(SECRET), MINE)).body == SECRET
    assert [again.get(blob(data, MINE)).body for data in (SMALL, LARGE, CONFIG)] == [SMALL, LARGE, CONFIG]
    assert len(asked(made)) == 4


def test_many_who_ask_at_once_are_one_question() -> None:
    """Twenty clients, by GET and HEAD."""
    made = shop(SMALL)
    stocked(made, MINE)
    made.hub.hang("blob_size")
    lines = [Line(made.listener) for _ in range(20)]
    for number, line in enumerate(lines):
        line.send(request("HEAD" if number % 2 else "GET", blob(SMALL, MINE)))
    lines[0].lose()
    made.hub.hanging[0].answer()
    for number, line in enumerate(lines[1:], 1):
        [answer] = line.answers("HEAD" if number % 2 else "GET")
        assert answer.status == 200
    assert asked(made) == ["blob_size"]


def test_a_disk_that_cannot_note_it_fails_no_pull(logged_errors: list[Any]) -> None:
    """It is known until a restart."""
    made = shop(SMALL)
    stocked(made, MINE)

    def refuse(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    made.cache.documents.write = refuse  # type: ignore[method-assign]
    for _ in range(2):
        assert made.get(blob(SMALL, MINE)).body == SMALL
    assert asked(made) == ["blob_size"]
    logged_errors.clear()


@pytest.mark.parametrize("tag", ["latest", "multi"])
def test_an_ordinary_pull_costs_what_it_cost_and_is_served_without_its_upstream(tag: str) -> None:
    """HEAD for the tag, one GET for each manifest and blob; after a restart no upstream is asked and all is served."""
    made = Shop()
    child = Digest.of(made.hub._manifest("library/app", "v1")[1])
    paths = [manifest(tag), *([manifest(child)] if tag == "multi" else [])]
    document = json.loads(made.hub._manifest("library/app", "v1")[1])
    named = [document["config"], *document["layers"]]
    blobs = [f"/v2/app/blobs/{each['digest']}" for each in named]
    bodies = [made.get(path).body for path in (*paths, *blobs)]
    verbs = ["head", *["manifest"] * len(paths)]
    # The empty layer needs no upstream.
    assert [call.verb for call in made.hub.calls] == [*verbs, *["blob"] * (len(blobs) - 1)]
    made.hub.calls.clear()
    for later in (made, Shop(before=made)):
        made.hub.fail(errors.UpstreamUnavailable(HUB, "gone"))
        assert [later.get(path).body for path in (*paths, *blobs)] == bodies
        assert all(later.ask("HEAD", path).status == 200 for path in (*paths, *blobs))
    assert made.hub.calls == []


# -- where no upstream is asked -------------------------------------------------------------------------------------


def test_offline_a_manifest_that_names_it_is_enough() -> None:
    """There is no upstream to ask, and what a site has it may use."""
    made = Shop(before=shop(SMALL, LARGE, CONFIG), offline=True)
    for data in (SMALL, LARGE, CONFIG):
        for method in ("HEAD", "GET"):
            assert made.ask(method, blob(data, MINE)).status == 200
    assert made.get(manifest(Digest.of(SECRET), MINE)).body == SECRET
    assert asked(made) == []
    assert [made.ask("HEAD", blob(data, MINE)).status for data in (SMALL, LARGE, CONFIG)] == [200] * 3
    online = Shop(before=made)
    assert is_kept_secret(online.get(blob(SMALL, MINE)))
    assert online.get(manifest(Digest.of(SECRET), MINE)).status == 404
    assert asked(made) == ["blob_size", "head"]


ALL = (RuleSettings(allow=MatchSettings()),)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_offline_a_manifest_that_names_it_is_not_enough_where_rules_say_who_reads_what(method: str) -> None:
    """Who may read the one repository is then not always who may read the other; what its upstream gave is served."""
    made = shop(SMALL, LARGE, CONFIG)
    trick = Digest.of(THEFT)
    offline = Shop(before=made, offline=True, access=ALL)
    for data in (SMALL, LARGE, CONFIG):
        assert is_kept_secret(offline.ask(method, blob(data, MINE)))
        assert offline.ask(method, blob(data, f"ghcr.io/{THEIRS}")).status == 200
    assert offline.ask(method, manifest(Digest.of(SECRET), MINE)).status == 404
    assert offline.ask(method, manifest(trick, MINE)).status == 200
    assert asked(made) == []


def test_offline_what_was_cut_is_handed_to_its_own_repository_alone_where_there_are_rules() -> None:
    """It is whole, and becomes a blob when it is asked for: by whomever, it is noted whose it is."""
    made = shop()
    ingest = result(made.cache.store.ingest(Digest.of(LARGE)))
    result(ingest.write([LARGE]))
    result(ingest.note(Origin(GHCR, THEIRS, len(LARGE))))
    ingest.close()
    offline = Shop(before=made, offline=True, access=ALL)
    for name in (MINE, "mine/other"):
        assert is_kept_secret(offline.get(blob(LARGE, name)))
    assert offline.get(blob(LARGE, f"ghcr.io/{THEIRS}")).body == LARGE


def test_a_reload_that_brings_rules_ends_the_lending() -> None:
    """At once, and it begins again when they go."""
    made = Shop(before=shop(SMALL, LARGE, CONFIG), offline=True)
    settings = made.settings
    for access, served in ((ALL, False), ((), True)):
        made.cache.services.configure(structs.replace(settings, access=access))
        made.listener.forget_answers()
        assert (made.get(blob(SMALL, MINE)).status == 200) is served


def test_offline_what_is_beneath_an_index_is_served_through_it_alone() -> None:
    """A multi-platform image whose platform came through another repository: its manifest, then its layers."""
    made = Shop()
    made.ghcr.add_manifest(THEIRS, SECRET, OCI_MANIFEST, "latest")
    for data in (SMALL, CONFIG):
        made.ghcr.add_blob(THEIRS, data)
    made.hub.add_manifest(MINE, index(SECRET), OCI_INDEX, "list")
    for path in (manifest("latest", f"ghcr.io/{THEIRS}"), manifest("list", MINE)):
        assert made.get(path).status == 200
    for data in (SMALL, CONFIG):
        assert made.get(blob(data, f"ghcr.io/{THEIRS}")).body == data
    offline = Shop(before=made, offline=True)
    assert offline.get(manifest(Digest.of(SECRET), MINE)).body == SECRET
    assert [offline.get(blob(data, MINE)).body for data in (SMALL, CONFIG)] == [SMALL, CONFIG]
    assert offline.get(manifest(Digest.of(SMALL), MINE)).status == 404
    assert is_kept_secret(Shop(before=offline).get(manifest(Digest.of(SECRET), MINE)))


def as_before(made: Shop) -> None:
    """What an earlier version wrote: descriptors and blobs without a word on who was asked."""
    documents = made.cache.documents._documents
    for key, (data, version) in list(documents.items()):
        if key[-1] == "index.json":
            document = json.loads(data)
            document["annotations"].pop("io.pullcache.blobs", None)
            for each in document["manifests"]:
                each.get("annotations", {}).pop("io.pullcache.confirm", None)
            documents[key] = (json.dumps(document).encode(), version)


def test_what_an_earlier_version_served_without_its_upstream_is_served_on() -> None:
    """By name, through an index, and beneath it; what is pulled from now on is asked for."""
    made = shop(SMALL, LARGE, CONFIG)
    as_before(made)
    later = Shop(before=made)
    for upstream in (made.hub, made.ghcr):
        upstream.fail(errors.UpstreamUnavailable(upstream.name, "gone"))
    for data in (SMALL, LARGE, CONFIG):
        for name in (MINE, f"ghcr.io/{THEIRS}"):
            for method in ("HEAD", "GET"):
                assert later.ask(method, blob(data, name)).status == 200
    assert later.get(manifest(Digest.of(SECRET), MINE)).body == SECRET
    assert asked(made) == []
    made.hub.heal()
    fresh = image(b"new", LARGE, note="pulled by this version")
    made.hub.add_manifest("mine/new", fresh, OCI_MANIFEST, "latest")
    for version in (later, Shop(before=later)):
        assert version.get(manifest("latest", "mine/new")).status == 200
        assert is_kept_secret(version.get(blob(LARGE, "mine/new")))


def test_what_a_damaged_document_is_rebuilt_from_keeps_its_word(logged_errors: list[Any]) -> None:
    """A descriptor says itself whether what it names has to be asked for."""
    made = shop(SMALL)
    documents = made.cache.documents._documents
    for key, (data, version) in list(documents.items()):
        if key[-1] == "index.json":
            documents[key] = (data[:-30], version)
    assert is_kept_secret(Shop(before=made).get(blob(SMALL, MINE)))
    assert logged_errors
    logged_errors.clear()
