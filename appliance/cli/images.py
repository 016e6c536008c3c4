"""C{pullcache list} and C{pullcache show}: what is held, and what of it can be served without an upstream."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from appliance.api import OPERATOR, UPSTREAM, Image, ImageDetail, ImageList, TagMove
from appliance.cli.client import quoted
from appliance.cli.command import DONE, Commands, Session, new_command
from appliance.cli.screen import count, moment, short, size

_ON_ITS_WAY = " (on its way)"


BY_NAME = "name"
ORDERS = ("size", "last-pulled", "pulls")

PAGE = 500
"""Images that are asked for at once, so that the appliance answers others in between."""


def add_to(commands: Commands) -> None:
    """Add C{list} and C{show}."""
    parser = new_command(commands, "list", "list the images held, and the platforms that can be served offline")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="a name or pattern: nginx, 'ghcr.io/**', '*:1.*'")
    parser.add_argument(
        "--sort", choices=(BY_NAME, *ORDERS), default=BY_NAME, help="the greatest or latest first; names from a to z"
    )
    parser.set_defaults(ask=listed)
    parser = new_command(commands, "show", "show one image: platforms held and absent, referrers, what it lacks")
    parser.add_argument("reference", metavar="REF", help="docker.io/library/nginx:1.27, nginx:1.27, ...@sha256:...")
    parser.set_defaults(ask=shown)


async def listed(session: Session, options: Namespace) -> int:
    """A line for each image."""
    # Pages are of names; another order is known when all images are.
    parameters = {"n": str(PAGE)} if options.sort == BY_NAME else {"sort": options.sort}
    if options.pattern is not None:
        parameters["pattern"] = options.pattern
    documents: list[Any] = []
    found: list[Image] = []
    while True:
        document = await session.client.fetch("images", parameters)
        page = session.client.as_kind(document, ImageList)
        documents += document["images"]
        found += page.images
        if page.next is None or not page.images:
            break
        parameters["last"] = page.next
    if session.screen.as_json:
        session.screen.document({key: each for key, each in document.items() if key != "next"} | {"images": documents})
        return DONE
    if found:
        rows = [
            (
                each.name,
                short(each.digest),
                size(each.size),
                moment(each.last_pulled),
                str(each.pulls),
                _pinned(each),
                _offline(each),
            )
            for each in found
        ]
        session.screen.table([("REFERENCE", "DIGEST", "SIZE", "LAST PULLED", "PULLS", "PINNED", "OFFLINE"), *rows])
    else:
        session.screen.note("nothing of that is held" if options.pattern else "nothing is held yet")
    return DONE


def _pinned(image: Image) -> str:
    """By whom, in a word."""
    if image.pinned is None:
        return "-"
    return "locked" if image.locked else OPERATOR if image.pinned == OPERATOR else "bundle"


def _offline(image: Image) -> str:
    """The platforms that can be served offline, and those that are here in part only or on their way."""
    if not image.platforms:
        return "yes" if image.offline else f"no{_ON_ITS_WAY}" if image.fetching else "no"
    held = [each.platform for each in image.platforms if each.state == "held"]
    coming = [f"{each.platform}{_ON_ITS_WAY}" for each in image.platforms if each.fetching]
    incomplete = [
        f"{each.platform} (incomplete)" for each in image.platforms if each.state == "incomplete" and not each.fetching
    ]
    return " ".join([*held, *coming, *incomplete]) or "no"


async def shown(session: Session, options: Namespace) -> int:
    """All that is known of one image."""
    document = await session.client.fetch(f"images/{quoted(options.reference)}")
    if session.screen.as_json:
        session.screen.document(document)
        return DONE
    detail = session.client.as_kind(document, ImageDetail)
    platforms = [
        (each.platform, _state(each.state, each.missing) + (_ON_ITS_WAY if each.fetching else ""), each.digest)
        for each in detail.image.platforms
    ]
    referrers = [
        (
            each.digest,
            each.artifact_type or each.media_type or "-",
            size(each.size),
            _state(each.state, each.missing),
            each.tag or "-",
        )
        for each in detail.referrers
    ]
    missing = [(each.kind, size(each.size), each.digest) for each in detail.missing]
    moves = [
        (moment(each.at), each.by if each.by == UPSTREAM else f"bundle {short(each.by)}", each.source, _target(each))
        for each in detail.moves
    ]
    session.screen.table(list(_summary(detail)))
    for heading, rows in (
        (("PLATFORM", "STATE", "DIGEST"), platforms),
        (("REFERRER", "TYPE", "SIZE", "STATE", "TAG"), referrers),
        (("MISSING", "SIZE", "DIGEST"), missing),
        (("MOVED", "BY", "FROM", "TO"), moves),
    ):
        if rows:
            session.screen.say()
            session.screen.table([heading, *rows])
    return DONE


def _summary(detail: ImageDetail) -> Iterator[tuple[str, str]]:
    image = detail.image
    yield "reference", image.name
    yield "digest", image.digest
    yield "type", image.media_type or "-"
    yield "size", size(image.size)
    yield "offline", _offline(image)
    if detail.verifiable:
        yield "verifiable", _verifiable(detail)
    yield "pulled", f"{count(image.pulls, 'time')}, last {moment(image.last_pulled)}" if image.pulls else "never"
    if detail.tagged:
        yield "tagged", f"{moment(detail.tagged)}, last checked {moment(detail.checked)}"
    if image.pinned:
        by = "by an operator" if image.pinned == OPERATOR else f"by bundle {image.pinned}"
        yield "pinned", f"{by}; locked: the tag does not move" if image.locked else by
    if detail.upstream_digest:
        yield "upstream", f"says {detail.upstream_digest} instead, which is not served"


def _target(move: TagMove) -> str:
    return f"{move.target} (refused)" if move.refused else move.target


def _verifiable(detail: ImageDetail) -> str:
    """Whether signatures and the like can be looked at without an upstream."""
    lacking = sum(each.state != "held" for each in detail.referrers)
    words = {
        "yes": f"offline, with {count(len(detail.referrers), 'referrer')}",
        "incomplete": f"not wholly: {lacking} of {count(len(detail.referrers), 'referrer')} cannot be served offline",
        "nothing": "nothing refers to it, its upstream said",
        "unknown": "unknown: its upstream never said what refers to it, and nothing of that is held",
    }.get(detail.verifiable, detail.verifiable)
    return words if detail.warning is None else f"{words} ({detail.warning})"


def _state(state: str, missing: int) -> str:
    return f"{state}, {count(missing, 'blob')} missing" if missing else state or "-"
