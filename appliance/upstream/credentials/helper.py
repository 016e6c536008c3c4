"""
Programs that know credentials (docker-credential-helpers, "Development of a helper").

C{docker-credential-<name> get} reads a server's name from its standard input and writes C{{"ServerURL", "Username",
"Secret"}} as JSON. The user name C{<token>} says that the secret is an identity token.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamTimeout
from appliance.flow.singleflight import SingleFlight
from appliance.interfaces import IThreads
from appliance.upstream.interfaces import Secret

#: Seconds that a helper may take, and bytes that it may write.
TIMEOUT = 10.0
MAX_OUTPUT_BYTES = 64 * 1024
#: Seconds for which an answer is kept, and for which a failure or having nothing is.
KEPT = 300.0
KEPT_FAULT = 10.0

_NAME = re.compile(r"[A-Za-z0-9._-]+")
#: What helpers write when they have nothing for a server (docker-credential-helpers, C{credentials/error.go}).
_NOT_FOUND = b"credentials not found in native keychain"
_IDENTITY = "<token>"


class _HelperAnswer(msgspec.Struct):
    """A helper's answer, as far as it matters."""

    username: str = msgspec.field(default="", name="Username")
    danger_secret: str = msgspec.field(default="", name="Secret")


class _Ended(Exception):
    """
    A helper did not end well.

    @ivar code: what it exited with, C{None} when it wrote too much and was killed.
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

    def __init__(
        self,
        name: str,
        source: str,
        upstream: str,
        clock: IReactorTime,
        threads: IThreads,
        processes: IReactorProcess,
        environ: Mapping[str, str],
    ) -> None:
        """
        @param source: where the name was found, for messages.
        @param environ: of the program; its C{PATH} is where the program is looked for.
        @raise UpstreamDenied: it is no name of a helper.
        """
        if not _NAME.fullmatch(name):
            why = f"names the credential helper {name[:40]!r}; letters, digits, '.', '_' and '-' are allowed"
            raise UpstreamDenied(upstream, f"{source} {why}")
        self.shown = f"docker-credential-{name}"
        self._source = source
        self._upstream = upstream
        self._clock = clock
        self._threads = threads
        self._processes = processes
        self._environ = dict(environ)
        self._kept: dict[str, tuple[Secret | UpstreamError | None, float]] = {}
        self._runs: SingleFlight[str, Secret | UpstreamError | None] = SingleFlight()

    async def get(self, server: str, again: bool) -> Secret | None:
        """
        What the helper has for C{server}, its C{identity} left empty; C{None} when it has nothing.

        @param again: whether it is run although its last answer is younger than five minutes.
        @raise UpstreamDenied: it is not installed, fails, or writes what cannot be read; L{UpstreamTimeout}: it takes
            too long.
        """
        outcome, until = self._kept.get(server, (None, 0.0))
        if again or self._clock.seconds() >= until:
            outcome = await self._runs.run(server, lambda: self._outcome(server))
        if isinstance(outcome, UpstreamError):
            raise outcome.with_traceback(None)
        return outcome

    async def _outcome(self, server: str) -> Secret | UpstreamError | None:
        """The answer or the failure of one run, which is kept."""
        outcome: Secret | UpstreamError | None
        try:
            outcome = await self._run(server)
        except UpstreamError as fault:
            outcome = fault
        kept = KEPT if isinstance(outcome, Secret) else KEPT_FAULT
        self._kept[server] = outcome, self._clock.seconds() + kept
        return outcome

    async def _run(self, server: str) -> Secret | None:
        program = await self._threads.call(_find_program, self.shown, self._environ.get("PATH", ""))
        if program is None:
            raise self._fault(f"is not on the PATH of this process; install it, or correct {self._source}")
        run = _HelperProcess(server)
        try:
            self._processes.spawnProcess(run, program, [self.shown, "get"], env=self._environ)
            output = await run.output.addTimeout(TIMEOUT, self._clock)
        except defer.TimeoutError:
            late = f"{self.shown} gave no credentials for {server} within {TIMEOUT:g} seconds and was killed"
            raise UpstreamTimeout(self._upstream, late) from None
        except _Ended as end:
            if end.code is not None and _NOT_FOUND in end.danger_output:
                return None
            how = f"more than {MAX_OUTPUT_BYTES} bytes" if end.code is None else f"nothing and exited with {end.code}"
            raise self._fault(f"gave {how} for {server}; run it by hand to see why") from None
        except OSError as reason:
            raise self._fault(f"cannot be run: {reason.strerror}") from None
        if not output.strip():
            return None
        try:
            given = msgspec.json.decode(output, type=_HelperAnswer)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise self._fault("wrote no JSON of credentials") from None
        if not given.danger_secret:
            return None
        if given.username == _IDENTITY:
            return Secret("", "", given.danger_secret, Secret.Use.IDENTITY)
        return Secret("", given.username, given.danger_secret)

    def _fault(self, why: str) -> UpstreamError:
        return UpstreamDenied(self._upstream, f"{self.shown} {why}")


class _HelperProcess(ProcessProtocol):
    """
    One run.

    @ivar output: fires with what was written to the standard output; fails with L{_Ended}. Cancelling kills the
        program. What comes on the standard error is thrown away: it may hold secrets.
    """

    def __init__(self, server: str) -> None:
        self.output: Deferred[bytes] = Deferred(lambda _: self._kill())
        self._server = server
        self._danger_pieces: list[bytes] = []
        self._octets = 0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._server.encode("utf-8"))
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._octets += len(data)
        if self._octets <= MAX_OUTPUT_BYTES:
            self._danger_pieces.append(data)
        elif not self.output.called:
            self._kill()
            self.output.errback(_Ended(None, b""))

    def processEnded(self, reason: Failure) -> None:
        if self.output.called:
            return
        output = b"".join(self._danger_pieces)
        if reason.check(ProcessDone):
            self.output.callback(output)
        else:
            self._kill()
            code = getattr(reason.value, "exitCode", None)
            self.output.errback(_Ended(-1 if code is None else code, output))

    def _kill(self) -> None:
        """Also let go of the pipes, which the program's children may still hold."""
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            self.transport.loseConnection()


def _find_program(name: str, path: str) -> str | None:
    """Where on C{path} the program is; folders that depend on the working directory are left out. Blocks."""
    folders = [folder for folder in path.split(os.pathsep) if os.path.isabs(folder)]
    return shutil.which(name, path=os.pathsep.join(folders)) if folders else None
