"""
How long a blob is, from what its descriptor and its upstream say before its digest is known. Pure.

================  ==================  ======================================================================
the descriptor    the upstream        readers
================  ==================  ======================================================================
says a size       says the same       are promised that
says a size       says none           are promised that
says none         says a size         are promised that
says a size       says another        wait for the digest: either may be right
says none         says none           wait for the digest
================  ==================  ======================================================================

A descriptor that contradicts another one of its repository counts as saying none.

Where neither says a size, a body may be endless: L{MAX_UNTOLD_BYTES} of it are enough to know that.
"""

from __future__ import annotations

from appliance.errors import UpstreamInvalid
from appliance.oci.digest import Digest

MAX_UNTOLD_BYTES = 10 * 1024**3
"""The most bytes that are taken of a blob of unknown length: they lie on disk meanwhile."""


class WrongBytes(UpstreamInvalid):
    """What came has another digest, and is thrown away."""


class Length:
    """
    The length of one blob that is being fetched.

    @ivar size: bytes, by what was said last, the upstream before the descriptor; C{None} while neither has said.
    @ivar promised: whether readers are promised C{size}; it stays what it is from then on.
    """

    def __init__(self, descriptor: int | None, upstream: str, digest: Digest) -> None:
        self._upstream = upstream
        self._digest = digest
        self.size = descriptor
        self.promised = False
        self._disputed = False

    @property
    def most(self) -> int:
        """The most bytes that are taken."""
        return MAX_UNTOLD_BYTES if self.size is None else self.size

    def is_reached(self, held: int) -> bool:
        """Whether C{held} bytes are as many as there should be."""
        return self.size is not None and held >= self.size

    def check(self, said: int | None) -> None:
        """Raises L{UpstreamInvalid} when the upstream says another size than is expected."""
        if said is not None and said != self.size:
            raise self._refused(f"{said} bytes offered, where {self.size} were expected")

    def wrong(self, held: int) -> WrongBytes:
        """The error for so many bytes that have another digest."""
        return WrongBytes(self._upstream, f"{self._digest}: {held} bytes of another digest came")

    def exceeded(self) -> UpstreamInvalid:
        """The error for more bytes than L{most}: of no use where no size was told, maybe a beginning otherwise."""
        if self.size is None:
            return WrongBytes(self._upstream, f"{self._digest}: more than {self.most} bytes came, and no size was told")
        return UpstreamInvalid(self._upstream, f"{self._digest}: more than its {self.size} bytes were sent")

    def learn(self, said: int | None, held: int, right: bool) -> None:
        """
        Take note of the size that an answer of the upstream says.

        @param said: C{None} when it says none.
        @param held: bytes that are here already; C{right}: whether they have the digest.
        @raise WrongBytes: these cannot be a beginning of the blob.
        @raise UpstreamInvalid: what it says cannot be, or is not what readers were promised.
        """
        if self.promised:
            return self.check(said)
        if said is not None and not right and held and said <= held:
            if self.size in (None, said):
                raise self.wrong(held)
            raise self._refused(f"{said} bytes offered, where {held} are here already")
        if said is not None:
            self._disputed = self._disputed or self.size not in (None, said)
            self.size = said
        elif self.is_reached(held) and not right:
            # There is more of it than its descriptor says.
            self.size = None
        self.promised = self.size is not None and not self._disputed

    def _refused(self, reason: str) -> UpstreamInvalid:
        return UpstreamInvalid(self._upstream, f"{self._digest}: {reason}")
