"""
One exception per situation.

This module knows no HTTP: ``appliance.registry.failures`` holds the only table from these classes to OCI error codes
and status codes. A message carries the value at fault, why it is wrong and, where there is one, the next step; it never
carries a secret or the query of a signed URL.
"""

from __future__ import annotations


class PullcacheError(Exception):
    """What every error that this program raises on purpose is; its text is one line that a person can act on."""


# -- what was written or requested ----------------------------------------------------------------------------------


class ConfigError(PullcacheError):
    """The configuration cannot be used; the message names file, line, key path and what would be right."""


class DigestInvalid(PullcacheError):
    """The text is no digest this program can verify (sha256 and sha512 are known)."""


class NameInvalid(PullcacheError):
    """The text is no repository name of the OCI distribution grammar."""


class TagInvalid(PullcacheError):
    """The text is no tag of the OCI distribution grammar."""


class QueryInvalid(PullcacheError):
    """A query parameter is outside its grammar."""


class PathInvalid(PullcacheError):
    """The request's path has a character, or a part, that no path of a registry may have."""


class RequestInvalid(PullcacheError):
    """The request has a method, a path or a Host that no request may have."""


class HostUnknown(PullcacheError):
    """The request is addressed to a host that this port does not answer for."""


class ForeignPage(PullcacheError):
    """A browser sent the request for a web page of another origin."""


class RangeInvalid(PullcacheError):
    """A Range header asks for more than this program is willing to send in one answer."""


class RangeUnsatisfiable(PullcacheError):
    """
    No part of the requested range lies inside the representation (RFC 9110 section 15.5.17).

    @ivar size: the representation's size in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"no requested range lies within the {size} bytes")
        self.size = size


class ManifestInvalid(PullcacheError):
    """The document is no manifest or index that may be stored and served."""


# -- what is not there ----------------------------------------------------------------------------------------------


class UpstreamUnknown(PullcacheError):
    """The request means no upstream that is configured; no connection is made for it."""


class NotPermitted(PullcacheError):
    """The repository may not be pulled through: C{allow} and C{deny} of its upstream say so."""


class AccessDenied(PullcacheError):
    """
    The rules of C{access} do not let this client read the repository; it may exist or not.

    @ivar rule: the rule that decided, in words, for the operator: clients are not told.
    """

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.rule = rule


class LoginRequired(PullcacheError):
    """
    An anonymous client may not have what it asked for, and could log in.

    @ivar rule: as with L{AccessDenied}; empty where none was asked.
    """

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.rule = rule


class LoginWrong(LoginRequired):
    """The name and the password that came do not fit, or are not written as they should be."""


class LoginExposed(PullcacheError):
    """
    A password came, or would have to come, over a connection that others can read.

    @ivar was_sent: whether it came.
    """

    def __init__(self, was_sent: bool = False) -> None:
        super().__init__(
            "no user name and password is taken over a connection that others can read: use https (a balancer in front"
            " says so by X-Forwarded-Proto, where it is one of trusted_proxies)"
        )
        self.was_sent = was_sent


class ClientLimited(PullcacheError):
    """
    A client sends more requests than it may.

    @ivar retry_after: seconds after which it may send one.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoginsBusy(PullcacheError):
    """
    Too many passwords wait to be checked, of that client or in all.

    @ivar retry_after: seconds after which there may be room.
    """

    retry_after = 2

    def __init__(self) -> None:
        super().__init__("too many passwords wait to be checked; come again in a few seconds")


class LoginUnavailable(PullcacheError):
    """Whoever knows the users gives no answer: nothing is known of the password."""


class NamespaceConflict(PullcacheError):
    """Path and ``ns`` name two different upstreams, or ``ns`` was given more than once."""


class NotHeld(PullcacheError):
    """What was asked for is not in this appliance's store."""


class RemovalRefused(PullcacheError):
    """It is held and cannot be removed by that name: another image needs it, or an operator has pinned it."""


class Unsupported(PullcacheError):
    """The operation exists in the specification and is not offered here."""


class Offline(PullcacheError):
    """What was asked for is not held, and this appliance contacts no upstream."""


class ReferrersUnknown(PullcacheError):
    """It cannot be found out what refers to a manifest, for whatever reason. An empty list says that nothing does."""


# -- what an upstream did -------------------------------------------------------------------------------------------


class UpstreamError(PullcacheError):
    """
    An upstream could not or would not give what was asked.

    @ivar upstream: the configured name of the upstream.
    @cvar kind: which of the classes of ``serve_stale`` this is: C{"missing"}, C{"denied"}, C{"rate_limited"} or
        C{"unavailable"}.
    """

    kind = "unavailable"

    def __init__(self, upstream: str, detail: str) -> None:
        super().__init__(f"{upstream}: {detail}")
        self.upstream = upstream
        self.detail = detail


class UpstreamMissing(UpstreamError):
    """
    The upstream accepted the request and answered that it has no such manifest, blob or repository (404).

    @ivar repository_unknown: whether the answer was about the whole repository (C{NAME_UNKNOWN}).
    @ivar remembered: whether the answer was received a short time ago, and the upstream was not asked again.
    """

    kind = "missing"

    def __init__(self, upstream: str, detail: str, repository_unknown: bool = False, remembered: bool = False) -> None:
        super().__init__(upstream, detail)
        self.repository_unknown = repository_unknown
        self.remembered = remembered


class UpstreamDenied(UpstreamError):
    """The upstream refused our credentials, or refused us for having none."""

    kind = "denied"


class UpstreamRateLimited(UpstreamError):
    """
    The upstream asked for fewer requests.

    @ivar retry_after: seconds the upstream asked us to wait, or C{None}.
    """

    kind = "rate_limited"

    def __init__(self, upstream: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(upstream, detail)
        self.retry_after = retry_after


class UpstreamUnavailable(UpstreamError):
    """The upstream could not be reached, or answered with a failure of its own."""


class UpstreamTimeout(UpstreamUnavailable):
    """The upstream did not accept a connection, answer, or go on sending within the time limit."""


class UpstreamInvalid(UpstreamError):
    """The upstream sent what must not be stored: wrong digest, encoded, too large, not what it claims to be."""


class UpstreamRefused(UpstreamError):
    """The upstream named a place that no request of ours may go to: a realm, redirect or address outside the rules."""


class RangeIgnored(UpstreamError):
    """The upstream answered a range request with something other than that range."""


# -- what our own disk did ------------------------------------------------------------------------------------------


class StoreError(PullcacheError):
    """The store cannot be used; the message names the folder and the next step."""


class StoreLocked(StoreError):
    """Another process owns the store."""


class StoreTooNew(StoreError):
    """The store was written by a newer version."""


class NotSaved(StoreError):
    """A change is in force, and the disk has not taken it yet."""


class NoSpace(StoreError):
    """A blob is not stored since the disk takes no more; it can be passed on to who reads it, and to no other use."""


class DocumentDamaged(StoreError):
    """A JSON document could not be read; it was set aside."""


class VersionConflict(StoreError):
    """Another writer replaced the document since it was read."""


class ScrubUnderWay(StoreError):
    """Another scrub was ordered, and has not ended."""


class BlobDamaged(StoreError):
    """Bytes that were to become a blob do not have its digest or its size."""


# -- bundles --------------------------------------------------------------------------------------------------------


class BundleError(PullcacheError):
    """
    An archive cannot be used, or cannot be made as asked.

    The message names the file, the entry and the next step.

    @ivar unopened: whether the message says only that nothing could be opened at a path, and why: there is nothing, it
        is forbidden, or it is no file.
    """

    unopened = False


class NotOneBundle(PullcacheError):
    """Files of several bundles were named as if they were one."""


class BundleUnreadable(BundleError):
    """The file is none of the archive formats known here, or cannot be read at all."""


class BundleNotRead(BundleUnreadable):
    """The system did not let the file be read: a failing medium, a permission, no descriptor left. It may be right."""


class BundleDamaged(BundleError):
    """
    The archive is not what it was when it was made: truncated, changed, or made to deceive.

    @ivar truncated: whether its end is missing: it was cut off, or is still being copied.
    """

    def __init__(self, message: str, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


class BundleNotStored(BundleError):
    """The store cannot take what the archive brings: its disk is full, or failing. The archive may be right."""


class BundleUntrusted(BundleError):
    """The signature is missing, wrong, or by a key that is not trusted here."""


class BundleUpstreamUnknown(BundleError):
    """What the archive brings belongs to an upstream that is not configured, so that no client could pull it."""


class BundleTooNew(BundleError):
    """The archive's format has a major version that is not known here."""


class BundleIncomplete(BundleError):
    """
    Something the archive builds on is neither in it nor held: a volume, or a blob of an earlier bundle.

    @ivar missing: digests that are lacking, as text; may be empty when whole volumes are.
    """

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class BundleConflict(BundleError):
    """A tag means something else here already, and the import was ordered to refuse that."""
