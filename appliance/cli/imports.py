"""C{pullcache import}: has the appliance read an archive into what it serves."""

from __future__ import annotations

import os
import stat
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from appliance.bundle.receipt import Change, Receipt
from appliance.cli.command import DONE, FAILED, Commands, Session, new_command
from appliance.cli.failures import CommandFailed, RefusedByAppliance, WrongUsage
from appliance.cli.keys import public_key
from appliance.cli.screen import Screen, count, short, size
from appliance.cli.sending import follow, send
from appliance.errors import NameInvalid
from appliance.oci.reference import parse_prefix

#: How many of the digests that are missing people are shown.
SHOWN = 10

#: The appliance's word for a file that it cannot open, or that is no archive.
UNREADABLE = "bundle-unreadable"

ON_EXISTING_TAG = ("move", "keep", "refuse")


def add_to(commands: Commands) -> None:
    """Add C{import}."""
    parser = new_command(commands, "import", "have the appliance import a bundle, an OCI layout or a docker archive")
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="read by the appliance, as its user, or sent to one elsewhere")
    add("--send", action="store_true", help="send the files, also to an appliance on this machine")
    add("--dry-run", action="store_true", help="tell what would come of it, and store nothing")
    add("--trust", metavar="PUBKEY", action="append", default=[], help="a public key, or its file; refuse others")
    add("--as", dest="name", metavar="NAME", help="the reference, where the archive does not name its image")
    add(
        "--rename",
        metavar="OLD=NEW",
        action="append",
        default=[],
        type=renaming,
        help="call what begins with OLD by NEW, as in registry.corp:5000/team=docker.io/team",
    )
    add("--on-existing-tag", choices=ON_EXISTING_TAG, default="move", help="when a tag means something else here")
    parser.set_defaults(ask=imported)


async def imported(session: Session, options: Namespace) -> int:
    """
    Follow the import to its end and print the receipt; status 1 when a dry run says that it would be refused.

    An appliance on another machine is sent the files, unless they are not here: then they are its own.
    """
    files = [str(Path(name).absolute()) for name in options.files]
    seen = [fault for fault in map(fault_of, files) if fault is not None]
    chosen = choices(options)
    try:
        if options.send and seen:
            raise CommandFailed(f"{seen[0]}; --send sends what is here")
        if options.send or (not seen and is_elsewhere(session.client.url)):
            receipt = await send(session, [Path(file) for file in files], chosen)
        else:
            order = msgspec.json.encode({"files": files, **chosen})
            receipt = await follow(session, await session.client.open("POST", "imports", order), "storing")
    except RefusedByAppliance as refused:
        if refused.code == UNREADABLE:
            for fault in seen:
                session.screen.note(fault)
        raise
    if session.screen.as_json:
        session.screen.document(receipt)
    report(session.screen, receipt)
    return FAILED if receipt.missing or (receipt.dry_run and receipt.unknown_upstreams) else DONE


def fault_of(name: str) -> str | None:
    """
    What is wrong with a path as seen from here, C{None} for nothing: the appliance does not say what is on its disk.
    It is asked in any case: it may be another machine, and it reads as a user of its own.

    @raise CommandFailed: the name cannot be asked for.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise CommandFailed(f"{name}: the name is not UTF-8, in which the appliance is asked; rename it") from None
    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        return f"{name}: {error.strerror or error}, as seen from here"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return f"{name}: is neither a file nor a folder, as seen from here"
    return (
        None if os.access(name, os.R_OK) else f"{name}: is not for you to read; the appliance reads it as its own user"
    )


def is_elsewhere(url: str) -> bool:
    """Whether an admin endpoint is on another machine, as far as its address tells."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname == "localhost":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def choices(options: Namespace) -> dict[str, Any]:
    """
    What C{POST /api/v1/imports} is sent beside the files, see L{appliance.api.ImportChoices}.

    @raise WrongUsage: a key is none, or one prefix is renamed to two.
    """
    renames: dict[str, str] = {}
    for old, new in options.rename:
        if renames.setdefault(old, new) != new:
            raise WrongUsage(f"--rename {old} is to be {renames[old]} and {new}; give one of them")
    given = {
        "dryRun": options.dry_run,
        "trust": [str(public_key(each)) for each in options.trust],
        "as": options.name,
        "rename": renames,
        "onExistingTag": options.on_existing_tag,
    }
    return {name: value for name, value in given.items() if value not in (None, False, [], {})}


def renaming(text: str) -> tuple[str, str]:
    """The two prefixes of C{OLD=NEW}, as an argument's type."""
    old, equals, new = text.partition("=")
    try:
        if not equals:
            raise NameInvalid("write OLD=NEW")
        return parse_prefix(old), parse_prefix(new)
    except NameInvalid as error:
        raise ArgumentTypeError(f"{text}: {error}") from error


def report(screen: Screen, receipt: Receipt) -> None:
    """The receipt, for people."""
    screen.table(list(_summary(receipt)))
    images = [change for change in receipt.refs if not change.refers]
    if images:
        screen.say()
        screen.table([("REFERENCE", "WAS", "", "IS", "OUTCOME"), *map(_row, images)])
    for change in images:
        if change.renamed_from is not None:
            screen.say(f"{change.name} is called {change.renamed_from} in the archive")
    if len(images) < len(receipt.refs):
        screen.say(f"and {count(len(receipt.refs) - len(images), 'signature or the like', 'signatures and the like')}")
    for note in _notes(receipt):
        screen.note(note)


def _summary(receipt: Receipt) -> Iterator[tuple[str, str]]:
    yield ("would import" if receipt.dry_run else "imported"), f"{receipt.format} {receipt.bundle}"
    if receipt.title:
        yield "title", receipt.title
    yield "signer", f"key {receipt.signer}" if receipt.signer else "none that this appliance trusts"
    if receipt.content_root:
        yield "contentRoot", receipt.content_root
    yield "new", f"{count(receipt.new_blobs, 'blob')}, {size(receipt.new_bytes)}"
    yield "held before", f"{count(receipt.held_blobs, 'blob')}, {size(receipt.held_bytes)}"
    if receipt.id:
        yield "receipt", receipt.id


def _row(change: Change) -> tuple[str, str, str, str, str]:
    outcome = f"{change.outcome}, manifest rebuilt" if change.rebuilt else change.outcome
    if change.outcome == "kept":
        return change.name, short(change.previous), "<-", short(change.digest), outcome
    before = change.digest if change.outcome == "unchanged" else change.previous
    return change.name, short(before), "->", short(change.digest), outcome


def _notes(receipt: Receipt) -> Iterator[str]:
    yield from receipt.notes
    for upstream in receipt.unknown_upstreams:
        yield f"no upstream is called {upstream} here: configure it first, or import with --rename {upstream}=NAME"
    for digest in receipt.missing[:SHOWN]:
        yield f"missing: {digest}"
    if len(receipt.missing) > SHOWN:
        yield f"missing: {len(receipt.missing) - SHOWN} more, which --json names"
    if receipt.missing:
        yield "it cannot be imported: import what it builds on first, or have a full bundle exported"
