"""Every way of reading comes after the one decision whether this may be read, whatever it says and by whatever lane."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from appliance.admin.exportplanner import Completion
from appliance.cache.access import KNOWN, Access, Client, RemoteRepository
from appliance.errors import NotPermitted
from appliance.interfaces import Origin
from appliance.oci.digest import Digest
from appliance.settings import PULL
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import begin, result
from tests.doubles.images import image
from tests.rooms.cache.desk import APP, Desk
from tests.wire.line import GHCR, IMAGE, LARGE, LAYER, Fields, Shop, blob, manifest

READS: list[tuple[str, str, Fields]] = [
    ("GET", manifest(), ()),
    ("HEAD", manifest(), ()),
    ("GET", manifest(Digest.of(IMAGE)), ()),
    ("HEAD", manifest(Digest.of(IMAGE)), ()),
    ("GET", manifest(), [("If-None-Match", f'"{Digest.of(IMAGE)}"')]),
    ("GET", blob(LAYER), ()),
    ("HEAD", blob(LAYER), ()),
    ("GET", blob(LARGE), ()),
    ("GET", blob(LARGE), [("Range", "bytes=100-199")]),
    ("GET", blob(LARGE), [("Range", "bytes=0-9,100-199")]),
    ("GET", blob(LAYER), [("If-None-Match", f'"{Digest.of(LAYER)}"')]),
    ("GET", "/v2/app/tags/list", ()),
    ("GET", f"/v2/app/referrers/{Digest.of(IMAGE)}", ()),
    ("GET", "/v2/docker.io/app/manifests/v1", ()),
]


class Rule:
    """
    A rule that notes what it is asked.

    @ivar refused: whether it says no.
    """

    def __init__(self, access: Access) -> None:
        self.refused = False
        self.asked: list[tuple[str, Client | None]] = []
        access.check = self  # type: ignore[method-assign]

    def __call__(self, repository: RemoteRepository, client: Client | None, action: str = PULL) -> None:
        self.asked.append((str(repository), client))
        if self.refused:
            raise NotPermitted(f"{repository} is not for you")


@pytest.mark.parametrize("warm", [True, False], ids=["held and prepared", "not held"])
@pytest.mark.parametrize(("method", "path", "fields"), READS)
def test_a_client_reads_nothing_that_it_may_not(method: str, path: str, fields: Fields, warm: bool) -> None:
    """Held or not, prepared or not: 403, and no upstream is asked; who may read it is served as before."""
    shop = Shop()
    rule = Rule(shop.cache.through.access)
    if warm:
        # The third is a prepared answer, where there are any.
        before = [shop.ask(method, path, fields) for _ in range(3)]
        assert all(answer.status in (200, 206, 304) for answer in before)
    rule.refused = True
    calls = shop.calls()
    answer = shop.ask(method, path, fields)
    assert answer.status == 403
    assert method == "HEAD" or answer.error["code"] == "DENIED"
    assert method == "HEAD" or "docker.io/library/app is not for you" in answer.error["message"]
    assert answer["ETag"] is None and answer["Cache-Status"] is None
    assert shop.calls() == calls
    rule.refused = False
    assert shop.ask(method, path, fields).status in (200, 206, 304)


@pytest.mark.parametrize(("method", "path", "fields"), READS)
def test_the_decision_knows_what_is_read_and_who_reads_it(method: str, path: str, fields: Fields) -> None:
    """Once for each answer, prepared ones included."""
    shop = Shop()
    rule = Rule(shop.cache.through.access)
    client = Client("192.168.1.1")
    for _ in range(4):
        shop.ask(method, path, fields)
        assert rule.asked == [("docker.io/library/app", client)]
        rule.asked.clear()


def test_a_repository_is_resolved_once_and_anew_for_another_configuration() -> None:
    """Names that a client makes up take no memory for that, and what was resolved before a reload decides nothing."""
    access = Shop().cache.through.access
    remote, first = access.remotes[HUB], access.open(HUB, "app")
    assert access.open(HUB, "app") is first and str(first) == f"{HUB}/library/app"
    denying = replace(remote, settings=structs.replace(remote.settings, deny=("library/*",)))
    access.remotes = {HUB: denying}
    with pytest.raises(NotPermitted):
        access.open(HUB, "app")
    access.remotes = {HUB: remote}
    for number in range(KNOWN + 5):
        access.open(HUB, f"made/up{number}")
    assert len(remote._known) == KNOWN and access.open(HUB, "app") is not first


def test_another_repository_is_asked_about_by_its_own_name() -> None:
    """What may be read of one upstream says nothing of another."""
    shop = Shop()
    rule = Rule(shop.cache.through.access)
    for _ in range(3):
        shop.get("/v2/team/app/manifests/latest?ns=ghcr.io")
    assert [name for name, _ in rule.asked] == [f"{GHCR}/team/app"] * 3


def test_an_export_fetches_nothing_that_may_not_be_read() -> None:
    """What is lacking stays so, and the operator learns why."""
    site, content = Appliance(), image()
    site.offer(content, "1")
    rule = Rule(site.through.access)
    rule.refused = True
    wanted = [Digest.parse(content.layers[0].digest)]
    told = result(Completion(site.through).fetch(HUB, NGINX, ["1"], wanted))
    assert len(told) == 2 and all("is not for you" in why for why in told)
    planned = site.ask("POST", "exports", {"refs": ["nginx:1"], "complete": True}).json
    assert any("is not for you" in note for note in planned["notes"])
    assert site.hub.calls == [] and len(rule.asked) == 3
    assert {client for _, client in rule.asked} == {None}


def test_nothing_is_prefetched_that_may_not_be_read() -> None:
    """Neither the rest of an image nor what refers to it, pulled before or taken up after a restart."""
    desk = Desk()
    desk.pull()
    rule = Rule(desk.through.access)
    rule.refused = True
    desk.upstream.calls.clear()
    desk.turn(10.0)
    desk.turn(10**5)
    assert rule.asked and desk.upstream.calls == []
    assert desk.prefetch.images == 0
    assert {(name, client) for name, client in rule.asked} == {(f"{HUB}/{APP}", None)}


def test_what_was_cut_is_not_gone_on_with_when_it_may_not_be_read() -> None:
    """A blob that was under way when the process before ended."""
    shop = Shop()
    digest = Digest.of(LARGE)
    ingest = result(shop.cache.store.ingest(digest))
    result(ingest.write([LARGE[:100]]))
    result(ingest.note(Origin("docker.io", "library/app", len(LARGE))))
    ingest.close()
    rule = Rule(shop.cache.access)
    rule.refused = True
    result(shop.cache.flights.resume(shop.cache.access))
    assert rule.asked == [("docker.io/library/app", None)] and shop.calls() == 0
    rule.refused = False
    resumed = begin(shop.cache.flights.resume(shop.cache.access))
    assert resumed.called and shop.cache.store.size(digest) == len(LARGE)
