"""One page of a list of tags, and the link to the next. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from appliance.errors import QueryInvalid

PAGE_LIMIT = 10_000
"""The most tags of one page that asked for a number; a list without C{n} is given whole."""


@dataclass(frozen=True)
class Page:
    """Tags of one page; C{last} is what the next page comes after, C{None} on the last one."""

    tags: list[str]
    last: str | None
    limit: int | None

    def link(self, namespace: str | None) -> str | None:
        """
        The C{Link} to the next page, relative to this one so that prefix and host stay as the client wrote them.
        """
        if self.last is None:
            return None
        query = {"n": str(self.limit), "last": self.last} | ({} if namespace is None else {"ns": namespace})
        return f'<list?{urlencode(query)}>; rel="next"'


def page(tags: Sequence[str], query: Mapping[bytes, Sequence[bytes]]) -> Page:
    """
    The page that C{n} and C{last} ask for (distribution-spec, "Listing Tags").

    @param tags: sorted.
    @raise QueryInvalid: C{n} is no number, or one of them was given twice.
    """
    after = _single(query, b"last")
    start = 0 if after is None else bisect_right(tags, after)
    number = _single(query, b"n")
    if number is None:
        return Page(list(tags[start:]), None, None)
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise QueryInvalid(f"n={number[:40]}: must be a whole number, 0 or more")
    limit = min(int(number), PAGE_LIMIT)
    shown = list(tags[start : start + limit])
    more = bool(shown) and start + limit < len(tags)
    return Page(shown, shown[-1] if more else None, limit)


def _single(query: Mapping[bytes, Sequence[bytes]], name: bytes) -> str | None:
    values = query.get(name, ())
    if len(values) > 1:
        raise QueryInvalid(f"{name.decode('ascii')} was given {len(values)} times; give it once")
    return values[0].decode("utf-8", "replace") if values else None
