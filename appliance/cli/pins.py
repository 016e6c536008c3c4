"""C{pullcache pin}, C{unpin} and C{remove}: what retention leaves alone, which tags do not move, and what goes now."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from appliance.api import OPERATOR, Pin, PinList, RemovalReport
from appliance.cli.client import quoted
from appliance.cli.command import DONE, FAILED, Commands, Session, new_command
from appliance.cli.failures import RefusedByAppliance
from appliance.cli.screen import Screen, count, short, size


def add_to(commands: Commands) -> None:
    """Add C{pin}, C{unpin} and C{remove}."""
    names = "a name or pattern, as list takes it: nginx:1.27, 'ghcr.io/team/**'"
    parser = new_command(commands, "pin", "keep images from retention")
    parser.add_argument("references", metavar="REF", nargs="+", help=names)
    parser.add_argument("--digest", action="store_true", help="lock their tags: they mean what they mean now")
    parser.set_defaults(ask=pin)
    parser = new_command(commands, "unpin", "keep images no longer, and let their tags move")
    parser.add_argument("references", metavar="REF", nargs="+", help=names)
    parser.set_defaults(ask=unpin)
    parser = new_command(commands, "remove", "remove images, with all that only they need")
    parser.add_argument("references", metavar="REF", nargs="+", help=names)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    parser.add_argument("--force", action="store_true", help="also what pin keeps")
    parser.set_defaults(ask=remove)


async def pin(session: Session, options: Namespace) -> int:
    """A line for each image that was pinned."""

    def order(reference: str) -> Awaitable[Any]:
        body = msgspec.json.encode({"reference": reference, "digest": options.digest})
        return session.client.fetch("pins", method="POST", body=body)

    return await _changed(session, options.references, order, "")


async def unpin(session: Session, options: Namespace) -> int:
    """A line for each image that was pinned, and what had pinned it."""

    def order(reference: str) -> Awaitable[Any]:
        return session.client.fetch(f"pins/{quoted(reference)}", method="DELETE")

    return await _changed(session, options.references, order, "was not pinned")


async def remove(session: Session, options: Namespace) -> int:
    """A line for each image that goes, and what others use of what stays."""
    screen, code, documents = session.screen, DONE, list[Any]()
    given = {"dry_run": options.dry_run, "force": options.force}
    for reference in options.references:
        try:
            path, parameters = f"images/{quoted(reference)}", {name: "1" for name, value in given.items() if value}
            document = await session.client.fetch(path, parameters, method="DELETE")
        except RefusedByAppliance as error:
            screen.note_error(error)
            code = FAILED
            continue
        _report(screen, session.client.as_kind(document, RemovalReport))
        documents.append(document)
    if screen.as_json and documents:
        screen.document(_together(documents))
    return code


def _together(documents: list[Any]) -> Any:
    """One document of several."""
    if len(documents) == 1:
        return documents[0]
    found = {key: [each for document in documents for each in document[key]] for key in ("images", "blobs", "notes")}
    stays = [document["stays"] for document in documents]
    users = list(dict.fromkeys(user for each in stays for user in each["users"]))
    sums = {key: sum(each[key] for each in stays) for key in ("blobs", "bytes", "others")}
    return documents[0] | found | {"stays": sums | {"users": users}}


def _report(screen: Screen, found: RemovalReport) -> None:
    screen.table(
        [
            ("REFERENCE", "DIGEST", "FREES"),
            *((each.name, short(each.digest), size(each.bytes)) for each in found.images),
        ]
    )
    freed = f"{count(len(found.blobs), 'blob')} ({size(sum(each.bytes for each in found.blobs))})"
    screen.say(f"{'would free' if found.dry_run else 'freed'} {freed}")
    stays, users = found.stays, found.stays.users
    if stays.blobs:
        more = len(users) + stays.others - 1
        others = f" and {count(more, 'other image')}" if more > 0 else ""
        verb = "use" if more > 0 else "uses"
        screen.say(
            f"{count(stays.blobs, 'blob')} ({size(stays.bytes)}) {'stays' if stays.blobs == 1 else 'stay'}:"
            f" {users[0] if users else 'another image'}{others} {verb} {'it' if stays.blobs == 1 else 'them'}"
        )
    for note in found.notes:
        screen.note(note)


async def _changed(
    session: Session, references: Sequence[str], order: Callable[[str], Awaitable[Any]], nothing: str
) -> int:
    """Have C{order} carried out for each reference; what is refused keeps no other from it."""
    screen, code, documents, pins = session.screen, DONE, list[Any](), list[Pin]()
    for reference in references:
        try:
            document = await order(reference)
        except RefusedByAppliance as error:
            screen.note_error(error)
            code = FAILED
            continue
        found = session.client.as_kind(document, PinList).pins
        documents += document["pins"]
        pins += found
        if not found:
            screen.note(f"{reference} {nothing}")
    if screen.as_json:
        screen.document({"pins": documents})
    elif pins:
        screen.table([("REFERENCE", "DIGEST", "PINNED"), *((each.name, each.digest, _words(each)) for each in pins)])
    return code


def _words(pin: Pin) -> str:
    if pin.pinned is not None:
        return "locked: the tag does not move" if pin.locked else "yes"
    return (
        "no longer" if pin.before in (None, OPERATOR) else f"no longer; bundle {short(str(pin.before))} had pinned it"
    )
