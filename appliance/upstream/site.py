"""One configured URL of an upstream: a request there, with access and redirects, until there is an answer to judge."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.interfaces import IAdapter, ICredentials
from appliance.upstream.access.access import Access, Shown, challenges_of
from appliance.upstream.access.bearer import Realms, TokenServer
from appliance.upstream.body import discard
from appliance.upstream.credentials.attempts import MAX_ATTEMPTS, LoginAttempts
from appliance.upstream.exchange import Exchange
from appliance.upstream.http.challenge import Challenge
from appliance.upstream.http.connect import Agents
from appliance.upstream.http.tokens import Tokens
from appliance.upstream.redirects import Answer, Redirects
from appliance.upstream.url import Url

#: How stores refuse a signed URL that is too old or was not meant for this request.
_SIGNATURE_REFUSED = frozenset({400, 401, 403})
#: Refusals that are about what was asked for, never about who asks.
_ABOUT_THE_THING = frozenset({404, 405, 410, 416, 429})


class Site:
    """
    Asks at one configured URL.

    @ivar url: that URL, whose path comes before C{/v2/}.
    """

    def __init__(
        self,
        url: Url,
        agents: Agents,
        exchange: Exchange,
        adapter: IAdapter,
        auth_hosts: tuple[str, ...],
        credentials: ICredentials | None,
        tokens: Tokens,
    ) -> None:
        """
        @param auth_hosts: of the settings and of the adapter, as
            L{appliance.upstream.http.addresses.HostPatterns} reads them.
        @param credentials: C{None} for nobody's.
        """
        self.url = url
        self._exchange = exchange
        self._agents = agents
        self._adapter = adapter
        self._redirects = Redirects(exchange, agents, url, self._stranger)
        server = TokenServer(exchange, self._redirects.agent)
        realms = Realms(exchange.upstream, url, auth_hosts)
        attempts = None
        if credentials is not None:
            attempts = LoginAttempts(exchange.upstream, url.shown, credentials, exchange.watch.clock)
        self._access = Access(exchange.upstream, url.root, adapter, realms, attempts, tokens, server, self._proof)

    async def ping(self) -> int:
        """
        The status of C{/v2/} as anybody sees it, without redirects and credentials.

        @raise UpstreamUnavailable: there is no answer.
        """
        agent, url = self._agents.own, self.url.below("/v2/")
        response = await self._exchange.send(agent, "GET", url, {})
        discard(response, self._exchange.watch)
        status: int = response.code
        return status

    async def ask(
        self, method: str, url: Url, repository: str, fields: Mapping[str, str], may_leave: bool = True
    ) -> Answer:
        """
        The answer after redirects, authentication, and one return to C{url} when a signed URL was not accepted.

        Its body is not yet read; the status may be any.

        @param repository: for whose pull a token is asked.
        @param may_leave: see L{Redirects.follow}.
        """
        at_home = url.origin == self.url.origin
        shown = await self._access.before(repository) if at_home else None
        returned = False
        turns = 0
        while True:
            danger_header = shown.danger_header if shown else None
            answer = await self._redirects.follow(method, url, fields, danger_header, may_leave)
            if answer.led:
                if at_home:
                    self._access.accepted(shown)
                if returned or not at_home or method != "GET" or answer.status not in _SIGNATURE_REFUSED:
                    return answer
                returned = True
            else:
                other = await self._renewed_or_discard(answer, repository, shown) if _may_turn(turns, shown) else None
                if other is None:
                    if answer.status == 401:
                        self._access.forget(shown)
                    elif answer.status < 400:
                        self._access.accepted(shown)
                    return answer
                turns, shown = turns + 1, other
            answer.discard()

    async def _renewed_or_discard(self, answer: Answer, repository: str, shown: Shown | None) -> Shown | None:
        """L{_renewed}; when it fails the answer's connection is let go, since nobody will read it."""
        try:
            return await self._renewed(answer, repository, shown)
        except Exception:
            answer.discard()
            raise

    async def _renewed(self, answer: Answer, repository: str, shown: Shown | None) -> Shown | None:
        """What to present instead, C{None} when the answer stands."""
        challenges = challenges_of(answer) if answer.status == 401 else []
        if answer.status == 401 and not challenges and not self._access.known:
            challenges = await self._ping()
        elif answer.status != 401 and not await self._expired(answer, shown):
            return None
        return await self._access.after(challenges, repository, shown)

    async def _expired(self, answer: Answer, shown: Shown | None) -> bool:
        """Whether a refusal that is no 401 is about the age of what was presented."""
        if shown is None or shown.fresh or not 400 <= answer.status < 500 or answer.status in _ABOUT_THE_THING:
            return False
        bearer, challenged = shown.token is not None, bool(challenges_of(answer))
        return self._adapter.has_expired(answer.status, await answer.problem(), bearer, challenged)

    async def _ping(self) -> list[Challenge]:
        """The challenge of C{/v2/}, which some registries have where the resource has none."""
        answer = await self._front_door(None)
        return challenges_of(answer) if answer.status == 401 and not answer.led else []

    async def _proof(self, authorization: bytes) -> bool:
        """See L{appliance.upstream.access.access.Proof}."""
        stranger = await self._front_door(None)
        if stranger.status != 401:
            return False
        return (await self._front_door(authorization)).status == 200

    async def _front_door(self, authorization: bytes | None) -> Answer:
        answer = await self._redirects.follow("GET", self.url.below("/v2/"), {}, authorization)
        answer.discard()
        return answer

    async def _stranger(self, answer: Answer) -> bytes | None:
        return await self._access.stranger(answer)


def _may_turn(turns: int, shown: Shown | None) -> bool:
    """Whether something else may be presented: a token is replaced once, a secret as often as it may be."""
    return turns == 0 or (shown is not None and shown.secret is not None and turns < MAX_ATTEMPTS)
