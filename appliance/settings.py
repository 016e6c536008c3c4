"""
The configuration as values: typed, frozen, and checked by whoever made them.

Every room may know these; how they are written in a file is C{appliance.config}'s business. Passwords stand in files of
their own: nothing in this module holds one.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import msgspec

from appliance.oci.reference import DOCKER_HUB as DOCKER_HUB

NO_PROXY = "none"
"""What C{proxy} says when an upstream is reached without a proxy, whatever the environment names."""

AWS = "aws"
"""What C{credentials} says when they come from where AWS's own tools take theirs."""

IMAGE_PULLED, IMAGE_INDEX, IMAGE_NONE = "pulled", "index", "none"
"""What C{prefetch: image} says is made whole: the manifests that were pulled, all children of an index too, or none."""

STANDARD_OUTPUT = "-"
NO_LOG = "off"
DEFAULT_PORT = re.compile(r":(?:443|80)$")
"""The end of a host name with a port that goes without saying."""

_IMPLIED_ALIASES = {DOCKER_HUB: ("index.docker.io", "registry-1.docker.io")}


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    One address that clients connect to.

    @ivar endpoint: a Twisted server endpoint string.
    @ivar default_upstream: canonical name of the upstream meant by a request that names none, or C{None}.
    @ivar hosts: C{host}, C{host:port} or C{*.domain}: the only names that clients may call it by; none for any.
    """

    endpoint: str = "tcp:port=5000"
    default_upstream: str | None = None
    hosts: tuple[str, ...] = ()

    @property
    def port(self) -> int | None:
        """The TCP port, C{None} where the endpoint does not say."""
        _, *arguments = _arguments(self.endpoint)
        said = next((each[5:] for each in arguments if each.startswith("port=")), arguments[0] if arguments else "")
        return int(said) if said.isdecimal() else None

    @property
    def interface(self) -> str | None:
        """The address that it is bound to, C{None} where the endpoint does not say."""
        said = (each[10:] for each in _arguments(self.endpoint) if each.startswith("interface="))
        return next((each.replace("\\:", ":") for each in said), None)


def _arguments(endpoint: str) -> list[str]:
    """The parts of a Twisted endpoint string, its type first."""
    return re.split(r"(?<!\\):", endpoint)


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The address operators connect to, as a Twisted server endpoint string.

    @ivar hosts: names that are answered to beside loopback names and the address that was connected to.
    """

    endpoint: str = "tcp:port=5001:interface=127.0.0.1"
    hosts: tuple[str, ...] = ()


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What those who connect may take of this machine, on all listeners and the admin endpoint together.

    @ivar max: connections open at once; C{max_per_address}: those of one IPv4 address, or one /64 of IPv6.
    @ivar head_timeout: seconds for the head of a request to arrive whole.
    @ivar stall_timeout: seconds for which a client may take nothing of what there is for it. Longer than a runtime
        needs to unpack a large layer while its download waits.
    """

    max: int = 4096
    max_per_address: int = 1024
    head_timeout: float = 30.0
    stall_timeout: float = 900.0


class StaleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """For which classes of L{UpstreamError} what is cached is served; the fields are its C{kind}s."""

    missing: bool = True
    denied: bool = True
    rate_limited: bool = True
    unavailable: bool = True


class PrefetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is fetched along with an image that is pulled, in the background.

    @ivar image: what is made whole of it: C{IMAGE_PULLED}, C{IMAGE_INDEX} or C{IMAGE_NONE}.
    @ivar referrers: whether what refers to it is fetched, too.
    """

    image: str = IMAGE_PULLED
    referrers: bool = False


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    One registry to pull from; durations in seconds.

    @ivar urls: without a trailing slash, tried in order; C{/v2/} follows each.
    @ivar kind: the adapter, one of C{IAdapter.kind}.
    @ivar offline: whether this upstream is never contacted.
    @ivar fresh_for: a tag checked this recently is served without asking; C{None}: one that is held is never asked for.
    @ivar max_stale: how long past freshness a cached tag may be served, C{None} for ever.
    @ivar missing_for: how long a genuine 404 is believed.
    @ivar delete_missing: whether a tag that the upstream has no more is forgotten here, too.
    @ivar password_file: holds the password of C{username}; both are given or neither is.
    @ivar token_file: holds a token instead of them; what it is presented as is the adapter's to say.
    @ivar auth_file: credentials in the form of docker's C{config.json}.
    @ivar credentials: C{AWS}, or C{None} for the adapter's own way.
    @ivar ca_file: PEM certificates that are trusted for this upstream.
    @ivar client_cert: PEM, this appliance's certificate and its chain; C{client_key}: its key, C{None} when it stands
        in the same file.
    @ivar insecure: whether any certificate will do.
    @ivar proxy: URL of a proxy without userinfo, C{NO_PROXY}, or C{None} for what the environment says.
    @ivar auth_hosts: host, host:port or C{*.domain} that a token realm may name, beside the upstream itself; private
        ones too, and a link-local address when it is named itself.
    @ivar redirect_hosts: the same for what may be led to although its address is private.
    @ivar keep_pulls: pulls of the upstream's rate limit that are left to others.
    @ivar max_connections: requests under way at once, C{None} for any number.
    @ivar max_rate: bytes of blobs per second, C{None} for any number.
    @ivar segments: ranges of one large blob that are fetched at once.
    @ivar referrers_fresh_for: a list of referrers that was heard this recently is served without asking.
    @ivar allow: patterns of repositories that may be pulled through, without the upstream's name.
    """

    name: str
    urls: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    kind: str = "distribution"
    offline: bool = False
    fresh_for: float | None = 60.0
    revalidate_within: float = 2.0
    serve_stale: StaleSettings = StaleSettings()
    max_stale: float | None = None
    missing_for: float = 30.0
    delete_missing: bool = False
    username: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    auth_file: Path | None = None
    credentials: str | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    insecure: bool = False
    proxy: str | None = None
    proxy_username: str | None = None
    proxy_password_file: Path | None = None
    auth_hosts: tuple[str, ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    keep_pulls: int = 0
    max_connections: int | None = None
    max_rate: int | None = None
    segments: int = 1
    referrers_fresh_for: float = 600.0
    prefetch: PrefetchSettings = PrefetchSettings()
    allow: tuple[str, ...] = ("**",)
    deny: tuple[str, ...] = ()

    def permits(self, repository: str) -> bool:
        """Whether the repository (its full name there, as in C{library/nginx}) may be pulled through."""
        return _any_matches(self.allow, repository) and not _any_matches(self.deny, repository)

    def names(self) -> tuple[str, ...]:
        """Every name this upstream answers to, the canonical one first."""
        return (self.name, *self.aliases, *_IMPLIED_ALIASES.get(self.name, ()))


class BundleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What crosses the gap.

    @ivar trust: public keys in minisign's form, one line of base64 each: whose bundles are taken. One is enough to have
        every bundle that none of them signed refused.
    @ivar require_signature: whether an unsigned bundle is refused even while no key is trusted.
    @ivar accept_callers_keys: whether who orders an import may name a key that is not in C{trust}.
    @ivar inbox: a folder that is watched for bundles to import, C{None} when none is.
    @ivar site: what this appliance is called in what it exports; C{None} for the name of the machine.
    @ivar aliases: addresses under which clients know this appliance, C{host} or C{host:port}, beside those of its own.
    """

    trust: tuple[str, ...] = ()
    require_signature: bool = False
    accept_callers_keys: bool = False
    inbox: Path | None = None
    site: str | None = None
    aliases: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    A whole configuration.

    @ivar admin: C{None} when there is no admin endpoint.
    @ivar offline: whether no upstream is ever contacted.
    @ivar access_log: a file that lines are appended to, or C{STANDARD_OUTPUT}, or C{NO_LOG}.
    @ivar shutdown_grace: seconds that transfers under way get to end at a stop.
    @ivar upstreams: by canonical name, in the order of the file.
    """

    store: Path = Path("/var/lib/pullcache")
    listen: tuple[ListenSettings, ...] = (ListenSettings(),)
    admin: AdminSettings | None = AdminSettings()
    offline: bool = False
    access_log: str | Path = STANDARD_OUTPUT
    shutdown_grace: float = 10.0
    connections: ConnectionSettings = ConnectionSettings()
    bundles: BundleSettings = BundleSettings()
    upstreams: dict[str, UpstreamSettings] = {}

    def upstream_for(self, name: str) -> str | None:
        """The canonical name of the upstream that C{name} means, in any case and with or without a default port."""
        return self._canonical.get(DEFAULT_PORT.sub("", name.lower()))

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return {name: upstream.name for upstream in self.upstreams.values() for name in upstream.names()}


def matches(pattern: str, repository: str) -> bool:
    """
    Whether the pattern covers the whole repository name.

    C{*} and C{?} stand for any characters and for one character within a path component, C{**} for any number of whole
    components, none included. Takes time proportional to the lengths of both, whatever the pattern.
    """
    parts = repository.split("/")
    reached = {0}
    for piece in pattern.split("/"):
        if piece == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)}
    return len(parts) in reached


def _any_matches(patterns: tuple[str, ...], repository: str) -> bool:
    return any(matches(pattern, repository) for pattern in patterns)
