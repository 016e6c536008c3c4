"""
The seams of upstreams, as zope Interfaces, and the values that pass through them.

A provider has a contract suite in ``tests/contracts/`` that it passes. Sizes and offsets are bytes, durations seconds;
a range is half open, C{start <= x < stop}. The seams of all other rooms are in C{appliance.interfaces}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.plugin import IPlugin
from twisted.web.http_headers import Headers
from zope.interface import Attribute, Interface

from appliance.errors import UpstreamError
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings

# -- what an upstream answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestHead:
    """What an upstream reports of a manifest without sending it; C{None} for what it does not report."""

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
    What refers to a manifest, as an upstream lists it.

    @ivar descriptors: as received, the JSON of each; each digest once.
    @ivar cut: whether there are, or may be, more than these.
    """

    descriptors: tuple[bytes, ...]
    cut: bool = False


class IBlobResponse(Interface):
    """An upstream's answer to a blob request, its body not yet read."""

    start = Attribute("offset of the first byte of the body in the blob (int): 0 when a range was ignored")
    stop = Attribute("offset after the last byte of the body, or None when it is not known (int | None)")
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
        """A client waits for the body from now on, even if it was requested in the background."""

    def abandon() -> None:
        """Drop the connection; the body is not wanted."""


# -- how an upstream is -----------------------------------------------------------------------------------------------


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
    The limit on pulls that an upstream reports.

    @ivar limit: pulls in a window, C{None} when not reported; C{remaining}: those left.
    @ivar window: seconds, C{None} when not reported.
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
    @ivar until: seconds of the clock of the next probe or of the end of a wait, C{None} for neither.
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
    @ivar rate_limit: as last reported, C{None} when it never was or its window is over.
    @ivar resting: repositories that are not requested now because the upstream wanted fewer requests (429).
    """

    urls: tuple[UrlCondition, ...] = ()
    rate_limit: RateLimit | None = None
    resting: tuple[str, ...] = ()


# -- an upstream ------------------------------------------------------------------------------------------------------


class IUpstream(Interface):
    """
    One registry to pull from.

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
        A client waited for an answer about C{repository} as long as it may, and was served what is cached. Until an
        answer comes no other client needs to wait: L{availability} says so from now on. Immediate.
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

        @param background: whether no client waits for it: it then goes behind everything that a client waits for.
        """

    def awaited(repository: str, digest: Digest) -> None:
        """
        A client waits from now on for a blob that is being requested in the background, which goes behind nothing any
        more. No second request is sent. Immediate.
        """

    def blob_size(repository: str, digest: Digest) -> Deferred[int | None]:
        """A blob's size without fetching it, C{None} when the upstream has it and does not report the size."""

    def tags(repository: str) -> Deferred[list[str]]:
        """All tags of the repository, its pages followed; unsorted as received, invalid ones left out."""

    def referrers(repository: str, subject: Digest) -> Deferred[Referrers]:
        """
        Everything that refers to C{subject}: what the referrers API lists, all its pages, and what the fallback tag
        does (distribution-spec, "Listing Referrers"). Empty only when the upstream lists none, or knows neither the API
        nor the tag, or no such repository: it never fails with L{UpstreamMissing}.
        """

    def stop() -> None:
        """Probe no more: no request follows. Immediate; may be called more than once."""

    def disconnect() -> None:
        """
        Send nothing more: every request fails with L{Offline} from now on, also one that is under way; bodies on their
        way are dropped. Immediate; may be called more than once.
        """


class IUpstreamObserver(Interface):
    """Is called for what passes between this process and its upstreams; must be quick and must not raise."""

    def received(upstream: str, octets: int) -> None:
        """C{octets} bytes of blob bodies came from C{upstream} since the last call; at most once a second."""

    def failed(upstream: str, kind: str) -> None:
        """
        A call of an L{IUpstream} failed, also one for which no request was sent; C{kind} is
        L{appliance.errors.UpstreamError.kind}.
        """

    def requested(upstream: str, method: str, status: int) -> None:
        """One HTTP request on behalf of C{upstream} (hops and token requests included) was answered C{status}."""

    def limited(upstream: str, limit: RateLimit) -> None:
        """C{upstream} reported its limit on pulls."""

    def became(upstream: str, url: str, health: Health) -> None:
        """One URL of C{upstream} is C{health} from now on; called first when it is taken into use."""


# -- credentials, and kinds of registries -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Secret:
    """
    What authenticates this appliance to an upstream; never to be logged.

    @ivar identity: differs between secrets and holds none; part of every token's cache key. It changes when
        the secret does.
    @ivar username: may be empty when C{use} is not C{PASSWORD}.
    @ivar danger_text: the password or token itself.
    @ivar use: how it is presented.
    """

    class Use(Enum):
        """
        C{PASSWORD}: with Basic, to the registry or its token server. C{IDENTITY}: a refresh token that the token server
        exchanges (distribution's "Oauth2 Token Authentication"). C{BEARER}: a token for the registry itself.
        C{NONE}: not at all, C{danger_text} is empty; there is no secret for this host, which is asked anonymously.
        """

        PASSWORD = "password"
        IDENTITY = "identity"
        BEARER = "bearer"
        NONE = "none"

    identity: str
    username: str
    danger_text: str = field(repr=False)
    use: Secret.Use = Use.PASSWORD


def is_token(text: str) -> bool:
    """Whether C{text} can stand behind C{Bearer} in an Authorization field: ASCII, and no space in it."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


class ICredentials(Interface):
    """The source of the secret that one host of an upstream is shown."""

    def current() -> Deferred[Secret]:
        """
        The secret to present now: read again when its source has changed, renewed before it ends.

        Fails with L{UpstreamDenied} when it cannot be had (the message names the source and the fault, never the
        secret), and with other L{UpstreamError}s when it comes from another server, which does not answer.
        """

    def refused(secret: Secret) -> Deferred[bool]:
        """
        C{secret} was presented and not accepted: look at the source again, at once and, when that gives the same, a
        little later, since an operator who replaces a secret may have changed the registry first.

        @return: whether L{current} gives another one now.
        """


class IAdapter(IPlugin):
    """
    How one kind of registry differs from a standard one; found with C{twisted.plugin.getPlugins}.

    A site's own is a module in a C{twisted/plugins} folder on Python's path, with an instance of a class that extends
    C{appliance.upstream.kinds.standard.Standard}. It is imported before the reactor is chosen, so it must import
    nothing that installs one.
    """

    kind = Attribute("the word that C{kind:} names it by (str)")
    auth_hosts = Attribute(
        "host, host:port or *.domain that tokens may come from, beside the registry (tuple[str, ...])"
    )
    redirect_hosts = Attribute(
        "host or *.domain that its blobs are known to come from, for the rules of a firewall (tuple[str, ...])"
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
        """The limit on pulls that the header fields of an answer report, C{None} for none."""

    def credentials(settings: UpstreamSettings, given: Any) -> ICredentials | None:
        """
        Where the secret comes from, C{None} when this kind has no way of its own beside the settings' files. Called
        once for each origin (scheme, host and port) among the URLs; what it gives is shown to that one alone.

        @param given: what may be used to get a secret for that origin, a
            C{appliance.upstream.credentials.configured.CredentialArguments}.
        """
