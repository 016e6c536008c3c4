"""Imports that are cut at any moment: nothing is half published, and they go on where they stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.bundle import blobingest
from appliance.errors import (
    BundleError,
)
from appliance.oci.digest import Digest
from tests.doubles.deferreds import result
from tests.doubles.exports import NGINX, Site
from tests.doubles.receiver import Receiver
from tests.doubles.threads import HeldThreads
from tests.rooms.bundle.importing import EXPECTED, GHCR, MULTI, NEWER, OTHER, site, write


def test_a_layer_that_was_cut_goes_on_where_it_stopped(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gigabytes that is what an import's end is about."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    whole = Receiver()
    whole.run(bundle)
    receiver = Receiver()
    receiver.disk.break_at(whole.disk.done - 12, dead=True, afterwards=False)
    with pytest.raises(BundleError, match="the store cannot take it: No space left on device; make room"):
        receiver.run(bundle)
    [cut] = receiver.store.unfinished()
    staged = result_size(receiver, cut)
    assert staged > 0
    left = result(receiver.store.inspect(cut))
    assert left.origin.upstream is None and left.origin.size > left.size == staged, "a start cannot tell if it is whole"
    before = receiver.held()
    receiver.disk.mend()
    receiver.start()
    assert receiver.recover() == 0
    receipt = receiver.run(bundle)
    assert receiver.names() == EXPECTED
    assert receipt.read_bytes == whole.held() - before - staged
    assert receiver.progress[-2].done == receiver.progress[-2].total == receipt.new_bytes


def result_size(receiver: Receiver, digest: Digest) -> int:
    async def size() -> int:
        ingest = await receiver.store.ingest(digest)
        ingest.close()
        return int(ingest.size)

    found: int = result(size())
    return found


def test_wrong_bytes_left_by_a_power_cut_are_read_again(bundle: Path) -> None:
    """What was staged need not be what was written; the bundle is right."""
    receiver = Receiver()
    layer = OTHER.layers[0]

    async def stage() -> None:
        ingest = await receiver.store.ingest(Digest.parse(layer.digest))
        await ingest.write([bytes(1000)])
        ingest.close()

    result(stage())
    receiver.run(bundle)
    assert receiver.serves(OTHER, GHCR)


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("afterwards", [True, False])
def test_wherever_it_is_cut_nothing_is_half_published(
    tmp_path: Path, dead: bool, afterwards: bool, logged_errors: list[dict[str, Any]]
) -> None:
    """
    Every write of blobs and documents fails once, before or after it did its work, with or without the process dying;
    after a restart all references are there or none, and a second import ends what was begun.
    """
    before = Site().hold(NEWER, NGINX, "1.27")
    old = write(tmp_path, before.file(before.export(all=True)), "old.tar")
    made = site()
    new = write(tmp_path, made.file(made.export(all=True)), "new.tar")
    started = {"docker.io/library/nginx:1.27": NEWER.digest}
    number = 0
    while True:
        number += 1
        receiver = Receiver()
        receiver.run(old)
        receiver.disk.break_at(number, dead, afterwards)
        told = ""
        try:
            receiver.run(new)
        except (BundleError, OSError) as error:
            told = str(error)
        reached = receiver.disk.done >= number
        receiver.disk.mend()
        seen = receiver.names() if told and not dead else None
        receiver.start()
        receiver.recover()
        assert receiver.names() in (started, EXPECTED), number
        if not told:
            assert receiver.names() == EXPECTED, number
        if seen is not None:
            assert seen == receiver.names() == started, number
        receiver.run(new)
        assert receiver.names() == EXPECTED
        assert receiver.serves(MULTI, NGINX) and receiver.serves(OTHER, GHCR)
        if not reached:
            break
    assert number > 15
    assert all(event["log_failure"].check(OSError) for event in logged_errors)
    logged_errors.clear()


def test_an_import_can_be_cancelled_at_any_moment(bundle: Path) -> None:
    """Nothing is published, and every file is closed."""
    for steps in range(60):
        open_before = len(os.listdir("/proc/self/fd"))
        receiver = Receiver()
        receiver.threads = HeldThreads()
        receiver.start()
        results: list[Any] = []
        task = Deferred.fromCoroutine(receiver.begin([bundle]))
        task.addBoth(results.append)
        for _ in range(steps):
            if receiver.threads.waiting:
                receiver.threads.step()
        ended = bool(results)
        task.cancel()
        while receiver.threads.waiting:
            receiver.threads.step()
        if ended:
            assert receiver.names() == EXPECTED
            break
        results[0].trap(CancelledError)
        assert receiver.names() == {}
        assert len(os.listdir("/proc/self/fd")) == open_before
    else:
        raise AssertionError("it never ended by itself")


def test_the_next_piece_is_read_while_one_is_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that reads and another that writes work at the same time."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    receiver = Receiver()
    receiver.threads = HeldThreads()
    receiver.start()
    overlapped = []
    write_blob = receiver.store.ingest

    def ingest(digest: Digest) -> Any:
        def wrapped(made: Any) -> Any:
            write_before = made.write

            def observed(data: list[bytes]) -> Any:
                overlapped.append(len(receiver.threads.waiting))
                return write_before(data)

            made.write = observed
            return made

        return write_blob(digest).addCallback(wrapped)

    monkeypatch.setattr(receiver.store, "ingest", ingest)
    done: list[Any] = []
    Deferred.fromCoroutine(receiver.begin([bundle])).addBoth(done.append)
    while receiver.threads.waiting:
        receiver.threads.step()
    assert done[0].refs and len(overlapped) >= 9
    assert overlapped == [1] * (len(overlapped) - 1) + [0], "behind the last piece there is none to be read"


def test_progress_counts_what_is_new_up_to_the_whole(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that ends at its end."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    receiver = Receiver()
    receipt = receiver.run(bundle)
    stored = [progress for progress in receiver.progress if progress.stage == "storing"]
    assert [progress.done for progress in stored] == sorted(progress.done for progress in stored)
    assert {progress.total for progress in stored} == {receipt.new_bytes}
    assert receiver.progress[-1].stage == "publishing" and receiver.progress[-1].done == receipt.new_bytes
