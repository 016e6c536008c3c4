"""
Imports whose archives are sent by who orders them.

::

    POST /api/v1/imports/sendings       the head: names, sizes and documents; what is wanted comes as a line, between
                                        those of an import's progress
    PUT  /api/v1/imports/sendings/ID    that, one after the other, in as many requests as the sender likes

    POST /api/v1/imports                the archive itself as the body, for programs that can do no more: curl

Nothing of it is written to a file but blobs under way, as in any import. After a cut the sender sends the head again:
what is wanted is then what the store does not have, from the byte on where a blob was cut. So nothing has to be
remembered here, and a restart of either side changes nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance.admin.failures import Refused, document, outcome_of
from appliance.admin.route import (
    JSON,
    NDJSON,
    JsonLines,
    Parameter,
    Reply,
    Route,
    about,
    flag,
    json,
    media_type,
    operator_of,
    raw,
    value,
    values,
)
from appliance.api import MAX_SENDING_HEAD, SENDING, ImportChoices, Received, SendingOrder, Wanted, WantedEntry
from appliance.bundle.contents import check_values
from appliance.bundle.importer import Importer, ImportOptions
from appliance.bundle.minisign import PublicKey
from appliance.bundle.names import Renames
from appliance.bundle.receipt import Receipt
from appliance.bundle.sentarchive import ExpectedEntry, Passage, SentArchive
from appliance.bundle.tar import MAX_ENTRIES
from appliance.bundle.tarpassage import TarPassage
from appliance.errors import BundleError, BundleNotRead, NotHeld
from appliance.flow.arrival import Arrival
from appliance.flow.http import RequestBody
from appliance.flow.singleflight import ended, shielded
from appliance.identity.roles import Role
from appliance.interfaces import IAudit, IThreads

MAX_HEAD_VALUES = 8 * MAX_ENTRIES
"""The most values in it: an entry has three, and its beginning three more; each takes memory, and time of all."""

MOST = 4
"""Sendings at a time: each takes the memory of its head, and of what is planned."""

SILENCE = 120.0
"""Seconds for which nothing may come of what is wanted; a proxy may collect a request before it passes it on."""

OCTETS = "application/octet-stream"

Followed = Callable[[Coroutine[Any, Any, Receipt], ImportOptions], Coroutine[Any, Any, Receipt]]
"""Runs an import, and what is to be done after each."""

Outcome = Callable[[Deferred[Receipt], Sequence[str]], Coroutine[Any, Any, tuple[int, object]]]
"""Waits for an import of some files, by name; what to say of how it ended, with a status code."""

CHOICES = (
    Parameter("name", "Of an archive that is the body: its name, for messages and the receipt."),
    Parameter("as", "The reference, where the archive does not name its image."),
    Parameter("dryRun", "Say what would come of it, and store nothing.", flag=True),
    Parameter("onExistingTag", "When a tag means something else here: move, keep or refuse."),
    Parameter("trust", "A public key, as its one line of base64.", repeated=True),
    Parameter("rename", "OLD=NEW: call what begins with OLD by NEW.", repeated=True),
)
"""How an archive that is the body of a request is imported, in its query."""

_ARCHIVES = frozenset(f"application/{kind}" for kind in ("x-tar", "octet-stream", "gzip", "x-gzip", "zstd", "x-zstd"))


class Sendings:
    """The imports whose archives are being sent."""

    def __init__(
        self,
        importer: Importer,
        followed: Followed,
        outcome: Outcome,
        threads: IThreads,
        clock: IReactorTime,
        audit: IAudit,
    ) -> None:
        self._importer = importer
        self._followed = followed
        self._outcome = outcome
        self._threads = threads
        self._clock = clock
        self._audit = audit
        self._open: dict[str, _Sending] = {}
        self._passing = 0

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route(
                "POST",
                "/api/v1/imports/sendings",
                self.order,
                "Import archives that are sent: their head; what is wanted of them, progress, a receipt or an error.",
                NDJSON,
                takes=SENDING,
                body_limit=MAX_SENDING_HEAD,
                action="import",
                role=Role.OPERATE,
            ),
            Route(
                "PUT",
                "/api/v1/imports/sendings/<sending>",
                self.received,
                "Send what is wanted.",
                Received,
                (Parameter("at", "How many bytes of what is wanted were sent before."),),
                takes=OCTETS,
                role=Role.OPERATE,
                taker=self.taker,
            ),
        ]

    async def order(self, request: Request) -> None:
        """
        Import what is sent: one line for each step, and L{Wanted} before anything is stored.

        The same archives from elsewhere end this, for two would be in each other's way. A sender that leaves ends it,
        too, as soon as what has come by then is stored.
        """
        if media_type(request) != SENDING:
            raise Refused(415, "unsupported-media-type", f"send the head as Content-Type: {SENDING}")
        sending = _Sending(self._clock)
        order, sending.archives, sending.key = await self._threads.call(_parsed, raw(request), sending.passage)
        if request.content is not None:
            # The request lasts as long as the import, and its body may be all of the limit.
            request.content.close()
        sources = [each.source for each in sending.archives]
        about(request).what, about(request).is_trial = " ".join(sources), order.dry_run
        options = options_of(order)
        if order.dry_run:
            # It stores nothing, so it is in no other's way.
            sending.key = sending.name
        await self._enter(sending)
        sending.lines = JsonLines(request, self._clock)
        importing = self._importer.run_opened(sending.archives, options, sending.lines.progress)
        sending.importing = Deferred.fromCoroutine(self._followed(importing, options))
        over = Deferred.fromCoroutine(self._outcome(sending.importing, sources)).addBoth(self._left, sending)
        try:
            sending.lines.send((await shielded(over))[1])
        except CancelledError:
            sending.arrival.fail(BundleNotRead("the connection was cut; send it again: what has come is kept"))
            raise

    def taker(self, request: Request, sending: str) -> _WantedTaker:
        """What takes a part of what is wanted, as it arrives. Raises L{Refused}."""
        if media_type(request) != OCTETS:
            raise Refused(415, "unsupported-media-type", f"send it as Content-Type: {OCTETS}")
        found = self._open.get(sending)
        if found is None or not found.wanted:
            raise NotHeld("nothing is wanted under this name, or not any more; send the head again")
        at = value(request, "at") or "0"
        if found.arrival.has_source:
            raise Refused(409, "out-of-place", "another request is sending it already")
        if at != str(found.arrival.received):
            raise Refused(409, "out-of-place", f"{found.arrival.received} bytes have come: go on there, with at=")
        return _WantedTaker(found)

    def received(self, request: Request, sending: str) -> Reply:
        """How much has come by now."""
        taker = getattr(request, "taker", None)
        if not isinstance(taker, _WantedTaker):
            raise Refused(400, "bad-request", "the request has no body; send what is wanted")
        return json(Received(taker.sending.arrival.received))

    # -- as a body --------------------------------------------------------------------------------------------------

    def passing_taker(self, request: Request) -> _PassingTaker | None:
        """What imports the archive that a body is, while it arrives; C{None}: it is an order. Raises L{Refused}."""
        kind = media_type(request)
        if kind == JSON:
            return None
        if kind not in _ARCHIVES:
            raise Refused(
                415, "unsupported-media-type", f"send an archive as Content-Type: application/x-tar, an order as {JSON}"
            )
        options = options_of(_choices_in(request))
        source = (value(request, "name") or "the archive that was sent")[:1024]
        self._check_room()
        who = operator_of(request).noted | {"address": getattr(request.channel.getPeer(), "host", "-")}

        def begin(arrival: Arrival) -> Deferred[tuple[int, object]]:
            self._passing += 1
            passage = TarPassage(arrival, self._threads, source)
            importing = self._followed(self._importer.run_passing(passage, options), options)
            over = Deferred.fromCoroutine(self._outcome(Deferred.fromCoroutine(importing), [source]))
            return over.addBoth(self._passed)

        def unanswered(said: Mapping[str, Any]) -> None:
            # What is answered once it is whole is noted where that is done, as of any request.
            outcome, why = outcome_of(said if "error" in said else None)
            if not options.dry_run:
                self._audit.note("import", source, outcome, **who, why=why)

        return _PassingTaker(source, Arrival(self._clock, SILENCE, _silent), begin, unanswered)

    async def passed(self, request: Request) -> Reply | None:
        """The answer to a request whose body was an archive; C{None}: it was none."""
        taker = getattr(request, "taker", None)
        if not isinstance(taker, _PassingTaker):
            if media_type(request) in _ARCHIVES:
                raise Refused(400, "bad-request", "the body is empty; send an archive, with its length or in chunks")
            return None
        about(request).what, about(request).is_trial = taker.source, flag(request, "dryRun")
        status, said = await shielded(taker.over)
        if isinstance(said, dict) and "error" in said:
            about(request).error = said
        return Reply(msgspec.json.encode(said) + b"\n", status, NDJSON)

    def _passed(self, result: Any) -> Any:
        self._passing -= 1
        return result

    async def _enter(self, sending: _Sending) -> None:
        """Take one of the places, also that of an earlier sending of the same archives. Raises L{Refused}."""
        while True:
            same = next((each for each in self._open.values() if each.key == sending.key), None)
            if same is None:
                break
            same.arrival.fail(BundleError("the same is being sent by another connection, which goes on with it"))
            await ended(same.importing)
        self._check_room()
        self._open[sending.name] = sending

    def _check_room(self) -> None:
        if len(self._open) + self._passing >= MOST:
            raise Refused(503, "too-many-sendings", f"{MOST} archives are being sent already; send it later")

    def _left(self, result: Any, sending: _Sending) -> Any:
        self._open.pop(sending.name, None)
        sending.close()
        return result


class _Sending:
    """
    One of them.

    @ivar name: to be named by who sends, not to be guessed.
    @ivar key: the same for the same archives.
    @ivar wanted: bytes that were asked for.
    @ivar part: the request that brings some of it now.
    """

    importing: Deferred[Receipt]
    lines: JsonLines

    def __init__(self, clock: IReactorTime) -> None:
        self.name = secrets.token_hex(16)
        self.key = ""
        self.archives: Sequence[SentArchive] = ()
        self.arrival = Arrival(clock, SILENCE, _silent)
        self.passage = Passage(self.arrival, self._ask)
        self.wanted = 0
        self.part: _WantedTaker | None = None

    def _ask(self, expected: list[ExpectedEntry]) -> None:
        number = {id(archive): n for n, archive in enumerate(self.archives)}
        wanted = [WantedEntry(number[id(each.archive)], each.item.name, each.start) for each in expected]
        self.wanted = sum(each.size for each in expected)
        self.lines.send(Wanted(sending=self.name, bytes=self.wanted, wanted=wanted))

    def close(self) -> None:
        """The import has ended: what still comes is refused."""
        self.arrival.fail(BundleNotRead("the import has ended"))
        # The end of a request whose last byte has come may not have been seen yet.
        if self.part is not None and self.arrival.received < self.wanted:
            self.part.refuse(409, "ended", "the import has ended; its own answer says how")
        for archive in self.archives:
            archive.close()


class _WantedTaker:
    """See L{BodyTaker}: one request's part of what is wanted."""

    _body: RequestBody | None = None

    def __init__(self, sending: _Sending) -> None:
        self.sending = sending

    def begin(self, body: RequestBody) -> None:
        self._body = body
        self.sending.part = self
        self.sending.arrival.begin(body)

    def take(self, data: bytes) -> None:
        arrival = self.sending.arrival
        if arrival.received + len(data) > self.sending.wanted:
            self.refuse(400, "bad-request", f"{self.sending.wanted} bytes are wanted, and more came")
        else:
            arrival.take(data)

    def end(self) -> None:
        self.cut()

    def cut(self) -> None:
        if self.sending.part is self:
            self.sending.part = None
            self.sending.arrival.leave()

    def refuse(self, status: int, code: str, why: str) -> None:
        self.cut()
        if self._body is not None:
            self._body.refuse(status, msgspec.json.encode(document(code, why)))


class _PassingTaker:
    """
    See L{BodyTaker}: a body that is an archive.

    @ivar source: its name.
    @ivar over: how its import ended.
    """

    over: Deferred[tuple[int, object]]

    def __init__(
        self,
        source: str,
        arrival: Arrival,
        start: Callable[[Arrival], Deferred[tuple[int, object]]],
        unanswered: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """@param unanswered: called with how the import ended, where the request does not become whole."""
        self.source = source
        self._arrival = arrival
        self._start = start
        self._unanswered = unanswered
        self._is_whole = self._is_cut = False
        # How it ended, while more of the request is to come.
        self._said: Any = None

    def begin(self, body: RequestBody) -> None:
        self._arrival.begin(body)

        def ended(result: Any) -> Any:
            # What is still to come is of no use; who sends it is told why, as soon as that is certain.
            self._arrival.fail(BundleNotRead("the import has ended"))
            status, said = result if isinstance(result, tuple) else (500, document("internal", "the import was ended"))
            if self._is_cut or (status != 200 and not self._is_whole):
                self._unanswered(said)
                body.refuse(status, msgspec.json.encode(said))
            else:
                self._said = said
            return status, said

        self.over = self._start(self._arrival).addBoth(ended)

    def take(self, data: bytes) -> None:
        self._arrival.take(data)

    def end(self) -> None:
        self._is_whole = True
        self._arrival.end()

    def cut(self) -> None:
        self._is_cut = True
        self._arrival.fail(BundleNotRead("the connection was cut; send it again: what is stored is kept"))
        if self._said is not None:
            self._unanswered(self._said)


def _choices_in(request: Request) -> ImportChoices:
    """What the query says. Raises L{Refused}."""
    given = {name: value(request, name) for name in ("as", "onExistingTag")}
    renames: dict[str, str] = {}
    for pair in values(request, "rename"):
        old, _, new = pair.partition("=")
        if renames.setdefault(old, new) != new:
            raise Refused(400, "bad-request", f"rename={old[:80]} is given twice")
    more = {"dryRun": flag(request, "dryRun"), "trust": values(request, "trust"), "rename": renames}
    try:
        return msgspec.convert({**{name: said for name, said in given.items() if said}, **more}, ImportChoices)
    except msgspec.ValidationError as error:
        raise Refused(400, "bad-request", f"the query is not understood: {error}") from None


def options_of(order: ImportChoices) -> ImportOptions:
    """What the order says in the words of the importer. Raises L{PullcacheError}."""
    return ImportOptions(
        as_name=order.as_name,
        dry_run=order.dry_run,
        on_existing_tag=order.on_existing_tag,
        trust=tuple(map(PublicKey.parse, order.trust)),
        renames=Renames(order.rename).prefixes,
    )


def _silent() -> BundleNotRead:
    return BundleNotRead(
        f"nothing came for {SILENCE:.0f} s of what is wanted; send it again: what has come is not sent again"
    )


def _parsed(data: bytes, passage: Passage) -> tuple[SendingOrder, list[SentArchive], str]:
    """
    The order, its archives, and what is the same for the same archives. Blocking: there may be 250,000 entries.

    @raise Refused: it is no head.
    @raise BundleDamaged: what it lists leads out of the archive, or is beyond all reason.
    """
    line, newline, rest = data.partition(b"\n")
    try:
        check_values(line, MAX_HEAD_VALUES)
        order = msgspec.json.decode(line, type=SendingOrder)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad-request", f"the head is not understood: {error}") from None
    archives: list[SentArchive] = []
    at = 0
    for head in order.archives:
        beginnings: dict[str, bytes] = {}
        for number, octets in head.beginnings:
            name, size = head.entries[number] if 0 <= number < len(head.entries) else ("", -1)
            if not 0 < octets <= size or at + octets > len(rest):
                raise Refused(400, "bad-request", f"entry {number} of {head.source[:160]!r}: that is not what follows")
            beginnings[name] = rest[at : at + octets]
            at += octets
        archives.append(SentArchive(head.source, passage, head.entries, head.others, beginnings, archives))
    if at != len(rest):
        raise Refused(400, "bad-request", f"{len(rest) - at} bytes follow the head that it does not name")
    key = hashlib.sha256(msgspec.json.encode([head.entries for head in order.archives]))
    key.update(rest)
    return order, archives, key.hexdigest()
