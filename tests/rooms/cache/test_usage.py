"""Usage: what was really pulled, how often and when last."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.internet.task import Clock

from appliance.cache import usage as module
from appliance.cache.usage import INTERVAL, NAME, Usage, Use
from appliance.errors import Offline
from appliance.index.memory import MemoryDocuments
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.clocks import TwoClocks
from tests.doubles.deferreds import failing, result
from tests.doubles.images import image
from tests.doubles.pullthrough import NOW, clock_at


def kept(documents: MemoryDocuments, clock: Clock) -> Usage:
    """As after a restart."""
    usage = Usage(documents, clock)
    result(usage.load())
    return usage


def test_a_pull_counts_and_a_look_does_not() -> None:
    """Monitoring that asks for headers keeps nothing alive; names count in full."""
    site = Appliance(offline=True)
    digest = site.hold(image(), "1")
    result(site.through.manifest(site.at(HUB, "nginx"), "1"))
    assert site.usage.of(HUB, NGINX, "1") is None
    result(site.through.manifest(site.at(HUB, "nginx"), "1", pulled=True))
    site.clock.advance(10)
    result(site.through.manifest(site.at(HUB, NGINX), digest, pulled=True))
    assert site.usage.of(HUB, NGINX, "1") == Use(1, NOW)
    assert site.usage.last_pulled(HUB, NGINX, str(digest)) == NOW + 10


def test_what_was_refused_was_not_pulled() -> None:
    """A want is no use."""
    site = Appliance(offline=True)
    failing(site.through.manifest(site.at(HUB, NGINX), "1", pulled=True), Offline)
    assert len(site.usage) == 0


def test_a_tag_is_used_when_its_digest_is() -> None:
    """Runtimes ask what a tag means and pull the digest."""
    usage = Usage(MemoryDocuments(), clock_at())
    digest = str(Digest.of(b"x"))
    usage.note(HUB, NGINX, "1")
    usage.note(HUB, NGINX, digest, 5)
    assert usage.of(HUB, NGINX, "1", digest) == Use(5, NOW)
    assert usage.of(HUB, NGINX, "2") is None and usage.of(HUB, "other", "1") is None


def test_pulls_noted_for_others_count() -> None:
    """The hot lane tells of its hits a few seconds later; an upstream that was unconfigured meanwhile is no error."""
    site = Appliance()
    site.through.note_pulls(site.at(HUB, "nginx"), "1", 7)
    pulled = site.at(HUB, "nginx")
    site.through.access.remotes = {}
    site.through.note_pulls(pulled, "1", 7)
    assert site.usage.of(HUB, NGINX, "1") == Use(7, NOW) and len(site.usage) == 1


def test_usage_outlives_the_process() -> None:
    """And goes on counting."""
    documents, clock = MemoryDocuments(), clock_at()
    usage = Usage(documents, clock)
    usage.note("r.example:5000", "team/a", "1", 2)
    usage.note(HUB, NGINX, "1", 3)
    result(usage.flush(now=True))
    clock.advance(10)
    again = Usage(documents, clock)
    again.note(HUB, NGINX, "1")
    result(again.load())
    assert again.of(HUB, NGINX, "1") == Use(4, NOW + 10)
    assert again.of("r.example:5000", "team/a", "1") == Use(2, NOW)


def test_it_is_written_now_and_then_only() -> None:
    """Thousands of pulls a second are one write every few seconds; a stop writes at once."""
    documents, clock = MemoryDocuments(), clock_at()
    usage = Usage(documents, clock)

    def version() -> int:
        found = result(documents.read((NAME,)))
        return 0 if found is None else found[1]

    result(usage.flush(now=True))
    assert version() == 0
    usage.note(HUB, NGINX, "1")
    result(usage.flush())
    usage.note(HUB, NGINX, "1")
    clock.advance(INTERVAL - 1)
    result(usage.flush())
    assert version() == 1
    clock.advance(1)
    result(usage.flush())
    assert version() == 2
    usage.note(HUB, NGINX, "1")
    result(usage.flush(now=True))
    assert version() == 3


def test_a_large_document_is_written_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty thousand references do not make writing them the appliance's work."""
    monkeypatch.setattr(module, "PER_THOUSAND", 100.0)
    clock = clock_at()
    usage = Usage(MemoryDocuments(), clock)
    for number in range(1000):
        usage.note(HUB, NGINX, str(number))
    result(usage.flush())
    usage.note(HUB, NGINX, "1")
    clock.advance(INTERVAL + 99)
    result(usage.flush())
    assert usage._document.changed
    clock.advance(1)
    result(usage.flush())
    assert not usage._document.changed


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused goes first, also over a restart."""
    monkeypatch.setattr(module, "LIMIT", 2)
    documents, clock = MemoryDocuments(), clock_at()
    usage = Usage(documents, clock)
    for reference in ("b", "a", "b"):
        usage.note(HUB, NGINX, reference)
        clock.advance(1)
    result(usage.flush(now=True))
    again = kept(documents, clock)
    again.note(HUB, "another", "c")
    assert again.of(HUB, NGINX, "a") is None
    assert again.of(HUB, NGINX, "b") is not None and len(again) == 2


def test_what_is_dropped_after_a_restart_is_what_would_have_been_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is by repository, and age counts across them."""
    monkeypatch.setattr(module, "LIMIT", 3)
    documents, clock = MemoryDocuments(), clock_at()
    usage = Usage(documents, clock)
    for repository, reference in (("a", "x"), ("b", "y"), ("a", "z")):
        usage.note(HUB, repository, reference)
        clock.advance(1)
    result(usage.flush(now=True))
    again = kept(documents, clock)
    for reference in ("1", "2"):
        again.note(HUB, "c", reference)
    assert again.of(HUB, "b", "y") is None and again.of(HUB, "a", "z") is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz")), max_size=40), st.integers(0, 40))
def test_those_used_last_are_kept_in_whatever_order_they_were_used(pulls: list[tuple[str, str]], cut: int) -> None:
    """So many as there is room for, of all repositories together, and whenever the appliance is started again."""
    documents, clock = MemoryDocuments(), clock_at()
    usage = Usage(documents, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIMIT", 5)
        for number, (repository, reference) in enumerate(pulls):
            if number == cut:
                result(usage.flush(now=True))
                usage = kept(documents, clock)
            usage.note(HUB, repository, reference)
            clock.advance(1)
    latest = list(dict.fromkeys(reversed(pulls)))
    assert [each for each in latest if usage.of(HUB, *each) is not None] == latest[:5]
    assert len(usage) == len(latest[:5])


def test_what_a_tag_meant_before_was_used_when_the_tag_was() -> None:
    """An image that was pulled by its tag every day is not the longest unused on the day that the tag moves."""
    clock = clock_at()
    usage = Usage(MemoryDocuments(), clock)
    usage.inherit(HUB, NGINX, "1", "sha256:old")
    assert usage.of(HUB, NGINX, "sha256:old") is None
    usage.note(HUB, NGINX, "sha256:old", 3)
    clock.advance(10)
    usage.note(HUB, NGINX, "1")
    clock.advance(10)
    usage.inherit(HUB, NGINX, "1", "sha256:old")
    assert usage.of(HUB, NGINX, "sha256:old") == Use(3, NOW + 10)
    usage.note(HUB, NGINX, "sha256:old")
    usage.inherit(HUB, NGINX, "1", "sha256:old")
    assert usage.of(HUB, NGINX, "sha256:old") == Use(4, NOW + 20)


def test_a_full_disk_loses_no_count() -> None:
    """What could not be written is written when there is room."""
    documents = MemoryDocuments()
    usage = Usage(documents, clock_at())
    usage.note(HUB, NGINX, "1")
    write, documents.write = documents.write, lambda *_: fail(OSError(28, "No space left"))  # type: ignore
    failing(usage.flush(now=True), OSError)
    documents.write = write  # type: ignore[method-assign]
    result(usage.flush(now=True))
    assert len(kept(documents, clock_at())) == 1


def test_what_cannot_be_read_now_is_not_written_over() -> None:
    """A disk that fails for an hour costs nothing: what was noted before and since is written when it is well again."""
    documents = MemoryDocuments()
    earlier = Usage(documents, clock_at())
    earlier.note(HUB, "library/earlier", "1")
    result(earlier.flush(now=True))
    read, documents.read = documents.read, lambda *_: fail(OSError(5, "bad sector"))  # type: ignore
    usage = Usage(documents, clock_at())
    failing(usage.load(), OSError)
    usage.note(HUB, NGINX, "1")
    for _ in range(3):
        result(usage.flush(now=True))
    documents.read = read  # type: ignore[method-assign]
    assert len(kept(documents, clock_at())) == 1
    result(usage.flush(now=True))
    assert len(kept(documents, clock_at())) == 2


DAMAGED = [b"", b"[", b'["a"]', b'{"docker.io/a": {"1": ["x"]}}', b'{"\xff": {}}', b"[" * 100_000]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_document_is_set_aside(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """The appliance starts, and begins to count anew."""
    documents = MemoryDocuments()
    result(documents.write((NAME,), data, 0))
    usage = kept(documents, clock_at())
    usage.note(HUB, NGINX, "1")
    result(usage.flush(now=True))
    assert len(kept(documents, clock_at())) == 1
    logged_errors.clear()


def test_a_pull_at_a_time_to_come_was_one_of_now() -> None:
    """It was written by another clock; it must not keep an image for years."""
    documents, clock = MemoryDocuments(), TwoClocks(NOW)
    before = Usage(documents, clock)
    before.note(HUB, NGINX, "1")
    result(before.flush(now=True))
    clock.set = -1000.0
    after = kept(documents, clock)  # type: ignore[arg-type]
    assert after.of(HUB, NGINX, "1") == Use(1, NOW - 1000.0)
    clock.advance(10.0)
    after.note(HUB, NGINX, "1")
    assert after.of(HUB, NGINX, "1") == Use(2, NOW - 990.0)


def test_what_is_cheap_to_lose_is_written_in_time_whatever_the_clock_is_set_to() -> None:
    """Every few seconds, by the clock that counts; with the moment that the other one shows."""
    documents, clock = MemoryDocuments(), TwoClocks(NOW)
    usage = Usage(documents, clock)
    for by in (-1e8, 1e8):
        usage.note(HUB, NGINX, "1")
        clock.set = by
        clock.advance(INTERVAL)
        result(usage.flush())
        assert kept(documents, clock).of(HUB, NGINX, "1") is not None  # type: ignore[arg-type]
        usage.note(HUB, NGINX, "1")
        assert usage.last_pulled(HUB, NGINX, "1") == clock.wall()
