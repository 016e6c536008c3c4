"""
Exports: planned on request, kept for a while, and sent file by file while they are made.

Nothing of a planned export lies on a disk; what is kept is the list of what goes into it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from appliance.admin.exportplanner import ExportPlanner, selection_of
from appliance.admin.failures import Refused, answer_for, internal
from appliance.admin.route import (
    JSON,
    NDJSON,
    JsonLines,
    Parameter,
    Reply,
    Route,
    about,
    body,
    flag,
    json,
    media_type,
    period,
    raw,
    value,
    values,
)
from appliance.api import ExportOrder, Lack, LackingBlob, PlannedExport, VolumeFile
from appliance.bundle.export import SIGNATURE_ROOM, BlobPart, Export, Omitted
from appliance.errors import BlobDamaged, BundleIncomplete, NotHeld, PullcacheError
from appliance.flow.body import CLIENT_SILENCE, BlobBody, ClientStalled
from appliance.flow.clock import wall
from appliance.flow.http import ServerRequest, abort
from appliance.identity.roles import Role
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span
from appliance.oci.timestamps import timestamp

KEPT_FOR = 3600.0
"""Seconds that an export is kept after the last request for it."""

KEPT = 16
"""Exports kept; the one whose last request is the oldest is dropped for a new one."""

ORDER_LIMIT = 64 * 1024 * 1024
"""Bytes of an order: an inventory of half a million blobs."""

Examine = Callable[[Digest], Deferred[bool]]
"""Whether a blob is held and has its digest: see L{appliance.cache.repair.Repair.examine}."""

TAR = "application/x-tar"
_TEXT = "text/plain"

# How many reasons an error names.
_SHOWN = 5

_log = Logger()


class _Kept:
    """An export and how long it is kept."""

    def __init__(self, export: Export, notes: list[str], until: float) -> None:
        self.export = export
        self.notes = notes
        self.until = until
        self.signed = False

    def described(self) -> PlannedExport:
        """What is answered about it."""
        export, bundle = self.export, self.export.bundle
        path = f"/api/v1/exports/{bundle.id}/volumes"
        return PlannedExport(
            id=bundle.id,
            kind=bundle.kind,
            title=bundle.title,
            expires=timestamp(self.until),
            content_root=bundle.content_root,
            totals=bundle.totals,
            signed=self.signed,
            volumes=[
                VolumeFile(n, export.file_name(n), export.size(n), f"{path}/{n}") for n in range(1, export.volumes + 1)
            ],
            left_out=[_lack(each) for each in export.left_out if each.missing],
            partial=[_lack(each) for each in export.partial],
            unanswered=[each.ref for each in export.left_out if not each.missing],
            notes=[*self.notes, *export.notes],
        )


class Exports:
    """
    Plans, keeps and sends exports.

    @ivar sending: files being sent.
    """

    def __init__(self, planner: ExportPlanner, store: IBlobStore, examine: Examine, clock: IReactorTime) -> None:
        self._planner = planner
        self._store = store
        self._examine = examine
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.sending = 0

    def routes(self) -> list[Route]:
        """The routes of this part."""
        one = "/api/v1/exports/<export>"
        routes = [
            Route(
                "POST",
                "/api/v1/exports",
                self.plan,
                "Plan an export; what is lacking may be fetched first, with progress for who accepts NDJSON.",
                PlannedExport,
                takes=ExportOrder,
                body_limit=ORDER_LIMIT,
                status=201,
                action="export",
            ),
            Route(
                "GET",
                "/api/v1/exports",
                self.at_once,
                "Plan and send an export of one file.",
                TAR,
                _ONE_SHOT,
                action="export",
            ),
            Route("GET", one, self.shown, "A planned export.", PlannedExport),
            Route("GET", f"{one}/document", self.document, "Its bundle.json: what a signature signs.", JSON),
            Route(
                "PUT",
                f"{one}/signature",
                self.sign,
                "Put a signature in minisign's form into it.",
                PlannedExport,
                takes=_TEXT,
                body_limit=SIGNATURE_ROOM,
            ),
            Route("GET", f"{one}/volumes/<n>", self.volume, "One of its files, numbered from 1.", TAR),
        ]
        # What an export reads is images, which not everybody may pull who may look at the appliance.
        return [replace(route, role=Role.OPERATE) for route in routes]

    # -- planning ---------------------------------------------------------------------------------------------------

    async def plan(self, request: Request) -> Reply | None:
        """
        Plan what the body asks for; what is wanted, or what an image lacks, may be fetched first, which takes as long
        as it takes. A client that accepts lines (NDJSON) is sent progress meanwhile, at last C{{"export": ...}} or
        C{{"error": ...}}. A client that leaves ends it; what was fetched is kept.
        """
        order = body(request, ExportOrder)
        about(request).what = _words(order)
        wanted = selection_of(order, wall(self._clock))
        if NDJSON not in (request.getHeader("Accept") or ""):
            export, notes = await self._planner.plan(wanted, order.complete)
            return json(self._keep(export, notes).described(), 201)
        lines = JsonLines(request, self._clock)
        try:
            export, notes = await self._planner.plan(wanted, order.complete, lines.progress)
            lines.send({"export": self._keep(export, notes).described()})
        except CancelledError:
            raise
        except Exception as error:
            answer = answer_for(error)
            if answer is None:
                _log.failure("planning an export")
            lines.send((answer or internal())[1])
        return None

    def shown(self, request: Request, export: str) -> Reply:
        """What was planned."""
        return json(self._get(export).described())

    def document(self, request: Request, export: str) -> Reply:
        """The bytes, exactly."""
        return Reply(self._get(export).export.document)

    def sign(self, request: Request, export: str) -> Reply:
        """From now on each file of it carries the signature, which the importing side checks."""
        kept = self._get(export)
        if media_type(request) != _TEXT:
            raise Refused(415, "unsupported-media-type", f"send the signature's file as Content-Type: {_TEXT}")
        data = raw(request)
        if not 0 < len(data) <= SIGNATURE_ROOM:
            raise Refused(400, "bad-request", f"a signature has between 1 and {SIGNATURE_ROOM} bytes, not {len(data)}")
        try:
            kept.export.sign(data.decode("utf-8"))
        except UnicodeDecodeError:
            raise Refused(400, "bad-request", "this is no signature of minisign: it is not text") from None
        kept.signed = True
        return json(kept.described())

    # -- sending ----------------------------------------------------------------------------------------------------

    async def volume(self, request: Request, export: str, n: str) -> None:
        """One file, made while it is sent."""
        kept = self._get(export)
        if not (n.isascii() and n.isdigit() and len(n) < 6 and 1 <= int(n) <= kept.export.volumes):
            raise NotHeld(f"this export has volumes 1 to {kept.export.volumes}, not {n[:20]}")
        await self._send(request, kept.export, int(n))

    async def at_once(self, request: Request) -> None:
        """Refused when something asked for is not whole: a file that is sent cannot say what is not in it."""
        order = _order_in(request)
        about(request).what = _words(order)
        if order.complete:
            raise Refused(
                400,
                "bad-request",
                'complete=1 fetches what is lacking, which a GET does not: POST {"complete": true} and what to export'
                " to /api/v1/exports, then GET its volumes",
            )
        export, notes = await self._planner.plan(selection_of(order, wall(self._clock)), False)
        if export.left_out:
            raise _incomplete(export.left_out, notes)
        await self._send(request, export, 1)

    async def _send(self, request: Request, export: Export, n: int) -> None:
        request.setHeader("Content-Type", TAR)
        request.setHeader("Content-Length", str(export.size(n)))
        request.setHeader("Content-Disposition", f'attachment; filename="{export.file_name(n)}"')
        if request.method == b"HEAD":
            request.write(b"")
            return
        self.sending += 1
        try:
            await send_parts(request, export.parts(n), self._store, self._examine, self._clock)
        finally:
            self.sending -= 1

    # -- keeping ----------------------------------------------------------------------------------------------------

    def _keep(self, export: Export, notes: list[str]) -> _Kept:
        kept = _Kept(export, notes, self._clock.seconds() + KEPT_FOR)
        self._drop_old()
        self._kept.pop(export.bundle.id, None)
        self._kept[export.bundle.id] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept

    def _get(self, export: str) -> _Kept:
        """The kept export of that id, kept anew. Raises L{NotHeld}."""
        self._drop_old()
        kept = self._kept.get(export)
        if kept is None:
            raise NotHeld("there is no such export, or not any more; plan it again")
        kept.until = self._clock.seconds() + KEPT_FOR
        self._kept.move_to_end(export)
        return kept

    def _drop_old(self) -> None:
        now = self._clock.seconds()
        for name in [name for name, kept in self._kept.items() if kept.until <= now]:
            del self._kept[name]


async def send_parts(
    request: Request, parts: Iterable[bytes | BlobPart], store: IBlobStore, examine: Examine, clock: IReactorTime
) -> None:
    """
    Send C{parts} as the body of an answer whose headers are set, with its length; blobs come from the store, by
    sendfile where the transport can, and are hashed meanwhile when they are sent for the first time since the start.

    A client that leaves is normal. When a blob cannot be read or is damaged the connection is aborted: less was sent
    than promised.
    """
    silence = request.stall_timeout if isinstance(request, ServerRequest) else CLIENT_SILENCE
    request.write(b"")
    try:
        before = b""
        for part in parts:
            if isinstance(part, bytes):
                before += part
            else:
                reader = store.open(part.digest)
                # A blob in parts was hashed when they were planned.
                is_whole = part.span == Span(0, store.size(part.digest) or 0)
                examined = examine(part.digest) if is_whole else succeed(True)
                try:
                    pieces: list[bytes | Span] = [before, part.span] if before else [part.span]
                    await BlobBody(reader, pieces, request, request.transport, clock, silence).send()
                except BaseException:
                    examined.addErrback(lambda _: False).cancel()
                    raise
                finally:
                    reader.close()
                if not await examined:
                    raise BlobDamaged(f"{part.digest} is damaged on disk; export again when it is held again")
                before = b""
        request.write(before)
    except CancelledError:
        raise
    except ConnectionDone:
        pass
    except (PullcacheError, ClientStalled, OSError) as error:
        _log.warn("{uri}: cut off: {error}", uri=request.uri.decode("ascii", "replace"), error=error)
        abort(request)


_ONE_SHOT = (
    Parameter("ref", "A reference or a pattern.", repeated=True),
    Parameter("all", "Everything that is held.", flag=True),
    Parameter("since", "Only what was pulled in that time: 12h, 7d."),
    Parameter("platform", "Of an index only this, as in linux/arm64.", repeated=True),
    Parameter("partial", "Take an image that is not whole as far as it goes.", flag=True),
    Parameter("complete", "Refused: an export that fetches is a POST.", flag=True),
    Parameter("title", "So that people can tell bundles apart."),
)


def _words(order: ExportOrder) -> str:
    """What is to be exported, as the command has it."""
    said = [*order.refs, *(["--all"] if order.all else []), *(["--want"] if order.want is not None else [])]
    return " ".join([*said, f"--since {order.since:.0f}s"] if order.since is not None else said)


def _order_in(request: Request) -> ExportOrder:
    """What the query asks for. Raises L{Refused}."""
    return ExportOrder(
        refs=values(request, "ref"),
        all=flag(request, "all"),
        since=period(request, "since"),
        platforms=values(request, "platform"),
        partial=flag(request, "partial"),
        complete=flag(request, "complete"),
        title=value(request, "title") or "",
    )


def _lack(omitted: Omitted) -> Lack:
    missing = [LackingBlob(str(blob.digest), blob.size, blob.kind) for blob in omitted.missing]
    return Lack(omitted.ref, omitted.why, missing)


def _incomplete(left_out: Sequence[Omitted], notes: Sequence[str]) -> BundleIncomplete:
    reasons = [*(f"{each.ref}: {each.why}" for each in left_out), *notes]
    what = "; ".join(reasons[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    missing = tuple(str(blob.digest) for each in left_out for blob in each.missing)
    return BundleIncomplete(
        f"not everything can be exported: {what}{more}; POST the order to /api/v1/exports with complete to fetch what"
        " is lacking first, or add partial=1 to take images as far as they go",
        missing,
    )
