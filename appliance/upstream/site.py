"""One configured URL of an upstream: a request there, with access and redirects, until there is an answer to judge."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.upstream.access import Access, Shown, challenges_of
from appliance.upstream.agents import Agents
from appliance.upstream.bearer import Realms, TokenServer
from appliance.upstream.challenge import Challenge
from appliance.upstream.credentials import Credentials
from appliance.upstream.exchange import Exchange
from appliance.upstream.redirects import Answer, Redirects
from appliance.upstream.tokens import Tokens
from appliance.upstream.url import Url

#: ECR says 403 and this when its token is too old (bazel-contrib/rules_img#715).
_EXPIRED = b"authorization token has expired"
#: How stores refuse a signed URL that is too old or was not meant for this request.
_SIGNATURE_REFUSED = frozenset({400, 401, 403})


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
        auth_hosts: tuple[str, ...],
        credentials: Credentials | None,
        tokens: Tokens,
    ) -> None:
        self.url = url
        self._redirects = Redirects(exchange, agents, url, self._stranger)
        server = TokenServer(exchange, self._redirects.agent)
        realms = Realms(exchange.upstream, url, auth_hosts)
        self._access = Access(exchange.upstream, realms, credentials, tokens, server)

    async def ask(self, method: str, url: Url, repository: str, fields: Mapping[str, str]) -> Answer:
        """
        The answer after redirects, authentication, and one return to C{url} when a signed URL was not accepted.

        Its body is not yet read; the status may be any.

        @param repository: for whose pull a token is asked.
        """
        at_home = url.origin == self.url.origin
        shown = await self._access.before(repository) if at_home else None
        renewed = returned = False
        while True:
            answer = await self._redirects.follow(method, url, fields, shown.danger_header if shown else None)
            if answer.led:
                if returned or not at_home or method != "GET" or answer.status not in _SIGNATURE_REFUSED:
                    return answer
                returned = True
            else:
                other = None if renewed else await self._renewed_or_discard(answer, repository, shown)
                if other is None:
                    if answer.status == 401:
                        self._access.forget(shown)
                    return answer
                renewed, shown = True, other
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
        if shown is None or shown.fresh:
            return False
        if answer.status == 403:
            return _EXPIRED in (await answer.problem()).lower()
        # public.ecr.aws (aws/containers-roadmap#2835).
        return answer.status == 400 and shown.token is not None and not challenges_of(answer)

    async def _ping(self) -> list[Challenge]:
        """The challenge of C{/v2/}, which some registries have where the resource has none."""
        answer = await self._redirects.follow("GET", self.url.below("/v2/"), {}, None)
        answer.discard()
        return challenges_of(answer) if answer.status == 401 and not answer.led else []

    async def _stranger(self, answer: Answer) -> bytes | None:
        return await self._access.stranger(answer)
