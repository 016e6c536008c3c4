"""
One page of a list of referrers, and the link to the next. Pure.

Distribution-spec, "Listing Referrers": pages are linked, and how a link says where it goes on is left to the registry.
Here it is as with tags: C{n} entries at most, after the digest C{last}.

A list that one page has room for comes in the order in which it is known. One that is longer comes sorted by digest: a
page begins after the digest that C{last} names, whether that is still listed or not. So what is listed all the time
comes exactly once, whatever is added or removed between two pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from appliance.errors import QueryInvalid
from appliance.oci.digest import Digest
from appliance.oci.referrer import Referrer, index_of
from appliance.registry.pages import Query, single, size_of

PAGE_BYTES = 4_000_000
"""
The most bytes of a page. Only a single descriptor that is longer makes a longer one; that of a manifest is no longer
than 4 MiB, and containerd reads up to 4*1048*1048 bytes.
"""

# Bytes for descriptors, each with a comma before it but the first.
_ROOM = PAGE_BYTES - len(index_of(())) + 1


@dataclass(frozen=True)
class Asked:
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
class Page:
    """
    Referrers of one page.

    @ivar asked: what it is the answer to.
    @ivar last: what the next page comes after, C{None} on the last one.
    """

    referrers: list[Referrer]
    asked: Asked
    last: Digest | None

    @property
    def body(self) -> bytes:
        """The image index, each descriptor as it was received."""
        return index_of(self.referrers)

    def headers(self, subject: Digest, namespace: str | None) -> dict[str, str]:
        """What is said beside the index: that it was filtered, and where the next page is."""
        found = {"OCI-Filters-Applied": "artifactType"} if self.asked.artifact_types else {}
        return found if self.last is None else found | {"Link": self._link(subject, namespace)}

    def _link(self, subject: Digest, namespace: str | None) -> str:
        """Relative, as that of tags; the dot keeps C{sha256:} from being read as a scheme (RFC 3986 section 4.2)."""
        query = [("artifactType", each) for each in self.asked.artifact_types]
        query += [] if self.asked.limit is None else [("n", str(self.asked.limit))]
        query += [("last", str(self.last))]
        query += [] if namespace is None else [("ns", namespace)]
        return f'<./{subject}?{urlencode(query)}>; rel="next"'


def parse(query: Query) -> Asked:
    """
    Read C{artifactType}, which may be repeated, C{n} and C{last}.

    @raise QueryInvalid: C{n} is no number of 1 or more, or one of C{n} and C{last} was given twice.
    @raise DigestInvalid: C{last} is no digest.
    """
    limit, last = size_of(query), single(query, b"last")
    if limit == 0:
        # An empty index means that nothing refers to the manifest.
        raise QueryInvalid("n=0: ask for 1 or more; a page without entries would say that there are none")
    kinds = dict.fromkeys(value.decode("utf-8", "replace") for value in query.get(b"artifactType", ()) if value)
    return Asked(tuple(kinds), limit, None if last is None else Digest.parse(last))


def page(referrers: Sequence[Referrer], asked: Asked) -> Page:
    """The page that is asked for of a list, each digest once."""
    kinds = asked.artifact_types
    chosen = [each for each in referrers if not kinds or each.artifact_type in kinds]
    if asked.last is None and _fitting(chosen, asked.limit) == len(chosen):
        return Page(chosen, asked, None)
    rest = (each for each in chosen if asked.last is None or each.digest > asked.last)
    ordered = sorted(rest, key=lambda each: each.digest)
    shown = ordered[: _fitting(ordered, asked.limit)]
    return Page(shown, asked, shown[-1].digest if len(shown) < len(ordered) else None)


def _fitting(referrers: Sequence[Referrer], limit: int | None) -> int:
    """How many of them, from the first, a page has room for; one at least, so that the pages come to an end."""
    room = _ROOM
    for count, each in enumerate(referrers):
        room -= len(each.raw) + 1
        if count == limit or (count and room < 0):
            return count
    return len(referrers)
