"""
Signatures in the file formats of minisign: Ed25519 (RFC 8032) over the BLAKE2b hash (RFC 7693) of what is signed.

What this module writes the C{minisign} program verifies, and the other way round; its prehashed form (C{ED}) only.
The formats are those of minisign's manual: a comment line that is not signed, a line of base64, and for a
signature a trusted comment that a second, global signature covers.

Whose signatures count is a L{TrustPolicy}: the keys that the configuration trusts, and those that a caller names for
one import.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.errors import BundleError, BundleUntrusted

#: The largest signature file that is read, in bytes.
MAX_SIGNATURE_BYTES = 16 * 1024
#: The longest trusted comment that minisign reads, in bytes.
MAX_COMMENT_BYTES = 8192

_ALGORITHM = b"Ed"
_PREHASHED = b"ED"
_UNENCRYPTED = bytes(2)
_SCRYPT = b"Sc"
_BLAKE2B = b"B2"

_UNTRUSTED = "untrusted comment: "
_TRUSTED = "trusted comment: "

_PUBLIC_SIZE = 2 + 8 + 32
_SIGNATURE_SIZE = 2 + 8 + 64
_SECRET_SIZE = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32
#: Where the key id, the key pair and its checksum begin in a secret key: what a password encrypts.
_SEALED = 54

#: The most work a password may cost, N x p of scrypt; minisign's own keys cost that: 1 GiB of memory, some seconds.
_MAX_COST = 2**20
#: A bound that scrypt itself must be given, above what that cost needs, in bytes.
_MAX_MEMORY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PublicKey:
    """
    A key that signatures are checked with.

    @ivar key_id: 16 upper-case hex digits, as minisign prints them; tells keys apart, proves nothing.
    @ivar raw: the 32 bytes of RFC 8032.
    """

    key_id: str
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read a public key file, or its base64 line alone. Raises L{BundleError}."""
        data = _decoded(_last_line(text), _PUBLIC_SIZE)
        if data is None or data[:2] != _ALGORITHM:
            # Not shown: it may be the secret key, given by mistake.
            raise BundleError("this is no minisign public key: the one line of base64 that begins with RW, or its file")
        return cls(_key_id(data[2:10]), data[10:])

    def __str__(self) -> str:
        """The one line that stands for the key, as C{minisign -P} takes it."""
        return base64.b64encode(_ALGORITHM + _id_bytes(self.key_id) + self.raw).decode("ascii")

    def dump(self) -> str:
        """The public key file."""
        return f"{_UNTRUSTED}minisign public key {self.key_id}\n{self}\n"

    def __repr__(self) -> str:
        return f"<PublicKey {self.key_id}>"


class SecretKey:
    """A key to sign with; its secret leaves it through C{danger_} methods and L{save} only."""

    def __init__(self, key_id: str, danger_seed: bytes) -> None:
        """@param danger_seed: the 32 bytes of RFC 8032's private key."""
        self._key_id = key_id
        self._danger_seed = danger_seed
        self._danger_key = Ed25519PrivateKey.from_private_bytes(danger_seed)

    @classmethod
    def generate(cls) -> SecretKey:
        """A new key."""
        return cls(_key_id(secrets.token_bytes(8)), secrets.token_bytes(32))

    @classmethod
    def load(cls, text: str, danger_password: str | None = None) -> SecretKey:
        """
        Read a secret key file. Takes seconds and 1 GiB of memory for one with a password.

        @raise BundleError: it is none, the password is wrong, or there is one and C{danger_password} is C{None}.
        """
        data = _decoded(_last_line(text), _SECRET_SIZE)
        if data is None or data[:2] != _ALGORITHM or data[4:6] != _BLAKE2B:
            raise BundleError("this is no minisign secret key; make one with: pullcache keygen -o NAME")
        sealed = _unsealed(data, danger_password)
        key = cls(_key_id(sealed[:8]), sealed[8:40])
        if key.public.raw != sealed[40:72] or not _checksum_holds(data, sealed):
            raise BundleError("the secret key cannot be used: the password is wrong or the file is damaged")
        return key

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        return PublicKey(self._key_id, self._danger_key.public_key().public_bytes_raw())

    def danger_dump(self) -> str:
        """The secret key file, not encrypted: as C{minisign -G -W} writes it."""
        pair = _id_bytes(self._key_id) + self._danger_seed + self.public.raw
        head = _ALGORITHM + _UNENCRYPTED + _BLAKE2B + bytes(32 + 8 + 8)
        # The program leaves the checksum of an unencrypted key empty, too.
        line = base64.b64encode(head + pair + bytes(32)).decode("ascii")
        return f"{_UNTRUSTED}minisign encrypted secret key\n{line}\n"

    def save(self, path: Path) -> None:
        """Write the secret key file for its owner's eyes only. Raises L{BundleError} when there is such a file."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise BundleError(f"{path} exists; a key is never replaced: choose another name") from None
        with open(fd, "w", encoding="ascii") as file:
            file.write(self.danger_dump())

    def sign(self, data: bytes, trusted_comment: str) -> str:
        """
        The signature file of C{data}.

        @param trusted_comment: one line, signed too. Raises L{BundleError} when it is longer or holds more.
        """
        comment = trusted_comment.encode("utf-8", "replace")
        if len(comment) > MAX_COMMENT_BYTES or not _is_one_line(trusted_comment):
            raise BundleError("a signature's comment is one line of printable characters, 8192 bytes at most")
        signature = self._danger_key.sign(_hash(data))
        line = base64.b64encode(_PREHASHED + _id_bytes(self._key_id) + signature).decode("ascii")
        whole = base64.b64encode(self._danger_key.sign(signature + comment)).decode("ascii")
        return f"{_UNTRUSTED}signature by key {self._key_id}\n{line}\n{_TRUSTED}{trusted_comment}\n{whole}\n"

    def __repr__(self) -> str:
        return f"<SecretKey {self._key_id}>"


def verify(data: bytes, signature: str, keys: Iterable[PublicKey]) -> tuple[PublicKey, str]:
    """
    Check the signature file C{signature} of C{data} against the keys that are trusted.

    @return: the key that signed, and the trusted comment.
    @raise BundleUntrusted: the signature is none, wrong, or by no key of C{keys}.
    """
    key_id, made, comment, whole = _parse_signature(signature)
    trusted = list(keys)
    namesakes = [key for key in trusted if key.key_id == key_id]
    for key in namesakes:
        public = Ed25519PublicKey.from_public_bytes(key.raw)
        if _holds(public, made, _hash(data)) and _holds(public, whole, made + comment.encode("utf-8")):
            return key, comment
    if namesakes:
        raise BundleUntrusted(f"the signature by key {key_id} is wrong: this is not what was signed; get it anew")
    known = ", ".join(key.key_id for key in trusted) or "none"
    raise BundleUntrusted(f"it is signed by key {key_id}, which is not trusted here (trusted: {known})")


@dataclass(frozen=True)
class TrustPolicy:
    """
    The keys that are trusted, and whether one of them must have signed.

    One key is enough to refuse what is unsigned: else it would be enough to cut a signature off.

    @ivar accept_callers_keys: whether a caller may name a key that is none of C{keys}.
    """

    keys: tuple[PublicKey, ...] = ()
    require_signature: bool = False
    accept_callers_keys: bool = False

    @property
    def demands(self) -> bool:
        """Whether what is not signed is refused."""
        return self.require_signature or bool(self.keys)

    def only(self, keys: Sequence[PublicKey]) -> TrustPolicy:
        """
        This policy where a caller trusts C{keys} and no others; without any, this policy.

        Who may order an import may not decide by that whose bundles are taken: where keys are configured, a caller
        chooses among them, unless the configuration says otherwise.

        @raise BundleUntrusted: one of them is not configured, others are, and a caller may not add to them.
        """
        if not keys:
            return self
        strangers = [] if self.accept_callers_keys or not self.keys else [key for key in keys if key not in self.keys]
        if strangers:
            raise BundleUntrusted(
                f"key {strangers[0].key_id} is none of those that this appliance trusts"
                f" ({', '.join(key.key_id for key in self.keys)}), and only these can be named for an import; to trust"
                f" it, add it to the configuration, bundles: {{trust: [..., {strangers[0]}]}}, or allow callers any key"
                " with bundles: {accept_callers_keys: true}"
            )
        return TrustPolicy(tuple(dict.fromkeys(keys)), self.require_signature, self.accept_callers_keys)

    def check(self, source: str, data: bytes, signatures: Sequence[str]) -> tuple[PublicKey, str] | None:
        """
        Find a trusted signature of C{data}.

        @return: the key and its trusted comment; C{None} when there is none and none is demanded.
        @raise BundleUntrusted: no trusted key has signed it and one should have, or a signature that could be checked
            is wrong.
        """
        if not self.demands:
            return None
        if not signatures:
            raise BundleUntrusted(
                f"{source}: it is not signed, and only what a trusted key has signed is taken here; have it exported"
                " with --sign"
            )
        if not self.keys:
            raise BundleUntrusted(
                f"{source}: a signature is required here and no key is trusted; name the sender's public key in"
                " bundles: trust, or with --trust"
            )
        problems = []
        for signature in signatures:
            try:
                return verify(data, signature, self.keys)
            except BundleUntrusted as error:
                problems.append(str(error))
        raise BundleUntrusted(f"{source}: {problems[0]}")

    def refuse_foreign(self, source: str, format: str) -> None:
        """Raises L{BundleUntrusted} when another tool's archive is not taken, for it carries no signature."""
        if self.demands:
            raise BundleUntrusted(
                f"{source}: is {format}, which carries no signature, and only what a trusted key has signed is taken"
                " here; import it elsewhere and export a signed bundle there"
            )


def claimed_key(signature: str) -> str:
    """The id of the key that C{signature} names, which proves nothing. Raises L{BundleUntrusted} for what is none."""
    return _parse_signature(signature)[0]


def _parse_signature(text: str) -> tuple[str, bytes, str, bytes]:
    """Key id, signature, trusted comment and global signature. Raises L{BundleUntrusted}."""
    if len(text) > MAX_SIGNATURE_BYTES:
        _no_signature("too long")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) != 4 or not lines[0].startswith(_UNTRUSTED.strip()) or not lines[2].startswith(_TRUSTED):
        _no_signature("it has four lines: comment, signature, trusted comment, signature")
    made, whole = _decoded(lines[1], _SIGNATURE_SIZE), _decoded(lines[3], 64)
    if made is None or whole is None:
        _no_signature("a line of base64 is damaged")
    if made[:2] != _PREHASHED:
        _no_signature("its form is not the prehashed one; sign with minisign 0.10 or later, without -l")
    comment = lines[2].removeprefix(_TRUSTED)
    if not _is_one_line(comment):
        _no_signature("its comment holds control characters")
    return _key_id(made[2:10]), made[10:], comment, whole


def _no_signature(why: str) -> NoReturn:
    raise BundleUntrusted(f"this is no minisign signature that can be used: {why}")


def _is_one_line(comment: str) -> bool:
    """Whether a comment can be shown on a terminal as it is. The program itself puts tabs between its fields."""
    return comment.replace("\t", " ").isprintable()


def _holds(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def _last_line(text: str) -> str:
    """The line after the comment, or the only one."""
    return text.strip().rpartition("\n")[2].strip()


def _decoded(line: str, size: int) -> bytes | None:
    """The C{size} bytes that a line of base64 stands for, C{None} when it does not."""
    try:
        data = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Spare bits of the last character are zero: one signature, one text.
    return data if len(data) == size and base64.b64encode(data).decode("ascii") == line else None


def _key_id(data: bytes) -> str:
    """Eight bytes, little endian, as minisign prints them."""
    return f"{int.from_bytes(data, 'little'):016X}"


def _id_bytes(key_id: str) -> bytes:
    return int(key_id, 16).to_bytes(8, "little")


def _unsealed(data: bytes, danger_password: str | None) -> bytes:
    """Key id, key pair and checksum of a secret key file, decrypted. Raises L{BundleError}."""
    if data[2:4] == _UNENCRYPTED:
        return data[_SEALED:]
    if data[2:4] != _SCRYPT:
        raise BundleError("the secret key is encrypted in a way that is not known here; make one with minisign -G")
    if danger_password is None:
        raise BundleError("the secret key has a password; remove it from a copy with minisign -C -W, or give it")
    cost, blocks, lanes = _scrypt_cost(int.from_bytes(data[38:46], "little"), int.from_bytes(data[46:54], "little"))
    stream = hashlib.scrypt(
        danger_password.encode("utf-8", "surrogateescape"),
        salt=data[6:38],
        n=cost,
        r=blocks,
        p=lanes,
        maxmem=_MAX_MEMORY,
        dklen=_SECRET_SIZE - _SEALED,
    )
    return bytes(a ^ b for a, b in zip(data[_SEALED:], stream, strict=True))


def _scrypt_cost(operations: int, memory: int) -> tuple[int, int, int]:
    """
    N, r and p of scrypt (RFC 7914) for libsodium's two limits, as its C{pickparams} chooses them.

    @raise BundleError: they ask for more than minisign's keys do.
    """
    operations, blocks, lanes = max(operations, 32768), 8, 1
    if operations < memory // 32:
        cost = _power_above(operations // (blocks * 8))
    else:
        cost = _power_above(memory // (blocks * 256))
        lanes = operations // 4 // cost // blocks
    if not 0 < cost * lanes <= _MAX_COST:
        raise BundleError("the secret key asks for more than 1 GiB of memory, or is damaged; make one with minisign -G")
    return cost, blocks, lanes


def _power_above(limit: int) -> int:
    """The first power of two above C{limit}, at least 2."""
    return 1 << max(1, limit.bit_length())


def _checksum_holds(data: bytes, sealed: bytes) -> bool:
    """Whether the checksum is right; that of an unencrypted key may be empty."""
    expected = hashlib.blake2b(_ALGORITHM + sealed[:72], digest_size=32).digest()
    return hmac.compare_digest(expected, sealed[72:]) or (data[2:4] == _UNENCRYPTED and not any(sealed[72:]))
