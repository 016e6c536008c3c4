"""
An authority for a closed site, and the certificate of the appliance that it vouches for.

All of it stands in one folder, which an endpoint may name as it is (C{tls:FOLDER:port=5000})::

    ca.crt      the authority's certificate: goes to all clients, and stays for ten years
    ca.key      its key
    server.pem  the appliance's certificate and its key, in one file: so they are replaced at once

An appliance that may write there renews C{server.pem} by itself (L{renew}).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import ConfigError
from appliance.flow.disk import fsync_folder
from appliance.tls.certificates import NamedFiles, ServerCertificate
from appliance.tls.pem import certificates, private_key, public_part

AUTHORITY, AUTHORITY_KEY, SERVER = "ca.crt", "ca.key", "server.pem"

DAYS = 365
"""Days for which a certificate of the appliance holds."""

_AUTHORITY_DAYS = 3650
# Clocks of closed sites are not always right: what is made holds since so long ago.
_EARLIER = timedelta(days=1)
# A certificate is renewed when less than this share of its time is left.
_LEFT = 1 / 3
_HOST = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True)
class Issued:
    """
    What was made.

    @ivar names: hosts and addresses that the certificate is for.
    @ivar until: when it ends, seconds of the wall clock.
    @ivar fingerprint: SHA-256 of the authority's certificate, in hex.
    @ivar is_new_authority: whether clients need C{ca.crt} now.
    """

    folder: Path
    names: tuple[str, ...]
    until: float
    fingerprint: str
    is_new_authority: bool


def issue(folder: Path, names: Sequence[str], now: float, days: float = DAYS) -> Issued:
    """
    Make a certificate for the appliance, and an authority where the folder has none. Blocks.

    @param names: host names and addresses; none for those of the certificate that is there.
    @param now: seconds of the wall clock.
    @raise ConfigError: a name is none, or what is in the folder cannot be used or replaced.
    """
    names = tuple(dict.fromkeys(name.lower() for name in names)) or _shown(folder).names
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    moment = datetime.fromtimestamp(int(now), UTC)
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
        is_new = not (folder / AUTHORITY).exists() and not (folder / AUTHORITY_KEY).exists()
        if is_new:
            _make_authority(folder, names[0], moment)
        ca, ca_key = _authority(folder)
        until = min(moment + timedelta(days=days), ca.not_valid_after_utc)
        if until <= moment:
            remedy = f"move {AUTHORITY} and {AUTHORITY_KEY} away, and carry the next {AUTHORITY} to all clients"
            raise ConfigError(f"{folder / AUTHORITY}: the authority has ended; {remedy}")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(names[0], ca.subject, key, moment, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)  # type: ignore[arg-type]
        )
        certificate = builder.sign(ca_key, hashes.SHA256())
        _write(folder / SERVER, certificate.public_bytes(Encoding.PEM) + _written(key), 0o600)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return Issued(folder, names, until.timestamp(), ca.fingerprint(hashes.SHA256()).hex(), is_new)


def is_due(folder: Path, now: float) -> bool:
    """
    Whether the certificate in a folder is to be renewed: its authority is there with its key, and less than a third of
    its time is left. Blocks.
    """
    if not all((folder / name).exists() for name in (AUTHORITY, AUTHORITY_KEY, SERVER)):
        return False
    shown = _shown(folder)
    return now >= shown.until - (shown.until - shown.since) * _LEFT


def renew(folder: Path, now: float) -> Issued:
    """
    Make the certificate in a folder anew, for the same names and as long a time. Blocks.

    @raise ConfigError: it cannot be made or written.
    """
    shown = _shown(folder)
    return issue(folder, (), now, (shown.until - shown.since) / 86400 - _EARLIER.days)


def _shown(folder: Path) -> ServerCertificate:
    server = folder / SERVER
    if not server.exists():
        raise ConfigError(f"{server} is not there yet: say for which names it shall be (--name)")
    return NamedFiles(server, server).read(())[0][0]


def _authority(folder: Path) -> tuple[x509.Certificate, Any]:
    path, key_path = folder / AUTHORITY, folder / AUTHORITY_KEY
    ca, key = certificates(path, "authority")[0], private_key(key_path, "authority")
    if public_part(ca) != public_part(key):
        raise ConfigError(f"the key in {key_path} is not that of the authority in {path}; put back the one that is")
    return ca, key


def _make_authority(folder: Path, name: str, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # Its date keeps apart two authorities for one name: clients choose by the subject.
    called = f"pullcache authority of {name} {now:%Y-%m-%d}"
    builder = (
        _builder(called, None, key, now, now + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write(folder / AUTHORITY_KEY, _written(key), 0o600)
    _write(folder / AUTHORITY, certificate.public_bytes(Encoding.PEM), 0o644)


def _builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    # X.520 gives a common name 64 characters.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return x509.CertificateBuilder(
        issuer or subject, subject, key.public_key(), x509.random_serial_number(), now - _EARLIER, until
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise ConfigError(f"{name} is no host name and no address; write it without https://, port or path")
    return x509.DNSName(name)


def _written(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file, durably; it belongs to whom its folder belongs to, also where root makes it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    fsync_folder(path.parent)
