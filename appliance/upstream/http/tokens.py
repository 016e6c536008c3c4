"""
Bearer tokens that are held, and one request for each that is not.

The key of a token holds who asked for it, and which registry sent us for it: a token given to one set of credentials
must never serve another, and what one registry is to see must never be shown to a second one that names the same realm.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from appliance.flow.sharing import Sharing

#: What a token lives when its server does not say (distribution's token specification), and at most, in seconds.
DEFAULT_LIFE = 60.0
MAX_LIFE = 3600.0
#: A token is not used in the last of its life: this many seconds, or this part of it, whichever is less.
_MARGIN = 30.0
_MARGIN_PART = 0.1
#: The most tokens held: a token server may have one of several kilobytes for every name that a client makes up.
MOST = 4000


@dataclass(frozen=True)
class TokenKey:
    """
    Which token.

    @ivar registry: the origin whose challenge it answers, as in L{appliance.upstream.url.Url.root}.
    @ivar credential: L{appliance.interfaces.Secret.identity}, or C{""} for nobody.
    @ivar realm: the token server's URL.
    @ivar service: as the challenge named it, C{None} when it did not.
    @ivar scope: C{repository:<name>:pull}.
    """

    upstream: str
    registry: str
    credential: str
    realm: str
    service: str | None
    scope: str


@dataclass(frozen=True)
class Token:
    """
    A token as given.

    @ivar life: seconds from its receipt.
    """

    danger_text: str
    life: float = DEFAULT_LIFE

    def __repr__(self) -> str:
        return f"<Token for {self.life:g} s>"


#: Asks the token server.
Fetch = Callable[[], Coroutine[Deferred[Any], Any, Token]]


class Tokens:
    """The tokens of one upstream."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._held: dict[TokenKey, tuple[Token, float]] = {}
        self._fetches: Sharing[TokenKey, Token] = Sharing()

    def held(self, key: TokenKey) -> Token | None:
        """A token that is still good, C{None} when there is none. Immediate."""
        token, until = self._held.get(key, (None, 0.0))
        return token if self._clock.seconds() < until else None

    def evict(self, key: TokenKey, refused: Token) -> None:
        """Forget C{refused}, unless a newer one has taken its place."""
        if key in self._held and self._held[key][0] is refused:
            del self._held[key]

    def get(self, key: TokenKey, fetch: Fetch) -> Deferred[Token]:
        """
        The token held, or the result of one C{fetch()} shared by all who ask meanwhile.

        @return: a Deferred of the caller's own; cancelling it leaves the others theirs.
        """
        token = self.held(key)
        return succeed(token) if token is not None else self._fetches.get(key, lambda: self._fetched(key, fetch))

    async def _fetched(self, key: TokenKey, fetch: Fetch) -> Token:
        token = await fetch()
        self._keep(token, key)
        return token

    def _keep(self, token: Token, key: TokenKey) -> None:
        life = min(token.life, MAX_LIFE) if token.life > 0 else DEFAULT_LIFE
        now = self._clock.seconds()
        self._held.pop(key, None)
        if len(self._held) >= MOST:
            # The oldest; one that is used again costs a request.
            del self._held[next(iter(self._held))]
        self._held[key] = token, now + life - min(_MARGIN, life * _MARGIN_PART)
