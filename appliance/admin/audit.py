"""
The audit log: a line of JSON for everything that is changed, or was refused, and by whom.

What was done, or failed, is written at once: lines that come while others are being written are synced together. What
was refused, and logins that could not be looked at, may come a thousand times a second, from clients that nothing is
known of, and has three bounds: equal ones of a second are one line that says how many there were; so many different
ones are written in a minute, of one address and of all; and of more than that, a minute's from one address are one line
that says what was asked for, and how often.
So what operators did is not driven out by what was refused, and neither memory nor disk is filled by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import takewhile

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from appliance.admin.auditfile import AuditFile
from appliance.admin.failures import Refused
from appliance.admin.route import Parameter, Reply, Route, json, number, period, value, values
from appliance.api import AuditEntry, AuditList
from appliance.flow.clock import wall
from appliance.flow.disk import is_refusal
from appliance.flow.singleflight import Waiters
from appliance.identity.roles import Role
from appliance.interfaces import IAudit, IThreads

REFUSED, FAILED = "refused", "failed"

TOGETHER = 1.0
"""Seconds in which equal refusals are one line."""

MINUTE = 60.0
"""Seconds in which the rest of them are one line for each address."""

EACH, ALL = 60, 600
"""Lines in that time about refusals, of one address and of all."""

ADDRESSES = 100
"""How many addresses the rest of them has lines for; what comes from more is one line together."""

MANY = "more was refused than is written down one by one"

LONGEST = 500
"""Characters of one field."""

WAITING = 4 << 20
"""Bytes of lines that wait for a disk that takes none; what comes then is only counted."""

AGAIN = 5.0
"""Seconds until a disk that took none is tried again."""

SHOWN, SHOWN_AT_MOST = 1000, 100_000
"""Lines that are answered with, unless more are asked for; and at most."""


@implementer(IAudit)
class Audit:
    """
    Writes lines.

    @ivar file: where to; C{None}: nothing is noted.
    """

    _log = Logger()

    def __init__(self, file: AuditFile | None, threads: IThreads, clock: IReactorTime) -> None:
        self.file = file
        self._threads = threads
        self._clock = clock
        # Refusals of this second; and those beyond the bounds, of this minute.
        self._equal: dict[tuple[object, ...], AuditEntry] = {}
        self._rest: dict[tuple[str, str, str], AuditEntry] = {}
        self._releasing: IDelayedCall | None = None
        # Lines about refusals in this minute, by address, and of all by "".
        self._written: Counter[str] = Counter()
        self._minute: IDelayedCall | None = None
        # What is to be written, and those who wait for that; and those who wait for what is being written.
        self._lines: list[tuple[AuditFile, bytes]] = []
        self._octets = 0
        self._lost = 0
        self._next: Waiters[None] = Waiters()
        self._current: Waiters[None] | None = None
        # The first so many lines are being written.
        self._under_way = 0
        self._trying_again: IDelayedCall | None = None

    def waiting(self) -> int:
        """See L{IAudit.waiting}."""
        return len(self._lines) + self._lost

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
        if self.file is None:
            return
        who = None if user is None else _field(user)
        entry = AuditEntry(
            time=_moment(wall(self._clock)),
            action=action,
            what=_field(what),
            outcome=outcome,
            user=who,
            means=means,
            address=address,
            rule=_field(rule),
            why=_field(why),
        )
        # A login fails where nobody can be looked up; that any client may cause as often as it likes, too.
        if outcome == REFUSED or (action == "login" and outcome == FAILED):
            self._bound(entry)
        else:
            self._add([entry])

    def flush(self) -> Deferred[None]:
        """See L{IAudit.flush}."""
        self._release()
        self._release_rest()
        if len(self._lines) > self._under_way and self._trying_again is None:
            return self._next.wait()
        return succeed(None) if self._current is None else self._current.wait()

    # -- what was refused -------------------------------------------------------------------------------------------

    def _bound(self, entry: AuditEntry) -> None:
        said = msgspec.structs.astuple(entry)[1:]
        same = self._equal.get(said)
        if same is not None:
            same.times += 1
            return
        if self._minute is None:
            self._minute = self._clock.callLater(MINUTE, self._begin_minute)
        if self._written[""] < ALL and self._written[entry.address] < EACH:
            self._written[""] += 1
            self._written[entry.address] += 1
            self._equal[said] = entry
            if self._releasing is None:
                self._releasing = self._clock.callLater(TOGETHER, self._release)
            return
        action, outcome, address = entry.action, entry.outcome, entry.address
        if (action, outcome, address) not in self._rest and len(self._rest) >= ADDRESSES:
            address = "-"
        rest = self._rest.get((action, outcome, address))
        if rest is None:
            self._rest[action, outcome, address] = AuditEntry(
                entry.time, action, "", outcome, address=address, why=MANY
            )
        else:
            rest.times += 1

    def _release(self) -> None:
        if self._releasing is not None:
            if self._releasing.active():
                self._releasing.cancel()
            self._releasing = None
        entries, self._equal = list(self._equal.values()), {}
        self._add(entries)

    def _release_rest(self) -> None:
        entries, self._rest = list(self._rest.values()), {}
        self._add(entries)

    def _begin_minute(self) -> None:
        self._minute = None
        self._written.clear()
        self._release_rest()

    # -- writing ----------------------------------------------------------------------------------------------------

    def _add(self, entries: list[AuditEntry]) -> None:
        if self.file is None:
            return
        for entry in entries:
            line = msgspec.json.encode(entry) + b"\n"
            if self._octets + len(line) > WAITING:
                self._lost += 1
                continue
            self._octets += len(line)
            self._lines.append((self.file, line))
        self._write()

    def _write(self) -> None:
        if self._current is not None or self._trying_again is not None or not self._lines:
            return
        self._current, self._next = self._next, Waiters()
        file = self._lines[0][0]
        batch = [line for _, line in takewhile(lambda each: each[0] is file, self._lines)]
        self._under_way = len(batch)
        self._threads.call(file.append, batch).addBoth(self._tried, batch)

    def _tried(self, result: None | Failure, batch: list[bytes]) -> None:
        waiters, self._current, self._under_way = self._current, None, 0
        assert waiters is not None
        if isinstance(result, Failure):
            self._trying_again = self._clock.callLater(AGAIN, self._try_again)
            # A stop waits for no disk that takes nothing.
            late, self._next = self._next, Waiters()
            late.fire(None)
            if is_refusal(result.value):
                self._log.error("the audit log waits for the disk to take it: {error}", error=result.value)
            else:
                self._log.failure("the audit log could not be written", result)
        else:
            del self._lines[: len(batch)]
            self._octets -= sum(map(len, batch))
            lost, self._lost = self._lost, 0
            if lost:
                why = f"the disk did not take the audit log: {lost} lines before this one are lost"
                self.note("audit", "", "failed", why=why)
            self._write()
        waiters.fire(None)

    def _try_again(self) -> None:
        self._trying_again = None
        self._write()


class AuditPage:
    """C{/api/v1/audit}."""

    def __init__(self, audit: IAudit, threads: IThreads, clock: IReactorTime) -> None:
        self._audit = audit
        self._threads = threads
        self._clock = clock

    def routes(self) -> list[Route]:
        """The routes of this part."""
        query = (
            Parameter("since", "Only what came in that time: 12h, 7d."),
            Parameter("action", "Only these: remove, import...", repeated=True),
            Parameter("outcome", "Only these: done, refused, failed.", repeated=True),
            Parameter("user", "Only what this user asked for."),
            Parameter("limit", f"How many at most, the newest. Default: {SHOWN}; at most {SHOWN_AT_MOST}."),
        )
        what = "Who changed what, or was refused."
        return [Route("GET", "/api/v1/audit", self.entries, what, AuditList, query, role=Role.MANAGE)]

    async def entries(self, request: Request) -> Reply:
        """The newest lines that are asked for, oldest first; what was noted before this request is among them."""
        limit = number(request, "limit") or SHOWN
        if limit > SHOWN_AT_MOST:
            raise Refused(400, "bad-request", f"limit={limit}: at most {SHOWN_AT_MOST} are given at once; ask by since")
        age = period(request, "since")
        since = "" if age is None else _moment(max(0.0, wall(self._clock) - age))
        actions, outcomes = frozenset(values(request, "action")), frozenset(values(request, "outcome"))
        user = value(request, "user")
        file = self._audit.file
        if file is None:
            raise Refused(409, "no-audit", "no audit log is kept: audit_log is off in the configuration")
        await self._audit.flush()

        def is_meant(entry: AuditEntry) -> bool:
            return (
                entry.time >= since
                and (not actions or entry.action in actions)
                and (not outcomes or entry.outcome in outcomes)
                and (user is None or entry.user == user)
            )

        # A line may be written a minute after what it is about.
        earliest = "" if age is None else _moment(max(0.0, wall(self._clock) - age - 2 * MINUTE))
        return await self._threads.call(lambda: json(_read(file, earliest, is_meant, limit)))


def _read(file: AuditFile, earliest: str, is_meant: Callable[[AuditEntry], bool], limit: int) -> AuditList:
    """What is meant, oldest first; it blocks. Lines that are none are left out."""
    decode = msgspec.json.Decoder(AuditEntry).decode
    found: list[AuditEntry] = []
    for line in file.backwards():
        try:
            entry = decode(line)
        except msgspec.DecodeError:
            continue
        if entry.time < earliest:
            break
        if is_meant(entry):
            found.append(entry)
            if len(found) > limit:
                break
    shown = found[:limit]
    # They are nearly in order: a refusal is written a while after it is dated.
    shown.reverse()
    return AuditList(sorted(shown, key=lambda each: each.time), len(found) > limit)


def _field(text: str) -> str:
    """As a line may hold it: a name of a file may hold what is no character, and a path may be long."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _moment(seconds: float) -> str:
    """RFC 3339 in UTC, always of the same length, so that moments sort as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
