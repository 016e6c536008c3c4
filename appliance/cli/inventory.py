"""C{pullcache inventory} and C{pullcache wants}: what an export elsewhere needs to know of this side."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from appliance.cli.command import DONE, Commands, Session, new_command
from appliance.cli.partfile import PartFile
from appliance.cli.screen import count


def add_to(commands: Commands) -> None:
    """Add C{inventory} and C{wants}."""
    for name, summary in (
        ("inventory", "write down what this side holds, for: export --have"),
        ("wants", "write down what this side was asked for and lacks, for: export --want"),
    ):
        parser = new_command(commands, name, summary)
        parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file; - is standard output")
        parser.set_defaults(ask=fetched, document=name)


async def fetched(session: Session, options: Namespace) -> int:
    """Fetch the document and write it as it came."""
    body = await session.client.fetch_bytes(options.document)
    document = session.client.as_kind(session.client.parsed(body), dict[str, Any])
    if options.output == "-":
        session.screen.raw(body)
        return DONE
    with PartFile(Path(options.output)) as part:
        part.write(body)
        part.finish()
    if session.screen.as_json:
        session.screen.document({"file": options.output, "size": len(body)})
    key, one = ("wants", "want") if options.document == "wants" else ("blobs", "blob")
    session.screen.say(f"{options.output}  {count(len(document.get(key, ())), one)}")
    return DONE
