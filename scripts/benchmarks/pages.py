"""What a run found, for people: pictures (where matplotlib is there), and the tables of C{docs/performance.md}."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.contenders import DISTRIBUTION, NGINX, PULLCACHE, REGISTRY, ZOT
from benchmarks.findings import number

PAGE = "performance.md"
PICTURES = "performance"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"
COLOURS = {PULLCACHE: "#c2410c", NGINX: "#6b7280", DISTRIBUTION: "#2563eb", ZOT: "#0d9488", REGISTRY: "#7dd3fc"}
_OTHER = "#a1a1aa"
_COLUMNS = 4


def show(figures: Path, docs: Path | None, say: Callable[[str], None]) -> None:
    """
    Draw a run beside its figures.

    @param docs: the folder of the page that gets the pictures and tables as well.
    """
    document = json.loads(figures.read_text())
    if docs is not None:
        page = docs / PAGE
        page.write_text(filled(page.read_text(), {"goals": goals(document), "figures": tables(document)}))
        say(f"tables: {page}")
    if find_spec("matplotlib") is None:
        say("no pictures: matplotlib is missing (the extra 'bench' has it)")
        return
    for kind, panels in (("bars", bars(document)), ("lines", lines(document))):
        if not panels:
            continue
        picture = figures.with_name(f"{figures.stem}-{kind}.svg")
        draw(kind, panels, picture)
        say(f"picture: {picture}")
        if docs is not None:
            (docs / PICTURES).mkdir(exist_ok=True)
            shutil.copyfile(picture, docs / PICTURES / f"{kind}.svg")


# -- what is in them --------------------------------------------------------------------------------------------------


def bars(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Series by their title, of each figure that more than one server has."""
    return _panels(each for each in document["series"] if each["at"] is None)


def lines(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Series by their title, of each figure that is told for several amounts of work."""
    told = [each for each in document["series"] if each["at"] is not None]
    return _panels(told, alone=True)


def _panels(series: Iterable[dict[str, Any]], alone: bool = False) -> dict[str, list[dict[str, Any]]]:
    panels: dict[str, list[dict[str, Any]]] = {}
    for each in series:
        panels.setdefault(f"{each['row']}: {each['figure']} ({each['unit']})", []).append(each)
    return {title: found for title, found in panels.items() if alone or len(found) > 1}


def goals(document: dict[str, Any]) -> str:
    """A table of what was to be reached, and what was."""
    rows = ["| row | goal | reached | |", "| --- | --- | --- | --- |"]
    for bar in document["bars"]:
        word = {True: "yes", False: "**no**", None: "not measured"}[bar["met"]]
        sign = "at least" if bar["at_least"] else "at most"
        value = "–" if bar["value"] is None else f"{bar['value']:.{bar['digits']}f}"
        rows.append(f"| {bar['row']} | {bar['promise']}: {sign} {bar['limit']:g} | {value} | {word} |")
    return "\n".join(rows)


def tables(document: dict[str, Any]) -> str:
    """A table for each row: medians, and the lowest and the highest round."""
    parts = []
    for row in dict.fromkeys(each["row"] for each in document["series"]):
        of = [each for each in document["series"] if each["row"] == row]
        servers = list(dict.fromkeys(each["server"] for each in of))
        parts.append(f"| {row} | {' | '.join(servers)} |\n|{' --- |' * (1 + len(servers))}")
        for figure, unit, at in dict.fromkeys((each["figure"], each["unit"], each["at"]) for each in of):
            cells = []
            for server in servers:
                found = [e for e in of if (e["server"], e["figure"], e["at"]) == (server, figure, at)]
                cells.append(_cell(found[0]) if found else "–")
            where = "" if at is None else f" at {number(at)}"
            parts[-1] += f"\n| {figure}{where}, {unit} | {' | '.join(cells)} |"
    facts = ", ".join(f"{name} {value}" for name, value in document["about"].items())
    return "\n\n".join([f"Of this run: {facts}.", *parts, *(f"Left out: {each}." for each in document["left_out"])])


def _cell(series: dict[str, Any]) -> str:
    low, high = number(min(series["values"])), number(max(series["values"]))
    return number(series["median"]) + (f" ({low}–{high})" if low != high else "")


def filled(text: str, parts: dict[str, str]) -> str:
    """
    The page with new parts between the marks of each.

    @raise ValueError: it does not have the marks.
    """
    for name, part in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"the page has no part {name!r}: {begin} and {end}")
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


# -- drawing ----------------------------------------------------------------------------------------------------------


def draw(kind: str, panels: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """All panels of a kind as one picture, whose text is text: it stays small."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pullcache", "font.size": 7})
    height = -(-len(panels) // _COLUMNS)
    figure, axes = pyplot.subplots(
        height, _COLUMNS, figsize=(14, 1.2 * height if kind == "bars" else 2.4 * height), squeeze=False
    )
    flat = [each for row in axes for each in row]
    for axis, (title, series) in zip(flat, panels.items(), strict=False):
        axis.set_title(title, loc="left", fontsize=7.5)
        axis.spines[["top", "right"]].set_visible(False)
        (_bars if kind == "bars" else _lines)(axis, series)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(target, facecolor="white", metadata={"Date": None})
    pyplot.close(figure)


def _bars(axis: Any, series: list[dict[str, Any]]) -> None:
    middle = [each["median"] for each in series]
    spread = [
        [each["median"] - min(each["values"]) for each in series],
        [max(each["values"]) - each["median"] for each in series],
    ]
    names = [each["server"] for each in series]
    axis.barh(names, middle, xerr=spread, color=[_colour(name) for name in names], error_kw={"lw": 0.8})
    axis.invert_yaxis()
    axis.margins(x=0.18)
    # The values are beside the bars.
    axis.xaxis.set_visible(False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(left=False)
    for place, each in enumerate(series):
        axis.text(max(each["values"]), place, f"  {number(each['median'])}", va="center")


def _colour(name: str) -> str:
    """Of a server; as a proxy it has its own."""
    return COLOURS.get(name.removesuffix(" proxy"), _OTHER)


def _lines(axis: Any, series: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name in dict.fromkeys(each["server"] for each in series):
        points = sorted((each["at"], each["median"]) for each in series if each["server"] == name)
        x, y = zip(*points, strict=True)
        axis.plot(x, y, marker="o", markersize=3, lw=1.2, label=name, color=_colour(name))
    axis.set_xscale("log")
    axis.set_ylim(0, 1.1 * max(each["median"] for each in series))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.minorticks_off()
    if len({each["server"] for each in series}) > 1:
        axis.legend(frameon=False, fontsize=6)
