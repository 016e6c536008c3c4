"""C{pullcache status}: how the appliance is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from appliance.cli.arguments import Commands, new_command
from appliance.cli.session import DONE, Session
from appliance.cli.words import count, moment, size, span


def add_to(commands: Commands) -> None:
    """Add C{status}."""
    parser = new_command(commands, "status", "tell how the appliance is: upstreams, transfers, what is held")
    parser.set_defaults(ask=status)


class Url(msgspec.Struct, rename="camel"):
    """One URL of an upstream; C{since} and C{next} are RFC 3339."""

    url: str
    health: str | None = None
    since: str | None = None
    fault: str = ""
    next: str | None = None


class RateLimit(msgspec.Struct, rename="camel"):
    """What an upstream last said of its limit on pulls; C{window} in seconds."""

    remaining: int
    limit: int | None = None
    window: float | None = None


class Upstream(msgspec.Struct, rename="camel"):
    """One upstream of the appliance."""

    name: str
    urls: list[Url] = []
    offline: bool = False
    rate_limit: RateLimit | None = None
    resting: list[str] = []


class Damaged(msgspec.Struct, rename="camel"):
    """A document that was set aside."""

    document: str
    kept_as: str = ""


class Unreadable(msgspec.Struct):
    """A document that the appliance's disk does not give."""

    document: str
    reason: str = ""


class Waiting(msgspec.Struct):
    """What lies in the inbox and cannot be imported now; C{next} is RFC 3339."""

    files: list[str] = []
    reason: str = ""
    next: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """How many there are."""

    repositories: int = 0
    tags: int = 0
    manifests: int = 0
    wants: int = 0


class Status(msgspec.Struct, rename="camel"):
    """What is shown of C{GET /api/v1/status}; times in seconds, sizes in bytes."""

    version: str
    site: str = ""
    started: str = ""
    uptime: float = 0.0
    offline: bool = False
    upstreams: list[Upstream] = []
    flights: int = 0
    store_bytes: int = 0
    counts: Counts = Counts()
    damaged: list[Damaged] = []
    unreadable: list[Unreadable] = []
    inbox: list[Waiting] = []


async def status(session: Session, options: Namespace) -> int:
    """Print it."""
    document = await session.api.fetch("status")
    if session.screen.as_json:
        session.screen.document(document)
        return DONE
    found = session.api.as_kind(document, Status)
    session.screen.table(list(_rows(session.api.url, found)))
    session.screen.say()
    urls = [row for each in found.upstreams for row in _upstream(each, found)]
    session.screen.table([("UPSTREAM", "STATE", "SINCE", "NEXT", "URL"), *urls])
    for each in found.upstreams:
        for line in _weather(each):
            session.screen.say(line)
    for damaged in found.damaged:
        session.screen.note(f"damaged: {damaged.document} was set aside as {damaged.kept_as}")
    for unreadable in found.unreadable:
        session.screen.note(f"unreadable: {unreadable.document}: {unreadable.reason}; what it says is not counted")
    for waiting in found.inbox:
        again = "" if waiting.next is None else f" (tried again {_wait(waiting.next, found)})"
        session.screen.note(f"inbox: {', '.join(waiting.files)}: {waiting.reason}{again}")
    return DONE


def _rows(url: str, found: Status) -> Iterator[tuple[str, str]]:
    yield "appliance", f"{url}, pullcache {found.version}" + (", offline" if found.offline else "")
    yield "site", found.site or "-"
    yield "started", f"{moment(found.started)}, {span(found.uptime)} ago"
    counts = found.counts
    held = f"{count(counts.tags, 'tag')}, {count(counts.manifests, 'manifest')}"
    yield "held", f"{held} in {count(counts.repositories, 'repository', 'repositories')}; {size(found.store_bytes)}"
    yield "under way", count(found.flights, "transfer")
    yield "wanted", f"{count(counts.wants, 'reference')} asked for and not served"


def _upstream(upstream: Upstream, found: Status) -> Iterator[tuple[str, str, str, str, str]]:
    for url in upstream.urls:
        state = "offline" if upstream.offline else url.health or "-"
        yield upstream.name, state, moment(url.since), _wait(url.next, found), url.url


def _wait(until: str | None, found: Status) -> str:
    """How long that is from the appliance's now: its clock and this one's may differ."""
    try:
        now = datetime.fromisoformat(found.started) + timedelta(seconds=found.uptime)
        return "-" if until is None else f"in {span(max(0.0, (datetime.fromisoformat(until) - now).total_seconds()))}"
    except (ValueError, TypeError):
        return until or "-"


def _weather(upstream: Upstream) -> Iterator[str]:
    """What there is to say of an upstream beyond the table."""
    for url in upstream.urls:
        if url.fault:
            yield f"{upstream.name}: {url.fault}"
    limit = upstream.rate_limit
    if limit is not None:
        of = "" if limit.limit is None else f" of {limit.limit}"
        window = "" if limit.window is None else f" in {span(limit.window)}"
        yield f"{upstream.name}: {limit.remaining}{of} pulls{window} are left"
    if upstream.resting:
        yield f"{upstream.name}: fewer requests were wanted for {', '.join(upstream.resting)}"
