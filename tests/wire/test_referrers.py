"""What refers to a manifest, as a client asks for it."""

from __future__ import annotations

import json

import pytest

from appliance import errors
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from tests.doubles.manifests import descriptor, image
from tests.wire.line import GHCR, HUB, IMAGE, Answer, Line, Shop, blob, manifest, request

SUBJECT = Digest.of(IMAGE)
PATH = f"/v2/app/referrers/{SUBJECT}"
SIGNATURE, SBOM, SEEN = (image(name, subject=descriptor(OCI_MANIFEST, IMAGE)) for name in (b"sig", b"sbom", b"seen"))
DOWN = errors.UpstreamUnavailable(HUB, "refused since noon")
TYPES = {SIGNATURE: "application/vnd.sig", SBOM: "text/spdx+json"}


def described(data: bytes) -> bytes:
    """A descriptor as no encoder of ours would write it."""
    return json.dumps(descriptor(OCI_MANIFEST, data, artifactType=TYPES.get(data), theirs=[1, None]), indent=1).encode()


def shop(*manifests: bytes) -> Shop:
    """One whose Docker Hub says that these refer to the image."""
    made = Shop()
    made.hub.add_referrers("library/app", SUBJECT, *map(described, manifests))
    return made


def listed(answer: Answer) -> list[str]:
    """The digests of an image index."""
    assert (answer.status, answer["Content-Type"]) == (200, OCI_INDEX), answer.raw[:300]
    assert answer["Content-Length"] == str(len(answer.body))
    assert answer["Docker-Content-Digest"] is None
    document = json.loads(answer.body)
    assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
    return [each["digest"] for each in document["manifests"]]


def digests(*manifests: bytes) -> list[str]:
    return [str(Digest.of(each)) for each in manifests]


def test_the_upstreams_list_comes_as_it_was_sent() -> None:
    """Its order, and each descriptor with whatever is in it; then without asking again."""
    desk = shop(SIGNATURE, SBOM)
    for status in ("pullcache; fwd=uri-miss; stored", "pullcache; hit"):
        answer = desk.get(PATH)
        assert listed(answer) == digests(SIGNATURE, SBOM) and answer["Cache-Status"] == status
        assert described(SIGNATURE) in answer.body and described(SBOM) in answer.body
        assert (answer["Warning"], answer["Link"], answer["OCI-Filters-Applied"]) == (None, None, None)
    assert len(desk.hub.asked("referrers")) == 1
    assert [told[4:6] for told in desk.accounts.told] == [("referrers", 200)] * 2


def test_none_is_an_empty_index() -> None:
    """When the upstream says so; 404 would send clients to a tag."""
    assert listed(shop().get(PATH)) == []


def test_a_type_is_filtered_here() -> None:
    """The upstream is asked once for all of them, and clients see that it was done."""
    desk = shop(SIGNATURE, SBOM)
    for query, found in (
        ("artifactType=application/vnd.sig", [SIGNATURE]),
        ("artifactType=text/spdx%2Bjson", [SBOM]),
        ("artifactType=text/spdx%2Bjson&artifactType=application/vnd.sig", [SIGNATURE, SBOM]),
        ("artifactType=text/none", []),
    ):
        answer = desk.get(f"{PATH}?{query}")
        assert listed(answer) == digests(*found) and answer["OCI-Filters-Applied"] == "artifactType"
    assert len(desk.hub.asked("referrers")) == 1


def test_pages_are_linked_and_keep_what_was_asked() -> None:
    """Namespace, filter and size; the link is relative, so that it fits whatever stands before the path."""
    desk = shop()
    desk.ghcr.add_referrers("team/app", SUBJECT, *map(described, (SIGNATURE, SBOM, SEEN)))
    path = (
        f"/v2/team/app/referrers/{SUBJECT}?ns={GHCR}&n=1&artifactType=application/vnd.sig&artifactType=text/spdx%2Bjson"
    )
    found = []
    for page in (1, 2):
        answer = desk.get(path)
        found += listed(answer)
        assert (answer["OCI-Namespace"], answer["OCI-Filters-Applied"]) == (GHCR, "artifactType")
        link = answer["Link"]
        assert (link is None) == (page == 2)
        if link is not None:
            assert link.startswith(f"<./{SUBJECT}?") and link.endswith('>; rel="next"')
            path = "/v2/team/app/referrers/" + link[3 : link.index(">")]
    assert sorted(found) == sorted(digests(SIGNATURE, SBOM))
    assert len(desk.ghcr.asked("referrers")) == 1 and desk.hub.calls == []


def test_a_long_list_is_paged_unasked() -> None:
    """containerd reads no more than about 4 MiB of one."""
    desk = shop()
    long = [json.dumps(descriptor(OCI_MANIFEST, b"%d" % n, x="y" * 900_000)).encode() for n in range(6)]
    desk.hub.add_referrers("library/app", SUBJECT, *long)
    first = desk.get(PATH)
    assert len(listed(first)) == 4 and len(first.body) <= 4_000_000
    link = first["Link"]
    assert link is not None
    second = desk.get("/v2/app/referrers/" + link[3 : link.index(">")])
    assert sorted(listed(first) + listed(second)) == sorted(digests(*(b"%d" % n for n in range(6))))
    assert second["Link"] is None


@pytest.mark.parametrize("query", ["", "?n=1", "?artifactType=text/spdx%2Bjson", "?artifactType=none"])
def test_head_says_what_get_would(query: str) -> None:
    """Every header, and no body."""
    desk = shop(SIGNATURE, SBOM)
    desk.get(PATH)
    got, head = desk.get(PATH + query), desk.ask("HEAD", PATH + query)
    ours = [[field for field in each.fields if field[0] != "Date"] for each in (got, head)]
    assert ours[0] == ours[1] and head.body == b""


# -- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DOWN, 502, "UNAVAILABLE"),
        (errors.UpstreamTimeout(HUB, "silent"), 504, "UNAVAILABLE"),
        (errors.UpstreamDenied(HUB, "no"), 502, "UNAVAILABLE"),
        (errors.UpstreamRateLimited(HUB, "less", 7.0), 429, "TOOMANYREQUESTS"),
        (errors.UpstreamInvalid(HUB, "a page of HTML"), 502, "UNAVAILABLE"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_trouble_is_not_taken_for_no_signatures(error: errors.UpstreamError, status: int, code: str) -> None:
    """Neither an empty list nor the 404 by which clients go on to a tag, and take that one's 404 for "none"."""
    desk = shop(SIGNATURE)
    desk.hub.fail(error)
    answer = desk.get(PATH)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer["OCI-Filters-Applied"] is None and answer["Link"] is None
    desk.hub.heal()
    assert listed(desk.get(PATH)) == digests(SIGNATURE)


def test_nothing_refers_to_what_is_in_no_repository() -> None:
    """An empty index: the upstream was asked, and has neither a list nor a tag of it."""
    assert listed(shop().get(f"/v2/absent/referrers/{SUBJECT}")) == []


def test_a_list_received_before_is_served_when_the_upstream_is_down() -> None:
    """With a warning, and marked as stale."""
    desk = shop(SIGNATURE)
    desk.get(PATH)
    desk.hub.fail(DOWN)
    desk.clock.advance(3600.0)
    answer = desk.get(PATH)
    assert listed(answer) == digests(SIGNATURE)
    assert "refused since noon" in (answer["Warning"] or "") and "stale" in (answer["Cache-Status"] or "")


def test_offline_what_was_pulled_is_listed_and_what_was_not_asked_about_is_unknown() -> None:
    """A list received while online as it was; else what is held, with a warning; else 502."""
    desk = shop(SIGNATURE)
    desk.hub.add_manifest("library/app", SEEN, OCI_MANIFEST)
    desk.get(manifest(Digest.of(SEEN)))
    offline = Shop(before=desk, offline=True)
    answer = offline.get(PATH)
    assert listed(answer) == digests(SEEN) and "its upstream was not heard" in (answer["Warning"] or "")
    other = offline.get(f"/v2/app/referrers/{Digest.of(b'other')}")
    assert (other.status, other.error["code"]) == (502, "UNAVAILABLE")
    assert other["Cache-Status"] == "pullcache; detail=referrers-unknown"
    desk.get(PATH)
    answer = Shop(before=desk, offline=True).get(PATH)
    assert listed(answer) == digests(SIGNATURE, SEEN) and answer["Warning"] is None


def test_a_hundred_clients_and_one_question() -> None:
    """All of a cold list, and one of them leaves before the answer."""
    desk = shop(SIGNATURE)
    desk.hub.hang("referrers")
    lines = [Line(desk.listener) for _ in range(100)]
    for line in lines:
        line.send(request("GET", PATH))
    lines[0].lose()
    [hanging] = desk.hub.hanging
    hanging.answer()
    for line in lines[1:]:
        assert listed(line.answers("GET")[0]) == digests(SIGNATURE)
    assert not hanging.cancelled


def test_what_is_listed_may_be_pulled() -> None:
    """By the digest in the list, with the blobs it names."""
    desk = shop(SIGNATURE)
    desk.hub.add_manifest("library/app", SIGNATURE, OCI_MANIFEST)
    desk.hub.add_blob("library/app", b"sig")
    [digest] = listed(desk.get(PATH))
    assert desk.get(manifest(digest)).body == SIGNATURE
    assert desk.get(blob(b"sig")).body == b"sig"
