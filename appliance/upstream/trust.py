"""Which certificates are believed."""

from __future__ import annotations

import re
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from appliance.errors import ConfigError

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@implementer(IPolicyForHTTPS)
class Trust:
    """The platform's authorities, or those of one file and no others; the host's name must be in the certificate."""

    def __init__(self, ca_file: Path | None = None) -> None:
        """
        @param ca_file: PEM, one certificate or more.
        @raise ConfigError: the file cannot be used.
        """
        self._root = platformTrust() if ca_file is None else trustRootFromCertificates(_certificates(ca_file))

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See L{IPolicyForHTTPS}."""
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self._root)


def _certificates(ca_file: Path) -> list[Certificate]:
    try:
        found = [Certificate.loadPEM(pem) for pem in _PEM.findall(ca_file.read_bytes())]
    except OSError as reason:
        raise ConfigError(f"ca_file {ca_file} cannot be read: {reason.strerror}") from None
    except (SSL.Error, ValueError) as reason:
        raise ConfigError(f"ca_file {ca_file} holds a certificate that cannot be read") from reason
    if not found:
        raise ConfigError(f"ca_file {ca_file} holds no certificate in PEM form")
    return found
