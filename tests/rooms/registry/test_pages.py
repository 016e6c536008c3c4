"""Pages of a list of tags."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import QueryInvalid
from appliance.registry.pages import PAGE_LIMIT, tags_page

TAGS = st.lists(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,8}", fullmatch=True), unique=True, max_size=40).map(sorted)


@given(TAGS, st.integers(1, 50), st.one_of(st.none(), st.just("ghcr.io:443")))
def test_following_the_links_gives_each_tag_once(tags: list[str], limit: int, namespace: str | None) -> None:
    """Whatever the page size; every link keeps size and namespace, the last page has none."""
    found: list[str] = []
    query = {b"n": [str(limit).encode()]}
    while True:
        shown = tags_page(tags, query)
        found += shown.tags
        link = shown.link(namespace)
        if link is None:
            break
        assert link.endswith('>; rel="next"') and shown.tags
        parts = urlsplit(link[1 : link.index(">")])
        assert (parts.scheme, parts.netloc, parts.path) == ("", "", "list")
        asked = parse_qs(parts.query)
        assert asked.pop("ns", [None]) == [namespace]
        query = {name.encode(): [value.encode() for value in values] for name, values in asked.items()}
    assert found == tags


@given(TAGS, st.text(max_size=10))
def test_last_is_exclusive_and_need_not_exist(tags: list[str], last: str) -> None:
    """All tags after it, in one page where no size was asked for."""
    shown = tags_page(tags, {b"last": [last.encode()]})
    assert shown.tags == [tag for tag in tags if tag > last] and shown.link(None) is None


def test_a_page_of_nought_is_empty_and_has_no_next() -> None:
    """Distribution spec, "Listing Tags"."""
    shown = tags_page(["a", "b"], {b"n": [b"0"]})
    assert (shown.tags, shown.link(None)) == ([], None)


def test_a_huge_page_is_cut_down_before_anything_is_allocated() -> None:
    """CVE-2023-2253; the rest is linked."""
    tags = [f"{number:06d}" for number in range(PAGE_LIMIT + 1)]
    shown = tags_page(tags, {b"n": [b"999999999999999999"]})
    assert len(shown.tags) == PAGE_LIMIT
    assert (shown.link(None) or "").startswith(f"<list?n={PAGE_LIMIT}&last=")


def test_without_a_number_the_list_comes_whole() -> None:
    """Clients that send none do not follow links."""
    tags = [f"{number:06d}" for number in range(PAGE_LIMIT + 1)]
    assert tags_page(tags, {}).tags == tags


@pytest.mark.parametrize("number", [b"-1", b"x", b"", b" 1", b"+1", b"1.0", b"0x1", b"\xd9\xa3", b"9" * 19, b"\xff"])
def test_what_is_no_number_is_refused(number: bytes) -> None:
    """Repeated keys as well."""
    with pytest.raises(QueryInvalid):
        tags_page(["a"], {b"n": [number]})
    with pytest.raises(QueryInvalid):
        tags_page(["a"], {b"n": [b"1", b"1"]})
