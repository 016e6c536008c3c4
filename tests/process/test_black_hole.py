"""An address that drops every packet: what is cached is served, at once from the second time on; no client hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.network import in_a_network_of_its_own, ip
from tests.process.service import Appliance, until

ADDRESS = "10.99.0.2"

pytestmark = pytest.mark.process


def drop() -> None:
    """From now on packets to the upstream's address go nowhere."""
    ip("address", "del", f"{ADDRESS}/32", "dev", "lo")
    ip("link", "add", "hole", "type", "veth", "peer", "name", "bottom")
    ip("link", "set", "bottom", "up")
    ip("link", "set", "hole", "up")
    ip("route", "add", f"{ADDRESS}/32", "dev", "hole")
    # To the hardware address of no machine: without one the kernel would soon say that there is no route.
    ip("neighbour", "add", ADDRESS, "lladdr", "02:00:00:00:00:01", "dev", "hole")


def deliver() -> None:
    """The upstream's address is there again."""
    ip("link", "del", "hole")
    ip("address", "add", f"{ADDRESS}/32", "dev", "lo")


def test_dropped_packets_hold_no_client_up(tmp_path: Path) -> None:
    """
    A tag that is held is served while every packet to the upstream is lost; the many that follow the first need not
    wait for it again; and when the packets arrive again, that is noticed.
    """

    def body() -> None:
        ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
        upstream = RemoteRegistry(ADDRESS).start()
        appliance = Appliance(tmp_path / "appliance", upstream.url, upstream={"fresh_for": "0"})
        try:
            digest = upstream.add("team/app", "1")["digest"]
            upstream.add("team/app", "2")
            appliance.start()
            assert pull(appliance.authority, "team/app", "1").digest == digest
            drop()
            assert pull(appliance.authority, "team/app", "1").digest == digest
            # A wait of revalidate_within for each of these would take longer than the test waits.
            assert all(is_stale(appliance) for _ in range(100))
            deliver()
            until(lambda: not is_stale(appliance), "the return was noticed")
            assert ask(appliance.authority, "/v2/team/app/manifests/2").status == 200
        finally:
            appliance.kill()
            upstream.kill()

    in_a_network_of_its_own(body)


def is_stale(appliance: Appliance) -> bool:
    """Whether the tag is served without the upstream's word."""
    reply = ask(appliance.authority, "/v2/team/app/manifests/1")
    assert reply.status == 200
    return "stale-unavailable" in reply.cache_status
