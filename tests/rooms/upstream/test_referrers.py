"""What refers to a manifest, as registries of all kinds tell it: by their API, by the tag, wrongly, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.upstream.client import OfflineUpstream
from appliance.upstream.concurrency import ConcurrencyLimit, LimitedUpstream
from appliance.upstream.interfaces import IUpstream, Referrers
from appliance.upstream.kinds.standard import STANDARD
from tests.doubles.deferreds import failing, pending, result
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.upstream.net import REGISTRY, Reply
from tests.rooms.upstream.referring import (
    API,
    FAILURES,
    HEAD,
    INDEX,
    OLD,
    SBOM,
    SECOND,
    SIGNATURE,
    SUBJECT,
    TAG,
    Rig,
    descriptor,
    listing,
    oci_error,
    page,
    redirect,
)

# -- lists -----------------------------------------------------------------------------------------------------------


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


# -- redirects -------------------------------------------------------------------------------------------------------


def test_a_redirect_within_the_registry_is_followed() -> None:
    """The next page is found relative to where the redirect ended."""
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


# -- errors ----------------------------------------------------------------------------------------------------------


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


# -- around it -------------------------------------------------------------------------------------------------------


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
