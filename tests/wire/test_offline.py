"""Offline: no packet leaves, not even to resolve a name, and every client gets what is held at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from appliance.flow.disk import InlineThreads
from appliance.oci.digest import Digest
from appliance.registry.listener import Listener
from appliance.settings import ListenSettings, Settings, UpstreamSettings
from appliance.tap import PullcacheService
from appliance.upstream.interfaces import IUpstream
from tests.doubles.deferreds import begin
from tests.doubles.pullthrough import NOW, Cache
from tests.doubles.upstream import ScriptedUpstream
from tests.wire.line import HUB, IMAGE, LARGE, LAYER, Accounts, Line, blob, manifest, request, stock

CLIENTS = 200
REPOSITORY = "library/app"


class Unplugged(Clock):
    """
    A reactor that reaches no server.

    @ivar attempts: every attempt to connect, to resolve a name or to start a process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.attempts.append(name)
        raise OSError(f"{name}: there is no network")


def remote(reactor: Unplugged, tmp_path: Path, everything: bool, one: bool) -> tuple[IUpstream, bool]:
    """
    Who is asked, and whether it is never contacted, as the service decides it.

    @param everything: C{offline} at the top of the configuration; C{one}: that of the upstream.
    """
    upstream = UpstreamSettings(name=HUB, urls=("https://registry-1.docker.io",), kind="dockerhub", offline=one)
    settings = Settings(store=tmp_path, access_log="off", offline=everything, upstreams={HUB: upstream})
    service = PullcacheService({"settings": settings, "config": ""}, reactor)  # type: ignore[arg-type]
    service._threads = InlineThreads()  # type: ignore[assignment]
    made = service.wire().access.remotes[HUB]
    return made.registry, made.offline


def listening(reactor: Unplugged, registry: IUpstream, offline: bool) -> Listener:
    """An appliance that pulled an image and two of its blobs a year ago, and has this upstream now."""
    hub = ScriptedUpstream(HUB, library=True)
    stock(hub, REPOSITORY)
    before = Cache(hub, clock=reactor)
    reactor.advance(NOW)
    for reference in ("latest", "multi"):
        begin(before.through.manifest(before.at(HUB, "app"), reference))
    begin(before.through.tags(before.at(HUB, "app")))
    for data in (LAYER, LARGE):
        begin(before.through.blob(before.at(HUB, "app"), Digest.of(data))).addCallback(lambda answer: answer.close())
    reactor.advance(365 * 86400.0)
    cache = Cache(registry, offline=offline, before=before)
    listen = ListenSettings(default_upstream=HUB)
    settings = Settings(listen=(listen,), upstreams={HUB: cache.remotes[HUB].settings}, offline=offline)
    return Listener(cache.through, settings, listen, Accounts(reactor), cache.audit, reactor)


HELD = [manifest(), manifest("multi"), manifest(Digest.of(IMAGE)), blob(LAYER), blob(LARGE), "/v2/app/tags/list"]
NOT_HELD = [manifest("other"), manifest(Digest.of(b"other")), blob(b"other"), "/v2/other/tags/list"]


@pytest.mark.parametrize(("everything", "one"), [(True, False), (False, True), (True, True)])
def test_two_hundred_clients_and_not_one_connection(tmp_path: Path, everything: bool, one: bool) -> None:
    """All at once, for what is held and what is not, by GET and HEAD: right answers, at once, and nothing is tried."""
    reactor = Unplugged()
    registry, offline = remote(reactor, tmp_path, everything, one)
    listener = listening(reactor, registry, offline)
    lines = [Line(listener) for _ in range(CLIENTS)]
    for path in HELD + NOT_HELD:
        for method in ("GET", "HEAD"):
            for line in lines:
                line.send(request(method, path))
            answers = [line.answers(method)[0] for line in lines]
            told = "pullcache; hit" if path in HELD else "pullcache; detail=offline"
            assert {(each.status, each["Cache-Status"]) for each in answers} == {(200 if path in HELD else 404, told)}
            assert {each["Warning"] for each in answers} == {None}
    for line in lines:
        line.lose()
    assert reactor.attempts == []


@pytest.mark.parametrize("path", NOT_HELD)
def test_online_the_same_appliance_tries(tmp_path: Path, path: str) -> None:
    """So that the test before this one would notice an attempt."""
    reactor = Unplugged()
    registry, offline = remote(reactor, tmp_path, everything=False, one=False)
    line = Line(listening(reactor, registry, offline))
    line.send(request("GET", path))
    reactor.advance(0)
    assert line.answers("GET")[0].status == 502
    assert reactor.attempts != []
    registry.stop()
