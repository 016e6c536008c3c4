"""
One secret over its replacements.

A secret is replaced in two places, the source we read and the registry, and never in both at once. Whichever comes
first, no pull has to fail:

 - The registry first: a secret that was accepted before is refused. The source is looked at again and again for a short
   time, one look for everybody.
 - The source first: the new secret is refused. The one before it, which was accepted, is presented for a while, until
   it is refused or the while is over.

Every secret that is presented anew gets a new identity, the one before included: tokens of an earlier one are not used
again, and a refusal that comes late is not taken for one of what is presented now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import Attribute, implementer

from appliance.errors import UpstreamError
from appliance.flow.sharing import Sharing
from appliance.interfaces import ICredentials, Secret

#: Seconds between looks at the source of a secret that is accepted no more: three seconds together.
PAUSES = (0.25, 0.25, 0.5, 1.0, 1.0)
#: Seconds for which the secret before is presented when the new one is refused, and for which one is kept whose source
#: cannot be read or is empty: somebody may be writing it.
GRACE = 60.0


@dataclass(frozen=True)
class Found:
    """What a source holds; see L{Secret}."""

    username: str
    danger_text: str = field(repr=False)
    use: Secret.Use = Secret.Use.PASSWORD


class Source(Protocol):
    """
    Where a secret is read.

    @ivar shown: its name for messages, as C{password_file /etc/pullcache/hub}.
    """

    shown: str

    def read(self, again: bool) -> Deferred[Found]:
        """
        What it holds now.

        @param again: whether what was kept from an earlier reading is not good enough.
        @return: fails with L{UpstreamDenied} when it cannot be read, or other L{UpstreamError}s; what it holds is in no
            message.
        """


class IFollowed(ICredentials):
    """Credentials that want to know what became of their secrets; the power is optional."""

    source = Attribute("where the secret comes from, for messages (str)")

    def accepted(secret: Secret) -> None:
        """C{secret} was presented and accepted."""


@implementer(IFollowed)
class Rotation:
    """
    See the module, L{IFollowed} and L{ICredentials}.

    @ivar source: the source's name.
    """

    def __init__(self, source: Source, clock: IReactorTime) -> None:
        self.source = source.shown
        self._source = source
        self._clock = clock
        self._reads: Sharing[bool, None] = Sharing()
        self._looks: Sharing[str, bool] = Sharing()
        self._begun = self._taken = self._turn = 0
        self._faulty: float | None = None
        #: What the source holds, what is presented (another, when it fell back), and as which secret.
        self._found: Found | None = None
        self._presented: Found | None = None
        self._secret: Secret | None = None
        self._accepted = False
        #: The accepted one before, and until when it may be fallen back upon.
        self._before: Found | None = None
        self._until = 0.0

    def current(self) -> Deferred[Secret]:
        """See L{ICredentials.current}."""
        return Deferred.fromCoroutine(self._current())

    def refused(self, secret: Secret) -> Deferred[bool]:
        """
        See L{ICredentials.refused}.

        A secret that was never accepted is simply wrong: its source is looked at once more, and not waited for.
        """
        return Deferred.fromCoroutine(self._refused(secret.identity))

    def accepted(self, secret: Secret) -> None:
        """See L{IFollowed.accepted}."""
        if self._secret is not None and secret.identity == self._secret.identity:
            self._accepted = True
            if self._presented is self._found:
                self._before = None

    async def _current(self) -> Secret:
        try:
            await self._read(again=False)
        except UpstreamError:
            if not self._bears_with():
                raise
        if self._fell_back() and self._clock.seconds() >= self._until:
            self._present(self._found)
        assert self._secret is not None, "a reading gives one or fails"
        return self._secret

    async def _refused(self, identity: str) -> bool:
        if self._secret is None or self._secret.identity != identity:
            return True
        return await self._looks.get(identity, lambda: self._look(identity))

    async def _look(self, identity: str) -> bool:
        pauses = PAUSES if self._accepted else ()
        self._accepted = False
        if await self._gives_another(identity) or self._falls_back():
            return True
        end = self._clock.seconds() + sum(pauses)
        for pause in pauses:
            await deferLater(self._clock, pause)
            if await self._gives_another(identity):
                return True
            if self._clock.seconds() >= end:
                break
        return False

    async def _gives_another(self, identity: str) -> bool:
        """Whether a new reading leads to another secret than C{identity}."""
        try:
            await self._read(again=True)
        except UpstreamError:
            # It may be about to be written.
            pass
        if self._fell_back() and self._secret is not None and self._secret.identity == identity:
            self._present(self._found)
        return self._secret is not None and self._secret.identity != identity

    def _falls_back(self) -> bool:
        """Present the secret before again; whether there is one."""
        before, self._before = self._before, None
        if before is None or before == self._presented or self._clock.seconds() >= self._until:
            return False
        self._present(before)
        return True

    def _fell_back(self) -> bool:
        return self._presented is not self._found

    def _read(self, again: bool) -> Deferred[None]:
        return self._reads.get(again, lambda: self._reading(again))

    async def _reading(self, again: bool) -> None:
        self._begun += 1
        number = self._begun
        try:
            found = await self._source.read(again)
        except UpstreamError:
            self._doubt()
            raise
        # What was begun earlier and comes later is older.
        if number > self._taken:
            self._taken = number
            self._take(found)

    def _take(self, found: Found) -> None:
        if not found.danger_text and self._bears_with():
            self._doubt()
            return
        self._faulty = None
        if found != self._found:
            if self._accepted:
                self._before, self._until = self._presented, self._clock.seconds() + GRACE
            self._found = found
            self._present(found)

    def _present(self, found: Found | None) -> None:
        assert found is not None, "only what was read is presented"
        self._turn += 1
        self._presented, self._accepted = found, False
        self._secret = Secret(f"{found.username}#{self._turn}", found.username, found.danger_text, found.use)

    def _doubt(self) -> None:
        if self._faulty is None:
            self._faulty = self._clock.seconds()

    def _bears_with(self) -> bool:
        """Whether a source that holds nothing now is given time."""
        since = self._faulty
        return self._secret is not None and (since is None or self._clock.seconds() < since + GRACE)

    def __repr__(self) -> str:
        return f"<Rotation of {self.source}>"
