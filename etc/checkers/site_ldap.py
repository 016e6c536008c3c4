"""
A checker of passwords against an LDAP directory, as an example of a site's own: C{pip install ldaptor}, put this file
into a folder C{twisted/plugins/} (without C{__init__.py}) whose parent is on C{PYTHONPATH} of the service, and name it
in the configuration, as DN and Twisted client endpoint string::

    checkers: ["ldap:uid=%s,ou=people,dc=site@tls:directory.site:636"]

It logs in to the directory as the user (a simple bind). Nothing in this module may import what installs a reactor.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """The users below one entry of a directory."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, attribute: str, base: str, endpoint: str) -> None:
        self._attribute = attribute
        self._base = base
        self._endpoint = endpoint

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        """
        See L{ICredentialsChecker}.

        @return: fires with the user's name as the directory has it: it lets ANN in as ann, and rules shall not be
            escaped by that. Fails with another error than L{UnauthorizedLogin} where the directory gives no answer.
        """
        return Deferred.fromCoroutine(self._bind(credentials.username, credentials.password))

    async def _bind(self, user: bytes, password: bytes) -> bytes:
        from ldaptor.protocols.ldap.distinguishedname import (
            DistinguishedName,
            LDAPAttributeTypeAndValue,
            RelativeDistinguishedName,
        )
        from ldaptor.protocols.ldap.ldapclient import LDAPClient
        from ldaptor.protocols.ldap.ldaperrors import LDAPInvalidCredentials
        from ldaptor.protocols.ldap.ldapsyntax import LDAPEntry
        from twisted.internet import reactor
        from twisted.internet.endpoints import clientFromString, connectProtocol

        # Whatever the name holds is a value, and no part of the DN; see RFC 4514 section 2.4.
        named = LDAPAttributeTypeAndValue(attributeType=self._attribute, value=user.decode())
        name = RelativeDistinguishedName(attributeTypesAndValues=[named])
        place = DistinguishedName(listOfRDNs=[name, *DistinguishedName(self._base).split()])
        client: Any = await connectProtocol(clientFromString(reactor, self._endpoint), LDAPClient())
        try:
            await client.bind(place.getText(), password)
            entry = await LDAPEntry(client=client, dn=place.getText()).fetch(self._attribute)
            (known,) = entry.get(self._attribute)
        except LDAPInvalidCredentials:
            raise UnauthorizedLogin() from None
        finally:
            client.unbind()
        return bytes(known)


@implementer(ICheckerFactory, IPlugin)
class DirectoryCheckerFactory:
    """C{ldap:ATTRIBUTE=%s,BASE@ENDPOINT}."""

    authType = "ldap"
    authHelp = "Users of an LDAP directory, by a simple bind."
    argStringFormat = "The DN of a user, with %s for the name, and @ before a client endpoint string."
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argstring: str) -> DirectoryChecker:
        """See L{ICheckerFactory}."""
        place, _, endpoint = argstring.partition("@")
        attribute, mark, base = place.partition("=%s,")
        if not mark or not endpoint:
            raise ValueError(self.argStringFormat)
        return DirectoryChecker(attribute, base, endpoint)


ldap = DirectoryCheckerFactory()
