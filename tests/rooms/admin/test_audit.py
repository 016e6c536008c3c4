"""The audit log: what is kept, that it is on the disk, and what it costs when refusals come fast."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec

from appliance.admin.audit import Audit
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IAudit
from tests.contracts.audit import AuditContract
from tests.doubles.audit import NotedAudit
from tests.doubles.pullthrough import clock_at


class AuditTests(AuditContract):
    """The one on the disk."""

    __test__ = True

    def make(self) -> IAudit:
        """Over a folder of its own."""
        self.path = Path(mkdtemp()) / "audit" / "audit.jsonl"
        return Audit(self.path, InlineThreads(), clock_at())

    def read(self, audit: IAudit) -> list[dict[str, Any]]:
        """By its file."""
        lines = [msgspec.json.decode(line) for line in self.path.read_bytes().split(b"\n") if line]
        return [{name: value for name, value in line.items() if name != "time"} for line in lines]


class NotedAuditTests(AuditContract):
    """That of the tests."""

    __test__ = True

    def make(self) -> IAudit:
        """An empty one."""
        return NotedAudit()

    def read(self, audit: IAudit) -> list[dict[str, Any]]:
        """As it keeps it."""
        assert isinstance(audit, NotedAudit)
        return audit.noted
