"""
What a name means on this appliance, in an archive or as a user writes it.

An image that was pulled through an appliance is called after that: C{docker save} names it
C{cache:5000/docker.io/library/nginx}. Where C{cache:5000} is an address of this appliance, what stands behind it is
meant: docker.io/library/nginx. A configured upstream of that name comes first, as it does for clients.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from appliance.errors import NameInvalid
from appliance.oci.pattern import UpstreamFor
from appliance.oci.reference import Reference, official, parse_prefix
from appliance.settings import DEFAULT_PORT, ListenSettings, Settings

ListenerAt = Callable[[str], ListenSettings | None]
"""The listener that clients reach at an address (C{host} or C{host:port}), C{None} for one that is not ours."""

Permits = Callable[[str, str], bool]
"""Whether a repository of a configured upstream may be pulled here."""

_HOSTS = Path("/etc/hosts")
_HOSTS_BYTES = 256 * 1024
_WILD = frozenset("*?[")
_SHOWN = 160


@dataclass
class Renames:
    """
    Prefixes of names that are to be others, whole path components of upstream and repository; the longest one counts.

    @ivar unused: those that no name began with so far.
    """

    prefixes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for prefix in (*self.prefixes, *self.prefixes.values()):
            parse_prefix(prefix)
        self.unused = dict.fromkeys(self.prefixes)

    def apply(self, name: str) -> str | None:
        """C{name} with another beginning, C{None} when it begins with none of the prefixes."""
        parts = name.split("/")
        for count in range(len(parts), 0, -1):
            old = "/".join(parts[:count])
            if old in self.prefixes:
                self.unused.pop(old, None)
                return "/".join([self.prefixes[old], *parts[count:]])
        return None


class Names:
    """The names of one appliance."""

    def __init__(
        self,
        upstream_for: UpstreamFor,
        listener_at: ListenerAt = lambda _: None,
        permits: Permits = lambda _upstream, _repository: True,
    ) -> None:
        self.upstream_for = upstream_for
        self.permits = permits
        self._listener_at = listener_at

    def behind(self, name: str) -> str:
        """
        A name or a pattern without an address of this appliance before it; others as they are.

        @raise NameInvalid: it names no upstream behind that address, and the listener has no C{default_upstream}.
        """
        address, slash, rest = name.partition("/")
        listener = self._listener_at(address) if slash and self.upstream_for(address) is None else None
        if listener is None:
            return name
        first, slash, _ = rest.partition("/")
        if rest == "**" or (slash and (self.upstream_for(first) is not None or {".", ":", *_WILD} & set(first))):
            return rest
        if listener.default_upstream is None:
            raise NameInvalid(
                f"{name[:_SHOWN]!r} begins with an address of this appliance, names no upstream after that, and the"
                f" listener there has no default_upstream; write {address}/docker.io/..., or import with"
                f" --rename {address}=docker.io"
            )
        return f"{listener.default_upstream}/{rest}"

    def meant(self, upstream: str, repository: str, renames: Renames) -> tuple[str, str]:
        """
        Upstream and repository as they are called here, of those that an archive names.

        Renames are looked for in the name as it stands there first, then in what it means here.

        @raise NameInvalid: it means nothing, or is no name once it is renamed.
        """
        said = f"{upstream}/{repository}"
        renamed = renames.apply(said)
        if renamed is None:
            found = self._here(said)
            renamed = renames.apply(found) or found
        place = Reference.parse(self._here(renamed))
        return place.upstream, place.repository

    def _here(self, name: str) -> str:
        upstream, slash, repository = self.behind(name).partition("/")
        canonical = self.upstream_for(upstream) or upstream
        return f"{canonical}/{official(canonical, repository)}" if slash else canonical

    def missing(self, upstreams: Iterable[str]) -> str | None:
        """What to do about upstreams that are not configured, in words; C{None} when all of them are."""
        unknown = sorted({name for name in upstreams if self.upstream_for(name) is None})
        if not unknown:
            return None
        lines = [
            f'"{name}": {{url: "https://{name}", offline: true}}'
            for name in (DEFAULT_PORT.sub("", each) for each in unknown)
            if "[" not in name
        ]
        configure = f"add to upstreams in the configuration and reload it: {', '.join(lines)}; or " if lines else ""
        return (
            f"no upstream is called {' or '.join(unknown)} here, so what is of it could not be pulled; {configure}"
            f"import with --rename {unknown[0]}=NAME"
        )


def listener_at(
    settings: Settings, aliases: Iterable[str], address: str, is_own: Callable[[str], bool]
) -> ListenSettings | None:
    """
    The listener that clients reach at C{address}, C{None} when that is not ours.

    @param aliases: more addresses of ours, C{host} or C{host:port}: behind a proxy, or in a name service.
    @param is_own: whether a host (an address, or a name) is this machine.
    """
    address = address.lower()
    host, colon, digits = address.rpartition(":")
    if not colon or not digits.isdigit():
        host, digits = address, ""
    # podman calls what was built on a machine localhost/..., without any port.
    ports = [int(digits)] if digits else [] if host == "localhost" else [443, 80]
    listeners = [listener for port in ports for listener in settings.listen if listener.port == port]
    if DEFAULT_PORT.sub("", address) in {DEFAULT_PORT.sub("", alias) for alias in aliases}:
        defaults = {listener.default_upstream for listener in listeners or settings.listen}
        return ListenSettings(default_upstream=defaults.pop() if len(defaults) == 1 else None)
    if not listeners or not is_own(host):
        return None
    return next((listener for listener in listeners if listener.interface == host), listeners[0])


def is_own_host(host: str) -> bool:
    """
    Whether C{host} is this machine: an address of it, C{localhost}, its name, or what C{/etc/hosts} calls it.

    Asks no name service, which may be far away or gone.
    """
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        own = socket.gethostname().lower()
        return host in ("localhost", own, own.partition(".")[0]) or any(map(is_own_host, _addresses_of(host)))
    if address.is_loopback or address.is_multicast:
        return address.is_loopback
    # Only what is assigned to an interface can be bound.
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _addresses_of(name: str) -> list[str]:
    """The addresses that C{/etc/hosts} has for a name."""
    found: list[str] = []
    with suppress(OSError), _HOSTS.open(encoding="utf-8", errors="replace") as hosts:
        for line in hosts.read(_HOSTS_BYTES).splitlines():
            address, *names = line.partition("#")[0].lower().split() or [""]
            with suppress(ValueError):
                found += [str(ip_address(address))] if name in names else []
    return found
