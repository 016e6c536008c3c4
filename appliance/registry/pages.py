"""One page of a list of tags, and the link to the next; what the queries of all lists have in common. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from appliance.errors import QueryInvalid

Query = Mapping[bytes, Sequence[bytes]]
"""The values of each parameter of a URL's query, as they were sent."""

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


def page(tags: Sequence[str], query: Query) -> Page:
    """
    The page that C{n} and C{last} ask for (distribution-spec, "Listing Tags").

    @param tags: sorted.
    @raise QueryInvalid: C{n} is no number, or one of them was given twice.
    """
    after = single(query, b"last")
    start = 0 if after is None else bisect_right(tags, after)
    number = size_of(query)
    if number is None:
        return Page(list(tags[start:]), None, None)
    limit = min(number, PAGE_LIMIT)
    shown = list(tags[start : start + limit])
    more = bool(shown) and start + limit < len(tags)
    return Page(shown, shown[-1] if more else None, limit)


def size_of(query: Query) -> int | None:
    """How many entries a page is to have: C{n}, C{None} when nothing was said. Raises L{QueryInvalid}."""
    number = single(query, b"n")
    if number is None:
        return None
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise QueryInvalid(f"n={number[:40]}: must be a whole number, 0 or more")
    return int(number)


def single(query: Query, name: bytes) -> str | None:
    """The value of a parameter, C{None} when it was not given. Raises L{QueryInvalid} when it was given twice."""
    values = query.get(name, ())
    if len(values) > 1:
        raise QueryInvalid(f"{name.decode('ascii')} was given {len(values)} times; give it once")
    return values[0].decode("utf-8", "replace") if values else None
