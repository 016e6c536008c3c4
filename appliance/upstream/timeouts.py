"""How long an upstream may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """
    Durations, in seconds.

    @ivar connect: for resolving a name, and for each connection attempt.
    @ivar headers: from the request to the end of the response's header section, connecting included; so it is longer
        than C{connect}.
    @ivar silence: without a byte of the body while it is not paused.
    @ivar whole: for a body that is read into memory (a manifest, a token, tags, an error), even while bytes still
        come; so it is longer than C{silence}. A blob may take any time.
    @ivar idle: a connection is kept open for the next request. Shorter than common servers keep theirs (60 s and up),
        so that a request seldom meets a connection that is being closed.
    """

    connect: float = 10.0
    headers: float = 30.0
    silence: float = 30.0
    whole: float = 60.0
    idle: int = 30
