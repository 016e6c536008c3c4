"""What an export elsewhere needs to know of this side: C{inventory} and C{wants} of C{/api/v1/}."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.route import Parameter, Reply, Route, json, send_pieces, value
from appliance.api import HeldBlob, Inventory, WantEntry, WantList
from appliance.cache.wants import Wants
from appliance.flow.clock import wall
from appliance.index.manifests import TURN, HeldManifests
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.reference import full_name
from appliance.oci.timestamps import timestamp

if TYPE_CHECKING:
    from hashlib import _Hash

_FORMATS = ("json", "text")

Group = tuple[str, str]
"""Algorithm, and the first two characters of the hash."""


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

    async def inventory(self, request: Request) -> None:
        """Everything that some repository can serve; what only lies in the store is left out."""
        known = _Known()
        for place in await self._repositories.names():
            repository = await self._repositories.read(*place)
            for digests, are_manifests in ((list(repository.manifests), True), (list(repository.blobs), False)):
                for first in range(0, len(digests), TURN):
                    known.add(digests[first : first + TURN], are_manifests)
                    await self._manifests.walked(len(digests))
            async for _, manifest in self._manifests.held(repository):
                known.add(blob.parsed() for blob in manifest.blobs)
        await send_pieces(request, self._inventory(known))

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

    async def _inventory(self, known: _Known) -> AsyncIterator[bytes]:
        """An L{Inventory} in pieces, of which each takes a turn of a thread: every blob is looked for once more."""
        head = msgspec.json.encode({"site": self._site, "taken": timestamp(wall(self._clock))})
        yield head[:-1] + b',"blobs":['
        generation = hashlib.sha256()
        comma = b""
        for group in known.groups():
            if blobs := await self._threads.call(self._held, known, group, generation):
                yield comma + b",".join(blobs)
                comma = b","
        yield f'],"generation":"sha256:{generation.hexdigest()}","manifests":['.encode("ascii")
        comma = b""
        for group in known.groups():
            # By now those that are not held are not among them.
            if manifests := known.manifests(group):
                yield comma + msgspec.json.encode(manifests)[1:-1]
                comma = b","
        yield b"]}"

    def _held(self, known: _Known, group: Group, generation: _Hash) -> list[bytes]:
        """Of those in C{group}, each that is held as a L{HeldBlob}; the others are forgotten."""
        found = []
        for digest in known.of(group):
            size = self._store.size(digest)
            if size is None:
                known.forget(digest)
            else:
                generation.update(f"{digest} {size}\n".encode("ascii"))
                found.append(msgspec.json.encode(HeldBlob(digest=str(digest), size=size)))
        return found


class _Known:
    """
    A great many digests, in order, each with whether it is a manifest's. A digest takes a hundred bytes; and as they
    are in some hundred groups, no sort and no growth of a table takes more than a millisecond.
    """

    def __init__(self) -> None:
        self._groups: dict[Group, dict[bytes, bool]] = {}

    def add(self, digests: Iterable[Digest], are_manifests: bool = False) -> None:
        """Add some; what was once a manifest stays one."""
        for digest in digests:
            group = self._groups.setdefault((digest.algorithm, digest.encoded[:2]), {})
            key = bytes.fromhex(digest.encoded)
            group[key] = are_manifests or group.get(key, False)

    def forget(self, digest: Digest) -> None:
        """One that was added is not wanted any more."""
        del self._groups[digest.algorithm, digest.encoded[:2]][bytes.fromhex(digest.encoded)]

    def groups(self) -> list[Group]:
        """All groups, in order."""
        return sorted(self._groups)

    def of(self, group: Group) -> list[Digest]:
        """The digests of a group, in order."""
        return [Digest(group[0], key.hex()) for key in sorted(self._groups[group])]

    def manifests(self, group: Group) -> list[str]:
        """Those of them that are manifests', as text."""
        return [f"{group[0]}:{key.hex()}" for key, is_manifest in sorted(self._groups[group].items()) if is_manifest]
