"""What README.md and docs/ say is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APPLIANCE = ROOT / "appliance"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A page that was moved takes its links along."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    """Scripts, configuration and clients' files."""
    named = set(re.findall(r"(?:scripts|etc|appliance|docs)/[\w./-]+\w", re.sub(r"/etc/\S+", "", page.read_text())))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_metric_is_described() -> None:
    """A dashboard is drawn from that list: it names neither too few nor too many."""
    code = "\n".join(path.read_text() for path in (ROOT / "appliance").rglob("*.py"))
    made = {f"pullcache_{name}_total" for name in re.findall(r'\._counter\(\s*"(\w+)"', code)}
    made |= {f"pullcache_{name}" for name in re.findall(r'(?:\._gauge|watch)\(\s*"(\w+)"', code)}
    described = set(re.findall(r"`(pullcache_\w+)`", (ROOT / "docs" / "operate.md").read_text()))
    assert described - {"pullcache_build_info"} == made
    assert len(made) > 15


def test_every_picture_has_its_source() -> None:
    """So that it can be drawn again: scripts/draw."""
    for picture in (ROOT / "docs").glob("*.svg"):
        assert picture.with_suffix(".dot").exists(), picture
        # Both on a light and on a dark page.
        assert "prefers-color-scheme" in picture.read_text()


def _rows(title: str) -> list[list[str]]:
    """The rows of the table below a heading of ARCHITECTURE.md, without its head."""
    section = (ROOT / "appliance" / "ARCHITECTURE.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines[2:]]


@pytest.mark.parametrize(("change", "where"), _rows("Where a change goes"), ids=lambda text: text.split("`")[0][:40])
def test_a_change_has_its_place_in_three_files_at_most(change: str, where: str) -> None:
    """A newcomer finds the files that are named, and learns which one is still to be made."""
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|md|yaml))`( \([^)]*\))?(, which does not exist yet)?", where)
    there = [name for name, _, not_yet in named if not not_yet]
    missing = [name for name in there if not (ROOT / name).exists() and not (APPLIANCE / name).exists()]
    assert 1 <= len(named) <= 3, where
    assert missing == []


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    words = [word for word, _ in _rows("Glossary")]
    assert words == sorted(set(words))
    assert len(words) >= 25
