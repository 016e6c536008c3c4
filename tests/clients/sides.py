"""The two sides of a gap: an appliance in front of a registry, one without any network, and what is carried across."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.tools import run
from tests.process.service import Appliance

NOWHERE = "http://127.0.0.1:9"
"""Where the sealed side's upstream would be; no server is there, and no request is to go there."""


@contextmanager
def fronted(folder: Path, url: str, **upstream: Any) -> Iterator[Appliance]:
    """A running appliance in front of the registry at C{url}; C{upstream} are settings of that."""
    made = Appliance(folder / "appliance", url, upstream=upstream)
    try:
        yield made.start()
    finally:
        made.kill()


@contextmanager
def sealed(folder: Path) -> Iterator[Appliance]:
    """A running appliance where there is no network."""
    made = Appliance(folder / "sealed", NOWHERE, offline=True)
    try:
        yield made.start()
    finally:
        made.kill()


def pullcache(appliance: Appliance, *arguments: str | Path) -> bytes:
    """Run the command against an appliance; returns its standard output."""
    return run(sys.executable, "-m", "appliance.cli.main", "--admin", f"http://{appliance.admin}", *arguments)


def export(appliance: Appliance, folder: Path) -> Path:
    """A bundle of everything that an appliance holds."""
    bundle = folder / "carried.tar"
    pullcache(appliance, "export", "--all", "-o", bundle)
    return bundle


def carry(source: Appliance, target: Appliance, folder: Path) -> None:
    """Export everything here, import it there."""
    pullcache(target, "import", export(source, folder))
