"""One look at all blobs of a folder, in batches, and what they are in sum although some come and go meanwhile."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from appliance.errors import DigestInvalid
from appliance.interfaces import Stored
from appliance.oci.digest import ALGORITHMS, Digest, number_of

BATCH = 256
"""Files that are looked at in one turn of a thread."""


class Walk:
    """
    The files below C{blobs/}; what is no blob by its name is left out.

    What got its name or lost it during the walk may have been found or not: so it is noted (L{changed}), and counted as
    it is at the end. Of all others only the beginning of the name is remembered, since there may be a million.
    """

    def __init__(self, blobs: Path, naming: Lock) -> None:
        """@param naming: held where a blob gets its name or loses it."""
        self._found = self._files(blobs)
        self._naming = naming
        self._seen = array("Q")
        self._sum = 0
        # By the beginning of the name: bytes it had when it was changed first, and bytes it has now.
        self._changed: dict[int, tuple[int, int]] = {}

    def changed(self, digest: Digest, before: int, now: int) -> None:
        """The blob had C{before} bytes and has C{now}, 0 when it is not held; called with the lock held."""
        key = number_of(digest)
        self._changed[key] = (self._changed.get(key, (before, 0))[0], now)

    def batch(self) -> list[Stored]:
        """The next blobs, none at the end; on a thread. Raises L{OSError}."""
        found: list[Stored] = []
        for digest, entry in self._found:
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append(Stored(digest, status.st_size, status.st_mtime))
            if len(found) >= BATCH:
                break
        with self._naming:
            for each in found:
                key = number_of(each.digest)
                if key not in self._changed:
                    self._seen.append(key)
                    self._sum += each.size
        return found

    def total(self) -> int:
        """Bytes of all blobs, at the end; with the lock held."""
        counted = sum(self._changed[key][0] for key in self._seen if key in self._changed)
        return self._sum - counted + sum(now for _, now in self._changed.values())

    def _files(self, blobs: Path) -> Iterator[tuple[Digest, os.DirEntry[str]]]:
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError), os.scandir(blobs / algorithm) as entries:
                for entry in entries:
                    with suppress(DigestInvalid):
                        yield Digest(algorithm, entry.name), entry
