"""Manifests read lately, kept in memory."""

from __future__ import annotations

from collections import OrderedDict

from appliance.oci.digest import Digest

BUDGET = 32 * 1024 * 1024


class Recent:
    """Bytes by digest, the longest unused dropped first; at most C{budget} bytes."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._used = 0
        self._data: OrderedDict[Digest, bytes] = OrderedDict()

    def get(self, digest: Digest) -> bytes | None:
        """The bytes, when they are here."""
        data = self._data.get(digest)
        if data is not None:
            self._data.move_to_end(digest)
        return data

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep the bytes for a while."""
        if digest in self._data or len(data) > self._budget:
            return
        self._data[digest] = data
        self._used += len(data)
        while self._used > self._budget:
            _, dropped = self._data.popitem(last=False)
            self._used -= len(dropped)
