"""
What upstreams said they do not have, believed for a little while (C{missing_for}).

Only a genuine 404 counts: who was refused, held off or not answered has learnt nothing of what is there. In memory: a
restart asks again.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.errors import UpstreamMissing

LIMIT = 10_000
"""The most 404s remembered: a client that makes names up cannot fill the memory with them."""

Subject = tuple[str, str, str]
"""Upstream, repository, and a tag or a digest as text; of a list of tags C{""}."""


@dataclass(frozen=True)
class Absence:
    """
    A 404 that is still believed; both moments in seconds of the clock.

    @ivar fault: says it again.
    """

    fault: UpstreamMissing
    since: float
    until: float


class Missing:
    """The 404s of one kind of thing, the oldest dropped when there are too many."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._absences: dict[Subject, Absence] = {}

    def __len__(self) -> int:
        return len(self._absences)

    def note(self, subject: Subject, fault: UpstreamMissing, seconds: float) -> None:
        """The upstream has just said that it has no such thing; believe it for C{seconds}."""
        self.forget(subject)
        if seconds <= 0:
            return
        now = self._clock.seconds()
        self._absences[subject] = Absence(_again(fault), now, now + seconds)
        if len(self._absences) > LIMIT:
            del self._absences[next(iter(self._absences))]

    def forget(self, subject: Subject) -> None:
        """It is there by now."""
        self._absences.pop(subject, None)

    def recall(self, subject: Subject) -> Absence | None:
        """What is still believed of it, C{None} when the upstream has to be asked."""
        absence = self._absences.get(subject)
        if absence is None:
            return None
        if not absence.since <= self._clock.seconds() < absence.until:
            self.forget(subject)
            return None
        return Absence(_again(absence.fault), absence.since, absence.until)

    def refuse(self, subject: Subject) -> None:
        """Raises the L{UpstreamMissing} that is still believed, if there is one."""
        absence = self.recall(subject)
        if absence is not None:
            raise absence.fault


def _again(fault: UpstreamMissing) -> UpstreamMissing:
    # Not the same one: an exception keeps the frames of everybody who raised it.
    return UpstreamMissing(fault.upstream, fault.detail, fault.repository_unknown, remembered=True)
