"""Lists of referrers that cannot be read, or that are too large."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from appliance import errors
from appliance.upstream import referrers
from appliance.upstream.interfaces import Referrers
from tests.rooms.upstream.net import REGISTRY, Reply
from tests.rooms.upstream.referring import (
    FAILURES,
    HTML,
    INDEX,
    LOGIN,
    OLD,
    SBOM,
    SIGNATURE,
    SUBJECT,
    Rig,
    descriptor,
    listing,
    page,
    redirect,
)

# -- what cannot be read ---------------------------------------------------------------------------------------------


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


# -- limits ----------------------------------------------------------------------------------------------------------


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
