"""Imports: of files that the appliance can read, with lines that tell how far it is, and a receipt."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from appliance.admin.failures import Refused, answer_for, document, internal
from appliance.admin.route import NDJSON, JsonLines, Reply, Route, about, body, check_query, json
from appliance.admin.sendings import CHOICES, Sendings, options_of
from appliance.api import ImportOrder, ReceiptList
from appliance.bundle.importer import Importer, ImportOptions, ImportProgress
from appliance.bundle.receipt import Receipt, Receipts
from appliance.cache.wants import HeldReferences, Wants
from appliance.errors import BundleError
from appliance.flow.singleflight import ended
from appliance.identity.roles import Role
from appliance.interfaces import IAudit, IThreads

ORDER_LIMIT = 4 * 1024 * 1024
"""Bytes of an order: ten thousand paths of four hundred bytes."""

_WHY_NOT = (
    "it is missing on the appliance, not for its user to read, or no file: the appliance's log says which; pullcache"
    " import --send sends what you can read yourself"
)


class Imports:
    """Runs imports, and forgets the wants that they met."""

    _log = Logger()

    def __init__(
        self,
        importer: Importer,
        receipts: Receipts,
        wants: Wants,
        held: HeldReferences,
        clock: IReactorTime,
        imported: Callable[[], None],
        threads: IThreads,
        audit: IAudit,
    ) -> None:
        """
        @param imported: called after each import that was published.
        """
        self._importer = importer
        self._receipts = receipts
        self._wants = wants
        self._held = held
        self._clock = clock
        self._imported = imported
        self._sendings = Sendings(importer, self._followed, self._outcome, threads, clock, audit)
        self._under_way: set[Deferred[Receipt]] = set()
        self._stopping = False

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route(
                "POST",
                "/api/v1/imports",
                self.order,
                "Import archives on the appliance, or one that is sent as application/x-tar; progress, then a receipt"
                " or an error.",
                NDJSON,
                CHOICES,
                takes=ImportOrder,
                body_limit=ORDER_LIMIT,
                action="import",
                role=Role.OPERATE,
                taker=self._sendings.passing_taker,
            ),
            Route("GET", "/api/v1/imports", self.receipts, "The receipts of all imports.", ReceiptList),
            Route("GET", "/api/v1/imports/<receipt>", self.receipt, "One receipt.", Receipt),
            *self._sendings.routes(),
        ]

    async def order(self, request: Request) -> Reply | None:
        """
        Import the archive that the body is, and answer with its receipt; it is imported while it arrives.

        Or import what the body names: one line for each step, at last C{{"receipt": ...}} or C{{"error": ...}}.

        A client that leaves cancels the import, so that Ctrl-C does; what was stored is not read again the next time.
        """
        passed = await self._sendings.passed(request)
        if passed is not None:
            return passed
        order = body(request, ImportOrder)
        check_query(request, ())
        about(request).what, about(request).is_trial = " ".join(order.files), order.dry_run
        files, options = paths(order.files), options_of(order)
        lines = JsonLines(request, self._clock)
        importing = Deferred.fromCoroutine(self.run(files, options, lines.progress))
        lines.send((await self._outcome(importing, order.files))[1])
        return None

    async def receipts(self, request: Request) -> Reply:
        """Those of all imports, oldest first."""
        return json(ReceiptList(await self._receipts.all()))

    async def receipt(self, request: Request, receipt: str) -> Reply:
        """That of one import, by its id."""
        return json(await self._receipts.get(receipt))

    async def stop(self) -> None:
        """Cut the imports that were ordered; fires when each has ended."""
        self._stopping = True
        ends = [ended(importing) for importing in self._under_way]
        for importing in list(self._under_way):
            importing.cancel()
        await DeferredList(ends)

    async def run(
        self, files: list[Path], options: ImportOptions, progress: Callable[[ImportProgress], None] = lambda _: None
    ) -> Receipt:
        """
        Import, and forget the wants that were met.

        @raise PullcacheError: see L{Importer.run}.
        """
        return await self._followed(self._importer.run(files, options, progress), options)

    async def _followed(self, importing: Coroutine[Any, Any, Receipt], options: ImportOptions) -> Receipt:
        """The receipt, once the wants that were met are forgotten."""
        receipt = await importing
        if not options.dry_run:
            self._imported()
            try:
                await self._wants.review(self._held.holds)
            except CancelledError:
                raise
            except Exception:
                # It is imported all the same; the next import looks again.
                self._log.failure("the wants were not looked through")
        return receipt

    async def _outcome(self, importing: Deferred[Receipt], files: Sequence[str]) -> tuple[int, object]:
        """Wait for an import that was ordered; what to say of how it ended, with a status code."""
        self._under_way.add(importing)
        if self._stopping:
            importing.cancel()
        try:
            return 200, {"receipt": await importing}
        except CancelledError:
            if not self._stopping:
                raise
            why = "the appliance is being stopped; import again later: what is stored is kept"
            return 503, document("stopped", why)
        except Exception as error:
            if isinstance(error, BundleError) and error.unopened:
                # An import must not be a way to look around on the disk: there is one answer for all reasons.
                self._log.warn("importing: {error}", error=error)
                what = files[0] if len(files) == 1 else f"one of {len(files)} files"
                return 422, document("bundle-unreadable", f"{what} cannot be opened as an archive; {_WHY_NOT}")
            answer = answer_for(error)
            if answer is None:
                self._log.failure("importing {files}", Failure(), files=files)
            return answer or internal()
        finally:
            self._under_way.discard(importing)


def paths(files: list[str]) -> list[Path]:
    """The files. Raises L{Refused} for a path that depends on where the appliance was started."""
    for file in files:
        if not file.startswith("/") or "\0" in file:
            raise Refused(400, "bad-request", f"{file[:160]!r}: write the absolute path of a file on the appliance")
    return [Path(file) for file in files]
