"""
TLS towards one upstream: which certificates are believed there, and which one is shown.

Files are checked for every new connection, and read again when they have changed. What cannot be used then is
reported once, and what was read before stays in force: certificates are renewed while pulls go on, a file at a time.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.logger import Logger
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from appliance.errors import ConfigError
from appliance.flow.disk import FileStamp, stamp_of
from appliance.settings import UpstreamSettings
from appliance.tls.pem import certificates, private_key, public_part
from appliance.upstream.http.addresses import HostPatterns, literal_of
from appliance.upstream.url import Url


@implementer(IPolicyForHTTPS)
class Trust:
    """
    The settings' C{ca_file} and no others, or else the platform's authorities; the host's name must be in the
    certificate. With C{insecure} any certificate for any name.

    The client certificate is shown to the hosts of the configured URLs and to those that C{auth_hosts} and
    C{redirect_hosts} name, to no other.
    """

    _log = Logger()

    def __init__(self, settings: UpstreamSettings) -> None:
        """Raises L{ConfigError}, which names key and file, for a file that cannot be used."""
        self._settings = settings
        self._key = f"upstreams.{settings.name}"
        self._paths = [path for path in (settings.ca_file, settings.client_cert, settings.client_key) if path]
        self._stamps = self._look()
        self._root, self._shown = _root(settings, self._key), _shown(settings, self._key)
        try:
            own = tuple(f"[{url.host}]" if ":" in url.host else url.host for url in map(Url.parse, settings.urls))
            self._shown_to = HostPatterns(own + settings.auth_hosts + settings.redirect_hosts)
        except ValueError as reason:
            raise ConfigError(f"{self._key}: {reason}") from None

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See L{IPolicyForHTTPS}."""
        self._refresh()
        host = hostname.decode("ascii")
        shown = self._shown if self._shown_to.covers(Url("https", host, port, "/")) else {}
        if self._root is None:
            return _AnyCertificate(host, CertificateOptions(**shown).getContext())
        return optionsForClientTLS(host, trustRoot=self._root, extraCertificateOptions=shown)

    def _refresh(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            # Neither is taken where the other cannot be read.
            self._root, self._shown = _root(self._settings, self._key), _shown(self._settings, self._key)
        except ConfigError as reason:
            self._log.warn("{reason}; what was read before stays in force", reason=str(reason))

    def _look(self) -> list[FileStamp | None]:
        return [stamp_of(path) for path in self._paths]


@implementer(IOpenSSLClientConnectionCreator)
class _AnyCertificate:
    """
    Any certificate for any name.

    The name is sent (RFC 6066 section 3), since servers choose their certificate by it.
    """

    def __init__(self, host: str, context: SSL.Context) -> None:
        self._host = host
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See L{IOpenSSLClientConnectionCreator}."""
        connection = SSL.Connection(self._context, None)
        if self._host == "localhost" or literal_of(self._host) is None:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection



def _root(settings: UpstreamSettings, key: str) -> Any:
    """The authorities of servers, C{None} when any certificate will do."""
    if settings.insecure:
        return None
    if settings.ca_file is None:
        return platformTrust()
    return trustRootFromCertificates(
        [Certificate(crypto.X509.from_cryptography(each)) for each in certificates(settings.ca_file, f"{key}.ca_file")]
    )


def _shown(settings: UpstreamSettings, key: str) -> dict[str, Any]:
    """Arguments of L{CertificateOptions} for our own certificate, empty when there is none."""
    if settings.client_cert is None:
        return {}
    own, *chain = certificates(settings.client_cert, f"{key}.client_cert")
    if settings.client_key is None:
        where, path = f"{key}.client_cert", settings.client_cert
    else:
        where, path = f"{key}.client_key", settings.client_key
    private = private_key(path, where)
    if public_part(private) != public_part(own):
        raise ConfigError(f"{where}: the key in {path} is not that of the first certificate in {settings.client_cert}")
    return {"privateKey": private, "certificate": own, "extraCertChain": chain}
