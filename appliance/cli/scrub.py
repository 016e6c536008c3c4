"""C{pullcache scrub}: hashes what is held, over a running appliance or in the store of a stopped one."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import msgspec

from appliance.api import ScrubReport
from appliance.cli.client import refusal
from appliance.cli.command import DONE, FAILED, Commands, Local, Session, new_command, rate
from appliance.cli.failures import CommandFailed
from appliance.cli.screen import Screen, count, size

#: What became of a damaged blob, for people; scripts have learnt the keys.
OUTCOMES = {
    "fetched": "fetched again",
    "wanted": "not held: it is among the wants",
    "unreferenced": "set aside; no image needs it",
}

#: Outcomes that leave something to be mended.
LACKING = frozenset({"wanted"})


def add_to(commands: Commands) -> None:
    """Add C{scrub}."""
    parser = new_command(commands, "scrub", "hash all that is held; what is damaged is set aside and fetched again")
    parser.add_argument("--rate", metavar="RATE", type=rate, help="bytes a second: 50MB/s; default: as configured")
    parser.add_argument("--store", metavar="DIR", type=Path, help="work on this store, whose appliance is stopped")
    parser.set_defaults(ask=scrub, run=scrub_store)


async def scrub(session: Session, options: Namespace) -> int:
    """Follow the scrub to its end and print what was damaged; status 1 when some of it is lacking."""
    response = await session.client.open("POST", "scrubs", msgspec.json.encode({"rate": options.rate}))
    meter = session.meter()
    begun = False
    try:
        async for line in session.client.lines(response):
            if "report" in line:
                meter.close()
                return _told(session.screen, session.client.as_kind(line["report"], ScrubReport))
            if "error" in line:
                raise refusal(line, "the appliance does not say why; see its log")
            if line.get("stage") == "checking":
                if not begun:
                    begun = True
                    meter.begin("checking", line.get("total"))
                meter.at(line.get("done", 0))
    finally:
        meter.close()
    raise CommandFailed("the appliance ended without a report; see its log, then scrub again")


def scrub_store(local: Local, options: Namespace) -> int:
    """
    As L{scrub}, where no appliance runs: what is damaged is set aside, and among the wants of the next start.

    @raise StoreError: it is no store, or an appliance has it.
    """
    # All of the appliance, which other commands need not load.
    from appliance.wiring import scrub_stopped

    meter = local.meter()
    begun = False

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal begun
        if stage == "checking":
            if not begun:
                begun = True
                meter.begin("checking", total)
            meter.at(done)

    try:
        report, unnoted = scrub_stopped(options.store, options.rate, progress)
    finally:
        meter.close()
    code = _told(local.screen, report)
    if unnoted is not None:
        why = unnoted.strerror or unnoted
        local.screen.note_error(f"what was found could not be noted in {options.store} ({why}): scrub again")
        return FAILED
    return code


def _told(screen: Screen, report: ScrubReport) -> int:
    is_lacking = any(each.outcome in LACKING for each in report.damaged)
    if screen.as_json:
        screen.document(msgspec.to_builtins(report))
    else:
        rows = ((each.digest, size(each.bytes), OUTCOMES.get(each.outcome, each.outcome)) for each in report.damaged)
        screen.table(rows)
        screen.say(f"checked {count(report.checked, 'blob')}, {size(report.bytes)}; {len(report.damaged)} damaged")
        if report.unread:
            why = "the appliance's log, or the kernel's, says why"
            screen.note(f"{count(report.unread, 'blob')} could not be read: {why}")
        if is_lacking:
            screen.note("what is lacking comes with a bundle for these wants, or from its upstream when that answers")
    return FAILED if is_lacking or report.unread else DONE
