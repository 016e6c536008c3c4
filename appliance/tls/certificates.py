"""
The certificates that an endpoint shows: where they stand, and which of them a client gets.

What is renewed is replaced a file at a time. So what cannot be used, a key that is not its certificate's or half of a
file, changes nothing: the certificate that was read before from the same file stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from OpenSSL import SSL
from twisted.internet.ssl import CertificateOptions

from appliance.errors import ConfigError
from appliance.flow.disk import FileStamp, stamp_of
from appliance.oci.timestamps import timestamp
from appliance.tls.pem import (
    certificates,
    certificates_in,
    content_of,
    key_in,
    private_key,
    public_part,
)

MAX_FILES = 1000
"""More files than this a folder of certificates may not have."""

MAX_DEPTH = 3
"""Folders below it that are looked into: certbot has one for each name."""

ENDS_SOON = 21 * 86400.0
"""Seconds before the end of a certificate from which on it is warned of."""

_ENDINGS = (".pem", ".crt", ".cer", ".key")
# Certificates between a server's and its authority.
_LONGEST_CHAIN = 8


@dataclass(frozen=True, eq=False)
class ServerCertificate:
    """
    A certificate with its key.

    @ivar path: the file that it stands in; C{key_path} that of its key.
    @ivar chain: itself, and the certificates between it and its authority.
    """

    path: Path
    key_path: Path
    chain: tuple[x509.Certificate, ...]
    key: Any = field(repr=False)

    @property
    def own(self) -> x509.Certificate:
        """The certificate itself."""
        return self.chain[0]

    @property
    def since(self) -> float:
        """When it begins to hold, seconds of the wall clock."""
        return self.own.not_valid_before_utc.timestamp()

    @property
    def until(self) -> float:
        """When it ends, seconds of the wall clock."""
        return self.own.not_valid_after_utc.timestamp()

    def options(self) -> dict[str, Any]:
        """Arguments of L{CertificateOptions}."""
        return {"certificate": self.own, "privateKey": self.key, "extraCertChain": list(self.chain[1:])}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What it is for: DNS names in lower case and addresses; the common name where there is no such list."""
        try:
            listed = self.own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return tuple(str(each.value).lower() for each in self.own.subject if each.oid == x509.NameOID.COMMON_NAME)
        hosts = [name.lower() for name in listed.get_values_for_type(x509.DNSName)]
        return (*hosts, *map(str, listed.get_values_for_type(x509.IPAddress)))

    def warnings(self, now: float) -> Iterator[str]:
        """What its operator should know by C{now}, seconds of the wall clock. Looks at permissions."""
        called = f"{self.path}: the certificate for {', '.join(self.names) or 'no name'}"
        if now >= self.until:
            yield f"{called} ended on {day_of(self.until)}; clients refuse it"
        elif self.until - now < ENDS_SOON:
            yield f"{called} ends on {day_of(self.until)}, in {(self.until - now) / 86400:.0f} days; renew it"
        if now < self.since:
            yield f"{called} does not hold before {day_of(self.since)}; clients refuse it until then"
        try:
            self.own.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            yield f"{called} has no subjectAltName: docker, containerd and other clients written in Go refuse it"
        try:
            is_open = bool(self.key_path.stat().st_mode & stat.S_IROTH)
        except OSError:
            is_open = False
        if is_open:
            yield f"{self.key_path} holds a secret and can be read by everybody on this machine; chmod o-r it"

    def covers(self, name: str) -> bool:
        """Whether it is for the host C{name}, itself or by a wildcard for its first label (RFC 9525 section 6.3)."""
        return not {name, "*." + name.partition(".")[2]}.isdisjoint(self.names)


def chosen(
    known: Sequence[ServerCertificate], name: str | None, address: str | None, now: float
) -> ServerCertificate:
    """
    Which of C{known}, one at least, a client is shown.

    @param name: the host that it asks for (SNI), C{None} when it names none, as where it connects to an address.
    @param address: the address that it connected to.
    @return: one for that host, or else for that address, or else the first; of several the one that holds longest.
    """
    candidates = [each for each in known if name is not None and each.covers(name.lower())]
    candidates = candidates or [each for each in known if address is not None and address in each.names]
    valid = [each for each in candidates or known if each.since <= now < each.until]
    if candidates:
        return max(valid or candidates, key=lambda each: each.until)
    return (valid or known)[0]


class CertificateSource(Protocol):
    """
    Where certificates stand.

    @ivar folder: what renews them may find them there.
    """

    @property
    def folder(self) -> Path: ...

    def stamps(self) -> dict[Path, FileStamp | None]:
        """The state of each file that there is to read. Blocks."""

    def read(self, before: Sequence[ServerCertificate]) -> tuple[list[ServerCertificate], list[str]]:
        """
        Read them all. Blocks.

        @param before: those that are in force.
        @return: one at least, by their paths; and what could not be used.
        @raise ConfigError: none could.
        """


@dataclass(frozen=True)
class NamedFiles:
    """The certificate, its key, and what stands between it and its authority, each in a file of its own or in one."""

    certificate: Path
    key: Path
    between: Path | None = None

    @property
    def folder(self) -> Path:
        """See L{CertificateSource}."""
        return self.certificate.parent

    def stamps(self) -> dict[Path, FileStamp | None]:
        """See L{CertificateSource}."""
        return {path: stamp_of(path) for path in (self.certificate, self.key, self.between) if path is not None}

    def read(self, before: Sequence[ServerCertificate]) -> tuple[list[ServerCertificate], list[str]]:
        """See L{CertificateSource}."""
        chain = certificates(self.certificate, "certKey")
        key = private_key(self.key, "privateKey")
        if public_part(key) != public_part(chain[0]):
            raise ConfigError(
                f"privateKey: the key in {self.key} is not that of the first certificate in {self.certificate}"
            )
        if self.between is not None:
            chain += [each for each in certificates(self.between, "extraCertChain") if each not in chain]
        shown = ServerCertificate(self.certificate, self.key, tuple(chain), key)
        if (why := _refusal(shown)) is not None:
            raise ConfigError(f"certKey: {why}")
        return [shown], []


@dataclass(frozen=True)
class CertificateFolder:
    """
    All that stand in a folder and in the folders below it, as certbot and Kubernetes leave them there.

    Which key is whose, and which certificates stand between which, is told by what they are, not by the files' names.
    """

    folder: Path

    def stamps(self) -> dict[Path, FileStamp | None]:
        """See L{CertificateSource}."""
        return {path: stamp_of(path) for path in self._files()}

    def read(self, before: Sequence[ServerCertificate]) -> tuple[list[ServerCertificate], list[str]]:
        """See L{CertificateSource}."""
        keys: dict[bytes, tuple[Path, Any]] = {}
        servers: dict[x509.Certificate, Path] = {}
        authorities: list[x509.Certificate] = []
        faults: dict[Path, str] = {}
        for path in self._files():
            try:
                data = content_of(path, "tls")
                key = key_in(data, path, "tls")
                found = certificates_in(data, path, "tls")
            except ConfigError as error:
                faults[path] = str(error)
                continue
            if key is not None:
                keys[public_part(key)] = path, key
            for each in found:
                if _is_authority(each):
                    authorities.append(each)
                if not _is_authority(each) or _has_names(each):
                    servers.setdefault(each, path)
        known = []
        for own, path in servers.items():
            private = keys.get(public_part(own))
            if private is None and _is_authority(own):
                continue
            if private is None:
                faults.setdefault(path, f"tls: no key in {self.folder} is that of the certificate in {path}")
                continue
            shown = ServerCertificate(path, private[0], (own, *_between(own, authorities)), private[1])
            if (why := _refusal(shown)) is not None:
                faults[path] = f"tls: {why}"
            else:
                known.append(shown)
        read = {each.path for each in known}
        # What was in force stays where its own file is the one that is at fault.
        known += [each for each in before if each.path in faults and each.path not in read]
        if not known:
            why = "; ".join(faults.values()) or f"tls: {self.folder} holds no certificate in PEM form"
            raise ConfigError(why)
        return sorted(known, key=lambda each: each.path), list(faults.values())

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise ConfigError(f"tls: {self.folder} is no folder; name the one that holds certificates and their keys")
        found: list[Path] = []
        for place, folders, files in os.walk(self.folder):
            depth = len(Path(place).relative_to(self.folder).parts)
            # Kubernetes keeps what is in force and what was in folders whose names begin with dots.
            folders[:] = sorted(each for each in folders if depth < MAX_DEPTH and not each.startswith("."))
            found += [Path(place, each) for each in sorted(files) if _is_wanted(each)]
            if len(found) > MAX_FILES:
                raise ConfigError(f"tls: {self.folder} holds more than {MAX_FILES} files; keep the certificates only")
        return found


def _refusal(shown: ServerCertificate) -> str | None:
    """Why OpenSSL does not take a certificate and its key, as where the key is too short; C{None} where it does."""
    try:
        CertificateOptions(**shown.options()).getContext()
    except (SSL.Error, ValueError) as error:
        return f"OpenSSL does not take the certificate in {shown.path} with its key: {said_by(error) or error}"
    return None


def said_by(error: Exception) -> str:
    """What OpenSSL says went wrong; empty where it says nothing, as of a connection that just ended."""
    reasons = error.args[0] if error.args else ()
    return str(reasons[0][-1]) if isinstance(reasons, list) and reasons else ""


def _is_wanted(name: str) -> bool:
    return name.endswith(_ENDINGS) and not name.startswith(".")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _has_names(certificate: x509.Certificate) -> bool:
    """Whether it is for hosts: a certificate that vouches for itself often says that it may sign others, too."""
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    return True


def _between(own: x509.Certificate, authorities: Iterable[x509.Certificate]) -> Iterator[x509.Certificate]:
    """The certificates from C{own} to its authority, which clients have themselves and which is left out."""
    last = own
    for _ in range(_LONGEST_CHAIN):
        issuers = [each for each in authorities if each.subject == last.issuer and each.subject != each.issuer]
        issuer = next((each for each in issuers if _has_signed(each, last)), None)
        if issuer is None:
            return
        yield issuer
        last = issuer


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def day_of(moment: float) -> str:
    """The day, as in 2026-11-22, of seconds of the wall clock."""
    return timestamp(moment)[:10]


def address_of(host: object) -> str | None:
    """An address in its one spelling, IPv4 also where it is written as IPv6; C{None} for what is none."""
    try:
        found: IPv4Address | IPv6Address = ip_address(str(host).partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)
