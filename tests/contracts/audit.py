"""What every L{IAudit} promises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.interfaces import IAudit

WHO = {"user": "alice", "means": "basic", "address": "192.0.2.1", "rule": "access[2]", "why": "not hers"}


class AuditContract(SynchronousTestCase):
    """Mix in, and say how to make the provider and how to read it."""

    # The mixin itself holds no promise.
    __test__ = False

    @abstractmethod
    def make(self) -> IAudit:
        """A provider."""

    @abstractmethod
    def read(self, audit: IAudit) -> list[dict[str, Any]]:
        """What was noted, oldest first, by the names of C{note}'s arguments; what is at its default may be absent."""

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IAudit, self.make())

    def test_what_was_noted_is_kept_in_order(self) -> None:
        """With all that was said of it, and nothing that was not."""
        audit = self.make()
        audit.note("start", "", "done")
        audit.note("remove", "docker.io/library/nginx:1", "refused", **WHO)
        first, second = self.read(audit)
        self.assertEqual((first["action"], first["outcome"], first.get("user")), ("start", "done", None))
        self.assertEqual(second, {"action": "remove", "what": "docker.io/library/nginx:1", "outcome": "refused", **WHO})

    def test_who_waits_is_told_when_it_is_durable(self) -> None:
        """Or that there is nothing to wait for; then no line is waiting either."""
        audit = self.make()
        self.successResultOf(audit.flush())
        audit.note("stop", "", "done")
        self.successResultOf(audit.flush())
        self.assertEqual((len(self.read(audit)), audit.waiting()), (1, 0))

    def test_any_text_is_kept_as_it_is(self) -> None:
        """A name of a file may hold a line's end, a quote, or no character at all: it makes no other line."""
        audit = self.make()
        text = 'a "b"\n{"action":"stop"}\r\x1b[2J \u2028 \udcff'
        audit.note("import", text, "failed", why=text)
        (only,) = self.read(audit)
        self.assertEqual(only["action"], "import")
        self.assertIn('a "b"\n{"action":"stop"}', only["what"])
