"""Several ranges in one body."""

from __future__ import annotations

import email.policy
from email.parser import BytesParser

from hypothesis import given
from hypothesis import strategies as st

from appliance.oci.digest import Digest
from appliance.oci.ranges import Span
from appliance.registry.blobresponses import multipart

DATA = bytes(range(32, 127)) * 20
SPAN = st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 100)).map(
    lambda pair: Span(pair[0], min(len(DATA), pair[0] + pair[1]))
)


@given(st.lists(SPAN, min_size=2, max_size=20))
def test_a_parser_that_is_not_ours_finds_the_slices(spans: list[Span]) -> None:
    """In order, each with its place and type, and the length is what was announced."""
    made = multipart(spans, len(DATA), Digest.of(DATA), "application/octet-stream")
    body = b"".join(part if isinstance(part, bytes) else DATA[part.start : part.stop] for part in made.parts)
    assert len(body) == made.length
    message = BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {made.content_type}\r\n\r\n".encode() + body
    )
    assert not message.defects
    found = [(part["Content-Range"], part.get_payload().encode()) for part in message.iter_parts()]  # type: ignore
    assert found == [(f"bytes {a}-{b - 1}/{len(DATA)}", DATA[a:b]) for a, b in spans]


def test_the_boundary_is_the_same_each_time_and_not_in_the_blob() -> None:
    """So that an interrupted answer can be compared; and of characters that every parser takes."""
    first, second = (multipart([Span(0, 1), Span(2, 3)], 10, Digest.of(DATA), "a/b") for _ in range(2))
    assert first == second
    boundary = first.content_type.partition("boundary=")[2]
    assert boundary.isalnum() and 0 < len(boundary) <= 70 and boundary.encode() not in DATA
