"""
The certificates of clients: which authorities are believed, and what they have revoked.

All of it is decided in the handshake, by OpenSSL (RFC 5280 section 6). A connection that goes on while the authorities
or the revoked change is asked about again when its next request comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from appliance.errors import ConfigError
from appliance.flow.disk import FileStamp, stamp_of
from appliance.settings import SUBJECT
from appliance.tls.pem import certificates, revocations

# The longest name that is taken, in characters.
_LONGEST = 256

# X509_verify_cert_error_string of OpenSSL, in the words of an operator.
_REASONS = {
    2: "its authority is not among those of client_ca_file",
    3: "client_crl_file has no list of the authority that signed it",
    7: "its signature is wrong",
    9: "it does not hold yet",
    10: "it has expired",
    11: "the list in client_crl_file does not hold yet",
    12: "the list in client_crl_file has expired; ask the authority for the next one",
    18: "it vouches for itself",
    19: "its authority is not among those of client_ca_file",
    20: "its authority is not among those of client_ca_file",
    21: "its authority is not among those of client_ca_file",
    22: "its chain is too long",
    23: "it is revoked",
    24: "one that signed it may sign none",
    26: "it is not for clients (extended key usage)",
}


def reason(error: int) -> str:
    """Why OpenSSL does not believe a certificate."""
    return _REASONS.get(error, f"OpenSSL's error {error}")


class ClientTrust:
    """
    The authorities whose certificates identify clients.

    @ivar authorities: their certificates.
    @ivar until: when the first list of revoked certificates ends, seconds of the wall clock; C{None} without lists.
    """

    def __init__(
        self, authorities: Sequence[x509.Certificate], revoked: Sequence[x509.CertificateRevocationList] = ()
    ) -> None:
        self.authorities = tuple(authorities)
        self.until = min((end.timestamp() for each in revoked if (end := each.next_update_utc)), default=None)
        self._revoked = revoked
        subjects = {each.subject for each in authorities}
        # One that stands in the file without the one that vouches for it.
        self._has_middle = any(each.issuer not in subjects for each in authorities)
        self._store = crypto.X509Store()
        self.fill(self._store)

    def fill(self, store: crypto.X509Store) -> None:
        """Put it into what OpenSSL asks."""
        for each in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(each))
        for listed in self._revoked:
            store.add_crl(listed)
        flags = 0
        if self._has_middle:
            # It is believed all the same; whether it was revoked, its root's list would say, which cannot be verified.
            flags |= crypto.X509StoreFlags.PARTIAL_CHAIN
        if self._revoked:
            flags |= crypto.X509StoreFlags.CRL_CHECK
            if not self._has_middle:
                flags |= crypto.X509StoreFlags.CRL_CHECK_ALL
        if flags:
            store.set_flags(flags)

    def believes(self, certificate: crypto.X509, chain: Sequence[crypto.X509], now: float) -> bool:
        """
        Whether a client's certificate would be believed by C{now}, seconds of the wall clock, with the C{chain} that it
        has sent.
        """
        self._store.set_time(datetime.fromtimestamp(now, UTC))
        try:
            crypto.X509StoreContext(self._store, certificate, list(chain)).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True


@dataclass(frozen=True)
class ClientFiles:
    """
    Where that stands.

    @ivar authorities: PEM certificates.
    @ivar revoked: lists of revoked certificates, PEM; C{None}: none is checked.
    """

    authorities: Path
    revoked: Path | None = None

    def stamps(self) -> dict[Path, FileStamp | None]:
        """The state of each. Blocks."""
        return {path: stamp_of(path) for path in (self.authorities, self.revoked) if path is not None}

    def read(self) -> ClientTrust:
        """
        Read them. Blocks.

        @raise ConfigError: they cannot be used.
        """
        authorities = certificates(self.authorities, "client_ca_file")
        revoked = [] if self.revoked is None else revocations(self.revoked, "client_crl_file")
        known = False
        for each in revoked:
            # Of others, whose certificates clients send along, OpenSSL finds out when it needs them.
            signers = [one for one in authorities if one.subject == each.issuer]
            known = known or bool(signers)
            if signers and not any(each.is_signature_valid(one.public_key()) for one in signers):  # type: ignore[arg-type]
                issuer = each.issuer.rfc4514_string()
                raise ConfigError(f"client_crl_file: the list of {issuer} is signed by none of client_ca_file")
        if revoked and not known:
            raise ConfigError(f"client_crl_file: {self.revoked} has no list of an authority in client_ca_file")
        return ClientTrust(authorities, revoked)


def names_in(certificate: x509.Certificate, which: str = SUBJECT) -> tuple[str, ...]:
    """
    The names that a client's certificate gives it, the best first: the common name of its subject, then those of its
    subjectAltName (DNS names, mail addresses, URIs) in their order there.

    @param which: C{SAN} for the latter only.
    @return: without what no user can be called: what is empty, too long, or has characters that cannot be printed.
    """
    names: list[str] = []
    if which == SUBJECT:
        names += [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        listed = x509.SubjectAlternativeName([])
    kinds = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)
    names += [each.value for each in listed if isinstance(each, kinds)]
    return tuple(name for name in names if name and len(name) <= _LONGEST and name.isprintable())
