"""What is carried from one appliance to another: exported, imported, and pulled there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.plain import pull
from tests.process.service import CHECKOUT, UPSTREAM, Appliance

Images = dict[tuple[str, str], dict[str, Any]]
"""What the simulated registry says of each image, by repository and tag."""


def command(appliance: Appliance, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run C{pullcache} on an appliance; it has to end with C{status}."""
    environment = {**os.environ, "PULLCACHE_ADMIN": f"http://{appliance.admin}", "PYTHONPATH": str(CHECKOUT)}
    line = [sys.executable, "-m", "appliance.cli.main", *map(str, arguments)]
    ended = subprocess.run(line, cwd=appliance.folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == status, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


def imported(appliance: Appliance, *arguments: str | Path) -> Any:
    """Import, and return the receipt."""
    return json.loads(command(appliance, "--json", "import", *arguments).stdout)


def pull_all(appliance: Appliance, images: Images) -> None:
    """Pull each by its tag and by its digest; every digest is the original's."""
    for (repository, tag), image in images.items():
        assert pull(appliance.authority, repository, tag).digest == image["digest"]
        assert pull(appliance.authority, repository, image["digest"]).digest == image["digest"]
        assert pull(appliance.bare, f"{UPSTREAM}/{repository}", tag).digest == image["digest"]
