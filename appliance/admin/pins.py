"""Pins and removals: C{/api/v1/pins}, and C{DELETE /api/v1/images/...}."""

from __future__ import annotations

from twisted.web.server import Request

from appliance.admin.route import Reply, Route, body, json
from appliance.api import Pin, PinList, PinOrder
from appliance.bundle.names import Names
from appliance.cache.pins import PinChange, Pins
from appliance.oci.pattern import ReferencePattern

#: The most bytes of an order: one reference.
_ORDER = 4096


class PinPages:
    """Pins and unpins what an operator names."""

    def __init__(self, pins: Pins, names: Names) -> None:
        self._pins = pins
        self._names = names

    def routes(self) -> list[Route]:
        """The routes of this part."""
        one = "/api/v1/pins/<path:reference>"
        return [
            Route(
                "POST",
                "/api/v1/pins",
                self.pin,
                "Keep images from retention, and their tags from moving.",
                PinList,
                takes=PinOrder,
                body_limit=_ORDER,
            ),
            Route("DELETE", one, self.unpin, "Keep images no longer; their tags may move.", PinList),
        ]

    async def pin(self, request: Request) -> Reply:
        """What was pinned, as it is now."""
        order = body(request, PinOrder)
        return _listed(await self._pins.pin(self._pattern(order.reference), order.digest))

    async def unpin(self, request: Request, reference: str) -> Reply:
        """What was pinned, whoever had pinned it."""
        return _listed(await self._pins.unpin(self._pattern(reference)))

    def _pattern(self, text: str) -> ReferencePattern:
        return ReferencePattern.parse(self._names.behind(text), self._names.upstream_for)


def _listed(changes: list[PinChange]) -> Reply:
    return json(PinList([Pin(each.name, str(each.digest), each.before, each.pinned, each.locked) for each in changes]))
