"""An upstream that is not asked: no packet leaves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from appliance.errors import Offline
from appliance.interfaces import FetchedManifest, IBlobResponse, IUpstream, ManifestHead
from appliance.oci.digest import Digest
from appliance.upstream.kind import Kind


@implementer(IUpstream)
class OfflineUpstream:
    """
    Knows its names and nothing else; every question fails with L{Offline}.

    @ivar name: the configured name.
    """

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self._kind = kind

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._kind.repository(name)

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def blob(
        self, repository: str, digest: Digest, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> Deferred[IBlobResponse]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def tags(self, repository: str) -> Deferred[list[str]]:
        """Fails with L{Offline}."""
        return self._refused(f"the tags of {repository}")

    def _refused(self, what: str) -> Deferred[Any]:
        return fail(Offline(f"{self.name}: {what} is not held, and this appliance is offline"))
