"""What README.md and docs/ say is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
