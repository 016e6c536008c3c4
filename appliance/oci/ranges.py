"""
Byte ranges: RFC 9110 section 14.

Of what the RFC leaves open, the distribution spec's conformance suite and lazy-pulling clients decide: C{500-0} is
unsatisfiable instead of ignored, and a request for too much is refused with an error that makes podman ask for less.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from appliance.errors import RangeInvalid, RangeUnsatisfiable

#: As many ranges as one request may hold; podman's zstd:chunked sends up to this.
MAX_RANGES = 1024

#: How often over the whole may be sent in one answer (CVE-2011-3192); two ranges never ask for more.
_OVERLAP = 2

_UNIT = re.compile(r"[ \t]*bytes=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]+)-([0-9]+)/([0-9]+|\*)", re.IGNORECASE)

#: More digits than any size has; longer numbers are cut down to this many nines.
_MAX_DIGITS = 18


class Span(NamedTuple):
    """The bytes C{start <= x < stop}."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes in it."""
        return self.stop - self.start


def parse_ranges(header: str | None, size: int) -> tuple[Span, ...] | None:
    """
    The parts of a representation of C{size} bytes that a Range header asks for, in its order and within the size.

    @return: C{None} when the header is to be ignored: absent, another unit, or malformed.
    @raise RangeUnsatisfiable: none of the ranges lies within the size.
    @raise RangeInvalid: more than L{MAX_RANGES} ranges, or overlapping ones that add up to more than twice the size.
    """
    specs = _specs(header)
    if specs is None:
        return None
    if len(specs) > MAX_RANGES:
        raise RangeInvalid(f"{len(specs)} ranges in one request: {MAX_RANGES} are allowed")
    spans = tuple(span for span in (_span(first, last, size) for first, last in specs) if span is not None)
    if not spans:
        raise RangeUnsatisfiable(size)
    total = sum(span.length for span in spans)
    if total > _OVERLAP * size:
        raise RangeInvalid(f"{len(spans)} overlapping ranges ask for {total} bytes of {size}")
    return spans


def parse_content_range(header: str) -> tuple[int, int, int | None]:
    """
    What a Content-Range header says a 206 holds: start, stop (exclusive), and the whole's size, C{None} when unknown.

    Raises L{ValueError} when it is malformed, contradicts itself, or belongs to a 416.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip(" \t"))
    if match is None:
        raise ValueError(f"{header[:100]!r} is no Content-Range of a 206")
    start, stop = _number(match[1]), _number(match[2]) + 1
    total = None if match[3] == "*" else _number(match[3])
    if start >= stop or (total is not None and stop > total):
        raise ValueError(f"the Content-Range {header[:100]!r} contradicts itself")
    return start, stop, total


def _specs(header: str | None) -> list[tuple[str, str]] | None:
    """First and last position of each range as written, C{None} for a header to ignore."""
    match = None if header is None else _UNIT.fullmatch(header)
    if match is None:
        return None
    # RFC 9110 section 5.6.1.2: empty elements of a list are ignored.
    found = [_SPEC.fullmatch(element) for part in match[1].split(",") if (element := part.strip(" \t"))]
    specs = [(spec[1], spec[2]) for spec in found if spec is not None and spec[0] != "-"]
    return specs if specs and len(specs) == len(found) else None


def _span(first: str, last: str, size: int) -> Span | None:
    """One range cut to the size, C{None} when it holds nothing."""
    if not first:
        start, stop = max(0, size - _number(last)), size
    else:
        start, stop = _number(first), min(size, _number(last) + 1) if last else size
    return Span(start, stop) if start < stop else None


def _number(digits: str) -> int:
    """The number, or one larger than any size: Python refuses to convert thousands of digits."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS
