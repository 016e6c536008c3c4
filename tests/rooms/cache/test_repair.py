"""Damage on disk: who gets the right bytes all the same, what is fetched again, and what is wanted where that fails."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import fail

from appliance import errors
from appliance.cache.repair import FETCHED, UNREFERENCED, WANTED
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from tests.doubles.deferreds import failing, result
from tests.doubles.manifests import CONFIG, image, index
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.cache.blobpulls import HUB, LAYER, LAYER_DIGEST, OTHER, stocked

IMAGE = image(LAYER)
IMAGE_DIGEST = Digest.of(IMAGE)
FLIPPED = b"\1" + LAYER[1:]


def pulled(*upstreams: ScriptedUpstream, name: str = "app", **more: Any) -> Cache:
    """A cache that holds the image of each."""
    cache = Cache(*(upstreams or (stocked(),)), **more)
    for upstream in cache.remotes:
        remote = cache.at(upstream, name)
        result(cache.through.manifest(remote, "latest"))
        for digest in (Digest.of(CONFIG), LAYER_DIGEST):
            result(cache.blobs.fetch(remote, digest))
    for each in upstreams:
        each.calls.clear()
    return cache


def offline(cache: Cache) -> Cache:
    """The same appliance after a restart without a network."""
    return Cache(*(remote.registry for remote in cache.remotes.values()), before=cache, offline=True)


def damage(cache: Cache, digest: Digest = LAYER_DIGEST, data: bytes = FLIPPED) -> None:
    cache.store._blobs[digest] = data


def examine(cache: Cache, digest: Digest = LAYER_DIGEST) -> str:
    """Have it looked at; what became of it."""
    assert not result(cache.services.repair.examine(digest, anew=True))
    return result(cache.services.repair.mended(digest))


def wants(cache: Cache) -> list[tuple[str, str, str, str]]:
    return sorted((*each.key, each.reason) for each in cache.services.wants.snapshot())


def read(cache: Cache, digest: Digest = LAYER_DIGEST) -> tuple[bytes, str]:
    """What a client gets, and from where."""
    answer = result(cache.through.blob(cache.at(HUB, "app"), digest))
    data = result(answer.reader.read(0, answer.size))
    answer.close()
    return data, str(answer.status)


# -- what becomes of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [FLIPPED, LAYER[:-1], LAYER + b"x", b""])
def test_a_damaged_blob_is_set_aside_and_fetched_again(wrong: bytes, logged_errors: list[Any]) -> None:
    """From the repository it came from, without a client that asks for it; its bytes can be looked at later."""
    hub = stocked()
    cache = pulled(hub)
    damage(cache, data=wrong)
    assert examine(cache) == FETCHED
    assert cache.store._blobs[LAYER_DIGEST] == LAYER
    assert [(each.digest, each.size) for each in result(cache.store.damaged())] == [(LAYER_DIGEST, len(wrong))]
    assert [(call.verb, call.repository) for call in hub.calls] == [("blob", "app")]
    assert wants(cache) == [] and cache.services.repair.lacking == []
    logged_errors.clear()


def test_a_damaged_manifest_is_fetched_again_as_a_manifest(logged_errors: list[Any]) -> None:
    """A registry has it behind another path than its blobs."""
    hub = stocked()
    cache = pulled(hub)
    damage(cache, IMAGE_DIGEST, IMAGE[:-1] + b" ")
    assert examine(cache, IMAGE_DIGEST) == FETCHED
    assert cache.store._blobs[IMAGE_DIGEST] == IMAGE
    assert [call.verb for call in hub.calls] == ["manifest"]
    logged_errors.clear()


def test_what_is_right_stays_where_it_is() -> None:
    """Whoever suspected it: nothing is asked, nothing is moved."""
    hub = stocked()
    cache = pulled(hub)
    assert result(cache.services.repair.examine(LAYER_DIGEST, anew=True))
    assert result(cache.store.damaged()) == [] and hub.calls == []


def test_the_next_repository_is_asked_when_the_first_cannot_give_it(logged_errors: list[Any]) -> None:
    """One registry is gone, another one has the same layer."""
    hub, other = stocked(), stocked(OTHER)
    cache = pulled(hub, other)
    hub.fail(errors.UpstreamUnavailable(HUB, "gone"))
    damage(cache)
    assert examine(cache) == FETCHED
    assert [call.verb for call in other.calls] == ["blob"]
    logged_errors.clear()


def test_without_an_upstream_it_is_wanted_by_its_digest_where_it_is_named(logged_errors: list[Any]) -> None:
    """So the next bundle brings it; and the next process knows that it is lacking."""
    cache = offline(pulled(stocked(), stocked(OTHER)))
    damage(cache)
    assert examine(cache) == WANTED
    lacking = [(upstream, "app", str(LAYER_DIGEST), "damaged") for upstream in (HUB, OTHER)]
    assert wants(cache) == lacking
    assert cache.services.repair.lacking == [LAYER_DIGEST]
    failing(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST), errors.Offline)
    assert wants(cache) == lacking, "a client that asks for it does not change why it is lacking"

    later = offline(cache)
    assert later.services.repair.lacking == []
    result(later.services.repair.resume())
    assert later.services.repair.lacking == [LAYER_DIGEST] and wants(later) == lacking
    logged_errors.clear()


def test_what_only_a_manifest_of_a_bundle_names_is_wanted_too(logged_errors: list[Any]) -> None:
    """A bundle's blobs are in no document: its manifests are read, and the children of an index are manifests."""
    cache = Cache(ScriptedUpstream(HUB), offline=True)
    repository = result(cache.repositories.get(HUB, "app"))
    parent = index(IMAGE)
    for data in (parent, IMAGE, CONFIG, LAYER):
        result(cache.store.put(Digest.of(data), data))
    repository.hold(Digest.of(parent), OCI_INDEX, len(parent))
    repository.hold(IMAGE_DIGEST, OCI_MANIFEST, len(IMAGE))
    repository.tag("latest", Digest.of(parent), 1.0, "a-bundle")
    result(cache.repositories.save(repository))
    damage(cache, IMAGE_DIGEST, IMAGE.replace(b"2", b"3", 1))
    assert examine(cache, IMAGE_DIGEST) == WANTED
    damage(cache)
    assert examine(cache) == WANTED, "the manifest that names it is damaged, too"
    assert [want[2:] for want in wants(cache)] == sorted(
        (str(digest), "damaged") for digest in (IMAGE_DIGEST, LAYER_DIGEST)
    )
    logged_errors.clear()


def test_it_is_tried_again_when_upstreams_may_be_asked_again(logged_errors: list[Any]) -> None:
    """At a start, or with a new configuration; then it is wanted no more."""
    hub = stocked()
    cache = offline(pulled(hub))
    damage(cache)
    assert examine(cache) == WANTED
    again = Cache(hub, before=cache)
    result(cache.services.wants.flush())
    result(again.services.wants.load())
    assert len(wants(again)) == 1
    result(again.services.repair.resume())
    assert again.store._blobs[LAYER_DIGEST] == LAYER
    assert wants(again) == [] and again.services.repair.lacking == []
    logged_errors.clear()


def test_what_cannot_be_sought_now_is_sought_again(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """The folder of the repositories cannot be read for a moment: it is lacking until the next try."""
    cache = pulled()
    damage(cache)
    with monkeypatch.context() as patched:
        patched.setattr(cache.repositories, "names", lambda: fail(OSError(5, "Input/output error")))
        assert examine(cache) == WANTED
    assert cache.services.repair.lacking == [LAYER_DIGEST]
    cache.services.repair.reconsider()
    assert cache.store._blobs[LAYER_DIGEST] == LAYER and cache.services.repair.lacking == []
    logged_errors.clear()


def test_what_no_repository_names_is_not_lacking(logged_errors: list[Any]) -> None:
    """It is set aside, and that is all: nothing has to come in its place."""
    cache = pulled()
    stray = Digest.of(b"a layer of an image that was removed")
    damage(cache, stray, b"x")
    assert examine(cache, stray) == UNREFERENCED
    assert wants(cache) == [] and cache.services.repair.lacking == []
    logged_errors.clear()


def test_many_are_mended_a_few_at_a_time(logged_errors: list[Any]) -> None:
    """A disk that loses a thousand blobs does not make a thousand requests at once."""
    layers = [b"layer %d" % number for number in range(20)]
    hub = ScriptedUpstream(HUB)
    hub.add_manifest("app", image(*layers), OCI_MANIFEST, "latest")
    for data in (CONFIG, *layers):
        hub.add_blob("app", data)
    cache = Cache(hub)
    remote = cache.at(HUB, "app")
    result(cache.through.manifest(remote, "latest"))
    for data in layers:
        result(cache.blobs.fetch(remote, Digest.of(data)))
    hub.by_hand = True
    hub.bodies.clear()
    for data in layers:
        damage(cache, Digest.of(data), b"x")
        assert not result(cache.services.repair.examine(Digest.of(data), anew=True))
    seen = 0
    while hub.bodies[seen:]:
        assert len(hub.bodies) - seen <= 4
        hub.bodies[seen].complete()
        seen += 1
    assert seen == len(layers) and cache.services.repair.lacking == []
    logged_errors.clear()


def test_what_cannot_be_set_aside_is_lacking_and_served_from_its_upstream(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """The file system has turned read-only: it is told, and no client gets the damaged bytes."""
    cache = pulled()
    damage(cache, data=LAYER[:-1])
    monkeypatch.setattr(cache.store, "set_aside", lambda digest: fail(OSError(30, "Read-only file system")))
    assert examine(cache) == WANTED
    assert cache.services.repair.lacking == [LAYER_DIGEST]
    assert read(cache)[0] == LAYER
    assert result(cache.services.repair.examine(LAYER_DIGEST, anew=True))
    assert cache.services.repair.lacking == []
    logged_errors.clear()


# -- warm reads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [LAYER[:-1], LAYER + b"x", b""])
def test_a_client_gets_a_blob_whole_that_has_another_length_here(wrong: bytes, logged_errors: list[Any]) -> None:
    """The very client that finds it: it is fetched while it is served."""
    hub = stocked()
    cache = pulled(hub)
    damage(cache, data=wrong)
    assert read(cache)[0] == LAYER
    assert read(cache) == (LAYER, "pullcache; hit")
    assert [call.verb for call in hub.calls] == ["blob"]
    assert [each.digest for each in result(cache.store.damaged())] == [LAYER_DIGEST]
    logged_errors.clear()


def test_a_blob_of_another_length_is_not_served_offline(logged_errors: list[Any]) -> None:
    """Nor is its length told."""
    cache = offline(pulled())
    damage(cache, data=LAYER[:-1])
    for asking in (cache.through.blob, cache.through.blob_size):
        failing(asking(cache.at(HUB, "app"), LAYER_DIGEST), errors.Offline)
    assert wants(cache) == [(HUB, "app", str(LAYER_DIGEST), "damaged")]
    logged_errors.clear()


def test_a_descriptor_that_lies_does_not_cost_a_right_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hashed once, and served from then on."""
    cache = pulled()
    repository = result(cache.repositories.get(HUB, "app"))
    repository.link(LAYER_DIGEST, len(LAYER) + 1)
    hashed: list[Digest] = []
    verify = cache.store.verify

    def counted(digest: Digest) -> Any:
        hashed.append(digest)
        return verify(digest)

    monkeypatch.setattr(cache.store, "verify", counted)
    for _ in range(3):
        assert read(cache) == (LAYER, "pullcache; hit")
        assert result(cache.through.blob_size(cache.at(HUB, "app"), LAYER_DIGEST)).size == len(LAYER)
    assert hashed == [LAYER_DIGEST]


def test_a_blob_that_was_deleted_by_hand_is_fetched_again() -> None:
    """Below a running appliance, also at the moment in which it was found."""
    hub = stocked()
    cache = pulled(hub)
    del cache.store._blobs[LAYER_DIGEST]
    assert read(cache)[0] == LAYER
    size = cache.store.size

    def going(digest: Digest) -> Any:
        found = size(digest)
        cache.store._blobs.pop(digest, None)
        return found

    cache.store.size = going
    assert read(cache)[0] == LAYER


@pytest.mark.parametrize("reference", ["latest", IMAGE_DIGEST])
@pytest.mark.parametrize("is_gone", [False, True])
def test_a_damaged_manifest_is_fetched_for_the_client_that_asks(
    reference: Any, is_gone: bool, logged_errors: list[Any]
) -> None:
    """By tag and by digest, damaged or deleted by hand: no error, no wrong byte."""
    hub = stocked()
    cache = pulled(hub)
    again = Cache(hub, before=cache)
    if is_gone:
        del again.store._blobs[IMAGE_DIGEST]
    else:
        damage(again, IMAGE_DIGEST, IMAGE[:-1] + b" ")
    answer = result(again.through.manifest(again.at(HUB, "app"), reference))
    assert answer.data == IMAGE
    assert "manifest" in [call.verb for call in hub.calls]
    assert again.store._blobs[IMAGE_DIGEST] == IMAGE
    logged_errors.clear()


def test_a_damaged_manifest_is_wanted_where_no_upstream_is_asked(logged_errors: list[Any]) -> None:
    """By its digest, besides the tag that a client asked for."""
    cache = offline(pulled())
    damage(cache, IMAGE_DIGEST, b"{}")
    failing(cache.through.manifest(cache.at(HUB, "app"), "latest"), errors.Offline)
    assert wants(cache) == [
        (HUB, "app", "latest", "offline"),
        (HUB, "app", str(IMAGE_DIGEST), "damaged"),
    ]
    logged_errors.clear()


def test_a_manifest_that_is_damaged_where_the_graph_reads_it_is_mended(logged_errors: list[Any]) -> None:
    """Nobody asked for that one: what it names is known again afterwards."""
    hub = stocked()
    cache = pulled(hub)
    again = Cache(hub, before=cache)
    damage(again, IMAGE_DIGEST, b"{}")
    repository = result(again.repositories.get(HUB, "app"))
    repository.unlink(LAYER_DIGEST)
    result(again.through.blob_size(again.at(HUB, "app"), LAYER_DIGEST))
    assert again.store._blobs[IMAGE_DIGEST] == IMAGE
    assert read(again)[0] == LAYER
    logged_errors.clear()
