"""How long, how much and how often: the bounds on what an upstream may take from us."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes of an error's body that are read, for its message.
MAX_PROBLEM_BYTES = 64 * 1024
#: Bytes of a token server's answer.
MAX_TOKEN_BYTES = 1024 * 1024
#: Bytes of one page of a tag list, pages of one list, and tags of one repository.
MAX_TAGS_PAGE_BYTES = 4 * 1024 * 1024
MAX_TAGS_PAGES = 1000
MAX_TAGS = 500_000
#: Redirects followed for one request, and for one token request.
MAX_REDIRECTS = 5
MAX_TOKEN_REDIRECTS = 2


@dataclass(frozen=True)
class Limits:
    """
    Durations, in seconds.

    @ivar connect: for resolving a name, and for each connection attempt.
    @ivar headers: from the request to the end of the response's header section, connecting included; so it is longer
        than C{connect}.
    @ivar silence: without a byte of the body while it is not paused.
    @ivar whole: for a body that is read into memory (a manifest, a token, tags, an error), whatever comes meanwhile; so
        it is longer than C{silence}. A blob may take as long as it takes.
    @ivar idle: a connection is kept open for the next request. Shorter than common servers keep theirs (60 s and up),
        so that a request seldom meets a connection that is being closed.
    """

    connect: float = 10.0
    headers: float = 30.0
    silence: float = 30.0
    whole: float = 60.0
    idle: int = 30
