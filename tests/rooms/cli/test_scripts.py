"""scripts/export-bundle and scripts/import-bundle."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.process


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is current, and whose python prints its arguments, one a line."""
    root = tmp_path / "check out"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / ".venv" / "bin").mkdir(parents=True)
    for copy in ("setup.cfg", ".venv/installed"):
        shutil.copy(ROOT / "setup.cfg", root / copy)
    python = root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 2\n')
    python.chmod(0o755)
    return root


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_scripts_are_the_command(checkout: Path, command: str) -> None:
    """Who looks into scripts/ first finds the same command, with its arguments and its exit status."""
    script = checkout / "scripts" / f"{command}-bundle"
    result = subprocess.run([script, "a b", "--json"], cwd=checkout.parent, capture_output=True, text=True, timeout=60)
    expected = ["-P", "-m", "appliance.cli.main", command, "a b", "--json"]
    assert (result.returncode, result.stdout.splitlines(), result.stderr) == (2, expected, "")
