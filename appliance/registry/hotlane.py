"""
The hot lane: whole answers prepared beforehand, written by the HTTP channel itself.

Only a simple request takes it: a GET or HEAD over HTTP/1.1, complete in one read, alone or with others, without a
header that could change the answer. Everything else takes the Klein route, which gives the same bytes: an entry here is
made from the headers and body that the route has just sent.

Clients send the same bytes again and again: what they say is looked up, and only read where they are new. Whoever
sends them is asked for each time: who it is, what it may read, and how much.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import datetimeToString

from appliance.cache.access import Access, RemoteRepository
from appliance.errors import PullcacheError, RequestInvalid
from appliance.flow.clock import wall_of
from appliance.flow.origins import parse_host
from appliance.flow.rates import ClientRates
from appliance.interfaces import IAccounts
from appliance.registry.login import Login, Peer
from appliance.registry.request import RegistryRequest

# A body that may lie in memory; larger ones go by sendfile.
BODY_LIMIT = 64 * 1024
BUDGET = 16 * 1024 * 1024
# What an answer takes beside its bytes and those of its key; so there are never more than 64 Ki of them.
_OVERHEAD = 1024

# Well-formed header lines, none of which could change the answer or the connection; and each of a few others once at
# most, which is looked at.
_LINE = (
    rb"(?!r(?:ange|eferer)|if-|co(?:nnection|ntent-length|okie)|expect|transfer-encoding|upgrade|origin|sec-fetch-"
    rb"|(?:host|authorization|x-forwarded-(?:for|proto)):)[!#$%&'*+.^_`|~0-9a-z-]+:[^\r\n\x00]*"
)
_ONCE = rb"(?(%d)(?!)|%b:[ \t]*(%b)[ \t]*)"
_VALUE = rb"[!-~](?:[ -~]*[!-~])?"
_LOOKED_AT = (
    (b"host", rb"[!-~]*"),
    (b"authorization", _VALUE),
    (b"x-forwarded-for", _VALUE),
    (b"x-forwarded-proto", _VALUE),
)
_HEADERS = re.compile(
    rb"(?:(?:%b)\r\n){0,64}+\r\n"
    % b"|".join([_LINE, *(_ONCE % (number, *field) for number, field in enumerate(_LOOKED_AT, start=1))]),
    re.IGNORECASE,
)
# Values of Host that are remembered as right ones.
_HOSTS_KNOWN = 64
# Bytes of requests that are remembered, and of the longest one of them. Forgotten all at once: they come again.
_SAID = 4 * 1024 * 1024
_LONGEST_SAID = 4096
# Bytes of answers that are joined for one write. What else the same read brought takes the route; nothing more is read
# until the client has taken the answers.
_TOGETHER = 256 * 1024

_REQUEST_LINE = re.compile(rb"((?:GET|HEAD) /v2/[!-~]{1,2048}) HTTP/1\.1\r\n")


_END = b"\r\n\r\n"

# The request line without its version, and the values of three headers: Authorization, X-Forwarded-For and -Proto.
_Said = tuple[bytes, bytes | None, bytes | None, bytes | None]


@dataclass(slots=True, eq=False)
class PullCount:
    """
    How often a tag or digest was pulled by the lane, and was not taken yet. Apart from its answer, which may be dropped
    or made anew meanwhile: nothing but the names stays in memory until then.
    """

    repository: RemoteRepository
    reference: str
    times: int = 0


@dataclass(slots=True, eq=False)
class PreparedAnswer:
    """
    An answer: what stands before the date, what after it, and what to note of it.

    @ivar method: of its requests, as C{path}.
    @ivar repository: what it was read from; L{Access.check} decides about that each time.
    @ivar cache: see L{IAccounts.answered}.
    @ivar pulls: of the tag or digest that is pulled with it, C{None} for nothing that is counted.
    """

    before: bytes
    after: bytes
    method: str
    path: str
    body_length: int
    expires: float | None
    repository: RemoteRepository
    kind: str
    code: int
    cache: str
    pulls: PullCount | None

    @property
    def cost(self) -> int:
        """Bytes of memory, roughly; those of its key left out."""
        names = len(self.path) + len(self.repository.name) + (0 if self.pulls is None else len(self.pulls.reference))
        return len(self.before) + len(self.after) + names + _OVERHEAD


class HotLane:
    """
    The prepared answers of one listener, the longest unused dropped first.

    @ivar generation: counts how often they were all forgotten. An answer is kept only while the generation is the one
        in which its request was routed: what is prepared across an import or a new configuration may be an old one.
    @ivar hosts: the names that are answered to, none for all.
    """

    hosts: tuple[str, ...] = ()

    def __init__(
        self, access: Access, login: Login, rates: ClientRates, clock: IReactorTime, accounts: IAccounts
    ) -> None:
        self._access = access
        self._login = login
        self._rates = rates
        self._clock = clock
        self._wall = wall_of(clock)
        self._accounts = accounts
        self.generation = 0
        self._answers: OrderedDict[bytes, PreparedAnswer] = OrderedDict()
        self._used = 0
        self._date = b""
        self._dated = 0
        self._pulled: list[PullCount] = []
        self._hosts_known: set[bytes] = set()
        self._said: dict[bytes, _Said] = {}
        self._said_bytes = 0

    def remember(
        self,
        request: RegistryRequest,
        body: bytes,
        expires: float | None,
        repository: RemoteRepository,
        pulled: str | None = None,
    ) -> None:
        """
        The response that C{request} has got, with its headers set, may be given again; it is not kept when the request
        is written in an unusual way, or is of an earlier generation.

        @param body: what follows the headers; empty for HEAD.
        @param expires: seconds of the clock, C{None} for ever.
        @param repository: what it was read from.
        @param pulled: the tag or digest to count whenever it is given; C{None}: nothing.
        """
        key = request.method + b" " + request.uri
        if request.generation != self.generation or len(body) > BODY_LIMIT:
            return
        for name, _ in request.requestHeaders.getAllRawHeaders():
            if name.lower().startswith((b"if-", b"range", b"connection", b"cookie")):
                return
        if _REQUEST_LINE.fullmatch(key + b" " + request.clientproto + b"\r\n") is None:
            return
        head = [b"HTTP/1.1 %d %b\r\n" % (request.code, request.code_message)]
        before = b""
        for name, values in request.responseHeaders.getAllRawHeaders():
            if name == b"Date":
                before, head = b"".join(head) + b"Date: ", [b"\r\n"]
            else:
                head.extend(b"%b: %b\r\n" % (name, value) for value in values)
        if before:
            after = b"".join(head) + b"\r\n" + body
            replaced = self._drop(key)
            pulls = None if replaced is None else replaced.pulls
            if pulls is None and pulled is not None:
                pulls = PullCount(repository, pulled)
            method, path = request.method.decode("ascii"), request.uri.decode("ascii")
            prepared = PreparedAnswer(
                before,
                after,
                method,
                path,
                len(body),
                expires,
                repository,
                request.kind,
                request.code,
                request.cache,
                pulls,
            )
            self._answers[key] = prepared
            self._used += len(key) + prepared.cost
            while self._used > BUDGET:
                self._drop(next(iter(self._answers)))

    def serve(self, transport: Any, data: bytes, peer: Peer) -> int:
        """
        Answer the requests that C{data} begins with, if they are simple ones with an answer here; several are answered
        in one write.

        One that its client may not read, or not yet, is left to the route, which says why, as is one whose client is
        not known yet, and what comes behind it.

        @return: how many bytes of C{data} were answered.
        """
        answer = self._answer(transport, data, peer)
        if answer is not None:
            transport.write(answer)
            return len(data)
        if data.find(_END) + len(_END) in (len(data), len(_END) - 1):
            # It was all there is, or is not whole.
            return 0
        answers: list[bytes] = []
        done = size = 0
        while size < _TOGETHER and (end := data.find(_END, done)) >= 0:
            end += len(_END)
            answer = self._answer(transport, data[done:end], peer)
            if answer is None:
                break
            answers.append(answer)
            size += len(answer)
            done = end
        if answers:
            transport.write(b"".join(answers))
        return done

    def _answer(self, transport: Any, data: bytes, peer: Peer) -> bytes | None:
        """The answer to the request that C{data} is, which is accounted for; C{None}: the route gives one."""
        said = self._said.get(data) or self._read(data)
        if said is None:
            return None
        key, authorization, forwarded_for, forwarded_proto = said
        prepared = self._answers.get(key)
        if prepared is None:
            return None
        if prepared.expires is not None and self._clock.seconds() >= prepared.expires:
            self._drop(key)
            return None
        client = self._login.known(peer, authorization, forwarded_for, forwarded_proto)
        if client is None:
            return None
        try:
            self._access.check(prepared.repository, client)
        except PullcacheError:
            return None
        if self._rates.is_limiting and not self._rates.may(client.user, client.address, transport):
            return None
        self._answers.move_to_end(key)
        second = int(self._wall())
        if second != self._dated:
            self._dated, self._date = second, datetimeToString(second)
        self._accounts.answered(
            client.address,
            client.user,
            prepared.method,
            prepared.path,
            prepared.kind,
            prepared.code,
            prepared.body_length,
            0.0,
            prepared.cache,
        )
        pulls = prepared.pulls
        if pulls is not None:
            if not pulls.times:
                self._pulled.append(pulls)
            pulls.times += 1
        return b"".join((prepared.before, self._date, prepared.after))

    def _read(self, data: bytes) -> _Said | None:
        """
        What the request says that C{data} is, where it is a simple one with an answer here. That depends on nothing
        but its bytes and the names that are answered to.
        """
        line = _REQUEST_LINE.match(data)
        if line is None or line[1] not in self._answers:
            return None
        headers = _HEADERS.fullmatch(data, line.end())
        if headers is None or (headers[1] not in self._hosts_known and not self._is_for_us(headers[1])):
            return None
        said: _Said = line[1], headers[2], headers[3], headers[4]
        # Passwords do not stay in memory.
        if headers[2] is None and len(data) <= _LONGEST_SAID:
            self._said_bytes += len(data) + _OVERHEAD
            if self._said_bytes > _SAID:
                self._said.clear()
                self._said_bytes = len(data) + _OVERHEAD
            self._said[data] = said
        return said

    def take_pulls(self) -> list[tuple[RemoteRepository, str, int]]:
        """What was pulled by this lane since the last call: a tag or digest of which repository, and how often."""
        taken = [(pulls.repository, pulls.reference, pulls.times) for pulls in self._pulled]
        for pulls in self._pulled:
            pulls.times = 0
        self._pulled.clear()
        return taken

    def clear(self) -> None:
        """Forget every answer, those under way included: something that decides about them has changed."""
        self.generation += 1
        self._answers.clear()
        self._hosts_known.clear()
        self._said.clear()
        self._said_bytes = 0
        self._used = 0

    def forget(self, upstream: str, name: str) -> None:
        """Forget the answers of one repository, those under way included: what it holds has changed."""
        self.generation += 1
        ours = [
            key
            for key, each in self._answers.items()
            if (each.repository.upstream, each.repository.name) == (upstream, name)
        ]
        for key in ours:
            self._drop(key)

    def _is_for_us(self, named: bytes | None) -> bool:
        """Whether a request with this C{Host}, C{None} for none, is answered; its value is remembered then."""
        if named is None:
            return not self.hosts
        try:
            host = parse_host(named.decode("ascii"))
        except RequestInvalid:
            return False
        if self.hosts and not host.is_one_of(self.hosts):
            return False
        if len(self._hosts_known) >= _HOSTS_KNOWN:
            self._hosts_known.clear()
        self._hosts_known.add(named)
        return True

    def _drop(self, key: bytes) -> PreparedAnswer | None:
        dropped = self._answers.pop(key, None)
        if dropped is not None:
            self._used -= len(key) + dropped.cost
        return dropped
