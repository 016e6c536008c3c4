"""The referrers of a registry without the API: they are listed under a tag (distribution-spec, "Listing Referrers")."""

from __future__ import annotations

import json

import pytest

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import Referrers
from appliance.upstream.kinds.standard import Standard
from appliance.upstream.kinds.wellknown import Ghcr
from tests.rooms.upstream.net import AUTH, REGISTRY, Asked, Reply, client_over
from tests.rooms.upstream.outages import PullsLeft
from tests.rooms.upstream.referring import (
    API,
    HEAD,
    HTML,
    INDEX,
    LOGIN,
    OLD,
    SECOND,
    SIGNATURE,
    SUBJECT,
    TAG,
    Rig,
    listing,
    oci_error,
    page,
    redirect,
)

DAY = 24 * 3600.0
NO_API = {
    "docker-registry": Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, b"404 page not found\n"),
    "ghcr": redirect(303, "https://github.com/-/v2/packages/container/a/sha256:65be"),
    "gar": redirect(302, LOGIN + "/signin?continue=x"),
    "k8s": redirect(307, "https://europe-west1-docker.pkg.example/v2/k8s-artifacts/a/referrers/x"),
    "ecr": oci_error(405, "UNSUPPORTED"),
    "quay": Reply(404, {"Content-Type": "application/json"}, b'{"detail": "Not Found", "status": 404}'),
    "another port": redirect(302, REGISTRY + ":8443/v2/"),
    "no TLS": redirect(301, "http://registry.example/v2/"),
    "nowhere": Reply(302),
    "400": Reply(400),
    "405": Reply(405),
    "406": Reply(406),
    "410": Reply(410),
    "501": Reply(501),
    "204": Reply(204),
    "HTML": HTML,
    "false 200": Reply(200, {"Content-Type": "application/json"}, b"{}"),
    "false list": Reply(200, {"Content-Type": "application/json"}, listing(SIGNATURE)),
    "no type": Reply(200, {}, listing(SIGNATURE)),
    "Docker list": Reply(200, {"Content-Type": mediatypes.DOCKER_MANIFEST_LIST}, listing(SIGNATURE)),
    "no index": Reply(200, INDEX, b"{}"),
    "no object": Reply(200, INDEX, b"[]"),
    "no manifests": Reply(200, INDEX, b'{"schemaVersion": 2}'),
    "schema 1": Reply(200, INDEX, b'{"schemaVersion": 1, "manifests": []}'),
    "another kind": Reply(200, INDEX, b'{"schemaVersion": 2, "mediaType": "a/b", "manifests": []}'),
}
without_api = pytest.mark.parametrize("answer", NO_API.values(), ids=NO_API)


# -- registries without the API --------------------------------------------------------------------------------------


@without_api
def test_without_the_api_the_tag_tells(answer: Reply) -> None:
    """Whatever the registry does instead; no other host is asked."""
    rig = Rig()
    rig.api["*"] = answer
    rig.tag(SIGNATURE, OLD)
    assert rig.ask() == Referrers((SIGNATURE, OLD))
    assert {asked.origin for asked in rig.net.asked} == {REGISTRY}


@without_api
def test_without_the_api_and_the_tag_there_is_nothing(answer: Reply) -> None:
    """The specification's rule for clients: an honest empty list, for one request that costs no pull."""
    rig = Rig()
    rig.api["*"] = answer
    assert rig.ask() == Referrers(())
    assert rig.asked == [API, HEAD]


@without_api
def test_for_a_day_only_the_tag_is_asked(answer: Reply) -> None:
    """Then the registry may have learnt it."""
    rig = Rig()
    rig.api["*"] = answer
    rig.ask()
    rig.forget()
    rig.net.clock.advance(DAY - 1)
    rig.tag(OLD)
    assert rig.ask() == Referrers((OLD,))
    assert rig.asked[0] == HEAD and not rig.asked_api
    rig.net.clock.advance(1)
    rig.api["*"] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE, OLD))


def test_a_kind_that_is_known_to_have_none_is_not_asked_for_a_day() -> None:
    """GHCR answers such questions slowly and counts them; but one day it will have it."""
    rig = Rig(adapter=Ghcr())
    rig.api["*"] = page(SIGNATURE)
    rig.tag(OLD)
    assert rig.ask() == Referrers((OLD,))
    rig.net.clock.advance(DAY)
    assert rig.ask() == Referrers((SIGNATURE, OLD))


def test_a_kind_that_is_said_to_have_it_is_not_believed() -> None:
    """It may stand before a registry that has not."""

    class Said(Standard):
        has_referrers = True

    rig = Rig(adapter=Said())
    rig.tag(OLD)
    assert rig.ask() == Referrers((OLD,))
    rig.forget()
    rig.ask()
    assert not rig.asked_api


@pytest.mark.parametrize("answer", [oci_error(404, "MANIFEST_UNKNOWN"), oci_error(400, "DIGEST_INVALID")])
def test_an_answer_about_the_manifest_says_nothing_of_others(answer: Reply) -> None:
    """Signatures of the next image are not missed because this one is not known there."""
    rig = Rig()
    rig.api["*"] = answer
    assert rig.ask() == Referrers(())
    rig.api["*"] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE,))


def test_who_listed_lately_is_asked_again_after_one_odd_answer() -> None:
    """A 404 of a proxy that was being restarted does not hide signatures for a day."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE)
    rig.ask()
    rig.net.clock.advance(3600)
    rig.api["*"] = NO_API["docker-registry"]
    assert rig.ask() == Referrers(())
    rig.api["*"] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE,))


def test_who_listed_long_ago_may_have_lost_it() -> None:
    """It is not asked in vain each time for ever."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE)
    rig.ask()
    rig.net.clock.advance(DAY)
    rig.api["*"] = NO_API["docker-registry"]
    rig.ask()
    rig.forget()
    rig.ask()
    assert not rig.asked_api


def test_a_page_that_stands_in_for_the_registry_is_neither_an_answer_nor_remembered() -> None:
    """A maintenance page with 200 for everything says nothing of signatures."""
    rig = Rig()
    rig.api["*"] = rig.manifests[TAG] = HTML
    assert type(rig.fault()) is errors.UpstreamInvalid
    rig.api["*"] = page(SIGNATURE)
    del rig.manifests[TAG]
    assert rig.ask() == Referrers((SIGNATURE,))


def test_each_url_has_a_memory_of_its_own() -> None:
    """A mirror without the API does not make the registry lose its, nor hide its signatures."""
    rig = Rig(REGISTRY, SECOND)
    rig.net.servers[REGISTRY] = lambda asked: Reply(404)
    rig.api["*"] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE,))
    assert rig.ask() == Referrers((SIGNATURE,))
    assert [asked.origin for asked in rig.net.asked if "/referrers/" in asked.target] == [REGISTRY, SECOND, SECOND]


def test_a_mirror_that_knows_of_none_does_not_speak_for_the_registry() -> None:
    """While the registry is silent it is not known; when it too has no API, there are none."""
    rig = Rig(REGISTRY, SECOND)
    rig.net.servers[REGISTRY] = lambda asked: Reply(404)
    rig.api["*"] = Reply(500)
    fault = rig.fault()
    assert type(fault) is errors.UpstreamUnavailable and REGISTRY in str(fault)
    rig.api["*"] = Reply(404)
    assert rig.ask() == Referrers(())


def test_a_token_is_presented_as_for_a_pull() -> None:
    """GHCR asks for one before it leads to a web page; the page never sees it."""
    rig = Rig(auth_hosts=("auth.example",))
    rig.api["*"] = NO_API["ghcr"]
    rig.tag(OLD)
    challenge = f'Bearer realm="{AUTH}/token",service="registry.example",scope="repository:a:pull"'

    def guarded(asked: Asked) -> Reply | None:
        if asked.one("authorization") != "Bearer t":
            return Reply(401, {"WWW-Authenticate": challenge})
        return rig.answer(asked)

    rig.net.servers[REGISTRY] = guarded
    rig.net.servers[AUTH] = lambda asked: Reply(200, {}, b'{"token": "t"}')
    assert rig.ask() == Referrers((OLD,))
    assert {asked.origin for asked in rig.net.asked} == {REGISTRY, AUTH}


# -- the tag ---------------------------------------------------------------------------------------------------------


IMAGE = json.dumps(
    {"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": str(SUBJECT), "size": 1}, "layers": []}
).encode()


@pytest.mark.parametrize("kind", [mediatypes.OCI_MANIFEST, mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_MANIFEST_LIST])
@pytest.mark.parametrize("head", [None, Reply(405)])
def test_a_tag_that_means_an_image_lists_nothing(kind: str, head: Reply | None) -> None:
    """The specification says so; and where HEAD tells it, no pull is spent on it."""
    rig = Rig()
    rig.tag(data=IMAGE, kind=kind)
    if head is not None:
        rig.heads[TAG] = head
    assert rig.ask() == Referrers(())
    assert rig.asked == [API, HEAD] + ([] if head is None else [HEAD.replace("HEAD", "GET")])


@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_a_document_says_itself_what_it_is(kind: str) -> None:
    """By its bytes, where its type does not say."""
    rig = Rig()
    rig.tag(data=IMAGE, kind=kind)
    assert rig.ask() == Referrers(())
    rig.tag(OLD, kind=kind)
    assert rig.ask() == Referrers((OLD,))


@pytest.mark.parametrize("data", [listing(OLD)[:-1], b"{}", b"", b'{"schemaVersion": 2, "manifests": 7}', b"<html>"])
@pytest.mark.parametrize("kind", [mediatypes.OCI_INDEX, "application/json"])
def test_a_tag_that_cannot_be_read_is_not_nothing(data: bytes, kind: str) -> None:
    """The tag there means something about the image."""
    rig = Rig()
    rig.tag(data=data, kind=kind)
    assert type(rig.fault()) is errors.UpstreamInvalid


@pytest.mark.parametrize("head", [Reply(405), Reply(501), Reply(400), HTML, Reply(200, {"Content-Type": "a/b"})])
def test_where_head_tells_nothing_the_tag_is_fetched(head: Reply) -> None:
    """By its name then."""
    rig = Rig()
    rig.tag(OLD)
    rig.heads[TAG] = head
    assert rig.ask() == Referrers((OLD,))
    assert rig.asked[-1] == HEAD.replace("HEAD", "GET")


def test_a_list_that_was_replaced_meanwhile_is_fetched_by_its_tag() -> None:
    """Who adds a signature writes a new list and deletes the old one: that is no empty list."""
    rig = Rig()
    rig.tag(OLD)
    rig.heads[TAG] = rig.manifests[TAG]
    del rig.manifests[str(Digest.of(listing(OLD)))]
    rig.tag(OLD, SIGNATURE)
    assert rig.ask() == Referrers((OLD, SIGNATURE))


def test_a_list_with_other_bytes_than_its_digest_is_refused() -> None:
    """As every manifest is."""
    rig = Rig()
    rig.tag(OLD)
    rig.manifests[str(Digest.of(listing(OLD)))] = Reply(200, INDEX, listing())
    assert type(rig.fault()) is errors.UpstreamInvalid


def test_pulls_that_are_kept_are_not_spent_on_lists() -> None:
    """C{keep_pulls}: a tag's list is a pull; that there is no tag costs none."""
    rig = Rig()
    settings = UpstreamSettings(name="up.example", urls=(REGISTRY,), keep_pulls=10)
    rig.upstream = client_over(rig.net, settings, PullsLeft())
    few = {"ratelimit-remaining": "10;w=21600".partition(";")[0]}
    rig.api["*"] = Reply(200, {**INDEX, **few}, listing(SIGNATURE))
    assert rig.ask() == Referrers((SIGNATURE,))
    rig.tag(OLD)
    assert type(rig.fault()) is errors.UpstreamRateLimited
    assert rig.asked[-1] == HEAD
    rig.heads[TAG] = Reply(200, {**rig.manifests[TAG].fields, "ratelimit-remaining": "50"})
    rig.api["*"] = page(SIGNATURE)
    rig.net.clock.advance(61)
    assert rig.ask() == Referrers((SIGNATURE, OLD))
