"""What a command fails with: one line, and what to do next."""

from __future__ import annotations

from appliance.errors import PullcacheError


class WrongUsage(PullcacheError):
    """The command line asks for something that means nothing; exit status 2."""


class CommandFailed(PullcacheError):
    """The command was not done; exit status 1."""


class Unreachable(CommandFailed):
    """Nothing answers where the appliance's admin endpoint was looked for."""


class AnswerCut(CommandFailed):
    """The connection broke, or the appliance ended, before its answer was whole."""


class RefusedByAppliance(CommandFailed):
    """
    The appliance answered with an error; the message is its own.

    @ivar code: its word for programs, C{""} when it gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code
