"""Whose bundles are taken: the keys that the configuration trusts, and those that a caller names for one import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.bundle.minisign import PublicKey, verify
from appliance.errors import BundleUntrusted


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
