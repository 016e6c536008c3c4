"""
Which blobs are in use at the moment, so that none of them is removed.

A reader has a lease of its blob from open to close, a writer from its beginning to its end, and who is about to refer
to a blob from before it looks for it until a repository refers to it. Who removes blobs opens a L{Watch} first, looks
then at what is referred to, and removes nothing that was leased at any moment since: what got its reference after that
look had a lease meanwhile.

Not for threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from appliance.oci.digest import Digest


class Lease:
    """Some blobs that are in use until L{close}; also a context manager."""

    __slots__ = ("_digests", "_leases")

    def __init__(self, leases: Leases, digests: set[Digest]) -> None:
        self._leases = leases
        self._digests = digests

    def add(self, digest: Digest) -> None:
        """So is this one from now on."""
        if digest not in self._digests:
            self._leases.count({digest})
            self._digests.add(digest)

    def close(self) -> None:
        """They are in use no more; twice is no error."""
        digests, self._digests = self._digests, set()
        self._leases.discount(digests)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watch:
    """All blobs that were in use at any moment since it was opened, until L{close}; also a context manager."""

    def __init__(self, leases: Leases, seen: Iterable[Digest]) -> None:
        self._leases = leases
        self.seen = set(seen)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self.seen

    def close(self) -> None:
        """Nothing more is noted; twice is no error."""
        self._leases.unwatch(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Leases:
    """The leases on one store's blobs."""

    def __init__(self) -> None:
        self._counts: dict[Digest, int] = {}
        self._watches: list[Watch] = []

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._counts

    def __len__(self) -> int:
        """How many blobs are in use."""
        return len(self._counts)

    def take(self, digests: Iterable[Digest]) -> Lease:
        """They are in use until the lease is closed, held or not; each may be in use several times."""
        taken = set(digests)
        self.count(taken)
        return Lease(self, taken)

    def watch(self) -> Watch:
        """Note from now on what is in use; begins with what is."""
        watch = Watch(self, self._counts)
        self._watches.append(watch)
        return watch

    # -- for leases and watches -------------------------------------------------------------------------------------

    def count(self, digests: set[Digest]) -> None:
        """Each is in use once more."""
        for digest in digests:
            self._counts[digest] = self._counts.get(digest, 0) + 1
        for watch in self._watches:
            watch.seen.update(digests)

    def discount(self, digests: set[Digest]) -> None:
        """Each is in use once less."""
        for digest in digests:
            if self._counts[digest] > 1:
                self._counts[digest] -= 1
            else:
                del self._counts[digest]

    def unwatch(self, watch: Watch) -> None:
        """See L{Watch.close}."""
        if watch in self._watches:
            self._watches.remove(watch)
