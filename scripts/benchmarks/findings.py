"""What was measured: figures by server, ratios, and which bars were met; as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass
class Series:
    """
    One figure of one server: a value for each round.

    @ivar at: how much work there was, where a figure is told for several: clients, images, bytes of a blob.
    """

    row: str
    server: str
    figure: str
    unit: str
    values: list[float]
    at: float | None = None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.values)


@dataclass
class Bar:
    """What was to be reached, and what was: C{value} is C{None} where it could not be measured."""

    row: str
    promise: str
    limit: float
    value: float | None
    at_least: bool
    digits: int = 2

    @property
    def met(self) -> bool | None:
        """Whether it was; C{None}: not known."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """For people."""
        word = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        value = "" if self.value is None else f"{self.value:.{self.digits}f}"
        sign = ">=" if self.at_least else "<="
        return f"{word:<13}{self.row:<10}{self.promise:<76}{value:>9}  ({sign} {self.limit:g})"


@dataclass
class Findings:
    """Everything measured in one run."""

    say: Callable[[str], None] = print
    about: dict[str, Any] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(
        self, row: str, server: str, figure: str, unit: str, values: list[float], at: float | None = None
    ) -> None:
        """Keep a figure and show it."""
        series = Series(row, server, figure, unit, values, at)
        self.series.append(series)
        spread = f"{number(min(values))} .. {number(max(values))}" if len(values) > 1 else ""
        where = figure if at is None else f"{figure}, at {number(at)}"
        self.say(f"{row:<10}{server:<24}{where:<34}{number(series.median):>10} {unit:<7}{spread}")

    def find(self, row: str, server: str, figure: str, at: float | None = None) -> Series | None:
        """A figure that was kept."""
        wanted = (row, server, figure, at)
        return next((each for each in self.series if (each.row, each.server, each.figure, each.at) == wanted), None)

    def ratio(self, row: str, figure: str, server: str, peer: str, at: float | None = None) -> float | None:
        """The median of the rounds' ratios: rounds are interleaved, so that what disturbs one disturbs both."""
        mine, theirs = self.find(row, server, figure, at), self.find(row, peer, figure, at)
        if mine is None or theirs is None:
            return None
        return median(a / b for a, b in zip(mine.values, theirs.values, strict=True))

    def fastest(self, row: str, figure: str, but: str) -> str | None:
        """The server with the highest median, C{but} one; C{None} where that one was alone."""
        peers = [each for each in self.series if (each.row, each.figure) == (row, figure) and each.server != but]
        return max(peers, key=lambda each: each.median).server if peers else None

    def at_least(self, row: str, promise: str, limit: float, value: float | None, digits: int = 2) -> None:
        """A bar from below."""
        self.bars.append(Bar(row, promise, limit, value, True, digits))

    def at_most(self, row: str, promise: str, limit: float, value: float | None, digits: int = 2) -> None:
        """A bar from above."""
        self.bars.append(Bar(row, promise, limit, value, False, digits))

    def leave_out(self, what: str, why: str) -> None:
        """Say what was not measured."""
        self.left_out.append(f"{what}: {why}")
        self.say(f"left out: {what}: {why}")

    def conclude(self) -> None:
        """Show each bar."""
        for bar in self.bars:
            self.say(bar.line())

    def document(self) -> dict[str, Any]:
        """All of it, as it is written as JSON."""
        return {
            "about": self.about,
            "series": [{**asdict(each), "median": each.median} for each in self.series],
            "bars": [{**asdict(each), "met": each.met} for each in self.bars],
            "left_out": self.left_out,
        }

    def write(self, path: Path) -> None:
        """Keep all of it."""
        path.write_text(json.dumps(self.document(), indent=1) + "\n")


def number(value: float) -> str:
    """For people, with three digits or all in front of the point: 0.0312, 2.64, 43,836."""
    return f"{value:,.0f}" if abs(value) >= 999.5 or value == 0 else f"{value:.3g}"
