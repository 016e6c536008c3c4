"""Collections: C{POST /api/v1/collections}."""

from __future__ import annotations

from twisted.web.server import Request

from appliance.admin.route import Reply, Route, about, body, json
from appliance.api import CollectionOrder, CollectionReport, GoneBlob, GoneImage
from appliance.cache.collection import Collected, Collection
from appliance.identity.roles import Role
from appliance.interfaces import IThreads
from appliance.oci.timestamps import timestamp

#: The most bytes of an order.
_ORDER = 1024


class CollectionPages:
    """Runs the collection when an operator asks for it."""

    def __init__(self, collection: Collection, threads: IThreads) -> None:
        self._collection = collection
        self._threads = threads

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route(
                "POST",
                "/api/v1/collections",
                self.collect,
                "Remove what retention does not keep, and what nothing refers to; or say what would go.",
                CollectionReport,
                takes=CollectionOrder,
                body_limit=_ORDER,
                action="collect",
                role=Role.MANAGE,
            )
        ]

    async def collect(self, request: Request) -> Reply:
        """Answers when the run has ended; a client that leaves ends none."""
        about(request).is_trial = dry_run = body(request, CollectionOrder).dry_run
        found = await self._collection.run(dry_run)
        # A hundred thousand blobs would hold up all others.
        return await self._threads.call(lambda: json(report_of(found)))


def report_of(found: Collected) -> CollectionReport:
    """A run as the API tells it."""
    return CollectionReport(
        started=timestamp(found.started),
        dry_run=found.dry_run,
        before=found.before,
        after=found.after,
        freed=found.freed,
        images=[GoneImage(each.name, str(each.digest), each.why, each.size) for each in found.images],
        blobs=[GoneBlob(str(each.digest), each.why, each.size) for each in found.blobs],
        notes=found.notes,
    )
