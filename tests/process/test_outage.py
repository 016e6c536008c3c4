"""Whatever the upstream does, what is cached is served, and soon."""

from __future__ import annotations

import os
import signal

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

BOUND = 2.5
"""Seconds within which each answer comes; C{revalidate_within} is 1 s here."""

pytestmark = pytest.mark.process


def fill(appliance: Appliance, upstream: RemoteRegistry) -> dict[tuple[str, str], str]:
    """Pull three images and a list of tags; returns digests by repository and tag."""
    wanted = {
        ("team/app", "1"): upstream.add("team/app", "1"),
        ("team/app", "2"): upstream.add("team/app", "2", "docker", seed="two"),
        ("team/multi", "latest"): upstream.add("team/multi", "latest", "index"),
    }
    for (repository, tag), added in wanted.items():
        assert pull(appliance.authority, repository, tag).digest == added["digest"]
    assert ask(appliance.authority, "/v2/team/app/tags/list").json()["tags"] == ["1", "2"]
    return {reference: added["digest"] for reference, added in wanted.items()}


def check(appliance: Appliance, held: dict[tuple[str, str], str]) -> None:
    """Everything can be pulled, by tag, by digest, with and without the upstream's name in the path, in time."""
    for (repository, tag), digest in held.items():
        assert pull(appliance.authority, repository, tag, BOUND).digest == digest
        assert pull(appliance.authority, repository, digest, BOUND).digest == digest
        assert pull(appliance.bare, f"{UPSTREAM}/{repository}", tag, BOUND).digest == digest
    listed = ask(appliance.authority, "/v2/team/app/tags/list", patience=BOUND)
    assert listed.json()["tags"] == ["1", "2"]


def is_stale(appliance: Appliance) -> bool:
    """Whether the tag is served as stale by now; each answer comes in time."""
    reply = ask(appliance.authority, "/v2/team/app/manifests/1", patience=BOUND)
    assert reply.status == 200
    return "stale-unavailable" in reply.cache_status and "warning" in reply.headers


def test_an_upstream_that_is_gone_is_not_missed(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """The upstream is killed: everything that was pulled is served, and says that it is stale."""
    held = fill(appliance, upstream)
    upstream.kill()
    check(appliance, held)
    until(lambda: is_stale(appliance), "served as stale")
    check(appliance, held)


def test_an_upstream_that_swallows_packets_is_not_waited_for(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """The upstream takes connections and never says a word: the answers come in time all the same."""
    held = fill(appliance, upstream)
    os.kill(upstream.pid, signal.SIGSTOP)
    try:
        until(lambda: is_stale(appliance), "served as stale")
        check(appliance, held)
    finally:
        os.kill(upstream.pid, signal.SIGCONT)


def test_a_restart_without_an_upstream_serves_the_same(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """No network at all: the appliance starts, is ready, and serves."""
    held = fill(appliance, upstream)
    upstream.kill()
    appliance.restart()
    check(appliance, held)


def test_offline_contacts_no_upstream(idle: Appliance, upstream: RemoteRegistry) -> None:
    """With C{offline: true}, what is held is served, what is not is an error, and no request leaves."""
    idle.start()
    held = fill(idle, upstream)
    idle.settings["offline"] = True
    idle.write()
    idle.restart()
    upstream.forget()
    check(idle, held)
    assert ask(idle.authority, "/v2/team/app/manifests/never-seen").status >= 400
    assert upstream.seen() == []


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
def test_an_upstream_that_refuses_is_served_around(appliance: Appliance, upstream: RemoteRegistry, code: int) -> None:
    """Every failure of the upstream serves what is cached."""
    held = fill(appliance, upstream)
    upstream.misbehave("/v2/*", ("status", {"code": code}))
    upstream.forget()
    until(lambda: _asked(appliance, upstream), "the upstream was asked again")
    check(appliance, held)


def _asked(appliance: Appliance, upstream: RemoteRegistry) -> bool:
    assert ask(appliance.authority, "/v2/team/app/manifests/1", patience=BOUND).status == 200
    return bool(upstream.seen("/v2/team/app/manifests/1"))


def test_what_was_never_seen_is_not_called_unknown_when_the_upstream_is_gone(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """502 or the like, in OCI JSON, naming the upstream; not 404."""
    upstream.kill()
    reply = ask(appliance.authority, "/v2/team/app/manifests/never-seen")
    assert reply.status in (502, 503, 504)
    assert UPSTREAM in reply.body.decode()


def test_a_moved_tag_is_noticed(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """After C{fresh_for}, a client gets what the tag means upstream now; the old digest stays."""
    old = upstream.add("team/app", "1")["digest"]
    assert pull(appliance.authority, "team/app", "1").digest == old
    new = upstream.add("team/app", "1", seed="new")["digest"]
    until(lambda: pull(appliance.authority, "team/app", "1").digest == new, "the new digest")
    assert pull(appliance.authority, "team/app", old).digest == old
