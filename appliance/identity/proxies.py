"""
What a balancer in front says of the client that it passes on: C{X-Forwarded-For} and C{X-Forwarded-Proto}. Pure.

Every proxy on the way appends the address that it was connected from, so the right end was written by the nearest one.
What a client wrote itself stands left of that and is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from appliance.errors import RequestInvalid

Networks = Sequence[IPv4Network | IPv6Network]


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """An address without the name of an interface, IPv4 also where it came as IPv6; C{None} for what is none."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def plain_address(host: str) -> str:
    """
    An address as rules compare it: IPv4 also where it came as IPv6 (C{::ffff:10.0.0.1}), and without the name of an
    interface. What is no address stays as it is.
    """
    address = parse_address(host)
    return host if address is None else str(address)


def is_within(host: str, networks: Networks) -> bool:
    """Whether an address lies in one of the networks."""
    address = parse_address(host) if networks else None
    return address is not None and any(address in network for network in networks)


def is_loopback(host: str) -> bool:
    """Whether that is an address of this machine to itself."""
    address = parse_address(host)
    return address is not None and address.is_loopback


def origin(peer: str, forwarded_for: Sequence[str], trusted: Networks) -> str:
    """
    The address of the client: the rightmost one that is no trusted proxy's, the leftmost where all are.

    @param peer: who is connected. Where that is no trusted proxy, it is the client, whatever it says.
    @param forwarded_for: the values of C{X-Forwarded-For}, in their order.
    @raise RequestInvalid: a trusted proxy wrote what is no address: then nothing is known of its client.
    """
    client = peer
    # From its end, and no further than needed: a client may send a long one.
    left = ",".join(forwarded_for) if forwarded_for else None
    while left is not None and is_within(client, trusted):
        before, comma, entry = left.rpartition(",")
        left = before if comma else None
        address = parse_address(_without_port(entry.strip()))
        if address is None:
            # Its text is left out: it may be anything that the proxy was given.
            raise RequestInvalid(f"X-Forwarded-For: the proxy {client} gave something that is no address")
        client = str(address)
    return client


def was_encrypted(forwarded_proto: Iterable[str]) -> bool | None:
    """
    Whether a client reached the balancer over TLS, by what that says in C{X-Forwarded-Proto}; C{None} where it says
    nothing. Of several proxies all must have been reached so.
    """
    said = [each.strip().lower() for value in forwarded_proto for each in value.split(",")]
    return all(each == "https" for each in said) if said else None


def _without_port(entry: str) -> str:
    """C{10.0.0.1:4711} and C{[::1]:4711} are written by some."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
