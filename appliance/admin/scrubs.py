"""Scrubs that an operator orders: C{POST /api/v1/scrubs}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from appliance.admin.failures import answer_for, document, internal
from appliance.admin.route import NDJSON, JsonLines, Route, body
from appliance.api import DamagedBlob, ScrubOrder, ScrubReport
from appliance.cache.scrub import Scrub, ScrubRun
from appliance.errors import ScrubUnderWay
from appliance.identity.roles import Role
from appliance.oci.timestamps import timestamp

#: The most bytes of an order: one number.
_ORDER = 4096


class ScrubPages:
    """Runs scrubs."""

    _log = Logger()

    def __init__(self, scrub: Scrub, clock: IReactorTime) -> None:
        self._scrub = scrub
        self._clock = clock

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route(
                "POST",
                "/api/v1/scrubs",
                self.order,
                "Hash all that is held; progress, then a report or an error.",
                NDJSON,
                takes=ScrubOrder,
                body_limit=_ORDER,
                action="scrub",
                role=Role.MANAGE,
            )
        ]

    async def order(self, request: Request) -> None:
        """
        One line for each step, at last C{{"report": ...}} or C{{"error": ...}}. A client that leaves ends the scrub, so
        that Ctrl-C does; what was found by then is mended all the same.
        """
        order = body(request, ScrubOrder)
        if self._scrub.is_ordered:
            raise ScrubUnderWay("a scrub is under way already; there is one at a time")
        lines = JsonLines(request, self._clock)
        lines.send(await self._outcome(order, lines))

    async def _outcome(self, order: ScrubOrder, lines: JsonLines) -> dict[str, object]:
        try:
            return {"report": report_of(await self._scrub.run(order.rate, lines.progress))}
        except CancelledError:
            if not self._scrub.is_stopped:
                raise
            return document("stopped", "the appliance is being stopped; scrub again later")
        except Exception as error:
            answer = answer_for(error)
            if answer is None:
                self._log.failure("scrubbing", Failure())
            return (answer or internal())[1]


def report_of(run: ScrubRun) -> ScrubReport:
    """What a finished run found."""
    return ScrubReport(
        checked=run.checked,
        bytes=run.bytes,
        unread=run.unread,
        damaged=[DamagedBlob(each.digest, each.size, each.outcome) for each in run.damaged],
        began=timestamp(run.began),
        finished=None if run.finished is None else timestamp(run.finished),
    )
