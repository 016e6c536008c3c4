"""C{pullcache audit}: who changed what, or was refused."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from appliance.api import AuditEntry, AuditList
from appliance.cli.command import DONE, Commands, Session, age, new_command


def add_to(commands: Commands) -> None:
    """Add C{audit}."""
    parser = new_command(commands, "audit", "tell who changed what, or was refused")
    add = parser.add_argument
    add("--since", metavar="AGE", type=age, help="only what came in that time: 12h, 7d")
    add("--action", metavar="ACTION", action="append", help="only these: remove, import, pull...")
    add("--outcome", choices=("done", "refused", "failed"), action="append", help="only these")
    add("--user", metavar="NAME", help="only what this user asked for")
    add("--limit", metavar="N", type=int, help="how many at most, the newest (1000)")
    parser.set_defaults(ask=audit)


async def audit(session: Session, options: Namespace) -> int:
    """A line for each entry, oldest first."""
    given = {
        "since": None if options.since is None else f"{options.since:.0f}s",
        "action": options.action,
        "outcome": options.outcome,
        "user": options.user,
        "limit": options.limit,
    }
    document = await session.client.fetch("audit", {name: value for name, value in given.items() if value is not None})
    screen = session.screen
    if screen.as_json:
        screen.document(document)
        return DONE
    found = session.client.as_kind(document, AuditList)
    if not found.entries:
        screen.note("nothing of that kind was written down")
        return DONE
    screen.table([("TIME", "ACTION", "OUTCOME", "WHO", "WHAT"), *map(_row, found.entries)])
    if found.is_cut:
        screen.note(f"there is more, older than these {len(found.entries)}: ask by --since, or for more by --limit")
    return DONE


def _row(entry: AuditEntry) -> tuple[str, ...]:
    at = entry.time.partition(".")[0].replace("T", " ")
    return at, entry.action, entry.outcome, _who(entry), "; ".join(_what(entry))


def _who(entry: AuditEntry) -> str:
    if entry.user is None and not entry.means:
        return "-" if entry.address == "-" else entry.address
    who = entry.user or "anonymous"
    return who if entry.address == "-" else f"{who}@{entry.address}"


def _what(entry: AuditEntry) -> Iterator[str]:
    yield entry.what or "-"
    if entry.times > 1:
        yield f"{entry.times} times"
    if entry.rule:
        yield entry.rule
    if entry.why:
        yield entry.why
