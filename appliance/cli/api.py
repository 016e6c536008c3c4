"""The admin endpoint of a running appliance, as the commands ask it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from treq.client import HTTPClient
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.web.client import ResponseFailed
from twisted.web.iweb import IResponse

from appliance.api import read
from appliance.cli.arrival import Arrival
from appliance.cli.failures import CommandFailed, Refused, Unreachable, WrongUsage

DEFAULT_ADMIN = "http://127.0.0.1:5001"
VARIABLE = "PULLCACHE_ADMIN"

#: How much of an answer that is an error is read, in bytes.
ERROR_BYTES = 64 * 1024

#: The longest line of a stream of documents, in bytes; a receipt names every reference of a bundle.
LINE_BYTES = 256 * 1024 * 1024

T = TypeVar("T")
Parameters = Mapping[str, str]


def admin_url(option: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """
    Where the appliance is asked, without a slash at the end: the option, the environment, or the default.

    @raise WrongUsage: it is no http or https URL.
    """
    url = (option or environment.get(VARIABLE) or DEFAULT_ADMIN).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise WrongUsage(f"{url!r} is no URL of an admin endpoint; write it like {DEFAULT_ADMIN}")
    return url


class Api:
    """
    Requests to one appliance, in JSON.

    @ivar url: the admin endpoint, without a slash at the end.
    """

    def __init__(self, url: str, http: HTTPClient) -> None:
        self.url = url
        self._http = http

    async def fetch(self, path: str, parameters: Parameters | None = None) -> Any:
        """The JSON document at C{path}; raises as L{open} does."""
        return await self._document(await self.open("GET", path, parameters=parameters))

    async def fetch_bytes(self, path: str) -> bytes:
        """The bytes at C{path}, for what is small; raises as L{open} does."""
        return await self._body(await self.open("GET", path))

    async def send(self, method: str, path: str, document: Any) -> Any:
        """Send JSON, and give the JSON that is answered; raises as L{open} does."""
        return await self._document(await self.open(method, path, msgspec.json.encode(document)))

    async def put(self, path: str, body: bytes, content_type: str) -> None:
        """Put C{body} there; raises as L{open} does."""
        await self._body(await self.open("PUT", path, body, content_type))

    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        parameters: Parameters | None = None,
        accept: str = "application/json",
    ) -> IResponse:
        """
        A response that says yes, its body still to be read.

        @param path: below C{/api/v1/}, quoted.
        @raise Unreachable: nobody answers.
        @raise Refused: the answer is an error.
        """
        headers: dict[bytes | str, bytes | str] = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response: IResponse = await self._http.request(
                method, f"{self.url}/api/v1/{path}", headers=headers, data=body, params=parameters, unbuffered=True
            )
        except (ConnectError, DNSLookupError, ResponseFailed, OSError) as error:
            raise self._unreachable(error) from error
        if response.code >= 400:
            raise await self._refused(response)
        return response

    async def lines(self, response: IResponse) -> AsyncIterator[Any]:
        """
        The documents of an NDJSON body as they arrive.

        @raise CommandFailed: the connection broke, or what came is no JSON.
        """
        rest = bytearray()
        async for piece in self.arrival(response):
            rest += piece
            *whole, last = rest.split(b"\n") if b"\n" in piece else (rest,)
            rest = bytearray(last)
            for line in filter(None, whole):
                yield self.parsed(bytes(line))
            if len(rest) > LINE_BYTES:
                raise CommandFailed(f"{self.url} sent a line without an end; is it a pullcache admin endpoint?")
        if rest.strip():
            yield self.parsed(bytes(rest))

    def arrival(self, response: IResponse) -> Arrival:
        """The body in pieces, at the pace of its reader."""
        return Arrival.of(response, self.url)

    def parsed(self, data: bytes) -> Any:
        """A JSON document of the appliance. Raises L{CommandFailed}."""
        try:
            return msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise CommandFailed(f"{self.url} answered no JSON ({error}); is it a pullcache admin endpoint?") from error

    def as_kind(self, document: Any, kind: type[T]) -> T:
        """C{document} as what it is to be. Raises L{CommandFailed}."""
        try:
            return read(document, kind)
        except msgspec.ValidationError as error:
            raise CommandFailed(f"{self.url}: the answer is not understood ({error}); another version?") from error

    async def _body(self, response: IResponse, most: int | None = None) -> bytes:
        pieces = bytearray()
        async for piece in self.arrival(response):
            pieces += piece
            if most is not None and len(pieces) > most:
                break
        return bytes(pieces)

    async def _document(self, response: IResponse) -> Any:
        return self.parsed(await self._body(response))

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"no appliance answers at {self.url} ({_reason(error)}); "
            f"is it running there? another address: --admin URL or {VARIABLE}"
        )

    async def _refused(self, response: IResponse) -> Refused:
        body = await self._body(response, ERROR_BYTES)
        try:
            document = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            document = None
        return Refused(message_of(document) or f"{self.url} answered with status {response.code}", code_of(document))


def message_of(document: Any) -> str | None:
    """What an error document says in words, C{None} when it is none."""
    said = document.get("error") if isinstance(document, dict) else None
    message = said.get("message") if isinstance(said, dict) else said
    return message if isinstance(message, str) and message.strip() else None


def code_of(document: Any) -> str:
    """What an error document says for programs, C{""} when it is none."""
    said = document.get("error") if isinstance(document, dict) else None
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, str) else ""


def quoted(reference: str) -> str:
    """A reference as a part of a path: its slashes, colons and @ stay."""
    return quote(reference, safe="/:@")


def _reason(error: Exception) -> str:
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    return " ".join((str(error) or type(error).__name__).split()).rstrip(".")
