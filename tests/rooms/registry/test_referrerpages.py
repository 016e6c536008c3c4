"""Pages of a list of referrers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DigestInvalid, QueryInvalid
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.oci.referrer import ReferrerDescriptor
from appliance.registry.pages import (
    PAGE_BYTES,
    ReferrersPage,
    ReferrersQuery,
    referrers_page,
    referrers_query,
)

SUBJECT = Digest.of(b"subject")
HERE = f"https://host.test:5000/prefix/v2/team/app/referrers/{SUBJECT}?n=2"
#: What containerd reads of one page, in bytes.
CONTAINERD = 4 * 1048 * 1048


def referrer(seed: object, artifact_type: str | None = "text/a", size: int = 0) -> ReferrerDescriptor:
    """A descriptor of about C{size} bytes or more, as no encoder of ours would write it."""
    digest = Digest.of(str(seed).encode())
    kind = "" if artifact_type is None else f', "artifactType" :"{artifact_type}"'
    padding = "\u00e9" * (size // 2)
    raw = f'{{ "size": 1.0e1, "digest":"{digest}"{kind}, "x":"{padding}" }}'
    return ReferrerDescriptor(digest, OCI_MANIFEST, artifact_type, raw.encode())


def query(link: str) -> dict[bytes, list[bytes]]:
    """The query of a C{Link}, which must lead to the list itself when it is read as RFC 3986 says."""
    assert link.startswith("<") and link.endswith('>; rel="next"')
    target = urljoin(HERE, link[1 : link.index(">")])
    assert target.partition("?")[0] == HERE.partition("?")[0]
    asked = parse_qs(urlsplit(target).query, strict_parsing=True)
    return {name.encode(): [value.encode() for value in values] for name, values in asked.items()}


def next_query(shown: ReferrersPage, namespace: str | None = None) -> dict[bytes, list[bytes]] | None:
    link = shown.headers(SUBJECT, namespace).get("Link")
    return None if link is None else query(link)


def walk(
    lists: Sequence[Sequence[ReferrerDescriptor]], first: dict[bytes, list[bytes]], namespace: str | None = None
) -> Iterator[tuple[ReferrersPage, dict[bytes, list[bytes]]]]:
    """
    Each page and the query it answers, by following the links; fails when they do not come to an end.

    @param lists: what there is to list, page by page; the last of them for all further pages.
    """
    asked: dict[bytes, list[bytes]] | None = first
    for turn in range(sum(map(len, lists)) + 1):
        if asked is None:
            return
        shown = referrers_page(lists[min(turn, len(lists) - 1)], referrers_query(asked))
        yield shown, asked
        asked = next_query(shown, namespace)
    assert asked is None, "more pages than there are referrers"


LISTS = st.lists(st.integers(), unique=True, max_size=30).map(lambda seeds: list(map(referrer, seeds)))
KINDS = st.lists(st.sampled_from(["text/a", "application/vnd.b+json", "c&d=e", "\u00e9"]), unique=True, max_size=3)


@given(
    st.lists(st.tuples(st.integers(), st.sampled_from(["text/a", "application/vnd.b+json", "c&d=e", None]))),
    KINDS,
    st.integers(1, 40),
    st.sampled_from([None, "ghcr.io:443"]),
)
def test_following_the_links_gives_each_once(
    seeds: list[tuple[int, str | None]], kinds: list[str], limit: int, namespace: str | None
) -> None:
    """Whatever the size of a page; links keep size, filter and namespace, and pages are never larger than asked for."""
    referrers = [referrer(seed, kind) for seed, kind in dict(seeds).items()]
    first = {b"n": [str(limit).encode()], b"artifactType": [kind.encode() for kind in kinds]}
    found: list[Digest] = []
    for shown, asked in walk([referrers], first, namespace):
        assert len(shown.referrers) <= limit
        assert asked[b"n"] == first[b"n"] and asked.get(b"artifactType", []) == first[b"artifactType"]
        assert asked is first or asked.get(b"ns") == (namespace and [namespace.encode()])
        found += [each.digest for each in shown.referrers]
    meant = [each.digest for each in referrers if not kinds or each.artifact_type in kinds]
    assert sorted(found) == sorted(meant)


@given(LISTS, LISTS, LISTS, st.integers(1, 5))
def test_what_is_added_or_removed_meanwhile_hides_nothing_else(
    staying: list[ReferrerDescriptor], going: list[ReferrerDescriptor], coming: list[ReferrerDescriptor], limit: int
) -> None:
    """A signature that is there all the time is listed once, even if the one the page ended with is gone."""
    stays = {each.digest for each in staying}
    going = [each for each in going if each.digest not in stays]
    coming = [each for each in coming if each.digest not in stays]
    lists = [[*going, *staying], [*staying, *coming], [*reversed(coming), *staying]]
    pages = walk(lists, {b"n": [str(limit).encode()]})
    found = [each.digest for shown, _ in pages for each in shown.referrers]
    assert [found.count(digest) for digest in stays] == [1] * len(stays)


@given(LISTS)
def test_a_list_that_fits_keeps_its_order(referrers: list[ReferrerDescriptor]) -> None:
    """Clients that take the first or the last get the upstream's; with room to spare the same."""
    for asked in (ReferrersQuery(), ReferrersQuery(limit=len(referrers) or 1), ReferrersQuery(limit=10**18 - 1)):
        shown = referrers_page(referrers, asked)
        assert shown.referrers == referrers and shown.headers(SUBJECT, "x") == {}


def test_descriptors_are_passed_on_bit_for_bit() -> None:
    """Unknown fields, blanks and numbers as they were written; and the index is one."""
    referrers = [referrer(seed) for seed in range(3)]
    body = referrers_page(referrers, ReferrersQuery()).body
    document: dict[str, Any] = json.loads(body)
    assert (document["schemaVersion"], document["mediaType"], len(document["manifests"])) == (2, OCI_INDEX, 3)
    assert all(each.raw in body for each in referrers)


def test_nothing_is_a_list_too() -> None:
    """Never null."""
    assert json.loads(referrers_page([], ReferrersQuery()).body)["manifests"] == []


@pytest.mark.parametrize("size", [100, 4_000, 1_999_000, 3_999_000])
def test_no_page_is_larger_than_a_client_reads(size: int) -> None:
    """Whatever there is to list, and as many as there is room for in each."""
    referrers = [referrer(seed, size=size) for seed in range(min(9_000_000 // size, 10_000) + 3)]
    pages = [shown for shown, _ in walk([referrers], {})]
    bodies = [len(shown.body) for shown in pages]
    assert max(bodies) <= PAGE_BYTES
    assert all(body + size + 200 > PAGE_BYTES for body in bodies[:-1])
    found = [each.digest for shown in pages for each in shown.referrers]
    assert sorted(found) == sorted(each.digest for each in referrers)


def test_a_page_is_filled_to_the_byte() -> None:
    """One byte more, and there is a second one."""
    small = referrer("small")
    room = PAGE_BYTES - len(referrers_page([small], ReferrersQuery()).body) - 1
    for more, pages in ((0, 1), (1, 2)):
        raw = b'{"x":"%b"}' % (b"x" * (room + more - 8))
        shown = referrers_page([small, ReferrerDescriptor(Digest.of(b"large"), "", None, raw)], ReferrersQuery())
        assert (1 if shown.last is None else 2) == pages
        assert len(shown.body) == PAGE_BYTES or pages == 2


def test_a_descriptor_larger_than_a_page_is_listed_all_the_same() -> None:
    """Alone, and within what containerd reads: none is longer than the manifest or the page that it came in."""
    referrers = [referrer(0), referrer(1, size=4 * 1024 * 1024 - 200), referrer(2)]
    found: list[Digest] = []
    for shown, _ in walk([referrers], {}):
        assert len(shown.referrers) == 1 or len(shown.body) <= PAGE_BYTES
        assert len(shown.body) <= CONTAINERD
        found += [each.digest for each in shown.referrers]
    assert sorted(found) == sorted(each.digest for each in referrers)


# -- filters --------------------------------------------------------------------------------------------------------


def kinds_of(shown: ReferrersPage) -> list[str | None]:
    return [each.artifact_type for each in shown.referrers]


@pytest.mark.parametrize(
    ("wanted", "found", "applied"),
    [
        ([], ["text/a", "text/b", None, "text/a"], None),
        (["text/a"], ["text/a", "text/a"], "artifactType"),
        (["text/b", "text/a"], ["text/a", "text/b", "text/a"], "artifactType"),
        (["text/a", "text/a"], ["text/a", "text/a"], "artifactType"),
        (["text/A"], [], "artifactType"),
        (["*"], [], "artifactType"),
        ([""], ["text/a", "text/b", None, "text/a"], None),
    ],
)
def test_any_of_the_types_asked_for(wanted: Sequence[str], found: list[str | None], applied: str | None) -> None:
    """And it is said that they were filtered, only if they were."""
    referrers = [referrer(seed, kind) for seed, kind in enumerate(["text/a", "text/b", None, "text/a"])]
    shown = referrers_page(referrers, referrers_query({b"artifactType": [each.encode() for each in wanted]}))
    assert kinds_of(shown) == found
    assert shown.headers(SUBJECT, None).get("OCI-Filters-Applied") == applied


# -- what cannot be asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [b"-1", b"x", b"", b"0", b"00", b"+1", b"1.0", b"\xd9\xa3", b"9" * 19, b"\xff"])
def test_what_is_no_number_of_entries_is_refused(number: bytes) -> None:
    """Nought too: an empty page would say that nothing refers to the image."""
    with pytest.raises(QueryInvalid):
        referrers_query({b"n": [number]})


@pytest.mark.parametrize("last", [b"", b"x", b"sha256:x", b"\xff"])
def test_a_page_after_what_is_no_digest_is_refused(last: bytes) -> None:
    """It would be empty, or begin anywhere."""
    with pytest.raises(DigestInvalid):
        referrers_query({b"last": [last]})


@pytest.mark.parametrize("name", [b"n", b"last"])
def test_what_is_given_twice_is_refused(name: bytes) -> None:
    """Which of them was meant cannot be known."""
    with pytest.raises(QueryInvalid):
        referrers_query({name: [b"1", b"1"]})
