"""What holds for every test: it leaves nothing behind, and where real clients are required it is not left out."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import twisted.plugins
from twisted.internet import reactor
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

# The checkout's plugins, also where it is not installed.
twisted.plugins.__path__.insert(0, str(Path(__file__).parent.parent / "plugins"))

CLIENTS_REQUIRED = os.environ.get("PULLCACHE_REQUIRE_CLIENTS") == "1"


@pytest.fixture(autouse=True)
def logged_errors(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """
    A test ends without a Deferred dropped in failure, and without a call left on the reactor.

    The value is the list of errors logged so far; a test that expects one looks at it and clears it. A
    L{SynchronousTestCase} counts its logged errors itself.
    """
    errors: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("isError"):
            errors.append(event)

    # By function: a repeating call of a wider fixture is another DelayedCall each time.
    before = [call.func for call in _pending()]
    log.addObserver(observe)
    try:
        yield errors
        # Failures and their frames refer to each other, so a dropped Deferred is noticed when they are collected.
        gc.collect()
    finally:
        log.removeObserver(observe)
    left = [call for call in _pending() if call.func not in before]
    for call in left:
        call.cancel()
    counts_itself = request.cls is not None and issubclass(request.cls, SynchronousTestCase)
    assert counts_itself or not errors, "\n".join(log.textFromEventDict(error) or "" for error in errors)
    assert not left, f"left on the reactor: {left}"


@pytest.fixture(autouse=True, scope="module")
def settled_objects() -> None:
    """What is there before a module's first test is not looked through after each."""
    gc.collect()
    gc.freeze()


def _pending() -> list[Any]:
    """The calls on the reactor; Any, since IDelayedCall does not promise the function."""
    return list(reactor.getDelayedCalls())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where real clients are required, a test that goes without one has failed."""
    report = yield
    if CLIENTS_REQUIRED and item.get_closest_marker("real_client") and report.skipped:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if CLIENTS_REQUIRED and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"PULLCACHE_REQUIRE_CLIENTS is set, and this was left out: {reason}"
