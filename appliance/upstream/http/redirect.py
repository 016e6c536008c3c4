"""
Redirects, followed by our own rules (RFC 9110 section 15.4).

Every hop gets a fresh set of fields: the Range goes along, the Authorization only within the configured origin. From
https nothing leads to http.
"""

from __future__ import annotations

from dataclasses import replace

from appliance.errors import UpstreamError, UpstreamInvalid
from appliance.upstream.answer import Answer, Http, Request
from appliance.upstream.url import Url

#: Redirects followed for one request.
MAX_REDIRECTS = 5


class RedirectingClient:
    """Follows from the configured URL to wherever it leads."""

    def __init__(self, http: Http, home: Url) -> None:
        self._http = http
        self._home = home.origin

    async def request(self, request: Request) -> Answer:
        """
        The first answer that is no redirect to be followed.

        @raise UpstreamInvalid: more than L{MAX_REDIRECTS}, or one that leads nowhere.
        @raise UpstreamRefused: one from https to http, or to an address outside the rules.
        """
        while True:
            answer = await self._http.request(request)
            target = self._target(answer) if answer.is_redirect else None
            if target is None:
                return answer
            answer.body.discard()
            if request.followed == MAX_REDIRECTS:
                raise UpstreamInvalid(answer.upstream, f"{answer.what}: more than {MAX_REDIRECTS} redirects")
            stays = request.url.origin == target.origin == self._home
            authorization = request.danger_authorization if stays else None
            request = replace(request, url=target, danger_authorization=authorization, followed=request.followed + 1)

    def _target(self, answer: Answer) -> Url | None:
        """Where the redirect leads, C{None} when it is not to be followed."""
        try:
            target = answer.target()
        except UpstreamError:
            if not answer.request.may_leave:
                return None
            answer.body.discard()
            raise
        return target if answer.request.may_leave or target.origin == answer.url.origin else None
