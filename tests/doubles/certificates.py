"""An authority of the test's own, and certificates for whatever name a test wants, made with cryptography."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """A certificate, the certificates between it and its authority, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificates(self) -> bytes:
        """The certificate and its chain, PEM."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    def private(self, passphrase: bytes | None = None) -> bytes:
        """The key, PEM (PKCS #8), encrypted when there is a passphrase."""
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write C{name.pem} and C{name.key}; returns both."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(self.certificates)
        paths[1].write_bytes(self.private())
        return paths

    def issue(self, *names: str, authority: bool = False, days: float = 1) -> Identity:
        """
        A certificate signed with this one's key; the first of C{names} becomes its common name.

        @param authority: whether it may sign others.
        @param days: how long it holds from now on; negative for one that has expired.
        """
        chain = (self.certificate, *self.chain) if self.certificate.issuer != self.certificate.subject else ()
        return _made(names, authority, self, chain, days)

    def revoking(self, *gone: Identity, days: float = 1) -> bytes:
        """This authority's list of the certificates that it has revoked, PEM; it holds so many days from now on."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - timedelta(days=2))
            .next_update(now + timedelta(days=days))
        )
        for each in gone:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - timedelta(days=1)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def authority(name: str = "Tests") -> Identity:
    """A new authority, which vouches for itself."""
    return _made((name,), True, None, ())


def _made(
    names: tuple[str, ...], vouches: bool, by: Identity | None, chain: tuple[x509.Certificate, ...], days: float = 1
) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    issuer = by.certificate.subject if by else subject
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=max(-days, 0), hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=vouches, path_length=None), critical=True)
    )
    if not vouches:
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return Identity(builder.sign(by.key if by else key, hashes.SHA256()), key, chain)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
