"""Forms sent to an upstream: what an exchange of tokens needs beside questions for content."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from twisted.internet.defer import Deferred
from twisted.web.iweb import IAgent, IResponse

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamInvalid, UpstreamMissing
from appliance.upstream.body import read_beginning, read_whole
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import repeats_secret, status_fault
from appliance.upstream.limits import MAX_TOKEN_BYTES
from appliance.upstream.url import Url

_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


class Forms:
    """Sends forms to the origin of one configured URL, and follows nothing from there."""

    def __init__(self, exchange: Exchange, agent: IAgent, home: Url) -> None:
        self._exchange = exchange
        self._agent = agent
        self._home = home

    def post(self, path: str, fields: Mapping[str, str]) -> Deferred[bytes]:
        """See L{appliance.upstream.means.Means.post}; C{path} is one of the origin, not below the URL's own."""
        return Deferred.fromCoroutine(self._post(self._home.at(path), fields))

    async def _post(self, url: Url, fields: Mapping[str, str]) -> bytes:
        what = f"POST {url.shown}"
        body = urlencode(fields).encode("ascii")
        response = await self._exchange.send(self._agent, "POST", url, _FORM, body=body)
        if response.code != 200:
            raise await self._refusal(response, what, fields)
        return await read_whole(response, MAX_TOKEN_BYTES, self._exchange.watch, what)

    async def _refusal(self, response: IResponse, what: str, fields: Mapping[str, str]) -> UpstreamError:
        """Why not; the server's own words only when they hold nothing of what it was sent."""
        problem = await read_beginning(response, self._exchange.watch)
        if repeats_secret(problem, *(value.encode() for value in fields.values())):
            problem = b""
        fault = status_fault(self._exchange.upstream, what, response.code, response.headers, problem)
        # Whoever does not know such a question, or such a form, gives nothing; no image is missing for that.
        if isinstance(fault, (UpstreamMissing, UpstreamInvalid)):
            return UpstreamDenied(fault.upstream, fault.detail)
        return fault
