"""The C{pullcache} command: reads the command line, runs one command, says in one line what went wrong."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import deferLater, react

from appliance.cli import (
    access,
    audit,
    certificate,
    collections,
    exports,
    images,
    imports,
    inventory,
    keys,
    pins,
    reload,
    scrub,
    status,
    verification,
)
from appliance.cli.address import admin_address, agent_for, token_of
from appliance.cli.client import AdminClient
from appliance.cli.command import FAILED, MISUSED, Local, Session, top_parser
from appliance.cli.failures import WrongUsage
from appliance.cli.screen import Screen, meter_for
from appliance.errors import PullcacheError

GROUPS = (
    status.add_to,
    images.add_to,
    pins.add_to,
    access.add_to,
    collections.add_to,
    scrub.add_to,
    exports.add_to,
    imports.add_to,
    verification.add_to,
    inventory.add_to,
    reload.add_to,
    keys.add_to,
    certificate.add_to,
    audit.add_to,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that C{arguments}, or the process's own, ask for; ends with L{SystemExit}."""
    options = top_parser(GROUPS).parse_args(arguments)
    screen = Screen(sys.stdout, sys.stderr, options.json)
    # A command that is given a store works without an appliance.
    if "ask" in options and getattr(options, "store", None) is None:
        # Ends, once the reactor may stop, with SystemExit.
        react(lambda reactor: Invocation(reactor, screen).run(_command(reactor, options, screen)))
    try:
        raise SystemExit(options.run(Local(screen, lambda: meter_for(screen, time.monotonic)), options))
    except KeyboardInterrupt:
        raise SystemExit(interrupted(screen)) from None
    except Exception as error:
        raise SystemExit(code_of(error, screen)) from error


async def _command(reactor: Any, options: Namespace, screen: Screen) -> int:
    address = admin_address(options.admin)
    if address.note:
        screen.note(f"pullcache: {address.note}")
    client = AdminClient(address, HTTPClient(agent_for(reactor, address, options)), token_of(options.token_file))
    session = Session(screen, lambda: meter_for(screen, reactor.seconds), client, partial(deferLater, reactor))
    code: int = await options.ask(session, options)
    return code


class Invocation:
    """
    One command under the reactor: SIGINT and SIGTERM cancel it and wait until it has cleaned up.

    @ivar is_interrupted: whether it was asked to end.
    """

    def __init__(self, reactor: IReactorCore, screen: Screen) -> None:
        self._screen = screen
        self.is_interrupted = False
        self._over: Deferred[None] = Deferred()
        reactor.addSystemEventTrigger("before", "shutdown", self._interrupt)

    def run(self, command: Coroutine[Any, Any, int]) -> Deferred[None]:
        """Fires with L{SystemExit}, which holds the exit status."""
        self._doing: Deferred[int] = Deferred.fromCoroutine(command)
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        try:
            code = await self._doing
        except Exception as error:
            # What a cancelled command fails with is of no interest: each part of it has a word of its own for it.
            code = interrupted(self._screen) if self.is_interrupted else code_of(error, self._screen)
        finally:
            self._over.callback(None)
        raise SystemExit(code)

    def _interrupt(self) -> Deferred[None]:
        """The reactor is about to stop; without a command under way that is how it ends anyway."""
        self.is_interrupted = True
        self._doing.cancel()
        return self._over


def interrupted(screen: Screen) -> int:
    """The exit status of a command that was interrupted, which is said on the screen."""
    screen.note_error("interrupted; nothing half is left behind")
    return FAILED


def code_of(error: BaseException, screen: Screen) -> int:
    """
    The exit status that goes with C{error}, which is put in words on the screen.

    @raise BaseException: C{error} itself, when it is a fault of this program.
    """
    if isinstance(error, BrokenPipeError):
        # The reader of the output has seen enough; Python's own flush at exit must not complain of it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if not isinstance(error, PullcacheError | OSError):
        raise error
    screen.note_error(error)
    return MISUSED if isinstance(error, WrongUsage) else FAILED


if __name__ == "__main__":
    main()
