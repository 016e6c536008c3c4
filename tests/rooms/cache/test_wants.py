"""Wants: what clients were refused is written down, once, and carried over a restart."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import execute, fail, succeed
from twisted.internet.task import Clock

from appliance.cache import wants as module
from appliance.cache.wants import NAME, Wants, reason_for
from appliance.errors import (
    BlobDamaged,
    NameInvalid,
    NotHeld,
    NotPermitted,
    Offline,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnknown,
)
from appliance.index.memory import MemoryDocuments
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.images import image
from tests.doubles.pullthrough import NOW, clock_at

DIGEST = Digest.of(b"layer")


def noted(wants: Wants) -> list[tuple[Any, ...]]:
    return [(each.reference, each.count, each.first - NOW, each.last - NOW) for each in wants.snapshot()]


def kept(documents: MemoryDocuments, clock: Clock) -> Wants:
    """As after a restart."""
    wants = Wants(documents, clock)
    result(wants.load())
    return wants


DAMAGED = [
    b"",
    b"{",
    b'{"a": 1}',
    b'[{"upstream": 1}]',
    b'["\xff"]',
    b"[" * 100_000,
    b'[{"upstream":"a","repository":"b","reference":"c","reason":"offline","first":1e300,"last":0}]',
]


# -- what is noted --------------------------------------------------------------------------------------------------


def test_what_an_offline_appliance_lacks_is_noted_once() -> None:
    """Ten clients that ask for one tag are one want, with how often and when."""
    site = Appliance(offline=True)
    for _ in range(3):
        failing(site.through.manifest(site.at(HUB, "nginx"), "1.27"), Offline)
        site.clock.advance(10)
    failing(site.through.manifest(site.at(HUB, "nginx"), DIGEST), Offline)
    failing(site.through.blob(site.at(HUB, "nginx"), DIGEST), Offline)
    assert noted(site.wants) == [("1.27", 3, 0, 20), (str(DIGEST), 2, 30, 30)]
    assert site.wants.snapshot()[0].key == (HUB, NGINX, "1.27")


def test_the_client_s_platform_is_kept_where_it_is_known() -> None:
    """A later client that does not say leaves it as it was."""
    site = Appliance(offline=True)
    for platform in ("linux/arm64", None):
        failing(site.through.manifest(site.at(HUB, NGINX), "1", platform), Offline)
    failing(site.through.blob(site.at(HUB, NGINX), DIGEST), Offline)
    assert [each.platform for each in site.wants.snapshot()] == ["linux/arm64", None]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Offline("x"), "offline"),
        (NotHeld("x"), "not-held"),
        (UpstreamMissing(HUB, "x"), "missing"),
        (UpstreamDenied(HUB, "x"), "denied"),
        (UpstreamRateLimited(HUB, "x"), "rate-limited"),
        (UpstreamTimeout(HUB, "x"), "unavailable"),
        (UpstreamInvalid(HUB, "x"), "unavailable"),
        (NotPermitted("x"), None),
        (UpstreamUnknown("x"), None),
        (NameInvalid("x"), None),
        (BlobDamaged("x"), None),
    ],
)
def test_the_reason_is_one_word_and_only_for_what_a_bundle_could_mend(error: Exception, reason: str | None) -> None:
    """Nothing an upstream wrote gets into the document."""
    assert reason_for(error) == reason


def test_an_upstream_that_fails_with_nothing_cached_is_a_want() -> None:
    """An appliance with a bad line asks for a bundle too."""
    site = Appliance()
    site.hub.fail(UpstreamUnavailable(HUB, "gone"))
    failing(site.through.manifest(site.at(HUB, NGINX), "1"), UpstreamUnavailable)
    assert [each.reason for each in site.wants.snapshot()] == ["unavailable"]


def test_what_is_served_stale_is_no_want() -> None:
    """The client has got what it wanted."""
    site = Appliance()
    site.hold(image(), "1")
    site.clock.advance(10**9)
    site.hub.fail(UpstreamUnavailable(HUB, "gone"))
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    assert not site.wants.snapshot()


def test_what_may_not_be_pulled_is_no_want() -> None:
    """A bundle would not change it."""
    site = Appliance()
    with pytest.raises(UpstreamUnknown):
        site.at("nowhere.example", "a")
    assert not site.wants.snapshot()


def test_asking_for_a_size_is_no_want() -> None:
    """Builders look whether a layer is there before they bring their own."""
    site = Appliance(offline=True)
    failing(site.through.blob_size(site.at(HUB, NGINX), DIGEST), Offline)
    assert not site.wants.snapshot()


def test_what_could_be_served_later_is_wanted_no_more() -> None:
    """The upstream came back."""
    site = Appliance()
    site.hub.fail(UpstreamUnavailable(HUB, "gone"))
    failing(site.through.manifest(site.at(HUB, NGINX), "1"), UpstreamUnavailable)
    site.hub.heal()
    site.offer(image(), "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    assert not site.wants.snapshot()


# -- bounds ---------------------------------------------------------------------------------------------------------


def test_names_made_up_cannot_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one requested longest ago is dropped; what is requested again and again stays."""
    monkeypatch.setattr(module, "LIMIT", 3)
    wants = Wants(MemoryDocuments(), clock_at())
    for reference in ("a", "b", "c", "a", "d", "e"):
        wants.note(HUB, NGINX, reference, None, "offline")
    assert [each.reference for each in wants.snapshot()] == ["a", "d", "e"]


def test_made_up_names_drive_out_made_up_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wanted of a repository that is held stays, and so does what was asked for again."""
    monkeypatch.setattr(module, "LIMIT", 30)
    wants = Wants(MemoryDocuments(), clock_at(), lambda upstream, repository: repository in (NGINX, "library/redis"))
    wants.note(HUB, NGINX, "2", None, "offline")
    for _ in range(2):
        wants.note(HUB, "team/new", "1", None, "offline")
    for number in range(100):
        wants.note(HUB, f"made/up-{number}", "1", None, "offline")
        wants.note(HUB, "library/redis", f"made-up-{number}", None, "offline")
        if number > 50:
            wants.note("quay.io", f"made/up-{number}", "1", None, "offline")
            wants.note("quay.io", f"made/up-{number}", "1", None, "offline")
    kept = {want.key for want in wants.snapshot()}
    assert len(kept) == 30
    assert {(HUB, NGINX, "2"), (HUB, "team/new", "1"), ("quay.io", "made/up-99", "1")} <= kept


def test_a_client_that_insists_has_its_want_kept_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many made-up names were asked for again: what is new has its place, and keeps it when it is asked for."""
    monkeypatch.setattr(module, "LIMIT", 10)
    wants = Wants(MemoryDocuments(), clock_at())
    for number in range(50):
        for _ in range(3):
            wants.note(HUB, f"made/up-{number}", "1", None, "offline")
    for number in range(3):
        wants.note(HUB, "team/new", "1", None, "offline")
        wants.note(HUB, f"once-{number}", "1", None, "offline")
    assert (HUB, "team/new", "1") in {want.key for want in wants.snapshot()}


def test_what_an_upstream_never_had_drives_out_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for what a registry does not have, again and again, leaves the other wants where they are."""
    monkeypatch.setattr(module, "LIMIT", 10)
    wants = Wants(MemoryDocuments(), clock_at())
    for number in range(60):
        for _ in range(1 + number % 3):
            wants.note(HUB, f"made/up-{number}", "1", None, "missing")
        if number in (30, 31):
            wants.note(HUB, "team/app", f"{number}", None, "unavailable")
    assert {want.key for want in wants.snapshot()} >= {(HUB, "team/app", "30"), (HUB, "team/app", "31")}


def test_what_was_wanted_before_a_flood_is_wanted_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for once, of a repository that nothing is held of: it looks like a made-up name, but was first."""
    monkeypatch.setattr(module, "LIMIT", 10)
    wants = Wants(MemoryDocuments(), clock_at())
    wants.note(HUB, "team/app", "1", None, "offline")
    wants.note(HUB, "team/tool", "1", None, "offline")
    for number in range(60):
        wants.note(HUB, f"made/up-{number}", "1", None, "offline")
        if number == 20:
            wants.note(HUB, "team/tool", "1", None, "offline")
    assert {(HUB, "team/app", "1"), (HUB, "team/tool", "1")} <= {want.key for want in wants.snapshot()}
    assert (HUB, "made/up-59", "1") in {want.key for want in wants.snapshot()}


def test_what_was_held_is_known_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood after it finds the wants of repositories that are held as safe as before."""
    documents = MemoryDocuments()
    before = Wants(documents, clock_at(), lambda *_: True)
    before.note(HUB, NGINX, "2", None, "offline")
    result(before.flush())
    monkeypatch.setattr(module, "LIMIT", 5)
    wants = kept(documents, clock_at())
    for number in range(20):
        wants.note(HUB, f"made/up-{number}", "1", None, "offline")
    assert wants.snapshot()[0].key == (HUB, NGINX, "2")


def test_the_service_knows_which_repositories_are_held() -> None:
    """As it looks for what was asked for."""
    site = Appliance(offline=True)
    site.hold(image(), "1")
    failing(site.through.manifest(site.at(HUB, NGINX), "2"), Offline)
    failing(site.through.manifest(site.at(HUB, "made/up"), "2"), Offline)
    assert [(each.repository, each.held) for each in site.wants.snapshot()] == [(NGINX, True), ("made/up", False)]


# -- durability -----------------------------------------------------------------------------------------------------


def test_wants_outlive_the_process() -> None:
    """And go on counting."""
    documents, clock = MemoryDocuments(), clock_at()
    wants = Wants(documents, clock)
    wants.note(HUB, NGINX, "1", "linux/amd64", "offline")
    result(wants.flush())
    clock.advance(5)
    again = Wants(documents, clock)
    again.note(HUB, NGINX, "1", None, "offline")
    again.note(HUB, NGINX, "2", None, "offline")
    result(again.load())
    assert noted(again) == [("1", 2, 0, 5), ("2", 1, 5, 5)]
    result(again.flush())
    assert kept(documents, clock).snapshot() == again.snapshot()


def test_nothing_is_written_when_nothing_changed() -> None:
    """An idle appliance leaves its disk alone."""
    documents = MemoryDocuments()
    wants = Wants(documents, clock_at())
    result(wants.flush())
    assert result(documents.read((NAME,))) is None
    wants.note(HUB, NGINX, "1", None, "offline")
    for _ in range(3):
        result(wants.flush())
    found = result(documents.read((NAME,)))
    assert found is not None and found[1] == 1


def test_a_full_disk_loses_no_want() -> None:
    """What could not be written is written when there is room."""
    documents = MemoryDocuments()
    wants = Wants(documents, clock_at())
    wants.note(HUB, NGINX, "1", None, "offline")
    write, documents.write = documents.write, lambda *_: fail(OSError(28, "No space left"))  # type: ignore
    failing(wants.flush(), OSError)
    documents.write = write  # type: ignore[method-assign]
    result(wants.flush())
    assert len(kept(documents, clock_at())) == 1


def test_what_cannot_be_read_now_is_not_written_over() -> None:
    """A disk that fails for an hour costs nothing: what was noted before and since is written when it is well again."""
    documents = MemoryDocuments()
    earlier = Wants(documents, clock_at())
    earlier.note(HUB, "library/earlier", "1", None, "offline")
    result(earlier.flush())
    read, documents.read = documents.read, lambda *_: fail(OSError(5, "bad sector"))  # type: ignore
    wants = Wants(documents, clock_at())
    failing(wants.load(), OSError)
    wants.note(HUB, NGINX, "1", None, "offline")
    for _ in range(3):
        result(wants.flush())
    documents.read = read  # type: ignore[method-assign]
    assert len(kept(documents, clock_at())) == 1
    result(wants.flush())
    assert len(kept(documents, clock_at())) == 2


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_document_is_set_aside(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """The appliance starts, and begins anew."""
    documents = MemoryDocuments()
    result(documents.write((NAME,), data, 0))
    wants = kept(documents, clock_at())
    assert not wants.snapshot()
    wants.note(HUB, NGINX, "1", None, "offline")
    result(wants.flush())
    assert len(kept(documents, clock_at())) == 1
    assert result(documents.read((".wants.json.damaged-1",))) == (data, 1)
    logged_errors.clear()


# -- met ------------------------------------------------------------------------------------------------------------


def test_what_is_held_by_now_is_forgotten() -> None:
    """Tag, manifest and layer alike; what is not held stays, and so it does under another repository."""
    site = Appliance(offline=True)
    content = image()
    layer = Digest.parse(content.layers[0].digest)
    for name in (NGINX, "library/other"):
        failing(site.through.manifest(site.at(HUB, name), "1"), Offline)
        failing(site.through.manifest(site.at(HUB, name), Digest.parse(content.digest)), Offline)
        failing(site.through.blob(site.at(HUB, name), layer), Offline)
    failing(site.through.manifest(site.at(HUB, NGINX), "2"), Offline)
    site.hold(content, "1")
    holds = site.services.imports._held.holds
    assert result(site.wants.review(holds)) == 3
    assert {(each.repository, each.reference == "2") for each in site.wants.snapshot()} == {
        ("library/other", False),
        (NGINX, True),
    }


def test_ten_thousand_wants_are_looked_for_in_turns_and_each_repository_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An import that brings some of them keeps no client waiting."""
    site = Appliance(offline=True)
    names = ("library/a", "library/b")
    for number in range(200):
        for name in names:
            site.wants.note(HUB, name, str(number), None, "offline")
    for name in names:
        site.hold(image(), "7", name=name)
    held = site.services.imports._held
    for name in names:
        site.services.repositories._recent.drop((HUB, name))
    read, turns = list[Any](), list[int]()
    documents: Any = site.services.documents
    was_read = documents.read
    monkeypatch.setattr(documents, "read", lambda key: read.append(key) or was_read(key))
    threads: Any = site.services.blobs._graph.manifests._threads
    monkeypatch.setattr(threads, "call", lambda function, *args: turns.append(1) or execute(function, *args))
    assert result(site.wants.review(held.holds)) == 2
    assert len(read) <= 2 and len(turns) >= 4


def test_forgetting_what_is_not_wanted_is_no_error() -> None:
    """And changes nothing."""
    wants = Wants(MemoryDocuments(), clock_at())
    assert result(wants.review(lambda *_: succeed(True))) == 0
    assert wants.forget([(HUB, NGINX, "1")]) == 0
