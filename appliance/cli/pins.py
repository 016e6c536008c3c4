"""C{pullcache pin} and C{pullcache unpin}: what retention leaves alone, and which tags do not move."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from appliance.api import OPERATOR, Pin, PinList
from appliance.cli.client import quoted
from appliance.cli.command import DONE, FAILED, Commands, Session, new_command
from appliance.cli.failures import RefusedByAppliance
from appliance.cli.screen import short


def add_to(commands: Commands) -> None:
    """Add C{pin} and C{unpin}."""
    names = "a name or pattern, as list takes it: nginx:1.27, 'ghcr.io/team/**'"
    parser = new_command(commands, "pin", "keep images from retention")
    parser.add_argument("references", metavar="REF", nargs="+", help=names)
    parser.add_argument("--digest", action="store_true", help="lock their tags: they mean what they mean now")
    parser.set_defaults(ask=pin)
    parser = new_command(commands, "unpin", "keep images no longer, and let their tags move")
    parser.add_argument("references", metavar="REF", nargs="+", help=names)
    parser.set_defaults(ask=unpin)


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
