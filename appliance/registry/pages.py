"""
Pages of lists, tags and referrers, and the links to the next ones. Pure.

Distribution-spec, "Listing Tags" and "Listing Referrers". How the link of a list of referrers says where it goes on is
left to the registry: here it is as with tags, C{n} entries at most, after the digest C{last}.

A list of referrers that one page has room for comes in the order in which it is known. One that is longer comes sorted
by digest: a page begins after the digest that C{last} names, whether that is still listed or not. So what is listed all
the time comes exactly once, whatever is added or removed between two pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from appliance.errors import QueryInvalid
from appliance.oci.digest import Digest
from appliance.oci.referrer import ReferrerDescriptor, index_of

Query = Mapping[bytes, Sequence[bytes]]
"""The values of each parameter of a URL's query, as they were sent."""

PAGE_LIMIT = 10_000
"""The most tags of one page; a list without C{n} is given whole."""


@dataclass(frozen=True)
class TagsPage:
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


def tags_page(tags: Sequence[str], query: Query) -> TagsPage:
    """
    The page that C{n} and C{last} ask for (distribution-spec, "Listing Tags").

    @param tags: sorted.
    @raise QueryInvalid: C{n} is no number, or one of them was given twice.
    """
    after = _single(query, b"last")
    start = 0 if after is None else bisect_right(tags, after)
    number = _size_of(query)
    if number is None:
        return TagsPage(list(tags[start:]), None, None)
    limit = min(number, PAGE_LIMIT)
    shown = list(tags[start : start + limit])
    more = bool(shown) and start + limit < len(tags)
    return TagsPage(shown, shown[-1] if more else None, limit)


# -- referrers --------------------------------------------------------------------------------------------------------

PAGE_BYTES = 4_000_000
"""
The most bytes of a page. Only a single descriptor that is longer makes a longer one; that of a manifest is no longer
than 4 MiB, and containerd reads up to 4*1048*1048 bytes.
"""

# Bytes for descriptors, each with a comma before it but the first.
_ROOM = PAGE_BYTES - len(index_of(())) + 1


@dataclass(frozen=True)
class ReferrersQuery:
    """
    What a client wants of a list.

    @ivar artifact_types: any of these; none: all there are.
    @ivar limit: entries of a page at most, C{None}: as many as it has room for.
    @ivar last: what the page comes after, C{None} for the first.
    """

    artifact_types: tuple[str, ...] = ()
    limit: int | None = None
    last: Digest | None = None


@dataclass(frozen=True)
class ReferrersPage:
    """
    Referrers of one page.

    @ivar query: what it is the answer to.
    @ivar last: what the next page comes after, C{None} on the last one.
    """

    referrers: list[ReferrerDescriptor]
    query: ReferrersQuery
    last: Digest | None

    @property
    def body(self) -> bytes:
        """The image index, each descriptor as it was received."""
        return index_of(self.referrers)

    def headers(self, subject: Digest, namespace: str | None) -> dict[str, str]:
        """What is said beside the index: that it was filtered, and where the next page is."""
        found = {"OCI-Filters-Applied": "artifactType"} if self.query.artifact_types else {}
        if self.last is None:
            return found
        query = [("artifactType", each) for each in self.query.artifact_types]
        query += [] if self.query.limit is None else [("n", str(self.query.limit))]
        query += [("last", str(self.last))]
        query += [] if namespace is None else [("ns", namespace)]
        # Relative, as that of tags; the dot keeps sha256: from being read as a scheme (RFC 3986 section 4.2).
        return found | {"Link": f'<./{subject}?{urlencode(query)}>; rel="next"'}


def referrers_query(query: Query) -> ReferrersQuery:
    """
    Read C{artifactType}, which may be repeated, C{n} and C{last}.

    @raise QueryInvalid: C{n} is no number of 1 or more, or one of C{n} and C{last} was given twice.
    @raise DigestInvalid: C{last} is no digest.
    """
    limit, last = _size_of(query), _single(query, b"last")
    if limit == 0:
        # An empty index means that nothing refers to the manifest.
        raise QueryInvalid("n=0: ask for 1 or more; a page without entries would say that there are none")
    kinds = dict.fromkeys(value.decode("utf-8", "replace") for value in query.get(b"artifactType", ()) if value)
    return ReferrersQuery(tuple(kinds), limit, None if last is None else Digest.parse(last))


def referrers_page(referrers: Sequence[ReferrerDescriptor], query: ReferrersQuery) -> ReferrersPage:
    """The page of a list that C{query} means, each digest once."""
    kinds = query.artifact_types
    chosen = [each for each in referrers if not kinds or each.artifact_type in kinds]
    if query.last is None and _fitting(chosen, query.limit) == len(chosen):
        return ReferrersPage(chosen, query, None)
    rest = (each for each in chosen if query.last is None or each.digest > query.last)
    ordered = sorted(rest, key=lambda each: each.digest)
    shown = ordered[: _fitting(ordered, query.limit)]
    return ReferrersPage(shown, query, shown[-1].digest if len(shown) < len(ordered) else None)


def _fitting(referrers: Sequence[ReferrerDescriptor], limit: int | None) -> int:
    """How many of them, from the first, a page has room for; one at least, so that the pages come to an end."""
    room = _ROOM
    for count, each in enumerate(referrers):
        room -= len(each.raw) + 1
        if count == limit or (count and room < 0):
            return count
    return len(referrers)


# -- what the queries have in common ----------------------------------------------------------------------------------


def _size_of(query: Query) -> int | None:
    """How many entries a page is to have: C{n}, C{None} when that was not given. Raises L{QueryInvalid}."""
    number = _single(query, b"n")
    if number is None:
        return None
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise QueryInvalid(f"n={number[:40]}: must be a whole number, 0 or more")
    return int(number)


def _single(query: Query, name: bytes) -> str | None:
    """The value of a parameter, C{None} when it was not given. Raises L{QueryInvalid} when it was given twice."""
    values = query.get(name, ())
    if len(values) > 1:
        raise QueryInvalid(f"{name.decode('ascii')} was given {len(values)} times; give it once")
    return values[0].decode("utf-8", "replace") if values else None
