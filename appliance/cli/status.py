"""C{pullcache status}: how the appliance is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timedelta

from appliance.api import Status, UpstreamStatus
from appliance.cli.command import DONE, Commands, Session, new_command
from appliance.cli.screen import count, moment, size, span


def add_to(commands: Commands) -> None:
    """Add C{status}."""
    parser = new_command(commands, "status", "tell how the appliance is: upstreams, transfers, what is held")
    parser.set_defaults(ask=status)


async def status(session: Session, options: Namespace) -> int:
    """Print how the appliance and its upstreams are; documents and archives at fault on standard error."""
    document = await session.client.fetch("status")
    if session.screen.as_json:
        session.screen.document(document)
        return DONE
    found = session.client.as_kind(document, Status)
    screen = session.screen
    screen.table(list(_summary(session.client.url, found)))
    screen.say()
    urls = [
        (
            upstream.name,
            "offline" if upstream.offline else url.health or "-",
            moment(url.since),
            _wait(url.next, found),
            url.url,
        )
        for upstream in found.upstreams
        for url in upstream.urls
    ]
    screen.table([("UPSTREAM", "STATE", "SINCE", "NEXT", "URL"), *urls])
    for upstream in found.upstreams:
        for line in _remarks(upstream):
            screen.say(f"{upstream.name}: {line}")
    for refused in found.refused:
        screen.note(f"locked: {refused.name}: its upstream says {refused.digest}, which is not served")
    for damaged in found.damaged:
        screen.note(f"damaged: {damaged.document} was set aside as {damaged.kept_as}")
    for digest in found.damaged_blobs:
        screen.note(f"damaged: {digest} was set aside, and is lacking; pullcache wants names it")
    for unreadable in found.unreadable:
        screen.note(f"unreadable: {unreadable.document}: {unreadable.reason}; what it says is not counted")
    if found.disk.reason:
        screen.note(f"disk: a write was refused within the last minute: {found.disk.reason}")
    for warning in found.certificate_warnings:
        screen.note(f"certificate: {warning}")
    for note in found.collection.notes:
        screen.note(f"collection: {note}")
    for waiting in found.inbox:
        again = "" if waiting.next is None else f" (tried again {_wait(waiting.next, found)})"
        screen.note(f"inbox: {', '.join(waiting.files)}: {waiting.reason}{again}")
    return DONE


def _summary(url: str, found: Status) -> Iterator[tuple[str, str]]:
    yield "appliance", f"{url}, pullcache {found.version}" + (", offline" if found.offline else "")
    yield "site", found.site or "-"
    yield "started", f"{moment(found.started)}, {span(found.uptime)} ago"
    counts = found.counts
    held = f"{count(counts.tags, 'tag')}, {count(counts.manifests, 'manifest')}"
    yield "held", f"{held} in {count(counts.repositories, 'repository', 'repositories')}; {size(found.store_bytes)}"
    disk = found.disk
    yield "disk", f"{size(disk.free)} of {size(disk.size)} free, {size(disk.reserve)} kept free; {disk.state}"
    if disk.unstored:
        yield "not stored", f"{size(disk.unstored)} passed on since the start: the disk had no room"
    yield "under way", count(found.flights, "transfer")
    yield "wanted", f"{count(counts.wants, 'reference')} asked for and not served"
    scrub = found.scrub
    last = "never" if scrub.finished is None else f"{moment(scrub.finished)}, {scrub.damaged} damaged"
    yield "scrubbed", f"{last}; under way" if scrub.under_way else last
    done = found.collection
    yield (
        "collected",
        "not yet"
        if done.started is None
        else f"{moment(done.started)}, {count(done.images, 'image')}; {size(done.freed)} freed",
    )
    for shown in found.certificates:
        yield "certificate", f"{', '.join(shown.names)}, until {moment(shown.until)}"
    left = found.left_over
    kinds = (
        (left.beginnings, "blob of a cut fetch", "blobs of cut fetches"),
        (left.staged, "blob of a cut import", "blobs of cut imports"),
        (left.documents, "damaged document", None),
        (left.damaged, "damaged blob", None),
    )
    words = [f"{count(each.count, one, many)} ({size(each.bytes)})" for each, one, many in kinds if each.count]
    if words:
        yield "left over", ", ".join(words)


def _wait(until: str | None, found: Status) -> str:
    """How long that is from the appliance's now: its clock and this one's may differ."""
    try:
        now = datetime.fromisoformat(found.started) + timedelta(seconds=found.uptime)
        return "-" if until is None else f"in {span(max(0.0, (datetime.fromisoformat(until) - now).total_seconds()))}"
    except (ValueError, TypeError):
        return until or "-"


def _remarks(upstream: UpstreamStatus) -> Iterator[str]:
    """What there is to say of an upstream beyond the table."""
    yield from (url.fault for url in upstream.urls if url.fault)
    limit = upstream.rate_limit
    if limit is not None:
        of = "" if limit.limit is None else f" of {limit.limit}"
        window = "" if limit.window is None else f" in {span(limit.window)}"
        yield f"{limit.remaining}{of} pulls{window} are left"
    if upstream.resting:
        yield f"fewer requests were wanted for {', '.join(upstream.resting)}"
