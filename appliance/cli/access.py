"""C{pullcache access explain}: what a client may pull, and which rule says so."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from ipaddress import ip_address

from appliance.api import AccessAnswer, AccessReport
from appliance.cli.command import DONE, Commands, Session, new_command

_MEANING = {200: "allowed", 401: "401, log in", 403: "403, not pulled through", 404: "404, does not exist for it"}


def add_to(commands: Commands) -> None:
    """Add C{access}."""
    parser = new_command(commands, "access", "say who may pull what, and which rule decides")
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    explain = new_command(below, "explain", "say what a client may pull, and which rule decides")
    explain.add_argument(
        "client",
        metavar="USER@ADDRESS",
        type=client,
        help="who asks: alice@10.0.0.7, or 10.0.0.7 for an anonymous client there, or alice from anywhere",
    )
    explain.add_argument("reference", metavar="REF", help="an image or a repository: ghcr.io/team/app")
    explain.add_argument("--listener", metavar="NAME", help="the listener it is connected to; without, each of them")
    explain.add_argument("--list", action="store_true", help="the list of the tags, in place of the image")
    explain.set_defaults(ask=explained)


def client(text: str) -> tuple[str, str]:
    """
    User and address, each empty where it is not given, as an argument's type. A user's name may hold an C{@}: the last
    one counts.
    """
    user, at, address = text.rpartition("@")
    try:
        ip_address(address)
    except ValueError:
        if at and address:
            raise ArgumentTypeError(f"{text}: {address} is no IP address; write USER@ADDRESS") from None
        return user or address, ""
    return user, address


async def explained(session: Session, options: Namespace) -> int:
    """A line for each listener."""
    user, address = options.client
    given = {
        "reference": options.reference,
        "user": user,
        "address": address,
        "listener": options.listener,
        "action": "list" if options.list else "pull",
    }
    document = await session.client.fetch("access", {name: value for name, value in given.items() if value})
    if session.screen.as_json:
        session.screen.document(document)
        return DONE
    report = session.client.as_kind(document, AccessReport)
    who = f"{report.user or 'an anonymous client'} at {report.address or 'an unknown address'}"
    session.screen.say(f"{who}: {report.action} {report.repository}")
    session.screen.table([("LISTENER", "ANSWER", "DECIDED BY"), *map(_row, report.answers)])
    return DONE


def _row(answer: AccessAnswer) -> tuple[str, str, str]:
    reasons = [answer.rule, *answer.notes] if answer.rule else answer.notes
    return answer.listener, _MEANING.get(answer.status, str(answer.status)), "; ".join(reasons) or "there are no rules"
