"""
The checker of passwords that comes with pullcache, for C{checkers} of its configuration and for any other program that
uses C{twisted.cred.strcred}. Nothing here may import what installs a reactor.
"""

from __future__ import annotations

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

from appliance.identity.htpasswd import HtpasswdChecker


@implementer(ICheckerFactory, IPlugin)
class HtpasswdCheckerFactory:
    """C{htpasswd:PATH}."""

    authType = "htpasswd"
    authHelp = "Users and bcrypt hashes in a file, as htpasswd -B writes it."
    argStringFormat = "The path of the file."
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argstring: str) -> HtpasswdChecker:
        """See L{ICheckerFactory}."""
        return HtpasswdChecker(argstring)


htpasswd = HtpasswdCheckerFactory()
