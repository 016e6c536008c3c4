"""
A request as the registry reads, answers, counts and logs it.

This is the one place where a response of the registry gets its status, its headers and its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from appliance.cache.access import Client
from appliance.cache.status import CacheStatus
from appliance.flow.http import ServerRequest, values_of
from appliance.registry.failures import for_clients

API_VERSION = "registry/2.0"

# The longest text of a quoted string, in characters.
_QUOTED = 1000
# docker and dockerd: "docker/29.0 go/go1.25 ... os/linux arch/arm64 UpstreamClient(...)".
_PLATFORM = re.compile(r"(?:^|[ (])os/([a-z0-9]{1,20}) arch/([a-z0-9_]{1,20})(?:[ )]|$)")


class RegistryRequest(ServerRequest):
    """
    @ivar accounts: is given how this request ended; set on the class by the listener.
    @ivar kind: see L{IAccounts.answered}.
    @ivar cache: see L{IAccounts.answered}.
    @ivar sender: who asks; anonymous until L{appliance.registry.login.Login} knows.
    @ivar is_for_one: whether another client may get another answer, so that no cache on the way may give it again.
    @ivar generation: L{HotLane.generation} when the request was routed; C{None}: its answer is not given again.
    """

    accounts: Any = None
    kind = "other"
    is_for_one = False
    cache = "-"
    generation: int | None = None
    _accounted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock: IReactorTime = self.accounts.clock
        self.began = self._clock.seconds()
        self.sender = Client(self.channel.peer.address)

    # -- what the client says ---------------------------------------------------------------------------------------

    @property
    def platform(self) -> str | None:
        """The platform its client runs on, as in C{linux/arm64}; C{None} when it does not say, as most do not."""
        return platform_of("".join(values_of(self.requestHeaders, b"User-Agent")))

    def has_current(self, etag: str) -> bool:
        """Whether the client has what C{etag} stands for already, and wants C{304} instead."""
        return etag_matches(values_of(self.requestHeaders, b"If-None-Match"), etag)

    # -- the response -----------------------------------------------------------------------------------------------

    def begin(
        self, code: int, length: int, content_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Set status and headers; the body of C{length} bytes follows, unless the request was HEAD."""
        self.setResponseCode(code)
        put = self.responseHeaders.setRawHeaders
        if content_type is not None:
            put("Content-Type", [content_type])
        if code != 304:
            put("Content-Length", [str(length)])
        put("Docker-Distribution-API-Version", [API_VERSION])
        for name, value in (headers or {}).items():
            put(name, [value])
        if self.is_for_one:
            # RFC 9111 section 5.2.2.7.
            told = self.responseHeaders.getRawHeaders("Cache-Control", [])
            put("Cache-Control", [", ".join(["private", *(each for each in told if each != "private")])])

    def answer(self, code: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> bytes:
        """As L{begin}; what is to follow: the body, nothing when the request was HEAD."""
        self.begin(code, len(body), content_type, headers)
        return b"" if self.method == b"HEAD" else body

    def say_where_from(self, status: CacheStatus, warning: str | None, namespace: str | None) -> None:
        """C{Cache-Status} (RFC 9211), C{Warning} for what is stale, and the C{ns} that was followed."""
        self.cache = status.label
        self.setHeader("Cache-Status", str(status))
        if warning is not None:
            self.setHeader("Warning", f'299 - "{quotable(for_clients(warning))}"')
        if namespace is not None:
            self.setHeader("OCI-Namespace", quotable(namespace))

    # -- its end ----------------------------------------------------------------------------------------------------

    def add_sent(self, octets: int) -> None:
        """Bytes of the body went out that were not given to C{write}."""
        self.sentLength += octets

    def finish(self) -> None:
        """The response is complete."""
        self._account()
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client left, or was cut off."""
        self._account()
        super().connectionLost(reason)

    def _account(self) -> None:
        if self._accounted:
            return
        self._accounted = True
        self.accounts.answered(
            self.sender.address,
            self.sender.user,
            self.method.decode("ascii", "replace"),
            self.uri.decode("ascii", "backslashreplace"),
            self.kind,
            self.code,
            self.sentLength,
            self._clock.seconds() - self.began,
            self.cache,
        )


def platform_of(user_agent: str | None) -> str | None:
    """The platform that a C{User-Agent} names, as in C{linux/arm64}; C{None} when it names none."""
    found = None if user_agent is None else _PLATFORM.search(user_agent)
    return None if found is None else f"{found[1]}/{found[2]}"


def etag_matches(values: Iterable[str], etag: str) -> bool:
    """
    Whether C{If-None-Match} names C{etag} (RFC 9110 section 13.1.2: weak comparison).

    A bare digest is accepted as well, as some registries send it without quotes.
    """
    for value in values:
        for candidate in value.split(","):
            candidate = candidate.strip().removeprefix("W/").strip('"')
            if candidate in ("*", etag):
                return True
    return False


def quotable(text: str) -> str:
    """C{text} as a quoted string may hold it: printable ASCII, no quotes or backslashes, bounded."""
    kept = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in text)
    return kept[:_QUOTED]
