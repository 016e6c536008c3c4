"""What an export elsewhere needs to know of this side: C{inventory} and C{wants} of C{/api/v1/}."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.route import Parameter, Reply, Route, json, value
from appliance.api import HeldBlob, Inventory, WantEntry, WantList
from appliance.cache.wants import Wants
from appliance.flow.clock import wall
from appliance.index.manifests import HeldManifests
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.reference import full_name
from appliance.oci.timestamps import timestamp

_FORMATS = ("json", "text")


class InventoryPage:
    """Answers with what this side holds, and with what it was asked for and lacks."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        wants: Wants,
        threads: IThreads,
        site: str,
        clock: IReactorTime,
    ) -> None:
        self._store = store
        self._threads = threads
        self._repositories = repositories
        self._wants = wants
        self._site = site
        self._clock = clock
        self._manifests = HeldManifests(store, threads, room=0)

    def routes(self) -> list[Route]:
        """The routes of this part."""
        form = Parameter("format", "json, or text: one name a line, as export --list takes it. Default: json.")
        return [
            Route("GET", "/api/v1/inventory", self.inventory, "Every blob held, for an export elsewhere.", Inventory),
            Route("GET", "/api/v1/wants", self.wants, "What was asked for and lacking.", WantList, (form,)),
        ]

    async def inventory(self, request: Request) -> Reply:
        """Everything that some repository can serve; what only lies in the store is left out."""
        manifests: set[Digest] = set()
        named: set[Digest] = set()
        for place in await self._repositories.names():
            repository = await self._repositories.read(*place)
            manifests.update(repository.manifests)
            named.update(repository.blobs)
            async for _, manifest in self._manifests.held(repository):
                named.update(blob.parsed() for blob in manifest.blobs)
        # Every blob is looked for once more, and all of it is written at once: that may take seconds.
        taken = timestamp(wall(self._clock))
        return await self._threads.call(lambda: json(self._inventory(manifests, named, taken)))

    def wants(self, request: Request) -> Reply:
        """In the order in which they were asked for last, the oldest first."""
        form = value(request, "format") or _FORMATS[0]
        if form not in _FORMATS:
            raise Refused(400, "bad-request", f"format={form[:40]}: the formats are {', '.join(_FORMATS)}")
        entries = [
            WantEntry(
                name=full_name(want.upstream, want.repository, want.reference),
                upstream=want.upstream,
                repository=want.repository,
                reference=want.reference,
                platform=want.platform,
                reason=want.reason,
                first=timestamp(want.first),
                last=timestamp(want.last),
                count=want.count,
            )
            for want in self._wants.snapshot()
        ]
        if form == "text":
            return Reply("".join(f"{entry.name}\n" for entry in entries).encode(), content_type="text/plain")
        return json(WantList(site=self._site, taken=timestamp(wall(self._clock)), wants=entries))

    def _inventory(self, manifests: Iterable[Digest], named: Iterable[Digest], taken: str) -> Inventory:
        sizes = {str(digest): self._store.size(digest) for digest in {*manifests, *named}}
        blobs = [HeldBlob(digest=digest, size=size) for digest, size in sorted(sizes.items()) if size is not None]
        generation = hashlib.sha256()
        for blob in blobs:
            generation.update(f"{blob.digest} {blob.size}\n".encode("ascii"))
        return Inventory(
            site=self._site,
            taken=taken,
            generation=f"sha256:{generation.hexdigest()}",
            manifests=sorted(digest for digest in map(str, manifests) if sizes[digest] is not None),
            blobs=blobs,
        )
