"""Scrubs: everything is looked at once, at the pace that was asked for, also over restarts; one at a time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.cache import scrub
from appliance.cache.repair import FETCHED, UNREFERENCED, WANTED
from appliance.cache.scrub import RANGE, Scrub, ScrubProgress, ScrubRun
from appliance.errors import ScrubUnderWay
from appliance.oci.digest import Digest
from appliance.settings import ScrubSettings
from tests.doubles.deferreds import begin, failing, pending, result, step
from tests.doubles.pullthrough import Cache
from tests.rooms.cache.blobpulls import LAYER, LAYER_DIGEST, stocked
from tests.rooms.cache.test_repair import FLIPPED, IMAGE, IMAGE_DIGEST, damage, offline, pulled, wants

MEGABYTE = 1_000_000


def filled(count: int = 10, size: int = MEGABYTE) -> tuple[Cache, list[Digest]]:
    """An appliance that holds C{count} blobs, and their digests as a scrub comes to them."""
    cache = Cache()
    digests = []
    for number in range(count):
        data = number.to_bytes(size, "big")
        digests.append(Digest.of(data))
        result(cache.store.put(digests[-1], data))
    return cache, sorted(digests, key=lambda each: each.encoded)


def seen(cache: Cache) -> list[Digest]:
    """What is hashed from now on, as it is."""
    found: list[Digest] = []
    verify = cache.store.verify

    def counted(digest: Digest, *paced: Any) -> Any:
        found.append(digest)
        return verify(digest, *paced)

    cache.store.verify = counted
    return found


def outcomes(run: ScrubRun) -> dict[str, str]:
    return {each.digest: each.outcome for each in run.damaged}


def test_everything_is_looked_at_once_and_told() -> None:
    """In the order of their hashes; nothing is damaged, so nothing is moved."""
    cache, digests = filled()
    found, told = seen(cache), list[ScrubProgress]()
    scrubbing = begin(cache.services.scrub.run(100 * MEGABYTE, told.append))
    step(cache.clock, 1.0, 0.01)
    run = result(scrubbing)
    assert found == digests and (run.checked, run.bytes, run.damaged) == (10, 10 * MEGABYTE, [])
    assert run.is_clean and cache.services.scrub.last is run
    assert (told[0].done, told[-1].done, told[-1].total) == (0, 10 * MEGABYTE, 10 * MEGABYTE)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_many_blobs_are_taken_a_range_at_a_time(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ranges that makes, each blob is in one of them."""
    monkeypatch.setattr(scrub, "RANGE", 3)
    assert RANGE > 1000
    cache, digests = filled(count, 100)
    found = seen(cache)
    scrubbing = begin(cache.services.scrub.run())
    step(cache.clock, 1.0, 0.01)
    assert result(scrubbing).checked == count and found == digests


def test_what_is_damaged_is_mended_where_that_is_possible(logged_errors: list[Any]) -> None:
    """A layer, a manifest, and something that no image needs; the upstream is here."""
    hub = stocked()
    cache = pulled(hub)
    stray = Digest.of(b"stray")
    damage(cache, stray, b"x")
    damage(cache)
    damage(cache, IMAGE_DIGEST, b"{}")
    scrubbing = begin(cache.services.scrub.run())
    step(cache.clock, 1.0, 0.01)
    run = result(scrubbing)
    assert outcomes(run) == {str(LAYER_DIGEST): FETCHED, str(IMAGE_DIGEST): FETCHED, str(stray): UNREFERENCED}
    assert (cache.store._blobs[LAYER_DIGEST], cache.store._blobs[IMAGE_DIGEST]) == (LAYER, IMAGE)
    assert run.is_clean and run.checked == 4
    logged_errors.clear()


def test_what_cannot_be_mended_is_told_until_it_is(logged_errors: list[Any]) -> None:
    """By the next scrub as well, which no longer finds it in the store; then a bundle brings it."""
    cache = offline(pulled())
    damage(cache)
    for _ in range(2):
        run = result(begin(cache.services.scrub.run(rate=10**12)))
        assert outcomes(run) == {str(LAYER_DIGEST): WANTED} and not run.is_clean
        assert run.damaged[0].size == len(FLIPPED)
        assert [want[2:] for want in wants(cache)] == [(str(LAYER_DIGEST), "damaged")]
    result(cache.store.put(LAYER_DIGEST, LAYER))
    run = result(begin(cache.services.scrub.run(rate=10**12)))
    assert run.damaged == [] and run.is_clean
    logged_errors.clear()


def test_a_run_does_not_wait_for_ever_for_what_is_fetched_again(logged_errors: list[Any]) -> None:
    """An upstream that sends a byte a minute: it is reported as lacking, and goes on."""
    hub = stocked()
    cache = pulled(hub)
    damage(cache)
    hub.by_hand = True
    scrubbing = begin(cache.services.scrub.run(rate=10**12))
    cache.clock.advance(scrub.MENDED_WITHIN - 1)
    assert pending(scrubbing)
    cache.clock.advance(2)
    assert outcomes(result(scrubbing)) == {str(LAYER_DIGEST): WANTED}
    hub.bodies[-1].complete()
    assert cache.services.repair.lacking == []
    logged_errors.clear()


def test_it_reads_no_faster_than_it_is_told() -> None:
    """Ten blobs of a megabyte at one a second, by the clock that only counts; small ones count as what a seek costs."""
    cache, digests = filled()
    found = seen(cache)
    scrubbing = begin(cache.services.scrub.run(MEGABYTE))
    for second in range(1, 9):
        cache.clock.advance(1.0)
        assert second <= len(found) <= second + 2
    step(cache.clock, 3.0)
    assert result(scrubbing).checked == 10

    cache, _ = filled(100, 10)
    scrubbing = begin(cache.services.scrub.run(MEGABYTE))
    step(cache.clock, 12.0, 0.01)
    assert pending(scrubbing)
    step(cache.clock, 2.0, 0.01)
    assert result(scrubbing).bytes == 1000


def test_what_is_deleted_meanwhile_is_no_damage() -> None:
    """A collection that runs beside it; and what comes meanwhile was hashed on its way in."""
    cache, digests = filled()
    scrubbing = begin(cache.services.scrub.run(MEGABYTE))
    for digest in digests[5:]:
        result(cache.store.delete(digest))
    result(cache.store.put(Digest.of(b"new"), b"new"))
    step(cache.clock, 20.0)
    run = result(scrubbing)
    assert run.checked == 5 and run.damaged == [] and run.unread == 0


def test_a_blob_that_the_disk_refuses_is_told_and_stays(logged_errors: list[Any]) -> None:
    """Of which nothing is known: it is not moved, and the run is not clean."""
    cache, digests = filled(3)
    verify = cache.store.verify

    def refused(digest: Digest, *paced: Any) -> Any:
        if digest == digests[1]:
            raise PermissionError(13, "Permission denied")
        return verify(digest, *paced)

    cache.store.verify = refused
    run = result(begin(cache.services.scrub.run(10**12)))
    assert (run.checked, run.unread, run.damaged, run.is_clean) == (2, 1, [], False)
    assert cache.store.size(digests[1]) == MEGABYTE
    logged_errors.clear()


# -- one at a time ----------------------------------------------------------------------------------------------------


def daily(cache: Cache, every: float | None = 86400.0, rate: int = MEGABYTE) -> Scrub:
    return Scrub(
        cache.store, cache.services.repair, cache.state, cache.clock, lambda: ScrubSettings(every=every, rate=rate)
    )


def test_a_second_order_is_refused_and_the_first_can_be_left() -> None:
    """An operator who presses Ctrl-C may order another one."""
    cache, _ = filled()
    runs = cache.services.scrub
    first = begin(runs.run(MEGABYTE))
    failing(runs.run(), ScrubUnderWay)
    first.cancel()
    failing(first, CancelledError)
    second = begin(runs.run(MEGABYTE))
    step(cache.clock, 20.0)
    assert result(second).checked == 10


def test_the_job_waits_for_its_time_and_then_runs_once() -> None:
    """Never at a start: the first one is due as long after the first start as others after the one before."""
    cache, _ = filled()
    runs = daily(cache)
    result(begin(runs.job()))
    cache.clock.advance(86399.0)
    result(begin(runs.job()))
    assert runs.last is None
    cache.clock.advance(1.0)
    working = begin(runs.job())
    step(cache.clock, 20.0)
    # The audit log has what it came to.
    assert result(working) is runs.last
    assert runs.last is not None and runs.last.checked == 10
    assert result(begin(runs.job())) is None
    assert not runs.is_under_way


def test_no_job_where_it_is_switched_off() -> None:
    """never."""
    cache, _ = filled()
    runs = daily(cache, None)
    result(begin(runs.job()))
    cache.clock.advance(10 * 365 * 86400.0)
    result(begin(runs.job()))
    assert runs.last is None and not runs.is_under_way


def begun(cache: Cache) -> tuple[Scrub, Deferred[ScrubRun | None]]:
    """A job in the middle of its run."""
    runs = daily(cache)
    result(begin(runs.job()))
    cache.clock.advance(86400.0)
    working = begin(runs.job())
    step(cache.clock, 4.0)
    return runs, working


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_goes_on_where_it_was(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop with the next blob, after a kill with what was noted last; nothing begins anew."""
    monkeypatch.setattr(scrub, "NOTED_EVERY", 0.0)
    cache, digests = filled()
    runs, working = begun(cache)
    if end == "kill":
        result(begin(runs.flush()))
    result(begin(runs.stop()))
    result(working)
    if end == "stop":
        result(begin(runs.flush()))
    found = seen(cache)
    again = daily(cache)
    working = begin(again.job())
    step(cache.clock, 20.0)
    result(working)
    assert 0 < len(found) < 10 and found == digests[10 - len(found) :]
    assert again.last is not None and again.last.checked == 10


def test_an_order_interrupts_the_job_and_counts_for_it() -> None:
    """It looks at everything, so that the job has nothing left to do."""
    cache, _ = filled()
    runs, working = begun(cache)
    order = begin(runs.run(10**12))
    result(working)
    assert result(order).checked == 10
    result(begin(runs.job()))
    assert not runs.is_under_way and runs.last is not None
    cache.clock.advance(86400.0)
    assert pending(begin(runs.job()))
    result(begin(runs.stop()))


def test_a_moment_in_the_future_was_written_by_another_clock() -> None:
    """A clock that was a year ahead does not keep the disk from being looked at for a year."""
    cache, _ = filled()
    runs = daily(cache)
    cache.clock.advance(365 * 86400.0)
    result(begin(runs.job()))
    result(begin(runs.flush()))
    cache.clock.rightNow -= 365 * 86400.0
    later = daily(cache)
    result(begin(later.job()))
    cache.clock.advance(2 * 86400.0)
    result(begin(later.job()))
    cache.clock.advance(366 * 86400.0)
    assert pending(begin(later.job()))
    result(begin(later.stop()))
