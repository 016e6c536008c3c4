"""The table of outages: what a client saw, printed when the tests of it ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Row:
    """
    One row: an upstream, what was asked for, and what a client saw who asked one time after the other.

    @ivar cached: in which state the cache has what was asked for.
    @ivar seconds: until each answer, in virtual seconds.
    @ivar told: C{Cache-Status} of the first two, without our name.
    @ivar warned: whether the first had a C{Warning}.
    """

    upstream: str
    cached: str
    asked: str
    status: str
    seconds: tuple[float, ...]
    told: tuple[str, str]
    warned: bool

    @property
    def outcome(self) -> tuple[str, ...]:
        """The cells behind what was asked for."""
        again = "" if self.told[0] == self.told[1] else self.told[1]
        waits = tuple(f"{each:.0f} s" if each else "-" for each in self.seconds)
        return (self.status, *waits, self.told[0], "yes" if self.warned else "", again)


HEADINGS = ("upstream", "asked for", "status", "1st", "2nd", "3rd", "Cache-Status: pullcache;", "Warning", "then")
LEGEND = (
    "fresh, stale: tags and lists of tags; held: manifests and blobs by digest; not held: any of them; barred: stale,",
    "and serve_stale is off for what the upstream does; too stale: max_stale has passed; deleted: missing: delete.",
    "1st, 2nd, 3rd: virtual seconds until each answer; a later one is told the same as the first unless it says then.",
)
ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Takes a row of the table."""
    return request.config.stash.setdefault(ROWS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table; what was asked for with the same outcome shares a line."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    lines = [HEADINGS, *_grouped(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    terminalreporter.section("outages")
    for line in (*LEGEND, ""):
        terminalreporter.write_line(line)
    before = ""
    for line in lines:
        shown = ("" if line[0] == before else line[0], *line[1:])
        before = line[0]
        cells = [cell.ljust(width) for cell, width in zip(shown, widths, strict=True)]
        terminalreporter.write_line("  ".join(cells).rstrip())


def _grouped(rows: list[Row]) -> list[tuple[str, ...]]:
    order = {row.upstream: number for number, row in reversed(list(enumerate(rows)))}
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    everything: dict[str, set[str]] = {}
    for row in sorted(rows, key=lambda row: order[row.upstream]):
        everything.setdefault(row.cached, set()).add(row.asked)
        groups.setdefault((row.upstream, *row.outcome), {}).setdefault(row.cached, []).append(row.asked)
    return [
        (upstream, ", ".join(_named(cached, asked, everything[cached]) for cached, asked in states.items()), *outcome)
        for (upstream, *outcome), states in groups.items()
    ]


def _named(cached: str, asked: list[str], everything: set[str]) -> str:
    """A state stands for all that was asked for in it."""
    return cached if set(asked) == everything else f"{'/'.join(asked)} {cached}"
