"""The admin endpoint of a running appliance: requests, answers as they arrive, and what is wrong with them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import inspect
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse

from appliance.cli.address import ADMIN, AdminAddress
from appliance.cli.failures import AnswerCut, CommandFailed, RefusedByAppliance, Unreachable

#: How much of an answer that is an error is read, in bytes.
ERROR_BYTES = 64 * 1024

#: The longest line of a stream of documents, in bytes; a receipt names every reference of a bundle.
LINE_BYTES = 256 * 1024 * 1024

#: The word for a request that is longer than may be.
TOO_LARGE = "too-large"

#: Bytes that may wait to be taken before the sender is asked to wait; a few reads of a socket.
WAITING = 1024 * 1024

T = TypeVar("T")
Parameters = Mapping[str, str]


class AdminClient:
    """
    Requests to one appliance, in JSON.

    @ivar url: the admin endpoint, as a person writes it: a URL without a slash at the end, or C{unix:PATH}.
    """

    def __init__(self, address: AdminAddress, http: HTTPClient, token: str | None = None) -> None:
        """
        @param token: is shown with every request, C{None} for none.
        """
        self.url = address.name
        self._address = address
        self._http = http
        # A socket's mode says who may open it; there the token is not asked for.
        self._authorization = None if token is None or address.path is not None else f"Bearer {token}"

    async def open(
        self,
        method: str,
        path: str,
        body: bytes | IBodyProducer | None = None,
        content_type: str = "application/json",
        parameters: Parameters | None = None,
        accept: str = "application/json",
    ) -> IResponse:
        """
        A response that is no error, its body still to be read.

        @param path: below C{/api/v1/}, quoted.
        @raise Unreachable: nothing answers.
        @raise RefusedByAppliance: the answer is an error.
        @raise Exception: what C{body} failed with.
        """
        headers: dict[bytes | str, bytes | str] = {"Accept": accept}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            url = f"{self._address.url}/api/v1/{path}"
            response: IResponse = await self._http.request(
                method, url, headers=headers, data=body, params=parameters, unbuffered=True
            )
        except RequestGenerationFailed as error:
            raise error.reasons[0].value from error
        except (ConnectError, DNSLookupError, ResponseFailed, OSError) as error:
            reasons = error.reasons if isinstance(error, ResponseFailed) else None
            reason = reasons[0].value if reasons else error
            if isinstance(reason, TLSError | VerificationError):
                why = "its certificate is not one for that name by an authority that is known here (--ca-file), or it"
                raise Unreachable(f"{self.url}: {why} wants one of yours (--cert-file)") from error
            raise Unreachable(
                f"no appliance answers at {self.url} "
                f"({' '.join((str(reason) or type(reason).__name__).split()).rstrip('.')}); "
                f"is it running there? another address: --admin URL or {ADMIN}"
            ) from error
        if response.code >= 400:
            said = await self._body(response, ERROR_BYTES)
            try:
                document = msgspec.json.decode(said)
            except (ValueError, RecursionError):
                document = None
            otherwise = f"{self.url} answered with status {response.code}"
            if document is None and response.code in (502, 503, 504):
                raise Unreachable(f"{otherwise}: a proxy before the appliance does not reach it")
            if document is None and response.code == 413:
                large = f"{otherwise}: a proxy on the way takes no request so large (nginx: client_max_body_size)"
                raise RefusedByAppliance(large, TOO_LARGE)
            raise refusal(document, otherwise)
        return response

    async def fetch(
        self, path: str, parameters: Parameters | None = None, method: str = "GET", body: bytes | None = None
    ) -> Any:
        """The JSON document at C{path}, or that C{method} is answered with; raises as L{open} does."""
        return self.parsed(await self._body(await self.open(method, path, body, parameters=parameters)))

    async def fetch_bytes(self, path: str) -> bytes:
        """The bytes at C{path}, for what is small; raises as L{open} does."""
        return await self._body(await self.open("GET", path))

    async def put(
        self, path: str, body: bytes | IBodyProducer, content_type: str, parameters: Parameters | None = None
    ) -> None:
        """Put C{body} there; raises as L{open} does."""
        await self._body(await self.open("PUT", path, body, content_type, parameters))

    async def lines(self, response: IResponse) -> AsyncIterator[Any]:
        """
        The documents of an NDJSON body as they arrive.

        @raise CommandFailed: the connection broke, or what came is no JSON.
        """
        rest = bytearray()
        async for piece in self.pieces(response):
            rest += piece
            *whole, last = rest.split(b"\n") if b"\n" in piece else (rest,)
            rest = bytearray(last)
            for line in filter(None, whole):
                yield self.parsed(bytes(line))
            if len(rest) > LINE_BYTES:
                raise CommandFailed(f"{self.url} sent a line without an end; is it a pullcache admin endpoint?")
        if rest.strip():
            yield self.parsed(bytes(rest))

    def pieces(self, response: IResponse) -> BodyPieces:
        """The body in pieces, at the pace of its reader."""
        pieces = BodyPieces(self.url)
        response.deliverBody(pieces)
        return pieces

    def parsed(self, data: bytes) -> Any:
        """A JSON document of the appliance. Raises L{CommandFailed}."""
        try:
            return msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise CommandFailed(f"{self.url} answered no JSON ({error}); is it a pullcache admin endpoint?") from error

    def as_kind(self, document: Any, kind: type[T]) -> T:
        """C{document} as a struct of L{appliance.api}. Raises L{CommandFailed}."""
        try:
            return read(document, kind)
        except msgspec.ValidationError as error:
            raise CommandFailed(f"{self.url}: the answer is not understood ({error}); another version?") from error

    async def _body(self, response: IResponse, most: int | None = None) -> bytes:
        body = bytearray()
        async for piece in self.pieces(response):
            body += piece
            if most is not None and len(body) > most:
                break
        return bytes(body)


def refusal(document: Any, otherwise: str) -> RefusedByAppliance:
    """
    What an error document says, as an exception to be raised.

    @param otherwise: what to say when the document gives no reason.
    """
    error = document.get("error") if isinstance(document, dict) else None
    message, code = (error.get("message"), error.get("code")) if isinstance(error, dict) else (error, None)
    reason = message if isinstance(message, str) and message.strip() else otherwise
    return RefusedByAppliance(reason, code if isinstance(code, str) else "")


def quoted(reference: str) -> str:
    """A reference as a part of a path: its slashes, colons and @ stay."""
    return quote(reference, safe="/:@")


# -- answers of another version -------------------------------------------------------------------------------------


def read(document: Any, kind: type[T]) -> T:
    """
    A decoded answer of an appliance of any version, as C{kind}.

    Members that are not known are ignored. Those that an older appliance did not send yet are empty: C{""}, 0, no
    items, C{None}; only the first of each struct, which says what it is about, must be there.

    @raise msgspec.ValidationError: it is something else.
    """
    return msgspec.convert(_completed(document, inspect.type_info(kind)), kind)


def _completed(document: Any, kind: inspect.Type) -> Any:
    match kind, document:
        case inspect.ListType(item_type=item), list():
            return [_completed(each, item) for each in document]
        case inspect.StructType(fields=fields), dict():
            whole = dict(document)
            for number, field in enumerate(fields):
                name = field.encode_name
                if name in document:
                    whole[name] = _completed(document[name], field.type)
                elif field.required and number:
                    whole[name] = _empty(field.type)
            return whole
        case inspect.UnionType(types=types), dict():
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            return _completed(document, structs[0]) if len(structs) == 1 else document
    return document


def _empty(kind: inspect.Type) -> Any:
    match kind:
        case inspect.StrType():
            return ""
        case inspect.IntType() | inspect.FloatType():
            return 0
        case inspect.BoolType():
            return False
        case inspect.ListType():
            return []
        case inspect.StructType(fields=fields):
            return {field.encode_name: _empty(field.type) for field in fields}
    return None


# -- bodies ---------------------------------------------------------------------------------------------------------


class BodyPieces(Protocol):
    """
    The body of a response, an asynchronous iterator of C{bytes} for one reader; it ends with the body.

    A body that is cut raises L{CommandFailed}. One without a length that ends with its connection counts as whole: who
    must know compares lengths. A reader that is cancelled closes the connection.
    """

    def __init__(self, source: str) -> None:
        """
        @param source: names the sender in errors.
        """
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._end: Failure | None = None
        self._reader: Deferred[None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._end is not None:
                if self._end.check(ResponseDone, PotentialDataLoss):
                    raise StopAsyncIteration
                raise AnswerCut(
                    f"the connection to {self._source} broke before everything had come; its log says why, if it"
                    " still runs"
                )
            self._reader = Deferred(lambda _: self.leave())
            await self._reader
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._paused and self._waiting < WAITING // 2:
            self._paused = False
            self._producer.resumeProducing()
        return piece

    def leave(self) -> None:
        """Take no more: the connection is closed."""
        if self._end is None and self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """See L{Protocol}."""
        self._pieces.append(data)
        self._waiting += len(data)
        if not self._paused and self._waiting > WAITING:
            self._paused = True
            self._producer.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol}: the body is over, one way or another."""
        self._end = reason
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.called:
            reader.callback(None)

    @property
    def _producer(self) -> IPushProducer:
        producer: IPushProducer = self.transport  # type: ignore[assignment]  # a body's transport is a producer
        return producer
