"""An upstream that is not asked: no packet leaves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from appliance.errors import Offline
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import (
    Availability,
    Condition,
    FetchedManifest,
    IAdapter,
    IBlobResponse,
    IUpstream,
    ManifestHead,
    Referrers,
)


@implementer(IUpstream)
class OfflineUpstream:
    """
    Maps names of repositories and does nothing else; every request fails with L{Offline}.

    @ivar name: the configured name.
    """

    def __init__(self, name: str, adapter: IAdapter) -> None:
        self.name = name
        self._adapter = adapter

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._adapter.repository(name)

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def availability(self, repository: str) -> Availability:
        """No request is worth sending."""
        return Availability(ask=False, wait=False)

    def overdue(self, repository: str) -> None:
        """No request was sent that could be late."""

    def condition(self) -> Condition:
        """No URL is contacted."""
        return Condition()

    def stop(self) -> None:
        """There is no probe to stop."""

    def disconnect(self) -> None:
        """There is no connection to drop."""

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def tags(self, repository: str) -> Deferred[list[str]]:
        """Fails with L{Offline}."""
        return self._refused(f"the tags of {repository}")

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """Fails with L{Offline}."""
        return self._refused(f"a list of what refers to {repository}@{subject}")

    def _refused(self, what: str) -> Deferred[Any]:
        return fail(Offline(f"{self.name}: {what} is not held, and this appliance is offline"))
