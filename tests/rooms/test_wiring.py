"""One appliance as a whole: what a configuration that is read again does to it, and that it begins without effects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.admin.metrics import Metrics
from appliance.cache import manifests
from appliance.cache.access import Client
from appliance.errors import ConfigError
from appliance.flow.disk import InlineThreads
from appliance.index import graph, lists, repositories
from appliance.index.memory import MemoryDocuments
from appliance.registry import hotlane
from appliance.settings import ListenSettings, MatchSettings, RuleSettings, Settings, UpstreamSettings
from appliance.store.memory import MemoryBlobStore
from appliance.wiring import Services
from tests.doubles.audit import NotedAudit
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedUpstream

HUB, GHCR = "docker.io", "ghcr.io"


def settings(*names: str, **more: Any) -> Settings:
    """A configuration with these upstreams; C{more} is said of the first."""
    upstreams = {name: UpstreamSettings(name=name, urls=(f"https://{name}",)) for name in names}
    upstreams[names[0]] = msgspec.structs.replace(upstreams[names[0]], **more)
    return Settings(upstreams=upstreams)


class Wired:
    """
    The objects of an appliance, and what was made to ask its upstreams.

    @ivar made: every one that was made, with whether it is never contacted, by name.
    """

    def __init__(self, configured: Settings) -> None:
        self.clock = clock_at()
        self.made: dict[str, list[tuple[ScriptedUpstream, bool]]] = {}
        self.documents, self.store = MemoryDocuments(), MemoryBlobStore()
        self.services = Services(
            configured,
            clock=self.clock,
            threads=InlineThreads(),
            store=self.store,
            documents=self.documents,
            state=self.documents,
            probe=lambda: pytest.fail("not asked for"),
            make_upstream=self._make,
            metrics=Metrics(self.clock, None),
            audit=NotedAudit(),
        )

    def _make(self, upstream: UpstreamSettings, offline: bool) -> ScriptedUpstream:
        if upstream.token_file is not None:
            raise ConfigError(f"{upstream.token_file} cannot be read")
        made = ScriptedUpstream(upstream.name)
        self.made.setdefault(upstream.name, []).append((made, offline))
        return made

    def asked(self, name: str) -> Any:
        """What asks the upstream now."""
        return self.services.access.remotes[name].registry


def test_making_it_does_nothing() -> None:
    """No timer, no document, no request: all that begins with the start."""
    wired = Wired(settings(HUB, GHCR))
    assert (wired.clock.getDelayedCalls(), wired.store.total(), wired.asked(HUB).calls) == ([], 0, [])


def test_what_did_not_change_keeps_its_connections() -> None:
    """A reload because of one upstream is not felt by the clients of another."""
    wired = Wired(settings(HUB, GHCR))
    hub, ghcr = wired.asked(HUB), wired.asked(GHCR)
    wired.services.configure(settings(HUB, GHCR, fresh_for=1.0))
    assert wired.asked(GHCR) is ghcr and not ghcr.stopped
    assert wired.asked(HUB) is not hub and hub.stopped and not hub.disconnected
    assert wired.services.access.remotes[HUB].settings.fresh_for == 1.0


def test_rules_that_are_read_again_cost_no_upstream_its_connections() -> None:
    """They are in force for what was resolved before, too."""
    before = settings(HUB, GHCR)
    wired = Wired(before)
    access, hub = wired.services.access, wired.asked(HUB)
    client, known = Client("192.0.2.7"), access.open(HUB, "app")
    for rules, allowed in (((RuleSettings(deny=MatchSettings()),), False), ((), True)):
        wired.services.configure(msgspec.structs.replace(before, access=rules))
        assert wired.asked(HUB) is hub and not hub.stopped
        assert access.decide(known, client).allowed is allowed
        assert access.open(HUB, "app").guarded is not allowed


def test_what_may_not_be_contacted_any_more_is_cut_off() -> None:
    """An upstream that was removed, or set offline, sends nothing more."""
    for after in (settings(GHCR), settings(HUB, GHCR, offline=True)):
        wired = Wired(settings(HUB, GHCR))
        hub = wired.asked(HUB)
        wired.services.configure(after)
        assert hub.disconnected and not wired.asked(GHCR).disconnected
        assert [offline for _, offline in wired.made[HUB][1:]] == ([True] if HUB in after.upstreams else [])


def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    """The old one stays in force, wholly."""
    before = settings(HUB, GHCR)
    wired = Wired(before)
    hub, remotes = wired.asked(HUB), wired.services.access.remotes
    with pytest.raises(ConfigError):
        wired.services.configure(settings(GHCR, HUB, token_file="/no/such/file"))
    assert wired.services.settings is before and wired.services.access.remotes is remotes
    assert not hub.stopped


def test_there_is_a_listener_for_each_address_and_no_admin_endpoint_unless_configured() -> None:
    """What is opened is what the configuration says."""
    addresses = tuple(ListenSettings(endpoint=f"tcp:port={port}") for port in (5000, 5010))
    configured = msgspec.structs.replace(settings(HUB), listen=addresses, admin=None)
    wired = Wired(configured)
    assert len(wired.services.listeners) == 2 and wired.services.admin is None and not wired.services.busy


def test_all_that_is_remembered_fits_beside_the_process() -> None:
    """One with nothing in memory takes some 70 MiB, and 200 are what it may take with a hundred thousand images."""
    of_lists = 2 * lists.BUDGET
    together = repositories.BUDGET + graph.BUDGET + of_lists + manifests.MEMORY + hotlane.BUDGET
    assert together <= 112 * 1024 * 1024
