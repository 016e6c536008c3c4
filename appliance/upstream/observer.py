"""What upstreams do, as somebody who counts sees it."""

from __future__ import annotations

from zope.interface import Interface, implementer


class IUpstreamObserver(Interface):
    """Told what passes between this process and its upstreams; must be quick and must not raise."""

    def received(upstream: str, octets: int) -> None:
        """C{octets} bytes of blob bodies came from C{upstream} since this was last said; at most once a second."""

    def failed(upstream: str, kind: str) -> None:
        """A question to C{upstream} failed; C{kind} is L{appliance.errors.UpstreamError.kind}."""

    def asked(upstream: str, method: str, status: int) -> None:
        """One HTTP request on behalf of C{upstream} (hops and token requests included) was answered C{status}."""


@implementer(IUpstreamObserver)
class SilentObserver:
    """Counts nothing."""

    def received(self, upstream: str, octets: int) -> None:
        """Forget it."""

    def failed(self, upstream: str, kind: str) -> None:
        """Forget it."""

    def asked(self, upstream: str, method: str, status: int) -> None:
        """Forget it."""
