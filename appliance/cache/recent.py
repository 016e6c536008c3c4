"""Manifests read lately, kept in memory."""

from __future__ import annotations

from appliance.flow.lru import LeastRecentlyUsed
from appliance.oci.digest import Digest

BUDGET = 32 * 1024 * 1024


class Recent:
    """Bytes by digest, the longest unused dropped first; at most C{budget} bytes."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._data: LeastRecentlyUsed[Digest, bytes] = LeastRecentlyUsed(budget)

    def get(self, digest: Digest) -> bytes | None:
        """The bytes, when they are here."""
        return self._data.get(digest)

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep the bytes for a while."""
        self._data.put(digest, data, len(data))
