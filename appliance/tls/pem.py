"""
Certificates, keys and lists of revoked certificates in files (PEM, RFC 7468).

Errors are L{ConfigError}s that name the key of the configuration, or what else led to the file, and the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from appliance.errors import ConfigError

LIMIT = 16 * 1024 * 1024
"""The longest file that is read, in bytes: lists of revoked certificates are the long ones."""

# One without an end, as in a file that is being written, is found as well, so that it is a fault.
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(?:.*?-----END CERTIFICATE-----|.*)", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_REVOKED = re.compile(rb"-----BEGIN X509 CRL-----(?:.*?-----END X509 CRL-----|.*)", re.DOTALL)


def content_of(path: Path, key: str) -> bytes:
    """The bytes of a file."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as reason:
        raise ConfigError(f"{key}: {path} cannot be read: {reason.strerror}") from None
    if len(data) > LIMIT:
        raise ConfigError(f"{key}: {path} is larger than {LIMIT} bytes")
    return data


def certificates_in(data: bytes, path: Path, key: str) -> list[x509.Certificate]:
    """Those in the bytes of the file C{path}, in their order; none are none."""
    try:
        found = [x509.load_pem_x509_certificate(pem) for pem in _CERTIFICATE.findall(data)]
        for each in found:
            # The rest of it is parsed when it is asked for, and must not fail then.
            _ = each.subject, each.issuer, each.public_key(), each.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise ConfigError(f"{key}: {path} holds a certificate that cannot be read") from None
    return found


def certificates(path: Path, key: str) -> list[x509.Certificate]:
    """Those in the file, one at least."""
    found = certificates_in(content_of(path, key), path, key)
    if not found:
        raise ConfigError(f"{key}: {path} holds no certificate in PEM form")
    return found


def key_in(data: bytes, path: Path, key: str) -> Any | None:
    """
    The first private key in the bytes of the file C{path}, C{None} when there is none.

    What the parser says of it is left out of errors: it might repeat something of the key.
    """
    match = _KEY.search(data)
    if match is None:
        return None
    try:
        return load_pem_private_key(match[0], password=None)
    except TypeError:
        remedy = "put it there without a passphrase, readable for this service only"
        raise ConfigError(f"{key}: the private key in {path} is encrypted; {remedy}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{key}: {path} holds a private key that cannot be read") from None


def private_key(path: Path, key: str) -> Any:
    """The first one in the file."""
    found = key_in(content_of(path, key), path, key)
    if found is None:
        raise ConfigError(f"{key}: {path} holds no private key in PEM form")
    return found


def revocations(path: Path, key: str) -> list[x509.CertificateRevocationList]:
    """The lists of revoked certificates in the file, one at least (RFC 5280 section 5)."""
    try:
        found = [x509.load_pem_x509_crl(pem) for pem in _REVOKED.findall(content_of(path, key))]
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{key}: {path} holds a list of revoked certificates that cannot be read") from None
    if not found:
        raise ConfigError(f"{key}: {path} holds no list of revoked certificates (X509 CRL) in PEM form")
    return found


def public_part(owner: Any) -> bytes:
    """The public key of a private key or of a certificate, in one spelling: what fits together has the same."""
    public: bytes = owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public
