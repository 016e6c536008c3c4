"""Byte ranges: what lazy-pulling clients and the conformance suite send, and what must not be answered."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.errors import RangeInvalid, RangeUnsatisfiable
from appliance.oci.ranges import MAX_RANGES, Span, parse_content_range, parse_ranges

SIZE = 4000


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=500-1499", [(500, 1500)]),
        ("bytes=500-", [(500, 4000)]),
        ("bytes=-500", [(3500, 4000)]),
        ("bytes=2000-5000", [(2000, 4000)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 4000)]),
        ("bytes=3999-3999", [(3999, 4000)]),
        ("bytes=3999-4000", [(3999, 4000)]),
        ("bytes=-4000", [(0, 4000)]),
        ("bytes=-4001", [(0, 4000)]),
        ("bytes=-1", [(3999, 4000)]),
        ("bytes=0-0,-1", [(0, 1), (3999, 4000)]),
        ("bytes=10-19,0-9", [(10, 20), (0, 10)]),
        ("bytes=0-9,5-14", [(0, 10), (5, 15)]),
        ("bytes=0-,0-", [(0, 4000), (0, 4000)]),
        ("bytes=9000-,0-9", [(0, 10)]),
        ("bytes=0-9,500-0", [(0, 10)]),
        ("bytes=0-9,-0", [(0, 10)]),
        ("Bytes=0-9", [(0, 10)]),
        ("BYTES=0-9", [(0, 10)]),
        ("bytes= 0-9 ,\t20-29 ", [(0, 10), (20, 30)]),
        (" bytes=0-9", [(0, 10)]),
        ("bytes=,0-9,,20-29,", [(0, 10), (20, 30)]),
        ("bytes=000-0009", [(0, 10)]),
        ("bytes=0-" + "9" * 5000, [(0, 4000)]),
        ("bytes=-" + "9" * 5000, [(0, 4000)]),
        ("bytes=" + "0" * 5000 + "7-8", [(7, 9)]),
    ],
)
def test_a_range_is_cut_to_the_blob(header: str, spans: list[tuple[int, int]]) -> None:
    """I get the bytes I asked for, as far as there are any, in my order."""
    assert parse_ranges(header, SIZE) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize(
    "header",
    ["500-0", "5000-10000", "4000-", "4000-4000", "-0", "-0,4000-,500-0", "9" * 5000 + "-", "9" * 5000 + "-0"],
)
def test_a_range_outside_the_blob_is_not_satisfiable(header: str) -> None:
    """No part of what I asked for exists: I am told so, with the size."""
    with pytest.raises(RangeUnsatisfiable) as caught:
        parse_ranges(f"bytes={header}", SIZE)
    assert caught.value.size == SIZE


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_no_range_of_the_empty_blob_is_satisfiable(header: str) -> None:
    """The empty blob has no byte that could be sent."""
    with pytest.raises(RangeUnsatisfiable) as caught:
        parse_ranges(header, 0)
    assert caught.value.size == 0


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=0-9,-",
        "bytes=a-b",
        "bytes=0-9,x",
        "bytes=0",
        "bytes=--1",
        "bytes=-1-",
        "bytes=0-9-",
        "bytes=0 - 9",
        "bytes=+0-9",
        "bytes=0x0-9",
        "bytes=1_0-20",
        "bytes=\u0661-\u0662",
        "bytes=0-9\n",
        "bytes=0-9;1-2",
        "bytes =0-9",
        "bytes:0-9",
        "items=0-9",
        "items=" + "0-0," * 2000,
        "0-9",
        "xbytes=0-9",
    ],
)
def test_what_is_no_byte_range_is_ignored(header: str | None) -> None:
    """A Range header that means nothing here gets the whole blob, as RFC 9110 asks."""
    assert parse_ranges(header, SIZE) is None


@pytest.mark.parametrize("count", [2, 200, 1024])
def test_as_many_ranges_as_podman_sends_are_answered(count: int) -> None:
    """My zstd:chunked layer is pulled with up to 1024 ranges in one request."""
    size = 10 * count
    header = "bytes=" + ",".join(f"{10 * n}-{10 * n + 4}" for n in range(count))
    assert parse_ranges(header, size) == tuple(Span(10 * n, 10 * n + 5) for n in range(count))


def test_one_range_more_is_refused_and_not_ignored() -> None:
    """A refusal makes podman ask for half as many; the whole blob would not."""
    with pytest.raises(RangeInvalid, match="1025"):
        parse_ranges("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), SIZE)


def test_overlapping_ranges_cannot_make_an_answer_larger_than_twice_the_blob() -> None:
    """A small request does not cost the site's line a thousand blobs (CVE-2011-3192)."""
    with pytest.raises(RangeInvalid):
        parse_ranges("bytes=0-,1-,2-", SIZE)
    with pytest.raises(RangeInvalid):
        parse_ranges("bytes=" + ",".join(["0-"] * MAX_RANGES), SIZE)


def test_overlap_of_up_to_twice_the_blob_is_answered() -> None:
    """Overlap as such is no offence."""
    assert parse_ranges("bytes=0-,0-1999,2000-", SIZE) == (Span(0, 4000), Span(0, 2000), Span(2000, 4000))


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80) | st.none()), min_size=1))
def test_every_range_holds_the_bytes_its_positions_name(size: int, pairs: list[tuple[int, int | None]]) -> None:
    """Whatever combination I ask for, I get those bytes in that order or an error, never others."""
    whole = bytes(range(size))
    header = "bytes=" + ",".join(f"{first}-{'' if last is None else last}" for first, last in pairs)
    expected = [whole[first : size if last is None else last + 1] for first, last in pairs]
    expected = [part for part in expected if part]
    try:
        spans = parse_ranges(header, size)
    except RangeUnsatisfiable:
        assert expected == []
    except RangeInvalid:
        assert sum(map(len, expected)) > 2 * size
    else:
        assert spans is not None
        assert [whole[span.start : span.stop] for span in spans] == expected
        assert [span.length for span in spans] == [len(part) for part in expected]


@given(st.integers(0, 60), st.integers(0, 80))
def test_a_suffix_is_the_end_of_the_blob(size: int, length: int) -> None:
    """C{-N} is the last N bytes, or all there are."""
    assume(size and length)
    whole = bytes(range(size))
    spans = parse_ranges(f"bytes=-{length}", size)
    assert spans is not None
    assert whole[spans[0].start : spans[0].stop] == whole[-length:]


@given(
    st.text("bytes=0123-, \t\n", max_size=40) | st.text("0123-, ", max_size=40).map("bytes=".__add__), st.integers(0)
)
def test_any_header_gives_ranges_within_the_blob_or_a_refusal(header: str, size: int) -> None:
    """No header makes the appliance read outside a blob or fall over."""
    try:
        spans = parse_ranges(header, size)
    except (RangeUnsatisfiable, RangeInvalid):
        return
    assert spans is None or all(0 <= span.start < span.stop <= size for span in spans)


@pytest.mark.parametrize(
    ("header", "parsed"),
    [
        ("bytes 0-0/1", (0, 1, 1)),
        ("bytes 500-1499/4000", (500, 1500, 4000)),
        ("bytes 500-1499/*", (500, 1500, None)),
        ("Bytes 0-9/10", (0, 10, 10)),
        (" bytes  0-9/10\t", (0, 10, 10)),
    ],
)
def test_an_upstreams_content_range_is_read(header: str, parsed: tuple[int, int, int | None]) -> None:
    """A resumed transfer goes on exactly where the upstream says it does."""
    assert parse_content_range(header) == parsed


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes */4000",
        "bytes 0-9",
        "bytes=0-9/10",
        "bytes 9-0/10",
        "bytes 0-10/10",
        "bytes 0-9/",
        "bytes -9/10",
        "bytes 0-/10",
        "bytes 0-9/10\n",
        "bytes 0 - 9/10",
        "items 0-9/10",
        "bytes \u0660-\u0661/10",
        "bytes 0-" + "9" * 5000 + "/10",
    ],
)
def test_a_content_range_that_cannot_be_is_refused(header: str) -> None:
    """An upstream that contradicts itself does not get its bytes stored at a guessed place."""
    with pytest.raises(ValueError, match="Content-Range"):
        parse_content_range(header)


@given(st.integers(0, 2**50), st.integers(1, 2**50), st.none() | st.integers(0, 2**50))
def test_a_content_range_survives_writing_and_reading(start: int, length: int, rest: int | None) -> None:
    """What one appliance writes another one reads."""
    stop = start + length
    total = None if rest is None else stop + rest
    written = f"bytes {start}-{stop - 1}/{'*' if total is None else total}"
    assert parse_content_range(written) == (start, stop, total)
