"""
The door of the cache: which repository a request is about, and whether it may be read.

L{Access.open} answers both once for each request, and what it gives is passed down to all that serves it.
L{Access.check} is the one decision that comes before every answer: those of the routes, the prepared ones of the hot
lane, and what the appliance fetches by itself or for an export. What it asks are the rules of C{access}
(L{appliance.cache.rules}), and C{allow} and C{deny} of the upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from appliance.cache.rules import AccessRules, Decision, Reading
from appliance.errors import (
    AccessDenied,
    LoginExposed,
    LoginRequired,
    NotPermitted,
    PullcacheError,
    UpstreamUnknown,
)
from appliance.flow.lru import LeastRecentlyUsed
from appliance.oci.digest import Digest
from appliance.oci.reference import ReferenceKey
from appliance.settings import LOGIN_REQUIRED, PULL, ListenSettings, UpstreamSettings
from appliance.upstream.interfaces import IUpstream

KNOWN = 1000
"""The most repositories of an upstream that stay resolved in memory, by their names as clients write them."""

DECIDED = 10_000
"""The most decisions that are remembered."""


@dataclass(frozen=True)
class Remote:
    """
    A configured upstream; another one is made when the configuration is read again.

    @ivar settings: its part of the configuration.
    @ivar registry: asks it.
    @ivar offline: whether it is never contacted.
    @ivar guarded: whether there are rules that say who may read what.
    """

    settings: UpstreamSettings
    registry: IUpstream
    offline: bool
    guarded: bool = False
    _known: LeastRecentlyUsed[str, RemoteRepository] = field(
        default_factory=lambda: LeastRecentlyUsed(KNOWN), init=False, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """The configured name."""
        return self.settings.name

    def repository(self, name: str) -> RemoteRepository:
        """
        @param name: as people write it (Docker Hub: C{nginx} is C{library/nginx}); a full name means itself.
        """
        known = self._known.get(name)
        if known is None:
            full = self.registry.repository(name)
            known = RemoteRepository(self.name, full, self.settings, self.registry, self.offline, self.guarded)
            self._known.put(name, known, 1)
        return known


@dataclass(frozen=True, eq=False)
class RemoteRepository:
    """
    One repository of a configured upstream: what a request is about, resolved once.

    @ivar upstream: the upstream's configured name.
    @ivar name: the repository's full name there.
    @ivar settings: what is configured for it.
    @ivar registry: asks the upstream.
    @ivar offline: whether the upstream is never contacted.
    @ivar guarded: whether there are rules that say who may read what.
    """

    upstream: str
    name: str
    settings: UpstreamSettings
    registry: IUpstream
    offline: bool
    guarded: bool = False

    @cached_property
    def is_permitted(self) -> bool:
        """Whether C{allow} and C{deny} let it be pulled through."""
        return self.settings.permits(self.name)

    @cached_property
    def is_private(self) -> bool:
        """See L{UpstreamSettings.is_private}."""
        return self.settings.is_private

    @property
    def borrows(self) -> bool:
        """
        Whether what came through another repository is served here where a manifest held here names it, and nothing
        else says that it is here, too: only where there is no upstream to ask, and all may read everything. Any user
        can write a manifest that names a digest.
        """
        return self.offline and not self.guarded

    def key(self, identifier: str | Digest) -> ReferenceKey:
        """
        What a tag or digest of it is called in tables; of the list of its tags with C{""}.
        """
        return self.upstream, self.name, str(identifier)

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}"


@dataclass(frozen=True)
class Client:
    """
    Who asks.

    @ivar address: the IP address it connects from, or that a trusted proxy names; C{"-"} when it is not connected over
        IP.
    @ivar user: who it is; C{None}: it is anonymous.
    @ivar means: how that is known: C{"address"} (not at all, that is), C{"basic"} or C{"certificate"}.
    @ivar listener: the name of the listener it is connected to.
    @ivar may_log_in: whether it is anonymous where it could log in, so that a challenge helps.
    """

    address: str
    user: str | None = None
    means: str = "address"
    listener: str = ""
    may_log_in: bool = False

    @classmethod
    def admitted(
        cls,
        listen: ListenSettings,
        address: str,
        user: str | None = None,
        means: str = "address",
        *,
        takes_passwords: bool,
        is_sheltered: bool,
    ) -> Client:
        """
        Who asks, as a listener takes it. Pure.

        @param takes_passwords: whether the listener does.
        @param is_sheltered: whether no other can read one on its way.
        @raise LoginRequired: it has to log in first.
        @raise LoginExposed: it would have to, over a connection that others can read.
        """
        if user is None and listen.login == LOGIN_REQUIRED:
            if not takes_passwords:
                raise LoginRequired("show a client certificate that this listener knows the authority of")
            if not is_sheltered:
                raise LoginExposed()
            raise LoginRequired("log in to use this registry")
        may_log_in = user is None and is_sheltered and takes_passwords
        return cls(address, user, means, listen.name or "", may_log_in)


class Access:
    """
    What may be read here, and by whom.

    @ivar remotes: the configured upstreams by name; replaced whole when the configuration is read again.
    """

    def __init__(self, remotes: Mapping[str, Remote], rules: AccessRules | None = None) -> None:
        self.remotes = remotes
        self.rules = AccessRules() if rules is None else rules

    @property
    def rules(self) -> AccessRules:
        """The rules in force; replaced whole when the configuration is read again."""
        return self._rules

    @rules.setter
    def rules(self, rules: AccessRules) -> None:
        self._rules = rules
        self._has_rules = len(rules) > 0
        self._decided: LeastRecentlyUsed[tuple[Client, RemoteRepository, str], Decision] = LeastRecentlyUsed(DECIDED)

    def check(self, repository: RemoteRepository, client: Client | None, action: str = PULL) -> None:
        """
        The one decision; it is asked for each answer, and needs no disk and no network.

        @param client: who asks, C{None} for the appliance itself, which fetches ahead of clients, and for its operator,
            who exports: the rules are not about them.
        @param action: C{PULL} or C{LIST}.
        @raise AccessDenied: the rules say no. They come first: who may not read a repository does not learn what
            C{allow} and C{deny} of its upstream say.
        @raise LoginRequired: they say no, and the client could log in.
        @raise NotPermitted: it may not be pulled through, by anybody.
        """
        if client is not None and (self._has_rules or repository.is_private):
            decision = self.decide(repository, client, action)
            if not decision.allowed:
                absent = f"{repository} does not exist, or"
                if client.may_log_in:
                    raise LoginRequired(f"{absent} may not be read without a login; log in", decision.rule)
                if client.user is None:
                    raise AccessDenied(f"{absent} may not be read from {client.address}", decision.rule)
                raise AccessDenied(f"{absent} {client.user} may not read it", decision.rule)
        if not repository.is_permitted:
            raise NotPermitted(f"{repository} may not be pulled through here (allow, deny)")

    def decide(self, repository: RemoteRepository, client: Client, action: str = PULL) -> Decision:
        """What the rules say; remembered until they are replaced."""
        key = client, repository, action
        decision = self._decided.get(key)
        if decision is None:
            upstream, name, private = repository.upstream, repository.name, repository.is_private
            reading = Reading(client.user, client.address, client.listener, upstream, name, private, action)
            decision = self._rules.decide(reading)
            self._decided.put(key, decision, 1)
        return decision

    def open(
        self, upstream: str, name: str, client: Client | None = None, action: str = PULL
    ) -> RemoteRepository:
        """
        The repository that is meant, when it may be read.

        @param upstream: a configured name.
        @param name: the repository's name, as people write it.
        @param client: who asks, C{None} for the appliance itself and its operator.
        @param action: C{PULL} or C{LIST}.
        @raise UpstreamUnknown: no such upstream is configured.
        @raise AccessDenied: the rules do not let this client read it.
        @raise LoginRequired: nor this one, which could log in.
        @raise NotPermitted: it may not be pulled through.
        """
        remote = self.remotes.get(upstream)
        if remote is None:
            raise UpstreamUnknown(f"no upstream {upstream} is configured")
        repository = remote.repository(name)
        self.check(repository, client, action)
        return repository

    def permitted(self, upstream: str, name: str) -> RemoteRepository | None:
        """As L{open} for the appliance itself; C{None} where the repository may not be read."""
        try:
            return self.open(upstream, name)
        except PullcacheError:
            return None

    def asks(self, upstream: str) -> bool:
        """Whether that upstream, by its configured name, may be asked for anything."""
        remote = self.remotes.get(upstream)
        return remote is not None and not remote.offline
