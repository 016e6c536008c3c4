"""Pins and removals: C{/api/v1/pins}, and C{DELETE /api/v1/images/...}."""

from __future__ import annotations

from twisted.web.server import Request

from appliance.admin.route import Parameter, Reply, Route, about, body, flag, json
from appliance.api import GoneBlob, GoneImage, Pin, PinList, PinOrder, RemovalReport, SharedBlobs
from appliance.bundle.names import Names
from appliance.cache.pins import PinChange, Pins
from appliance.cache.removal import ImageRemoval
from appliance.identity.roles import Role
from appliance.oci.pattern import ReferencePattern

#: The most bytes of an order: one reference.
_ORDER = 4096

#: Why it goes.
_REMOVED = "removed"


class PinPages:
    """Pins, unpins and removes what an operator names."""

    def __init__(self, pins: Pins, removal: ImageRemoval, names: Names) -> None:
        self._pins = pins
        self._removal = removal
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
                action="pin",
                role=Role.OPERATE,
            ),
            Route(
                "DELETE",
                one,
                self.unpin,
                "Keep images no longer; their tags may move.",
                PinList,
                action="unpin",
                role=Role.OPERATE,
            ),
            Route(
                "DELETE",
                "/api/v1/images/<path:reference>",
                self.remove,
                "Remove images, with all that only they need.",
                RemovalReport,
                (
                    Parameter("dry_run", "Say what would go, and remove nothing.", flag=True),
                    Parameter("force", "Also what an operator has pinned.", flag=True),
                ),
                action="remove",
                role=Role.MANAGE,
            ),
        ]

    async def pin(self, request: Request) -> Reply:
        """What was pinned, as it is now."""
        order = body(request, PinOrder)
        about(request).what = f"{order.reference} --digest" if order.digest else order.reference
        return _listed(await self._pins.pin(self._pattern(order.reference), order.digest))

    async def unpin(self, request: Request, reference: str) -> Reply:
        """What was pinned, whoever had pinned it."""
        return _listed(await self._pins.unpin(self._pattern(reference)))

    async def remove(self, request: Request, reference: str) -> Reply:
        """What went, and what uses what stays. A client that leaves ends the waiting only."""
        dry_run, force = flag(request, "dry_run"), flag(request, "force")
        about(request).is_trial = dry_run
        done = await self._removal.remove(self._pattern(reference), dry_run, force)
        return json(
            RemovalReport(
                [GoneImage(each.name, str(each.digest), _REMOVED, each.octets) for each in done.images],
                [GoneBlob(str(digest), _REMOVED, octets) for digest, octets in done.blobs],
                SharedBlobs(len(done.stays), sum(octets for _, octets in done.stays), done.users, done.others),
                done.notes,
                dry_run,
            )
        )

    def _pattern(self, text: str) -> ReferencePattern:
        return ReferencePattern.parse(self._names.behind(text), self._names.upstream_for)


def _listed(changes: list[PinChange]) -> Reply:
    return json(PinList([Pin(each.name, str(each.digest), each.before, each.pinned, each.locked) for each in changes]))
