"""Whose bundles are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.bundle.minisign import PublicKey, verify
from appliance.errors import BundleUntrusted


@dataclass(frozen=True)
class Policy:
    """
    The keys that are trusted, and whether one of them must have signed.

    One key is enough to refuse what is unsigned: else it would be enough to cut a signature off.
    """

    keys: tuple[PublicKey, ...] = ()
    require_signature: bool = False

    @property
    def demands(self) -> bool:
        """Whether what is not signed is refused."""
        return self.require_signature or bool(self.keys)

    def also(self, keys: Sequence[PublicKey]) -> Policy:
        """This policy with further keys."""
        return Policy((*self.keys, *keys), self.require_signature)

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
                f"{source}: it is not signed, and this appliance takes only what a trusted key has signed; have it"
                " exported with --sign"
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
        """Raises L{BundleUntrusted} when another tool's archive, which nobody can have signed, is not taken."""
        if self.demands:
            raise BundleUntrusted(
                f"{source}: is {format}, which carries no signature, and this appliance takes only what a trusted key"
                " has signed; import it elsewhere and export a signed bundle there"
            )
