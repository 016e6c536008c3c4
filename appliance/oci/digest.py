"""
Digests: the name of bytes by their hash.

Grammar: OCI image specification, descriptor.md, "Digests". Of the registered algorithms those two are known that the
standard library can compute; a path or a URL may be built from a L{Digest}.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from sys import intern
from typing import TYPE_CHECKING

import msgspec

from appliance.errors import DigestInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

#: Known algorithms, each with the length of its hash in hex characters.
ALGORITHMS: dict[str, int] = {"sha256": 64, "sha512": 128}

_ENCODED = {algorithm: re.compile(f"[a-f0-9]{{{length}}}") for algorithm, length in ALGORITHMS.items()}

#: How much of a wrong text an error repeats, in characters.
_SHOWN = 160


# There may be a million: made and compared in C, and nothing that the garbage collector would have to visit.
class Digest(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """
    One digest, always of a known algorithm and well formed; anything else raises L{DigestInvalid} when made.

    @ivar algorithm: a key of L{ALGORITHMS}.
    @ivar encoded: the hash in lower-case hex.
    """

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        pattern = _ENCODED.get(self.algorithm)
        if pattern is None:
            known = " and ".join(ALGORITHMS)
            raise DigestInvalid(f"digest algorithm {self.algorithm[:_SHOWN]!r} is not known; {known} are")
        if pattern.fullmatch(self.encoded) is None:
            length = ALGORITHMS[self.algorithm]
            raise DigestInvalid(
                f"{self.encoded[:_SHOWN]!r} is no {self.algorithm} hash: {length} lower-case hex characters are"
            )

    # The same few digests are read again and again while a manifest, or many that share layers, are looked at.
    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Digest:
        """Read C{algorithm:encoded}. Raises L{DigestInvalid}."""
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise DigestInvalid(f"{text[:_SHOWN]!r} is no digest: there is no colon in it")
        return cls(intern(algorithm), encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of C{data}. Raises L{DigestInvalid} for an unknown algorithm."""
        if algorithm not in ALGORITHMS:
            return cls(algorithm, "")
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    @property
    def file_name(self) -> str:
        """The digest as one path component, and as the referrers tag of the distribution spec: C{sha256-<hex>}."""
        return f"{self.algorithm}-{self.encoded}"

    def hasher(self) -> _Hash:
        """A fresh hash object of this algorithm, for bytes that come in pieces."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Whether C{data} has this digest."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.encoded


def number_of(digest: Digest) -> int:
    """
    The first eight bytes of the hash: what stands for a digest where there may be a million of them. Two digests may
    have the same.
    """
    return int(digest.encoded[:16], 16)
