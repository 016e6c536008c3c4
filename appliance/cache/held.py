"""Whether something can be served without an upstream."""

from __future__ import annotations

from collections.abc import Callable

from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest


class Held:
    """What the repositories of one store hold, asked for one reference at a time."""

    def __init__(
        self, store: IBlobStore, repositories: Repositories, graph: ManifestGraph, asks: Callable[[str], bool]
    ) -> None:
        """
        @param asks: whether that upstream is asked for what came through another repository.
        """
        self._asks = asks
        self._store = store
        self._repositories = repositories
        self._graph = graph

    async def holds(self, upstream: str, repository: str, reference: str) -> bool:
        """
        Whether the repository can serve C{reference} by itself: a tag, or the digest of a manifest or a blob.

        What a manifest names may be lacking all the same.
        """
        known = await self._repositories.read(upstream, repository)
        if ":" not in reference:
            tag = known.tags.get(reference)
            return tag is not None and self._store.size(tag.digest) is not None
        digest = Digest.parse(reference)
        if self._store.size(digest) is None:
            return False
        named = await self._graph.named(known, digest, thorough=True)
        return named is not None and (named.linked or not self._asks(upstream))
