"""From the configuration to an upstream, and upstreams that are never asked."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from zope.interface.verify import verifyObject

from appliance import settings as configuration
from appliance.errors import ConfigError, Offline
from appliance.interfaces import IUpstream
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.observer import IUpstreamObserver, SilentObserver
from appliance.upstream.table import KINDS, offline_upstream_for, upstream_for
from tests.rooms.upstream.net import Counting, failure_of


def settings(**more: Any) -> UpstreamSettings:
    return UpstreamSettings(**{"name": "docker.io", "urls": ("https://registry-1.docker.io",), **more})


@pytest.mark.parametrize(("kind", "full"), [("distribution", "nginx"), ("dockerhub", "library/nginx")])
def test_every_kind_can_be_made(kind: str, full: str) -> None:
    """Online and offline they map names alike."""
    for upstream in (
        upstream_for(settings(kind=kind), MemoryReactorClock(), SilentObserver()),
        offline_upstream_for(settings(kind=kind)),
    ):
        assert verifyObject(IUpstream, upstream)
        assert upstream.name == "docker.io"
        assert upstream.repository("nginx") == full


def test_the_configuration_knows_the_same_kinds() -> None:
    """What it accepts can be made."""
    assert set(configuration.KINDS) == set(KINDS)


@pytest.mark.parametrize("wrong", [{"kind": "harbor"}, {"urls": ("ftp://x",)}])
def test_what_cannot_be_made_is_named_at_start(wrong: dict[str, Any]) -> None:
    """With the key's path."""
    with pytest.raises(ConfigError, match=r"upstreams\.docker\.io\."):
        upstream_for(settings(**wrong), MemoryReactorClock(), SilentObserver())


def test_offline_no_question_is_asked() -> None:
    """Every one fails at once, and says what was wanted."""
    upstream = offline_upstream_for(settings())
    digest = Digest.of(b"")
    questions: tuple[Deferred[Any], ...] = (
        upstream.head("a", "t"),
        upstream.manifest("a", digest),
        upstream.blob("a", digest),
        upstream.blob_size("a", digest),
        upstream.tags("a"),
    )
    for question in questions:
        fault = failure_of(question)
        assert type(fault) is Offline
        assert "docker.io" in str(fault) and "offline" in str(fault)


def test_observers_are_observers() -> None:
    """Whoever counts implements all of it."""
    assert verifyObject(IUpstreamObserver, SilentObserver())
    assert verifyObject(IUpstreamObserver, Counting())
