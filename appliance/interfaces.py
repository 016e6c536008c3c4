"""
Every seam of the appliance, as zope Interfaces.

A provider has a contract suite in ``tests/contracts/`` that it passes. Deferreds stand at the seams; inside a module
work is ``async def``. Sizes and offsets are bytes, durations seconds; a range is half open, C{start <= x < stop}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.plugin import IPlugin
from twisted.web.http_headers import Headers
from zope.interface import Attribute, Interface

from appliance.errors import UpstreamError
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings

T = TypeVar("T")

# -- flow -----------------------------------------------------------------------------------------------------------


class IThreads(Interface):
    """A bounded number of threads for blocking work on the disk."""

    def call(function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Run C{function(*args)} off the reactor.

        @return: fires with its result, on the reactor's thread, or fails with what it raised. Cancelling does not stop
            the function; the result is dropped.
        """


class IWallClock(Interface):
    """
    A clock (L{IReactorTime}) whose C{seconds} only count, and that knows the time of day besides.

    Durations, deadlines and whatever else lives in this process are in its C{seconds}; C{wall} is for what outlives the
    process, is compared with what does, or is told to somebody.
    """

    def wall() -> float:
        """Seconds since the epoch, as the machine has them: they may be set, back and forth. Immediate."""


class IFileTransport(Interface):
    """A transport that can send part of a file without the bytes passing through this process."""

    def send_file(
        fd: int, start: int, length: int, sent: Callable[[int], None], failed: Callable[[OSError], None]
    ) -> None:
        """
        Send C{length} bytes of the open file C{fd} from offset C{start}, after everything written before.

        C{sent(n)} is called each time C{n} more of them have been handed to the network. The caller keeps C{fd} open
        until all are, or until its producer is stopped; it has at most one file range under way and writes nothing
        meanwhile. C{failed(error)} is called instead, once, when the file cannot be read or ends too early; then the
        caller aborts the connection, since less was sent than was promised.
        """


# -- store ----------------------------------------------------------------------------------------------------------


class IBlobReader(Interface):
    """
    One reader of the bytes of a blob, or of what has been received of one; L{close} it.

    What is open stays readable, whatever becomes of the blob: it may be committed, discarded or deleted.
    """

    def read(start: int, stop: int) -> Deferred[bytes]:
        """
        The bytes from C{start} to before C{stop}; fewer, or none, where there are no more. Fails with L{OSError}.

        A large range is read off the reactor; a small one may be read at once.
        """

    def send(
        start: int,
        stop: int,
        transport: IFileTransport,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> bool:
        """
        Send the bytes from C{start} to before C{stop} to C{transport} without their passing through this process.

        See L{IFileTransport.send_file} for C{sent} and C{failed}, and for how long the reader is to be kept open.

        @return: C{False}, and nothing was done, when they lie in no file of this machine now: then they can be L{read}.
        """

    def prefetch(start: int, stop: int) -> None:
        """These bytes will be wanted soon: get them ready, if that takes time. Immediate; a failure shows later."""

    def close() -> None:
        """The reader is used no more; L{read} fails from now on. Twice is no error."""


class IIngest(Interface):
    """
    A blob being received: what is written becomes a blob only when its digest is right.

    Each has a file of its own, in which nobody else writes, however many receive the same blob at once. The caller
    waits for each Deferred before the next call; L{note} and L{write_ahead} may overlap with others. What a cancelled
    call has begun goes on, and the next one waits for its end.
    """

    digest = Attribute("the L{Digest} the whole must have")
    size = Attribute("bytes received so far (int)")
    origin = Attribute("the L{Origin} noted with the bytes, for a resumption after a restart")

    def write(data: list[bytes]) -> Deferred[None]:
        """Append and hash C{data}. Fails with L{OSError} when the disk refuses."""

    def write_ahead(offset: int, data: list[bytes]) -> Deferred[None]:
        """
        Put C{data} at C{offset}, at or behind C{size}, without counting or hashing it; a restart may forget it.

        Fails with L{OSError} when the disk refuses. May be called while another call is under way, for bytes that do
        not overlap.
        """

    def absorb(stop: int) -> Deferred[None]:
        """
        Count and hash what was written ahead from C{size} to before C{stop}.

        Fails with L{OSError} when the disk refuses, and with L{ValueError}, nothing absorbed, when some of it was not
        written ahead.
        """

    def note(origin: Origin) -> Deferred[None]:
        """Remember where the bytes come from, durably enough to resume."""

    def reader() -> IBlobReader:
        """A reader of the bytes received so far and of those still to come. Raises L{OSError} after the end."""

    def verify() -> bool:
        """Whether what was received has the digest."""

    def commit() -> Deferred[None]:
        """
        Make it a blob: durable when the Deferred fires. From then on nobody can write to its file. Where somebody else
        has brought the blob meanwhile, that one stays.

        Fails with L{BlobDamaged} when the digest is wrong; the bytes are gone then.
        """

    def discard() -> Deferred[None]:
        """Throw the bytes away; those that somebody else receives of the same blob are not touched."""

    def close() -> None:
        """Stop here and keep the bytes for a resumption; see L{IBlobStore.ingest} for who may resume."""


@dataclass(frozen=True)
class Origin:
    """
    Where a blob that is under way comes from.

    @ivar upstream: configured name of the upstream, C{None} for an archive.
    @ivar repository: the repository's name there, empty for an archive.
    @ivar size: bytes of the whole, C{None} while unknown.
    @ivar validator: strong entity tag for If-Range (RFC 9110 section 13.1.5), C{None} when the upstream gave none.
    """

    upstream: str | None
    repository: str
    size: int | None = None
    validator: str | None = None


@dataclass(frozen=True)
class Unfinished:
    """
    What is left of a blob that was being received.

    @ivar size: bytes of it.
    @ivar origin: where they come from, C{None} when that was not noted or cannot be read.
    @ivar written: when the last of them were, seconds since the epoch.
    """

    size: int
    origin: Origin | None
    written: float


class IBlobStore(Interface):
    """Immutable bytes by digest; manifests and blobs alike."""

    def size(digest: Digest) -> int | None:
        """The blob's size, C{None} when it is not held. Immediate."""

    def open(digest: Digest) -> IBlobReader:
        """Open a held blob. Raises L{NotHeld}. Immediate."""

    def read(digest: Digest, limit: int) -> Deferred[bytes]:
        """A small blob's bytes. Fails with L{NotHeld}, or L{BlobDamaged} when it is larger than C{limit} bytes."""

    def read_all(digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        """
        The bytes of several small blobs, for about the price of one.

        What is not held or cannot be read is left out, and what is more than remains of C{limit} bytes for all of them:
        L{read} says which. Never fires before others had their turn, where there is a reactor.
        """

    def put(digest: Digest, data: bytes) -> Deferred[None]:
        """
        Store a small blob that is wholly here; durable when the Deferred fires. Storing what is held is no error.

        Fails with L{BlobDamaged} when C{data} does not have C{digest}.
        """

    def ingest(digest: Digest) -> Deferred[IIngest]:
        """
        Receive a blob: fires with an L{IIngest} that goes on where an earlier one was closed or cut.

        While one is open, another of the same digest begins with nothing, and what it received is gone when it is
        closed. Whichever is committed first becomes the blob; the others' bytes are gone when they are closed.
        Cancelling closes what was being opened.
        """

    def unfinished() -> list[Digest]:
        """The blobs that were being received when they were cut."""

    def inspect(digest: Digest) -> Deferred[Unfinished | None]:
        """What is known of such a blob without reading its bytes, C{None} when there is nothing of it."""

    def forget(digest: Digest) -> Deferred[bool]:
        """Throw away what is left of such a blob; C{False}, and nothing is, when it is being received now."""

    def delete(digest: Digest) -> Deferred[None]:
        """
        Hold a blob no more; durable when the Deferred fires. One that is not held is no error.

        Who has it open goes on reading it, and one that is being received is not touched: it may become the blob again.
        """

    def total() -> int:
        """Bytes of all blobs held."""


# -- index ----------------------------------------------------------------------------------------------------------


class IDocuments(Interface):
    """Small JSON documents by key; a key is a tuple of path components that are safe as file names."""

    damaged = Attribute("set aside since the start (list[tuple[str, str]]): the document's key as a path, where it is")
    unreadable = Attribute("documents whose last read failed (dict[str, str]): by key as a path, the reason in words")

    def read(key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """
        Fires with (bytes, version), or C{None} when there is no such document.

        Fails with L{DocumentDamaged} when it is larger than any document, and with L{OSError} when the disk does not
        give it: then it may be whole all the same, and a later read may succeed.
        """

    def write(key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        """
        Replace the document whose version is C{replaces} (0: there is none yet); durable when the Deferred fires,
        with the new version. Fails with L{VersionConflict} when it has another version by now.
        """

    def set_aside(key: tuple[str, ...]) -> Deferred[str]:
        """
        Move a document that cannot be parsed out of the way, and note it in C{damaged}; fires with where it went, for
        the log. See C{appliance.index.documents.read_document}.
        """

    def list(prefix: tuple[str, ...], name: str) -> Deferred[list[tuple[str, ...]]]:
        """The keys under C{prefix} whose last component is C{name}, sorted."""


# -- upstream -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestHead:
    """What an upstream says of a manifest without sending it; every field may be missing."""

    digest: Digest | None
    size: int | None
    media_type: str | None


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest as received: C{data} bit for bit, C{content_type} as claimed (may be C{None})."""

    data: bytes
    content_type: str | None


@dataclass(frozen=True)
class Referrers:
    """
    What an upstream says refers to a manifest.

    @ivar descriptors: as received, the JSON of each; each digest once.
    @ivar cut: whether there are, or may be, more than these.
    """

    descriptors: tuple[bytes, ...]
    cut: bool = False


class IBlobResponse(Interface):
    """An upstream's answer to a blob request, its body not yet read."""

    start = Attribute("offset of the first byte of the body in the blob (int): 0 when a range was ignored")
    stop = Attribute("offset after the last byte of the body, or None when it is not told (int | None)")
    size = Attribute("bytes of the whole blob as claimed, or None (int | None)")
    validator = Attribute("strong entity tag, or None (str | None)")

    def deliver(consumer: IConsumer) -> Deferred[None]:
        """
        Send the body into C{consumer}, to which a push producer is registered for the time being.

        @return: fires when the body has ended, however it ended without an error of the connection; the caller checks
            length and digest. Fails with L{UpstreamUnavailable} when the line is cut and L{UpstreamTimeout} when
            nothing comes for too long while the producer is not paused.
        """

    def awaited() -> None:
        """Somebody waits for the body from now on, whatever was said when it was asked for."""

    def abandon() -> None:
        """Drop the connection; the body is not wanted."""


@dataclass(frozen=True)
class Availability:
    """
    What a client that has a cached answer may expect of a request to an upstream.

    @ivar ask: whether a request may bring a newer answer now.
    @ivar wait: whether it is worth waiting for it; true only when C{ask} is.
    @ivar fault: why it is not, C{None} when it is.
    @ivar until: seconds of the clock up to which this holds, C{None} when it may change at any moment.
    """

    ask: bool = True
    wait: bool = True
    fault: UpstreamError | None = None
    until: float | None = None


class Health(Enum):
    """
    How one URL of an upstream is; C{appliance.upstream.health} draws how one becomes another.

    The values are the words of the status and of the metrics, which are older than the names.
    """

    UP = "up"
    SUSPECT = "doubtful"
    DOWN = "down"
    RATE_LIMITED = "resting"


@dataclass(frozen=True)
class RateLimit:
    """
    What an upstream says of its limit on pulls.

    @ivar limit: pulls in a window, C{None} when not told; C{remaining}: those left.
    @ivar window: seconds, C{None} when not told.
    """

    limit: int | None
    remaining: int
    window: float | None


@dataclass(frozen=True)
class UrlCondition:
    """
    One URL of an upstream, for operators.

    @ivar url: without userinfo and query.
    @ivar since: seconds of the clock at which it became C{health}.
    @ivar fault: the last failure in words, empty when there was none since it was up.
    @ivar until: seconds of the clock of the next probe or of the end of the rest, C{None} for neither.
    """

    url: str
    health: Health
    since: float
    fault: str = ""
    until: float | None = None


@dataclass(frozen=True)
class Condition:
    """
    How an upstream is.

    @ivar urls: in the order they are tried; none for an upstream that is never contacted.
    @ivar rate_limit: as last heard, C{None} when it was never told or its window is over.
    @ivar resting: repositories that are not asked for now because the upstream wanted fewer requests.
    """

    urls: tuple[UrlCondition, ...] = ()
    rate_limit: RateLimit | None = None
    resting: tuple[str, ...] = ()


class IUpstream(Interface):
    """
    One registry that can be asked.

    Every method that gives a Deferred fails with the subclasses of L{UpstreamError}, or L{Offline} when no packet may
    leave. Cancelling a Deferred drops the request. While the upstream is known to be down or wants fewer requests, it
    fails at once.
    """

    name = Attribute("the configured name (str), as in C{docker.io}")

    def repository(name: str) -> str:
        """The repository's full name there (Docker Hub: C{nginx} is C{library/nginx}). Immediate."""

    def availability(repository: str) -> Availability:
        """Whether a request about C{repository} is worth it where there is a cached answer. Immediate."""

    def overdue(repository: str) -> None:
        """
        Somebody waited for an answer about C{repository} as long as anybody may, and was served what was cached. Until
        an answer comes nobody needs to wait again: L{availability} says so. Immediate.
        """

    def condition() -> Condition:
        """How it is, for operators. Immediate."""

    def head(repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """Ask for a manifest's digest by tag or digest without fetching it."""

    def manifest(repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """Fetch a manifest whole; the caller verifies its digest."""

    def blob(
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """
        Open a blob from offset C{start} to before C{stop} (C{None}: its end); C{validator} becomes If-Range.

        @param background: whether nobody waits for it: then it goes behind whatever somebody waits for.
        """

    def blob_size(repository: str, digest: Digest) -> Deferred[int | None]:
        """A blob's size without fetching it, C{None} when the upstream has it and does not say."""

    def tags(repository: str) -> Deferred[list[str]]:
        """All tags of the repository, its pages followed; unsorted as received, invalid ones left out."""

    def referrers(repository: str, subject: Digest) -> Deferred[Referrers]:
        """
        Everything that refers to C{subject}: what the referrers API lists, all its pages, and what the fallback tag
        does (distribution-spec, "Listing Referrers"). None at all only when the upstream says so, which it does as well
        by knowing neither the API nor the tag, or no such repository: it never fails with L{UpstreamMissing}.
        """

    def stop() -> None:
        """Probe no more: nobody will ask again. Immediate; may be called more than once."""

    def disconnect() -> None:
        """
        Send nothing more: every question fails with L{Offline} from now on, and so does one that is under way; bodies
        on their way are dropped. Immediate; may be called more than once.
        """


@dataclass(frozen=True)
class Secret:
    """
    What shows an upstream who we are; never to be logged.

    @ivar identity: tells this secret from others without holding it; part of every token's cache key. It changes when
        the secret does.
    @ivar username: may be empty when C{use} is not C{PASSWORD}.
    @ivar danger_text: the password or token itself.
    @ivar use: how it is presented.
    """

    class Use(Enum):
        """
        C{PASSWORD}: with Basic, to the registry or its token server. C{IDENTITY}: a refresh token that the token server
        exchanges (distribution's "Oauth2 Token Authentication"). C{BEARER}: a token for the registry itself.
        C{NONE}: not at all, C{danger_text} is empty; there is no secret for this host, which is asked as anybody would.
        """

        PASSWORD = "password"
        IDENTITY = "identity"
        BEARER = "bearer"
        NONE = "none"

    identity: str
    username: str
    danger_text: str = field(repr=False)
    use: Secret.Use = Use.PASSWORD


class ICredentials(Interface):
    """Where the secret comes from that one host of an upstream is shown."""

    def current() -> Deferred[Secret]:
        """
        The secret to present now: read again when its source has changed, renewed before it ends.

        Fails with L{UpstreamDenied} when it cannot be had (the message names the source and the fault, never the
        secret), and with other L{UpstreamError}s when somebody else has to be asked for it and does not answer.
        """

    def refused(secret: Secret) -> Deferred[bool]:
        """
        C{secret} was presented and not accepted: look at the source again, at once and, when that gives the same, a
        little later, since who replaces a secret may have changed the registry first.

        @return: whether L{current} gives another one now.
        """


class IAdapter(IPlugin):
    """
    What tells one kind of registry from a standard one; found with C{twisted.plugin.getPlugins}.

    A site's own is a module in a C{twisted/plugins} folder on Python's path, with an instance of a class that extends
    C{appliance.upstream.kinds.standard.Standard}. It is imported before the reactor is chosen, so it must import
    nothing that installs one.
    """

    kind = Attribute("the word that C{kind:} names it by (str)")
    auth_hosts = Attribute(
        "host, host:port or *.domain that tokens may come from, beside the registry (tuple[str, ...])"
    )
    redirect_hosts = Attribute(
        "host or *.domain that its blobs are known to come from, for who writes a firewall's rules (tuple[str, ...])"
    )
    has_referrers = Attribute("whether it has the referrers API, None where it has to be found out (bool | None)")

    def check(settings: UpstreamSettings) -> None:
        """Raises L{ConfigError} for settings that this kind cannot be used with. Immediate, without a packet."""

    def repository(name: str) -> str:
        """A repository's full name there, from how people write it."""

    def scope(repository: str) -> str:
        """The scope of a token to pull from C{repository} (distribution's "Token Scope Documentation")."""

    def has_expired(status: int, problem: bytes, bearer: bool, challenged: bool) -> bool:
        """
        Whether a refusal other than 401 means that what was presented is too old, so that a new one is worth a try.

        @param problem: the beginning of the answer's body.
        @param bearer: whether a token was presented, not a password.
        @param challenged: whether the answer has a WWW-Authenticate of a known scheme.
        """

    def rate_limit(headers: Headers) -> RateLimit | None:
        """What an answer's header fields say of the limit on pulls."""

    def credentials(settings: UpstreamSettings, given: Any) -> ICredentials | None:
        """
        Where the secret comes from, C{None} when this kind has no way of its own beside the settings' files. Called
        once for each origin (scheme, host and port) among the URLs; what it gives is shown to that one alone.

        @param given: what may be used to get a secret for that origin, a
            C{appliance.upstream.credentials.configured.CredentialArguments}.
        """


# -- seen from outside ------------------------------------------------------------------------------------------------


class IAccounts(Interface):
    """Told once of every request, however it ended."""

    clock = Attribute("L{IReactorTime} that durations are taken from")

    def answered(
        client: str, method: str, path: str, kind: str, code: int, octets: int, seconds: float, cache: str
    ) -> None:
        """
        A response was sent, or its connection was lost.

        @param kind: what was asked for: C{manifest}, C{blob}, C{tags}, C{ping} or C{other}.
        @param octets: bytes of the body that were sent.
        @param cache: L{appliance.cache.status.CacheStatus.label}, or C{-}.
        """
