"""C{pullcache collect}: remove what retention does not keep, or say what would go."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from appliance.api import CollectionReport
from appliance.cli.command import DONE, Commands, Session, new_command
from appliance.cli.screen import count, size


def add_to(commands: Commands) -> None:
    """Add C{collect}."""
    parser = new_command(commands, "collect", "remove what retention does not keep, and what nothing refers to")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and leave it")
    parser.set_defaults(ask=collect)


async def collect(session: Session, options: Namespace) -> int:
    """A line for each image, and for the blobs that nothing refers to; returns when it is done."""
    screen, meter = session.screen, session.meter()
    try:
        meter.begin("collecting", None)
        order = msgspec.json.encode({"dryRun": options.dry_run})
        document = await session.client.fetch("collections", method="POST", body=order)
    finally:
        meter.close()
    if screen.as_json:
        screen.document(document)
        return DONE
    found = session.client.as_kind(document, CollectionReport)
    loose = [blob for blob in found.blobs if blob.why == "unreferenced"]
    rows = [(image.name, image.why, size(image.bytes)) for image in found.images]
    if loose:
        rows.append((count(len(loose), "blob"), "unreferenced", size(sum(blob.bytes for blob in loose))))
    if rows:
        screen.table([("IMAGE", "WHY", "FREES"), *rows])
        screen.say()
    word = "would be freed" if found.dry_run else "were freed"
    screen.say(f"{size(found.freed)} {word}, {size(found.after)} {'would stay' if found.dry_run else 'stay'}")
    for note in found.notes:
        screen.note(note)
    return DONE
