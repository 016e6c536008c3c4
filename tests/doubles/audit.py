"""An audit log in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from appliance.flow.singleflight import shielded
from appliance.interfaces import IAudit


@implementer(IAudit)
class NotedAudit:
    """
    Keeps what it is told.

    @ivar flushed: fires for who waits until it is durable.
    @ivar noted: of each, what was not left at its default, by the names of L{IAudit.note}'s arguments.
    """

    file = None

    def __init__(self) -> None:
        self.flushed: Deferred[None] = succeed(None)
        self.noted: list[dict[str, Any]] = []

    def note(
        self,
        action: str,
        what: str,
        outcome: str,
        *,
        user: str | None = None,
        means: str = "",
        address: str = "-",
        rule: str = "",
        why: str = "",
    ) -> None:
        """See L{IAudit.note}."""
        said = {"user": user, "means": means, "address": address, "rule": rule, "why": why}
        given = {name: value for name, value in said.items() if value not in (None, "", "-")}
        self.noted.append({"action": action, "what": what, "outcome": outcome, **given})

    def flush(self) -> Deferred[None]:
        """See L{IAudit.flush}."""
        return shielded(self.flushed)

    def waiting(self) -> int:
        """See L{IAudit.waiting}."""
        return 0
