"""Lists of tags and of referrers, and their pages."""

from __future__ import annotations

import json

import pytest

from tests.wire.line import Shop


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("path", ["/v2/app/tags/list?", "/v2/team/app/tags/list?ns=ghcr.io&"])
def test_following_the_links_gives_the_whole_list(path: str, limit: int) -> None:
    """Each tag once, in order; the links are relative and keep the namespace."""
    shop = Shop()
    found: list[str] = []
    url = f"{path}n={limit}"
    for _ in range(10):
        answer = shop.get(url)
        page = json.loads(answer.body)["tags"]
        assert len(page) <= limit
        found += page
        link = answer["Link"]
        if link is None:
            break
        assert link.startswith("<") and link.endswith('>; rel="next"')
        target = link[1 : link.index(">")]
        assert "://" not in target and ("ns=ghcr.io" in target) == ("ns=" in path)
        url = path.partition("list")[0] + target
    assert found == ["latest", "multi", "v1", "v2"]


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("?n=0", []),
        ("?n=999999999999", ["latest", "multi", "v1", "v2"]),
        ("?last=multi", ["v1", "v2"]),
        ("?last=zzz", []),
        ("?last=n&n=1", ["v1"]),
        ("?n=0&last=multi", []),
    ],
)
def test_parts_of_a_list(query: str, tags: list[str]) -> None:
    """n=0 is an empty list without a link; last is exclusive, need not exist, and works alone."""
    answer = Shop().get("/v2/app/tags/list" + query)
    assert json.loads(answer.body) == {"name": "app", "tags": tags}
    if query == "?n=0":
        assert answer["Link"] is None


@pytest.mark.parametrize(
    "query", ["?n=-1", "?n=x", "?n=", "?n=1.5", "?n=1&n=2", "?last=a&last=b", "?n=%2B1", "?n=" + "9" * 40]
)
def test_a_wrong_page_is_refused(query: str) -> None:
    """400 as OCI JSON."""
    answer = Shop().get("/v2/app/tags/list" + query)
    assert (answer.status, answer.error["code"]) == (400, "PAGINATION_NUMBER_INVALID")
