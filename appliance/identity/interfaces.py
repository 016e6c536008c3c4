"""
What a checker of passwords (L{twisted.cred.checkers.ICredentialsChecker}) may be able to do besides. A site's own
plugin may provide them too; without them it is asked as C{twisted.cred} asks.
"""

from __future__ import annotations

from twisted.cred.checkers import ICredentialsChecker
from zope.interface import Interface


class IBlockingChecker(ICredentialsChecker):
    """
    A checker that takes its time: it is asked in a thread, a few at a time in all.

    C{requestAvatarId} may be called in any thread, and its Deferred has fired when it returns.
    """


class IUserFile(Interface):
    """A checker whose users stand in a file that may change."""

    def look(now: float) -> object:
        """
        Read the file again if it has changed; what cannot be read or used is logged, and the users of before stay.
        Blocks; may be called in any thread, by one at a time.

        @param now: seconds since the epoch. What was written less than a second before that may be half of a file, and
            is left for a later call.
        @return: equals what the last call gave while the users are the same.
        """

    def entry(user: str) -> object | None:
        """
        What stands there for a user, to be compared: it changes when the password does. C{None} for no user of this
        file; a name that is one may be written to a log. Immediate.
        """
