"""Bytes, seconds and tables as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# Line ends and blanks between values are all that stands in JSON outside ASCII's printable characters unescaped.
_UNPRINTED = re.compile(r"[^\x20-\x7e\t\r\n]")
_SECONDS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def size(octets: float) -> str:
    """Bytes in powers of 1000, three digits: C{512 B}, C{4.70 GB}."""
    step = 0
    while octets >= 999.5 and step < len(_UNITS) - 1:
        octets, step = octets / 1000, step + 1
    digits = 0 if step == 0 or octets >= 99.95 else 1 if octets >= 9.995 else 2
    return f"{octets:.{digits}f} {_UNITS[step]}"


def span(seconds: float) -> str:
    """A duration in its two largest units: C{3 min 20 s}; what is shorter than a second is C{0 s}."""
    left = round(seconds)
    parts: list[str] = []
    for unit, length in _SECONDS:
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def moment(text: str | None) -> str:
    """An RFC 3339 time to the minute, in UTC; a dash for none; other text as it is."""
    if not text:
        return "-"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if at.tzinfo else text


def count(number: int, one: str, more: str | None = None) -> str:
    """C{1 image}, C{2 images}."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def short(digest: str | None) -> str:
    """A digest as far as people compare it: algorithm and twelve characters; a dash for none."""
    if not digest:
        return "-"
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand below each other, two spaces between them; nothing is cut."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def escaped(document: str) -> str:
    """
    A JSON document that says the same (RFC 8259 section 7) without characters that a terminal would obey, or that turn
    the direction of what follows: a page of a terminal is read by people even when it was meant for a machine.
    """
    return _UNPRINTED.sub(_escape, document)


def _escape(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    return "".join(f"\\u{unit[0]:02x}{unit[1]:02x}" for unit in _units(found[0]))


def _units(character: str) -> Iterator[bytes]:
    """Its UTF-16 code units, of which JSON makes its escapes."""
    data = character.encode("utf-16-be", "surrogatepass")
    return (data[start : start + 2] for start in range(0, len(data), 2))


def plain(text: str) -> str:
    """C{text} without control characters: an archive's words must not drive the reader's terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
