"""
The configuration: one table of sections and keys.

A field is a key of C{etc/pullcache.yaml}. Its type says what may be written there (C{appliance.fields} has the types),
its default holds where nothing is. C{appliance.config} reads a file by this table and keeps the rules between keys. A
new key is a field here and a line, with its comment, there. Durations are in seconds. Passwords stand in files of their
own: nothing in this module holds one.
"""

from __future__ import annotations

import re
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from math import inf
from pathlib import Path
from typing import Annotated

import msgspec

from appliance import fields
from appliance.fields import Written
from appliance.oci.pattern import matches
from appliance.oci.reference import DOCKER_HUB as DOCKER_HUB
from appliance.units import duration

NO_PROXY = "none"
"""What C{proxy} says when an upstream is reached without a proxy, whatever the environment names."""

AWS = "aws"
"""What C{credentials} says when they come from where AWS's own tools take theirs."""

IMAGE_PULLED, IMAGE_INDEX, IMAGE_NONE = "pulled", "index", "none"
"""What C{prefetch: image} says is made whole: the manifests that were pulled, all children of an index too, or none."""

STANDARD_OUTPUT = "-"
NO_LOG = "off"
LOGIN_NONE, LOGIN_OFFERED, LOGIN_REQUIRED = "none", "offered", "required"
"""What C{login} of a listener says."""

PULL, LIST = "pull", "list"
"""What may be done with a repository: LIST is to read the list of its tags, PULL all else."""

ANY_USER = "*"
"""Stands for any user that is logged in, in a rule."""

READ, OPERATE, MANAGE = "read", "operate", "manage"
"""The roles of operators; each may do what those before it may."""

METRICS_OPEN, METRICS_READ = "open", "read"
SUBJECT, SAN = "subject", "san"
DEFAULT_PORT = re.compile(r":(?:443|80)$")
"""The end of a host name with a port that goes without saying."""

DEFAULT_RESERVE = (fields.Share(percent=5), fields.Share(2 * 10**9))
"""The smaller of these is left free of the disk, where nothing is configured."""

_IMPLIED_ALIASES = {DOCKER_HUB: ("index.docker.io", "registry-1.docker.io")}


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One address that clients connect to."""

    name: fields.ListenerName | None = None
    """What rules call it; C{listen-1}, C{listen-2} and so on once the file is read, where it says nothing."""
    endpoint: fields.Endpoint = "tcp:port=5000"
    default_upstream: str | None = None
    """The upstream meant by a request that names none, by its canonical name once the file is read."""
    hosts: tuple[fields.Host, ...] = ()
    """The only names that clients may call it by; none for any."""
    login: Annotated[str, fields.one_of(LOGIN_NONE, LOGIN_OFFERED, LOGIN_REQUIRED)] = LOGIN_NONE
    """Whether clients may, or must, say who they are by a password or a certificate."""
    checkers: Annotated[tuple[fields.Checker, ...], fields.Listed(filled=True, alone=True)] | None = None
    """Instead of L{Settings.checkers}; see L{Settings.checkers_of}."""
    trusted_proxies: tuple[fields.Network, ...] | None = None
    """Instead of L{Settings.trusted_proxies}; see L{Settings.proxies_of}."""
    client_ca_file: fields.ReadableFile | None = None
    """PEM, the authorities of clients' certificates; C{None}: none is asked for."""
    client_crl_file: fields.ReadableFile | None = None
    """PEM, the certificates of theirs that were revoked."""
    client_name: Annotated[str, fields.one_of(SUBJECT, SAN)] = SUBJECT
    """Which name of a certificate is the user's: the subject's common name (else the first SAN), or the first SAN."""

    @property
    def is_tls(self) -> bool:
        """Whether its endpoint is one of those whose certificates are ours to look at."""
        return _speaks_tls(self.endpoint)

    @property
    def port(self) -> int | None:
        """The TCP port, C{None} where the endpoint does not say."""
        kind, *arguments = fields.endpoint_parts(self.endpoint.removeprefix("haproxy:"))
        # A folder stands before the port of tls:.
        unnamed = [each for each in arguments if "=" not in each][1 if kind == "tls" else 0 :]
        port = next((each[5:] for each in arguments if each.startswith("port=")), unnamed[0] if unnamed else "")
        return int(port) if port.isdecimal() else None

    @property
    def interface(self) -> str | None:
        """The address that it is bound to, C{None} where the endpoint does not say."""
        found = (each[10:] for each in fields.endpoint_parts(self.endpoint) if each.startswith("interface="))
        return next((each.replace("\\:", ":") for each in found), None)


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The address that operators connect to."""

    endpoint: fields.Endpoint = "tcp:port=5001:interface=127.0.0.1"
    hosts: tuple[fields.Host, ...] = ()
    """Names that are answered to beside loopback names and the address that was connected to."""
    socket: fields.UnixSocket | None = "unix:/run/pullcache/admin.sock"
    """The UNIX socket beside it, C{None} for none."""
    token_file: fields.ReadableFile | None = None
    """Lines C{ROLE TOKEN}, or one token alone for L{MANAGE}; C{None}: no login on loopback."""
    client_ca_file: fields.ReadableFile | None = None
    """PEM, the authorities of operators' certificates; C{None}: none is asked for."""
    client_crl_file: fields.ReadableFile | None = None
    client_roles: dict[fields.CertificateName, Annotated[str, fields.one_of(READ, OPERATE, MANAGE)]] = {}
    """By the name in an operator's certificate; one that is not here may do nothing."""
    metrics: Annotated[str, fields.one_of(METRICS_OPEN, METRICS_READ)] = METRICS_OPEN
    """Whether C{/metrics} is for all who reach the endpoint, or for the role L{READ}."""

    @property
    def is_tls(self) -> bool:
        """See L{ListenSettings.is_tls}."""
        return _speaks_tls(self.endpoint)

    @property
    def asks(self) -> bool:
        """Whether an operator has to say who it is, but for one at the socket."""
        return self.token_file is not None or self.client_ca_file is not None


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may take of this machine, on all listeners and the admin endpoint together."""

    max: Annotated[int, fields.whole(1, 1_000_000)] = 4096
    """Connections open at once."""
    max_per_address: Annotated[int, fields.whole(1, 1_000_000)] = 1024
    """Those of one IPv4 address, or one /64 of IPv6."""
    head_timeout: fields.Timeout = 30.0
    """For the head of a request to arrive whole."""
    stall_timeout: fields.Timeout = 900.0
    """
    For which a client may take nothing of what there is for it. Longer than a runtime needs to unpack a large layer
    while its download waits.
    """


class ClientRateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What each user, or each address without one, may take in a second; C{None} for any number."""

    requests: Annotated[int, fields.whole(1, 1_000_000)] | None = None
    bytes: fields.Rate | None = None


Action = Annotated[str, fields.one_of(PULL, LIST)]


class MatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which requests a rule is about. All that is given has to match, any member of a list; C{users} and C{groups} are one
    list of who. Without either, anonymous clients are meant, too.
    """

    users: Annotated[tuple[fields.ClientName, ...], fields.Listed(filled=True, alone=True)] = ()
    """C{ANY_USER} among them for any user that is logged in."""
    groups: Annotated[tuple[fields.GroupName, ...], fields.Listed(filled=True, alone=True)] = ()
    networks: Annotated[tuple[fields.Network, ...], fields.Listed(filled=True, alone=True)] = ()
    listeners: Annotated[tuple[fields.ListenerName, ...], fields.Listed(filled=True, alone=True)] = ()
    repositories: Annotated[tuple[fields.Readable, ...], fields.Listed(filled=True, alone=True)] = ()
    """With the upstream, by its canonical name once the file is read."""
    actions: Annotated[tuple[Action, ...], fields.Listed(filled=True, alone=True)] = ()


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of C{access}: exactly one of the two is given once the file is read."""

    allow: MatchSettings | None = None
    deny: MatchSettings | None = None

    @property
    def match(self) -> MatchSettings:
        """What it is about, whichever it is."""
        return self.allow or self.deny or MatchSettings()

    def __str__(self) -> str:
        """As people read it: C{allow users ann, repositories ghcr.io/team/**}."""
        given = [(key, getattr(self.match, key)) for key in MatchSettings.__struct_fields__]
        said = ", ".join(f"{key} {' '.join(map(_in_short, values))}" for key, values in given if values)
        return f"{'deny' if self.allow is None else 'allow'} {said or 'everything'}"


class StaleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """For which classes of L{UpstreamError} what is cached is served; the fields are its C{kind}s."""

    missing: bool = True
    denied: bool = True
    rate_limited: bool = True
    unavailable: bool = True


class PrefetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is fetched along with an image that is pulled, in the background."""

    image: Annotated[str, fields.one_of(IMAGE_PULLED, IMAGE_INDEX, IMAGE_NONE)] = IMAGE_PULLED
    """What of the image itself."""
    referrers: bool = False
    """Whether what refers to it is fetched, too."""


class RetentionRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    What stays of what was pulled; C{None} where nothing is said, C{inf} for C{unlimited}.

    With C{keep_for} or C{keep_last} an image goes when neither keeps it. What an import brought, what is pinned and
    what C{keep} names stays in any case.
    """

    keep_for: fields.KeepFor | None = None
    """Since the last pull."""
    max_size: fields.Budget | None = None
    """Of blobs: all of them, or what the repositories of one upstream need. The least recently pulled goes first."""
    keep_last: fields.KeepLast | None = None
    """So many tags of each repository, those pulled last."""
    keep: tuple[fields.Kept, ...] = ()
    """Patterns of references that never go by a rule; under an upstream without its name."""


class RetentionSettings(RetentionRules, frozen=True, kw_only=True):
    """What stays, of all upstreams."""

    reserve: fields.Reserve | None = None
    """What of the disk is left free; C{None} for L{DEFAULT_RESERVE}."""
    grace: fields.Duration = 3600.0
    """A blob that came this recently is not removed."""

    def reserved(self, disk: int) -> int:
        """
        Bytes of a disk of C{disk} bytes that are left free. Where the disk has not so many, the default: a mistake in
        the unit shall not empty the store.
        """
        wanted = None if self.reserve is None else self.reserve.of(disk)
        if wanted is None or wanted >= disk:
            return min(share.of(disk) for share in DEFAULT_RESERVE)
        return wanted


class ScrubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How what is held is hashed again, in the background."""

    every: fields.Interval = 30 * 86400.0
    """From the end of one run to the beginning of the next; C{None}: no run begins by itself."""
    rate: fields.RateOf = 50_000_000
    """Bytes per second."""


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One registry to pull from."""

    name: str
    """The key that the section stands under."""
    urls: Annotated[tuple[fields.BaseUrl, ...], fields.Listed(filled=True, alone=True)] = msgspec.field(name="url")
    """Tried in order; C{/v2/} follows each."""
    aliases: tuple[fields.UpstreamName, ...] = ()
    kind: fields.Kind = "distribution"
    """The adapter, one of C{IAdapter.kind}."""
    offline: bool = False
    """Whether this upstream is never contacted."""

    fresh_for: Annotated[float | None, Written(duration)] = 60.0
    """A tag checked this recently is served without asking; C{None}: a tag that is held is not checked again."""
    revalidate: Annotated[float, Written(duration, words={"never": inf, "always": 0.0})] | None = None
    """The same in words; C{None} as soon as the file is read, C{fresh_for} then says it."""
    revalidate_within: fields.Duration = 2.0
    """The longest wait for the upstream when there is a cached answer."""
    serve_stale: StaleSettings = StaleSettings()
    max_stale: Annotated[float | None, Written(duration, words={"unlimited": None})] = None
    """How long past freshness a cached tag may be served, C{None} for ever."""
    missing_for: fields.Duration = 30.0
    """How long a genuine 404 is believed."""
    delete_missing: Annotated[bool, Written(words={"keep": False, "delete": True})] = msgspec.field(
        name="missing", default=False
    )
    """Whether a tag that the upstream has no more is deleted here, too."""

    username: fields.Username | None = None
    password_file: fields.ReadableFile | None = None
    """Holds the password of C{username}; both are given or neither is."""
    token_file: fields.ReadableFile | None = None
    """Holds a token instead of them; the adapter knows how it is presented."""
    auth_file: fields.ReadableFile | None = None
    """Credentials in the form of docker's C{config.json}."""
    credentials: Annotated[str, fields.one_of(AWS)] | None = None
    """C{AWS}, or C{None} for the adapter's own way."""

    ca_file: fields.ReadableFile | None = None
    """PEM certificates that are trusted for this upstream."""
    client_cert: fields.ReadableFile | None = None
    """PEM, this appliance's certificate and its chain."""
    client_key: fields.ReadableFile | None = None
    """Its key, C{None} when it stands in the same file."""
    insecure: bool = False
    """Whether any certificate will do."""
    proxy: Annotated[str, Written(fields.proxy_url, words={NO_PROXY: NO_PROXY})] | None = None
    """A URL without userinfo, C{NO_PROXY}, or C{None} for what the environment says."""
    proxy_username: fields.Username | None = None
    proxy_password_file: fields.ReadableFile | None = None
    auth_hosts: tuple[fields.Host, ...] = ()
    """
    What a token realm may name, beside the upstream itself; private addresses too, and a link-local address when it is
    named itself.
    """
    redirect_hosts: tuple[fields.Host, ...] = ()
    """The same for redirects to private addresses."""

    keep_pulls: Annotated[int, fields.whole(0, 1_000_000)] = 0
    """Pulls of the upstream's rate limit that are left to others."""
    max_connections: Annotated[int, fields.whole(1, 1000)] | None = None
    """Requests under way at once, C{None} for any number."""
    max_rate: fields.Rate | None = None
    """Bytes of blobs per second, C{None} for any number."""
    segments: Annotated[int, fields.whole(1, 16)] = 1
    """Ranges of one large blob that are fetched at once."""
    referrers_fresh_for: fields.Duration = 600.0
    """A list of referrers that was received this recently is served without asking."""
    prefetch: PrefetchSettings = PrefetchSettings()
    retention: RetentionRules = RetentionRules()
    """Each key that is given here holds instead of the one for all upstreams; patterns add to those."""

    allow: tuple[fields.Pattern, ...] = ("**",)
    """Repositories that may be pulled through, without the upstream's name."""
    deny: tuple[fields.Pattern, ...] = ()
    """Those of them that may not."""
    private: bool | None = None
    """Whether it is served to clients that a rule names, and to no others; see L{is_private}."""

    @property
    def has_credentials(self) -> bool:
        """Whether this appliance may pull from it what others may not."""
        given = self.username or self.token_file or self.auth_file or self.credentials or self.client_cert
        # A private registry of AWS is not pulled from anonymously: what is not given is taken from AWS's own sources.
        return bool(given) or self.kind == "ecr"

    @property
    def is_private(self) -> bool:
        """C{private}, and where that says nothing, whether it has credentials."""
        return self.has_credentials if self.private is None else self.private

    def permits(self, repository: str) -> bool:
        """Whether the repository (its full name there, as in C{library/nginx}) may be pulled through."""
        return _any_matches(self.allow, repository) and not _any_matches(self.deny, repository)

    def names(self) -> tuple[str, ...]:
        """Every name this upstream answers to, the canonical one first."""
        return (self.name, *self.aliases, *_IMPLIED_ALIASES.get(self.name, ()))


class BundleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What crosses the gap."""

    trust: tuple[fields.PublicKey, ...] = ()
    """Whose bundles are taken. With one key or more, a bundle that none of them signed is refused."""
    require_signature: bool = False
    """Whether an unsigned bundle is refused even while no key is trusted."""
    accept_callers_keys: bool = False
    """Whether the caller of an import may name a key that is not in C{trust}."""
    inbox: fields.Folder | None = None
    """Watched for bundles to import, C{None} when none is."""
    site: fields.SiteName | None = None
    """What this appliance is called in what it exports; C{None} for the name of the machine."""
    aliases: tuple[fields.Address, ...] = ()
    """Addresses under which clients know this appliance, beside those of its own."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A whole configuration."""

    store: Path = Path("/var/lib/pullcache")
    listen: Annotated[tuple[ListenSettings, ...], fields.Listed(filled=True)] = (ListenSettings(name="listen-1"),)
    admin: AdminSettings | None = AdminSettings()
    """C{None} when there is no admin endpoint."""
    offline: bool = False
    """Whether no upstream is ever contacted."""
    access_log: Annotated[
        str | Path,
        # YAML makes a truth value of off.
        Written(Path, words={"-": STANDARD_OUTPUT, "off": NO_LOG, False: NO_LOG}, file=fields.check_log_file),
    ] = STANDARD_OUTPUT
    """A file that lines are appended to, or C{STANDARD_OUTPUT}, or C{NO_LOG}."""
    audit_log: Annotated[str | Path, Written(Path, words={"off": NO_LOG, False: NO_LOG})] | None = None
    """A file, or C{NO_LOG}, or C{None} for the one in the store; see L{audit_path}."""
    audit_size: fields.Size = 100_000_000
    """Bytes after which it is rotated."""
    access: tuple[RuleSettings, ...] = ()
    """The first that matches decides; without any, all may be read that is not private."""
    groups: dict[fields.GroupName, tuple[fields.ClientName, ...]] = {}
    checkers: tuple[fields.Checker, ...] = ()
    """Who knows users' passwords, tried in order; of listeners that name none of their own."""
    trusted_proxies: tuple[fields.Network, ...] = ()
    """Who may say for whom a request is: by C{X-Forwarded-For}, and by the PROXY protocol where a listener has it."""
    client_rate: ClientRateSettings = ClientRateSettings()
    shutdown_grace: fields.Duration = 10.0
    """What transfers under way get to end at a stop."""
    connections: ConnectionSettings = ConnectionSettings()
    send_threads: Annotated[int, fields.whole(0, 64)] | None = None
    """What sends large blobs, beside the reactor; C{None}: one for each core, none where there is only one."""
    bundles: BundleSettings = BundleSettings()
    retention: RetentionSettings = RetentionSettings()
    scrub: ScrubSettings = ScrubSettings()
    upstreams: dict[fields.UpstreamName, UpstreamSettings] = {}
    """By canonical name, in the order of the file."""

    def upstream_for(self, name: str) -> str | None:
        """The canonical name of the upstream that C{name} means, in any case and with or without a default port."""
        return self._canonical.get(DEFAULT_PORT.sub("", name.lower()))

    def checkers_of(self, listener: ListenSettings) -> tuple[str, ...]:
        """Who knows the passwords of a listener's users."""
        return self.checkers if listener.checkers is None else listener.checkers

    def proxies_of(self, listener: ListenSettings) -> tuple[IPv4Network | IPv6Network, ...]:
        """Who may say to a listener for whom a request is."""
        return self.trusted_proxies if listener.trusted_proxies is None else listener.trusted_proxies

    @property
    def audit_path(self) -> Path | None:
        """The file of the audit log, C{None} for none."""
        if self.audit_log == NO_LOG:
            return None
        return self.store / "audit" / "audit.jsonl" if self.audit_log is None else Path(self.audit_log)

    def rules_for(self, upstream: str) -> RetentionRules:
        """
        What holds for one upstream, configured or not any more. Its C{max_size} is its own, C{inf} where it has none;
        patterns are whole, with the upstream.
        """
        common = self.retention
        own = self.upstreams[upstream].retention if upstream in self.upstreams else RetentionRules()
        return RetentionRules(
            keep_for=_first(own.keep_for, common.keep_for),
            max_size=_first(own.max_size),
            keep_last=_first(own.keep_last, common.keep_last),
            keep=(*common.keep, *(f"{upstream}/{pattern}" for pattern in own.keep)),
        )

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return {name: upstream.name for upstream in self.upstreams.values() for name in upstream.names()}


def _in_short(value: object) -> str:
    """A member of a list; a network of one address is that address."""
    is_address = isinstance(value, IPv4Network | IPv6Network) and value.prefixlen == value.max_prefixlen
    return str(value.network_address) if is_address else str(value)  # type: ignore[attr-defined]


def _any_matches(patterns: tuple[str, ...], repository: str) -> bool:
    return "**" in patterns or any(matches(pattern, repository) for pattern in patterns)


def _speaks_tls(endpoint: str) -> bool:
    return next((each for each in fields.endpoint_parts(endpoint) if each != "haproxy"), "") in ("ssl", "tls")


def _first(*said: float | None) -> float:
    return next((each for each in said if each is not None), inf)
