"""What refers to a manifest, as registries of all kinds tell it: by their API, by the tag, wrongly, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream import referrers
from appliance.upstream.concurrency import ConcurrencyLimit, LimitedUpstream
from appliance.upstream.interfaces import IUpstream, RateLimit, Referrers
from appliance.upstream.kinds.standard import STANDARD, Standard
from appliance.upstream.kinds.wellknown import Ghcr
from appliance.upstream.offline import OfflineUpstream
from tests.doubles.deferreds import failing, pending, result
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.upstream.net import AUTH, REGISTRY, Asked, Net, Reply, client_over, upstream

SUBJECT = Digest.of(b"image")
TAG = SUBJECT.file_name
DAY = 24 * 3600.0
LOGIN = "https://login.example"
SECOND = "https://second.example"
INDEX: dict[str, str | list[str]] = {"Content-Type": mediatypes.OCI_INDEX}
HTML = Reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in")


def descriptor(name: str, **more: object) -> bytes:
    """Of an artifact that is told from others by its name; the blanks are its own."""
    digest = Digest.of(name.encode())
    return json.dumps(
        {"digest": str(digest), "mediaType": mediatypes.OCI_MANIFEST, "size": 5, **more}, indent=1
    ).encode()


def listing(*descriptors: bytes) -> bytes:
    head = b'{"schemaVersion": 2, "mediaType": "%b", "manifests": [' % mediatypes.OCI_INDEX.encode()
    return head + b", ".join(descriptors) + b"]}"


def page(*descriptors: bytes, link: str | None = None) -> Reply:
    return Reply(200, INDEX if link is None else {**INDEX, "Link": f'<{link}>; rel="next"'}, listing(*descriptors))


def oci_error(status: int, code: str) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps({"errors": [{"code": code}]}).encode())


def redirect(status: int, location: str) -> Reply:
    return Reply(status, {"Location": location, "Content-Type": "text/html"}, b"<a>elsewhere</a>")


SIGNATURE, SBOM, OLD = (
    descriptor("signature"),
    descriptor("sbom", artifactType="text/x", strange=[1, 2.50]),
    descriptor("old"),
)
MISSING = oci_error(404, "MANIFEST_UNKNOWN")

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


class Rig:
    """
    A registry in a network, and an upstream that asks it.

    @ivar api: answers to C{/referrers/} by target below the repository; C{"*"} for all others.
    @ivar manifests: answers by tag or digest.
    @ivar before: changes an answer to HEAD.
    """

    def __init__(self, *urls: str, **more: Any) -> None:
        self.net = Net()
        self.net.clock.rightNow = 1_700_000_000.0
        self.api: dict[str, Reply | None] = {}
        self.manifests: dict[str, Reply] = {}
        self.heads: dict[str, Reply] = {}
        for url in urls or (REGISTRY,):
            self.net.servers[url] = self.answer
        self.upstream = upstream(self.net, urls or (REGISTRY,), **more)

    def answer(self, asked: Asked) -> Reply | None:
        path = asked.target.removeprefix("/v2/a/")
        if "/referrers/" in asked.target:
            return self.api.get(path, self.api.get("*", Reply(404)))
        reference = path.rpartition("/")[2]
        found = self.manifests.get(reference, MISSING)
        return self.heads.get(reference, found) if asked.method == "HEAD" else found

    def tag(
        self, *descriptors: bytes, data: bytes | None = None, kind: str = mediatypes.OCI_INDEX, tag: str = TAG
    ) -> None:
        """Let the fallback tag mean a list of these, or just C{data}."""
        body = listing(*descriptors) if data is None else data
        digest = str(Digest.of(body))
        fields: dict[str, str | list[str]] = {"Content-Type": kind, "Docker-Content-Digest": digest}
        self.manifests[tag] = self.manifests[digest] = Reply(200, fields, body)

    def ask(self, repository: str = "a", subject: Digest = SUBJECT) -> Referrers:
        return self.net.result(self.upstream.referrers(repository, subject))

    def fault(self, repository: str = "a") -> BaseException:
        return self.net.fault(self.upstream.referrers(repository, SUBJECT))

    def forget(self) -> None:
        self.net.asked.clear()

    @property
    def asked(self) -> list[str]:
        return [
            f"{asked.method} {asked.url.removeprefix(REGISTRY).replace(str(SUBJECT), 'S')}" for asked in self.net.asked
        ]

    @property
    def asked_api(self) -> bool:
        return any("/referrers/" in asked.target for asked in self.net.asked)


API, HEAD = "GET /v2/a/referrers/S", f"HEAD /v2/a/manifests/{TAG}"


# -- lists ------------------------------------------------------------------------------------------------------------


def test_two_pages_and_the_tag_make_one_list() -> None:
    """Signatures from before the registry had an API count as well; descriptors come as they were sent."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE, link=f"/v2/a/referrers/{SUBJECT}?next=%3D%3D")
    rig.api[f"referrers/{SUBJECT}?next=%3D%3D"] = page(SBOM)
    rig.tag(OLD)
    assert rig.ask() == Referrers((SIGNATURE, SBOM, OLD))
    pulled = f"GET /v2/a/manifests/{Digest.of(listing(OLD))}"
    assert rig.asked == [API, f"{API}?next=%3D%3D", HEAD, pulled]


def test_the_unfiltered_list_is_asked_for_as_an_index() -> None:
    """One list serves every filter, so no C{artifactType} goes out, whatever a client wanted."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE)
    rig.ask()
    assert rig.net.asked[0].one("accept") == mediatypes.OCI_INDEX
    assert all("?" not in asked.target for asked in rig.net.asked)


def test_what_both_list_is_listed_once() -> None:
    """The descriptor of the API, which the registry wrote itself, and not that of the tag, which a client did."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE, SBOM)
    rig.tag(OLD, descriptor("signature", annotations={"by": "hand"}), SBOM)
    assert rig.ask() == Referrers((SIGNATURE, SBOM, OLD))


def test_a_list_may_have_a_type_with_parameters() -> None:
    """C{; charset=utf-8}, in any case of letters."""
    rig = Rig()
    rig.api["*"] = Reply(200, {"Content-Type": "Application/vnd.OCI.image.index.v1+json; charset=utf-8"}, listing(SBOM))
    assert rig.ask() == Referrers((SBOM,))


@pytest.mark.parametrize("body", [listing(), b'{"schemaVersion": 2, "manifests": null}'])
def test_nothing_refers_to_it_where_the_api_says_so(body: bytes) -> None:
    """An empty list is a list."""
    rig = Rig()
    rig.api["*"] = Reply(200, INDEX, body)
    assert rig.ask() == Referrers(())


def test_a_longer_digest_has_a_tag_of_its_own() -> None:
    """Cut to what a tag's grammar of the specification allows."""
    subject, rig = Digest.of(b"image", "sha512"), Rig()
    rig.tag(OLD, tag=f"sha512-{subject.encoded[:64]}")
    assert rig.ask(subject=subject) == Referrers((OLD,))


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=5), st.lists(st.integers(0, 6), max_size=4)
)
def test_however_they_come_each_is_listed_once_in_its_order(pages: list[list[int]], tagged: list[int]) -> None:
    """Over any number of pages, empty ones too."""
    rig = Rig()
    for number, names in enumerate(pages):
        target = f"referrers/{SUBJECT}" + (f"?page={number}" if number else "")
        link = f"?page={number + 1}" if number + 1 < len(pages) else None
        rig.api[target] = page(*(descriptor(str(name)) for name in names), link=link)
    rig.tag(*(descriptor(str(name)) for name in tagged))
    expected = dict.fromkeys(name for names in [*pages, tagged] for name in names)
    assert rig.ask() == Referrers(tuple(descriptor(str(name)) for name in expected))


# -- registries without the API ---------------------------------------------------------------------------------------


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


# -- redirects --------------------------------------------------------------------------------------------------------


def test_a_redirect_within_the_registry_is_followed() -> None:
    """And the next page is found from where it led."""
    rig = Rig()
    rig.api["*"] = redirect(301, "/v2/b/referrers/x")
    rig.api["/v2/b/referrers/x"] = page(SIGNATURE, link="?p=2")
    rig.api["/v2/b/referrers/x?p=2"] = page(SBOM)
    assert rig.ask() == Referrers((SIGNATURE, SBOM))


def test_a_redirect_in_a_circle_is_no_answer() -> None:
    """It is given up, and nothing is not said to refer to it."""
    rig = Rig()
    rig.api["*"] = redirect(302, f"/v2/a/referrers/{SUBJECT}?again")
    assert type(rig.fault()) is errors.UpstreamInvalid
    assert len([target for target in rig.asked if "/referrers/" in target]) == 6


# -- errors -----------------------------------------------------------------------------------------------------------


def test_any_404_of_the_api_means_the_tag() -> None:
    """A registry without the API may take its path for a repository; what the tag lists is not lost by that."""
    rig = Rig()
    rig.api["*"] = oci_error(404, "NAME_UNKNOWN")
    rig.manifests[TAG] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE,))


def test_nothing_refers_to_what_is_in_no_repository() -> None:
    """Neither the API nor the tag knows it; that says nothing of the API, which is asked again for the next one."""
    rig = Rig()
    rig.api["*"] = rig.manifests["*"] = oci_error(404, "NAME_UNKNOWN")
    assert rig.ask() == Referrers(())
    assert rig.asked[0] == API
    rig.asked.clear()
    rig.ask()
    assert rig.asked[0] == API


def test_nothing_refers_to_what_the_tag_calls_an_unknown_repository() -> None:
    """Also where HEAD is refused, so that the GET tells."""
    rig = Rig()
    rig.heads[TAG], rig.manifests[TAG] = Reply(405), oci_error(404, "NAME_UNKNOWN")
    assert rig.ask() == Referrers(())


def test_a_list_of_the_api_stands_whatever_a_missing_tag_is_called() -> None:
    """Some registries call it a missing repository."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE)
    rig.heads[TAG], rig.manifests[TAG] = Reply(405), oci_error(404, "NAME_UNKNOWN")
    assert rig.ask() == Referrers((SIGNATURE,))


FAILURES: list[tuple[Reply, type[errors.UpstreamError]]] = [
    (Reply(401), errors.UpstreamDenied),
    (Reply(403), errors.UpstreamDenied),
    (Reply(429, {"Retry-After": "7"}), errors.UpstreamRateLimited),
    (Reply(500), errors.UpstreamUnavailable),
    (Reply(502), errors.UpstreamUnavailable),
    (Reply(503, {"Retry-After": "7"}), errors.UpstreamRateLimited),
    (Reply(200, INDEX, listing(SIGNATURE), claim=5), errors.UpstreamUnavailable),
]


@pytest.mark.parametrize(("answer", "kind"), FAILURES)
@pytest.mark.parametrize("tagged", [True, False])
def test_a_failure_is_never_an_empty_list(answer: Reply, kind: type[errors.UpstreamError], tagged: bool) -> None:
    """Nor is the tag's list given for all, and nothing is remembered of the API."""
    rig = Rig()
    rig.api["*"] = answer
    if tagged:
        rig.tag(OLD)
    fault = rig.fault()
    assert type(fault) is kind
    assert not any(TAG in target for target in rig.asked)
    rig.net.clock.advance(20)
    rig.net.settle()
    rig.api["*"] = page(SIGNATURE)
    rig.forget()
    assert SIGNATURE in rig.ask().descriptors


@pytest.mark.parametrize(("answer", "kind"), FAILURES[:-1])
def test_a_failure_of_the_tag_is_one_of_the_whole(answer: Reply, kind: type[errors.UpstreamError]) -> None:
    """What the API lists may be a part only."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE)
    rig.manifests[TAG] = answer
    assert type(rig.fault()) is kind


def test_silence_is_a_timeout() -> None:
    """Asked, never answered."""
    rig = Rig()
    rig.api["*"] = None
    asking = rig.upstream.referrers("a", SUBJECT)
    rig.net.settle()
    rig.net.clock.advance(29)
    assert pending(asking)
    rig.net.clock.advance(1)
    rig.net.settle()
    assert type(failing(asking)) is errors.UpstreamTimeout


def test_an_empty_list_ends_the_wait_for_an_answer() -> None:
    """Who waited in vain for this repository before is waited for again: its registry answers, if only with nothing."""
    rig = Rig()
    rig.upstream.overdue("a")
    assert not rig.upstream.availability("a").wait
    assert rig.ask() == Referrers(())
    assert rig.upstream.availability("a").wait


def test_the_next_url_is_asked_everything_again() -> None:
    """Two pages of different registries are no list of one."""
    rig = Rig(REGISTRY, SECOND)
    first = {f"referrers/{SUBJECT}": page(SIGNATURE, link="?p=2")}
    rig.net.servers[REGISTRY] = lambda asked: first.get(asked.target.removeprefix("/v2/a/"), Reply(500))
    rig.api["*"] = page(SBOM)
    assert rig.ask() == Referrers((SBOM,))


def test_who_gives_up_asks_no_more() -> None:
    """The connection is dropped."""
    rig = Rig()
    rig.api["*"] = None
    asking = rig.upstream.referrers("a", SUBJECT)
    rig.net.settle()
    asking.cancel()
    assert isinstance(rig.net.fault(asking), CancelledError)
    assert rig.net.wires[0].dropped


# -- what cannot be read ----------------------------------------------------------------------------------------------

BROKEN = {
    "cut": Reply(200, INDEX, listing(SIGNATURE)[:-1]),
    "empty": Reply(200, INDEX),
    "no JSON": Reply(200, INDEX, b"<html>"),
    "deep": Reply(200, INDEX, b"[" * 100_000),
    "encoded": Reply(200, {**INDEX, "Content-Encoding": "gzip"}, b"\x1f\x8b"),
    "5 MiB": Reply(200, INDEX, listing(descriptor("x", padding="x" * 5 * 1024 * 1024))),
    "endless": Reply(200, INDEX, b" " * (5 * 1024 * 1024), framing="chunked", stall=True),
    "418": Reply(418),
}
broken = pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)


@broken
def test_what_cannot_be_read_is_not_nothing(answer: Reply) -> None:
    """An image does not pass for an unsigned one because a list was too long or broken."""
    rig = Rig()
    rig.api["*"] = answer
    assert type(rig.fault()) is errors.UpstreamInvalid
    rig.tag()
    assert type(rig.fault()) is errors.UpstreamInvalid


@broken
def test_where_the_api_cannot_be_read_the_tag_is_served_as_a_part(answer: Reply) -> None:
    """What it lists is there, and there may be more."""
    rig = Rig()
    rig.api["*"] = answer
    rig.tag(OLD)
    assert rig.ask() == Referrers((OLD,), cut=True)
    rig.api["*"] = page(SIGNATURE)
    assert rig.ask() == Referrers((SIGNATURE, OLD))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Reply(404), errors.UpstreamInvalid),
        (HTML, errors.UpstreamInvalid),
        (redirect(302, LOGIN), errors.UpstreamInvalid),
        (Reply(200, INDEX, b"{}"), errors.UpstreamInvalid),
        (BROKEN["cut"], errors.UpstreamInvalid),
        (BROKEN["5 MiB"], errors.UpstreamInvalid),
        *FAILURES,
    ],
)
def test_a_list_is_had_whole_or_not_at_all(answer: Reply, kind: type[errors.UpstreamError]) -> None:
    """A page that cannot be had fails the whole: the signature may have been on it."""
    rig = Rig()
    rig.api["*"] = answer
    rig.api[f"referrers/{SUBJECT}"] = page(SIGNATURE, link="?p=2")
    rig.tag(OLD)
    assert type(rig.fault()) is kind


@pytest.mark.parametrize("link", [LOGIN + "/v2/a/referrers/x", "//login.example/x", REGISTRY + ":444/x"])
def test_no_page_elsewhere_is_asked_for(link: str) -> None:
    """Neither is it followed, nor is the first page taken for the whole list."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE, link=link)
    assert type(rig.fault()) is errors.UpstreamRefused
    assert {asked.origin for asked in rig.net.asked} == {REGISTRY}


@pytest.mark.parametrize("link", ["?p=2", f"/v2/a/referrers/{SUBJECT}"])
def test_pages_in_a_circle_end(link: str) -> None:
    """As soon as one comes again."""
    rig = Rig()
    rig.api["*"] = page(SIGNATURE, link=link)
    assert type(rig.fault()) is errors.UpstreamInvalid
    assert len(rig.asked) == 2


def test_pages_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with another token for the next, and nothing on them."""
    monkeypatch.setattr(referrers, "MAX_PAGES", 4)
    rig = Rig()
    rig.api.update({f"referrers/{SUBJECT}?{n}": page(link=f"?{n + 1}") for n in range(9)})
    rig.api["*"] = page(SIGNATURE, link="?0")
    assert type(rig.fault()) is errors.UpstreamInvalid
    assert len(rig.asked) == 4
    rig.api[f"referrers/{SUBJECT}?2"] = page(SBOM)
    assert rig.ask() == Referrers((SIGNATURE, SBOM))


# -- limits -----------------------------------------------------------------------------------------------------------


def small(numbers: Sequence[int]) -> list[bytes]:
    return [b'{"digest":"sha256:%b"}' % hashlib.sha256(str(n).encode()).hexdigest().encode() for n in numbers]


@pytest.mark.parametrize(("count", "cut"), [(10_000, False), (10_001, True)])
def test_of_too_many_the_first_are_listed(count: int, cut: bool) -> None:
    """Ten thousand of them, and it is said that there are more."""
    rig = Rig()
    every = small(range(count))
    rig.api["*"] = page(*every[:5000], link="?p=2")
    rig.api[f"referrers/{SUBJECT}?p=2"] = page(*every[5000:], link="?p=3" if cut else None)
    listed = rig.ask()
    assert (listed.descriptors, listed.cut) == (tuple(every[:10_000]), cut)
    # No further page is asked for, nor the tag, once there are too many.
    assert len(rig.asked) == (2 if cut else 3)


def test_a_tag_may_bring_it_above_the_limit() -> None:
    """The API's come first."""
    rig = Rig()
    every = small(range(10_000))
    rig.api["*"] = page(*every)
    rig.tag(OLD)
    assert rig.ask() == Referrers(tuple(every), cut=True)


def test_of_too_many_bytes_the_first_are_listed() -> None:
    """16 MiB for one subject."""
    rig = Rig()
    every = [descriptor(str(number), padding="x" * 3 * 1024 * 1024) for number in range(6)]
    for number, each in enumerate(every):
        target = f"referrers/{SUBJECT}" + (f"?p={number}" if number else "")
        rig.api[target] = page(each, link=f"?p={number + 1}")
    assert rig.ask() == Referrers(tuple(every[:5]), cut=True)


# -- the tag ----------------------------------------------------------------------------------------------------------

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
    """Where its type tells nothing."""
    rig = Rig()
    rig.tag(data=IMAGE, kind=kind)
    assert rig.ask() == Referrers(())
    rig.tag(OLD, kind=kind)
    assert rig.ask() == Referrers((OLD,))


@pytest.mark.parametrize("data", [listing(OLD)[:-1], b"{}", b"", b'{"schemaVersion": 2, "manifests": 7}', b"<html>"])
@pytest.mark.parametrize("kind", [mediatypes.OCI_INDEX, "application/json"])
def test_a_tag_that_cannot_be_read_is_not_nothing(data: bytes, kind: str) -> None:
    """Somebody left something there about the image."""
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


class Counting(Standard):
    """Tells how many pulls are left, as Docker Hub does."""

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        values = headers.getRawHeaders("ratelimit-remaining")
        return None if values is None else RateLimit(100, int(values[0]), 21600.0)


def test_pulls_that_are_kept_are_not_spent_on_lists() -> None:
    """C{keep_pulls}: a tag's list is a pull; that there is no tag costs none."""
    rig = Rig()
    settings = UpstreamSettings(name="up.example", urls=(REGISTRY,), keep_pulls=10)
    rig.upstream = client_over(rig.net, settings, Counting())
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


# -- around it --------------------------------------------------------------------------------------------------------


def test_it_passes_the_blobs_that_wait() -> None:
    """A client that checks signatures waits for it before it asks for any."""
    inner = ScriptedUpstream()
    blob = inner.add_blob("a", b"x" * 100)
    inner.add_referrers("a", SUBJECT, SIGNATURE)
    inner.by_hand = True
    fair = LimitedUpstream(inner, ConcurrencyLimit(2))
    for _ in range(3):
        fair.blob("a", blob)
    assert result(fair.referrers("a", SUBJECT)) == Referrers((SIGNATURE,))
    assert [call.verb for call in inner.calls] == ["blob", "referrers"]


def test_an_upstream_that_is_never_asked_does_not_say_that_there_are_none() -> None:
    """It fails, as every question does."""
    offline = OfflineUpstream("up.example", STANDARD)
    assert verifyObject(IUpstream, offline)
    asking: Callable[[], Deferred[Referrers]] = lambda: offline.referrers("a", SUBJECT)  # noqa: E731
    assert isinstance(failing(asking()), errors.Offline)
    assert str(SUBJECT) in str(failing(asking()))
