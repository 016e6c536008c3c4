"""A client reads parts: ranges of blobs (RFC 9110 section 14), on the fast way and beside it."""

from __future__ import annotations

import email.policy
from email.parser import BytesParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.held import LAYER_DIGEST, warm
from tests.wire.line import LAYER, Answer, Shop, blob, manifest

SIZE = len(LAYER)


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        ("bytes=2000-500000", 2000, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=100-{SIZE}", 100, SIZE),
        ("BYTES= 1-2 ", 1, 3),
        ("bytes=-999999", 0, SIZE),
    ],
)
def test_a_range_is_what_it_asks_for(header: str, start: int, stop: int, cold: bool) -> None:
    """206 with the exact range, from a blob that is held and from one that is only coming."""
    shop = Shop() if cold else warm()
    if cold:
        shop.get(manifest())
    answer = shop.get(blob(LAYER), ("Range", header))
    assert (answer.status, answer["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{SIZE}")
    assert answer.body == LAYER[start:stop]


@pytest.mark.parametrize("header", ["bytes=500-0", f"bytes={SIZE}-", "bytes=500000-600000", "bytes=-0"])
def test_a_range_outside_says_the_size(header: str) -> None:
    """416 as OCI JSON, with what there is."""
    answer = warm().get(blob(LAYER), ("Range", header))
    assert (answer.status, answer["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert answer.error["code"] == "RANGE_INVALID"
    assert answer["ETag"] is None and answer["Accept-Ranges"] is None and answer["Cache-Control"] is None


@pytest.mark.parametrize("header", ["items=0-1", "bytes=x", "bytes", "bytes=", "bytes=1-2;3-4", "bytes=--1"])
def test_a_range_that_is_none_is_ignored(header: str) -> None:
    """200 with the whole (RFC 9110 section 14.2)."""
    answer = warm().get(blob(LAYER), ("Range", header))
    assert (answer.status, answer.body) == (200, LAYER)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"{LAYER_DIGEST}"', 206),
        ('"other"', 200),
        (f'W/"{LAYER_DIGEST}"', 200),
        (LAYER_DIGEST, 200),
        ("Sat, 21 Nov 2026 08:00:00 GMT", 200),
    ],
)
def test_a_range_under_a_condition(condition: str, status: int) -> None:
    """If-Range needs the strong entity tag; anything else gives the whole."""
    answer = warm().get(blob(LAYER), ("Range", "bytes=0-9"), ("If-Range", condition))
    assert answer.status == status


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part, as Python's own mail parser reads them."""
    head = f"Content-Type: {answer['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges" and not message.defects
    parts = list(message.iter_parts())
    assert all(part.get_content_type() == "application/octet-stream" for part in parts)
    # The payload as it stood: the parser turns it into text with these escapes.
    return [(part["Content-Range"], str(part.get_payload()).encode("ascii", "surrogateescape")) for part in parts]


PLAIN = (b"0123456789abcdef" * 300)[:4097]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 60)), min_size=2, max_size=50))
def test_several_ranges_can_be_parsed_back(wanted: list[tuple[int, int]]) -> None:
    """As many parts as asked for, in that order, each with its bytes."""
    shop = Shop()
    shop.hub.add_blob("library/app", PLAIN)
    spans = [(start, min(start + length, len(PLAIN) - 1)) for start, length in wanted]
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
    answer = shop.get(blob(PLAIN), ("Range", header))
    assert answer.status == 206
    assert parts_of(answer) == [
        (f"bytes {first}-{last}/{len(PLAIN)}", PLAIN[first : last + 1]) for first, last in spans
    ]


@pytest.mark.parametrize("count", [2, 200, 1024])
def test_as_many_ranges_as_podman_sends(count: int) -> None:
    """Up to 1024 in one header of 22 KB."""
    positions = [1_000_000 + number * 200 for number in range(count)]
    data = bytes(1_000_000) + b"y" * 300_000
    shop = Shop()
    shop.hub.add_blob("library/app", data)
    header = "bytes=" + ",".join(f"{first:010d}-{first + 9:09d}" for first in positions)
    answer = shop.get(blob(data), ("Range", header))
    assert answer.status == 206
    assert [body for _, body in parts_of(answer)] == [b"y" * 10] * count
    assert count < 1024 or len(header) > 20_000


def test_too_many_ranges_are_refused_so_that_podman_asks_for_fewer() -> None:
    """400, neither 416 nor a closed connection."""
    shop = warm()
    header = "bytes=" + ",".join(f"{number}-{number}" for number in range(1025))
    answer = shop.line.ask("GET", blob(LAYER), [("Range", header)])
    assert (answer.status, answer.error["code"]) == (400, "RANGE_INVALID")
    assert shop.line.ask("GET", "/v2/").status == 200
