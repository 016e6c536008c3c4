"""What scripts/bench makes of what it measured, and what it says is missing."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from benchmarks import contenders, pages  # noqa: E402
from benchmarks.contents import Images  # noqa: E402
from benchmarks.field import interleaved  # noqa: E402
from benchmarks.findings import Findings, number  # noqa: E402


def silent(line: str) -> None:
    """Nobody reads what is measured here."""


@pytest.fixture
def findings() -> Findings:
    """Two servers, of which one was disturbed in one round, and a figure for two amounts of work."""
    made = Findings(silent, {"processors": 2})
    made.add("manifest", "pullcache", "GET", "/s", [90.0, 10.0, 100.0])
    made.add("manifest", "nginx", "GET", "/s", [100.0, 20.0, 200.0])
    made.add("manifest", "zot", "GET", "/s", [30.0, 40.0, 35.0])
    made.add("manifest", "pullcache", "alone", "ms", [1.0])
    made.add("clients", "pullcache", "GET", "/s", [5.0], at=1)
    made.add("clients", "pullcache", "GET", "/s", [7.0], at=1000)
    return made


# -- images ----------------------------------------------------------------------------------------------------------


def test_no_two_layers_are_alike_and_all_have_the_size_asked_for() -> None:
    """What was pulled once would be warm."""
    images = Images()
    large, small = images.make("large", 40_000_000, layers=2), images.make("small", 100)
    layers = [*large.content.layers, *small.content.layers]
    assert [len(layer.data) for layer in layers] == [40_000_000, 40_000_000, 100]
    assert len({layer.digest for layer in layers}) == 3
    assert 1900 < len(small.content.blobs[0].data) < 2300


# -- figures ----------------------------------------------------------------------------------------------------------


def test_everybody_is_measured_once_a_round_and_nobody_always_first() -> None:
    """Noise that comes and goes hits all."""
    order: list[str] = []
    results = interleaved(3, ["a", "b", "c"], lambda name: order.append(name) or len(order))
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert results == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_ratio_is_that_of_one_round_not_of_two_medians(findings: Findings) -> None:
    """A round in which both were slow says as much as another one."""
    assert findings.ratio("manifest", "GET", "pullcache", "nginx") == 0.5
    assert findings.ratio("clients", "GET", "pullcache", "pullcache", at=1000) == 1.0
    assert findings.ratio("manifest", "GET", "pullcache", "absent") is None


def test_the_fastest_peer_is_never_oneself(findings: Findings) -> None:
    """And alone there is none."""
    assert findings.fastest("manifest", "GET", "pullcache") == "nginx"
    assert findings.fastest("manifest", "GET", "nginx") == "pullcache"
    assert findings.fastest("manifest", "alone", "pullcache") is None


@pytest.mark.parametrize(
    ("value", "from_below", "from_above"),
    [(1.0, True, True), (0.99, False, True), (1.01, True, False), (None, None, None)],
)
def test_a_goal_is_reached_missed_or_not_known(
    value: float | None, from_below: bool | None, from_above: bool | None
) -> None:
    """What could not be measured is never called reached."""
    findings = Findings(silent)
    findings.at_least("row", "more", 1.0, value)
    findings.at_most("row", "less", 1.0, value)
    assert [bar.met for bar in findings.bars] == [from_below, from_above]
    words = {True: "met ", False: "NOT MET ", None: "not measured "}
    assert [bar.line().startswith(words[bar.met]) for bar in findings.bars] == [True, True]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0312, "0.0312"), (2.64, "2.64"), (999.4, "999"), (43_836.2, "43,836"), (0.0, "0"), (1e10, "10,000,000,000")],
)
def test_numbers_have_the_digits_that_mean_something(value: float, said: str) -> None:
    """Never 4.384e+04."""
    assert number(value) == said


def test_the_json_has_everything(findings: Findings, tmp_path: Path) -> None:
    """For who wants to draw or compare it himself."""
    findings.at_least("manifest", "rate against nginx", 0.6, findings.ratio("manifest", "GET", "pullcache", "nginx"))
    findings.leave_out("cold", "no disk")
    findings.write(tmp_path / "figures.json")
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["about"] == {"processors": 2}
    assert document["series"][0] == {
        "row": "manifest", "server": "pullcache", "figure": "GET", "unit": "/s", "at": None,
        "values": [90.0, 10.0, 100.0], "median": 90.0,
    }
    (bar,) = document["bars"]
    assert (bar["limit"], bar["value"], bar["at_least"], bar["met"]) == (0.6, 0.5, True, False)
    assert document["left_out"] == ["cold: no disk"]


# -- programs ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_how_it_is_got() -> None:
    """And what is there is not spoken of."""
    lines = contenders.missing(contenders.NEEDED, {"curl": "/usr/bin/curl", "wrk": "/usr/bin/wrk"})
    assert lines == [f"docker-registry is missing; {contenders.NEEDED['docker-registry']}"]
    assert contenders.missing(contenders.WANTED, dict.fromkeys(contenders.WANTED, "here")) == []


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """A go that does as a script says."""

    def made(script: str) -> dict[str, str]:
        program = tmp_path / "path" / "go"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        return {"go": str(program)}

    return made


def test_distribution_is_built_once(go: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    """The second run takes what the first has built."""
    there, said = go('echo "$@" >"$GOBIN/registry"'), list[str]()
    program = contenders.distribution(tmp_path / "bin", there, said.append)
    assert program == str(tmp_path / "bin" / "registry")
    assert Path(program).read_text() == f"install {contenders.MODULE}\n"
    assert contenders.distribution(tmp_path / "bin", {}, said.append) == program
    assert len(said) == 1


def test_where_distribution_cannot_be_had_the_others_are_measured(
    go: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """It is said why."""
    said: list[str] = []
    there = go("echo no such host >&2; exit 1")
    assert contenders.distribution(tmp_path / "bin", there, said.append) is None
    assert "no such host" in said[-1]
    assert contenders.distribution(tmp_path / "bin", {}, said.append) is None


# -- the page ---------------------------------------------------------------------------------------------------------


def test_bars_compare_and_lines_follow_what_grows(findings: Findings) -> None:
    """A figure of one server alone is no picture; one that grows is, for one server as well."""
    document = findings.document()
    assert {title: len(series) for title, series in pages.bars(document).items()} == {"manifest: GET (/s)": 3}
    assert {title: len(series) for title, series in pages.lines(document).items()} == {"clients: GET (/s)": 2}


def test_tables_have_a_line_for_each_figure(findings: Findings) -> None:
    """With the spread where there were several rounds, and a dash where a server has no such figure."""
    findings.at_most("start", "first answer: seconds", 0.8, 0.75)
    findings.at_most("start", "idle: MiB", 60, None)
    text = pages.tables(findings.document())
    assert "| GET, /s | 90 (10–100) | 100 (20–200) | 35 (30–40) |" in text
    assert "| alone, ms | 1 | – | – |" in text
    assert "| GET at 1,000, /s | 7 |" in text
    assert pages.goals(findings.document()).splitlines()[2:] == [
        "| start | first answer: seconds: at most 0.8 | 0.75 | yes |",
        "| start | idle: MiB: at most 60 | – | not measured |",
    ]


def test_only_what_is_between_the_marks_is_replaced() -> None:
    """The page's own words stay; a page without the marks is not written."""
    page = "words\n<!-- begin: goals -->\nold\n<!-- end: goals -->\nmore\n"
    assert pages.filled(page, {"goals": r"new \1"}) == page.replace("old", r"new \1")
    with pytest.raises(ValueError, match="figures"):
        pages.filled(page, {"figures": "new"})
    shipped = (ROOT / "docs" / "performance.md").read_text()
    assert "xyz" in pages.filled(shipped, {"goals": "xyz", "figures": ""})


def test_without_matplotlib_there_are_figures_only(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is said what draws them."""
    findings.write(tmp_path / "whole.json")
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    said: list[str] = []
    pages.show(tmp_path / "whole.json", None, said.append)
    assert "matplotlib is missing" in said[0]
    assert [each.name for each in tmp_path.iterdir()] == ["whole.json"]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_pictures_are_the_same_for_the_same_figures(findings: Findings, tmp_path: Path) -> None:
    """So that a commit has only what has changed."""
    findings.write(tmp_path / "whole.json")
    for _ in range(2):
        pages.show(tmp_path / "whole.json", None, silent)
    first = (tmp_path / "whole-bars.svg").read_bytes()
    assert b"manifest: GET" in first
    pages.show(tmp_path / "whole.json", None, silent)
    assert (tmp_path / "whole-bars.svg").read_bytes() == first
    assert (tmp_path / "whole-lines.svg").exists()
