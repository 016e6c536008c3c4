"""C{pullcache reload}: the appliance reads its configuration again."""

from __future__ import annotations

from argparse import Namespace

from appliance.api import Reloaded
from appliance.cli.command import DONE, Commands, Session, new_command


def add_to(commands: Commands) -> None:
    """Add C{reload}."""
    parser = new_command(commands, "reload", "read the configuration again; one that cannot be used changes nothing")
    parser.set_defaults(ask=reload)


async def reload(session: Session, options: Namespace) -> int:
    """Say what of it takes effect with a restart only."""
    document = await session.client.fetch("reload", method="POST")
    if session.screen.as_json:
        session.screen.document(document)
        return DONE
    session.screen.say("the configuration was read again")
    for key in session.client.as_kind(document, Reloaded).restart:
        session.screen.note(f"{key} changed: that takes effect with a restart")
    return DONE
