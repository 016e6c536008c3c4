"""
The door of the cache: which repository a request is about, and whether it may be read.

L{Access.open} answers both once for each request, and what it gives is passed down to all that serves it.
L{Access.check} is the one decision that comes before every answer: those of the routes, the prepared ones of the hot
lane, and what the appliance fetches by itself or for an export. What is to be decided by more than C{allow} and C{deny}
is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from appliance.errors import NotPermitted, PullcacheError, UpstreamUnknown
from appliance.flow.lru import LeastRecentlyUsed
from appliance.oci.digest import Digest
from appliance.oci.reference import ReferenceKey
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import IUpstream

KNOWN = 1000
"""The most repositories of an upstream that stay resolved in memory, by their names as clients write them."""


@dataclass(frozen=True)
class Remote:
    """
    A configured upstream; another one is made when the configuration is read again.

    @ivar settings: its part of the configuration.
    @ivar registry: asks it.
    @ivar offline: whether it is never contacted.
    """

    settings: UpstreamSettings
    registry: IUpstream
    offline: bool
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
            known = RemoteRepository(self.name, full, self.settings, self.registry, self.offline)
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
    """

    upstream: str
    name: str
    settings: UpstreamSettings
    registry: IUpstream
    offline: bool

    @cached_property
    def is_permitted(self) -> bool:
        """Whether C{allow} and C{deny} let it be pulled through."""
        return self.settings.permits(self.name)

    def key(self, identifier: str | Digest) -> ReferenceKey:
        """
        What a tag or digest of it is called in tables; of the list of its tags with C{""}.
        """
        return self.upstream, self.name, str(identifier)

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}"


@dataclass(frozen=True, slots=True)
class Client:
    """
    Who asks.

    @ivar address: the IP address it connects from, C{"-"} when it is not connected over IP.
    @ivar user: the name it is logged in by, C{None} when it is not.
    @ivar means: how that is known: C{"address"} (nothing but that is), C{"basic"} or C{"certificate"}.
    @ivar listener: the name of the listener that it is connected to.
    @ivar may_log_in: whether it is anonymous where logging in may help.
    """

    address: str
    user: str | None = None
    means: str = "address"
    listener: str = ""
    may_log_in: bool = False


ReadRule = Callable[[RemoteRepository, Client | None], None]
"""
Decides whether a client may read a repository, and raises L{NotPermitted} or another L{PullcacheError} when it may not.

Called for each answer, also by the hot lane: it must be quick, and needs no disk and no network. The client is C{None}
for the appliance itself, which fetches ahead of clients, and for its operator, who exports.
"""


def permitted(repository: RemoteRepository, client: Client | None) -> None:
    """The rule of C{allow} and C{deny}, the same for all clients."""
    if not repository.is_permitted:
        raise NotPermitted(f"{repository} may not be pulled through here (allow, deny)")


class Access:
    """
    What may be read here.

    @ivar remotes: the configured upstreams by name; replaced whole when the configuration is read again.
    @ivar check: the rule in force.
    """

    def __init__(self, remotes: Mapping[str, Remote], rule: ReadRule = permitted) -> None:
        self.remotes = remotes
        self.check = rule

    def open(self, upstream: str, name: str, client: Client | None = None) -> RemoteRepository:
        """
        The repository that is meant, when it may be read.

        @param upstream: a configured name.
        @param name: the repository's name, as people write it.
        @param client: who asks, C{None} for the appliance itself and its operator.
        @raise UpstreamUnknown: no such upstream is configured.
        @raise NotPermitted: it may not be read.
        """
        remote = self.remotes.get(upstream)
        if remote is None:
            raise UpstreamUnknown(f"no upstream {upstream} is configured")
        repository = remote.repository(name)
        self.check(repository, client)
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
