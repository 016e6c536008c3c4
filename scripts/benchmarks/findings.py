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
    """One figure of one server: a value for each round."""

    row: str
    server: str
    figure: str
    unit: str
    values: list[float]

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
        return f"{word:<13}{self.row:<10}{self.promise:<66}{value:>9}  ({sign} {self.limit:g})"


@dataclass
class Findings:
    """Everything measured in one run."""

    say: Callable[[str], None] = print
    about: dict[str, Any] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, row: str, server: str, figure: str, unit: str, values: list[float]) -> None:
        """Keep a figure and show it."""
        series = Series(row, server, figure, unit, values)
        self.series.append(series)
        spread = f"{min(values):.4g} .. {max(values):.4g}" if len(values) > 1 else ""
        self.say(f"{row:<10}{server:<24}{figure:<22}{series.median:>12,.4g} {unit:<8}{spread}")

    def find(self, row: str, server: str, figure: str) -> Series | None:
        """A figure that was kept."""
        wanted = (row, server, figure)
        return next((each for each in self.series if (each.row, each.server, each.figure) == wanted), None)

    def ratio(self, row: str, figure: str, server: str, peer: str) -> float | None:
        """The median of the rounds' ratios: rounds are interleaved, so that what disturbs one disturbs both."""
        mine, theirs = self.find(row, server, figure), self.find(row, peer, figure)
        if mine is None or theirs is None:
            return None
        return median(a / b for a, b in zip(mine.values, theirs.values, strict=True))

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

    def write(self, path: Path) -> None:
        """All of it as JSON."""
        document = {
            "about": self.about,
            "series": [{**asdict(each), "median": each.median} for each in self.series],
            "bars": [{**asdict(each), "met": each.met} for each in self.bars],
            "left_out": self.left_out,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
