"""A repository's tags, page by page."""

from __future__ import annotations

import json

import pytest

from appliance import errors
from appliance.upstream import distribution
from tests.rooms.upstream.net import CDN, REGISTRY, Asked, Net, Reply, upstream


def page(tags: object, link: str | list[str] | None = None) -> Reply:
    fields: dict[str, str | list[str]] = {"Content-Type": "application/json"}
    if link is not None:
        fields["Link"] = link
    return Reply(200, fields, json.dumps({"name": "a", "tags": tags}).encode())


def serving(*pages: Reply) -> Net:
    net = Net()
    left = list(pages)
    net.servers[REGISTRY] = lambda asked: left.pop(0) if len(left) > 1 else left[0]
    return net


def test_pages_are_followed_to_the_last() -> None:
    """By their Link alone, its query untouched."""
    net = serving(
        page(["b", "a"], '</v2/a/tags/list?next_page=gAAAA%3D%3D==&n=2>; rel="next"'),
        page(["c"], f"<{REGISTRY}/v2/a/tags/list?last=c>; rel=next; title=x"),
        page([]),
    )
    assert net.result(upstream(net).tags("a")) == ["b", "a", "c"]
    assert [asked.target for asked in net.asked] == [
        "/v2/a/tags/list",
        "/v2/a/tags/list?next_page=gAAAA%3D%3D==&n=2",
        "/v2/a/tags/list?last=c",
    ]


@pytest.mark.parametrize(
    ("link", "followed"),
    [
        ('<x?n=1>; rel="prev"', None),
        ('<x?n=1>; rel="prev", <y?n=2>; rel="next"', "y?n=2"),
        (['<x>; rel="first"', '<y>; REL="NEXT"'], "y"),
        ('<y>; title="a, b; rel=no"; rel="last next"', "y"),
        ('<a,b?c=,>; rel="next"', "a,b?c=,"),
        ("nonsense", None),
        ("<y>", None),
        ("", None),
    ],
)
def test_the_next_page_is_found_among_links(link: str | list[str], followed: str | None) -> None:
    """RFC 8288: several links, several fields, commas in targets and in quotes."""
    net = serving(page(["a"], link), page(["b"]))
    net.result(upstream(net).tags("a"))
    assert [asked.target for asked in net.asked[1:]] == ([] if followed is None else [f"/v2/a/tags/{followed}"])


@pytest.mark.parametrize(
    "link", [CDN + "/v2/a/tags/list?last=z", "//cdn.example/x", REGISTRY + ":8443/x", "http://registry.example/x"]
)
def test_a_link_to_elsewhere_is_refused(link: str) -> None:
    """Neither followed, nor is the first page taken for the whole list."""
    net = serving(page(["a"], f'<{link}>; rel="next"'))
    assert type(net.fault(upstream(net).tags("a"))) is errors.UpstreamRefused
    assert {asked.origin for asked in net.asked} == {REGISTRY}


@pytest.mark.parametrize(
    ("reply", "tags"),
    [
        (page([]), []),
        (page(None), []),
        (page(["ok", "", "a b", "../x", "-x", "a" * 129, "é", "v1.0_x-Y"]), ["ok", "v1.0_x-Y"]),
    ],
)
def test_what_is_no_tag_is_left_out(reply: Reply, tags: list[str]) -> None:
    """And C{null} is how some servers write an empty list."""
    net = serving(reply)
    assert net.result(upstream(net).tags("a")) == tags


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b"{}",
        b"[]",
        b'{"tags":{}}',
        b'{"tags":[1]}',
        b'{"errors":[]}',
        b"[" * 100_000,
        b'{"tags":["\xff"]}',
    ],
)
def test_what_is_no_tag_list_is_an_error(body: bytes) -> None:
    """Unknown is never served as empty."""
    net = serving(Reply(200, {}, body))
    assert type(net.fault(upstream(net).tags("a"))) is errors.UpstreamInvalid


def test_a_page_is_bounded() -> None:
    """4 MiB."""
    net = serving(page(["a" * 100] * 50_000))
    assert type(net.fault(upstream(net).tags("a"))) is errors.UpstreamInvalid


def test_a_list_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that links to itself, and tags without number."""
    monkeypatch.setattr(distribution, "MAX_TAGS_PAGES", 5)
    net = serving(page(["a"], '</v2/a/tags/list>; rel="next"'))
    assert "more than 5 pages" in str(net.fault(upstream(net).tags("a")))
    assert len(net.asked) == 5
    monkeypatch.setattr(distribution, "MAX_TAGS", 3)
    assert "more than 3 tags" in str(net.fault(upstream(net).tags("a")))


def test_a_list_that_breaks_off_is_an_error() -> None:
    """Half of it would pass for all of it."""
    net = serving(page(["a"], '<x>; rel="next"'), Reply(500))
    assert type(net.fault(upstream(net).tags("a"))) is errors.UpstreamUnavailable


def test_every_page_carries_the_token() -> None:
    """The second page is as private as the first."""
    net = Net()

    def server(asked: Asked) -> Reply:
        if asked.target.startswith("/token"):
            return Reply(body=b'{"token":"t1"}')
        if asked.one("authorization") != "Bearer t1":
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{REGISTRY}/token"'})
        return page(["b"]) if "?" in asked.target else page(["a"], '<?last=a>; rel="next"')

    net.servers[REGISTRY] = server
    assert net.result(upstream(net).tags("a")) == ["a", "b"]
    assert len(net.asked) == 4
