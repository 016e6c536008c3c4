"""The end of the service: whatever fails, the rest is saved, and nothing keeps the process alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import fail
from twisted.internet.testing import MemoryReactorClock

from appliance.flow.disk import InlineThreads
from appliance.settings import Settings
from appliance.tap import FLUSH_INTERVAL, PullcacheService
from tests.doubles.deferreds import result


class Kept:
    """Notes that it was stopped, or given back."""

    done = False

    def stop(self) -> None:
        self.done = True

    release = stop


@pytest.fixture
def service(tmp_path: Path) -> PullcacheService:
    settings = Settings(store=tmp_path, access_log="off", audit_log="off", admin=None)
    made = PullcacheService({"settings": settings, "config": "here.yaml"}, MemoryReactorClock())  # type: ignore
    made._threads = InlineThreads()  # type: ignore[assignment]
    made._services = made.wire()
    made._pool, made._ownership = Kept(), Kept()  # type: ignore[assignment]
    return made


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a fault of ours")


@pytest.mark.parametrize("at_fault", ["scrub.stop", "prefetch.stop", "flights.stop", "note_pulls", "usage.flush"])
def test_a_step_that_fails_holds_no_stop(
    service: PullcacheService, at_fault: str, logged_errors: list[dict[str, Any]]
) -> None:
    *owner, name = at_fault.split(".")
    setattr(getattr(service._services, owner[0]) if owner else service._services, name, broken)
    saved: list[bool] = []
    service._services.repositories.flush = lambda whole=False: saved.append(whole) or fail(OSError("full"))  # type: ignore
    assert result(service.stopService()) is None
    assert True in saved
    assert service._pool.done and service._ownership.done  # type: ignore[attr-defined]
    assert logged_errors
    logged_errors.clear()


def test_a_timer_goes_on_after_a_fault(service: PullcacheService, logged_errors: list[dict[str, Any]]) -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        broken()

    service._every(FLUSH_INTERVAL, work, "saving")
    for _ in range(3):
        service._reactor.advance(FLUSH_INTERVAL)
    assert len(calls) == 3
    result(service.stopService())
    service._reactor.advance(FLUSH_INTERVAL)
    assert len(calls) == 3
    assert len(logged_errors) == 3
    logged_errors.clear()
