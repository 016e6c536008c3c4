"""
Programs that know credentials (docker-credential-helpers, "Development of a helper").

C{docker-credential-<name> get} reads a server's name from its standard input and writes C{{"ServerURL", "Username",
"Secret"}} as JSON. The user name C{<token>} says that the secret is an identity token.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamTimeout
from appliance.flow.sharing import Sharing
from appliance.interfaces import Secret
from appliance.upstream.credentials.rotation import Found
from appliance.upstream.means import Means

#: Seconds that a helper may take, and bytes that it may write.
PATIENCE = 10.0
MAX_OUTPUT_BYTES = 64 * 1024
#: Seconds for which an answer is kept, and for which a failure or a lack is.
KEPT = 300.0
KEPT_FAULT = 10.0

_NAME = re.compile(r"[A-Za-z0-9._-]+")
#: What helpers write when they have nothing for a server (docker-credential-helpers, C{credentials/error.go}).
_NOT_FOUND = b"credentials not found in native keychain"
_IDENTITY = "<token>"


class _Given(msgspec.Struct):
    """A helper's answer, as far as it matters."""

    username: str = msgspec.field(default="", name="Username")
    danger_secret: str = msgspec.field(default="", name="Secret")


class _Ended(Exception):
    """
    A helper did not end well.

    @ivar code: what it exited with, C{None} when it was killed.
    """

    def __init__(self, code: int | None, output: bytes) -> None:
        super().__init__(code)
        self.code = code
        self.danger_output = output


class CredentialHelper:
    """
    One program, asked for one server at a time and not twice at once.

    @ivar shown: the program's name.
    """

    def __init__(self, name: str, means: Means, source: str) -> None:
        """
        @param source: where the name was found, for messages.
        @raise UpstreamDenied: it is no name of a helper.
        """
        if not _NAME.fullmatch(name):
            why = f"names the credential helper {name[:40]!r}; letters, digits, '.', '_' and '-' are allowed"
            raise UpstreamDenied(means.upstream, f"{source} {why}")
        self.shown = f"docker-credential-{name}"
        self._means = means
        self._source = source
        self._kept: dict[str, tuple[Found | UpstreamError | None, float]] = {}
        self._runs: Sharing[str, Found | UpstreamError | None] = Sharing()

    def get(self, server: str, again: bool) -> Deferred[Found | None]:
        """
        What the helper has for C{server}, C{None} when it has nothing.

        @param again: whether it is run although its last answer is younger than five minutes.
        @return: fails with L{UpstreamDenied} when it is not installed, fails, or writes what cannot be read, and with
            L{UpstreamTimeout} when it takes too long.
        """
        return Deferred.fromCoroutine(self._get(server, again))

    async def _get(self, server: str, again: bool) -> Found | None:
        found, until = self._kept.get(server, (None, 0.0))
        if again or self._means.clock.seconds() >= until:
            found = await self._runs.get(server, lambda: self._asked(server))
        if isinstance(found, UpstreamError):
            raise found
        return found

    async def _asked(self, server: str) -> Found | UpstreamError | None:
        """The outcome, which is kept."""
        outcome: Found | UpstreamError | None
        try:
            outcome = await self._answer(server)
        except UpstreamError as fault:
            outcome = fault
        kept = KEPT if isinstance(outcome, Found) else KEPT_FAULT
        self._kept[server] = outcome, self._means.clock.seconds() + kept
        return outcome

    async def _answer(self, server: str) -> Found | None:
        program = await self._means.threads.call(_program, self.shown, self._means.environ.get("PATH", ""))
        if program is None:
            raise self._fault(f"is not on the PATH of this process; install it, or correct {self._source}")
        return _read(await self._run(program, server), self._fault)

    async def _run(self, program: str, server: str) -> bytes:
        run = _Run(server, self._means.clock)
        try:
            self._means.processes.spawnProcess(run, program, [self.shown, "get"], env=dict(self._means.environ))
            return await run.output
        except TimeoutError:
            late = f"{self.shown} gave no credentials for {server} within {PATIENCE:g} seconds and was killed"
            raise UpstreamTimeout(self._means.upstream, late) from None
        except _Ended as end:
            if end.code is not None and _NOT_FOUND in end.danger_output:
                return b""
            how = f"more than {MAX_OUTPUT_BYTES} bytes" if end.code is None else f"nothing and exited with {end.code}"
            raise self._fault(f"gave {how} for {server}; run it by hand to see why") from None
        except OSError as reason:
            raise self._fault(f"cannot be run: {reason.strerror}") from None

    def _fault(self, why: str) -> UpstreamError:
        return UpstreamDenied(self._means.upstream, f"{self.shown} {why}")


class _Run(ProcessProtocol):
    """
    One run.

    @ivar output: fires with what was written to the standard output; fails with L{_Ended}, or C{TimeoutError}. What
        comes on the standard error is thrown away: it may hold secrets.
    """

    def __init__(self, server: str, clock: IReactorTime) -> None:
        self.output: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._server = server
        self._danger_pieces: list[bytes] = []
        self._octets = 0
        self._clock = clock
        self._late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """It runs: tell it the server, and that there is no more."""
        assert self.transport is not None
        self._late = self._clock.callLater(PATIENCE, self._end, TimeoutError())
        self.transport.write(self._server.encode("utf-8"))
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        """It writes."""
        self._octets += len(data)
        if self._octets > MAX_OUTPUT_BYTES:
            self._end(_Ended(None, b""))
        else:
            self._danger_pieces.append(data)

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and nothing more can come."""
        output = b"".join(self._danger_pieces)
        code = getattr(reason.value, "exitCode", None)
        self._end(output if reason.check(ProcessDone) else _Ended(-1 if code is None else code, output))

    def _end(self, result: bytes | Exception) -> None:
        """Exactly once; a program that still runs is killed."""
        if self.output.called:
            return
        if isinstance(result, bytes):
            self._punctual()
            self.output.callback(result)
        else:
            self._stop()
            self.output.errback(result)

    def _stop(self) -> None:
        """Also let go of the pipes, which the program's children may still hold."""
        self._punctual()
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            self.transport.loseConnection()

    def _punctual(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()


def _program(name: str, path: str) -> str | None:
    """Where on C{path} the program is; folders that depend on the working directory are left out. Blocks."""
    folders = [folder for folder in path.split(os.pathsep) if os.path.isabs(folder)]
    return shutil.which(name, path=os.pathsep.join(folders)) if folders else None


def _read(output: bytes, fault: Callable[[str], UpstreamError]) -> Found | None:
    if not output.strip():
        return None
    try:
        given = msgspec.json.decode(output, type=_Given)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise fault("wrote no JSON of credentials") from None
    if not given.danger_secret:
        return None
    if given.username == _IDENTITY:
        return Found("", given.danger_secret, Secret.Use.IDENTITY)
    return Found(given.username, given.danger_secret)
